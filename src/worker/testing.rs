//! A worker on loopback, for tests.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Shared, SocketPort, StampClock, Worker, WorkerOptions, port};
use crate::reflect::stamp::StampSettings;
use crate::reflect::{Admission, ExitOn, Mode, Reflector, ReflectorSettings, Timeout};
use crate::udp::{self, Socket};

#[expect(clippy::disallowed_methods, reason = "any time will do")]
pub(super) fn now() -> Instant {
    Instant::now()
}

pub(super) fn socket(offload: bool) -> Arc<Socket> {
    let options = udp::SocketOptions {
        ip_header: true,
        receive_buffer: udp::BufferSize::Default,
        send_buffer: udp::BufferSize::Default,
        reuse_address: false,
        timestamps: true,
        offload,
    };
    Arc::new(Socket::bind(([127, 0, 0, 1], 0).into(), &options).unwrap())
}

/// A worker that reads the time of day from `time_of_day`, and its shared state. The timeout makes
/// it check for a stop once per second without being woken.
pub(super) fn worker(
    socket: Arc<Socket>,
    mode: Mode,
    exit_on: ExitOn,
    time_of_day: fn() -> Duration,
) -> (Worker<SocketPort>, Arc<Shared>) {
    let epoch = now();
    let shared = Arc::new(Shared::new(epoch, Box::new([Arc::default()])));
    let settings = ReflectorSettings {
        mode,
        timeout: Timeout::new(Duration::from_secs(1)),
        max_datagram: 1024,
        max_peers: NonZeroU32::MIN,
        exit_on,
        admission: Admission::new(0, [socket.address()]),
        limits: None,
        stamp: StampSettings::default(),
    };
    let options = WorkerOptions {
        busy_poll: Duration::ZERO,
        timestamps: true,
        // As of an inherited socket: until it was empty, datagrams may be this old.
        waiting_since: epoch.checked_sub(Duration::from_hours(2)).unwrap(),
        time_of_day,
        stamp_clock: StampClock::NotSynchronized,
    };
    let port = port(socket, &settings);
    let reflector = Reflector::new(settings, epoch).unwrap();
    let worker = Worker::new(port, reflector, options, 0, Arc::clone(&shared));
    (worker, shared)
}
