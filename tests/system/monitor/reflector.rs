//! A scripted reflector.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::namespace::Namespace;

/// A reflector whose replies are scripted. It stops when dropped.
pub(super) struct Reflector {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A number of copies of a request, sent after a delay.
#[derive(Clone, Copy)]
pub(super) struct Copies {
    pub(super) number: usize,
    pub(super) delay: Duration,
}

impl Reflector {
    /// Starts a reflector. `script` gets the source port and the sequence number of each request.
    pub(super) fn start(
        host: &Namespace,
        address: &str,
        mut script: impl FnMut(u16, u64) -> Copies + Send + 'static,
    ) -> Self {
        let socket = host.inside(|| UdpSocket::bind(address).unwrap());
        let timeout = Duration::from_millis(20);
        socket.set_read_timeout(Some(timeout)).unwrap();
        let (sent, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counted, stopped) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while !stopped.load(Relaxed) {
                // An error is a timeout or a signal.
                let Ok((length, peer)) = socket.recv_from(&mut bytes) else {
                    continue;
                };
                let sequence = u64::from_be_bytes(bytes[4..12].try_into().unwrap());
                let Copies { number, delay } = script(peer.port(), sequence);
                let (reply, out) = (bytes[..length].to_vec(), socket.try_clone().unwrap());
                let counted = Arc::clone(&counted);
                let answer = move || {
                    for number in 0..number {
                        out.send_to(&reply, peer).unwrap();
                        counted.fetch_add(1, Relaxed);
                        // The kernel queues at most 1000 packets between two interfaces.
                        if number % 100 == 99 {
                            thread::sleep(Duration::from_millis(1));
                        }
                    }
                };
                if delay.is_zero() {
                    answer();
                } else {
                    thread::spawn(move || {
                        thread::sleep(delay);
                        answer();
                    });
                }
            }
        });
        Self {
            sent,
            stop,
            thread: Some(thread),
        }
    }

    /// The number of replies sent.
    pub(super) fn replies(&self) -> u64 {
        self.sent.load(Relaxed)
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // The script may wait for a test that failed.
        if !thread::panicking() {
            self.thread.take().unwrap().join().unwrap();
        }
    }
}

impl Copies {
    /// One reply, at once.
    pub(super) const ONE: Self = Self {
        number: 1,
        delay: Duration::ZERO,
    };
}
