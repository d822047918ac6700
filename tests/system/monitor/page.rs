//! The monitor's page in a real browser.

use serde_json::{Value, json};

use super::{Monitor, rule, target};
use crate::browser::Browser;
use crate::harness::wait_until;
use crate::namespace::Namespace;

/// Desktop and phone, in both colour schemes.
const VIEWS: [(u32, &str); 4] = [
    (1100, "light"),
    (1100, "dark"),
    (360, "light"),
    (360, "dark"),
];
/// The targets in the order of the page.
const WORST_FIRST: [[&str; 2]; 4] = [
    ["unresolved", "not resolved"],
    ["deaf", "silent"],
    ["half", "answering"],
    ["good", "answering"],
];
/// Target and state of each row, as they are visible.
const ROWS: &str = "return [...document.querySelectorAll('#targets + .wide tbody th')].map(target => {\
                    const [name, state] = target.innerText.split('\\n');\
                    return [name, state ?? target.nextElementSibling.innerText]; })";
/// The texts with less contrast than WCAG 2.2 asks for, 4.5 to 1, and the shapes with less than 3.
const FAINT: &str = "\
    const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)\
        .map(part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)\
        .reduce((sum, part, at) => sum + part * [.2126, .7152, .0722][at], 0);\
    const behind = part => { const own = getComputedStyle(part).backgroundColor;\
        return own === 'rgba(0, 0, 0, 0)' ? behind(part.parentElement) : own; };\
    const contrast = (part, colour) => { const [dark, bright] = \
        [light(colour), light(behind(part))].sort((a, b) => a - b);\
        return (bright + .05) / (dark + .05); };\
    const has_text = part => [...part.childNodes].some(node => \
        node.nodeType === Node.TEXT_NODE && node.data.trim());\
    return [...document.querySelectorAll('main *')].filter(part => {\
        const style = getComputedStyle(part);\
        if (part.matches('path.loss')) return contrast(part, style.fill) < 3;\
        if (part.matches('path.rtt')) return contrast(part, style.stroke) < 3;\
        return !part.closest('svg') && has_text(part) && contrast(part, style.color) < 4.5;\
    }).map(part => part.outerHTML)";
/// The right edges of the box of the table and of the cells that a phone has to show, and the left
/// edges of those cells.
const COLUMNS: &str = "\
    const wide = document.querySelector('.wide'); wide.scrollLeft = 0;\
    const cells = [...document.querySelectorAll('#targets + .wide tbody tr:last-child > *')].filter(cell => \
        cell.getBoundingClientRect().width).slice(0, -8);\
    return [wide.getBoundingClientRect().right, cells.at(-1).querySelector('svg') !== null,\
        cells.map(cell => cell.getBoundingClientRect()).map(({ left, right }) => [left, right])]";

/// A monitor of four targets, of which three have a fault.
fn start<'a>(server: &Namespace, clients: &'a Namespace) -> Monitor<'a> {
    // The last bit of the sequence number, which is in bytes 4 to 11 of a request.
    rule(server, "input", "udp dport 9998 @th,159,1 1 counter drop");
    rule(server, "input", "udp dport 9997 counter drop");
    let settings = "interval = \"50ms\"\nwait = 5\n";
    let file = [
        ("good", "10.77.0.1:9999"),
        ("half", "10.77.0.1:9998"),
        ("deaf", "10.77.0.1:9997"),
        ("unresolved", "unknown:9999"),
    ]
    .map(|(name, address)| target(name, address, settings))
    .concat();
    Monitor::start(clients, &file)
}

#[test]
#[ignore = "needs root, nft, Chromium and its driver; .ci/run runs it"]
fn monitor_page_shows_the_worst_first_in_every_view() {
    let (server, clients) = Namespace::pair();
    let args = ["--listen=10.77.0.1:9999,10.77.0.1:9998", "--mode=echo"];
    let _daemon = server.daemon(&args);
    clients.write_hosts("127.0.0.1 localhost\n");
    let monitor = start(&server, &clients);
    for name in ["good", "half"] {
        monitor.wait_for_replies(name, 50);
    }
    monitor.wait_for("requests are lost", |scrape| {
        scrape.lost("half") > 20 && scrape.lost("deaf") > 20
    });
    clients.inside(|| check(&monitor));
}

