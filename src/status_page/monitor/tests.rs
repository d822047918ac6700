//! The monitor's page, from given figures.

use std::sync::{Arc, Mutex};

use super::*;
use crate::monitor::figures::{EngineFigures, Figures};
use crate::reflect::Mode;

const TODAY: Duration = Duration::from_secs(1_700_000_062);

fn series(target: &str, address: &str, received: u64, lost: u64) -> Series {
    let mut figures = Figures {
        sent: received + lost,
        received,
        lost,
        last_reply: match received {
            0 => Duration::ZERO,
            _ => Duration::from_secs(1_700_000_000),
        },
        ..Figures::new(Mode::Echo)
    };
    for _ in 0..received {
        figures.rtt.add(1_500_000);
    }
    Series {
        target: target.into(),
        address: address.into(),
        mode: Mode::Echo,
        flows: 0,
        figures: Arc::new(Mutex::new(figures)),
        recent: Arc::default(),
    }
}

/// Adds requests answered after a time in nanoseconds, and lost ones.
fn add(series: &Series, received: u64, rtt: i64, lost: u64) {
    let mut figures = series.figures.lock().unwrap();
    figures.received += received;
    figures.lost += lost;
    for _ in 0..received {
        figures.rtt.add(rtt);
    }
}

fn snapshot(targets: &[(&str, bool)], series: Vec<Series>) -> Snapshot {
    let targets = targets.iter().map(|(name, known)| ((*name).into(), *known));
    Snapshot {
        targets: targets.collect(),
        series,
        engine: EngineFigures::default(),
        reload_succeeded: true,
    }
}

fn facts(snapshot: &Snapshot) -> MonitorFacts<'_> {
    MonitorFacts {
        uptime: Duration::from_secs(3),
        health: Ok(()),
        ready: true,
        snapshot,
        today: TODAY,
        options: &[],
    }
}

fn shown(snapshot: &Snapshot) -> String {
    main(&facts(snapshot)).replace('\u{202f}', " ")
}

/// The target and the state of each row.
fn states(snapshot: &Snapshot) -> Vec<(String, String)> {
    let page = shown(snapshot);
    let rows = page.split("<tr><th scope=\"row\">").skip(1);
    let cells = rows.map(|row| {
        let (target, rest) = row.split_once("<span").unwrap();
        let state = rest.split(['<', '>']).nth(1).unwrap();
        (target.to_owned(), state.to_owned())
    });
    cells.collect()
}

/// The cells of the row of target `a`, without their tags.
fn cells(snapshot: &Snapshot) -> Vec<String> {
    let page = shown(snapshot);
    let row = page.split("<tr><th scope=\"row\">a<").nth(1).unwrap();
    let row = row.split('\n').next().unwrap();
    let cells = row.split("<td").skip(1);
    cells
        .map(|cell| cell.split_once('>').unwrap().1.to_owned())
        .collect()
}

