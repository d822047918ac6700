//! Residence times of GRO batches.

use crate::harness::{Daemon, client, receive, send_gso_batch};
use crate::modes::{ECHOED, assert_counts};
use crate::offload::numbered;

/// The debug log has each datagram sent by itself, all with the timestamp of the batch.
#[test]
fn each_datagram_of_a_gro_batch_counts_in_the_residence() {
    for log in ["--log=info", "--log=debug"] {
        let daemon = Daemon::start(&["--mode=echo", "--timestamps", log]);
        let peer = client(daemon.address());
        send_gso_batch(&peer, &numbered(0, 10), 8);
        for number in 0..10_u64 {
            assert_eq!(receive(&peer), number.to_be_bytes());
        }
        assert_counts(&daemon, &[(ECHOED, 10)]);
        daemon.wait_for_metric("residence_seconds_count", 10.0);
    }
}
