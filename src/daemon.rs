//! The daemon: sockets, workers and HTTP put together, from the start to the end.

mod awake;
mod clock;
mod page;
mod signals;
mod site;
mod sockets;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{self, MissedTickBehavior};
use tracing::{error, info, warn};

use crate::address::{HostPort, ResolveError};
use crate::cli::Args;
use crate::exchange::{Admission, End, Exchange, LEAK, Limits, NoMemory, Settings};
use crate::http::{self, Site};
use crate::metrics::{Clocks, Counts, Metrics, Sources};
use crate::runtime;
use crate::systemd::{self, HandedOverError, Manager, Role};
use crate::telemetry::Log;
use crate::throttle::Throttle;
use crate::udp::{self, Socket};
use crate::worker::{self, Shared, Stopped, Warnings, Worker};

use awake::Awake;
use clock::{clocks, now, today};
use page::History;
use signals::{Signals, stop_signal};
use site::{Daemon, mode_name};
pub use sockets::Inherited;
use sockets::{Sockets, read_limits, worker_metrics};

/// How long the workers may take to stop.
const STOP: Duration = Duration::from_millis(600);
/// How long it waits in all when it is to end, for the last lines of the log too: that it ends
/// within a second is promised, and not all of it is waiting.
const END: Duration = Duration::from_millis(800);
/// How often the service manager gets a new status at most.
const STATUS: Duration = Duration::from_secs(3);

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says it in its message")]
pub enum Error {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Socket(#[from] udp::Error),
    #[error(transparent)]
    Http(#[from] http::BindError),
    #[error("cannot make the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("cannot start {what}: {cause}")]
    Start {
        what: &'static str,
        cause: io::Error,
    },
    #[error("cannot start a worker: {0}; --max-peers asks for fewer")]
    Peers(#[from] NoMemory),
    #[error(
        "cannot listen on UDP {} twice: --listen {name} is the same as one before",
        udp::named_here(*.address)
    )]
    ListenTwice { name: HostPort, address: SocketAddr },
    #[error(transparent)]
    HandedOverNames(#[from] HandedOverError),
    #[error("socket {descriptor}, handed over {role}, {problem}")]
    HandedOver {
        descriptor: RawFd,
        role: Role,
        problem: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("--mode lockstep has one socket, and {0} UDP sockets were handed over")]
    LockstepSockets(usize),
    #[error("stopped on a decode error, as --exit-on asks")]
    DecodeError,
    #[error("cannot receive on {listen} any more: {cause}")]
    SocketLost { listen: String, cause: io::Error },
    #[error("a worker has stopped")]
    WorkerLost,
    #[error("HTTP is no longer served")]
    HttpLost,
}

impl Error {
    /// Whether the command line is at fault.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::LockstepSockets(_))
    }
}

/// Runs the daemon until it is asked to stop or comes to an end.
///
/// # Errors
/// When it cannot start or cannot go on.
pub fn run(args: &Args, inherited: Inherited, log: &Log) -> Result<(), Error> {
    let started = clocks();
    let sockets = Sockets::open(args, inherited)?;
    let runtime = runtime::new().map_err(|cause| Error::Start {
        what: "the runtime",
        cause,
    })?;
    runtime.block_on(serve(args, started, sockets, log))
}

async fn serve(args: &Args, started: Clocks, sockets: Sockets, log: &Log) -> Result<(), Error> {
    let options = worker_options(args, started, &sockets);
    let (http, sockets) = (sockets.http, sockets.echo);
    let starting = |what| move |cause| Error::Start { what, cause };
    let mut signals = Signals::new().map_err(starting("the signal handlers"))?;
    let counts: Box<[Arc<Counts>]> = sockets.iter().map(|_| Arc::default()).collect();
    let metrics = Metrics::new(Sources {
        workers: worker_metrics(args, &sockets, &counts),
        timestamps: args.timestamps,
        dropped_log_lines: log.dropped_lines(),
        read_limits,
        started,
        clocks,
        last: Mutex::new(None),
    })?;
    let epoch = started.monotonic;
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        epoch,
        counts,
        warned_of_decode_errors: AtomicBool::new(false),
        warnings: Warnings::default(),
    });
    let site = Arc::new(Daemon {
        mode: args.mode,
        listen: sockets
            .iter()
            .map(|socket| udp::named(socket.address(), &**socket))
            .collect(),
        metrics_listen: http
            .as_ref()
            .map(|(socket, address)| udp::named(*address, socket)),
        metrics,
        shared: Arc::clone(&shared),
        ready: AtomicBool::new(false),
        awake: Awake::new(now()),
        history: History::default(),
    });
    let settings = settings(args, &sockets, epoch);
    // All that may be too much, before any of them answers.
    let exchanges: Vec<_> = sockets
        .iter()
        .map(|_| Exchange::new(settings.clone(), now()))
        .collect::<Result<_, _>>()?;
    log_start(args, &sockets, &site);

    let (ended, mut endings) = mpsc::unbounded_channel();
    for (index, exchange) in exchanges.into_iter().enumerate() {
        spawn(options, exchange, index, &sockets, &shared, ended.clone())
            .map_err(starting("a worker thread"))?;
    }
    drop(ended);
    let (stop_http, stopping) = watch::channel(false);
    let mut serving = JoinSet::new();
    if let Some((listener, _)) = http {
        let listener = tokio::net::TcpListener::from_std(listener);
        let listener = listener.map_err(starting("HTTP"))?;
        let site: Arc<dyn Site> = Arc::clone(&site) as _;
        serving.spawn(http::serve(listener, site, stopping));
    }

    let mut manager = Manager::default();
    let outcome = tokio::select! {
        outcome = supervise(&site, &mut signals, &mut endings, &mut manager) => outcome,
        Some(_) = serving.join_next() => Err(Error::HttpLost),
    };

    let asked = now();
    site.ready.store(false, Relaxed);
    manager.stopping();
    shared.stop.store(true, Relaxed);
    let _ = stop_http.send(true);
    let workers = time::timeout(STOP, async { while endings.recv().await.is_some() {} });
    let (workers, _) = tokio::join!(workers, serving.join_all());
    if workers.is_err() {
        warn!("a worker does not stop: leaving it behind");
    }
    info!("stopped: {}", site.summary());
    log.end_within(END.saturating_sub(now() - asked));
    outcome
}

