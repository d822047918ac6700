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

    /// The error of the system call.
    pub(crate) fn cause(&self) -> &io::Error {
        &self.cause
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
    #[error("it is {0}, not a UDP socket; set ListenDatagram= in its socket unit")]
    Kind(String),
    /// It is connected, so it receives from one peer only.
    #[error(
        "it is connected to {0} and receives from no other peer; pass in an unconnected socket"
    )]
    Connected(String),
    /// It is not bound.
    #[error("it is not bound to a port; set ListenDatagram= in its socket unit")]
    Unbound,
    /// A system call on it failed.
    #[error("cannot {action} it: {cause}")]
    Unusable {
        /// The action that failed.
        action: &'static str,
        /// The error of the system call.
        #[source]
        cause: io::Error,
    },
}

/// Advice if the kernel has no free port to choose.
pub(crate) const NO_PORT: &str = "; no local port is free: widen net.ipv4.ip_local_port_range";

/// Advice if no interface of this host has the address.
pub(crate) const NO_ADDRESS: &str = "; choose an address of this host (`ip address` shows them)";

/// Advice if only privileged processes may bind the port.
pub(crate) const NO_PRIVILEGE: &str = "; choose a port of net.ipv4.ip_unprivileged_port_start \
                                       or above, or grant CAP_NET_BIND_SERVICE";

/// Advice that follows the cause, or nothing.
fn hint(action: SocketAction, address: &SocketAddr, cause: &io::Error) -> &'static str {
    if cause.raw_os_error() == Some(libc::EMFILE) {
        return "; raise the limit on open files (ulimit -n, LimitNOFILE=)";
    }
    match cause.kind() {
        io::ErrorKind::InvalidInput if lacks_zone(address) => {
            "; add the interface of the link-local address, as in [fe80::1%eth0]"
        }
        io::ErrorKind::PermissionDenied if action == SocketAction::Connect => {
            "; use a unicast address that no route of this host prohibits (`ip route get`)"
        }
        io::ErrorKind::WouldBlock if action == SocketAction::Connect => NO_PORT,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            "; check the route with `ip route get`"
        }
        io::ErrorKind::InvalidInput if action == SocketAction::Connect => {
            "; use a --source that its route allows"
        }
        _ if action == SocketAction::Connect => "",
        io::ErrorKind::AddrInUse if address.port() == 0 => NO_PORT,
        io::ErrorKind::AddrInUse => {
            "; `ss -ulnp` shows the process that uses it: stop it or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => NO_ADDRESS,
        io::ErrorKind::PermissionDenied => NO_PRIVILEGE,
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
