//! The documents of the package, with links that work on a host without the checkout.

use std::ffi::OsStr;
use std::path::Path;

const DOCUMENTS: [(&str, &str); 3] = [
    ("README.md", include_str!("../README.md")),
    ("CHANGELOG.md", include_str!("../CHANGELOG.md")),
    ("SECURITY.md", include_str!("../SECURITY.md")),
];

/// The file name and the text of each document.
pub(crate) fn documents() -> Vec<(&'static str, String)> {
    let document = |(name, text)| (name, linked(text));
    DOCUMENTS.into_iter().map(document).collect()
}

/// A text whose links to files that the package lacks lead to the repository.
fn linked(text: &str) -> String {
    let mut linked = text.to_owned();
    for (start, end) in [("](", ')'), ("src=\"", '"')] {
        let mut parts = linked.split(start);
        let mut changed = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let target = part.split(end).next().unwrap_or_default();
            changed.extend([start, &prefix(target), part]);
        }
        linked = changed;
    }
    linked
}

/// The part in front of a link's target: empty, or the place of files in the repository.
fn prefix(target: &str) -> String {
    let path = target.split('#').next().unwrap_or_default();
    let is_packaged = path.is_empty() || DOCUMENTS.iter().any(|(name, _)| *name == path);
    if is_packaged || path.contains("://") {
        return String::new();
    }
    let form = match Path::new(path).extension().and_then(OsStr::to_str) {
        Some("png" | "svg") => "raw",
        _ => "blob",
    };
    format!(
        "{}/{form}/v{}/",
        env!("CARGO_PKG_REPOSITORY"),
        env!("CARGO_PKG_VERSION")
    )
}
