//! Starts the monitor, handles signals and the watchdog, and stops it.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time;
use tracing::{error, info, warn};

use super::board::Board;
use super::config::{MonitorConfig, TargetSettings};
use super::endpoint;
use super::engine::{Command, Engine, EngineState};
use super::status::MonitorStatus;
use super::targets::{Answer, Targets};
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
        /// The step, beginning with a verb.
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

/// The longest wait for the probing thread, and for the log after that.
const STOP: Duration = Duration::from_millis(600);
const END: Duration = Duration::from_millis(800);
// A stop takes less than a second.
const _: () = assert!(STOP.as_millis() < END.as_millis() && END.as_millis() < 1000);
/// How often names and addresses are looked after.
const LOOK: Duration = Duration::from_millis(500);

/// Reads the targets again. The error is one line of text.
type Reload<'a> = &'a dyn Fn() -> Result<Vec<TargetSettings>, String>;

/// How the probing thread ended.
type Ended = thread::Result<io::Result<()>>;

/// A running monitor.
struct Monitor {
    status: Arc<MonitorStatus>,
    state: Arc<EngineState>,
    targets: Targets,
    answered: mpsc::UnboundedReceiver<Answer>,
    ending: oneshot::Receiver<Ended>,
    signals: Signals,
    manager: Manager,
}

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
    let runtime = runtime::new().map_err(cannot("start the runtime"))?;
    let ended = runtime.block_on(serve(config, targets, reload, log));
    // Threads that resolve names may take long.
    runtime.shutdown_background();
    ended
}

async fn serve(
    config: &MonitorConfig,
    first_targets: Vec<TargetSettings>,
    reload: Reload<'_>,
    log: &Log,
) -> Result<(), MonitorError> {
    let started = clocks();
    let signals = Signals::new().map_err(cannot("install the signal handlers"))?;
    let http = listen(config)?;
    let metrics_listen = http.as_ref().map(|(_, address)| udp::named_here(*address));
    let state = Arc::new(EngineState::default());
    let (commands, obeyed) = std_mpsc::channel();
    let board = Arc::new(Board::default());
    let (answers, answered) = mpsc::unbounded_channel();
    let status = Arc::new(MonitorStatus::new(
        config.options.clone(),
        metrics_listen,
        Arc::clone(&board),
        Arc::clone(&state),
        log.dropped_lines(),
        started,
    )?);
    let mut targets = Targets::new(board, commands, answers, now());
    targets.replace(first_targets, now());
    status.show(&targets);
    let (prober, ending) = spawn(obeyed, Arc::clone(&state))?;
    let (stop_http, stopping) = watch::channel(false);
    let mut serving = JoinSet::new();
    if let Some((listener, _)) = http {
        let listener = tokio::net::TcpListener::from_std(listener);
        let listener = listener.map_err(cannot("serve HTTP"))?;
        let mut routes = http::site(Arc::clone(&status) as Arc<dyn Site>);
        if let Some(probe) = &config.probe {
            routes = routes.merge(endpoint::router(probe.clone()));
        }
        serving.spawn(http::serve(listener, routes, stopping));
    }
    info!("{}", status.line());
    let mut monitor = Monitor {
        status,
        state,
        targets,
        answered,
        ending,
        signals,
        manager: Manager::default(),
    };
    let outcome = tokio::select! {
        outcome = monitor.supervise(reload) => outcome,
        Some(_) = serving.join_next() => Err(MonitorError::HttpLost),
    };

    let asked = now();
    monitor.stop();
    let _ = stop_http.send(true);
    let ended = async {
        while !prober.is_finished() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (all, _) = tokio::join!(time::timeout(STOP, ended), serving.join_all());
    if all.is_err() {
        warn!("the probing thread did not stop in time; exiting without it");
    }
    info!("stopped: {}", monitor.status.line());
    log.end_within(END.saturating_sub(now() - asked));
    outcome
}

/// Listens on the HTTP address, if there is one.
fn listen(
    config: &MonitorConfig,
) -> Result<Option<(std::net::TcpListener, SocketAddr)>, MonitorError> {
    let Some(address) = &config.metrics_listen else {
        return Ok(None);
    };
    let setting = config.given.name_of("metrics_listen");
    match address.resolve() {
        Ok(address) => Ok(Some(http::bind(address, &setting)?)),
        Err(cause) => Err(MonitorError::Resolve { setting, cause }),
    }
}

/// Starts the probing thread. Its outcome arrives when it ends.
fn spawn(
    obeyed: std_mpsc::Receiver<Command>,
    state: Arc<EngineState>,
) -> Result<(JoinHandle<()>, oneshot::Receiver<Ended>), MonitorError> {
    let (ended, ending) = oneshot::channel();
    let run = move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| Engine::new(obeyed, state)?.run()));
        // The receiver is gone if the monitor no longer waits.
        let _ = ended.send(outcome);
    };
    let thread = thread::Builder::new().name("prober".into()).spawn(run);
    let thread = thread.map_err(cannot("start the probing thread"))?;
    Ok((thread, ending))
}

