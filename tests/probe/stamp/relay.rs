//! A path between the client and a reflector that changes or delays datagrams of one way.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use super::{answered, at, stamp};
use crate::harness::calm::undisturbed;

/// Forwards the datagrams of one client at a time. It stops when dropped.
pub struct Relay {
    pub address: SocketAddr,
    back: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Starts a relay to a reflector. The functions change the datagrams on the way there and back.
    pub fn new(
        reflector: SocketAddr,
        mut there: impl FnMut(&mut Vec<u8>) + Send + 'static,
        mut back: impl FnMut(&mut Vec<u8>) + Send + 'static,
    ) -> Self {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let timeout = Some(Duration::from_millis(20));
            socket.set_read_timeout(timeout).unwrap();
            socket
        };
        let (front, rear) = (socket(), socket());
        rear.connect(reflector).unwrap();
        let address = front.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let client = Arc::new(Mutex::new(address));
        let count = Arc::new(AtomicU64::new(0));
        let [from_front, to_rear] = [&front, &rear].map(|socket| socket.try_clone().unwrap());
        let (last, stopped) = (Arc::clone(&client), Arc::clone(&stop));
        let way_there = thread::spawn(move || {
            forward(&from_front, &stopped, |mut packet, from| {
                *last.lock().unwrap() = from;
                there(&mut packet);
                to_rear.send(&packet).unwrap();
            });
        });
        let (counted, stopped) = (Arc::clone(&count), Arc::clone(&stop));
        let way_back = thread::spawn(move || {
            forward(&rear, &stopped, |mut packet, _| {
                back(&mut packet);
                let client = *client.lock().unwrap();
                front.send_to(&packet, client).unwrap();
                counted.fetch_add(1, Relaxed);
            });
        });
        Self {
            address,
            back: count,
            stop,
            threads: vec![way_there, way_back],
        }
    }

    /// The number of datagrams that were sent to the client.
    pub fn forwarded_back(&self) -> u64 {
        self.back.load(Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// Receives datagrams until the relay stops.
fn forward(socket: &UdpSocket, stop: &AtomicBool, mut send: impl FnMut(Vec<u8>, SocketAddr)) {
    let mut bytes = vec![0; 65536];
    while !stop.load(Relaxed) {
        // An error is a timeout or a signal.
        if let Ok((length, from)) = socket.recv_from(&mut bytes) {
            send(bytes[..length].to_vec(), from);
        }
    }
}

#[test]
fn delay_of_one_way_shows_in_that_way_alone() {
    const DELAY: Duration = Duration::from_millis(100);
    let daemon = stamp(&[]);
    let delay = |_: &mut Vec<u8>| thread::sleep(DELAY);
    let there = Relay::new(daemon.address(), delay, |_| {});
    let back = Relay::new(daemon.address(), |_| {}, delay);
    for (relay, slow, fast) in [
        (there, "forward", "backward"),
        (back, "backward", "forward"),
    ] {
        // The delay of the relay, to the rate of a clock that is slewed.
        let least = DELAY.as_secs_f64() * 0.99;
        let delay = |seen: &Value, way: &str, figure: &str| {
            at(seen, &format!("/one_way_seconds/{way}/{figure}"))
        };
        // Both threads run on a busy machine: half the delay may be noise.
        let is_right = |seen: &Value| {
            delay(seen, slow, "p50") - delay(seen, fast, "p50") > DELAY.as_secs_f64() / 2.0
        };
        let run = || answered(relay.address, "--count=5 --interval=0.1");
        let seen = undisturbed(run, is_right);
        assert!(is_right(&seen), "{slow}: {seen}");
        assert!(delay(&seen, slow, "min") > least, "{slow}: {seen}");
        assert!(at(&seen, "/rtt_seconds/min") > least, "{slow}: {seen}");
    }
}
