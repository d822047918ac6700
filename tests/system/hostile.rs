//! Attacks on a daemon: one for each promise of SECURITY.md.

mod drops;
mod flood;
mod http;
mod loops;
mod port;
mod sources;
pub(crate) mod spoof;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Daemon;

/// The sum of a metric over all series with the given labels, as an integer.
fn count(daemon: &Daemon, name: &str) -> u64 {
    format!("{:.0}", daemon.metric(name)).parse().unwrap()
}

/// The release build: a debug build would take minutes.
fn released() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_udp-echo")).parent().unwrap();
    let released = target.with_file_name("release").join("udp-echo");
    assert!(
        released.exists(),
        "no {}: run cargo build --release",
        released.display()
    );
    released
}

/// The program with `sockets` sockets of one port, passed in as by systemd: with `SO_REUSEADDR` and
/// a small receive buffer that overflowed before.
fn with_passed_in(sockets: u32, args: &[&str]) -> Command {
    const SERVICE_MANAGER: &str = r"
import os, socket, sys
count, port, sockets = int(sys.argv[1]), 0, []
for number in range(count):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, count > 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    s.bind(('127.0.0.1', port))
    port = s.getsockname()[1]
    assert s.fileno() == 3 + number
    s.set_inheritable(True)
    sockets.append(s)
for client in range(20):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for _ in range(100):
            client.sendto(b'before the start', ('127.0.0.1', port))
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count),
                  LISTEN_FDNAMES=':'.join(['echo'] * count))
os.execv(sys.argv[2], sys.argv[2:])
";
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", SERVICE_MANAGER, &sockets.to_string()]);
    command.arg(crate::harness::program().get_program());
    command.arg("--metrics-listen=127.0.0.1:0").args(args);
    command.stdin(std::process::Stdio::null());
    command
}