#[test]
fn page_shows_the_figures_of_each_address() {
    let mut snapshot = snapshot(
        &[("good", true), ("bad", true)],
        vec![
            series("good", "192.0.2.1:7", 10, 0),
            series("bad", "192.0.2.2:7", 0, 1234),
        ],
    );
    let jitter = |nanoseconds| {
        let mut figures = snapshot.series[0].figures.lock().unwrap();
        figures.jitter.add(nanoseconds);
    };
    [10_000, 30_000].into_iter().for_each(jitter);
    snapshot.engine.not_sent = 5;
    snapshot.engine.socket_drops = 1000;
    let page = shown(&snapshot);
    for part in [
        "<p>monitor of 2 targets<br>",
        " class=\"dim\">healthy</span>",
        "<tr><th scope=\"row\">bad<span class=\"state bad\">silent</span>\
         <td class=\"state bad\">silent<td class=\"bad\">100%<td>–<td>–<td><svg ",
        "</svg><td>–<td>–<td>–<td>1 234<td>1 234<td>100%<td>192.0.2.2:7<td>echo\n\
         <tr><th scope=\"row\">good<span class=\"state\">answering</span>\
         <td class=\"state\">answering<td>0%<td>1.5 ms<td>2 ms<td><svg ",
        "</svg><td>1.5 ms<td>20 µs<td>1m 2s ago<td>10<td>0<td>0%<td>192.0.2.1:7<td>echo\n</table>",
        "<b>1</b>answering<",
        "<b class=\"bad\">1</b>silent<",
        "<b>0</b>not resolved<",
        "<b>1 244</b>requests sent<",
        "<b class=\"bad\">5</b>requests due but not sent<",
        "<b class=\"bad\">1 000</b>dropped by the kernel<",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    for absent in ["not shown", "reload"] {
        assert!(!page.contains(absent), "{absent} in {page}");
    }
    snapshot.reload_succeeded = false;
    assert!(shown(&snapshot).contains("The last reload"));
    let whole = page_of("<p>x");
    assert!(whole.contains("No answer from the monitor."), "{whole}");
    assert!(whole.contains("<main><p>x</main>") && whole.contains("nonce=\"abc\""));
}

fn page_of(main: &str) -> String {
    page("abc", main)
}

#[test]
fn rows_begin_with_the_worst() {
    let [slow, faster] = ["slow", "faster"].map(|name| series(name, "x", 0, 0));
    // In one bucket, the times do not count.
    add(&slow, 1000, 1_600_000, 0);
    add(&slow, 20, 3_000_000, 0);
    add(&faster, 1000, 3_900_000, 0);
    let snapshot = snapshot(
        &[("lost name", false), ("gone", false), ("a", true)],
        vec![
            series("starting", "x", 0, 0),
            series("good", "x", 1000, 0),
            slow,
            faster,
            series("half", "x", 500, 500),
            series("gone", "x", 100, 3),
            series("silent", "x", 0, 3),
            series("tenth", "x", 9, 1),
        ],
    );
    let states = states(&snapshot);
    let states: Vec<_> = states.iter().map(|(a, b)| (&**a, &**b)).collect();
    assert_eq!(
        states,
        [
            ("gone", "not resolved"),
            ("lost name", "not resolved"),
            ("silent", "silent"),
            ("half", "answering"),
            ("tenth", "answering"),
            ("faster", "answering"),
            ("slow", "answering"),
            ("good", "answering"),
            ("starting", "starting"),
        ]
    );
}

#[test]
fn figures_are_those_of_the_last_minutes() {
    let snapshot = snapshot(&[("a", true)], vec![series("a", "x", 1000, 1000)]);
    let series = &snapshot.series[0];
    // State, loss, p50, p99, mean and loss since the start.
    let figures = || {
        let cells = cells(&snapshot);
        [0, 1, 2, 3, 5, 10].map(|cell| cells[cell].clone())
    };
    series.end_period();
    assert_eq!(
        figures(),
        ["answering", "50%", "1.5 ms", "2 ms", "1.5 ms", "50%"]
    );
    // After five minutes, the first period does not count.
    (0..9).for_each(|_| series.end_period());
    assert_eq!(figures(), ["answering", "–", "–", "–", "–", "50%"]);
    add(series, 10, 70_000_000, 0);
    assert_eq!(
        figures(),
        ["answering", "0%", "75 ms", "100 ms", "70 ms", "49.75%"]
    );
    // A lost request alone does not make an address silent, but the lack of any reply does.
    add(series, 0, 0, 1);
    series.end_period();
    assert_eq!(figures()[..2], ["answering", "9.09%"]);
    series.end_period();
    add(series, 0, 0, 9);
    assert_eq!(figures()[..2], ["silent", "50%"]);
    add(series, 1, 10_000_000_001, 0);
    assert_eq!(figures()[..4], ["answering", "47.62%", "78 ms", "> 10 s"]);
}

#[test]
fn trend_shows_loss_and_time_of_each_period() {
    let snapshot = snapshot(&[("a", true)], vec![series("a", "x", 0, 0)]);
    let series = &snapshot.series[0];
    let trend = || cells(&snapshot)[4].clone();
    assert_eq!(trend(), "");
    add(series, 999, 10_000_000, 1);
    let start = "<svg class=\"trend\" viewBox=\"0 0 100 40\" preserveAspectRatio=\"none\" \
                 role=\"img\"><title>";
    // The period under way is at the right, and the smallest bar is visible.
    let loss = "<path class=\"loss\" d=\"M91,40V36h8V40\"/>";
    assert_eq!(
        trend(),
        format!(
            "{start}loss in 1 of 1 period of 30 s, up to 0.1%; mean round-trip time 10 ms</title>\
             {loss}<path class=\"rtt\" d=\"M90,2h10\"/></svg>"
        )
    );
    series.end_period();
    add(series, 3, 20_000_000, 1);
    series.end_period();
    // No request ends in this period, and no reply comes in the next.
    series.end_period();
    add(series, 0, 0, 7);
    series.end_period();
    add(series, 5, 5_000_000, 0);
    assert_eq!(
        trend(),
        format!(
            "{start}loss in 3 of 4 periods of 30 s, up to 100%; mean round-trip time 5 ms to 20 ms\
             </title><path class=\"loss\" d=\"M51,40V36h8V40M61,40V30h8V40M81,40V0h8V40\"/>\
             <path class=\"rtt\" d=\"M50,20h10V2h10M90,29h10\"/></svg>"
        )
    );
    (0..10).for_each(|_| series.end_period());
    assert_eq!(trend(), "");
    add(series, 0, 0, 1);
    let title = "loss in 1 of 1 period of 30 s, up to 100%; no replies</title>";
    let bar = "<path class=\"loss\" d=\"M91,40V0h8V40\"/></svg>";
    assert_eq!(trend(), format!("{start}{title}{bar}"));
}

#[test]
fn names_and_options_are_escaped() {
    let snapshot = snapshot(
        &[("<b>&", true), ("<i>", false)],
        vec![series("<b>&", "<x>", 1, 0)],
    );
    let mut facts = facts(&snapshot);
    let options = [("FILE".to_owned(), "<script>".to_owned())];
    facts.options = &options;
    facts.health = Err("<target>".into());
    let page = main(&facts);
    for part in [
        "&lt;b>&amp;<span ",
        "&lt;x>",
        "&lt;i><span ",
        "&lt;script>",
        "class=\"bad\">&lt;target></span>",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    for raw in ["<b>&", "<x>", "<i>", "<script>", "<target>"] {
        assert!(!page.contains(raw), "{raw} in {page}");
    }
}

#[test]
fn rows_above_the_limit_are_counted_only() {
    let row = |number: u64| series(&format!("t{number:03}"), "x", 1000, number);
    let snapshot = |rows: u64| snapshot(&[], (0..rows).map(row).collect());
    let page = |rows| shown(&snapshot(rows));
    let all = page(200);
    assert!(
        all.contains(">t000<") && !all.contains("not shown"),
        "{all}"
    );
    let page = page(1201);
    assert!(page.contains("<p class=\"dim\">1 001 more, none of them worse, are not shown."));
    assert_eq!(page.matches("<th scope=\"row\">").count(), 200);
    assert!(
        page.contains(">t1200<") && !page.contains(">t1000<"),
        "{page}"
    );
}
