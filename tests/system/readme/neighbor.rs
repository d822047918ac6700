//! Clients of other projects, on a host beside the reflector's.

use std::process::ExitStatus;
use std::time::Instant;

use crate::harness::DEADLINE;
use crate::harness::readme::{self, Place, bare};
use crate::namespace::Namespace;

use super::claims::{HELLO, claims};
use super::typed::Typed;

const LISTEN: &str = "--listen=10.77.0.1:9999";

#[test]
#[ignore = "needs root, nping, hping3, ncat, socat and Python; .ci/run runs it"]
fn every_other_client_receives_replies_in_echo_mode() {
    let (server, neighbor) = hosts();
    let daemon = server.daemon(&["--mode=echo", LISTEN]);
    let mut count = 0;
    for section in readme::sections() {
        for passage in &section.passages {
            for command in section.commands(passage, Place::Neighbor) {
                let claims = claims(passage, command);
                assert!(!claims.is_empty(), "how does a reply to {command} show?");
                let deadline = Instant::now() + DEADLINE;
                loop {
                    let (status, said) = types(&neighbor, command);
                    let is_right = claims.iter().all(|claim| said.contains(claim));
                    if status.success() && is_right {
                        break;
                    }
                    // On a busy machine a reply may come after the client stopped waiting.
                    let late = Instant::now() > deadline;
                    assert!(!late, "{command}: {status}, not {claims:?}: {said}");
                }
                count += 1;
            }
        }
    }
    assert!(count > 4, "{count}");
    let refused = server.inside(|| daemon.metric("datagrams_refused_total"));
    assert!(refused < 0.5, "{refused}");
}

#[test]
#[ignore = "needs root and nping; .ci/run runs it"]
fn nping_needs_a_source_port_and_echo_mode() {
    let (server, neighbor) = hosts();
    let daemon = server.daemon(&[LISTEN]);
    let label = "reason=\"source_port\"";
    let series = format!("datagrams_refused_total{{listen=\"10.77.0.1:9999\",{label}}}");
    for (options, series) in [("", &*series), ("-g 40000", "datagrams_empty_total")] {
        let command = format!("nping --udp {options} -p 9999 -c 2 reflector");
        let (_, said) = types(&neighbor, &command);
        assert!(said.contains(" Lost: 2 (100.00%)"), "{command}: {said}");
        server.inside(|| daemon.wait_for_metric(series, 2.0));
    }
}

/// The hosts of a reflector and of a client that knows the reflector by name.
fn hosts() -> (Namespace, Namespace) {
    let (server, neighbor) = Namespace::pair();
    neighbor.write_hosts("10.77.0.1\treflector\n");
    (server, neighbor)
}

/// Runs a command, and enters a line if the command reads lines. Returns its status and output.
fn types(neighbor: &Namespace, command: &str) -> (ExitStatus, String) {
    eprintln!("{command}");
    let mut shell = neighbor.command("sh");
    shell.args(["-c", bare(command)]);
    let is_reading = ["ncat ", "socat "]
        .iter()
        .any(|program| command.starts_with(program));
    let mut typed = if is_reading {
        let mut typed = Typed::start_reading(shell, command);
        typed.enter(HELLO);
        typed
    } else {
        Typed::start(shell, command)
    };
    (typed.wait(), typed.said())
}
