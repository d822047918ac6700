//! The status page: HTML that works without a script. Over 400 lines with its tests.
//!
//! The script only refreshes the `main` element.

mod chart;
mod history;
mod options;

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::metrics::{MetricsSummary, SocketState};
use chart::write_chart;
use history::rate;
pub(crate) use history::{History, PERIOD};
use options::write_options;

/// The number of sample periods that a rate is averaged over: ten seconds.
const RECENT: usize = 5;

const STYLE: &str = include_str!("status_page/style.css");
const SCRIPT: &str = include_str!("status_page/script.js");

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
    pub(crate) sockets: &'a [SocketState],
    /// The options in force: variables and values.
    pub(crate) options: &'a [(String, String)],
}

/// The whole page. The browser applies only the style and script that carry the `nonce`.
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
<p id="lost" class="bad" role="alert">No answer from the daemon. Showing the last known figures.</p>
<main>{main}</main>
<footer class="dim">
<a href="/metrics">metrics</a> · <a href="/-/healthy">healthy</a> · <a href="/-/ready">ready</a>
· rates are averages over the last 10 s
</footer>
</body>
</html>
"#
    )
}

/// The content of the page's `main` element.
pub(crate) fn main(facts: &Facts<'_>, history: &History) -> String {
    let samples = history.samples();
    let mut out = String::new();
    // Writing to a String cannot fail.
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
        (Ok(()), false) => ("bad", "not ready (starting or stopping)"),
        (Ok(()), true) => ("dim", "healthy"),
    };
    let uptime = humantime::format_duration(Duration::from_secs(facts.uptime.as_secs()));
    writeln!(
        out,
        "<h1 data-revision=\"{}\">udp-echo {}</h1>\n<p>{mode} mode on {addresses}<br>\
         <span class=\"dim\">up {uptime}, </span><span class=\"{class}\">{state}</span></p>",
        env!("BUILD_REVISION"),
        env!("CARGO_PKG_VERSION")
    )?;
    let recent = &samples[samples.len().saturating_sub(RECENT + 1)..];
    let per_second = |count: fn(&MetricsSummary) -> u64| rate(recent, count);
    out.push_str("<div class=\"tiles\">");
    let drops = per_second(|sum| sum.drops);
    let alarm = if drops > 0.0 { " class=\"bad\"" } else { "" };
    for (label, class, value) in [
        (
            "received per second",
            "",
            shown(per_second(|sum| sum.received)),
        ),
        ("echoed per second", "", shown(per_second(|sum| sum.echoed))),
        ("dropped per second", alarm, shown(drops)),
        ("peers owing a record", "", grouped(summary.peers)),
    ] {
        write!(
            out,
            "<div class=\"tile\"><b{class}>{value}</b>{label}</div>"
        )?;
    }
    out.push_str("</div>\n<div class=\"charts\">\n");
    let received: Line = ("first", "received", |sum| sum.received);
    let echoed: Line = ("second", "echoed", |sum| sum.echoed);
    write_chart(out, "Datagrams per second", samples, &[received, echoed])?;
    let drops: Line = ("third", "dropped", |sum| sum.drops);
    let refused: Line = ("first", "refused", MetricsSummary::refused);
    write_chart(out, "Discarded per second", samples, &[drops, refused])?;
    out.push_str("</div>\n");
    write_counts(out, summary, recent)?;
    write_sockets(out, facts.sockets)?;
    write_options(out, facts.options)
}

/// Writes the table of datagrams by outcome.
fn write_counts(
    out: &mut String,
    summary: &MetricsSummary,
    recent: &[(Instant, MetricsSummary)],
) -> std::fmt::Result {
    let rows: [Line; 9] = [
        ("received", "received", |sum| sum.received),
        ("echoed", "echoed", |sum| sum.echoed),
        ("decoded", "records decoded", |sum| sum.decoded),
        ("decode-errors", "decode errors", |sum| sum.decode_errors),
        ("empty", "empty", |sum| sum.empty),
        ("refused", "refused", MetricsSummary::refused),
        ("send-errors", "send errors", |sum| sum.send_errors),
        ("truncated", "truncated (also counted above)", |sum| {
            sum.truncated
        }),
        ("drops", "dropped by the kernel", |sum| sum.drops),
    ];
    out.push_str(
        "<h2 id=\"datagrams\">Datagrams</h2>\n<table aria-labelledby=\"datagrams\">\n\
         <tr><td><th scope=\"col\">total<th scope=\"col\">per second\n",
    );
    for (id, label, count) in rows {
        let all = grouped(count(summary));
        let rate = shown(rate(recent, count));
        writeln!(
            out,
            "<tr><th scope=\"row\">{label}<td id=\"{id}\">{all}<td>{rate}"
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
         <th scope=\"col\">worker<th scope=\"col\">receive buffer<th scope=\"col\">queued\
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
                "<tr><th scope=\"row\">{listen}<td>{worker}<td colspan=\"4\">unavailable"
            )?;
            continue;
        };
        let [receive, send] = [0, 1].map(|buffer| {
            // The kernel doubles the size that it grants (socket(7)).
            let got = reading.buffers[buffer] / 2;
            let shown = size(got as u64);
            let Some(requested) = requested[buffer] else {
                return format!("<td>{shown}");
            };
            let class = if got < requested {
                " class=\"bad\""
            } else {
                ""
            };
            format!("<td{class}>{shown} (requested {})", size(requested as u64))
        });
        let queued = size(reading.receive_queue.into());
        let drops = grouped(reading.drops);
        writeln!(
            out,
            "<tr><th scope=\"row\">{listen}<td>{worker}{receive}<td>{queued}<td>{drops}{send}"
        )?;
    }
    out.push_str(
        "</table></div>\n<p class=\"dim\">Queued includes the kernel's overhead: at most about \
         twice the receive buffer.</p>\n",
    );
    Ok(())
}

