//! The status page in a real browser.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{DEADLINE, Daemon, client, receive, wait_until};

#[test]
#[ignore = "needs Chromium and its driver; .ci/run runs it"]
fn status_page_works_in_desktop_and_mobile_browsers() {
    let daemon = Daemon::start(&["--mode=echo", "--workers=2", "--recv-buffer=64KiB"]);
    let browser = Browser::start();
    let url = format!("http://{}/", daemon.http.unwrap());
    browser.ask("url", &json!({ "url": url }));
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
    browser.screenshot("desk");

    let phone = json!({ "width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true });
    browser.devtools("Emulation.setDeviceMetricsOverride", &phone);
    let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    browser.devtools("Emulation.setEmulatedMedia", &dark);
    let width = browser.run("return document.documentElement.scrollWidth");
    assert_eq!(width, 390, "the page fits");
    let paper = browser.run("return getComputedStyle(document.body).backgroundColor");
    assert_eq!(paper, "rgb(17, 17, 19)", "the page is dark");
    browser.screenshot("phone");

    browser.assert_content();
}

#[test]
#[ignore = "needs Chromium and its driver; .ci/run runs it"]
fn status_page_updates_in_place_and_outlives_the_daemon() {
    let daemon = Daemon::start(&["--mode=echo", "--recv-buffer=64KiB"]);
    let peer = client(daemon.address());
    let browser = Browser::start();
    let url = format!("http://{}/", daemon.http.unwrap());
    browser.ask("url", &json!({ "url": url }));
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
        browser.ask("url", &json!({ "url": url }));
    };
    script(true);
    let shown = || browser.run("return document.querySelector('#received')?.textContent");
    let before = shown();
    peer.send(b"x").unwrap();
    receive(&peer);
    wait_until("the numbers change without a script", || shown() != before);
    script(false);
    browser.assert_content();

    let lost = "return getComputedStyle(document.querySelector('#lost')).display";
    assert_eq!(browser.run(lost), "none");
    daemon.pause();
    wait_until("the page shows that the daemon does not answer", || {
        browser.run(lost) == "block"
    });
    daemon.resume();
    wait_until("the daemon answers again", || browser.run(lost) == "none");
    let (address, http) = (daemon.address(), daemon.http.unwrap());
    assert!(daemon.stop().success());
    wait_until("the page shows that the daemon does not answer", || {
        browser.run(lost) == "block"
    });
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
    assert_eq!((browser.run(lost), shown()), (json!("block"), left));
    let _another = Daemon::start(&[
        &format!("--listen={address}"),
        &format!("--metrics-listen={http}"),
    ]);
    wait_until("the page shows the next daemon", || {
        browser.run(lost) == "none" && shown() == "0"
    });
}

/// A browser without a screen, and its driver (`WebDriver`, W3C).
struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
}

impl Browser {
    fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            let rest = line.split("successfully on port ").nth(1)?;
            rest.trim_end_matches('.').parse().ok()
        });
        // chromedriver blocks if its output is not read.
        thread::spawn(move || lines.for_each(drop));
        let mut browser = Self {
            driver,
            address: ([127, 0, 0, 1], port.expect("a port")).into(),
            session: String::new(),
        };
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1000,900",
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        }}});
        let session = browser.request("POST", "/session", &capabilities);
        session["sessionId"]
            .as_str()
            .expect("a session")
            .clone_into(&mut browser.session);
        browser
    }

    /// Runs a script in the page.
    fn run(&self, script: &str) -> Value {
        self.ask("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Asserts that the console has no message.
    fn assert_content(&self) {
        let complaints = self.ask("se/log", &json!({ "type": "browser" }));
        assert_eq!(complaints, json!([]));
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        self.ask(
            "goog/cdp/execute",
            &json!({ "cmd": command, "params": parameters }),
        );
    }

    /// Writes a screenshot of the page to target/.
    fn screenshot(&self, name: &str) {
        let picture = self.request(
            "GET",
            &format!("/session/{}/screenshot", self.session),
            &json!(null),
        );
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let file = std::fs::File::create(folder.join(format!("page-{name}.png"))).unwrap();
        let mut decoder = Command::new("base64")
            .arg("--decode")
            .stdin(Stdio::piped())
            .stdout(file)
            .spawn()
            .unwrap();
        let mut stdin = decoder.stdin.take().unwrap();
        stdin
            .write_all(picture.as_str().expect("a picture").as_bytes())
            .unwrap();
        drop(stdin);
        assert!(decoder.wait().unwrap().success());
    }

    fn ask(&self, what: &str, parameters: &Value) -> Value {
        self.request(
            "POST",
            &format!("/session/{}/{what}", self.session),
            parameters,
        )
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(self.address).unwrap();
        // A browser may start slowly.
        stream.set_read_timeout(Some(DEADLINE * 3)).unwrap();
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let address = self.address;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let line = line.trim_end().to_lowercase();
            if let Some(number) = line.strip_prefix("content-length:") {
                length = number.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut answer: Value = serde_json::from_slice(&body).unwrap();
        let value = answer["value"].take();
        assert!(value.get("error").is_none(), "{path}: {value}");
        value
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Otherwise the browser outlives its driver. The driver requires its own address as Host.
        if let Ok(mut stream) = TcpStream::connect(self.address) {
            let (session, address) = (&self.session, self.address);
            let _ = write!(
                stream,
                "DELETE /session/{session} HTTP/1.1\r\nHost: {address}\r\n\r\n"
            );
            let _ = stream.set_read_timeout(Some(DEADLINE));
            let _ = stream.read(&mut [0; 1024]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
