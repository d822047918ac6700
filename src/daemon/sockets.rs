//! The daemon's sockets: passed in by the service manager, or bound.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};

use tracing::{info, warn};

use super::{Config, DaemonError, Given};
use crate::http;
use crate::metrics::{Counts, SocketReading, WorkerMetrics};
use crate::reflect::Mode;
use crate::status_page::size;
use crate::systemd::{self, Role};
use crate::udp::{self, BufferLimits, BufferSize, Socket};
use crate::worker::StampClock;

/// The sockets that the service manager passed in.
#[derive(Debug)]
pub struct Inherited(Vec<(RawFd, Role, OwnedFd)>);

impl Inherited {
    /// Takes the sockets. Call this before anything else opens a descriptor.
    ///
    /// # Errors
    /// If a descriptor is not open or a name is unknown.
    pub fn take() -> Result<Self, DaemonError> {
        let take = |(descriptor, role)| match udp::inherited(descriptor) {
            Ok(socket) => Ok((descriptor, role, socket)),
            Err(error) => Err(DaemonError::PassedIn {
                descriptor,
                role,
                problem: format!("it is not a usable descriptor: {error}").into(),
            }),
        };
        let sockets = systemd::passed_in()?;
        Ok(Self(
            sockets.into_iter().map(take).collect::<Result<_, _>>()?,
        ))
    }
}

/// The sockets that the daemon serves.
pub(super) struct Sockets {
    pub(super) echo: Vec<Arc<Socket>>,
    /// Whether `echo` may hold datagrams that came before this process started.
    pub(super) are_inherited: bool,
    pub(super) http: Option<(TcpListener, SocketAddr)>,
    /// The fields of the configuration that sockets passed in replace.
    pub(super) replaced: Vec<&'static str>,
}

impl Sockets {
    /// Adopts the inherited sockets and binds the others.
    pub(super) fn open(
        config: &Config,
        Inherited(inherited): Inherited,
    ) -> Result<Self, DaemonError> {
        let (mut echo, mut http) = (Vec::new(), None);
        for (descriptor, role, socket) in inherited {
            let failed = |problem| DaemonError::PassedIn {
                descriptor,
                role,
                problem,
            };
            match role {
                Role::Echo | Role::Unnamed => {
                    let socket = Socket::adopt(socket, &config.socket);
                    echo.push(Arc::new(socket.map_err(|error| failed(error.into()))?));
                }
                Role::Metrics if http.is_none() => {
                    let socket = http::adopt(socket);
                    http = Some(socket.map_err(|error| failed(error.into()))?);
                }
                Role::Metrics => {
                    return Err(failed(
                        "it is a second metrics socket; pass in only one".into(),
                    ));
                }
            }
        }
        if config.mode == Mode::Lockstep && echo.len() > 1 {
            return Err(DaemonError::LockstepSockets {
                count: echo.len(),
                mode: config.given.with("mode", config.mode.name()),
            });
        }
        let mut replaced = Vec::new();
        let mut ignored = |field| {
            replaced.push(field);
            if let Some(option) = config.given.get(field) {
                warn!("ignoring {option}: systemd passed in sockets");
            }
        };
        let are_inherited = !echo.is_empty();
        if echo.is_empty() {
            if http.is_some() {
                warn!(
                    "using --listen: systemd passed in no UDP socket; check whether udp-echo.socket \
                     is active"
                );
            }
            echo = bind(config)?;
        } else {
            ignored("listen");
            ignored("workers");
        }
        if http.is_some() {
            ignored("metrics_listen");
        } else if let Some(address) = &config.metrics_listen {
            let setting = config.given.name_of("metrics_listen");
            http = Some(http::bind(address.resolve()?, &setting)?);
        }
        Ok(Self {
            echo,
            are_inherited,
            http,
            replaced,
        })
    }
}

