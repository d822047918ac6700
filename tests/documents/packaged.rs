//! The documents of the package: README.md, CHANGELOG.md and SECURITY.md.

use std::collections::BTreeSet;
use std::fs;

use crate::anchor;
use crate::harness::readme;

#[path = "../../packaging/documents.rs"]
mod generator;

#[test]
fn packaged_documents_have_no_dead_link() {
    let documents = generator::documents();
    let repository = env!("CARGO_PKG_REPOSITORY");
    let version = env!("CARGO_PKG_VERSION");
    let files = ["blob", "raw"].map(|form| format!("{repository}/{form}/v{version}/"));
    let mut counts = [0; 3];
    for (name, text) in &documents {
        for link in links(text) {
            let place = files.iter().find_map(|start| link.strip_prefix(start));
            if let Some(path) = place {
                assert!(readme::exists(path), "{name}: no {path}");
                counts[0] += 1;
            } else if link.contains("://") {
                assert!(!link.starts_with(repository), "{name}: {link}");
                counts[1] += 1;
            } else {
                let (path, place) = link.split_once('#').unwrap_or((link, ""));
                let path = if path.is_empty() { name } else { path };
                let document = documents.iter().find(|(name, _)| *name == path);
                let (_, text) = document.unwrap_or_else(|| panic!("{name}: no {path}"));
                let is_there = place.is_empty() || anchors(text).contains(place);
                assert!(is_there, "{name}: no {place} in {path}");
                counts[2] += 1;
            }
        }
    }
    assert!(counts.iter().all(|count| *count > 3), "{counts:?}");
}

#[test]
fn generated_documents_are_those_of_the_package() {
    let manifest = readme::manifest();
    let assets = manifest.lines().filter(|line| line.contains(".md\""));
    let expected = generator::documents().into_iter().map(|(name, text)| {
        let source = fs::read_to_string(readme::root().join(name)).unwrap();
        assert_eq!(text.lines().count(), source.lines().count(), "{name}");
        format!("    [\"target/generated/{name}\", \"usr/share/doc/udp-echo/\", \"644\"],")
    });
    let assets: Vec<_> = assets.filter(|line| line.contains("usr/share")).collect();
    assert_eq!(assets, expected.collect::<Vec<_>>());
}

/// The targets of a text's links and pictures.
pub(crate) fn links(text: &str) -> Vec<&str> {
    let starts = ["](", "src=\""];
    let links = starts.iter().flat_map(|start| text.split(start).skip(1));
    links
        .filter_map(|rest| rest.split([')', '"', ' ']).next())
        .collect()
}

/// The names of a text's headings and of its explicit anchors.
pub(crate) fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let own = text.split("<a id=\"").skip(1);
    let own = own.filter_map(|rest| rest.split('"').next());
    headings.map(anchor).chain(own.map(str::to_owned)).collect()
}
