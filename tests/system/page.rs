//! The status page in a real browser.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use serde_json::json;

use crate::browser::Browser;
use crate::harness::{Daemon, client, receive, wait_until};

/// Desktop and phone, in both colour schemes: width, scheme and background.
const VIEWS: [(u32, &str, &str); 4] = [
    (1100, "light", "rgb(252, 252, 253)"),
    (1100, "dark", "rgb(17, 17, 19)"),
    (390, "light", "rgb(252, 252, 253)"),
    (390, "dark", "rgb(17, 17, 19)"),
];
/// The text that is visible.
const TEXT: &str = "return document.body.innerText";

#[test]
#[ignore = "needs Chromium and its driver; .ci/run runs it"]
fn status_page_works_in_desktop_and_mobile_browsers() {
    let daemon = Daemon::start(&["--mode=echo", "--workers=2", "--recv-buffer=64KiB"]);
    let browser = Browser::start();
    let url = format!("http://{}/", daemon.http.unwrap());
    browser.open(&url);
    assert_eq!(
        browser.run("return document.querySelector('#received').textContent"),
        "0"
    );

    let peer = client(daemon.address());
    for _ in 0..1234 {
        peer.send(b"x").unwrap();
        receive(&peer);
    }
    for id in ["received", "echoed"] {
        let text = format!("return document.querySelector('#{id}').textContent");
        wait_until("the numbers change", || {
            browser.run(&text) == "1\u{202f}234"
        });
    }
    let rate = "return Math.max(...[...document.querySelectorAll('polyline.second')[0].points]\
                .map(point => 99 - point.y))";
    wait_until("the chart shows the rate", || {
        browser
            .run(rate)
            .as_f64()
            .is_some_and(|height| height > 1.0)
    });
    // A curve for the screenshot.
    let points = "return document.querySelector('polyline').points.length";
    wait_until("the chart has a curve", || {
        for _ in 0..20 {
            peer.send(b"x").unwrap();
            receive(&peer);
        }
        browser
            .run(points)
            .as_u64()
            .is_some_and(|points| points > 4)
    });
    for (width, scheme, paper) in VIEWS {
        browser.show(width, scheme);
        let scrolled = browser.run("return document.documentElement.scrollWidth");
        assert_eq!(scrolled, width, "the page fits");
        let seen = browser.run("return getComputedStyle(document.body).backgroundColor");
        assert_eq!(seen, paper, "the page is {scheme}");
        let faults = browser.run("return document.querySelectorAll('main .bad').length");
        assert_eq!(faults, 0);
        browser.screenshot(&format!("{width}-{scheme}"));
    }
    browser.assert_content();
}

#[test]
#[ignore = "needs Chromium and its driver; .ci/run runs it"]
fn status_page_shows_drops_above_refusals_in_every_view() {
    // Every client is refused.
    let args = [
        "--mode=echo",
        "--recv-buffer=4KiB",
        "--min-source-port=65535",
    ];
    let daemon = Daemon::start(&args);
    let peer = client(daemon.address());
    daemon.pause();
    for _ in 0..1000 {
        peer.send(&[0; 100]).unwrap();
    }
    daemon.resume();
    let drops = daemon.metric("socket_drops_total");
    assert!(drops > 0.0);
    let browser = Browser::start();
    browser.open(&format!("http://{}/", daemon.http.unwrap()));
    // A mark at the right edge is half outside of the chart.
    wait_until("the chart shows the drops, and a sample after them", || {
        let marks = "return document.querySelector('path.mark').getAttribute('d')";
        let marks = browser.run(marks);
        let marks = marks.as_str().unwrap();
        !marks.is_empty() && !marks.starts_with("M298,")
    });
    let [dropped, refused] = ["drops", "source_port"].map(|id| {
        let text = browser.run(&format!(
            "return document.querySelector('#{id}').textContent"
        ));
        text.as_str()
            .unwrap()
            .replace('\u{202f}', "")
            .parse::<f64>()
            .unwrap()
    });
    assert!(
        (dropped - drops).abs() < 0.5 && refused > 0.0,
        "{dropped} {refused}"
    );

    // The topmost element at the upper end of the first mark.
    let top = "const mark = document.querySelector('path.mark');\
               const { x, y } = mark.getPointAtLength(1).matrixTransform(mark.getScreenCTM());\
               return document.elementFromPoint(x, y)?.getAttribute('class')";
    // The right edge of the drops in a socket's row, in the part that is shown without scrolling.
    let edge = "const wide = document.querySelector('.wide'); wide.scrollLeft = 0;\
                const heading = wide.querySelector('th[scope=row]');\
                heading.textContent = arguments[0] ?? heading.textContent;\
                const [, dropped] = heading.parentNode.querySelectorAll('td');\
                return [dropped.textContent !== '0',\
                        dropped.getBoundingClientRect().right <= wide.getBoundingClientRect().right]";
    for (width, scheme, _) in VIEWS {
        browser.show(width, scheme);
        browser.screenshot(&format!("drops-{width}-{scheme}"));
        let bad = if scheme == "dark" {
            "rgb(255, 149, 146)"
        } else {
            "rgb(206, 44, 49)"
        };
        for place in ["#drops", ".tile b.bad", ".wide td.bad"] {
            let style = browser.run(&format!(
                "const style = getComputedStyle(document.querySelector('{place}')); \
                 return [style.color, style.fontWeight]"
            ));
            assert_eq!(style, json!([bad, "600"]), "{place} {width} {scheme}");
        }
        assert_eq!(browser.run(top), "third mark", "{width} {scheme}");
        let long = "'[2001:db8:1234:5678:9abc:def0:1234:5678]:65535'";
        for edge in [edge.into(), edge.replace("arguments[0]", long)] {
            assert_eq!(browser.run(&edge), json!([true, true]), "{width} {scheme}");
        }
    }
    browser.assert_content();
}

