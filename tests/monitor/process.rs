//! A running monitor, seen from outside, and reflectors for it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::service::Service;
use crate::harness::tidy::Folder;
use crate::harness::{Log, Response, program, request_to, samples, total, wait_until};
use crate::with_file;

/// A monitor that is ready. Dropping it kills it.
pub struct Monitor {
    pub service: Service,
    log: Log,
}

impl Monitor {
    /// Starts a monitor with these arguments.
    pub fn start(args: &str) -> Self {
        Self::start_as(program(), args)
    }

    /// Starts a monitor with the file in this folder.
    pub fn start_with(folder: &Folder) -> Self {
        Self::start(&format!("--config={}", file(folder)))
    }

    /// Starts a monitor by a command that ends with the program.
    pub fn start_as(mut command: Command, args: &str) -> Self {
        command.args(["monitor", "--metrics-listen=127.0.0.1:0"]);
        let args: Vec<_> = args.split_whitespace().collect();
        let mut service = Service::start(command, &args);
        let log = Log::follow(service.child.stderr.take().expect("piped"));
        Self { service, log }
    }

    pub fn http(&self) -> SocketAddr {
        self.service.http.expect("an HTTP port")
    }

    pub fn get(&self, path: &str) -> Response {
        self.ask("GET", path)
    }

    pub fn ask(&self, method: &str, path: &str) -> Response {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        request_to(self.http(), &request)
    }

    pub fn text(&self) -> String {
        let response = self.get("/metrics");
        assert_eq!(response.status, 200);
        response.body
    }

    pub fn figures(&self) -> Scrape {
        Scrape(samples(&self.text()))
    }

    /// Waits until the figures fulfill a condition, and returns them.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Scrape) -> bool) -> Scrape {
        let mut seen = self.figures();
        wait_until(what, || {
            let fulfilled = condition(&seen);
            if !fulfilled {
                seen = self.figures();
            }
            fulfilled
        });
        seen
    }

    /// Makes the monitor read its file again, and waits until it has.
    pub fn reload(&self) -> Scrape {
        let done = || {
            let log = self.log.lines();
            let is_result = |line: &&String| line.contains("reloaded:") || is_failed(line);
            log.iter().filter(is_result).count()
        };
        let before = done();
        self.service.signal(Signal::SIGHUP);
        wait_until("the file is read again", || done() > before);
        self.figures()
    }

    /// The lines of the log that contain a text.
    pub fn logged(&self, text: &str) -> Vec<String> {
        let lines = self.log.lines();
        let lines = lines.iter().filter(|line| line.contains(text));
        lines.cloned().collect()
    }

    pub fn wait_for_log(&self, text: &str) {
        self.log.wait_for(text);
    }

    pub fn stop(mut self) -> ExitStatus {
        self.service.signal(Signal::SIGTERM);
        self.service.wait()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the monitor's log: {:#?}", self.log.lines());
        }
    }
}

fn is_failed(line: &str) -> bool {
    line.contains("cannot reload:")
}

/// The path of the file in a folder.
pub fn file(folder: &Folder) -> String {
    folder.join("monitor.toml").display().to_string()
}

/// Replaces the file in a folder.
pub fn rewrite(folder: &Folder, text: &str) {
    fs::write(folder.join("monitor.toml"), text).unwrap();
}

/// A folder with a file of targets: name, address and further lines of each.
pub fn targets(defaults: &str, targets: &[(&str, SocketAddr, &str)]) -> Folder {
    with_file(document(defaults, targets))
}

/// The text of such a file.
pub fn document(defaults: &str, targets: &[(&str, SocketAddr, &str)]) -> String {
    let mut text = format!("[defaults]\n{defaults}\n");
    for (name, address, more) in targets {
        let more = more.replace(", ", "\n");
        let lines = format!("[[target]]\nname = \"{name}\"\naddress = \"{address}\"\n{more}\n");
        text.push_str(&lines);
    }
    text
}

/// The samples of one scrape.
pub struct Scrape(pub BTreeMap<String, f64>);

impl Scrape {
    /// The sum of a metric over the series of a target, or over those with these labels.
    pub fn of(&self, target: &str, name: &str) -> u64 {
        let series = match name.split_once('{') {
            None => format!("monitor_{name}{{target=\"{target}\"}}"),
            Some((name, labels)) => format!("monitor_{name}{{target=\"{target}\",{labels}"),
        };
        whole(total(&self.0, &series))
    }

    /// The value of a metric of the monitor itself.
    pub fn own(&self, name: &str) -> u64 {
        whole(total(&self.0, &format!("monitor_{name}")))
    }

    /// Whether a target has series.
    pub fn has(&self, target: &str) -> bool {
        let label = format!("requests_sent_total{{target=\"{target}\",");
        self.0.keys().any(|series| series.contains(&label))
    }

    /// Asserts that each request of a target is received, lost or in flight.
    pub fn assert_accounted_for(&self, target: &str) {
        let [sent, received, lost, in_flight] = [
            "requests_sent_total",
            "replies_received_total",
            "requests_lost_total",
            "requests_in_flight",
        ]
        .map(|name| self.of(target, name));
        assert_eq!(sent, received + lost + in_flight, "{target}");
    }
}

fn whole(value: f64) -> u64 {
    assert!(value >= 0.0 && value.fract() == 0.0, "{value}");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked just before"
    )]
    let whole = value as u64;
    whole
}

/// A reflector of this test program. It stops when dropped.
pub struct Reflector {
    pub address: SocketAddr,
    /// The source port and the sequence number of each request of the client.
    pub seen: Arc<Mutex<Vec<(u16, u64)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reflector {
    /// Starts a reflector that returns this many copies of each request.
    pub fn start(copies: impl Fn(u64) -> usize + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let timeout = Some(Duration::from_millis(20));
        socket.set_read_timeout(timeout).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (sink, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut bytes = [0; 2048];
            while !stopped.load(Relaxed) {
                // An error is a timeout, a signal or an ICMP error.
                let Ok((length, from)) = socket.recv_from(&mut bytes) else {
                    continue;
                };
                let sequence = u64::from_be_bytes(bytes[4..12].try_into().unwrap());
                sink.lock().unwrap().push((from.port(), sequence));
                for _ in 0..copies(sequence) {
                    let _ = socket.send_to(&bytes[..length], from);
                }
            }
        });
        Self {
            address,
            seen,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}
