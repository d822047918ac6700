//! Passwords in URLs, which no error may show.

use std::ffi::OsString;

use super::environment::{DAEMON, PROBE};

/// The error with `***` instead of user and password of each URL in `arguments` and in the
/// variables.
pub(super) fn hidden(error: clap::Error, arguments: &[OsString]) -> clap::Error {
    let variables = [PROBE, DAEMON].map(|start| std::env::var_os(format!("{start}METRICS_URL")));
    let texts = arguments.iter().chain(variables.iter().flatten());
    let text = error.to_string();
    let hidden = texts.fold(text.clone(), |text, source| {
        without(text, &source.to_string_lossy())
    });
    if hidden == text {
        return error;
    }
    let hidden = hidden.strip_prefix("error: ").unwrap_or(&hidden);
    clap::Error::raw(error.kind(), hidden)
}

/// The text without user and password of the URL in `source`, as they are and escaped. Only before
/// an `@` are they replaced: a short name can be part of any word.
fn without(text: String, source: &str) -> String {
    let user_info = source
        .split_once("//")
        .and_then(|(_, rest)| rest.rsplit_once('@'));
    match user_info {
        Some((secret, _)) if !secret.is_empty() => text
            .replace(&format!("{secret}@"), "***@")
            .replace(&format!("{}@", secret.escape_debug()), "***@"),
        _ => text,
    }
}