/// Binds one socket per address and worker.
fn bind(config: &Config) -> Result<Vec<Arc<Socket>>, DaemonError> {
    let mut sockets: Vec<Arc<Socket>> = Vec::new();
    for name in &config.listen {
        let address = name.resolve()?;
        // With SO_REUSEADDR the kernel allows a second bind, which takes all datagrams.
        if sockets.iter().any(|other| other.address() == address) {
            let name = config.given.with("listen", &name.to_string());
            return Err(DaemonError::ListenTwice { name, address });
        }
        let first = Socket::bind(address, &config.socket)?;
        let others: Vec<_> = (1..config.workers)
            .map(|_| first.bind_another(&config.socket))
            .collect::<Result<_, _>>()?;
        sockets.push(Arc::new(first));
        sockets.extend(others.into_iter().map(Arc::new));
    }
    Ok(sockets)
}

/// The sources of each socket's metrics.
pub(super) fn worker_metrics(
    config: &Config,
    sockets: &[Arc<Socket>],
    counts: &[Arc<Counts>],
) -> Vec<WorkerMetrics> {
    let requested = [config.socket.receive_buffer, config.socket.send_buffer];
    sockets
        .iter()
        .zip(counts)
        .enumerate()
        .map(|(index, (socket, counts))| {
            let reads = Arc::clone(socket);
            let address = socket.address();
            let earlier = sockets[..index].iter();
            let worker = earlier.filter(|other| other.address() == address).count();
            WorkerMetrics {
                listen: udp::named(address, &**socket),
                worker: worker.to_string(),
                counts: Arc::clone(counts),
                requested: requested.map(BufferSize::given),
                read_socket: Box::new(move || {
                    let (receive_queue, drops) = reads.queue_and_drops()?;
                    Ok(SocketReading {
                        buffers: reads.buffer_sizes()?,
                        receive_queue,
                        drops,
                    })
                }),
            }
        })
        .collect()
}

/// The system's limits on receive and send buffers, in bytes.
pub(super) fn read_limits() -> [Option<usize>; 2] {
    static LIMITS: OnceLock<Option<BufferLimits>> = OnceLock::new();
    let limits = LIMITS.get_or_init(|| BufferLimits::new().ok()).as_ref();
    BufferLimits::BOTH.map(|read| limits.and_then(|limits| read(limits).ok()))
}

/// Logs the addresses and settings in use, and warns of buffers smaller than requested.
pub(super) fn log_start(config: &Config, sockets: &[Arc<Socket>], http: Option<&str>) {
    // One line for all workers of an address, unless their sockets differ.
    let mut lines: Vec<(String, String, usize)> = Vec::new();
    for socket in sockets {
        let (listen, state) = (
            udp::named(socket.address(), &**socket),
            state(config, socket),
        );
        let known = |(other, its_state, _): &&mut _| *other == listen && *its_state == state;
        match lines.iter_mut().find(known) {
            Some((.., workers)) => *workers += 1,
            None => lines.push((listen, state, 1)),
        }
    }
    for (listen, state, workers) in lines {
        let workers = match workers {
            1 => String::new(),
            _ => format!(" {workers} workers,"),
        };
        info!("listening on {listen} (UDP),{workers} {state}");
    }
    warn_of_small_buffers(config, sockets);
    if let Some(address) = http {
        info!("metrics on {}", metrics_url(address));
    }
    let timeout = match config.timeout {
        Some(timeout) => humantime::format_duration(timeout.get()).to_string(),
        None => "none".into(),
    };
    info!("serving in {} mode, timeout {timeout}", config.mode.name());
    match config.mode {
        Mode::Stamp => log_clock(config.stamp_clock),
        mode => warn_of_ignored_options(mode, &config.given),
    }
}

/// Logs what the replies of STAMP say about the clock.
fn log_clock(clock: StampClock) {
    match clock.try_read() {
        Ok(error) => {
            let not = if error.is_synchronized() { "" } else { "not " };
            let milliseconds = error.seconds() * 1000.0;
            info!(
                "STAMP replies report: clock {not}synchronized, error at most {milliseconds:.3} ms"
            );
        }
        Err(cause) => warn!(
            "cannot read the kernel's state of the clock: {cause}; STAMP replies report that it is \
             not synchronized; under systemd, use the drop-in stamp.conf or set --stamp-clock"
        ),
    }
}

