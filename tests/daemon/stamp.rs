//! `--mode stamp`: defaults, option errors, replies, metrics and the log.

mod options;
mod replies;
mod sessions;

use crate::harness::Daemon;

/// Starts a daemon in stamp mode.
fn stamp(args: &[&str]) -> Daemon {
    Daemon::start(&[&["--mode=stamp"], args].concat())
}

fn refused(reason: &str) -> String {
    format!("datagrams_refused_total{{reason=\"{reason}\"}}")
}
