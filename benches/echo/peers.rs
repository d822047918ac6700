//! Many peers that owe a record, from one socket.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use crate::calls::{Extra, SLOTS};
use crate::servers::Server;
use crate::traffic::{Client, now, receive};
use crate::windows::peer;
use crate::wire;

/// Longer than any run should take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Sends an echo datagram and no record from each of `peers` source addresses of one socket.
pub fn make_owe(client: &mut Client, server: &Server, peers: usize) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    client.outgoing.address_to(server.address);
    let deadline = now() + DEADLINE;
    let mut echoed = 0;
    for batch in (0..peers).step_by(SLOTS) {
        let end = (batch + SLOTS).min(peers);
        for number in batch..end {
            let request = wire::request(0, number as u64, 0);
            let from = Extra::From(peer(number));
            client
                .outgoing
                .push(&socket, &request, request.len(), from)?;
        }
        client.outgoing.send(&socket)?;
        while echoed < end {
            echoed += receive(&mut client.incoming, &socket)?;
            if now() > deadline {
                return Err(io::Error::other(format!(
                    "{echoed} of {end} peers have an echo"
                )));
            }
        }
    }
    let owing = server.metric("udp_echo_peers ")?;
    if owing as usize == peers {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{owing} of {peers} peers owe a record"
    )))
}
