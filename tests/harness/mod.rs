//! Runs the real daemon, on loopback, and looks at it from outside.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test program uses a part; this is no library"
)]

pub mod calm;
pub mod confined;
pub mod held;
pub mod readme;
pub mod service;
pub mod skip;
pub mod tidy;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;
use nix::unistd::Pid;

use held::Held;

/// How long anything may take. Reached only when something is broken: a machine may be very busy,
/// and stand still for a while.
pub const DEADLINE: Duration = Duration::from_mins(3);

/// The daemon's program, as cargo built it for this test.
pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_udp-echo"))
}

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    log: Log,
    paused: Mutex<Option<Held>>,
    /// The addresses that it receives datagrams on.
    pub listen: Vec<SocketAddr>,
    /// The address of its HTTP port.
    pub http: Option<SocketAddr>,
}

impl Daemon {
    /// Starts it on ports of the kernel's choice, unless `args` say otherwise.
    pub fn start(args: &[&str]) -> Self {
        Self::start_as(program(), args)
    }

    /// The same through a command that ends with the program, with environment and all.
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

    /// Starts it by a command as it is.
    pub fn start_exactly(mut command: Command) -> Self {
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
        daemon.wait_for_log("serving in ");
        for line in daemon.log() {
            if let Some(rest) = after(&line, "listening on ") {
                let address = rest.split(' ').next().unwrap().parse();
                daemon.listen.push(address.expect("an address"));
            }
            if let Some(rest) = after(&line, "metrics on http://") {
                let address = rest.split('/').next().unwrap().parse();
                daemon.http = Some(address.expect("an address"));
            }
        }
        if daemon.http.is_some() {
            wait_until("it is ready", || daemon.get("/-/ready").status == 200);
        }
        daemon
    }

    /// The first address that it receives datagrams on.
    pub fn address(&self) -> SocketAddr {
        self.listen[0]
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the daemon runs");
    }

    /// Stops all its threads, and waits until they are: until then it may still answer. By ptrace,
    /// where that is allowed: SIGCONT of another process would end a SIGSTOP. The thread that
    /// pauses it has to resume it.
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
        wait_until("it is stopped", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            tasks.flatten().all(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap();
                after(&stat, ") ").is_some_and(|state| state.starts_with('T'))
            })
        });
    }

    pub fn resume(&self) {
        if self.paused().take().is_none() {
            self.signal(Signal::SIGCONT);
        }
    }

    fn paused(&self) -> MutexGuard<'_, Option<Held>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines().clone()
    }

    /// What it logs, now and later.
    pub fn shared_log(&self) -> Log {
        self.log.clone()
    }

    pub fn wait_for_log(&self, text: &str) {
        self.log.wait_for(text);
    }

    /// All that it logged until now. By SIGHUP, which makes a line of level INFO that is behind
    /// it: what a daemon logs last is lost where its log gets no CPU within the time to stop.
    pub fn whole_log(&self) -> Vec<String> {
        self.signal(Signal::SIGHUP);
        self.wait_for_log("SIGHUP");
        let mut lines = self.log();
        let end = lines.iter().position(|line| line.contains("SIGHUP"));
        lines.truncate(end.unwrap());
        lines
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end: {:#?}",
                self.log()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks it to stop, and waits.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    pub fn get(&self, path: &str) -> Response {
        self.request(&format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        ))
    }

    /// Sends a request as it is and reads all that comes back.
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

    /// Waits until every datagram is accounted for, exactly once: a reply may come before it is
    /// counted.
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

/// A metric of the daemon, summed up over the labels that are left out.
pub fn total(metrics: &BTreeMap<String, f64>, series: &str) -> f64 {
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
    let belongs = |key: &str| {
        let (own, given) = key.split_once('{').unwrap_or((key, ""));
        own.strip_prefix("udp_echo_") == Some(name)
            && labels.iter().all(|label| given.contains(label))
    };
    let values: Vec<_> = metrics.iter().filter(|(key, _)| belongs(key)).collect();
    assert!(!values.is_empty(), "no {series} in {metrics:#?}");
    values.into_iter().map(|(_, value)| value).sum()
}

/// What was received, and what its parts come to.
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

/// An HTTP response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    pub body: String,
}

