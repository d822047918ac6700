//! The client's own host: datagrams that it drops, and metrics that do not come.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{DEADLINE, kernel_drops, receive_from, wait_until};
use crate::reflectors::{finished, joined, probe, started};

#[test]
fn probe_reports_the_drops_of_its_own_sockets() {
    let reflector = UdpSocket::bind("127.0.0.1:0").unwrap();
    reflector.set_read_timeout(Some(DEADLINE)).unwrap();
    let args = "--mode=echo --count=1 --wait=2min --quiet";
    let child = started(&mut probe(reflector.local_addr().unwrap(), args));
    let (request, client) = receive_from(&reflector);
    wait_until("it is stopped with a full socket", || {
        // SIGCONT may come from elsewhere.
        signal(&child, Signal::SIGSTOP);
        for _ in 0..1000 {
            reflector.send_to(&request, client).unwrap();
        }
        kernel_drops(client.port()) > 0
    });
    signal(&child, Signal::SIGCONT);
    let mut drops = 0;
    let status = format!("/proc/{}/stat", child.id());
    wait_until("it ends", || {
        let stat = fs::read_to_string(&status).unwrap();
        // A process that has ended has no socket any more.
        drops = drops.max(kernel_drops(client.port()));
        stat.rsplit(") ").next().unwrap().starts_with('Z')
    });
    let (code, out, _) = finished(child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{out}");
    let line = format!("replies dropped by this host: {drops};");
    assert!(joined(&out).contains(&line), "{line} {out}");
}

#[test]
fn probe_ends_when_the_metrics_do_not_come() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "--count=1 --metrics-url=http://{}/metrics",
        silent.local_addr().unwrap()
    );
    let mut child = started(&mut probe("127.0.0.1:9", &url));
    wait_until("it ends", || child.try_wait().unwrap().is_some());
    let (code, _, err) = finished(child.wait_with_output().unwrap());
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains(&url["--count=1 --metrics-url=".len()..]),
        "{err}"
    );
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}
