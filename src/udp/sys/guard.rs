//! A socket filter that marks forged datagrams: IPv6 datagrams from the network whose source
//! address equals their destination.
//!
//! Linux accepts them, and a reply would reach a service of this host over the loopback interface,
//! past firewall rules for outside traffic. Packet info cannot tell them apart from the datagrams
//! of a local client: for both, Linux reports the interface that has the address (`ip6_rcv_core`,
//! `net/ipv6/ip6_input.c`). A filter sees the real interface, but it can only shorten a datagram.
//! So this one removes the payload, and the daemon refuses empty datagrams of that kind.
#![expect(
    unsafe_code,
    reason = "getsockopt takes pointers; socket2 does not read filters"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "codes and jumps are small; Linux takes negative offsets as u32"
)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_MISC, BPF_RET, BPF_TAX,
    BPF_W, BPF_X, SKF_AD_IFINDEX, SKF_AD_OFF, SKF_NET_OFF, sock_filter, socklen_t,
};
use socket2::SockFilter;

use super::cmsg::LOOPBACK;

const LENGTH: usize = 23;
/// The last instruction.
const PASS: usize = LENGTH - 1;
const INTERFACE: u32 = (SKF_AD_OFF + SKF_AD_IFINDEX) as u32;
const IP_HEADER: u32 = SKF_NET_OFF as u32;
/// Offsets in an IPv6 header (RFC 8200, section 3).
const SOURCE: u32 = IP_HEADER + 8;
const DESTINATION: u32 = IP_HEADER + 24;
const UDP_HEADER_BYTES: u32 = 8;

/// Passes datagrams that came over loopback, are not IPv6, or have a source other than their
/// destination. Cuts the others to the UDP header.
const FILTER: [sock_filter; LENGTH] = {
    let mut filter = [step(BPF_RET | BPF_K, u32::MAX); LENGTH];
    filter[0] = step(BPF_LD | BPF_W | BPF_ABS, INTERFACE);
    filter[1] = step(BPF_JMP | BPF_JEQ | BPF_K, LOOPBACK);
    filter[1].jt = to_pass(1);
    filter[2] = step(BPF_LD | BPF_B | BPF_ABS, IP_HEADER);
    filter[3] = step(BPF_ALU | BPF_AND | BPF_K, 0xf0);
    filter[4] = step(BPF_JMP | BPF_JEQ | BPF_K, 0x60);
    filter[4].jf = to_pass(4);
    let mut word = 0;
    while word < 4 {
        let at = 5 + 4 * word;
        let offset = 4 * word as u32;
        filter[at] = step(BPF_LD | BPF_W | BPF_ABS, SOURCE + offset);
        filter[at + 1] = step(BPF_MISC | BPF_TAX, 0);
        filter[at + 2] = step(BPF_LD | BPF_W | BPF_ABS, DESTINATION + offset);
        filter[at + 3] = step(BPF_JMP | BPF_JEQ | BPF_X, 0);
        filter[at + 3].jf = to_pass(at + 3);
        word += 1;
    }
    filter[PASS - 1] = step(BPF_RET | BPF_K, UDP_HEADER_BYTES);
    filter
};

const fn step(code: u32, k: u32) -> sock_filter {
    let code = code as u16;
    let (jt, jf) = (0, 0);
    sock_filter { code, jt, jf, k }
}

/// The length of a jump from an instruction to the last.
const fn to_pass(from: usize) -> u8 {
    (PASS - from - 1) as u8
}

/// The filter of one socket.
#[derive(Debug, Default)]
pub(in crate::udp) struct Guard {
    /// Whether the filter has seen every datagram that is still to be received.
    complete: AtomicBool,
    /// Whether it was attached while datagrams may have been queued.
    late: bool,
}

impl Guard {
    /// Attaches the filter to a socket that is yet to be bound to `address`.
    pub(in crate::udp) fn early(socket: &socket2::Socket, address: SocketAddr) -> Self {
        Self {
            complete: (is_needed(address) && attach(socket).is_ok()).into(),
            late: false,
        }
    }

    /// Attaches the filter to an inherited socket. A filter of another process stays.
    pub(in crate::udp) fn late(socket: &socket2::Socket, address: SocketAddr) -> Self {
        if !is_needed(address) {
            return Self::default();
        }
        let found = Found::read(socket);
        Self {
            complete: (found == Found::Guard).into(),
            late: found == Found::Nothing && attach(socket).is_ok(),
        }
    }

    /// Whether an unmarked datagram is not forged.
    pub(in crate::udp) fn is_complete(&self) -> bool {
        self.complete.load(Relaxed)
    }

    /// To be called when the receive queue is empty.
    pub(in crate::udp) fn queue_emptied(&self) {
        if self.late {
            self.complete.store(true, Relaxed);
        }
    }
}

/// Whether a socket can get IPv6 datagrams from the network.
fn is_needed(address: SocketAddr) -> bool {
    address.is_ipv6() && !address.ip().is_loopback()
}

fn attach(socket: &socket2::Socket) -> io::Result<()> {
    socket.attach_filter(&FILTER.map(|step| SockFilter::new(step.code, step.jt, step.jf, step.k)))
}

/// Which filter a socket has.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Guard,
    Other,
}

impl Found {
    fn read(socket: &socket2::Socket) -> Self {
        let mut found = [step(0, 0); LENGTH];
        // In instructions, not bytes (`sk_get_filter`, net/core/filter.c).
        let mut length = LENGTH as socklen_t;
        // SAFETY: the descriptor is open; the kernel writes at most `length` instructions, which
        // is the size of `found`, and fails if the filter has more.
        let status = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_GET_FILTER,
                found.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let plain = |step: sock_filter| (step.code, step.jt, step.jf, step.k);
        if status == 0 && length == 0 {
            Self::Nothing
        } else if status == 0 && found.map(plain) == FILTER.map(plain) {
            Self::Guard
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn any_address() -> SocketAddr {
        "[::]:9999".parse().unwrap()
    }

    fn socket() -> socket2::Socket {
        UdpSocket::bind("127.0.0.1:0").unwrap().into()
    }

    #[test]
    fn inherited_socket_is_guarded_once_its_queue_was_empty() {
        let socket = socket();
        let guard = Guard::late(&socket, any_address());
        assert!(!guard.is_complete());
        guard.queue_emptied();
        assert!(guard.is_complete());
        // The next process inherits the filter too.
        assert!(Guard::late(&socket, any_address()).is_complete());
    }

    #[test]
    fn filter_of_another_process_stays() {
        for length in [1, LENGTH, LENGTH + 1] {
            let socket = socket();
            let pass = FILTER[PASS];
            let pass_all = (0..length).map(|_| SockFilter::new(pass.code, 0, 0, pass.k));
            let pass_all: Vec<_> = pass_all.collect();
            socket.attach_filter(&pass_all).unwrap();
            let guard = Guard::late(&socket, any_address());
            guard.queue_emptied();
            assert!(!guard.is_complete(), "{length}");
            assert_eq!(Found::read(&socket), Found::Other, "{length}");
        }
    }

    #[test]
    fn filter_passes_ipv4_and_loopback() {
        let socket = socket();
        assert!(Guard::early(&socket, any_address()).is_complete());
        let socket = UdpSocket::from(socket);
        socket
            .send_to(b"all of it", socket.local_addr().unwrap())
            .unwrap();
        let mut bytes = [0; 16];
        assert_eq!(socket.recv(&mut bytes).unwrap(), 9);
    }
}
