//! The status page: all of it made here, in HTML that needs no script. The script only asks for
//! the changing part anew.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::{SocketState, Summary};

/// From one sample to the next.
pub(super) const PERIOD: Duration = Duration::from_secs(2);
/// How many samples are kept: five minutes.
const SAMPLES: usize = 151;
/// How many samples the figures a second are of: ten seconds.
const RECENT: usize = 5;

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// What was counted in the last minutes.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<(Instant, Summary)>>);

impl History {
    /// Adds what is counted now.
    pub(super) fn add(&self, now: Instant, summary: Summary) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back((now, summary));
    }

    fn samples(&self) -> Vec<(Instant, Summary)> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().copied().collect()
    }
}

/// What the page shows beside counts.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) mode: &'static str,
    pub(super) addresses: &'a str,
    pub(super) uptime: Duration,
    /// Fine, or what is wrong.
    pub(super) health: Result<(), String>,
    pub(super) ready: bool,
    pub(super) summary: Summary,
    pub(super) sockets: &'a [SocketState],
}

/// The whole page. Only what has the `nonce` is applied or run.
pub(super) fn page(nonce: &str, main: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>udp-echo</title>
<link rel="icon" href="data:,">
<style nonce="{nonce}">{STYLE}</style>
<noscript><meta http-equiv="refresh" content="5"></noscript>
<script type="module" nonce="{nonce}">{SCRIPT}</script>
</head>
<body>
<h1>udp-echo {version}</h1>
<p id="lost" class="bad" role="status">No answer from the daemon: these are its last figures.</p>
<main>{main}</main>
<footer class="dim">
<a href="/metrics">metrics</a> · <a href="/-/healthy">healthy</a> · <a href="/-/ready">ready</a>
· figures a second are of the last ten
</footer>
</body>
</html>
"#
    )
}

/// The part of it that changes.
pub(super) fn main(facts: &Facts<'_>, history: &History) -> String {
    let samples = history.samples();
    let mut out = String::new();
    // A String takes it all.
    let _ = write_main(&mut out, facts, &samples);
    out
}

fn write_main(
    out: &mut String,
    facts: &Facts<'_>,
    samples: &[(Instant, Summary)],
) -> std::fmt::Result {
    let Facts {
        mode,
        addresses,
        summary,
        ..
    } = facts;
    let (class, state) = match (&facts.health, facts.ready) {
        (Err(problem), _) => ("bad", problem.as_str()),
        (Ok(()), false) => ("bad", "not serving yet, or no more"),
        (Ok(()), true) => ("dim", "healthy"),
    };
    let uptime = humantime::format_duration(Duration::from_secs(facts.uptime.as_secs()));
    writeln!(
        out,
        "<p>{mode} mode on {addresses}<br><span class=\"dim\">up {uptime}, </span>\
         <span class=\"{class}\">{state}</span></p>"
    )?;
    let recent = &samples[samples.len().saturating_sub(RECENT + 1)..];
    let per_second = |count: fn(&Summary) -> u64| rate(recent, count);
    out.push_str("<div class=\"tiles\">");
    for (label, value) in [
        ("received a second", shown(per_second(|sum| sum.received))),
        ("echoed a second", shown(per_second(|sum| sum.echoed))),
        ("dropped a second", shown(per_second(|sum| sum.drops))),
        ("peers owe a record", grouped(summary.peers)),
    ] {
        write!(out, "<div class=\"tile\"><b>{value}</b>{label}</div>")?;
    }
    out.push_str("</div>\n<div class=\"charts\">\n");
    let received: Line = ("first", "received", |sum| sum.received);
    let echoed: Line = ("second", "echoed", |sum| sum.echoed);
    write_chart(out, "Datagrams a second", samples, &[received, echoed])?;
    let drops: Line = ("third", "dropped by the kernel", |sum| sum.drops);
    let refused: Line = ("first", "refused", |sum| sum.refused);
    write_chart(out, "Not answered, a second", samples, &[drops, refused])?;
    out.push_str("</div>\n");
    write_counts(out, summary, recent)?;
    write_sockets(out, facts.sockets)
}

/// What every datagram came to, as the accounting has it.
fn write_counts(
    out: &mut String,
    summary: &Summary,
    recent: &[(Instant, Summary)],
) -> std::fmt::Result {
    let rows: [Line; 9] = [
        ("received", "received", |sum| sum.received),
        ("echoed", "echoed", |sum| sum.echoed),
        ("decoded", "records decoded", |sum| sum.decoded),
        ("decode-errors", "too short for a record", |sum| {
            sum.decode_errors
        }),
        ("empty", "empty", |sum| sum.empty),
        ("refused", "refused", |sum| sum.refused),
        ("send-errors", "replies that could not be sent", |sum| {
            sum.send_errors
        }),
        ("truncated", "cut (also among the echoed)", |sum| {
            sum.truncated
        }),
        ("drops", "dropped by the kernel", |sum| sum.drops),
    ];
    out.push_str(
        "<h2>Datagrams</h2>\n<table>\n<tr><th><th scope=\"col\">in all<th scope=\"col\">a second\n",
    );
    for (id, label, count) in rows {
        let all = grouped(count(summary));
        let second = shown(rate(recent, count));
        writeln!(out, "<tr><td>{label}<td id=\"{id}\">{all}<td>{second}")?;
    }
    out.push_str("</table>\n");
    Ok(())
}

