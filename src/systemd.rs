//! The service manager: the sockets that it passes in (`sd_listen_fds(3)`) and the notifications
//! that it gets (`sd_notify(3)`).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// The use of a socket that was passed in, by its name (`FileDescriptorName=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `echo`: receives datagrams.
    Echo,
    /// No name: receives datagrams.
    Unnamed,
    /// `metrics`: serves HTTP.
    Metrics,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Echo => "as echo",
            Self::Unnamed => "without a name (FileDescriptorName=)",
            Self::Metrics => "as metrics",
        })
    }
}

/// Environment variables that do not describe the sockets passed in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassedInError {
    /// A variable with an invalid value.
    #[error(
        "cannot use the sockets passed in: {name}={value:?} {wrong}; unset it if systemd did not \
         set it"
    )]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: OsString,
        /// The fault of the value, beginning with a verb.
        wrong: &'static str,
    },
    /// A name other than `echo`, `metrics` and none.
    #[error(
        "cannot use socket {descriptor}, passed in as {name:?}: unknown name; set \
         FileDescriptorName= to echo or metrics"
    )]
    Name {
        /// The number of the descriptor.
        descriptor: RawFd,
        /// The unknown name.
        name: String,
    },
}

/// The environment variables that describe the sockets passed in (`sd_listen_fds(3)`).
#[derive(Debug, Clone, Default)]
pub struct Listen {
    /// `LISTEN_PID`: the process that the sockets are for.
    pub pid: Option<OsString>,
    /// `LISTEN_FDS`: the number of sockets, whose descriptors begin at 3.
    pub descriptors: Option<OsString>,
    /// `LISTEN_FDNAMES`: their names, separated by colons.
    pub names: Option<OsString>,
}

impl Listen {
    fn from_environment() -> Self {
        let [pid, descriptors, names] =
            ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(std::env::var_os);
        Self {
            pid,
            descriptors,
            names,
        }
    }

    /// The sockets for the process `own_pid`; none if they are for another process.
    ///
    /// # Errors
    /// If a variable is invalid or a name is unknown.
    pub fn sockets(&self, own_pid: u32) -> Result<Vec<(RawFd, Role)>, PassedInError> {
        let (Some(pid), Some(descriptors)) = (&self.pid, &self.descriptors) else {
            return Ok(Vec::new());
        };
        if number::<u32>(pid).ok_or_else(|| wrong("LISTEN_PID", pid, "is not a process ID"))?
            != own_pid
        {
            return Ok(Vec::new());
        }
        let end = number::<RawFd>(descriptors)
            .filter(|count| (0..=MOST_SOCKETS).contains(count))
            .map(|count| FIRST_SOCKET + count)
            .ok_or_else(|| wrong("LISTEN_FDS", descriptors, "is not a number of sockets"))?;
        let sockets = FIRST_SOCKET..end;
        let Some(names) = &self.names else {
            return sockets
                .map(|descriptor| role(descriptor, UNNAMED))
                .collect();
        };
        let names_given = names.as_bytes().split(|byte| *byte == b':');
        if !sockets.is_empty() && sockets.len() != names_given.clone().count() {
            return Err(wrong(
                "LISTEN_FDNAMES",
                names,
                "does not have one name per socket",
            ));
        }
        sockets
            .zip(names_given)
            .map(|(descriptor, name)| role(descriptor, name))
            .collect()
    }
}

/// `SD_LISTEN_FDS_START`.
const FIRST_SOCKET: RawFd = 3;

/// The most descriptors that a process may have: the default of `fs.nr_open` (proc(5)).
const MOST_SOCKETS: RawFd = 1 << 20;

/// The name of a socket without a name (`sd_listen_fds_with_names(3)`).
const UNNAMED: &[u8] = b"unknown";

fn number<T: std::str::FromStr>(text: &OsStr) -> Option<T> {
    text.to_str()?.parse().ok()
}

fn wrong(name: &'static str, value: &OsStr, wrong: &'static str) -> PassedInError {
    PassedInError::Variable {
        name,
        value: value.into(),
        wrong,
    }
}

fn role(descriptor: RawFd, name: &[u8]) -> Result<(RawFd, Role), PassedInError> {
    match name {
        b"echo" => Ok((descriptor, Role::Echo)),
        UNNAMED => Ok((descriptor, Role::Unnamed)),
        b"metrics" => Ok((descriptor, Role::Metrics)),
        _ => Err(PassedInError::Name {
            descriptor,
            name: String::from_utf8_lossy(name).into_owned(),
        }),
    }
}

/// The descriptors that the service manager passed in to this process. Whether they are open, and
/// their kind, is not checked.
///
/// # Errors
/// See [`Listen::sockets`].
pub(crate) fn passed_in() -> Result<Vec<(RawFd, Role)>, PassedInError> {
    Listen::from_environment().sockets(std::process::id())
}

/// The service manager that started the daemon, if any. A failed notification is never fatal.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    warned: bool,
    /// Whether `READY=1` was sent.
    ready: bool,
    /// The last status that was sent.
    status: String,
}

/// The longest wait for a manager that does not read.
const PATIENCE: Duration = Duration::from_millis(100);

impl Manager {
    /// Sends `READY=1`: datagrams and HTTP requests are answered.
    pub(crate) fn ready(&mut self, status: String) {
        self.ready = self.notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.status = status;
    }

    /// Sends `STATUS=` if the status has changed, and `READY=1` if that failed before.
    pub(crate) fn status(&mut self, status: String) {
        if !self.ready {
            self.ready(status);
        } else if status != self.status && self.notify(&[NotifyState::Status(&status)]) {
            self.status = status;
        }
    }

    /// Sends `WATCHDOG=1`: the daemon makes progress.
    pub(crate) fn alive(&mut self) {
        self.notify(&[NotifyState::Watchdog]);
    }

    /// Sends `STOPPING=1`: the daemon is about to end.
    pub(crate) fn stopping(&mut self) {
        self.notify(&[NotifyState::Stopping]);
    }

    /// Returns whether the message was sent, or there is no manager.
    fn notify(&mut self, states: &[NotifyState<'_>]) -> bool {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return true;
        };
        let sent = send(&path, states);
        if let Err(error) = &sent
            && !self.warned
        {
            warn!(
                "cannot notify systemd through NOTIFY_SOCKET: {error}; retrying, further failures \
                 are not logged"
            );
            self.warned = true;
        }
        sent.is_ok()
    }
}

/// Replaces the send of the sd-notify crate, which has no timeout and no abstract addresses.
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

/// The longest time between two heartbeats that the service manager allows (`WatchdogSec=`); `None`
/// without a watchdog.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}
