//! The status page: HTML that works without a script.
//!
//! The script only refreshes the `main` element.

mod chart;
mod facts;
mod format;
mod history;
pub(crate) mod monitor;
mod tables;

use std::time::Instant;

use crate::metrics::MetricsSummary;
use crate::reflect::Mode;
use chart::write_chart;
pub(crate) use facts::Facts;
use facts::{write_state, write_tiles};
pub(crate) use format::size;
pub(crate) use history::{History, PERIOD};
use tables::{write_counts, write_kernel_path, write_options, write_sockets, write_stamp};

/// The number of sample periods that a rate is averaged over: ten seconds.
const RECENT: usize = 5;

const STYLE: &str = include_str!("status_page/style.css");
const SCRIPT: &str = include_str!("status_page/script.js");

/// The whole page. The browser applies only the style and script that carry the `nonce`.
pub(crate) fn page(nonce: &str, title: &str, main: &str) -> String {
    let note = "rates are averages over the last 10 s; bit rates count the payload";
    frame(nonce, title, "the daemon", note, main)
}

/// The frame of a page of `process`, with a note at its end.
fn frame(nonce: &str, title: &str, process: &str, note: &str, main: &str) -> String {
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
<p id="lost" class="bad" role="alert">No answer from {process}. Showing the last known figures.</p>
<main>{main}</main>
<footer class="dim">
<a href="/metrics">metrics</a> · <a href="/-/healthy">health</a> · <a href="/-/ready">readiness</a>
· {note}
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
    let recent = &samples[samples.len().saturating_sub(RECENT + 1)..];
    write_state(out, facts)?;
    write_tiles(out, facts, recent)?;
    out.push_str("<div class=\"charts\">\n");
    let received: Line = ("first", "received", |sum| sum.received);
    let echoed: Line = ("second", "echoed", |sum| sum.echoed);
    write_chart(
        out,
        "Datagrams per second",
        samples,
        &[received, echoed],
        None,
    )?;
    let refused: Line = ("first", "refused", MetricsSummary::refused);
    let drops: Line = ("third", "dropped", |sum| sum.drops);
    write_chart(
        out,
        "Discarded per second",
        samples,
        &[refused],
        Some(drops),
    )?;
    out.push_str("</div>\n");
    write_counts(out, facts.mode, &facts.summary, recent)?;
    if facts.mode == Mode::Stamp {
        write_stamp(out, &facts.summary, recent)?;
    }
    if let Some(programs) = facts.kernel_path {
        write_kernel_path(out, programs)?;
    }
    write_sockets(out, facts.sockets)?;
    write_options(out, facts.options)
}

/// A line of a chart or a table: its class or id, its label, its counter.
type Line = (&'static str, &'static str, fn(&MetricsSummary) -> u64);

#[cfg(test)]
mod tests {
    use std::array;
    use std::time::Duration;