/// A STAMP request (RFC 8762, section 4.2.1) with a sequence number and two TLVs: Extra Padding and
/// one of an unknown type.
fn stamp_request(sequence: u32) -> Vec<u8> {
    let mut request = vec![0; 44];
    request[..4].copy_from_slice(&sequence.to_be_bytes());
    request.extend([0x80, 1, 0, 2, 0, 0, 0x80, 200, 0, 0]);
    request
}

#[test]
#[ignore = "needs Chromium and its driver; .ci/run runs it"]
fn status_page_shows_stamp_figures_in_every_view() {
    // Two sockets of one session each.
    let args = [
        "--mode=stamp",
        "--listen=127.0.0.1:0,127.0.0.2:0",
        "--max-peers=1",
        "--stamp-clock=1.5ms",
        "--recv-buffer=64KiB",
    ];
    let daemon = Daemon::start(&args);
    let send = |listen: usize, request: &[u8]| {
        let peer = client(daemon.listen[listen]);
        peer.send(request).unwrap();
        peer
    };
    let peer = send(0, &stamp_request(0));
    receive(&peer);
    // Number 100 is far ahead: 1 to 36 are lost at once, the others can still arrive.
    for sequence in [100, 99, 100] {
        peer.send(&stamp_request(sequence)).unwrap();
        receive(&peer);
    }
    peer.send(&stamp_request(0)).unwrap();
    receive(&peer);
    send(1, b"too short");
    receive(&send(1, &stamp_request(0)));

    let browser = Browser::start();
    browser.open(&format!("http://{}/", daemon.http.unwrap()));
    let shown = |selector: &str| {
        let text = browser.run(&format!(
            "return document.querySelector('{selector}')?.textContent"
        ));
        text.as_str().unwrap_or_default().replace('\u{202f}', " ")
    };
    for (cell, value) in [
        ("#uplink-lost", "98"),
        ("#uplink-reordered", "1"),
        ("#uplink-duplicates", "1"),
        ("#sessions-reset", "1"),
        ("#sessions-unkept", "0"),
        ("#tlvs", "12"),
        ("#tlvs-extra_padding", "6"),
        ("#tlvs-other", "6"),
        ("#tlv-faults-unrecognized", "6"),
        ("#too_short", "1"),
        ("#integrity", "0"),
        ("#decoded", ""),
    ] {
        wait_until(&format!("{cell} is {value}"), || shown(cell) == value);
    }
    // `innerText` has the parts of a tile on lines of their own.
    let tiles = browser.run("return document.querySelector('.tiles').innerText");
    for tile in [
        "2\nSTAMP sessions",
        "98\nlost on the way here",
        "1.5 ms\nmaximum clock error\nsynchronized",
    ] {
        assert!(tiles.as_str().unwrap().contains(tile), "{tile} in {tiles}");
    }
    let clipped = "return [...document.querySelectorAll('.tile, .tile *, table')].filter(part =>\
                   !part.closest('.wide') && part.getBoundingClientRect().right\
                   > document.documentElement.clientWidth).length";
    // Values of options that would fit on a line, but take several.
    let broken = "const lines = cell => { const range = new Range(); range.selectNodeContents(cell);\
                  return range.getClientRects().length; };\
                  return [...document.querySelectorAll('[aria-labelledby=options] td')]\
                  .map(cell => [cell.textContent, lines(cell)])\
                  .filter(([text, lines]) => text.length < 12 && lines > 1)";
    for (width, scheme, _) in VIEWS {
        browser.show(width, scheme);
        let scrolled = browser.run("return document.documentElement.scrollWidth");
        assert_eq!(scrolled, width, "the page fits");
        assert_eq!(browser.run(clipped), 0);
        assert_eq!(browser.run(broken), json!([]), "{width}");
        assert_eq!(
            browser.run("return document.querySelectorAll('main .bad').length"),
            0
        );
        browser.screenshot(&format!("stamp-{width}-{scheme}"));
    }
    // The table of the first socket is full.
    receive(&send(0, &stamp_request(0)));
    wait_until("a fault is shown", || shown("#sessions-unkept.bad") == "1");
    browser.assert_content();
}

