//! Scripted reflectors, and the client as a process.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::tidy::end_with_test;
use crate::harness::{all_is_taken, program, wait_until};

/// A wait that never ends by itself: every reply arrives, or the test ends the wait.
pub const LONG: &str = "--wait=60";

/// A reflector whose replies are scripted. It stops when dropped.
pub struct Reflector {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The datagrams that a reflector has handled.
#[derive(Default)]
struct Seen {
    datagrams: u64,
    ports: BTreeSet<u16>,
}

impl Reflector {
    /// Starts a reflector. `script` gets each datagram and returns the replies in order.
    pub fn new(mut script: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let noted = Arc::clone(&seen);
        let thread = thread::spawn(move || {
            let mut bytes = vec![0; 65536];
            while !stopped.load(Relaxed) {
                // An error is a timeout or a signal.
                let Ok((length, peer)) = socket.recv_from(&mut bytes) else {
                    continue;
                };
                for reply in script(&bytes[..length]) {
                    socket.send_to(&reply, peer).unwrap();
                }
                let mut seen = noted.lock().unwrap();
                seen.datagrams += 1;
                seen.ports.insert(peer.port());
            }
        });
        Self {
            address,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// Returns the number of datagrams handled.
    pub fn datagrams(&self) -> u64 {
        self.seen.lock().unwrap().datagrams
    }

    /// Runs a client that sends `count` requests, some of which get no reply. The client waits until
    /// it has received all replies.
    pub fn measure(&self, count: u64, args: &str) -> (i32, String, String) {
        let all = self.datagrams() + count;
        self.seen.lock().unwrap().ports.clear();
        let args = format!("--count={count} {args}");
        measure(&mut probe(self.address, &args), || {
            let ports = || self.seen.lock().unwrap().ports.clone();
            self.datagrams() >= all && ports().into_iter().all(all_is_taken)
        })
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Runs a client, and ends its wait once all replies have arrived.
pub fn measure(command: &mut Command, mut all_came: impl FnMut() -> bool) -> (i32, String, String) {
    let mut child = started(command.arg(LONG));
    let mut has_ended = false;
    wait_until("all replies came", || {
        has_ended = child.try_wait().unwrap().is_some();
        has_ended || all_came()
    });
    if !has_ended {
        end_waiting(&child);
    }
    finished(child.wait_with_output().unwrap())
}

/// Ends the sending and the waiting, by two signals. The kernel keeps only one of each kind.
pub fn end_waiting(child: &Child) {
    signal(child, Signal::SIGINT);
    signal(child, Signal::SIGTERM);
}

pub fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Returns the sequence number of a request.
pub fn sequence(request: &[u8]) -> u64 {
    u64::from_be_bytes(request[4..12].try_into().unwrap())
}

/// Returns the command of the client, without variables from the environment.
pub fn probe(target: impl Display, args: &str) -> Command {
    let mut command = program();
    command.arg("probe").arg(target.to_string());
    command.args(args.split_whitespace()).stdin(Stdio::null());
    command
}

/// Returns a shell script with the program as `$0` and the target as `$1`. `LC_ALL=C` keeps the
/// shell from warning about a missing locale.
pub fn script(script: &str, target: impl Display) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(program().get_program());
    command.arg(target.to_string()).env("LC_ALL", "C");
    command.stdin(Stdio::null());
    command
}

/// Runs the command. Returns its status, standard output and standard error.
pub fn ended(command: &mut Command) -> (i32, String, String) {
    finished(end_with_test(command).output().unwrap())
}

pub fn started(command: &mut Command) -> Child {
    end_with_test(command)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub fn finished(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(!err.contains("panicked"), "{err}");
    let status = output.status.code();
    (
        status.unwrap_or_else(|| panic!("{output:?}", output = (&out, &err))),
        out,
        err,
    )
}

/// Joins the lines of a text: long sentences of the client are broken into several.
pub fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs a client with `--json`. Returns its status and its object.
pub fn json(target: impl Display, args: &str) -> (i32, Value) {
    object(ended(probe(target, args).arg("--json")))
}

/// Parses the output of a client with `--json`.
pub fn object((status, out, err): (i32, String, String)) -> (i32, Value) {
    assert_eq!((err.as_str(), out.lines().count()), ("", 1), "{out}");
    (status, serde_json::from_str(&out).unwrap())
}

/// Returns the counts of requests, replies and records.
pub fn counts(value: &Value) -> BTreeMap<&str, u64> {
    let members = value.as_object().unwrap().iter();
    let others = ["flows", "not_sent", "size"];
    members
        .filter(|(name, _)| !others.contains(&name.as_str()))
        .filter_map(|(name, value)| Some((name.as_str(), value.as_u64()?)))
        .collect()
}
