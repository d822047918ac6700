//! The service manager: what it hands over (`sd_listen_fds(3)`), and what it is told
//! (`sd_notify(3)`), if there is one.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// What a socket that was handed over is for, by its name (`FileDescriptorName=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `echo`: datagrams.
    Echo,
    /// `metrics`: HTTP.
    Metrics,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Echo => "echo",
            Self::Metrics => "metrics",
        })
    }
}

/// Sockets handed over that cannot be told apart.
#[derive(Debug, thiserror::Error)]
pub enum HandedOverError {
    /// `LISTEN_FDS` and its like make no sense.
    #[error("cannot take the sockets that the service manager hands over (LISTEN_FDS): {0}")]
    Variables(#[source] io::Error),
    /// A name that means nothing here.
    #[error(
        "socket {descriptor}, handed over as {name:?}, has no use here: FileDescriptorName= is to \
         be echo or metrics"
    )]
    Name {
        /// The descriptor's number.
        descriptor: RawFd,
        /// Its name.
        name: String,
    },
}

/// The sockets that the service manager handed over to this process, unchecked.
///
/// # Errors
/// When the variables that tell of them are wrong, or a name is.
pub fn handed_over() -> Result<Vec<(RawFd, Role)>, HandedOverError> {
    sd_notify::listen_fds_with_names()
        .map_err(HandedOverError::Variables)?
        .map(|(descriptor, name)| match name.as_str() {
            "echo" => Ok((descriptor, Role::Echo)),
            "metrics" => Ok((descriptor, Role::Metrics)),
            _ => Err(HandedOverError::Name { descriptor, name }),
        })
        .collect()
}

/// The service manager that started the daemon. Telling it nothing is never fatal: without one,
/// or with one that does not listen, the daemon serves all the same.
#[derive(Debug, Default)]
pub struct Manager {
    warned: bool,
    /// Whether it knows that the start is complete.
    ready: bool,
    /// The status that it knows.
    status: String,
}

/// How long a manager that does not read may hold up the daemon.
const PATIENCE: Duration = Duration::from_millis(100);

impl Manager {
    /// The start is complete: datagrams are answered and HTTP requests too.
    pub fn ready(&mut self, status: String) {
        self.ready = self.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.status = status;
    }

    /// Says what goes on, if that has changed.
    pub fn status(&mut self, status: String) {
        if !self.ready {
            self.ready(status);
        } else if status != self.status && self.tell(&[NotifyState::Status(&status)]) {
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

    /// Whether that went through, or nobody wants to know.
    fn tell(&mut self, states: &[NotifyState<'_>]) -> bool {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return true;
        };
        let sent = send(&path, states);
        if let Err(error) = &sent
            && !self.warned
        {
            warn!("cannot notify the service manager through NOTIFY_SOCKET: {error}");
            self.warned = true;
        }
        sent.is_ok()
    }
}

/// sd-notify sends for as long as it takes, and knows no abstract addresses.
fn send(path: &OsStr, states: &[NotifyState<'_>]) -> io::Result<()> {
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let mut message = String::new();
    for state in states {
        message += &state.to_string();
        message.push('\n');
    }
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// How often the service manager wants to hear that the daemon is alive (`WatchdogSec=`), if it
/// does.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}
