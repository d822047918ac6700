//! The flows to one address: a connected socket each, which follows this host's own address when it
//! changes: by DHCP, by a failover, or when a privacy address (RFC 8981) expires. A connected socket
//! keeps its source address, and gets no replies to an address that is gone.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::udp::{self, ConnectError, ConnectOptions, Rejection, Socket, Source};

/// Time between checks of an address.
const CHECK: Duration = Duration::from_millis(100);

/// The sockets of the flows.
#[derive(Debug)]
pub(crate) struct Flows {
    target: SocketAddr,
    options: ConnectOptions,
    sockets: Vec<Socket>,
    /// Whether nothing was received on each flow since its last request.
    silent: Vec<bool>,
    /// When an address of silent flows was last found to be right.
    checked: BTreeMap<IpAddr, Duration>,
    /// Datagrams that the kernel dropped on sockets that are closed.
    drops: u64,
}

/// The addresses of this host that flows send from, and when each was last found to exist. The
/// flows to all targets share them: a check takes three system calls, more than a request.
#[derive(Debug, Default)]
pub(crate) struct OwnAddresses(BTreeMap<SocketAddr, Duration>);

impl OwnAddresses {
    /// Whether this host has the address. Checks it at most every 100 ms.
    fn contain(&mut self, mut address: SocketAddr, now: Duration) -> bool {
        address.set_port(0);
        let checked = self.0.get(&address);
        if checked.is_some_and(|checked| now < *checked + CHECK) {
            return true;
        }
        let is_own = udp::is_own(address);
        if is_own {
            self.0.insert(address, now);
        } else {
            self.0.remove(&address);
        }
        is_own
    }
}

/// A socket that replaces that of a flow.
#[derive(Debug)]
pub(crate) struct Moved {
    /// The new socket.
    pub(crate) socket: Socket,
    /// The old source address.
    pub(crate) from: IpAddr,
    /// The new one.
    pub(crate) to: IpAddr,
}

impl Flows {
    /// Opens this number of sockets.
    ///
    /// # Errors
    /// If a socket cannot be opened or connected.
    pub(crate) fn open(
        target: SocketAddr,
        options: ConnectOptions,
        number: usize,
    ) -> Result<Self, ConnectError> {
        let sockets = (0..number)
            .map(|_| Socket::connect(target, &options))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            target,
            options,
            sockets,
            silent: vec![false; number],
            checked: BTreeMap::new(),
            drops: 0,
        })
    }

    /// Returns all sockets.
    pub(crate) fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    /// Notes a reply on a flow.
    pub(crate) fn received_on(&mut self, flow: usize) {
        self.silent[flow] = false;
    }

    /// Notes a request on a flow.
    pub(crate) fn sent_on(&mut self, flow: usize) {
        self.silent[flow] = true;
    }

    /// Returns the number of datagrams that the kernel dropped because a receive buffer was full.
    pub(crate) fn drops(&self) -> u64 {
        let open = self.sockets.iter().map(Self::drops_of);
        self.drops + open.sum::<u64>()
    }

    fn drops_of(socket: &Socket) -> u64 {
        socket.queue_and_drops().map_or(0, |(_, drops)| drops)
    }

    /// Returns a new socket for a flow that is about to send, if its own address is gone, or if the
    /// flow is silent and the route now has another source address. (Routes of equal cost can have
    /// different source addresses, which all work: a flow with replies keeps its address.) Checks an
    /// address at most every 100 ms, except after a failed send.
    pub(crate) fn moved(
        &mut self,
        flow: usize,
        now: Duration,
        failed: bool,
        own: &mut OwnAddresses,
    ) -> Option<Moved> {
        let address = self.sockets[flow].address();
        if failed || self.silent[flow] {
            let checked = self.checked.get(&address.ip());
            if !failed && checked.is_some_and(|checked| now < *checked + CHECK) {
                return None;
            }
            self.checked.insert(address.ip(), now);
        } else if own.contain(address, now) {
            return None;
        }
        // Without a route the send fails, too, and says why.
        let fresh = Socket::connect(self.target, &self.options).ok()?;
        let to = fresh.address().ip();
        if to == address.ip() {
            return None;
        }
        // The other flows with this address follow at once.
        self.checked.remove(&address.ip());
        // Where routers spread flows, the port keeps the path of the flow.
        let interface = self.options.source.as_ref();
        let same_port = ConnectOptions {
            source: Some(Source {
                address: Some(to),
                interface: interface.and_then(|source| source.interface.clone()),
            }),
            port: address.port(),
            ..self.options.clone()
        };
        Some(Moved {
            socket: Socket::connect(self.target, &same_port).unwrap_or(fresh),
            from: address.ip(),
            to,
        })
    }

    /// Replaces the socket of a flow.
    pub(crate) fn replace(&mut self, flow: usize, socket: Socket) {
        let old = std::mem::replace(&mut self.sockets[flow], socket);
        self.drops += Self::drops_of(&old);
    }

    /// Sends over a flow. Repeats the call after a signal, and if the kernel reported an ICMP error
    /// about an earlier datagram instead of sending this one (`IP_RECVERR` in ip(7)). Adds these
    /// errors to `rejections`.
    ///
    /// # Errors
    /// Returns the errno of the failed call.
    pub(crate) fn send<T>(
        &self,
        flow: usize,
        rejections: &mut Vec<Rejection>,
        call: impl Fn(&Socket) -> io::Result<T>,
    ) -> Result<T, i32> {
        /// An ICMP error arrives at most this often while one datagram is sent.
        const MAX_TRIES: u32 = 4;
        let mut tries = 0;
        loop {
            let error = match call(&self.sockets[flow]) {
                Err(error) => error,
                Ok(sent) => return Ok(sent),
            };
            tries += 1;
            // The error queue may have been read just before.
            let is_icmp_error = self.take_rejections(flow, rejections)
                || error.kind() == io::ErrorKind::ConnectionRefused;
            let retry = is_icmp_error && tries <= MAX_TRIES;
            if !retry && error.kind() != io::ErrorKind::Interrupted {
                return Err(error.raw_os_error().unwrap_or(0));
            }
        }
    }

    /// Adds the ICMP errors about datagrams of a flow to `rejections`. Returns whether there were
    /// any.
    pub(crate) fn take_rejections(&self, flow: usize, rejections: &mut Vec<Rejection>) -> bool {
        let before = rejections.len();
        while let Some(rejection) = self.sockets[flow].take_rejection() {
            // A failed send on this host is reported by the call, too.
            if rejection.icmp.is_some() {
                rejections.push(rejection);
            }
        }
        rejections.len() > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_address_is_checked_again_after_100_ms() {
        let mut own = OwnAddresses::default();
        let here = SocketAddr::from(([127, 0, 0, 1], 7));
        // TEST-NET-1 is no address of this host: without a check it stays one.
        let gone = SocketAddr::from(([192, 0, 2, 1], 0));
        own.0.insert(gone, CHECK);
        for (now, expected) in [(CHECK, true), (CHECK * 2, false), (CHECK * 2, false)] {
            assert!(own.contain(here, now));
            assert_eq!(own.contain(gone, now), expected, "{now:?}");
        }
    }
}
