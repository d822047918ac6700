//! The status page: all of it made here, in HTML that needs no script. The script only asks for
//! the changing part anew.

mod chart;
mod history;

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::metrics::{MetricsSummary, SocketState};
use chart::write_chart;
use history::rate;
pub(crate) use history::{History, PERIOD};

/// How many samples the figures a second are of: ten seconds.
const RECENT: usize = 5;

const STYLE: &str = include_str!("status_page/style.css");
const SCRIPT: &str = include_str!("status_page/script.js");

/// What the page shows beside counts.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) mode: &'static str,
    pub(crate) addresses: &'a str,
    pub(crate) uptime: Duration,
    /// Fine, or what is wrong.
    pub(crate) health: Result<(), String>,
    pub(crate) ready: bool,
    pub(crate) summary: MetricsSummary,
    pub(crate) sockets: &'a [SocketState],
}

/// The whole page. Only what has the `nonce` is applied or run.
pub(crate) fn page(nonce: &str, title: &str, main: &str) -> String {
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>udp-echo {title}</title>
<link rel="icon" href="data:,">
<style nonce="{nonce}">{STYLE}</style>
<noscript><meta http-equiv="refresh" content="5"></noscript>
<script type="module" nonce="{nonce}">{SCRIPT}</script>
</head>
<body>
<p id="lost" class="bad" role="alert">No answer from the daemon: these are its last figures.</p>
<main>{main}</main>
<footer class="dim">
<a href="/metrics">metrics</a> · <a href="/-/healthy">healthy</a> · <a href="/-/ready">ready</a>
· figures a second are means of the last ten seconds
</footer>
</body>
</html>
"#
    )
}

/// The part of it that changes.
pub(crate) fn main(facts: &Facts<'_>, history: &History) -> String {
    let samples = history.samples();
    let mut out = String::new();
    // A String takes it all.
    let _ = write_main(&mut out, facts, &samples);
    out
}

fn write_main(
    out: &mut String,
    facts: &Facts<'_>,
    samples: &[(Instant, MetricsSummary)],
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
        "<h1 data-revision=\"{}\">udp-echo {}</h1>\n<p>{mode} mode on {addresses}<br>\
         <span class=\"dim\">up {uptime}, </span><span class=\"{class}\">{state}</span></p>",
        env!("UDP_ECHO_REVISION"),
        env!("CARGO_PKG_VERSION")
    )?;
    let recent = &samples[samples.len().saturating_sub(RECENT + 1)..];
    let per_second = |count: fn(&MetricsSummary) -> u64| rate(recent, count);
    out.push_str("<div class=\"tiles\">");
    let drops = per_second(|sum| sum.drops);
    let alarm = if drops > 0.0 { " class=\"bad\"" } else { "" };
    for (label, class, value) in [
        (
            "received a second",
            "",
            shown(per_second(|sum| sum.received)),
        ),
        ("echoed a second", "", shown(per_second(|sum| sum.echoed))),
        ("dropped a second", alarm, shown(drops)),
        ("peers owe a record", "", grouped(summary.peers)),
    ] {
        write!(
            out,
            "<div class=\"tile\"><b{class}>{value}</b>{label}</div>"
        )?;
    }
    out.push_str("</div>\n<div class=\"charts\">\n");
    let received: Line = ("first", "received", |sum| sum.received);
    let echoed: Line = ("second", "echoed", |sum| sum.echoed);
    write_chart(out, "Datagrams a second", samples, &[received, echoed])?;
    let drops: Line = ("third", "dropped", |sum| sum.drops);
    let refused: Line = ("first", "refused", |sum| sum.refused);
    write_chart(out, "Lost and refused a second", samples, &[drops, refused])?;
    out.push_str("</div>\n");
    write_counts(out, summary, recent)?;
    write_sockets(out, facts.sockets)
}

/// What every datagram came to, as the accounting has it.
fn write_counts(
    out: &mut String,
    summary: &MetricsSummary,
    recent: &[(Instant, MetricsSummary)],
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
        "<h2 id=\"datagrams\">Datagrams</h2>\n<table aria-labelledby=\"datagrams\">\n\
         <tr><td><th scope=\"col\">in all<th scope=\"col\">a second\n",
    );
    for (id, label, count) in rows {
        let all = grouped(count(summary));
        let second = shown(rate(recent, count));
        writeln!(
            out,
            "<tr><th scope=\"row\">{label}<td id=\"{id}\">{all}<td>{second}"
        )?;
    }
    out.push_str("</table>\n");
    Ok(())
}

fn write_sockets(out: &mut String, sockets: &[SocketState]) -> std::fmt::Result {
    out.push_str(
        "<h2 id=\"sockets\">Sockets</h2>\n<div class=\"wide\" role=\"region\" \
         aria-labelledby=\"sockets\" tabindex=\"0\">\
         <table aria-labelledby=\"sockets\">\n<tr><th scope=\"col\">address\
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
            writeln!(
                out,
                "<tr><th scope=\"row\">{listen}<td>{worker}<td colspan=\"4\">gone"
            )?;
            continue;
        };
        let [receive, send] = [0, 1].map(|buffer| {
            let got = reading.buffers[buffer];
            let shown = grouped(got as u64);
            let Some(asked) = requested[buffer] else {
                return format!("<td>{shown}");
            };
            let class = if got < asked.saturating_mul(2) {
                " class=\"bad\""
            } else {
                ""
            };
            format!("<td{class}>{shown} (asked for {})", grouped(asked as u64))
        });
        let waiting = grouped(reading.receive_queue.into());
        let drops = grouped(reading.drops);
        writeln!(
            out,
            "<tr><th scope=\"row\">{listen}<td>{worker}{receive}<td>{waiting}<td>{drops}{send}"
        )?;
    }
    out.push_str(
        "</table></div>\n<p class=\"dim\">Buffers in bytes as the kernel counts them: twice what \
         it was asked for.</p>\n",
    );
    Ok(())
}