    use super::*;
    use crate::metrics::{SocketReading, SocketState};
    use crate::reflect::Refusal;
    use crate::reflect::stamp::{
        ErrorEstimate, SessionTotals, StampTotals, TlvTotals, UplinkTotals,
    };

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn page_shows_each_figure_in_its_place() {
        let (history, start) = (History::default(), Instant::now());
        let summary = |times: u64| MetricsSummary {
            received: 3_000_000_000_000 + 2 * times,
            received_bytes: 2500 * times,
            echoed: 20 * times,
            echoed_bytes: 2_500_000 * times,
            decoded: 40 * times,
            decode_errors: 60 * times,
            empty: 80 * times,
            refused: Refusal::ALL.map(|refusal| match refusal {
                Refusal::SourcePort => 100 * times,
                _ => 0,
            }),
            send_errors: array::from_fn(|index| match index {
                1 => 40 * times,
                14 => 80 * times,
                _ => 0,
            }),
            truncated: 140 * times,
            drops: 160 * times,
            peers: 7,
            stamp: StampTotals::default(),
        };
        // Too old for the rates; the charts still show it.
        history.add(start, &MetricsSummary::default());
        let paused = start + Duration::from_mins(1);
        for sample in 0..6 {
            let now = paused + sample * PERIOD;
            history.add(now, &summary(u64::from(sample) + 1));
        }
        let page = shown_page(&history, &summary(6), &[]);
        for (cell, all, second) in [
            ("received", "3 000 000 000 012", "1.0"),
            ("echoed", "120", "10"),
            ("decoded", "240", "20"),
            ("decode-errors", "360", "30"),
            ("empty", "480", "40"),
            ("refused", "600", "50"),
            ("source_port", "600", "50"),
            ("rate_limit", "0", "0"),
            ("send-errors\" class=\"bad", "720", "60"),
            ("EADDRNOTAVAIL", "240", "20"),
            ("EPERM", "480", "40"),
            ("truncated", "840", "70"),
            ("drops\" class=\"bad", "960", "80"),
        ] {
            let row = format!("<td id=\"{cell}\">{all}<td>{second}\n");
            assert!(page.contains(&row), "{row} in {page}");
        }
        assert!(!page.contains("EACCES"), "{page}");
        let detail = |text| format!("<span class=\"dim\">{text}</span></div>");
        for (tile, text) in [
            ("<b>1.0</b>received per second", "10 kbit/s"),
            ("<b>10</b>echoed per second", "10 Mbit/s"),
            ("<b>1m 2s ago</b>last datagram", ""),
            (
                "<b class=\"bad\">960</b>dropped by the kernel",
                "80 per second",
            ),
            ("<b class=\"bad\">720</b>send errors", "60 per second"),
            ("<b>7</b>peers owe a record", ""),
        ] {
            let tile = tile.to_owned() + &detail(text);
            assert!(page.contains(&tile), "{tile} in {page}");
        }
        // The newest sample is at the right, and a pause has its width in time.
        let refused = page.split("<polyline class=\"first\" points=\"").nth(2);
        let refused = refused.unwrap().split('"').next().unwrap();
        assert_eq!(
            refused,
            "288,97.4 290,50.0 292,50.0 294,50.0 296,50.0 298,50.0 "
        );
        let start = page.split("<polygon class=\"first\" points=\"").nth(2);
        assert!(start.unwrap().starts_with("288,100 288,"), "{page}");
        assert!(page.contains(">dropped, max 80</span>"), "{page}");
        assert!(page.contains(">refused, max 50</span>"), "{page}");
    }

    #[test]
    fn page_counts_one_in_the_singular() {
        let mut summary = MetricsSummary {
            peers: 1,
            ..MetricsSummary::default()
        };
        summary.send_errors[0] = 1;
        let page = shown_page(&History::default(), &summary, &[]);
        assert!(page.contains("<b>1</b>peer owes a record<"), "{page}");
        assert!(page.contains("<b class=\"bad\">1</b>send error<"), "{page}");
    }

    #[test]
    fn page_highlights_faults_and_nothing_else() {
        let socket = |requested, receive, drops| SocketState {
            listen: "[::1]:9".into(),
            worker: "0".into(),
            requested: [requested, Some(1000)],
            reading: Some(SocketReading {
                buffers: [receive, 2000],
                receive_queue: 5,
                drops,
            }),
        };
        let all = |sockets: &[SocketState]| {
            shown_page(&History::default(), &MetricsSummary::default(), sockets)
        };
        let page = all(&[socket(Some(4_194_304), 425_984, 6)]);
        let row = "<td class=\"bad\">6<td>5 B<td class=\"bad\">208 KiB (requested 4 MiB)\
                   <td>1000 B (requested 1000 B)\n";
        assert!(page.contains(row), "{page}");
        let page = all(&[socket(Some(212_992), 425_984, 0), socket(None, 425_984, 0)]);
        assert!(
            page.contains("<td>208 KiB (requested 208 KiB)<td>"),
            "{page}"
        );
        assert!(page.contains("<td>208 KiB<td>"), "{page}");
        assert!(!page.contains("bad"), "{page}");
        let unavailable = SocketState {
            reading: None,
            ..socket(None, 0, 0)
        };
        let row = "<th scope=\"row\">[::1]:9<td>0<td colspan=\"4\">unavailable";
        assert!(all(&[unavailable]).contains(row));

        let mut facts = facts(&MetricsSummary::default(), &[]);
        facts.health = Err("worker 0 made no progress".into());
        let page = main(&facts, &History::default());
        assert!(page.contains(" class=\"bad\">worker 0 made no progress</span>"));
        facts.health = Ok(());
        facts.ready = false;
        let page = main(&facts, &History::default());
        assert!(page.contains(" class=\"bad\">not ready (starting or stopping)</span>"));
    }