impl Monitor {
    /// Handles signals, answers about names and the watchdog until there is a reason to stop.
    async fn supervise(&mut self, reload: Reload<'_>) -> Result<(), MonitorError> {
        let mut alive = systemd::watchdog().map(|allowed| interval(heartbeat(allowed)));
        let mut beat = interval(BEAT);
        let mut look = interval(LOOK);
        let mut starting = interval(Duration::from_millis(1));
        let suppressed = Throttle::default();
        loop {
            let signals = &mut self.signals;
            tokio::select! {
                name = stop_signal(&mut signals.terminate, &mut signals.interrupt) => {
                    info!("stopping: received {name}");
                    return Ok(());
                }
                _ = signals.hang_up.recv() => self.reload(reload),
                Some(answer) = self.answered.recv() => {
                    if self.targets.answered(answer, now()) {
                        self.status.show(&self.targets);
                    }
                }
                ended = &mut self.ending => return Err(MonitorError::EngineLost(match ended {
                    Ok(Ok(Err(error))) => format!(": cannot wait for replies: {error}"),
                    _ => String::new(),
                })),
                _ = look.tick() => self.targets.tick(now()),
                _ = starting.tick(), if !self.status.ready() => {
                    if self.state.turns.load(Relaxed) > 0 {
                        self.status.set_ready(true);
                        self.manager.ready(self.status.line());
                    }
                }
                () = tick(&mut alive), if self.status.ready() => match self.status.healthy() {
                    Ok(()) => self.manager.alive(),
                    Err(problem) => {
                        if let Some(more) = suppressed.pass(self.status.uptime()) {
                            error!(
                                "{problem}; watchdog heartbeat suppressed, so that systemd \
                                 restarts the monitor{more}"
                            );
                        }
                    }
                },
                _ = beat.tick() => {
                    self.status.beat();
                    if self.status.ready() {
                        self.manager.status(self.status.line());
                    }
                }
            }
        }
    }

    fn reload(&mut self, reload: Reload<'_>) {
        let changed = reload();
        self.status.reloaded(changed.is_ok());
        match changed {
            Ok(changed) => {
                self.targets.replace(changed, now());
                self.status.show(&self.targets);
                info!("reloaded: {}", self.status.line());
            }
            Err(error) => error!("cannot reload: {error}; keeping the targets as they were"),
        }
    }

    fn stop(&mut self) {
        self.status.set_ready(false);
        self.manager.stopping();
        self.state.stop.store(true, Relaxed);
    }
}

/// The error of a step of the start.
fn cannot(action: &'static str) -> impl FnOnce(io::Error) -> MonitorError {
    move |cause| MonitorError::Start { action, cause }
}