/// Watches over the daemon until there is a reason to stop.
async fn supervise(
    site: &Daemon,
    signals: &mut Signals,
    endings: &mut mpsc::UnboundedReceiver<(usize, Stopped)>,
    manager: &mut Manager,
) -> Result<(), Error> {
    let mut status = interval(STATUS);
    // Less than half of what the manager allows, so that one may come late.
    let alive = systemd::watchdog().map(|allowed| allowed * 2 / 5);
    let mut alive = alive.map(|period| interval(period.max(Duration::from_millis(1))));
    let mut look = interval(awake::LOOK);
    let mut sample = interval(page::PERIOD);
    let mut starting = interval(Duration::from_millis(1));
    let sick = Throttle::default();
    let Signals {
        terminate,
        interrupt,
        hang_up,
    } = signals;
    loop {
        tokio::select! {
            name = stop_signal(terminate, interrupt) => {
                info!("stopping on {name}");
                return Ok(());
            }
            _ = hang_up.recv() => {
                info!("SIGHUP does nothing here: restart to change options");
            }
            ended = endings.recv() => return ending(site, ended),
            _ = starting.tick(), if !site.ready() => {
                if site.all_started() {
                    site.ready.store(true, Relaxed);
                    manager.ready(site.status());
                }
            }
            () = tick(&mut alive), if site.ready() => match site.healthy() {
                Ok(()) => manager.alive(),
                Err(problem) => {
                    let now = now().saturating_duration_since(site.shared.epoch);
                    if let Some(more) = sick.pass(now) {
                        error!("{problem}: the watchdog gets no sign of life{more}");
                    }
                }
            },
            _ = look.tick() => site.is_awake(),
            _ = sample.tick() => site.sample(),
            _ = status.tick(), if site.ready() => manager.status(site.status()),
        }
    }
}