    fn stamp_totals(times: u64) -> StampTotals {
        StampTotals {
            sessions: SessionTotals {
                sessions: 1200,
                unkept: 20 * times,
                reset: 40 * times,
                uplink: UplinkTotals {
                    lost: 60 * times,
                    reordered: 80 * times,
                    duplicates: 100 * times,
                },
            },
            tlvs: TlvTotals {
                kinds: [120 * times, 0, 0, 0, 0, 140 * times],
                faults: [140 * times, 0, 160 * times],
            },
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn page_shows_sessions_uplink_tlvs_and_clock_of_stamp() {
        let (history, start) = (History::default(), Instant::now());
        let summary = |times: u64| MetricsSummary {
            refused: [0, 0, 0, 0, 20 * times, 40 * times, 60 * times],
            stamp: stamp_totals(times),
            ..MetricsSummary::default()
        };
        for sample in 0..6 {
            let times = u64::from(sample) + 1;
            history.add(start + sample * PERIOD, &summary(times));
        }
        let summary = summary(6);
        let mut facts = facts(&summary, &[]);
        facts.mode = Mode::Stamp;
        facts.clock_error = Some(ErrorEstimate::new(true, Duration::from_micros(1500)));
        let shown = |facts: &Facts<'_>| main(facts, &history).replace('\u{202f}', " ");
        let page = shown(&facts);
        for (cell, all, second) in [
            ("source_port", "0", "0"),
            ("too_short", "120", "10"),
            ("reply", "240", "20"),
            ("integrity", "360", "30"),
            ("uplink-lost", "360", "30"),
            ("uplink-reordered", "480", "40"),
            ("uplink-duplicates", "600", "50"),
            ("sessions-reset", "240", "20"),
            ("sessions-unkept\" class=\"bad", "120", "10"),
            ("tlvs", "1 560", "130"),
            ("tlvs-extra_padding", "720", "60"),
            ("tlvs-other", "840", "70"),
            ("tlv-faults", "1 800", "150"),
            ("tlv-faults-unrecognized", "840", "70"),
            ("tlv-faults-integrity", "960", "80"),
        ] {
            let row = format!("<td id=\"{cell}\">{all}<td>{second}\n");
            assert!(page.contains(&row), "{row} in {page}");
        }
        for tile in [
            "<b>1 200</b>STAMP sessions<",
            "<b>360</b>lost on the way here<span class=\"dim\">30 per second<",
            "<b>1.5 ms</b>maximum clock error<span class=\"dim\">synchronized<",
        ] {
            assert!(page.contains(tile), "{tile} in {page}");
        }
        // Without occurrence, or never in this mode.
        for absent in ["hmac", "malformed", "record", "decode", "id=\"empty\""] {
            assert!(!page.contains(absent), "{absent} in {page}");
        }

        facts.summary.stamp = StampTotals::default();
        facts.summary.stamp.sessions.sessions = 1;
        facts.clock_error = Some(ErrorEstimate::UNKNOWN);
        let page = shown(&facts);
        for part in [
            "<b>1</b>STAMP session<",
            "<b class=\"bad\">16 s</b>maximum clock error<span class=\"dim\">not synchronized<",
            "<td id=\"sessions-unkept\">0<",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("TLV"), "{page}");
    }

    #[test]
    fn page_has_nothing_of_stamp_in_other_modes() {
        let summary = MetricsSummary::default();
        for mode in [Mode::Exchange, Mode::Lockstep, Mode::Echo] {
            let mut facts = facts(&summary, &[]);
            facts.mode = mode;
            let page = main(&facts, &History::default());
            for absent in [
                "STAMP",
                "too_short",
                "reply",
                "integrity",
                "clock",
                "Kernel path",
            ] {
                assert!(!page.contains(absent), "{absent} in {page}");
            }
            assert!(page.contains("</b>peers owe a record<"), "{page}");
        }
        let mut facts = facts(&summary, &[]);
        facts.kernel_path = Some(&[]);
        assert!(main(&facts, &History::default()).contains(">Kernel path<"));
    }

    /// The `main` element with plain spaces.
    fn shown_page(history: &History, summary: &MetricsSummary, sockets: &[SocketState]) -> String {
        main(&facts(summary, sockets), history).replace('\u{202f}', " ")
    }

    fn facts<'a>(summary: &MetricsSummary, sockets: &'a [SocketState]) -> Facts<'a> {
        Facts {
            mode: Mode::Echo,
            addresses: "[::1]:9",
            uptime: Duration::from_secs(3),
            health: Ok(()),
            ready: true,
            summary: *summary,
            last_datagram: Some(Duration::from_secs(62)),
            clock_error: None,
            sockets,
            kernel_path: None,
            options: &[],
        }
    }
}
