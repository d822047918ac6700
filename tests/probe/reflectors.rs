//! The other end, by scripts.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::harness::program;

/// Replies to datagrams as a script says, until dropped.
pub struct Reflector {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reflector {
    /// `script` gets each datagram and says what is to be sent back, in order.
    pub fn new(mut script: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut bytes = vec![0; 65536];
            while !stopped.load(Relaxed) {
                let Ok((length, peer)) = socket.recv_from(&mut bytes) else {
                    continue;
                };
                for reply in script(&bytes[..length]) {
                    socket.send_to(&reply, peer).unwrap();
                }
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The sequence number of a request.
pub fn sequence(request: &[u8]) -> u64 {
    u64::from_be_bytes(request[4..12].try_into().unwrap())
}

/// The client, without variables of its surroundings.
pub fn probe(target: impl Display, args: &str) -> Command {
    let mut command = program();
    command.arg("probe").arg(target.to_string());
    command.args(args.split_whitespace()).stdin(Stdio::null());
    command
}

/// How it ended: its status, standard output, standard error.
pub fn ended(command: &mut Command) -> (i32, String, String) {
    told(command.output().unwrap())
}

pub fn started(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub fn told(output: Output) -> (i32, String, String) {
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

/// What `--json` says.
pub fn json(target: impl Display, args: &str) -> (i32, Value) {
    let (status, out, err) = ended(probe(target, args).arg("--json"));
    assert_eq!((err.as_str(), out.lines().count()), ("", 1), "{out}");
    (status, serde_json::from_str(&out).unwrap())
}

/// Its whole numbers.
pub fn counts(value: &Value) -> BTreeMap<&str, u64> {
    let members = value.as_object().unwrap().iter();
    members
        .filter_map(|(name, value)| Some((name.as_str(), value.as_u64()?)))
        .collect()
}
