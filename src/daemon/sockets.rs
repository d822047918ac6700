//! The daemon's sockets: handed over by the service manager, or bound.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};

use tracing::{info, warn};

use super::{Config, DaemonError};
use crate::http;
use crate::metrics::{Counts, SocketReading, WorkerMetrics};
use crate::reflect::Mode;
use crate::systemd::{self, Role};
use crate::udp::{self, BufferLimits, Socket};

/// The sockets that the service manager handed over.
#[derive(Debug)]
pub struct Inherited(Vec<(RawFd, Role, OwnedFd)>);

impl Inherited {
    /// Takes them. To be called before anything else opens a descriptor.
    ///
    /// # Errors
    /// When they are not there, or a name means nothing here.
    pub fn take() -> Result<Self, DaemonError> {
        let take = |(descriptor, role)| match udp::inherited(descriptor) {
            Ok(socket) => Ok((descriptor, role, socket)),
            Err(error) => Err(DaemonError::HandedOver {
                descriptor,
                role,
                problem: error.into(),
            }),
        };
        let sockets = systemd::handed_over()?;
        Ok(Self(
            sockets.into_iter().map(take).collect::<Result<_, _>>()?,
        ))
    }
}

/// What the daemon serves.
pub(super) struct Sockets {
    pub(super) echo: Vec<Arc<Socket>>,
    /// Whether datagrams may have waited in them before this process started.
    pub(super) are_inherited: bool,
    pub(super) http: Option<(TcpListener, SocketAddr)>,
}

impl Sockets {
    /// Takes what the service manager hands over, and binds what it does not.
    pub(super) fn open(
        config: &Config,
        Inherited(inherited): Inherited,
    ) -> Result<Self, DaemonError> {
        let (mut echo, mut http) = (Vec::new(), None);
        for (descriptor, role, socket) in inherited {
            let failed = |problem| DaemonError::HandedOver {
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
                Role::Metrics => return Err(failed("is one too many".into())),
            }
        }
        if config.mode == Mode::Lockstep && echo.len() > 1 {
            return Err(DaemonError::LockstepSockets(echo.len()));
        }
        let ignored = |option: &str| {
            if config.given.contains(&option) {
                let option = option.replace('_', "-");
                warn!("--{option} counts for nothing: the service manager handed over sockets");
            }
        };
        let are_inherited = !echo.is_empty();
        if echo.is_empty() {
            if http.is_some() {
                warn!("the service manager handed over no socket named echo: binding --listen");
            }
            echo = bind(config)?;
        } else {
            ignored("listen");
            ignored("workers");
        }
        if http.is_some() {
            ignored("metrics_listen");
        } else if let Some(address) = &config.metrics_listen {
            http = Some(http::bind(address.resolve()?)?);
        }
        Ok(Self {
            echo,
            are_inherited,
            http,
        })
    }
}

/// Binds a socket for each address and worker.
fn bind(config: &Config) -> Result<Vec<Arc<Socket>>, DaemonError> {
    let mut sockets: Vec<Arc<Socket>> = Vec::new();
    for name in &config.listen {
        let address = name.resolve()?;
        // With SO_REUSEADDR the kernel would give it again, and the first would get nothing more.
        if sockets.iter().any(|other| other.address() == address) {
            let name = name.clone();
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

/// The sockets as the metrics see them.
pub(super) fn worker_metrics(
    config: &Config,
    sockets: &[Arc<Socket>],
    counts: &[Arc<Counts>],
) -> Vec<WorkerMetrics> {
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
                requested: [config.socket.receive_buffer, config.socket.send_buffer],
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

/// The system's limits on buffers, receive and send.
pub(super) fn read_limits() -> [Option<usize>; 2] {
    static LIMITS: OnceLock<Option<BufferLimits>> = OnceLock::new();
    let limits = LIMITS.get_or_init(|| BufferLimits::new().ok()).as_ref();
    [
        limits.and_then(|limits| limits.receive().ok()),
        limits.and_then(|limits| limits.send().ok()),
    ]
}

/// Says what is served and with what, and warns of what did not go as asked.
pub(super) fn log_start(config: &Config, sockets: &[Arc<Socket>], http: Option<&str>) {
    let limits = read_limits();
    let requested = [config.socket.receive_buffer, config.socket.send_buffer];
    let names = [("receive", "rmem_max"), ("send", "wmem_max")];
    for (index, socket) in sockets.iter().enumerate() {
        let Ok(sizes) = socket.buffer_sizes() else {
            continue;
        };
        info!(
            "listening on {} (UDP), receive buffer {}, send buffer {} bytes, {}",
            udp::named(socket.address(), &**socket),
            sizes[0],
            sizes[1],
            match (socket.receives_batches(), socket.sends_batches()) {
                (true, true) => "GRO and GSO",
                (true, false) => "GRO",
                (false, true) => "GSO",
                (false, false) => "no offload",
            }
        );
        // The same for every socket: once is enough.
        if index > 0 {
            continue;
        }
        for (((size, requested), limit), (name, sysctl)) in
            sizes.into_iter().zip(requested).zip(limits).zip(names)
        {
            if let Some(requested) = requested.filter(|requested| size / 2 < *requested) {
                let limit = limit.map_or("unknown".into(), |limit| limit.to_string());
                warn!(
                    "asked for a {name} buffer of {requested} bytes, got {}: raise the sysctl \
                     net.core.{sysctl} (now {limit}) or give the daemon CAP_NET_ADMIN",
                    size / 2
                );
            }
        }
    }
    if let Some(address) = http {
        // In a URL, %25 stands before the interface (RFC 6874).
        info!("metrics on http://{}/metrics", address.replace('%', "%25"));
    }
    let timeout = match config.timeout {
        Some(timeout) => humantime::format_duration(timeout.get()).to_string(),
        None => "none".into(),
    };
    info!("serving in {} mode, timeout {timeout}", config.mode.name());
}
