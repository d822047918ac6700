//! The program goes away while the daemon runs, and the daemon's reports of its echoes.

use std::time::{Duration, SystemTime};

use super::{Attached, LISTEN, Side};
use crate::harness::service::{Service, assert_has};
use crate::harness::{answer_to, program, receive, samples, total, wait_until};
use crate::namespace::Namespace;

/// A daemon that needs the program, under a service manager.
fn service(attached: &Attached<'_>) -> Service {
    let host = attached.host;
    let mut command = host.command(program().get_program().to_str().unwrap());
    command.env("UDP_ECHO_LISTEN", LISTEN);
    let pins = format!("--pins={}", attached.pins());
    host.inside(|| Service::start(command, &["--mode=echo", "--kernel-echo=require", &pins]))
}

/// The answer to a request of HTTP.
fn get(host: &Namespace, service: &Service, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    host.inside(|| answer_to(service.http.unwrap(), request.as_bytes()))
}

/// The values of these metrics at one time.
fn metrics<const N: usize>(host: &Namespace, service: &Service, names: [&str; N]) -> [f64; N] {
    let answer = get(host, service, "/metrics");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let all = samples(body);
    names.map(|name| total(&all, name))
}

#[test]
#[ignore = "needs root, BPF and ethtool; .ci/run runs it"]
fn daemon_warns_once_and_echoes_when_its_program_goes() {
    needs_bpf!();
    let (server, clients) = Namespace::pair();
    for is_deleted in [false, true] {
        let attached = Attached::new(&server, Side::Server);
        let service = service(&attached);
        let active = || {
            let [active] = metrics(&server, &service, ["kernel_echo_active"]);
            active > 0.5
        };
        assert!(active());
        if is_deleted {
            server.shell("ip link delete eth0");
            server.join(&clients);
        } else {
            attached.detach();
        }
        assert!(!active());
        assert_has(
            &get(&server, &service, "/"),
            "<td class=\"bad\">not attached",
        );
        let client = clients.client("10.77.0.2:0", LISTEN.parse().unwrap());
        while service
            .manager
            .next_within(Duration::from_millis(1))
            .is_some()
        {}
        // The daemon looks for its program before each message about a datagram.
        for _ in 0..4 {
            client.send(b"a datagram").unwrap();
            assert_eq!(receive(&client), b"a datagram");
            service.manager.next();
        }
        let (status, log) = service.end_with_whole_log();
        assert!(status.success(), "{log}");
        assert_has(
            &log,
            "kernel path disabled on eth0: its program is no longer attached",
        );
        assert_eq!(log.matches(" WARN ").count(), 1, "{log}");
    }
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn daemon_refuses_a_program_that_has_gone_at_its_start() {
    needs_bpf!();
    let (server, clients) = Namespace::pair();
    let attached = Attached::new(&server, Side::Server);
    server.shell("ip link delete eth0");
    server.join(&clients);
    let mut command = server.command(program().get_program().to_str().unwrap());
    command.args(["--mode=echo", "--kernel-echo=require", "--listen", LISTEN]);
    command.args(["--metrics-listen=none", "--pins", &attached.pins()]);
    let (status, _, said) = crate::harness::run(&mut command);
    assert_eq!(status.code(), Some(1), "{said}");
    let expected = "udp-echo: cannot use the kernel path: the program on eth0 has gone with its \
                    interface; run `udp-echo detach`, then `udp-echo attach`\n";
    assert_eq!(said, expected);
    // The pins of the old interface are no obstacle.
    let (success, said) = attached.attach(&["--interface=eth0", "--listen", LISTEN]);
    assert!(success, "{said}");
    assert!(attached.is_attached());
}

#[test]
#[ignore = "needs root, BPF and ethtool; .ci/run runs it"]
fn status_page_and_metrics_show_echoes_of_the_program() {
    const NAMES: [&str; 4] = [
        "datagrams_received_total",
        "kernel_echo_datagrams_total",
        "kernel_echo_passed_total",
        "last_datagram_timestamp_seconds",
    ];
    needs_bpf!();
    let (server, clients) = Namespace::pair();
    let _peer = Attached::peer(&clients);
    clients.shell("ethtool -K eth0 tx off");
    let attached = Attached::new(&server, Side::Server);
    let service = service(&attached);
    let client = clients.client("10.77.0.2:0", LISTEN.parse().unwrap());
    let read = || metrics(&server, &service, NAMES);
    let mut last = [0.0; 4];
    wait_until("the program answers 20 datagrams in a row", || {
        let before = read();
        // The program reads a clock that a timer advances.
        std::thread::sleep(Duration::from_millis(50));
        for _ in 0..20 {
            client.send(b"a datagram").unwrap();
            assert_eq!(receive(&client), b"a datagram");
        }
        last = read();
        assert!(last[3] > before[3], "{before:?} {last:?}");
        (last[1] - before[1] - 20.0).abs() < 0.5
    });
    let [received, by_program, passed, at] = last;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    assert!(at <= now.unwrap().as_secs_f64() + 1.0);
    // Without datagrams, nothing changes.
    assert_eq!(read().map(f64::to_bits), last.map(f64::to_bits));
    service
        .manager
        .wait_for(&format!("; {received} received, {received} echoed, "));
    let page = get(&server, &service, "/");
    let row = format!("eth0<td>attached<td>{by_program}<td>{passed}<td>{LISTEN}\n");
    assert_has(&page.replace('\u{202f}', ""), &row);
    assert_has(&page, "ago</b>last datagram");
}
