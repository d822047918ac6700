//! Chromium, driven by `WebDriver`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::{Value, json};

use crate::harness::DEADLINE;

/// A browser without a screen, and its driver (`WebDriver`, W3C).
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
}

impl Browser {
    pub fn start() -> Self {
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

    pub fn open(&self, url: &str) {
        self.ask("url", &json!({ "url": url }));
    }

    /// Shows the page in a window of this width, as high as the page, in a colour scheme.
    pub fn show(&self, width: u32, scheme: &str) {
        let window = |height: u64| {
            let parameters = json!({
                "width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 500,
            });
            self.devtools("Emulation.setDeviceMetricsOverride", &parameters);
        };
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [feature] }),
        );
        window(844);
        let height = self.run("return document.documentElement.scrollHeight");
        window(height.as_u64().unwrap());
    }

    /// Runs a script in the page.
    pub fn run(&self, script: &str) -> Value {
        self.ask("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Asserts that the console has no message.
    pub fn assert_content(&self) {
        let complaints = self.ask("se/log", &json!({ "type": "browser" }));
        assert_eq!(complaints, json!([]));
    }

    pub fn devtools(&self, command: &str, parameters: &Value) {
        let command = json!({ "cmd": command, "params": parameters });
        self.ask("goog/cdp/execute", &command);
    }

    /// Writes a screenshot of the page to target/.
    pub fn screenshot(&self, name: &str) {
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

    pub fn ask(&self, what: &str, parameters: &Value) -> Value {
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
