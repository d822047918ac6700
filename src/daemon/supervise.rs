//! The supervisor: handles signals, the watchdog and the ends of workers, and stops the workers.

use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time;
use tracing::{error, info, warn};

use super::config::Given;
use super::error::DaemonError;
use super::status::Status;
use super::warnings::DiscardWarnings;
use crate::http::Site;
use crate::kernel_echo::{HEARTBEAT, KernelEcho};
use crate::reflect::End;
use crate::service::{BEAT, Signals, heartbeat, interval, stop_signal, tick};
use crate::status_page;
use crate::systemd::{self, Manager};
use crate::throttle::Throttle;
use crate::udp;
use crate::worker::Stopped;

/// How long the workers may take to stop.
pub(super) const STOP: Duration = Duration::from_millis(600);

/// How often a stopping worker is woken: a signal just before a receive does not end the receive.
const WAKE: Duration = Duration::from_millis(5);

/// Each beat takes a sample for the status page and sends the status to the service manager.
const _: () = assert!(BEAT.as_millis() == status_page::PERIOD.as_millis());

/// A worker that stopped by itself, and the reason.
pub(super) type Ending = (usize, Stopped);

/// Supervises the daemon until there is a reason to stop. One beat does all periodic work, so that
/// an idle daemon wakes rarely.
pub(super) async fn supervise(
    status: &Status,
    given: &Given,
    kernel: Option<&KernelEcho>,
    signals: &mut Signals,
    endings: &mut UnboundedReceiver<Ending>,
    manager: &mut Manager,
    warnings: &mut DiscardWarnings,
) -> Result<(), DaemonError> {
    let mut alive = systemd::watchdog().map(|allowed| interval(heartbeat(allowed)));
    let mut kernel_alive = kernel.map(|_| interval(HEARTBEAT));
    let mut beat = interval(BEAT);
    let mut starting = interval(Duration::from_millis(1));
    let mut lost = Vec::new();
    let [suppressed, beats_failed] = [(); 2].map(|()| Throttle::default());
    let Signals {
        terminate,
        interrupt,
        hang_up,
    } = signals;
    loop {
        tokio::select! {
            name = stop_signal(terminate, interrupt) => {
                info!("stopping: received {name}");
                return Ok(());
            }
            _ = hang_up.recv() => {
                info!("ignoring SIGHUP: restart udp-echo to change its options");
            }
            ended = endings.recv() => return ending(status, given, ended),
            _ = starting.tick(), if !status.ready() => {
                if status.all_started() {
                    status.ready.store(true, Relaxed);
                    manager.ready(status.line());
                }
            }
            () = tick(&mut alive), if status.ready() => match status.healthy() {
                Ok(()) => manager.alive(),
                Err(problem) => {
                    if let Some(more) = suppressed.pass(status.since_epoch()) {
                        error!(
                            "{problem}; watchdog heartbeat suppressed, so that systemd restarts \
                             udp-echo{more}"
                        );
                    }
                }
            },
            () = tick(&mut kernel_alive), if status.ready() => {
                // A stalled worker could not answer what the programs pass.
                if let Some(programs) = kernel.filter(|_| status.healthy().is_ok())
                    && let Err(error) = programs.beat()
                    && let Some(more) = beats_failed.pass(status.since_epoch())
                {
                    error!("cannot keep the kernel path answering: {error}; restart udp-echo{more}");
                }
            }
            _ = beat.tick() => {
                warnings.log_if_due(status.since_epoch(), &status.beat());
                if let Some(programs) = kernel {
                    log_lost(programs, &mut lost);
                }
                if status.ready() {
                    manager.status(status.line());
                }
            }
        }
    }
}

/// Warns once of each interface whose program is no longer attached.
fn log_lost(programs: &KernelEcho, lost: &mut Vec<String>) {
    for (interface, is_active) in programs.active() {
        if !is_active && !lost.contains(&interface) {
            warn!(
                "kernel path disabled on {interface}: its program is no longer attached, and the \
                 socket serves; to use it, run `udp-echo attach` and restart udp-echo"
            );
            lost.push(interface);
        }
    }
}

/// Stops the workers. Returns whether all of them ended in time.
pub(super) async fn stop_workers(
    workers: &[JoinHandle<()>],
    endings: &mut UnboundedReceiver<Ending>,
) -> bool {
    let all_ended = async { while endings.recv().await.is_some() {} };
    let wake = async {
        loop {
            for worker in workers.iter().filter(|worker| !worker.is_finished()) {
                udp::wake(worker);
            }
            time::sleep(WAKE).await;
        }
    };
    tokio::select! {
        biased;
        () = all_ended => true,
        () = wake => false,
        () = time::sleep(STOP) => false,
    }
}

/// The daemon's outcome after a worker stopped by itself.
fn ending(status: &Status, given: &Given, ended: Option<Ending>) -> Result<(), DaemonError> {
    let setting = |end| given.with("exit_on", end);
    match ended {
        Some((_, Stopped::End(End::Timeout))) => {
            info!(
                "stopping: idle for the whole timeout ({})",
                setting("timeout")
            );
            Ok(())
        }
        Some((_, Stopped::End(End::Empty))) => {
            info!(
                "stopping: received an empty datagram ({})",
                setting("empty")
            );
            Ok(())
        }
        Some((_, Stopped::End(End::DecodeError))) => Err(DaemonError::DecodeError {
            setting: setting("decode-error"),
        }),
        Some((index, Stopped::SocketLost(cause))) => Err(DaemonError::SocketLost {
            listen: status.listen.get(index).cloned().unwrap_or_default(),
            cause,
        }),
        Some((_, Stopped::Panicked | Stopped::Asked)) | None => Err(DaemonError::WorkerLost),
    }
}
