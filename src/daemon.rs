//! The daemon: opens the sockets, runs the workers and HTTP, and stops them.

mod config;
mod error;
mod sockets;
mod status;
mod supervise;
mod warnings;

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::http;
use crate::kernel_echo::{Expected, KernelEcho};
use crate::metrics::{Clocks, Counts, KernelMetrics, Metrics, MetricsSources};
use crate::reflect::{Mode, Reflector};
use crate::runtime;
use crate::service::{Signals, clocks, now, today};
use crate::systemd::Manager;
use crate::telemetry::Log;
use crate::udp;
use crate::worker::{self, Shared, Stopped, Worker};

pub use config::{Config, Given, KernelPath};
pub use error::DaemonError;
pub use sockets::Inherited;
use sockets::{Sockets, log_start, read_limits, worker_metrics};
use status::Status;
use supervise::{Ending, STOP, stop_workers, supervise};
use warnings::DiscardWarnings;

/// The longest wait for workers, HTTP and log at the end. The rest of the promised second is for
/// the work itself.
const END: Duration = Duration::from_millis(800);
// A stop takes less than a second.
const _: () = assert!(STOP.as_millis() < END.as_millis() && END.as_millis() < 1000);

/// Runs the daemon until SIGTERM, SIGINT or an event of `--exit-on`.
///
/// # Errors
/// If the daemon cannot start or cannot continue.
pub fn run(config: &Config, inherited: Inherited, log: &Log) -> Result<(), DaemonError> {
    let started = clocks();
    let sockets = Sockets::open(config, inherited)?;
    udp::prepare_wake().map_err(cannot("install the signal handlers"))?;
    let runtime = runtime::new().map_err(cannot("start the runtime"))?;
    runtime.block_on(serve(config, started, sockets, log))
}

async fn serve(
    config: &Config,
    started: Clocks,
    sockets: Sockets,
    log: &Log,
) -> Result<(), DaemonError> {
    let options = worker_options(config, started, &sockets);
    let kernel = kernel_path(config, &sockets.echo)?;
    let in_force = config.in_force(&sockets.replaced);
    let (http, sockets) = (sockets.http, sockets.echo);
    // Opens the socket that each scrape reads the limits from, before descriptors can run out.
    read_limits();
    let mut signals = Signals::new().map_err(cannot("install the signal handlers"))?;
    let counts: Box<[Arc<Counts>]> = sockets.iter().map(|_| Arc::default()).collect();
    let metrics = Metrics::new(MetricsSources {
        workers: worker_metrics(config, &sockets, &counts),
        kernel: match &kernel {
            Some(programs) => Some(kernel_metrics(programs, &sockets)),
            None => (config.kernel_echo != KernelPath::Off).then(KernelMetrics::unused),
        },
        timestamps: config.socket.timestamps,
        stamp_clock: (config.mode == Mode::Stamp).then_some(config.stamp_clock),
        config_info: config.info(),
        dropped_log_lines: log.dropped_lines(),
        read_limits,
        started,
        clocks,
        last: Mutex::new(None),
    })?;
    let epoch = started.monotonic;
    let shared = Arc::new(Shared::new(epoch, counts));
    let metrics_listen = http.as_ref();
    let metrics_listen = metrics_listen.map(|(socket, address)| udp::named(*address, socket));
    let status = Status::new(
        config.mode,
        in_force,
        &sockets,
        metrics_listen,
        metrics,
        &shared,
    );
    let status = Arc::new(status);
    let settings = config.settings(sockets.iter().map(|socket| socket.address()), epoch);
    // Allocates every table of peers before the first reply.
    let reflectors: Vec<_> = sockets
        .iter()
        .map(|_| Reflector::new(settings.clone(), now()))
        .collect::<Result<_, _>>()
        .map_err(|cause| DaemonError::Peers {
            cause,
            setting: config.given.name_of("max_peers"),
        })?;
    log_start(config, &sockets, status.metrics_listen.as_deref());

    let (ended, mut endings) = mpsc::unbounded_channel();
    let workers = reflectors
        .into_iter()
        .enumerate()
        .map(|(index, reflector)| {
            let socket = Arc::clone(&sockets[index]);
            let settings = settings.clone();
            let shared = Arc::clone(&shared);
            spawn(index, ended.clone(), move || {
                let port = worker::port(socket, &settings);
                Worker::new(port, reflector, options, index, shared).run()
            })
        });
    let workers: Vec<_> = workers
        .collect::<io::Result<_>>()
        .map_err(cannot("start a worker thread"))?;
    drop(ended);
    let (stop_http, stopping) = watch::channel(false);
    let mut serving = JoinSet::new();
    if let Some((listener, _)) = http {
        let listener = tokio::net::TcpListener::from_std(listener);
        let listener = listener.map_err(cannot("serve HTTP"))?;
        let routes = http::site(Arc::clone(&status) as _);
        serving.spawn(http::serve(listener, routes, stopping));
    }

    let mut manager = Manager::default();
    let mut warnings = DiscardWarnings::default();
    let outcome = tokio::select! {
        outcome = supervise(
            &status, &config.given, kernel.as_deref(), &mut signals, &mut endings, &mut manager,
            &mut warnings,
        ) => outcome,
        Some(_) = serving.join_next() => Err(DaemonError::HttpLost),
    };

    let asked = now();
    // From now on, every datagram goes to the sockets, which a successor may have, too.
    if let Some(programs) = &kernel {
        programs.stop();
    }
    status.ready.store(false, Relaxed);
    manager.stopping();
    shared.stop.store(true, Relaxed);
    let _ = stop_http.send(true);
    let (all, _) = tokio::join!(stop_workers(&workers, &mut endings), serving.join_all());
    if !all {
        warn!("a worker did not stop in time; exiting without it");
    }
    warnings.log_rest(status.since_epoch(), &status.metrics.summary());
    info!("stopped: {}", status.summary());
    log.end_within(END.saturating_sub(now() - asked));
    outcome
}

