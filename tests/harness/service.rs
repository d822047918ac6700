//! Runs the daemon as a service and reads its messages to the service manager.

use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::tidy::end_with_test;
use super::{DEADLINE, Log, uninterrupted, wait_until};

/// A service manager: the socket of `NOTIFY_SOCKET`. Its abstract address leaves no file behind.
pub struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("udp-echo-test-{}-{number}", std::process::id());
        let address = UnixAddress::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Self { socket, name }
    }

    pub fn next_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut bytes = [0; 4096];
        let length = uninterrupted(|| self.socket.recv(&mut bytes)).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).expect("UTF-8"))
    }

    pub fn next(&self) -> String {
        self.next_within(DEADLINE).expect("a message")
    }

    pub fn wait_for(&self, text: &str) -> String {
        wait_until_some(text, || {
            Some(self.next()).filter(|message| message.contains(text))
        })
    }
}

/// A running daemon that needs no log: its addresses come from its messages to the manager.
pub struct Service {
    pub child: Child,
    pub manager: Manager,
    /// The status that came with `READY=1`.
    pub status: String,
    pub listen: SocketAddr,
    pub http: Option<SocketAddr>,
}

impl Service {
    /// Starts the daemon on ports that the kernel chooses, unless `command` or `args` set them.
    /// [`Self::end`] returns its standard error.
    pub fn start(mut command: Command, args: &[&str]) -> Self {
        let manager = Manager::new();
        for (option, value) in [("LISTEN", "127.0.0.1:0"), ("METRICS_LISTEN", "127.0.0.1:0")] {
            let name = format!("UDP_ECHO_{option}");
            if command
                .get_envs()
                .all(|(given, value)| given != name.as_str() || value.is_none())
            {
                command.env(name, value);
            }
        }
        let address = format!("@{}", manager.name);
        command.args(args).env("NOTIFY_SOCKET", address);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let child = end_with_test(&mut command).spawn();
        let child = child.expect("the daemon starts");
        let mut service = Self {
            child,
            manager,
            status: String::new(),
            listen: ([0, 0, 0, 0], 0).into(),
            http: None,
        };
        let message = service.first_message();
        let status = message.strip_prefix("READY=1\nSTATUS=").expect(&message);
        let address = |after: &str| -> Option<SocketAddr> {
            let rest = &status[status.find(after)? + after.len()..];
            rest.split([',', ';']).next()?.parse().ok()
        };
        service.listen = address(" on ").expect(status);
        service.http = address("metrics on ");
        status.clone_into(&mut service.status);
        service
    }

    /// The first message to the manager. Panics if the daemon ends before.
    fn first_message(&mut self) -> String {
        wait_until_some("the daemon is ready", || {
            let ended = self.child.try_wait().unwrap();
            let message = self.manager.next_within(Duration::from_millis(100));
            assert!(message.is_some() || ended.is_none(), "{ended:?}");
            message
        })
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait_until_some("the daemon ends", || self.child.try_wait().unwrap())
    }

    /// Stops the daemon. Returns its exit status and its log before the stop, as
    /// [`super::Daemon::whole_log`] does.
    pub fn end_with_whole_log(mut self) -> (ExitStatus, String) {
        let log = Log::follow(self.child.stderr.take().expect("piped"));
        self.signal(Signal::SIGHUP);
        log.wait_for("SIGHUP");
        let text = log.lines().join("\n");
        self.signal(Signal::SIGTERM);
        (self.wait(), text)
    }

    /// Stops the daemon. Returns its exit status and its standard error, which may miss the last
    /// lines.
    pub fn end(mut self) -> (ExitStatus, String) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        let stderr = self.child.stderr.take().expect("piped");
        (status, std::io::read_to_string(stderr).expect("UTF-8"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(log) = self.child.stderr.take().filter(|_| thread::panicking()) {
            eprintln!("the daemon's log: {:?}", std::io::read_to_string(log));
        }
    }
}

pub fn wait_until_some<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    wait_until(what, || {
        found = condition();
        found.is_some()
    });
    found.unwrap()
}

pub fn assert_has(text: &str, part: &str) {
    assert!(text.contains(part), "no {part:?} in {text}");
}

/// The number of lines that contain `part`.
pub fn count(log: &[String], part: &str) -> usize {
    log.iter().filter(|line| line.contains(part)).count()
}