fn check(monitor: &Monitor<'_>) {
    let browser = Browser::start();
    let url = format!("http://{}/", monitor.process.http.unwrap());
    browser.open(&url);
    let shown = |script: &str| browser.run(script);
    wait_until("the rows are in order", || {
        shown(ROWS) == json!(WORST_FIRST)
    });
    assert_updates_in_place(&browser);
    for is_off in [false, true] {
        let value = json!({ "value": is_off });
        browser.devtools("Emulation.setScriptExecutionDisabled", &value);
        browser.open(&url);
        for (width, scheme) in VIEWS {
            browser.show(width, scheme);
            let view = format!("{width} {scheme} without script: {is_off}");
            assert_eq!(shown(ROWS), json!(WORST_FIRST), "{view}");
            let scrolled = shown("return document.documentElement.scrollWidth");
            assert_eq!(scrolled, width, "{view}");
            assert_eq!(shown(FAINT), json!([]), "{view}");
            assert_columns_are_visible(&shown(COLUMNS), &view);
            assert_trends(&browser, &view);
            browser.screenshot(&format!("monitor-{width}-{scheme}"));
        }
    }
    browser.assert_content();
}

/// Asserts that target, state, loss, p50, p99 and trend are in the part that is shown without
/// scrolling. The state has no column of its own on a phone.
fn assert_columns_are_visible(columns: &Value, view: &str) {
    let edges: (f64, bool, Vec<[f64; 2]>) = serde_json::from_value(columns.clone()).unwrap();
    let (box_right, has_trend, cells) = edges;
    let number = if view.starts_with("360") { 5 } else { 6 };
    assert_eq!((cells.len(), has_trend), (number, true), "{view}");
    let mut last = 0.0;
    for [left, right] in cells {
        assert!(left >= last && right <= box_right, "{view} {columns}");
        last = right;
    }
}

/// Asserts that each chart has a text, and a bar of loss that agrees.
fn assert_trends(browser: &Browser, view: &str) {
    let height = "return [...document.querySelectorAll('.trend')].map(trend => {\
                  const bars = trend.querySelector('.loss')?.getBBox().height ?? 0;\
                  const line = trend.querySelector('.rtt') !== null;\
                  return [trend.querySelector('title').textContent, bars, line]; })";
    let trends: Vec<(String, f64, bool)> = serde_json::from_value(browser.run(height)).unwrap();
    let [deaf, half, good] = &trends[..] else {
        panic!("{view}: {trends:?}");
    };
    assert!(
        deaf.0.ends_with("up to 100%; no replies"),
        "{view} {deaf:?}"
    );
    assert!(half.0.starts_with("loss in "), "{view} {half:?}");
    assert!(
        good.0.starts_with("no loss; mean round-trip time "),
        "{view} {good:?}"
    );
    assert_eq!([deaf.2, half.2, good.2], [false, true, true], "{view}");
    assert!(deaf.1 > 39.0 && half.1 > 10.0, "{view} {half:?}");
    assert!(good.1 < 1.0, "{view} {good:?}");
}

/// Asserts that new figures come in place: the scroll position and the focus stay.
fn assert_updates_in_place(browser: &Browser) {
    browser.show(360, "light");
    let sent = "return document.querySelector('#targets + .wide tbody tr:last-child').innerText.replace(/\\s/g, ' ')";
    let moved = "const wide = document.querySelector('.wide'); wide.focus(); wide.scrollLeft = 99;";
    let before = browser.run(&format!("{moved} {sent}"));
    wait_until("the figures change", || browser.run(sent) != before);
    let place = "const wide = document.querySelector('.wide'); \
                 return [wide.scrollLeft, wide === document.activeElement]";
    assert_eq!(browser.run(place), json!([99, true]));
    // The name of the target stays in view.
    let name = "const name = document.querySelector('#targets + .wide tbody th').getBoundingClientRect(); \
                const wide = document.querySelector('.wide').getBoundingClientRect(); \
                return name.left - wide.left";
    assert_eq!(browser.run(name), 0);
}
