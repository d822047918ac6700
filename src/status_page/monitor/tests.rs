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
    for _ in 0..received.min(10) {
        figures.rtt.add(1_500_000);
    }
    Series {
        target: target.into(),
        address: address.into(),
        mode: Mode::Echo,
        flows: 0,
        figures: Arc::new(Mutex::new(figures)),
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

fn shown(snapshot: &Snapshot, losses: &LossHistory) -> String {
    main(&facts(snapshot), losses).replace('\u{202f}', " ")
}

/// The target and the state of each row.
fn states(snapshot: &Snapshot, losses: &LossHistory) -> Vec<(String, String)> {
    let page = shown(snapshot, losses);
    let rows = page.split("<tr><th scope=\"row\">").skip(1);
    let cells = rows.map(|row| {
        let mut cells = row.split("<td");
        let mut next = || cells.next().unwrap().to_owned();
        let target = next();
        (target, next().split('>').nth(1).unwrap().to_owned())
    });
    cells.collect()
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
    snapshot.engine.not_sent = 5;
    snapshot.engine.socket_drops = 1000;
    let page = shown(&snapshot, &LossHistory::default());
    for part in [
        "<p>monitor of 2 targets<br>",
        " class=\"dim\">healthy</span>",
        "<tr><th scope=\"row\">bad<td class=\"bad\">silent<td>100%<td>–<td>–<td>1 234<td>1 234\
         <td>100%<td>192.0.2.2:7<td>echo\n\
         <tr><th scope=\"row\">good<td>answering<td>0%<td>1.5 ms<td>1m 2s ago<td>10<td>0<td>0%\
         <td>192.0.2.1:7<td>echo\n</table>",
        "<b>1</b>answering<",
        "<b class=\"bad\">1</b>silent<",
        "<b>0</b>not resolved<",
        "<b>1 244</b>requests sent<",
        "<b class=\"bad\">5</b>requests due but not sent<",
        "<b class=\"bad\">1 000</b>dropped by the kernel<",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    for absent in ["more with less loss", "reload"] {
        assert!(!page.contains(absent), "{absent} in {page}");
    }
    snapshot.reload_succeeded = false;
    assert!(shown(&snapshot, &LossHistory::default()).contains("The last reload"));
    let whole = page_of("<p>x");
    assert!(whole.contains("No answer from the monitor."), "{whole}");
    assert!(whole.contains("<main><p>x</main>") && whole.contains("nonce=\"abc\""));
}

fn page_of(main: &str) -> String {
    page("abc", main)
}

#[test]
fn rows_begin_with_the_worst() {
    let snapshot = snapshot(
        &[("lost name", false), ("gone", false), ("a", true)],
        vec![
            series("starting", "x", 0, 0),
            series("good", "x", 1000, 0),
            series("half", "x", 500, 500),
            series("gone", "x", 100, 3),
            series("silent", "x", 0, 3),
            series("tenth", "x", 9, 1),
        ],
    );
    let states = states(&snapshot, &LossHistory::default());
    let states: Vec<_> = states.iter().map(|(a, b)| (&**a, &**b)).collect();
    assert_eq!(
        states,
        [
            ("gone", "not resolved"),
            ("lost name", "not resolved"),
            ("silent", "silent"),
            ("half", "answering"),
            ("tenth", "answering"),
            ("good", "answering"),
            ("starting", "starting"),
        ]
    );
}

#[test]
fn loss_is_that_of_the_last_minutes() {
    let address = series("a", "x", 1000, 1000);
    let figures = Arc::clone(&address.figures);
    let snapshot = snapshot(&[("a", true)], vec![address]);
    let losses = LossHistory::default();
    let cells = |losses: &LossHistory| {
        let page = shown(&snapshot, losses);
        let row = page.split("<tr><th scope=\"row\">a<td").nth(1).unwrap();
        let cells: Vec<_> = row.split("<td>").map(str::to_owned).collect();
        [0, 1, 6].map(|cell| cells[cell].clone())
    };
    losses.add(&snapshot);
    figures.lock().unwrap().received += 10;
    assert_eq!(cells(&losses), [">answering", "0%", "49.75%"]);
    // A lost request alone does not make an address silent, but the lack of any reply does.
    figures.lock().unwrap().lost += 1;
    losses.add(&snapshot);
    assert_eq!(cells(&losses), [">answering", "9.09%", "49.78%"]);
    losses.add(&snapshot);
    figures.lock().unwrap().lost += 9;
    assert_eq!(cells(&losses), [" class=\"bad\">silent", "50%", "50%"]);
    figures.lock().unwrap().received += 1;
    assert_eq!(cells(&losses)[0], ">answering");
    // After five minutes, the oldest sample is gone.
    for _ in 0..10 {
        losses.add(&snapshot);
    }
    assert_eq!(cells(&losses), [">answering", "–", "49.98%"]);
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
    let page = main(&facts, &LossHistory::default());
    for part in [
        "&lt;b>&amp;<td>",
        "&lt;x>",
        "&lt;i><td ",
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
    let page = |rows| shown(&snapshot(rows), &LossHistory::default());
    let all = page(200);
    assert!(
        all.contains(">t000<") && !all.contains("not shown"),
        "{all}"
    );
    let page = page(1201);
    assert!(page.contains("<p class=\"dim\">1 001 more with less loss are not shown."));
    assert_eq!(page.matches("<th scope=\"row\">").count(), 200);
    assert!(
        page.contains(">t1200<") && !page.contains(">t1000<"),
        "{page}"
    );
}
