//! TTL and traffic class of received and sent datagrams, for STAMP.

use std::io;

use super::Socket;
use super::sys::sockopt;

impl Socket {
    /// Enables the control messages about the IP header, and sends with the greatest TTL.
    pub(super) fn enable_ip_header(&self) -> io::Result<()> {
        self.receive_ip_header()?;
        if self.address.is_ipv6() {
            sockopt::set(self, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 255)?;
        }
        sockopt::set(self, libc::IPPROTO_IP, libc::IP_TTL, 255)
    }

    /// Reports the TTL or hop limit and the traffic class of received datagrams.
    pub(super) fn receive_ip_header(&self) -> io::Result<()> {
        if self.address.is_ipv6() {
            sockopt::set(self, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
            sockopt::set(self, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        }
        // On an IPv6 socket, for IPv4 datagrams.
        sockopt::set(self, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)?;
        sockopt::set(self, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::time::Duration;

    use super::*;
    use crate::skipped;
    use crate::udp::{Batch, BufferSize, SocketOptions, Transmit, Wait};

    fn bind(address: SocketAddr) -> Result<Socket, crate::udp::SocketError> {
        let options = SocketOptions {
            receive_buffer: BufferSize::Default,
            send_buffer: BufferSize::Default,
            reuse_address: false,
            timestamps: true,
            offload: false,
            ip_header: true,
        };
        Socket::bind(address, &options)
    }

    #[cfg(not(miri))]
    #[test]
    fn reply_has_ttl_255_and_the_chosen_traffic_class() {
        let any: IpAddr = "::".parse().unwrap();
        for host in ["127.0.0.1", "::1"] {
            let host: IpAddr = host.parse().unwrap();
            // The last socket receives from both families.
            for listen in [host, any] {
                let (Ok(client), Ok(server)) = (bind((host, 0).into()), bind((listen, 0).into()))
                else {
                    assert!(host.is_ipv6() || listen.is_ipv6());
                    skipped!("no IPv6: the part about {host} and {listen}");
                    continue;
                };
                if host.is_ipv6() {
                    client.inner.set_unicast_hops_v6(77).unwrap();
                    client.inner.set_tclass_v6(0xb9).unwrap();
                } else {
                    client.inner.set_ttl_v4(77).unwrap();
                    client.inner.set_tos_v4(0xb9).unwrap();
                }
                let to = SocketAddr::new(host, server.address().port());
                client.inner.send_to(b"request", &to.into()).unwrap();
                let mut batch = Batch::new(1, 64, &server);
                assert_eq!(batch.receive(&server, Wait::Block, 1).unwrap(), 1);
                let meta = batch.meta(0);
                assert_eq!((meta.ttl, meta.traffic_class), (Some(77), Some(0xb9)));
                let transmit = Transmit {
                    slot: 0,
                    start: 0,
                    length: 7,
                    segment: 7,
                    traffic_class: Some(0x28),
                };
                batch.queue(transmit, meta.info);
                let sent = batch.send_next(&server, || Duration::ZERO).unwrap();
                sent.result.unwrap();
                let mut replies = Batch::new(1, 64, &client);
                assert_eq!(replies.receive(&client, Wait::Block, 1).unwrap(), 1);
                let meta = replies.meta(0);
                assert_eq!((meta.ttl, meta.traffic_class), (Some(255), Some(0x28)));
            }
        }
    }
}