/// Warns of options that only STAMP mode uses.
fn warn_of_ignored_options(mode: Mode, given: &Given) {
    let stamp = given
        .0
        .iter()
        .filter(|(field, _)| field.starts_with("stamp_"));
    let names: Vec<_> = stamp.map(|(_, name)| name.as_str()).collect();
    if !names.is_empty() {
        let (names, mode) = (names.join(", "), given.with("mode", mode.name()));
        warn!("ignoring {names}: they are for STAMP, and udp-echo runs with {mode}");
    }
}

fn metrics_url(address: &str) -> String {
    // A URL writes the % before an interface as %25 (RFC 6874).
    format!("http://{}/metrics", address.replace('%', "%25"))
}

/// The buffers and the offload of a socket, for the log.
fn state(config: &Config, socket: &Socket) -> String {
    let [receive, send] = match granted(socket) {
        Some([receive, send]) => [
            shown(config.socket.receive_buffer, receive),
            shown(config.socket.send_buffer, send),
        ],
        None => ["unknown".into(), "unknown".into()],
    };
    let offload = match (socket.receives_batches(), socket.sends_batches()) {
        (true, true) => "GRO and GSO",
        (true, false) => "GRO",
        (false, true) => "GSO",
        (false, false) => "no offload",
    };
    format!("receive buffer {receive}, send buffer {send}, {offload}")
}

/// The receive and the send buffer in bytes, without the kernel's doubling for its own overhead.
fn granted(socket: &Socket) -> Option<[usize; 2]> {
    let sizes = socket.buffer_sizes().ok()?;
    Some(sizes.map(|doubled| doubled / 2))
}

/// The granted size of a buffer and the requested one, for the log.
fn shown(requested: BufferSize, granted: usize) -> String {
    let granted_size = size(granted as u64);
    match requested {
        BufferSize::Default => granted_size,
        BufferSize::Auto if granted >= BufferSize::AUTO => format!("{granted_size} (auto)"),
        BufferSize::Auto => {
            let requested = size(BufferSize::AUTO as u64);
            format!("{granted_size} (auto, requested {requested})")
        }
        BufferSize::Bytes(requested) => {
            format!("{granted_size} (requested {})", size(requested as u64))
        }
    }
}

/// Warns of the first receive buffer and the first send buffer that are smaller than requested. All
/// sockets have the same limits.
fn warn_of_small_buffers(config: &Config, sockets: &[Arc<Socket>]) {
    let requested = [config.socket.receive_buffer, config.socket.send_buffer];
    let names = [
        ("receive", "rmem_max", "ReceiveBuffer"),
        ("send", "wmem_max", "SendBuffer"),
    ];
    let buffers = names.into_iter().zip(read_limits()).enumerate();
    for (buffer, ((name, sysctl, unit), limit)) in buffers {
        let Some(requested) = requested[buffer].given() else {
            continue;
        };
        let mut granted = sockets.iter().filter_map(|socket| granted(socket));
        if let Some(granted) = granted.find(|granted| granted[buffer] < requested) {
            let limit = limit.map_or("too low".into(), |limit| limit.to_string());
            warn!(
                "using a {name} buffer of {} instead of {}: net.core.{sysctl} is {limit}; \
                 set it to {requested}, grant CAP_NET_ADMIN, or set {unit}= in udp-echo.socket",
                size(granted[buffer] as u64),
                size(requested as u64),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_url_has_the_interface_as_in_rfc_6874() {
        let url = metrics_url("[fe80::1%eth0]:9862");
        assert_eq!(url, "http://[fe80::1%25eth0]:9862/metrics");
    }

    #[test]
    fn buffers_are_shown_as_granted_and_requested() {
        for (requested, granted, text) in [
            (BufferSize::Default, 106_496, "104 KiB"),
            (BufferSize::Auto, 212_992, "208 KiB (auto, requested 4 MiB)"),
            (BufferSize::Auto, 8 << 20, "8 MiB (auto)"),
            (
                BufferSize::Bytes(8 << 20),
                212_992,
                "208 KiB (requested 8 MiB)",
            ),
        ] {
            assert_eq!(shown(requested, granted), text);
        }
    }
}
