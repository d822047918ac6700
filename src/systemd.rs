//! What the service manager is told (`sd_notify(3)`), if one listens.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// The service manager that started the daemon. Telling it nothing is never fatal: without one,
/// or with one that does not listen, the daemon serves all the same.
#[derive(Debug, Default)]
pub struct Manager {
    warned: bool,
    status: String,
}

impl Manager {
    /// The start is complete: datagrams are answered and HTTP requests too.
    pub fn ready(&mut self, status: String) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.status = status;
    }

    /// Says what goes on, if that has changed.
    pub fn status(&mut self, status: String) {
        if status != self.status {
            self.tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// The daemon makes progress.
    pub fn alive(&mut self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// The daemon is about to end.
    pub fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping]);
    }

    fn tell(&mut self, states: &[NotifyState<'_>]) {
        if std::env::var_os("NOTIFY_SOCKET").is_none_or(|path| path.is_empty()) {
            return;
        }
        if let Err(error) = sd_notify::notify(states)
            && !self.warned
        {
            warn!("cannot notify the service manager through NOTIFY_SOCKET: {error}");
            self.warned = true;
        }
    }
}

/// How often the service manager wants to hear that the daemon is alive (`WatchdogSec=`), if it
/// does.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}