pub fn request_to(address: SocketAddr, request: &str) -> Response {
    let text = answer_to(address, request.as_bytes());
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Response {
        status: head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("no status in {text:?}")),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// What an HTTP port answers until it closes, which it may do before it has read all. A request
/// that was sent so late that the daemon did not wait for it is repeated.
pub fn answer_to(address: SocketAddr, request: &[u8]) -> String {
    /// Less than the daemon waits.
    const SLOW: Duration = Duration::from_secs(4);
    let mut bytes = Vec::new();
    wait_until("a request is not too slow", || {
        bytes.clear();
        let start = Instant::now();
        let mut stream = TcpStream::connect(address).expect("the port is open");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let _ = stream.write_all(request);
        if let Err(error) = stream.read_to_end(&mut bytes) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "not closed");
        }
        let cut_off = bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 408 ");
        !cut_off || start.elapsed() < SLOW
    });
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The samples of a text in the Prometheus format.
pub fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a sample");
            (series.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

/// A client on a port of its own, connected to the daemon: it takes replies from no other address.
pub fn client(to: SocketAddr) -> UdpSocket {
    let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// The next datagram that a client gets.
pub fn receive(client: &UdpSocket) -> Vec<u8> {
    receive_from(client).0
}

/// The next datagram that a socket gets, and its source.
pub fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 65536];
    let received = uninterrupted(|| socket.recv_from(&mut bytes));
    let (length, source) = received.expect("a datagram");
    bytes.truncate(length);
    (bytes, source)
}

/// Calls again what a signal ended: SIGCONT ends a receive with a timeout, also without a handler
/// (signal(7)).
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// How many datagrams the kernel has dropped of a port's IPv4 sockets (`proc_net_udp(5)`).
pub fn kernel_drops(port: u16) -> u64 {
    let own = sockets_of(port).into_iter();
    own.map(|fields| fields.last().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// Whether nothing waits to be received by a port's IPv4 sockets, or they are closed.
pub fn all_is_taken(port: u16) -> bool {
    let mut own = sockets_of(port).into_iter();
    own.all(|fields| fields[4].ends_with(":00000000"))
}

/// The fields of a port's IPv4 sockets.
fn sockets_of(port: u16) -> Vec<Vec<String>> {
    let sockets = std::fs::read_to_string("/proc/net/udp").unwrap();
    let port = format!(":{port:04X}");
    let fields = sockets
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect());
    fields
        .filter(|fields: &Vec<String>| fields[1].ends_with(&port))
        .collect()
}

/// An address where no datagram is received, and none will be while the socket lives: it is
/// connected to itself.
pub fn unreachable(host: IpAddr) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((host, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    socket.connect(address).unwrap();
    (socket, address)
}

/// Sends datagrams of `segment` bytes, the last maybe shorter, by one call: the kernel cuts them
/// only where it has to.
pub fn send_burst(client: &UdpSocket, bytes: &[u8], segment: usize) {
    let set = |size| setsockopt(client, UdpGsoSegment, &size).unwrap();
    set(i32::try_from(segment).unwrap());
    assert_eq!(client.send(bytes).unwrap(), bytes.len());
    set(0);
}

/// Whether this host has IPv6: sockets of the family, and an address to bind.
pub fn has_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}

/// Whether a program of the system can be started, so that a test can skip where it is missing.
pub fn has_program(name: &str) -> bool {
    let started = Command::new(name)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    started.is_ok()
}

/// Whether nothing waits for a client.
pub fn has_nothing(client: &UdpSocket) -> bool {
    client.set_nonblocking(true).unwrap();
    let nothing = client.recv(&mut [0; 1]).is_err();
    client.set_nonblocking(false).unwrap();
    nothing
}

/// Runs a command to its end; what it wrote and how it ended.
pub fn run(command: &mut Command) -> (ExitStatus, String, String) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status, text(output.stdout), text(output.stderr))
}

/// A command of the shell. In the locale C: bash warns of one that is not installed.
pub fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("LC_ALL", "C");
    command
}

/// Waits for a condition.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Numbers for test data, the same in each run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `SplitMix64`.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64).try_into().unwrap()
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// What a daemon logs, as it comes.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Arc<JoinHandle<()>>,
}

impl Log {
    /// Reads a daemon's standard error to its end.
    pub fn follow(stderr: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        let reader = Arc::new(reader);
        Self { lines, reader }
    }

    pub fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no line can come any more: the daemon closed its standard error, or ended.
    pub fn has_ended(&self) -> bool {
        self.reader.is_finished()
    }

    /// Waits for a line with this text.
    pub fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let last = self.has_ended() || Instant::now() > deadline;
            if self.lines().iter().any(|line| line.contains(text)) {
                return;
            }
            assert!(!last, "no {text:?} in {:#?}", self.lines());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn after<'a>(line: &'a str, text: &str) -> Option<&'a str> {
    Some(&line[line.find(text)? + text.len()..])
}
