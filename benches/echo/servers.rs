//! The servers: each is a process of its own, on CPUs of its own.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;

use crate::machine;
use crate::references::{LISTENING, Reference};
use crate::{veth, wire};

/// How to start a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// A plain loop.
    Loop(Reference),
    /// The daemon with options and a number of workers.
    Daemon(Vec<&'static str>, usize),
    /// Another build of the daemon, with the same options and workers.
    Other(PathBuf, Vec<&'static str>, usize),
    /// The reflector of stamp-suite.
    Suite,
    /// The daemon with the kernel path. Only over the veth pair.
    Kernel,
    /// A bare XDP program; the process does nothing. Only over the veth pair.
    Bare,
}

/// A running server. Dropping it kills it.
pub struct Server {
    child: Child,
    /// The address on which it receives.
    pub address: SocketAddrV4,
    /// Its output up to the start of service.
    log: Vec<String>,
    /// A kernel thread that works for it, as a directory in /proc.
    kernel_thread: Option<PathBuf>,
    /// A plain loop ends when this closes, so that none outlives a killed benchmark.
    _stdin: Option<ChildStdin>,
}

impl Server {
    /// Starts a server and waits until it receives.
    pub fn start(start: &Start) -> io::Result<Self> {
        let (mut command, workers, last) = match start {
            Start::Loop(reference) => (reference_command(*reference)?, 1, LISTENING),
            Start::Daemon(args, workers) => (
                daemon_command(Path::new(DAEMON), args, *workers),
                *workers,
                "serving in ",
            ),
            Start::Other(path, args, workers) => (
                daemon_command(path, args, *workers),
                *workers,
                "serving in ",
            ),
            Start::Suite => (suite_command(), 1, LISTENING),
            Start::Kernel => {
                let args = ["--mode=echo", veth::LISTEN, "--kernel-echo=require"];
                (
                    daemon_command(Path::new(DAEMON), &args, 1),
                    1,
                    "serving in ",
                )
            }
            Start::Bare => {
                let args = ["--mode=echo", veth::LISTEN];
                (
                    daemon_command(Path::new(DAEMON), &args, 1),
                    1,
                    "serving in ",
                )
            }
        };
        // A child inherits the CPUs of the thread that starts it.
        machine::pin(&machine::for_server(workers))?;
        let child = command.spawn();
        machine::pin_load()?;
        let mut child = child?;
        let log = match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), _) => read_until(last, stdout),
            (None, Some(stderr)) => read_until(last, stderr),
            (None, None) => Vec::new(),
        };
        let address = log.iter().find_map(|line| address_after(line, LISTENING));
        let stdin = child.stdin.take();
        let mut server = Self {
            child,
            address: SocketAddrV4::new([127, 0, 0, 1].into(), 0),
            log,
            kernel_thread: None,
            _stdin: stdin,
        };
        match address {
            Some(SocketAddr::V4(address)) => server.address = address,
            _ => {
                return Err(other(format!(
                    "cannot start {start:?}: no address in its output: {:#?}",
                    server.log
                )));
            }
        }
        Ok(server)
    }

    /// Counts the CPU time of a kernel thread as its own.
    pub fn with_kernel_thread(mut self, task: PathBuf) -> Self {
        self.kernel_thread = Some(task);
        self
    }

    /// The CPU time of all its threads.
    pub fn cpu(&self) -> io::Result<Duration> {
        let own = machine::process_cpu(self.child.id())?;
        let task = self.kernel_thread.as_deref().map(machine::task_cpu);
        Ok(own + task.transpose()?.unwrap_or_default())
    }

    /// Its resident memory in KiB.
    pub fn resident(&self) -> io::Result<u64> {
        machine::resident(self.child.id())
    }

    /// Fails if it has ended.
    pub fn check(&mut self) -> io::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(other(format!("a server ended: {status}: {:#?}", self.log))),
        }
    }

    /// Reads the first metric of a daemon whose line starts with `start`.
    pub fn metric(&self, start: &str) -> io::Result<f64> {
        let text = self.metrics()?;
        let value = text
            .lines()
            .filter(|line| line.starts_with(start))
            .find_map(|line| line.rsplit(' ').next()?.parse().ok());
        value.ok_or_else(|| other(format!("no {start} in {text}")))
    }

    /// Reads the metrics of a daemon.
    pub fn metrics(&self) -> io::Result<String> {
        let http = self
            .log
            .iter()
            .find_map(|line| address_after(line, "metrics on http://"));
        scrape(http.ok_or(io::ErrorKind::NotConnected)?)
    }
}

/// Reads the metrics of an HTTP port.
pub fn scrape(http: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(http)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of the daemon.
pub const DAEMON: &str = env!("CARGO_BIN_EXE_udp-echo");

fn reference_command(reference: Reference) -> io::Result<Command> {
    let name = reference.to_possible_value();
    let name = name.ok_or_else(|| other(format!("{reference:?} has no name")))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--reference", name.get_name()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

fn daemon_command(path: &Path, args: &[&str], workers: usize) -> Command {
    let mut command = Command::new(path);
    if !args.iter().any(|arg| arg.starts_with("--listen=")) {
        command.arg("--listen=127.0.0.1:0");
    }
    command
        .arg("--metrics-listen=127.0.0.1:0")
        .arg(format!("--recv-buffer={}", wire::RECEIVE_BUFFER))
        .arg(format!("--workers={workers}"))
        .args(args)
        // Environment variables of this program must not configure the daemon.
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// stamp-suite, which `.ci/run` installs.
const SUITE: &str = "/var/cache/udp-echo-test/stamp-suite-1.0.0/bin/stamp-suite";

/// Whether stamp-suite is installed.
pub fn has_suite() -> bool {
    Path::new(SUITE).exists()
}

/// Keeps the sessions that the daemon keeps by default.
fn suite_command() -> Command {
    let mut command = Command::new(SUITE);
    command
        .args(["--is-reflector", "--stateful-reflector"])
        .args(["--local-addr=127.0.0.1", "--local-port=0"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Whether the daemon has an option.
pub fn daemon_knows(option: &str) -> bool {
    static HELP: LazyLock<String> = LazyLock::new(|| {
        let output = Command::new(DAEMON).arg("--help").output();
        output.map_or_else(|error| error.to_string(), |output| text(&output.stdout))
    });
    HELP.contains(option)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads lines up to one that contains `last`. A thread discards the others, because a full pipe
/// would block the child.
pub fn read_until(last: &str, from: impl Read + Send + 'static) -> Vec<String> {
    let mut lines = BufReader::new(from).lines().map_while(Result::ok);
    let mut log = Vec::new();
    for line in lines.by_ref() {
        let done = line.contains(last);
        log.push(line);
        if done {
            break;
        }
    }
    thread::spawn(move || lines.for_each(drop));
    log
}

pub fn address_after(line: &str, text: &str) -> Option<SocketAddr> {
    after(line, text)?
        .split([' ', '/', ';'])
        .next()?
        .parse()
        .ok()
}

fn after<'a>(line: &'a str, text: &str) -> Option<&'a str> {
    Some(&line[line.find(text)? + text.len()..])
}

fn other(message: String) -> io::Error {
    io::Error::other(message)
}
