//! What happens to datagrams.

use crate::harness::{Daemon, client, has_nothing, receive};

const RECORD: [u8; 22] = [7; 22];

#[test]
fn in_exchange_mode_a_datagram_is_echoed_and_the_next_is_a_record() {
    let daemon = Daemon::start(&[]);
    let peer = client(daemon.address());
    for round in 1..=3 {
        peer.send(b"hello").unwrap();
        assert_eq!(receive(&peer), b"hello");
        peer.send(&RECORD).unwrap();
        daemon.wait_for_metric("records_decoded_total", f64::from(round));
    }
    assert!(has_nothing(&peer));
    daemon.assert_accounted_for();
}