#[test]
#[ignore = "needs Chromium and its driver; .ci/run runs it"]
fn status_page_without_a_script_expires() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let page = daemon.get("/").body;
    assert_eq!(daemon.stop().code(), Some(0));
    // The browser runs no script of the page. It would not answer the test while it waits for the
    // reload of a page without scripts.
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\
                Content-Security-Policy: script-src 'none'\r\nConnection: close\r\n\r\n";
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", server.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        stream
            .write_all((head.to_owned() + &page).as_bytes())
            .unwrap();
    });
    let browser = Browser::start();
    browser.open(&url);
    let has = |text: &str| browser.run(TEXT).as_str().unwrap().contains(text);
    wait_until("the state expires", || !has("healthy"));
    assert!(has("No answer from the daemon"));
    assert!(has("received per second"));
}

#[test]
#[ignore = "needs Chromium and its driver; .ci/run runs it"]
fn status_page_updates_in_place_and_outlives_the_daemon() {
    let daemon = Daemon::start(&["--mode=echo", "--recv-buffer=64KiB"]);
    let peer = client(daemon.address());
    let browser = Browser::start();
    let url = format!("http://{}/", daemon.http.unwrap());
    browser.open(&url);
    let phone = json!({ "width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true });
    browser.devtools("Emulation.setDeviceMetricsOverride", &phone);

    // New figures come in place: scroll position and focus stay.
    let moved = "const wide = document.querySelector('.wide'); wide.focus(); wide.scrollLeft = 99; \
                 return document.querySelector('#received').textContent";
    let before = browser.run(moved);
    peer.send(b"x").unwrap();
    receive(&peer);
    wait_until("the numbers change", || {
        browser.run("return document.querySelector('#received').textContent") != before
    });
    let place = "const wide = document.querySelector('.wide'); \
                 return [wide.scrollLeft, wide === document.activeElement]";
    assert_eq!(browser.run(place), json!([99, true]));

    // Selected text is not replaced.
    let text = "return document.querySelector('#received').textContent";
    let select = "getSelection().selectAllChildren(document.querySelector('#received')); \
                  window.asked = performance.getEntriesByType('resource').length";
    browser.run(select);
    let before = browser.run(text);
    peer.send(b"x").unwrap();
    receive(&peer);
    let asked = "return performance.getEntriesByType('resource').length - window.asked";
    wait_until("the page has polled twice", || {
        browser.run(asked).as_u64() >= Some(2)
    });
    assert_eq!(browser.run(text), before);
    browser.run("getSelection().empty()");
    wait_until("the numbers change", || browser.run(text) != before);

    // The page of another revision reloads.
    browser.run("window.old = true; document.querySelector('h1').dataset.revision = 'older'");
    wait_until("the page is reloaded", || {
        browser.run("return window.old ?? false") == false
    });

    // Without scripts the page reloads periodically.
    let script = |disabled| {
        let value = json!({ "value": disabled });
        browser.devtools("Emulation.setScriptExecutionDisabled", &value);
        browser.open(&url);
    };
    script(true);
    let shown = || browser.run("return document.querySelector('#received')?.textContent");
    let before = shown();
    peer.send(b"x").unwrap();
    receive(&peer);
    wait_until("the numbers change without a script", || shown() != before);
    script(false);
    browser.assert_content();

    let lost = "return getComputedStyle(document.querySelector('#lost')).visibility";
    let is_healthy = || browser.run(TEXT).as_str().unwrap().contains("healthy");
    assert_eq!((browser.run(lost), is_healthy()), (json!("hidden"), true));
    daemon.pause();
    wait_until("the page shows that the daemon does not answer", || {
        browser.run(lost) == "visible"
    });
    assert!(!is_healthy());
    // Selected text is not replaced, but the state is.
    browser.run("getSelection().selectAllChildren(document.querySelector('#received'))");
    daemon.resume();
    wait_until("the daemon answers again", || browser.run(lost) == "hidden");
    assert!(is_healthy());
    browser.run("getSelection().empty()");
    let (address, http) = (daemon.address(), daemon.http.unwrap());
    assert!(daemon.stop().success());
    wait_until("the page shows that the daemon does not answer", || {
        browser.run(lost) == "visible"
    });
    assert!(!is_healthy());
    for (width, scheme, _) in VIEWS {
        browser.show(width, scheme);
        browser.screenshot(&format!("lost-{width}-{scheme}"));
    }
    let left = browser.run("return document.querySelector('#received').textContent");
    assert!(left != "0", "the last figures stay: {left}");
    // Another program on the port is not the daemon.
    let other = TcpListener::bind(http).unwrap();
    for _ in 0..2 {
        let (mut stream, _) = other.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let answer = "HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nnothing here\n";
        stream.write_all(answer.as_bytes()).unwrap();
    }
    drop(other);
    assert_eq!((browser.run(lost), shown()), (json!("visible"), left));
    assert!(!is_healthy());
    let _another = Daemon::start(&[
        &format!("--listen={address}"),
        &format!("--metrics-listen={http}"),
    ]);
    wait_until("the page shows the next daemon", || {
        browser.run(lost) == "hidden" && is_healthy() && shown() == "0"
    });
}