/// A line of a chart or a table: its class or id, its label, its counter.
type Line = (&'static str, &'static str, fn(&MetricsSummary) -> u64);

/// Formats a rate: `0`, `3.3`, `12 346`.
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

/// Formats a size in bytes: `832 B`, `1.5 KiB`, `4 MiB`.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(crate) fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1024 => (1.0, "B"),
        1024..0x10_0000 => (1024.0, "KiB"),
        _ => (1_048_576.0, "MiB"),
    };
    let number = format!("{:.1}", bytes as f64 / unit);
    format!("{} {name}", number.trim_end_matches(".0"))
}

/// Formats a number with spaces between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            // The narrow no-break space.
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
    use crate::reflect::Refusal;

    #[test]
    fn numbers_have_spaces_units_and_a_decimal_where_small() {
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
        for (bytes, text) in [
            (0, "0 B"),
            (832, "832 B"),
            (1664, "1.6 KiB"),
            (212_992, "208 KiB"),
            (4 << 20, "4 MiB"),
            (5 << 30, "5120 MiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn page_shows_each_figure_in_its_place() {
        let (history, start) = (History::default(), Instant::now());
        let summary = |times: u64| MetricsSummary {
            received: 3_000_000_000_000 + 2 * times,
            echoed: 20 * times,
            decoded: 40 * times,
            decode_errors: 60 * times,
            empty: 80 * times,
            refused: Refusal::ALL.map(|refusal| match refusal {
                Refusal::SourcePort => 100 * times,
                _ => 0,
            }),
            send_errors: 120 * times,
            truncated: 140 * times,
            drops: 160 * times,
            peers: 7,
        };
        // Too old for the rates; the charts still show it.
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
            "<b>1.0</b>received per second",
            "<b>10</b>echoed per second",
            "<b class=\"bad\">80</b>dropped per second",
            "<b>7</b>peers owing a record",
        ] {
            assert!(page.contains(tile), "{tile} in {page}");
        }
        // The newest sample is at the right, and a pause has its width in time.
        let drops = page.split("<polyline class=\"third\" points=\"").nth(1);
        let drops = drops.unwrap().split('"').next().unwrap();
        assert_eq!(
            drops,
            "288,96.4 290,20.6 292,20.6 294,20.6 296,20.6 298,20.6 "
        );
        let start = page.split("<polygon class=\"third\" points=\"").nth(1);
        assert!(start.unwrap().starts_with("288,100 288,"), "{page}");
        let label = "Discarded per second, last 5 minutes, maximum 80\"";
        assert!(page.contains(label), "{page}");
    }

    #[test]
    fn page_highlights_faults_and_nothing_else() {
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
        let row = "<td class=\"bad\">208 KiB (requested 4 MiB)<td>5 B<td>6<td>1000 B (requested 1000 B)\n";
        assert!(page.contains(row), "{page}");
        let page = all(&[socket(Some(212_992), 425_984), socket(None, 425_984)]);
        assert!(
            page.contains("<td>208 KiB (requested 208 KiB)<td>"),
            "{page}"
        );
        assert!(page.contains("<td>208 KiB<td>"), "{page}");
        assert!(!page.contains("bad"), "{page}");
        let unavailable = SocketState {
            reading: None,
            ..socket(None, 0)
        };
        let row = "<th scope=\"row\">[::1]:9<td>0<td colspan=\"4\">unavailable";
        assert!(all(&[unavailable]).contains(row));

        let mut facts = facts(MetricsSummary::default(), &[]);
        facts.health = Err("worker 0 made no progress".into());
        let page = main(&facts, &History::default());
        assert!(page.contains("<span class=\"bad\">worker 0 made no progress</span>"));
        facts.health = Ok(());
        facts.ready = false;
        let page = main(&facts, &History::default());
        assert!(page.contains("<span class=\"bad\">not ready (starting or stopping)</span>"));
    }

    /// The `main` element with plain spaces.
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
            options: &[],
        }
    }
}
