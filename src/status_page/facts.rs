//! The top of the status page: state and tiles.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::format::{ago, bit_rate, grouped, shown};
use super::history::rate;
use crate::metrics::{MetricsSummary, SocketState};

/// The content of the page, apart from the history.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) mode: &'static str,
    pub(crate) addresses: &'a str,
    pub(crate) uptime: Duration,
    /// The fault, if the daemon is unhealthy.
    pub(crate) health: Result<(), String>,
    pub(crate) ready: bool,
    pub(crate) summary: MetricsSummary,
    /// The time since the last datagram; `None` before the first.
    pub(crate) last_datagram: Option<Duration>,
    pub(crate) sockets: &'a [SocketState],
    /// The options in force: variables and values.
    pub(crate) options: &'a [(String, String)],
}

/// Writes the version, the addresses and the state. The script replaces the state when the daemon
/// does not answer.
pub(super) fn write_state(out: &mut String, facts: &Facts<'_>) -> std::fmt::Result {
    let (class, state) = match (&facts.health, facts.ready) {
        (Err(problem), _) => ("bad", problem.as_str()),
        (Ok(()), false) => ("bad", "not ready (starting or stopping)"),
        (Ok(()), true) => ("dim", "healthy"),
    };
    let uptime = humantime::format_duration(Duration::from_secs(facts.uptime.as_secs()));
    writeln!(
        out,
        "<h1 data-revision=\"{}\">udp-echo {}</h1>\n<p>{} mode on {}<br>\
         <span class=\"dim\">up {uptime}, </span><span id=\"state\" class=\"{class}\">{state}</span></p>",
        env!("BUILD_REVISION"),
        env!("CARGO_PKG_VERSION"),
        facts.mode,
        facts.addresses,
    )
}

/// Writes the main figures. Rates are those of the recent samples.
pub(super) fn write_tiles(
    out: &mut String,
    facts: &Facts<'_>,
    recent: &[(Instant, MetricsSummary)],
) -> std::fmt::Result {
    let summary = &facts.summary;
    let [drops, errors] = [summary.drops, summary.send_errors()];
    let drop_rate = shown(rate(recent, |sum| sum.drops)) + " per second";
    let error_rate = shown(rate(recent, MetricsSummary::send_errors)) + " per second";
    let last = facts.last_datagram.map_or("none yet".into(), ago);
    let tiles = [
        (
            "",
            shown(rate(recent, |sum| sum.received)),
            "received per second",
            bit_rate(rate(recent, |sum| sum.received_bytes)),
        ),
        (
            "",
            shown(rate(recent, |sum| sum.echoed)),
            "echoed per second",
            bit_rate(rate(recent, |sum| sum.echoed_bytes)),
        ),
        ("", last, "last datagram", String::new()),
        (
            bad_unless_0(drops),
            grouped(drops),
            "dropped by the kernel",
            drop_rate,
        ),
        (
            bad_unless_0(errors),
            grouped(errors),
            if errors == 1 {
                "send error"
            } else {
                "send errors"
            },
            error_rate,
        ),
        (
            "",
            grouped(summary.peers),
            if summary.peers == 1 {
                "peer owes a record"
            } else {
                "peers owe a record"
            },
            String::new(),
        ),
    ];
    out.push_str("<div class=\"tiles\">");
    for (class, value, label, detail) in tiles {
        write!(
            out,
            "<div class=\"tile\"><b{class}>{value}</b>{label}<span class=\"dim\">{detail}</span></div>"
        )?;
    }
    out.push_str("</div>\n");
    Ok(())
}

/// The attribute that highlights a count of faults.
pub(super) fn bad_unless_0(count: u64) -> &'static str {
    if count == 0 { "" } else { " class=\"bad\"" }
}
