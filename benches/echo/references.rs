//! The plain loops that the daemon is compared with. Each is a process of its own: this program
//! with `--reference NAME`.

use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::thread;

use clap::ValueEnum;

use crate::calls::{self, Extra, Messages};
use crate::wire;

/// The text before the address in a server's output.
pub const LISTENING: &str = "listening on ";

/// A plain loop, without checks, counters or logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reference {
    /// Blocking recvfrom and sendto.
    Recvfrom,
    /// Nonblocking recvfrom in a spin, and sendto.
    Spin,
    /// recvmmsg and sendmmsg, up to 64 datagrams per call.
    Mmsg,
    /// As `Mmsg`, but replies only to requests, which it knows by their first byte. It keeps no
    /// state for a peer.
    MmsgExchange,
    /// recvmmsg with `UDP_GRO` and sendmmsg with `UDP_SEGMENT`, up to 64 messages per call.
    Gro,
    /// The echo server of Tokio's examples, on one thread.
    Tokio,
}

/// More than the longest datagram.
const LONGEST: usize = 65536;

/// Runs a loop until standard input ends.
pub fn run(reference: Reference) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    calls::set_receive_buffer(&socket, wire::RECEIVE_BUFFER)?;
    if reference == Reference::Gro {
        calls::set_gro(&socket)?;
    }
    let mut out = io::stdout();
    writeln!(out, "{LISTENING}{}", socket.local_addr()?)?;
    out.flush()?;
    thread::spawn(move || {
        let end = match reference {
            Reference::Recvfrom => recvfrom(&socket),
            Reference::Spin => spin(&socket),
            Reference::Mmsg => mmsg(&socket, |_| true),
            Reference::MmsgExchange => mmsg(&socket, |first| first == wire::REQUEST),
            Reference::Gro => gro(&socket),
            Reference::Tokio => tokio(socket),
        };
        panic!("the loop {reference:?} ended: {end:?}");
    });
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The standard library adds almost nothing to the calls of recvfrom and sendto.
fn recvfrom(socket: &UdpSocket) -> io::Result<()> {
    let mut bytes = vec![0; LONGEST];
    loop {
        let (length, peer) = socket.recv_from(&mut bytes)?;
        socket.send_to(&bytes[..length], peer)?;
    }
}

fn spin(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let mut bytes = vec![0; LONGEST];
    loop {
        match socket.recv_from(&mut bytes) {
            Ok((length, peer)) => _ = socket.send_to(&bytes[..length], peer)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
}

fn mmsg(socket: &UdpSocket, replies_to: impl Fn(u8) -> bool) -> io::Result<()> {
    let mut messages = Messages::new(2048);
    loop {
        let count = messages.receive(socket, libc::MSG_WAITFORONE)?;
        for slot in 0..count {
            let [first] = messages.bytes(slot, 0);
            if replies_to(first) {
                messages.queue(slot, messages.length(slot), false, Extra::Nothing);
            }
        }
        messages.send(socket)?;
    }
}

fn gro(socket: &UdpSocket) -> io::Result<()> {
    let mut messages = Messages::new(LONGEST);
    loop {
        let count = messages.receive(socket, libc::MSG_WAITFORONE)?;
        for slot in 0..count {
            let extra = messages
                .segment(slot)
                .map_or(Extra::Nothing, Extra::Segments);
            messages.queue(slot, messages.length(slot), false, extra);
        }
        messages.send(socket)?;
    }
}

fn tokio(socket: UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let mut bytes = vec![0; LONGEST];
        loop {
            let (length, peer) = socket.recv_from(&mut bytes).await?;
            socket.send_to(&bytes[..length], peer).await?;
        }
    })
}
