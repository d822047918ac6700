//! The service manager: what it hands over (`sd_listen_fds(3)`), and what it is told
//! (`sd_notify(3)`), if there is one.

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

/// What a socket that was handed over is for, by its name (`FileDescriptorName=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `echo`: datagrams.
    Echo,
    /// No name: datagrams too.
    Unnamed,
    /// `metrics`: HTTP.
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

/// Sockets handed over that cannot be told apart.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandedOverError {
    /// A variable that makes no sense.
    #[error(
        "cannot take the sockets that the service manager hands over: {name}={value:?} {wrong}"
    )]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: OsString,
        /// What is wrong with it.
        wrong: &'static str,
    },
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

/// The variables by which a service manager tells of the sockets that it hands over.
#[derive(Debug, Clone, Default)]
pub struct Listen {
    /// `LISTEN_PID`: for which process.
    pub pid: Option<OsString>,
    /// `LISTEN_FDS`: how many, from the first that can be.
    pub descriptors: Option<OsString>,
    /// `LISTEN_FDNAMES`: what they are called, with colons between.
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

    /// The sockets for the process `own_pid`, if they are for that one.
    ///
    /// # Errors
    /// When a variable is wrong, or a name is.
    pub fn sockets(&self, own_pid: u32) -> Result<Vec<(RawFd, Role)>, HandedOverError> {
        let (Some(pid), Some(descriptors)) = (&self.pid, &self.descriptors) else {
            return Ok(Vec::new());
        };
        if number::<u32>(pid).ok_or_else(|| wrong("LISTEN_PID", pid, "is no process"))? != own_pid {
            return Ok(Vec::new());
        }
        let end = number::<RawFd>(descriptors)
            .filter(|count| (0..=MOST_SOCKETS).contains(count))
            .map(|count| FIRST_SOCKET + count)
            .ok_or_else(|| wrong("LISTEN_FDS", descriptors, "is no number of sockets"))?;
        let sockets = FIRST_SOCKET..end;
        let Some(names) = &self.names else {
            // None, or the first of them.
            return sockets
                .map(|descriptor| role(descriptor, UNNAMED))
                .collect();
        };
        let names_given = names.as_bytes().split(|byte| *byte == b':');
        if !sockets.is_empty() && sockets.len() != names_given.clone().count() {
            return Err(wrong("LISTEN_FDNAMES", names, "is not a name for each"));
        }
        sockets
            .zip(names_given)
            .map(|(descriptor, name)| role(descriptor, name))
            .collect()
    }
}

/// `SD_LISTEN_FDS_START`.
const FIRST_SOCKET: RawFd = 3;

/// More descriptors than a process may have: the default of `fs.nr_open`.
const MOST_SOCKETS: RawFd = 1 << 20;

/// What a socket is called that was given no name.
const UNNAMED: &[u8] = b"unknown";

fn number<T: std::str::FromStr>(text: &OsStr) -> Option<T> {
    text.to_str()?.parse().ok()
}

fn wrong(name: &'static str, value: &OsStr, wrong: &'static str) -> HandedOverError {
    HandedOverError::Variable {
        name,
        value: value.into(),
        wrong,
    }
}

fn role(descriptor: RawFd, name: &[u8]) -> Result<(RawFd, Role), HandedOverError> {
    match name {
        b"echo" => Ok((descriptor, Role::Echo)),
        UNNAMED => Ok((descriptor, Role::Unnamed)),
        b"metrics" => Ok((descriptor, Role::Metrics)),
        _ => Err(HandedOverError::Name {
            descriptor,
            name: String::from_utf8_lossy(name).into_owned(),
        }),
    }
}

/// The sockets that the service manager handed over to this process, unchecked.
///
/// # Errors
/// When the variables that tell of them are wrong, or a name is.
pub fn handed_over() -> Result<Vec<(RawFd, Role)>, HandedOverError> {
    Listen::from_environment().sockets(std::process::id())
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
