//! No other user gets the port.

use std::net::SocketAddr;
use std::process::Command;

use super::{count, with_passed_in};
use crate::harness::{Daemon, client, receive, run, wait_until};

#[test]
#[ignore = "needs root, to be another user; .ci/run runs it"]
fn another_user_cannot_bind_the_port_of_a_daemon() {
    let start = |args: &[&str]| Daemon::start(&[&["--mode=echo"], args].concat());
    let adopt = |sockets| Daemon::start_exactly(with_passed_in(sockets, &["--mode=echo"]));
    let mut attempts = 0;
    for daemon in [
        start(&[]),
        start(&["--workers=3"]),
        start(&["--listen=*:0"]),
        start(&["--listen=*:0", "--workers=3"]),
        start(&["--listen=[::]:0"]),
        start(&["--listen=[::]:0", "--workers=3"]),
        adopt(1),
        adopt(3),
    ] {
        // Datagrams queued in passed-in sockets are answered first.
        let queue = || count(&daemon, "socket_receive_queue_bytes");
        wait_until("the receive queue is empty", || queue() == 0);
        let before = count(&daemon, "datagrams_echoed_total");
        let port = daemon.address().port();
        let tried = steal(port);
        for (how, result) in &tried {
            assert_eq!(result, "EADDRINUSE", "{how} on {}", daemon.address());
        }
        attempts += tried.len();
        for number in 0..50_u8 {
            let peer = client(SocketAddr::from(([127, 0, 0, 1], port)));
            peer.send(&[number]).unwrap();
            assert_eq!(receive(&peer), [number]);
        }
        // Some queued datagrams may be counted since then.
        wait_until("all datagrams are counted", || {
            count(&daemon, "datagrams_echoed_total") >= before + 50
        });
    }
    eprintln!("{attempts} attempts of another user, {attempts} times EADDRINUSE");
}

/// Shows that the attempts of the test above can succeed.
#[test]
#[ignore = "needs root, to be another user; .ci/run runs it"]
fn another_user_can_bind_the_port_with_reuse_address() {
    let daemon = Daemon::start(&["--reuse-address"]);
    let got = steal(daemon.address().port());
    let got: Vec<_> = got.iter().filter(|(_, result)| result == "bound").collect();
    assert!(!got.is_empty(), "{got:?}");
}

/// Tries all combinations of addresses and options to bind a port as another user. Returns each
/// combination with its result.
fn steal(port: u16) -> Vec<(String, String)> {
    const THIEF: &str = r"
import errno, os, socket, sys
assert os.getuid() != 0
for address in '127.0.0.1', '0.0.0.0', '::', '::ffff:127.0.0.1':
    for options in [], ['SO_REUSEADDR'], ['SO_REUSEPORT'], ['SO_REUSEADDR', 'SO_REUSEPORT']:
        for device in [], ['lo']:
            s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET,
                              socket.SOCK_DGRAM)
            if ':' in address:
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            for option in options:
                s.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
            for name in device:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
            try:
                s.bind((address, int(sys.argv[1])))
                result = 'bound'
            except OSError as error:
                result = errno.errorcode[error.errno]
            print('+'.join([address] + options + device), result)
            s.close()
";
    let mut thief = Command::new("setpriv");
    thief.args([
        "--reuid=nobody",
        "--clear-groups",
        "/usr/bin/python3",
        "-c",
        THIEF,
    ]);
    let (status, out, err) = run(thief.arg(port.to_string()));
    assert!(status.success(), "{err}");
    let lines = out.lines().map(|line| line.split_once(' ').unwrap());
    lines
        .map(|(how, result)| (how.to_owned(), result.to_owned()))
        .collect()
}
