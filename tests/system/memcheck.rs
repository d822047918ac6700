//! The system calls and the memory that they share with the kernel, checked by valgrind.

use std::net::UdpSocket;
use std::process::Command;

use crate::harness::{Daemon, client, program, send_gso_batch, wait_until};

const ROUNDS: u64 = 4;
/// The number of datagrams of one round.
const DATAGRAMS: u64 = 5 * 4 + 2 * 12 + 1;

#[test]
#[ignore = "needs valgrind; .ci/run runs it"]
fn valgrind_finds_no_invalid_access_and_no_leak() {
    for mode in ["exchange", "lockstep", "echo"] {
        for (offload, listen) in [("auto", "[::]:0"), ("off", "0.0.0.0:0")] {
            let mode = format!("--mode={mode}");
            let offload = format!("--offload={offload}");
            let listen = format!("--listen={listen}");
            let other = if offload == "--offload=auto" {
                ["--timestamps", "--max-datagram=16"]
            } else {
                ["--log=debug", "--rate-limit=900"]
            };
            assert_clean(&[&mode, &offload, &listen, other[0], other[1]]);
        }
    }
}

/// Sends all kinds of datagrams to a daemon under valgrind.
fn assert_clean(args: &[&str]) {
    const FOUND: i32 = 99;
    let mut command = Command::new("valgrind");
    command.args([
        "--quiet",
        "--leak-check=full",
        // Threads that run at the end own memory without a pointer to its start.
        "--show-leak-kinds=definite,indirect",
        "--errors-for-leak-kinds=definite,indirect",
    ]);
    command.arg(format!("--error-exitcode={FOUND}"));
    command.arg(program().get_program());
    let daemon = Daemon::start_as(command, args);
    let to = ([127, 0, 0, 1], daemon.address().port()).into();
    let peers: Vec<UdpSocket> = (0..4).map(|_| client(to)).collect();
    let refused = client(to);
    for round in 1..=ROUNDS {
        for peer in &peers {
            for payload in [&[1; 1500][..], &[2; 22], b"", b"short", &[3; 22]] {
                peer.send(payload).unwrap();
            }
        }
        for (peer, last) in peers.iter().zip([1, 22]) {
            send_gso_batch(peer, &[4; 11 * 22 + 22][..11 * 22 + last], 22);
        }
        refused.send(&[5; 300]).unwrap();
        // So that none is dropped.
        let sent = f64::from(u32::try_from(round * DATAGRAMS).unwrap());
        wait_until("the datagrams are received", || {
            daemon.metric("datagrams_received_total") >= sent
        });
    }
    daemon.assert_accounted_for();
    let log = daemon.shared_log();
    let status = daemon.stop();
    let found = |line: &&String| line.starts_with("==");
    let found: Vec<_> = log.lines().iter().filter(found).cloned().collect();
    assert_eq!(status.code(), Some(0), "{args:?}: {found:#?}");
    assert!(found.is_empty(), "{args:?}: {found:#?}");
}