/// What it means that a worker stopped by itself.
fn ending(site: &Daemon, ended: Option<(usize, Stopped)>) -> Result<(), Error> {
    match ended {
        Some((_, Stopped::End(End::Timeout))) => {
            info!("stopping: quiet for the whole timeout, as --exit-on asks");
            Ok(())
        }
        Some((_, Stopped::End(End::Empty))) => {
            info!("stopping: an empty datagram came, as --exit-on asks");
            Ok(())
        }
        Some((_, Stopped::End(End::DecodeError))) => Err(Error::DecodeError),
        Some((index, Stopped::SocketLost(cause))) => Err(Error::SocketLost {
            listen: site.listen.get(index).cloned().unwrap_or_default(),
            cause,
        }),
        Some((_, Stopped::Panicked | Stopped::Asked)) | None => Err(Error::WorkerLost),
    }
}

/// What all workers go by.
fn settings(args: &Args, sockets: &[Arc<Socket>], epoch: Instant) -> Settings {
    let own = sockets.iter().map(|socket| socket.address());
    let limits = [args.rate_limit, args.rate_limit_total];
    let is_limited = limits.iter().any(Option::is_some);
    let limits = is_limited.then(|| Limits::new(epoch, LEAK, limits[0], limits[1]));
    Settings {
        mode: args.mode,
        timeout: args.timeout.0,
        max_datagram: args.max_datagram.into(),
        max_peers: NonZeroU32::new(args.max_peers).unwrap_or(NonZeroU32::MIN),
        exit_on: args.exit_on(),
        admission: Admission::new(args.min_source_port, own),
        limits: limits.map(Arc::new),
    }
}

fn worker_options(args: &Args, started: Clocks, sockets: &Sockets) -> worker::Options {
    let Clocks {
        monotonic,
        since_boot,
        ..
    } = started;
    worker::Options {
        busy_poll: args.busy_poll,
        timestamps: args.timestamps,
        waiting_since: if sockets.are_inherited {
            monotonic.checked_sub(since_boot).unwrap_or(monotonic)
        } else {
            monotonic
        },
        today,
    }
}

/// Starts the thread of a worker, which says when it ends.
fn spawn(
    options: worker::Options,
    exchange: Exchange,
    index: usize,
    sockets: &[Arc<Socket>],
    shared: &Arc<Shared>,
    ended: mpsc::UnboundedSender<(usize, Stopped)>,
) -> io::Result<()> {
    let socket = Arc::clone(&sockets[index]);
    let shared = Arc::clone(shared);
    let counts = Arc::clone(&shared.counts[index]);
    thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let run = || Worker::new(socket, exchange, options, counts, shared).run();
            let stopped = catch_unwind(AssertUnwindSafe(run)).unwrap_or(Stopped::Panicked);
            // Nobody listens any more when the daemon did not wait for the end.
            let _ = ended.send((index, stopped));
        })?;
    Ok(())
}

/// Says what is served and with what, and warns of what did not go as asked.
fn log_start(args: &Args, sockets: &[Arc<Socket>], site: &Daemon) {
    let limits = read_limits();
    let requested = [args.recv_buffer, args.send_buffer];
    let names = [("receive", "rmem_max"), ("send", "wmem_max")];
    for (index, socket) in sockets.iter().enumerate() {
        let Ok(sizes) = socket.buffer_sizes() else {
            continue;
        };
        info!(
            "listening on {} (UDP), receive buffer {}, send buffer {} bytes, {}",
            site.listen[index],
            sizes[0],
            sizes[1],
            match (socket.gets_bursts(), socket.sends_bursts()) {
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
    if let Some(address) = &site.metrics_listen {
        // In a URL, %25 stands before the interface (RFC 6874).
        info!("metrics on http://{}/metrics", address.replace('%', "%25"));
    }
    let timeout = match args.timeout.0 {
        Some(timeout) => humantime::format_duration(timeout.get()).to_string(),
        None => "none".into(),
    };
    info!(
        "serving in {} mode, timeout {timeout}",
        mode_name(args.mode)
    );
}

/// An interval that does not catch up on what it missed.
fn interval(period: Duration) -> time::Interval {
    let mut interval = time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Waits for the next tick, or for ever if there is none.
async fn tick(interval: &mut Option<time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}
