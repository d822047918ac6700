//! Runs Prometheus with the configuration of the package.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde_json::Value;

use crate::harness::{request_to, wait_until};

/// The folder of the examples: in the package, and in the checkout.
pub const INSTALLED: &str = "/usr/share/udp-echo";
pub const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging");

/// The targets of the example. All but the first are commented out.
const TARGETS: [&str; 3] = [
    "          - 127.0.0.1:9862\n",
    "#          - 192.0.2.11:9862\n",
    "#          - 192.0.2.12:9862\n",
];

/// The package's scrape configuration and rules for these targets, with an interval of 1 s.
pub fn example(targets: &[String]) -> String {
    let mut text = fs::read_to_string(format!("{EXAMPLES}/prometheus/scrape.yml")).unwrap();
    let mut replace = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} in {text}");
        text = text.replace(from, to);
    };
    for (line, target) in TARGETS.iter().zip(targets) {
        replace(line, &format!("          - {target}\n"));
    }
    replace("scrape_interval: 15s", "scrape_interval: 1s");
    replace(INSTALLED, EXAMPLES);
    format!("global: {{evaluation_interval: 1s}}\n{text}")
}

/// The package's scrape configuration and rules for a monitor.
pub fn monitor_example() -> String {
    let text = fs::read_to_string(format!("{EXAMPLES}/prometheus/monitor.scrape.yml")).unwrap();
    text.replace(INSTALLED, EXAMPLES)
}

/// A running Prometheus.
pub struct Prometheus {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Prometheus {
    pub fn start(configuration: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "udp-echo-prometheus-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Relaxed)
        );
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("prometheus.yml");
        fs::write(&file, configuration).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let data = folder.join("data");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed");
        let prometheus = Self {
            child,
            folder,
            address,
        };
        wait_until("Prometheus is ready", || {
            TcpStream::connect(address).is_ok() && prometheus.get("/-/ready").0 == 200
        });
        prometheus
    }

    /// The current values of a query.
    pub fn query(&self, query: &str) -> Vec<f64> {
        let samples = self.samples(query);
        let values = samples.iter().map(|sample| sample["value"][1].as_str());
        values
            .map(|value| value.unwrap().parse().unwrap())
            .collect()
    }

    /// The current samples of a query, each with `metric` and `value`.
    pub fn samples(&self, query: &str) -> Vec<Value> {
        let mut answer = self.api(&format!("/api/v1/query?query={}", escaped(query)));
        serde_json::from_value(answer["result"].take()).expect("a vector")
    }

    /// Waits until a query has exactly this value.
    pub fn wait_for(&self, query: &str, value: f64) {
        let mut last = Vec::new();
        wait_until(&format!("{query} is {value}"), || {
            last = self.query(query);
            last == [value]
        });
    }

    /// Waits until all rules are evaluated without an error.
    pub fn wait_for_rules(&self) {
        wait_until("the rules are evaluated", || {
            let answer = self.api("/api/v1/rules");
            let files = answer["groups"].as_array().expect("files of rules");
            let mut rules = files
                .iter()
                .flat_map(|file| file["rules"].as_array().unwrap());
            assert!(!files.is_empty());
            rules.all(|rule| {
                assert_ne!(rule["health"], "err", "{rule}");
                rule["health"] == "ok"
            })
        });
    }

    fn api(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        let mut answer: Value = serde_json::from_str(&body).expect("JSON");
        answer["data"].take()
    }

    /// By HTTP/1.0, which has no chunked encoding.
    fn get(&self, path: &str) -> (u16, String) {
        let response = request_to(self.address, &format!("GET {path} HTTP/1.0\r\n\r\n"));
        (response.status, response.body)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A text encoded for a URL.
fn escaped(text: &str) -> String {
    text.bytes()
        .fold(String::new(), |text, byte| text + &format!("%{byte:02x}"))
}
