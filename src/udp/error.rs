//! Socket errors, each with advice for the operator.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::udp::named_here;

/// A socket that could not be opened, set up or bound.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {action} UDP {}: {cause}{}",
    named_here(*.address),
    hint(*.action, .address, .cause)
)]
pub struct SocketError {
    action: SocketAction,
    address: SocketAddr,
    #[source]
    cause: io::Error,
}

impl SocketError {
    /// Returns a function that turns the cause of a failed `action` into an error.
    pub(super) fn of(action: SocketAction, address: SocketAddr) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self {
            action,
            address,
            cause,
        }
    }
}

/// The action that failed. Connecting has hints of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketAction {
    Connect,
    /// A verb and its object.
    Other(&'static str),
}

impl fmt::Display for SocketAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect a socket to",
            Self::Other(words) => words,
        })
    }
}

/// A socket that was passed in and cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It is not a UDP socket.
    #[error("is {0}, not a UDP socket (ListenDatagram= makes one)")]
    Kind(String),
    /// It is connected, so it receives from one peer only.
    #[error("is connected to {0}: a reflector serves more than one peer")]
    Connected(String),
    /// It is not bound.
    #[error("is not bound to a port")]
    Unbound,
    /// A system call on it failed.
    #[error("cannot be used: cannot {action}: {cause}")]
    Unusable {
        /// The action that failed.
        action: &'static str,
        /// The error of the system call.
        #[source]
        cause: io::Error,
    },
}

/// Advice if the kernel has no free port to choose.
pub(crate) const NO_PORT: &str = "; no local port is free: `sysctl net.ipv4.ip_local_port_range` shows which ones the kernel uses";

/// Advice that follows the cause, or nothing.
fn hint(action: SocketAction, address: &SocketAddr, cause: &io::Error) -> &'static str {
    if cause.raw_os_error() == Some(libc::EMFILE) {
        return "; `ulimit -n` shows the limit on open files, `ulimit -Hn` its maximum";
    }
    match cause.kind() {
        io::ErrorKind::InvalidInput if lacks_zone(address) => {
            "; a link-local address needs its interface, as in [fe80::1%eth0]"
        }
        io::ErrorKind::PermissionDenied if action == SocketAction::Connect => {
            "; it is a broadcast address, or a route of this host prohibits it"
        }
        io::ErrorKind::WouldBlock if action == SocketAction::Connect => NO_PORT,
        _ if action == SocketAction::Connect => "",
        io::ErrorKind::AddrInUse if address.port() == 0 => NO_PORT,
        io::ErrorKind::AddrInUse => "; `ss -ulnp` shows what uses it",
        io::ErrorKind::AddrNotAvailable => "; `ip address` shows the addresses of this host",
        io::ErrorKind::PermissionDenied => {
            "; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
        }
        _ => "",
    }
}

fn lacks_zone(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(_) => false,
        SocketAddr::V6(v6) => v6.ip().is_unicast_link_local() && v6.scope_id() == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_error_names_the_port_range_when_no_port_is_free() {
        let error = |action, address: &str, errno| {
            let cause = io::Error::from_raw_os_error(errno);
            SocketError::of(action, address.parse().unwrap())(cause)
        };
        let connect = error(SocketAction::Connect, "192.0.2.1:9", libc::EAGAIN);
        let listening = SocketAction::Other("listen on");
        let listen = error(listening, "127.0.0.1:0", libc::EADDRINUSE);
        for (error, said) in [
            (
                connect,
                "cannot connect a socket to UDP 192.0.2.1:9: Resource temporarily unavailable (os \
                 error 11)",
            ),
            (
                listen,
                "cannot listen on UDP 127.0.0.1:0: Address already in use (os error 98)",
            ),
        ] {
            assert_eq!(error.to_string(), format!("{said}{NO_PORT}"));
        }
        let taken = error(listening, "127.0.0.1:9", libc::EADDRINUSE);
        assert!(!taken.to_string().contains("ip_local_port_range"));
    }
}
