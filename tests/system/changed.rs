//! Valid and invalid changes of units and options.

use crate::harness::{client, receive};
use crate::machine::{ECHO, METRICS, Machine};
use crate::package::package;

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn port_and_options_change_as_the_comments_say() {
    let machine = Machine::boot();
    machine.install(package(), "");
    options(
        &machine,
        "UDP_ECHO_MODE=echo\nUDP_ECHO_MAX_DATAGRAM=4\nUDP_ECHO_TIMEOUT=\n",
    );
    machine.shell("systemctl restart udp-echo");
    let peer = machine.inside(|| client(ECHO.parse().unwrap()));
    for _ in 0..2 {
        peer.send(b"123456").unwrap();
        assert_eq!(receive(&peer), b"1234");
    }

    // Sockets with other ports, several, and IPv6, with a worker each. Restarted as the unit's
    // comment says: systemd does not open a socket again while the service runs.
    let restart = machine.shell("sed -n 's/^#   //p' /usr/lib/systemd/system/udp-echo.socket");
    let restart = restart
        .lines()
        .find(|line| line.starts_with("systemctl restart"))
        .unwrap();
    options(&machine, "UDP_ECHO_MODE=echo\n");
    let several = &["127.0.0.1:7777", "127.0.0.2:7778", "[::1]:7777"][..];
    for addresses in [several, &["127.0.0.1:7001"], &["[::]:7002"], several] {
        let lines = addresses
            .iter()
            .map(|address| format!("ListenDatagram={address}\n"));
        let text = ["[Socket]\nListenDatagram=\n".to_owned()]
            .into_iter()
            .chain(lines);
        drop_in(&machine, "udp-echo.socket", &text.collect::<String>());
        machine.shell(restart);
        let metrics = machine.metrics();
        let gauge = "udp_echo_socket_receive_buffer_bytes{";
        let workers = metrics.keys().filter(|series| series.starts_with(gauge));
        assert_eq!(workers.count(), addresses.len(), "{metrics:#?}");
        for address in addresses {
            machine.assert_echoes(&address.replace("[::]", "127.0.0.1"), 3);
            let labels = format!("listen=\"{address}\",worker=\"0\"}}");
            assert!(
                metrics.contains_key(&format!("{gauge}{labels}")),
                "{metrics:#?}"
            );
        }
    }
    assert_eq!(machine.shell("ss -Hnlu 'sport = :9999'"), "");

    // Several workers on one address.
    let twice = "[Socket]\nListenDatagram=127.0.0.1:9999\nReusePort=yes\n";
    undo(&machine);
    drop_in(&machine, "udp-echo.socket", twice);
    machine.shell(restart);
    for worker in ["0", "1"] {
        let drops = format!("socket_drops_total{{listen=\"{ECHO}\",worker=\"{worker}\"}}");
        assert!(machine.metric(&drops).abs() < 0.5);
    }
    for _ in 0..20 {
        machine.assert_echoes(ECHO, 1);
    }
    undo(&machine);

    // Without sockets, by the commands of the service's comment.
    let comment = machine.shell(
        "sed -n '/^# To run the daemon without/,/^$/s/^#   //p' \
         /usr/lib/systemd/system/udp-echo.service",
    );
    let (settings, commands): (Vec<_>, Vec<_>) =
        comment.lines().partition(|line| line.starts_with(' '));
    assert_eq!(settings.first(), Some(&"  [Service]"), "{comment}");
    options(
        &machine,
        "UDP_ECHO_MODE=echo\nUDP_ECHO_LISTEN=127.0.0.1:9999,[::1]:9998\n",
    );
    let cursor = machine.cursor();
    for command in commands {
        if command == "systemctl edit udp-echo.service" {
            drop_in(&machine, "udp-echo.service", &settings.join("\n"));
        } else {
            machine.shell(command);
        }
    }
    machine.assert_echoes(ECHO, 3);
    machine.assert_echoes("[::1]:9998", 3);
    assert!(machine.metric("datagrams_received_total") > 5.0);
    machine.shell("! systemctl is-active udp-echo.socket udp-echo-metrics.socket");
    let journal = machine.journal(&cursor, "-o cat");
    assert!(!journal.contains("systemd passed in sockets"), "{journal}");
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn queued_datagrams_are_answered_and_old_drops_not_counted() {
    let machine = Machine::boot();
    machine.install(package(), "");
    // A start that waits for a file, and a small receive buffer.
    drop_in(
        &machine,
        "udp-echo.service",
        "[Service]\nExecStartPre=sh -c 'until [ -e /run/go ]; do sleep 0.05; done'\n",
    );
    drop_in(&machine, "udp-echo.socket", "[Socket]\nReceiveBuffer=64K\n");
    options(&machine, "UDP_ECHO_MODE=echo\n");
    machine.shell(
        "systemctl stop udp-echo.service; \
         systemctl restart udp-echo.socket udp-echo-metrics.socket",
    );
    let peer = machine.inside(|| client(ECHO.parse().unwrap()));
    for number in 0..1000_u16 {
        peer.send(&number.to_be_bytes()).unwrap();
    }
    machine.wait_for("ActiveState", "activating");
    let drops = machine.shell("ss -Hnulm 'sport = :9999'");
    let (_, drops) = drops.rsplit_once(",d").expect("drops");
    let drops: u16 = drops.trim().trim_end_matches(')').parse().unwrap();
    assert!((1..1000).contains(&drops), "{drops}");
    machine.shell("touch /run/go");
    for number in 0..1000 - drops {
        assert_eq!(receive(&peer), number.to_be_bytes());
    }
    machine.wait_for("ActiveState", "active");
    let labels = format!("{{listen=\"{ECHO}\",worker=\"0\"}}");
    for (series, value) in [
        ("datagrams_received_total", f64::from(1000 - drops)),
        (&*format!("socket_drops_total{labels}"), 0.0),
    ] {
        let got = machine.metric(series);
        assert!((got - value).abs() < 0.5, "{series} is {got}, not {value}");
    }
    undo(&machine);

    // Exit when idle: the next datagram starts the service again.
    options(
        &machine,
        "UDP_ECHO_MODE=echo\nUDP_ECHO_EXIT_ON=timeout\nUDP_ECHO_TIMEOUT=0.5\n",
    );
    machine.shell("systemctl restart udp-echo");
    for _ in 0..8 {
        machine.assert_echoes(ECHO, 1);
        machine.wait_for("ActiveState", "inactive");
        assert_eq!(machine.property("udp-echo", "Result"), "success");
    }
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn wrong_sockets_are_errors_until_they_are_corrected() {
    let machine = Machine::boot();
    machine.install(package(), "");
    // Sockets of the wrong type or name.
    let stream = format!("[Socket]\nListenDatagram=\nListenStream={ECHO}\n");
    let datagram = format!("[Socket]\nListenStream=\nListenDatagram={METRICS}\n");
    let stray = "[Service]\nSockets=stray.socket\n";
    for (unit, text, line) in [
        ("udp-echo.socket", &*stream, "passed in as echo: it is "),
        (
            "udp-echo-metrics.socket",
            &*datagram,
            "passed in as metrics: it is not a listening TCP socket",
        ),
        (
            "udp-echo.service",
            stray,
            "passed in as \"stray\": unknown name",
        ),
    ] {
        undo(&machine);
        machine.write(
            "/etc/systemd/system/stray.socket",
            "[Socket]\nListenDatagram=127.0.0.1:7000\nFileDescriptorName=stray\n\
             Service=udp-echo.service\n",
        );
        drop_in(&machine, unit, text);
        let cursor = machine.cursor();
        let (status, _, _) =
            machine.attempt("systemctl restart udp-echo.socket udp-echo-metrics.socket udp-echo");
        assert!(!status.success(), "{unit}");
        machine.wait_for_line(&cursor, line);
        machine.wait_for("SubState", "auto-restart");
    }
    undo(&machine);
    machine.assert_echoes(ECHO, 1);
}

/// Sets the options of the service.
fn options(machine: &Machine, text: &str) {
    machine.write("/etc/default/udp-echo", text);
}

/// Changes a unit as `systemctl edit` does.
fn drop_in(machine: &Machine, unit: &str, text: &str) {
    machine.write(&format!("/etc/systemd/system/{unit}.d/override.conf"), text);
    machine.shell("systemctl daemon-reload");
}

/// Removes all changes of the units, and restarts them.
fn undo(machine: &Machine) {
    machine.shell(
        "systemctl stop udp-echo.socket udp-echo-metrics.socket udp-echo.service stray.socket 2>&1; \
         rm -rf /etc/systemd/system/udp-echo*.d /etc/systemd/system/stray.socket; \
         systemctl daemon-reload; systemctl reset-failed; \
         systemctl start udp-echo.socket udp-echo-metrics.socket udp-echo.service",
    );
}