/// A line of a chart or of a table: its class or id, its name, what it counts.
type Line = (&'static str, &'static str, fn(&MetricsSummary) -> u64);

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
    use crate::metrics::SocketReading;

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
    fn each_figure_is_shown_where_it_belongs() {
        let (history, start) = (History::default(), Instant::now());
        let summary = |times: u64| MetricsSummary {
            received: 3_000_000_000_000 + 2 * times,
            echoed: 20 * times,
            decoded: 40 * times,
            decode_errors: 60 * times,
            empty: 80 * times,
            refused: 100 * times,
            send_errors: 120 * times,
            truncated: 140 * times,
            drops: 160 * times,
            peers: 7,
        };
        // Ten seconds after this one it is forgotten, but for the charts.
        history.add(start, MetricsSummary::default());
        let paused = start + Duration::from_mins(1);
        for sample in 0..6 {
            let now = paused + sample * PERIOD;
            history.add(now, summary(u64::from(sample) + 1));
        }
        let page = shown_page(&history, summary(6), &[]);
        for (id, all, second) in [
            ("received", "3 000 000 000 012", "1.0"),
            ("echoed", "120", "10"),
            ("decoded", "240", "20"),
            ("decode-errors", "360", "30"),
            ("empty", "480", "40"),
            ("refused", "600", "50"),
            ("send-errors", "720", "60"),
            ("truncated", "840", "70"),
            ("drops", "960", "80"),
        ] {
            let row = format!("<td id=\"{id}\">{all}<td>{second}\n");
            assert!(page.contains(&row), "{row} in {page}");
        }
        for tile in [
            "<b>1.0</b>received a second",
            "<b>10</b>echoed a second",
            "<b class=\"bad\">80</b>dropped a second",
            "<b>7</b>peers owe a record",
        ] {
            assert!(page.contains(tile), "{tile} in {page}");
        }
        // The newest is at the right, and a pause is as wide as it was long.
        let drops = page.split("<polyline class=\"third\" points=\"").nth(1);
        let drops = drops.unwrap().split('"').next().unwrap();
        assert_eq!(
            drops,
            "288,96.4 290,20.6 292,20.6 294,20.6 296,20.6 298,20.6 "
        );
        let start = page.split("<polygon class=\"third\" points=\"").nth(1);
        assert!(start.unwrap().starts_with("288,100 288,"), "{page}");
        assert!(page.contains("Lost and refused a second in the last five minutes, at most 80\""));
    }

    #[test]
    fn what_is_wrong_stands_out_and_all_else_is_calm() {
        let socket = |requested, receive| SocketState {
            listen: "[::1]:9".into(),
            worker: "0".into(),
            requested: [requested, Some(1000)],
            reading: Some(SocketReading {
                buffers: [receive, 2000],
                receive_queue: 5,
                drops: 6,
            }),
        };
        let all = |sockets: &[SocketState]| {
            shown_page(&History::default(), MetricsSummary::default(), sockets)
        };
        let page = all(&[socket(Some(4_194_304), 425_984)]);
        let row = "<td class=\"bad\">425 984 (asked for 4 194 304)<td>5<td>6<td>2 000 (asked for 1 000)\n";
        assert!(page.contains(row), "{page}");
        let page = all(&[socket(Some(212_992), 425_984), socket(None, 425_984)]);
        assert!(
            page.contains("<td>425 984 (asked for 212 992)<td>"),
            "{page}"
        );
        assert!(page.contains("<td>425 984<td>"), "{page}");
        assert!(!page.contains("bad"), "{page}");
        let gone = SocketState {
            reading: None,
            ..socket(None, 0)
        };
        assert!(all(&[gone]).contains("<th scope=\"row\">[::1]:9<td>0<td colspan=\"4\">gone"));

        let mut facts = facts(MetricsSummary::default(), &[]);
        facts.health = Err("worker 0 made no progress".into());
        let page = main(&facts, &History::default());
        assert!(page.contains("<span class=\"bad\">worker 0 made no progress</span>"));
        facts.health = Ok(());
        facts.ready = false;
        let page = main(&facts, &History::default());
        assert!(page.contains("<span class=\"bad\">not serving yet"));
    }

    /// The part that changes, with plain spaces.
    fn shown_page(history: &History, summary: MetricsSummary, sockets: &[SocketState]) -> String {
        main(&facts(summary, sockets), history).replace('\u{202f}', " ")
    }

    fn facts(summary: MetricsSummary, sockets: &[SocketState]) -> Facts<'_> {
        Facts {
            mode: "echo",
            addresses: "[::1]:9",
            uptime: Duration::from_secs(3),
            health: Ok(()),
            ready: true,
            summary,
            sockets,
        }
    }
}