/// Opens the programs of the kernel path, if they are to be used and can be.
fn kernel_path(
    config: &Config,
    sockets: &[Arc<udp::Socket>],
) -> Result<Option<Arc<KernelEcho>>, DaemonError> {
    if config.kernel_echo == KernelPath::Off {
        return Ok(None);
    }
    let expected = Expected {
        listen: sockets.iter().map(|socket| socket.address()).collect(),
        max_datagram: config.max_datagram.into(),
        min_source_port: config.min_source_port,
    };
    match KernelEcho::open(&config.pins, &expected) {
        Ok(programs) => {
            let interfaces = programs.active().into_iter().map(|(name, _)| name);
            let interfaces: Vec<_> = interfaces.collect();
            info!("kernel path on {}", interfaces.join(", "));
            Ok(Some(Arc::new(programs)))
        }
        Err(error) if config.kernel_echo == KernelPath::Require => Err(error.into()),
        Err(error) => {
            warn!("kernel path disabled: {error}");
            Ok(None)
        }
    }
}

/// The metrics of the programs.
fn kernel_metrics(programs: &Arc<KernelEcho>, sockets: &[Arc<udp::Socket>]) -> KernelMetrics {
    let [counts, active] = [(); 2].map(|()| Arc::clone(programs));
    KernelMetrics::new(
        Box::new(move || counts.counts()),
        Box::new(move || active.active()),
        |address| label(address, sockets),
    )
}

/// The `listen` label of an address of the kernel path.
fn label(address: SocketAddr, sockets: &[Arc<udp::Socket>]) -> String {
    let own = |socket: &&Arc<udp::Socket>| {
        let own = socket.address();
        SocketAddr::new(own.ip().to_canonical(), own.port()) == address
    };
    let socket = sockets.iter().find(own);
    socket.map_or_else(
        || address.to_string(),
        |socket| udp::named(socket.address(), &**socket),
    )
}

/// The error of a step of the start.
fn cannot(action: &'static str) -> impl FnOnce(io::Error) -> DaemonError {
    move |cause| DaemonError::Start { action, cause }
}

/// Starts the thread of a worker, which reports its end through `ended`.
fn spawn(
    index: usize,
    ended: mpsc::UnboundedSender<Ending>,
    run: impl FnOnce() -> Stopped + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let stopped = catch_unwind(AssertUnwindSafe(run)).unwrap_or(Stopped::Panicked);
            // The receiver is gone if the daemon no longer waits for this worker.
            let _ = ended.send((index, stopped));
        })
}

fn worker_options(config: &Config, started: Clocks, sockets: &Sockets) -> worker::WorkerOptions {
    let Clocks {
        monotonic,
        since_boot,
        ..
    } = started;
    worker::WorkerOptions {
        busy_poll: config.busy_poll,
        timestamps: config.socket.timestamps,
        waiting_since: if sockets.are_inherited {
            monotonic.checked_sub(since_boot).unwrap_or(monotonic)
        } else {
            monotonic
        },
        time_of_day: today,
        stamp_clock: config.stamp_clock,
    }
}
