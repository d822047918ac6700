//! The IP header of the requests, as a receiver sees it.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use udp_echo::udp::{Batch, BufferSize, RecvMeta, Socket, SocketOptions, Wait};

use crate::harness::DEADLINE;
use crate::reflectors::{ended, probe};
use crate::skipped;

/// Runs a client against a socket and returns the kernel's data about its first request.
fn first_request(host: IpAddr, args: &str) -> Option<RecvMeta> {
    let socket = UdpSocket::bind((host, 0)).ok()?;
    let target = socket.local_addr().unwrap();
    let options = if host.is_ipv4() {
        [
            (libc::IPPROTO_IP, libc::IP_RECVTTL),
            (libc::IPPROTO_IP, libc::IP_RECVTOS),
        ]
    } else {
        [
            (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
        ]
    };
    for (level, name) in options {
        switch_on(&socket, level, name);
    }
    let (_, _, err) = ended(&mut probe(target, &format!("--count=1 --wait=0.01 {args}")));
    assert_eq!(err, "", "{args}");
    let options = SocketOptions {
        ip_header: false,
        receive_buffer: BufferSize::Default,
        send_buffer: BufferSize::Default,
        reuse_address: false,
        timestamps: false,
        offload: false,
    };
    let socket = Socket::adopt(OwnedFd::from(socket), &options).unwrap();
    socket.set_receive_timeout(Some(DEADLINE)).unwrap();
    let mut batch = Batch::new(1, 2048, &socket);
    batch.receive(&socket, Wait::Block, 1).unwrap();
    Some(batch.meta(0))
}

#[expect(
    unsafe_code,
    reason = "no safe crate has these options for both families"
)]
fn switch_on(socket: &UdpSocket, level: libc::c_int, name: libc::c_int) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the value outlives the call and has the size of an int.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const on).cast(),
            size_of_val(&on).try_into().unwrap(),
        )
    };
    assert_eq!(status, 0);
}

#[test]
fn requests_have_the_tos_byte_and_ttl_of_the_options() {
    for host in ["127.0.0.1", "::1"] {
        let host: IpAddr = host.parse().unwrap();
        for (args, traffic_class, ttl) in [
            ("", 0, 64),
            ("--dscp=46 --ttl=7", 0xb8, 7),
            ("--dscp=EF", 0xb8, 64),
            ("-Q 0xb8 -t 255", 0xb8, 255),
            ("-Q 184", 0xb8, 64),
            ("--dscp=CS6 --df", 0xc0, 64),
            ("--mode=echo --dscp=AF41 -M dont", 0x88, 64),
        ] {
            let Some(meta) = first_request(host, args) else {
                skipped!("no IPv6: the part about {host}");
                break;
            };
            assert_eq!(meta.traffic_class, Some(traffic_class), "{host} {args}");
            // The kernel's default can be another one.
            if args.contains("-t") {
                assert_eq!(meta.ttl, Some(ttl), "{host} {args}");
            }
        }
    }
}
