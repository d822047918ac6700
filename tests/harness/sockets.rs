//! UDP sockets of clients.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;

use super::DEADLINE;

/// A client on a new port. Its socket is connected, so it receives only from `to`.
pub fn client(to: SocketAddr) -> UdpSocket {
    let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Receives the next datagram.
pub fn receive(client: &UdpSocket) -> Vec<u8> {
    receive_from(client).0
}

/// Receives the next datagram and its source.
pub fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 65536];
    let received = uninterrupted(|| socket.recv_from(&mut bytes));
    let (length, source) = received.expect("a datagram");
    bytes.truncate(length);
    (bytes, source)
}

/// Repeats a system call that a signal interrupted: SIGCONT interrupts a receive with a timeout even
/// without a handler (signal(7)).
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The number of datagrams that the kernel dropped at a port's IPv4 sockets (`proc_net_udp(5)`).
pub fn kernel_drops(port: u16) -> u64 {
    let own = sockets_of(port).into_iter();
    own.map(|fields| fields.last().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// Whether the receive queues of a port's IPv4 sockets are empty, or the sockets closed.
pub fn all_is_taken(port: u16) -> bool {
    let mut own = sockets_of(port).into_iter();
    own.all(|fields| fields[4].ends_with(":00000000"))
}

/// The fields of `/proc/net/udp` for each IPv4 socket of a port.
///
/// The kernel gives the file in pages, and finds the start of each by counting sockets. If others open or
/// close meanwhile, one reading has a socket twice or not at all, and the next ones may lack it again.
fn sockets_of(port: u16) -> Vec<Vec<String>> {
    let port = format!(":{port:04X}");
    let mut by_inode = BTreeMap::new();
    for _ in 0..20 {
        let sockets = std::fs::read_to_string("/proc/net/udp").unwrap();
        let fields = sockets
            .lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect());
        let own = fields.filter(|fields: &Vec<String>| fields[1].ends_with(&port));
        by_inode.extend(own.map(|fields| (fields[9].clone(), fields)));
    }
    by_inode.into_values().collect()
}

/// An address at which no datagram is received while the socket exists: the socket is connected to
/// itself.
pub fn unreachable(host: IpAddr) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((host, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    socket.connect(address).unwrap();
    (socket, address)
}

/// Sends a GSO batch: datagrams of `segment` bytes, the last one maybe shorter, in one call.
pub fn send_gso_batch(client: &UdpSocket, bytes: &[u8], segment: usize) {
    let set = |size| setsockopt(client, UdpGsoSegment, &size).unwrap();
    set(i32::try_from(segment).unwrap());
    assert_eq!(client.send(bytes).unwrap(), bytes.len());
    set(0);
}

/// Whether this host has IPv6 and its loopback address.
pub fn has_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}

/// Whether no datagram is queued for a client.
pub fn has_nothing(client: &UdpSocket) -> bool {
    client.set_nonblocking(true).unwrap();
    let nothing = client.recv(&mut [0; 1]).is_err();
    client.set_nonblocking(false).unwrap();
    nothing
}
