//! Programs and daemons come and go under load: no datagram is answered twice, and losses are counted.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Attached, LISTEN, Side, metric};
use crate::harness::wait_until;
use crate::namespace::Namespace;

/// A client that sends without a pause, until this is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    /// The number of replies to each request.
    replies: Arc<Mutex<HashMap<u64, u32>>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn start(socket: UdpSocket) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let replies = Arc::new(Mutex::new(HashMap::new()));
        let (is_over, counts) = (Arc::clone(&stop), Arc::clone(&replies));
        socket
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let thread = thread::spawn(move || {
            let mut reply = [0; 100];
            for number in 0_u64.. {
                if is_over.load(Relaxed) {
                    return;
                }
                counts.lock().unwrap().insert(number, 0);
                // An ICMP error of an earlier request can end the call.
                let _ = socket.send(&number.to_le_bytes());
                while let Ok(length) = socket.recv(&mut reply) {
                    let number = u64::from_le_bytes(reply[..length].try_into().unwrap());
                    *counts.lock().unwrap().get_mut(&number).unwrap() += 1;
                }
            }
        });
        Self {
            stop,
            replies,
            thread: Some(thread),
        }
    }

    /// Requests, those that were answered, and those answered twice.
    fn counts(&self) -> [usize; 3] {
        let replies = self.replies.lock().unwrap();
        let at_least = |least| replies.values().filter(|count| **count >= least).count();
        [replies.len(), at_least(1), at_least(2)]
    }

    /// Waits until 50 more requests are answered. Reports the lost ones since the last call.
    fn assert_goes_on(&self, after: &str, lost: &mut usize) {
        let [_, before, _] = self.counts();
        wait_until(&format!("replies come after {after}"), || {
            self.counts()[1] >= before + 50
        });
        let [sent, answered, twice] = self.counts();
        assert_eq!(twice, 0, "{after}");
        let all = sent - answered;
        eprintln!("{} lost by {after}", all.saturating_sub(*lost));
        *lost = all;
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
#[ignore = "needs root, BPF and ethtool; .ci/run runs it"]
fn switches_under_load_answer_nothing_twice() {
    needs_bpf!();
    let (server, clients) = Namespace::pair();
    let _peer = Attached::peer(&clients);
    clients.shell("ethtool -K eth0 tx off");
    let attached = Attached::new(&server, Side::Server);
    let mut daemon = attached.daemon(LISTEN);
    let load = Load::start(clients.client("10.77.0.2:0", LISTEN.parse().unwrap()));
    let mut lost = 0;
    let by_program = |daemon: &crate::harness::Daemon| {
        server.inside(|| metric(daemon, "kernel_echo_datagrams_total"))
    };
    load.assert_goes_on("the start", &mut lost);
    wait_until("the program answers", || by_program(&daemon) > 10.0);

    // The socket takes over at once.
    attached.detach();
    load.assert_goes_on("detach", &mut lost);
    let before = by_program(&daemon);
    load.assert_goes_on("nothing", &mut lost);
    assert!((by_program(&daemon) - before).abs() < 0.5);
    server.inside(|| {
        daemon.wait_for_metric("kernel_echo_active{interface=\"eth0\"}", 0.0);
        daemon.assert_accounted_for();
    });

    // A new program is used by the next daemon.
    let (success, said) = attached.attach(&["--interface=eth0", "--listen", LISTEN]);
    assert!(success, "{said}");
    load.assert_goes_on("attach", &mut lost);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        daemon.signal(signal);
        daemon.wait();
        daemon = attached.daemon(LISTEN);
        load.assert_goes_on(&format!("a restart by {signal}"), &mut lost);
        wait_until("the program answers", || by_program(&daemon) > 10.0);
    }
    server.inside(|| daemon.assert_accounted_for());
    let [sent, answered, twice] = load.counts();
    eprintln!(
        "{sent} sent, {} lost, {twice} answered twice",
        sent - answered
    );
}