fn write_sockets(out: &mut String, sockets: &[SocketState]) -> std::fmt::Result {
    out.push_str(
        "<h2>Sockets</h2>\n<div class=\"wide\"><table>\n<tr><th scope=\"col\">address\
         <th scope=\"col\">worker<th scope=\"col\">receive buffer<th scope=\"col\">waiting\
         <th scope=\"col\">dropped<th scope=\"col\">send buffer\n",
    );
    for socket in sockets {
        let SocketState {
            listen,
            worker,
            requested,
            reading,
        } = socket;
        let Some(reading) = reading else {
            writeln!(out, "<tr><td>{listen}<td>{worker}<td colspan=\"4\">gone")?;
            continue;
        };
        let [receive, send] = [0, 1].map(|buffer| {
            let got = grouped(reading.buffers[buffer] as u64);
            match requested[buffer] {
                Some(asked) => format!("{got} (asked for {})", grouped(asked as u64)),
                None => got,
            }
        });
        let waiting = grouped(reading.receive_queue.into());
        let drops = grouped(reading.drops);
        writeln!(
            out,
            "<tr><td>{listen}<td>{worker}<td>{receive}<td>{waiting}<td>{drops}<td>{send}"
        )?;
    }
    out.push_str(
        "</table></div>\n<p class=\"dim\">Buffers in bytes as the kernel counts them: twice what \
         it was asked for.</p>\n",
    );
    Ok(())
}

/// A line of a chart or of a table: its class or id, its name, what it counts.
type Line = (&'static str, &'static str, fn(&Summary) -> u64);

/// A chart of rates from sample to sample, the newest at the right.
fn write_chart(
    out: &mut String,
    title: &str,
    samples: &[(Instant, Summary)],
    lines: &[Line],
) -> std::fmt::Result {
    let rates = |count: fn(&Summary) -> u64| -> Vec<f64> {
        samples.windows(2).map(|pair| rate(pair, count)).collect()
    };
    let all: Vec<_> = lines.iter().map(|(.., count)| rates(*count)).collect();
    let most = all.iter().flatten().copied().fold(0.0, f64::max);
    let top = most.max(1.0);
    writeln!(
        out,
        "<figure>\n<svg viewBox=\"0 0 {} 100\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{title} in the last five minutes, at most {}\">",
        SAMPLES - 2,
        shown(most)
    )?;
    for ((class, ..), rates) in lines.iter().zip(&all) {
        write!(out, "<polyline class=\"{class}\" points=\"")?;
        let start = SAMPLES - 1 - rates.len();
        for (at, rate) in rates.iter().enumerate() {
            write!(out, "{},{:.1} ", start + at, 99.0 - 98.0 * rate / top)?;
        }
        out.push_str("\"/>\n");
    }
    write!(
        out,
        "</svg>\n<figcaption>{title}, five minutes, at most {}:",
        shown(most)
    )?;
    for (class, name, _) in lines {
        write!(out, " <span class=\"key {class}\">{name}</span>")?;
    }
    out.push_str("</figcaption>\n</figure>\n");
    Ok(())
}

/// How much it grew a second from the first sample to the last.
#[expect(clippy::cast_precision_loss, reason = "it is shown to people")]
fn rate(samples: &[(Instant, Summary)], count: fn(&Summary) -> u64) -> f64 {
    let (Some((start, first)), Some((end, last))) = (samples.first(), samples.last()) else {
        return 0.0;
    };
    let grown = count(last).saturating_sub(count(first)) as f64;
    let seconds = end.saturating_duration_since(*start).as_secs_f64();
    if seconds > 0.0 { grown / seconds } else { 0.0 }
}

/// A rate for people.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are neither negative nor too large"
)]
fn shown(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 {
        format!("{rate:.1}")
    } else {
        grouped(rate.round() as u64)
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            // A narrow space that no line is broken at.
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_small_rates_have_a_decimal() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1 000"),
            (1_234_567, "1 234 567"),
        ] {
            assert_eq!(grouped(number).replace('\u{202f}', " "), text);
        }
        for (rate, text) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (3.26, "3.3"),
            (9.96, "10"),
            (12345.6, "12 346"),
        ] {
            assert_eq!(shown(rate).replace('\u{202f}', " "), text);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn the_history_keeps_five_minutes_and_tells_rates() {
        let (history, start) = (History::default(), Instant::now());
        assert!(rate(&history.samples(), |sum| sum.received).abs() < 1e-9);
        for sample in 0..200 {
            let received = u64::from(sample) * 20;
            let summary = Summary {
                received,
                ..Summary::default()
            };
            history.add(start + sample * PERIOD, summary);
        }
        let samples = history.samples();
        assert_eq!(samples.len(), SAMPLES);
        assert_eq!(samples[150].0 - samples[0].0, Duration::from_mins(5));
        assert!((rate(&samples, |sum| sum.received) - 10.0).abs() < 1e-9);
    }
}
