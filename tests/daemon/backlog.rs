//! The queue of HTTP connections that wait for accept.

use std::fs;
use std::net::TcpStream;

use crate::harness::{DEADLINE, Daemon};
use crate::skip;

#[test]
fn backlog_holds_more_connections_than_the_default_of_std() {
    // The default of the standard library is 128. somaxconn cuts it (listen(2)).
    let Ok(most) = fs::read_to_string("/proc/sys/net/core/somaxconn") else {
        skip!("/proc/sys/net/core is hidden");
    };
    let most: usize = most.trim().parse().unwrap();
    let daemon = Daemon::start(&[]);
    daemon.pause();
    let address = daemon.http.unwrap();
    // The kernel drops the SYN of a connection that finds the queue full.
    let waiting: Vec<_> = (0..most.min(300))
        .map(|_| TcpStream::connect_timeout(&address, DEADLINE).unwrap())
        .collect();
    daemon.resume();
    drop(waiting);
    assert_eq!(daemon.get("/-/ready").status, 200);
}
