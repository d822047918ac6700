//! Reconnects flows when this host's own address changes: by DHCP, by a failover, or when a privacy
//! address (RFC 8981) expires. A connected socket keeps its source address, and gets no replies to
//! an address that is gone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{Prober, connect_options};
use crate::reflect::Mode;
use crate::udp::{self, ConnectOptions, Socket, Source, Wait};

/// Time between checks of an address.
const CHECK: Duration = Duration::from_millis(100);

/// What is known about this host's own addresses.
#[derive(Debug)]
pub(super) struct OwnAddress {
    /// Whether nothing was received on each flow since its last request.
    silent: Vec<bool>,
    /// When an address was last found to be right, for flows that are silent and for others.
    checked: BTreeMap<(IpAddr, bool), Duration>,
    /// The last change: the old address and the new one.
    change: Option<(IpAddr, IpAddr)>,
    /// Datagrams that the kernel dropped on sockets that are closed.
    drops: u64,
}

impl OwnAddress {
    pub(super) fn new(flows: usize) -> Self {
        Self {
            silent: vec![false; flows],
            checked: BTreeMap::new(),
            change: None,
            drops: 0,
        }
    }

    pub(super) fn received_on(&mut self, flow: usize) {
        self.silent[flow] = false;
    }

    pub(super) fn sent_on(&mut self, flow: usize) {
        self.silent[flow] = true;
    }

    /// Returns the number of datagrams dropped on sockets that are closed.
    pub(super) fn drops_before(&self) -> u64 {
        self.drops
    }
}

impl Prober<'_> {
    /// Reconnects a flow before it sends if its own address is gone, or if the flow is silent and
    /// the route now has another source address. (Routes of equal cost can have different source
    /// addresses, which all work: a flow with replies keeps its address.) Checks an address at most
    /// every 100 ms, except after a failed send. Returns whether the flow has a new socket.
    pub(super) fn follow_address(&mut self, flow: usize, now: Duration, failed: bool) -> bool {
        let address = self.sockets[flow].address();
        let silent = failed || self.own_address.silent[flow];
        let key = (address.ip(), silent);
        let checked = self.own_address.checked.get(&key);
        if !failed && checked.is_some_and(|checked| now < *checked + CHECK) {
            return false;
        }
        self.own_address.checked.insert(key, now);
        if !silent && udp::is_own(address) {
            return false;
        }
        let options = connect_options(self.config);
        // Without a route the send fails, too, and says why.
        let Ok(fresh) = Socket::connect(self.target, &options) else {
            return false;
        };
        let new = fresh.address().ip();
        if new == address.ip() {
            return false;
        }
        // The other flows with this address follow at once.
        self.own_address.checked.remove(&key);
        // Where routers spread flows, the port keeps the path of the flow.
        let same_port = ConnectOptions {
            source: Some(Source {
                address: Some(new),
                interface: options.source.and_then(|source| source.interface),
            }),
            port: address.port(),
            ..options
        };
        let socket = Socket::connect(self.target, &same_port).unwrap_or(fresh);
        self.replace_socket(flow, socket);
        let change = Some((address.ip(), new));
        if self.own_address.change != change {
            self.own_address.change = change;
            self.notes.address_changes += 1;
            self.note(format_args!(
                "own address changed from {} to {new}: using the new one",
                address.ip()
            ));
        }
        true
    }

    fn replace_socket(&mut self, flow: usize, socket: Socket) {
        // Replies that have arrived.
        self.receive_on(flow, Wait::Poll);
        if let Some(poller) = &self.poller
            && poller.add(flow, &socket).is_err()
        {
            return;
        }
        let old = std::mem::replace(&mut self.sockets[flow], socket);
        self.own_address.drops += old.queue_and_drops().map_or(0, |(_, drops)| drops);
        self.receive_timeout = Duration::ZERO;
        // In lockstep mode the exchange is not that of the peer.
        if self.config.mode != Mode::Lockstep {
            self.exchanges.restart(flow);
        }
    }
}
