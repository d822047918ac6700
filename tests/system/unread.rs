//! A stopped journald delays neither replies nor the stop of the service.

use std::time::{Duration, Instant};

use crate::harness::{client, receive, wait_until};
use crate::machine::{ECHO, Machine};
use crate::package::package;

const DATAGRAMS: u32 = 20_000;
/// The promise is 1 s; a machine that is busy with tests may be slower.
const STOP: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn stopped_journald_blocks_nothing_and_losses_are_counted() {
    let machine = Machine::boot();
    machine.install(package(), "");
    machine.shell(
        "printf '%s\\n' UDP_ECHO_MODE=echo UDP_ECHO_LOG=warn,udp_echo::worker=debug \
         >>/etc/default/udp-echo; systemctl restart udp-echo",
    );
    let cursor = machine.cursor();
    let pid = machine.main_pid().unwrap();
    machine.shell("systemctl kill --kill-who=main -s STOP systemd-journald");
    echoes_on(&machine);
    let lost = machine.metric("log_lines_dropped_total");
    assert!(lost > 0.0);
    // journald resumes and gets the number of lost lines.
    machine.shell("systemctl kill --kill-who=main -s CONT systemd-journald");
    let reported = || -> f64 {
        let journal = machine.journal(&cursor, "-o cat");
        let warnings = journal
            .lines()
            .filter(|line| line.contains(" dropped: the log could not keep up"));
        let numbers = warnings.filter_map(|line| line.split(' ').next());
        numbers
            .filter_map(|number| number.parse::<f64>().ok())
            .sum()
    };
    wait_until("all losses are reported", || {
        (reported() - machine.metric("log_lines_dropped_total")).abs() < 0.5
    });
    let lost = machine.metric("log_lines_dropped_total");
    eprintln!("journald stopped: {lost} of {} lines lost", 2 * DATAGRAMS);
    assert_eq!(machine.main_pid(), Some(pid), "the daemon was restarted");

    machine.shell("systemctl kill --kill-who=main -s STOP systemd-journald");
    echoes_on(&machine);
    let start = Instant::now();
    machine.shell(&format!(
        "kill -TERM {pid}; while kill -0 {pid} 2>/dev/null; do :; done"
    ));
    let took = start.elapsed();
    machine.shell("systemctl kill --kill-who=main -s CONT systemd-journald");
    eprintln!("journald stopped: ended after {} ms", took.as_millis());
    assert!(took < STOP, "{took:?}");
    machine.wait_for("Result", "success");
}

/// Sends [`DATAGRAMS`] datagrams, some at once, and receives the replies.
fn echoes_on(machine: &Machine) {
    const AT_ONCE: u32 = 50;
    let peer = machine.inside(|| client(ECHO.parse().unwrap()));
    for round in 0..DATAGRAMS / AT_ONCE {
        let numbers = round * AT_ONCE..(round + 1) * AT_ONCE;
        for number in numbers.clone() {
            peer.send(&number.to_be_bytes()).unwrap();
        }
        for number in numbers {
            assert_eq!(receive(&peer), number.to_be_bytes());
        }
    }
}
