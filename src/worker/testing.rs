//! A worker on loopback, for tests.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::{Options, Shared, Warnings, Worker};
use crate::exchange::{Admission, Exchange, ExitOn, Mode, Settings};
use crate::metrics::Counts;
use crate::udp::{self, Socket};

#[expect(clippy::disallowed_methods, reason = "any time will do")]
pub(super) fn now() -> Instant {
    Instant::now()
}

pub(super) fn socket(offload: bool) -> Arc<Socket> {
    let options = udp::Options {
        receive_buffer: None,
        send_buffer: None,
        reuse_address: false,
        timestamps: true,
        offload,
    };
    Arc::new(Socket::bind(([127, 0, 0, 1], 0).into(), &options).unwrap())
}

/// A worker that reads the time of day from `today`, and what it shares.
pub(super) fn worker(
    socket: Arc<Socket>,
    mode: Mode,
    exit_on: ExitOn,
    today: fn() -> Duration,
) -> (Worker, Arc<Shared>) {
    let epoch = now();
    let counts = Arc::new(Counts::default());
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        epoch,
        counts: Box::new([Arc::clone(&counts)]),
        warned_of_decode_errors: AtomicBool::new(false),
        warnings: Warnings::default(),
    });
    let settings = Settings {
        mode,
        timeout: None,
        max_datagram: 1024,
        max_peers: NonZeroU32::MIN,
        exit_on,
        admission: Admission::new(0, [socket.address()]),
        limits: None,
    };
    let options = Options {
        busy_poll: Duration::ZERO,
        timestamps: true,
        waiting_since: epoch,
        today,
    };
    let exchange = Exchange::new(settings, epoch).unwrap();
    let worker = Worker::new(socket, exchange, options, counts, Arc::clone(&shared));
    (worker, shared)
}
