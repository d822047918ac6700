//! A running daemon.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::held::Held;
use super::{DEADLINE, Log, Response, program, request_to, samples, tidy, total, wait_until};

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    log: Log,
    paused: Mutex<Option<Held>>,
    /// The addresses of its UDP sockets.
    pub listen: Vec<SocketAddr>,
    /// The address of its HTTP port.
    pub http: Option<SocketAddr>,
}

impl Daemon {
    /// Starts the daemon on ports that the kernel chooses, unless `args` set them.
    pub fn start(args: &[&str]) -> Self {
        Self::start_as(program(), args)
    }

    /// Starts the daemon by a command that ends with the program, on ports that the kernel chooses,
    /// unless `args` set them.
    pub fn start_as(mut command: Command, args: &[&str]) -> Self {
        let given = |name| args.iter().any(|arg| arg.starts_with(name));
        if !given("--listen") {
            command.arg("--listen=127.0.0.1:0");
        }
        if !given("--metrics-listen") {
            command.arg("--metrics-listen=127.0.0.1:0");
        }
        command.args(args).stdin(Stdio::null());
        Self::start_exactly(command)
    }

    /// Starts the daemon by an unchanged command, and waits until it is ready.
    pub fn start_exactly(command: Command) -> Self {
        Self::start_until(command, "serving in ")
    }

    /// Starts the program by an unchanged command, and waits for this text in its log.
    pub fn start_until(mut command: Command, text: &str) -> Self {
        let mut child = tidy::end_with_test(&mut command)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let log = Log::follow(child.stderr.take().expect("piped"));
        let mut daemon = Self {
            child,
            log,
            paused: Mutex::default(),
            listen: Vec::new(),
            http: None,
        };
        daemon.wait_for_log(text);
        for line in daemon.log() {
            if let Some(rest) = after(&line, "listening on ") {
                let address = rest.split(' ').next().unwrap().parse();
                let address: SocketAddr = address.expect("an address");
                // One for each worker.
                let mut parts = rest.split(", ");
                let workers = parts.find_map(|part| part.strip_suffix(" workers"));
                let workers = workers.map_or(1, |workers| workers.parse().unwrap());
                daemon.listen.extend(std::iter::repeat_n(address, workers));
            }
            if let Some(rest) = after(&line, "metrics on http://") {
                let address = rest.split('/').next().unwrap().parse();
                daemon.http = Some(address.expect("an address"));
            }
        }
        if daemon.http.is_some() {
            wait_until("the daemon is ready", || {
                daemon.get("/-/ready").status == 200
            });
        }
        daemon
    }

    /// The address of its first UDP socket.
    pub fn address(&self) -> SocketAddr {
        self.listen[0]
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the daemon runs");
    }

    /// Stops all threads, and waits until they are stopped: until then the daemon may still answer.
    /// Uses ptrace if that is allowed, as SIGCONT from another process would end a SIGSTOP. Only
    /// the thread that paused the daemon can resume it.
    pub fn pause(&self) {
        if let Some(held) = Held::hold_rest(self.pid()) {
            let mut paused = self.paused();
            match &mut *paused {
                Some(paused) => paused.join(held),
                None => *paused = Some(held),
            }
            return;
        }
        self.signal(Signal::SIGSTOP);
        wait_until_stopped(&self.pid().to_string());
    }

    pub fn resume(&self) {
        if self.paused().take().is_none() {
            self.signal(Signal::SIGCONT);
        }
    }

    fn paused(&self) -> MutexGuard<'_, Option<Held>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log lines until now.
    pub fn log(&self) -> Vec<String> {
        self.log.lines().clone()
    }

    /// The log, which grows.
    pub fn shared_log(&self) -> Log {
        self.log.clone()
    }

    pub fn wait_for_log(&self, text: &str) {
        self.log.wait_for(text);
    }

    /// All log lines until now, by a line of level INFO that SIGHUP causes behind them. A stop
    /// would not do: its last lines are lost if the log gets no CPU in time.
    pub fn whole_log(&self) -> Vec<String> {
        self.signal(Signal::SIGHUP);
        self.wait_for_log("SIGHUP");
        let mut lines = self.log();
        let end = lines.iter().position(|line| line.contains("SIGHUP"));
        lines.truncate(end.unwrap());
        lines
    }

    /// Waits until the daemon ends.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the daemon does not end: {:#?}",
                self.log()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Stops the daemon by SIGTERM, and waits until it ends.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    pub fn get(&self, path: &str) -> Response {
        self.request(&format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        ))
    }

    /// Sends an unchanged HTTP request. Returns the response.
    pub fn request(&self, request: &str) -> Response {
        request_to(self.http.expect("an HTTP port"), request)
    }

    /// All metrics: `name` or `name{label="value",…}`, and the value.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let response = self.get("/metrics");
        assert_eq!(response.status, 200);
        samples(&response.body)
    }

    pub fn metric(&self, series: &str) -> f64 {
        total(&self.metrics(), series)
    }

    /// Waits until a metric has a value.
    pub fn wait_for_metric(&self, series: &str, value: f64) {
        let mut last = f64::NAN;
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            last = self.metric(series);
            #[expect(clippy::float_cmp, reason = "counters are whole numbers")]
            if last == value {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("{series} is {last}, not {value}: {:#?}", self.log());
    }

    /// Waits until each received datagram has exactly one outcome in the metrics. A reply may come
    /// before it is counted.
    pub fn assert_accounted_for(&self) {
        let mut metrics = self.metrics();
        let deadline = Instant::now() + DEADLINE;
        loop {
            let [received, total] = account(&metrics);
            if (received - total).abs() < 0.5 {
                return;
            }
            assert!(Instant::now() < deadline, "{received}: {metrics:#?}");
            thread::sleep(Duration::from_millis(5));
            metrics = self.metrics();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.paused().take();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the daemon's log: {:#?}", self.log.lines());
        }
    }
}

/// The received datagrams, and the sum of their outcomes.
fn account(metrics: &BTreeMap<String, f64>) -> [f64; 2] {
    let sum = |name| total(metrics, name);
    let parts = [
        "datagrams_echoed_total",
        "send_errors_total",
        "records_decoded_total",
        "decode_errors_total",
        "datagrams_empty_total",
        "datagrams_refused_total",
    ];
    let total = parts.iter().map(|name| sum(name)).sum();
    [sum("datagrams_received_total"), total]
}

fn after<'a>(line: &'a str, text: &str) -> Option<&'a str> {
    Some(&line[line.find(text)? + text.len()..])
}

/// Waits until all threads of a process that got SIGSTOP are stopped: until then it may still answer.
pub fn wait_until_stopped(pid: &str) {
    wait_until("the process is stopped", || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap();
            after(&stat, ") ").is_some_and(|state| state.starts_with('T'))
        })
    });
}
