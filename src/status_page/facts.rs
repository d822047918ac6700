//! The top of the status page: state and tiles.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::format::{ago, bit_rate, grouped, short_time, shown};
use super::history::rate;
use super::tables::escaped;
use crate::metrics::{KernelState, MetricsSummary, SocketState};
use crate::reflect::Mode;
use crate::reflect::stamp::ErrorEstimate;

/// The content of the page, apart from the history.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) mode: Mode,
    pub(crate) addresses: &'a str,
    pub(crate) uptime: Duration,
    /// The fault, if the daemon is unhealthy.
    pub(crate) health: Result<(), String>,
    pub(crate) ready: bool,
    pub(crate) summary: MetricsSummary,
    /// The time since the last datagram; `None` before the first.
    pub(crate) last_datagram: Option<Duration>,
    /// The clock of STAMP replies; `None` in other modes.
    pub(crate) clock_error: Option<ErrorEstimate>,
    pub(crate) sockets: &'a [SocketState],
    /// The programs in use; `None` if the kernel path is off.
    pub(crate) kernel_path: Option<&'a [KernelState]>,
    /// The options in force: variables and values.
    pub(crate) options: &'a [(String, String)],
}

/// Writes the version, the addresses and the state.
pub(super) fn write_state(out: &mut String, facts: &Facts<'_>) -> std::fmt::Result {
    let what = format!("{} mode on {}", facts.mode.name(), facts.addresses);
    write_health(out, &what, facts.uptime, &facts.health, facts.ready)
}

/// Writes the version, a line about the process, and its state. The script replaces the state when
/// the process does not answer.
pub(super) fn write_health(
    out: &mut String,
    what: &str,
    uptime: Duration,
    health: &Result<(), String>,
    ready: bool,
) -> std::fmt::Result {
    let (class, state) = match (health, ready) {
        (Err(problem), _) => ("bad", problem.as_str()),
        (Ok(()), false) => ("bad", "not ready (starting or stopping)"),
        (Ok(()), true) => ("dim", "healthy"),
    };
    let state = escaped(state);
    let uptime = humantime::format_duration(Duration::from_secs(uptime.as_secs()));
    writeln!(
        out,
        "<h1 data-revision=\"{}\">udp-echo {}</h1>\n<p>{what}<br>\
         <span class=\"dim\">up {uptime}, </span><span id=\"state\" class=\"{class}\">{state}</span></p>",
        env!("BUILD_REVISION"),
        env!("CARGO_PKG_VERSION"),
    )
}

/// A main figure: its class, its value, its name and a detail.
type Tile = (&'static str, String, &'static str, String);

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
    let mut tiles = vec![
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
    ];
    match facts.clock_error {
        Some(error) => tiles.extend(stamp_tiles(summary, recent, error)),
        None => tiles.push((
            "",
            grouped(summary.peers),
            if summary.peers == 1 {
                "peer owes a record"
            } else {
                "peers owe a record"
            },
            String::new(),
        )),
    }
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

/// The main figures of STAMP mode.
fn stamp_tiles(
    summary: &MetricsSummary,
    recent: &[(Instant, MetricsSummary)],
    clock_error: ErrorEstimate,
) -> [Tile; 3] {
    let sessions = summary.stamp.sessions;
    let lost_rate = rate(recent, |sum| sum.stamp.sessions.uplink.lost);
    let (bad, state) = if clock_error.is_synchronized() {
        ("", "synchronized")
    } else {
        (BAD, "not synchronized")
    };
    [
        (
            "",
            grouped(sessions.sessions),
            if sessions.sessions == 1 {
                "STAMP session"
            } else {
                "STAMP sessions"
            },
            String::new(),
        ),
        (
            "",
            grouped(sessions.uplink.lost),
            "lost on the way here",
            shown(lost_rate) + " per second",
        ),
        (
            bad,
            short_time(clock_error.seconds()),
            "maximum clock error",
            state.into(),
        ),
    ]
}

/// The attribute that highlights a fault.
const BAD: &str = " class=\"bad\"";

/// The attribute that highlights a count of faults.
pub(super) fn bad_unless_0(count: u64) -> &'static str {
    if count == 0 { "" } else { BAD }
}
