//! Starts the monitor, handles signals and the watchdog, and stops it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::board::Board;
use super::config::{MonitorConfig, TargetSettings};
use super::endpoint;
use super::engine::{Engine, EngineState};
use super::status::MonitorStatus;
use super::targets::Targets;
use crate::address::ResolveError;
use crate::http::{self, Site};
use crate::runtime;
use crate::service::{BEAT, Signals, clocks, heartbeat, interval, now, stop_signal, tick};
use crate::systemd::{self, Manager};
use crate::telemetry::Log;
use crate::throttle::Throttle;
use crate::udp;

/// The reason why the monitor cannot run.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A step of the start failed.
    #[error("cannot {action}: {cause}")]
    Start {
        /// What could not be done.
        action: &'static str,
        /// The error.
        #[source]
        cause: io::Error,
    },
    /// The name of the HTTP address cannot be resolved.
    #[error("{setting}: {cause}")]
    Resolve {
        /// The option or variable.
        setting: String,
        /// The error.
        #[source]
        cause: ResolveError,
    },
    /// The HTTP address cannot be listened on.
    #[error(transparent)]
    Http(#[from] http::BindError),
    /// A metric has no valid name.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The probing thread ended.
    #[error("cannot go on: the probing thread ended{0}")]
    EngineLost(String),
    /// The HTTP server ended.
    #[error("cannot go on: the HTTP server ended")]
    HttpLost,
}

/// The longest wait for the probing thread, HTTP and the log at the end.
const END: Duration = Duration::from_millis(800);
/// How often names and addresses are looked after.
const LOOK: Duration = Duration::from_millis(500);

/// Runs the monitor until SIGTERM or SIGINT. On SIGHUP, `reload` reads the targets again. Its error
/// is one line of text.
///
/// # Errors
/// If the monitor cannot start or cannot continue.
pub fn run(
    config: &MonitorConfig,
    targets: Vec<TargetSettings>,
    reload: &dyn Fn() -> Result<Vec<TargetSettings>, String>,
    log: &Log,
) -> Result<(), MonitorError> {
    // Each flow needs a socket. A limit that is still too low shows when they are opened.
    let _ = udp::raise_open_file_limit();
    let runtime = runtime::new().map_err(cannot("start the runtime"))?;
    let ended = runtime.block_on(serve(config, targets, reload, log));
    // Threads that resolve names may take long.
    runtime.shutdown_background();
    ended
}

async fn serve(
    config: &MonitorConfig,
    first_targets: Vec<TargetSettings>,
    reload: &dyn Fn() -> Result<Vec<TargetSettings>, String>,
    log: &Log,
) -> Result<(), MonitorError> {
    let started = clocks();
    let mut signals = Signals::new().map_err(cannot("install the signal handlers"))?;
    let http = match &config.metrics_listen {
        None => None,
        Some(address) => {
            let setting = config.given.name_of("metrics_listen");
            let resolved = address.resolve();
            let resolved = resolved.map_err(|cause| MonitorError::Resolve {
                setting: setting.clone(),
                cause,
            })?;
            Some(http::bind(resolved, &setting)?)
        }
    };
    let metrics_listen = http.as_ref().map(|(_, address)| udp::named_here(*address));
    let state = Arc::new(EngineState::default());
    let (commands, obeyed) = std_mpsc::channel();
    let board = Arc::new(Board::default());
    let (answers, mut answered) = mpsc::unbounded_channel();
    let mut targets = Targets::new(Arc::clone(&board), commands, answers, now());
    let status = Arc::new(MonitorStatus::new(
        config.options.clone(),
        metrics_listen,
        board,
        Arc::clone(&state),
        log.dropped_lines(),
        started,
    )?);
    targets.replace(first_targets, now());
    status.show(&targets);
    let (ended, mut ending) = oneshot::channel();
    let thread = thread::Builder::new().name("prober".into());
    let shared = Arc::clone(&state);
    let prober = thread
        .spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| Engine::new(obeyed, shared)?.run()));
            // The receiver is gone if the monitor no longer waits.
            let _ = ended.send(outcome);
        })
        .map_err(cannot("start the probing thread"))?;
    let (stop_http, stopping) = watch::channel(false);
    let mut serving = JoinSet::new();
    if let Some((listener, _)) = http {
        let listener = tokio::net::TcpListener::from_std(listener);
        let listener = listener.map_err(cannot("serve HTTP"))?;
        let mut routes = http::site(Arc::clone(&status) as Arc<dyn Site>);
        if let Some(probe) = &config.probe {
            routes = routes.merge(endpoint::router(probe.clone()));
        }
        let longest = endpoint::CONNECTION_TIMEOUT;
        serving.spawn(http::serve(listener, routes, longest, stopping));
    }
    info!("{}", status.line());

    let mut manager = Manager::default();
    let mut alive = systemd::watchdog().map(|allowed| interval(heartbeat(allowed)));
    let mut beat = interval(BEAT);
    let mut look = interval(LOOK);
    let mut starting = interval(Duration::from_millis(1));
    let suppressed = Throttle::default();
    let outcome = loop {
        tokio::select! {
            name = stop_signal(&mut signals.terminate, &mut signals.interrupt) => {
                info!("stopping: received {name}");
                break Ok(());
            }
            _ = signals.hang_up.recv() => match reload() {
                Ok(changed) => {
                    targets.replace(changed, now());
                    status.reloaded(true);
                    status.show(&targets);
                    info!("reloaded: {}", status.line());
                }
                Err(error) => {
                    status.reloaded(false);
                    error!("cannot reload: {error}; keeping the targets as they were");
                }
            },
            Some(answer) = answered.recv() => {
                targets.answered(answer, now());
                status.show(&targets);
            }
            ended = &mut ending => break Err(MonitorError::EngineLost(match ended {
                Ok(Ok(Err(error))) => format!(": cannot wait for replies: {error}"),
                _ => String::new(),
            })),
            Some(_) = serving.join_next() => break Err(MonitorError::HttpLost),
            _ = look.tick() => targets.tick(now()),
            _ = starting.tick(), if !status.ready() => {
                if state.turns.load(Relaxed) > 0 {
                    status.set_ready(true);
                    manager.ready(status.line());
                }
            }
            () = tick(&mut alive), if status.ready() => match status.healthy() {
                Ok(()) => manager.alive(),
                Err(problem) => {
                    if let Some(more) = suppressed.pass(status.uptime()) {
                        error!(
                            "{problem}; watchdog heartbeat suppressed, so that systemd restarts \
                             the monitor{more}"
                        );
                    }
                }
            },
            _ = beat.tick() => {
                status.beat();
                if status.ready() {
                    manager.status(status.line());
                }
            }
        }
    };

    let asked = now();
    status.set_ready(false);
    manager.stopping();
    state.stop.store(true, Relaxed);
    let _ = stop_http.send(true);
    let rest = END.saturating_sub(now() - asked);
    let stopped = async {
        while !prober.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (all, _) = tokio::join!(tokio::time::timeout(rest, stopped), serving.join_all());
    if all.is_err() {
        warn!("the probing thread did not stop in time; exiting without it");
    }
    info!("stopped: {}", status.line());
    log.end_within(END.saturating_sub(now() - asked));
    outcome
}

/// The error of a step of the start.
fn cannot(action: &'static str) -> impl FnOnce(io::Error) -> MonitorError {
    move |cause| MonitorError::Start { action, cause }
}
