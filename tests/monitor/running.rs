//! Start, service manager, limits and stop.

use std::net::TcpListener;
use std::time::Duration;

use nix::sys::resource::Resource;
use nix::sys::signal::Signal;

use crate::harness::confined::limited;
use crate::harness::service::assert_has;
use crate::harness::{program, wait_until_stopped};
use crate::process::{Monitor, Reflector, file, targets};
use crate::{ended, monitor};

#[test]
fn manager_gets_ready_status_and_heartbeats() {
    let reflector = Reflector::start(|_| 1);
    let folder = targets(
        "mode = \"echo\"\ninterval = 0.02",
        &[("a", reflector.address, "")],
    );
    let mut command = program();
    command.env("WATCHDOG_USEC", "500000");
    let monitor = Monitor::start_as(command, &format!("--config={}", file(&folder)));
    // HTTP answers from the message on.
    assert_eq!(monitor.get("/-/ready").body, "ready\n");
    let start = format!("probing 1 target, metrics on {}; ", monitor.http());
    assert!(monitor.service.status.starts_with(&start), "{start}");
    let manager = &monitor.service.manager;
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    let status = manager.wait_for(" sent, ");
    assert_has(&status, &format!("STATUS={start}"));
    monitor.service.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    assert_eq!(monitor.stop().code(), Some(0));
}

#[test]
fn stop_signal_ends_the_monitor_with_status_0() {
    // Requests stay in flight for an hour, and a name may be unresolved.
    let silent = Reflector::start(|_| 0);
    let folder = targets(
        "mode = \"echo\"\ninterval = 0.002\nwait = 3600",
        &[("a", silent.address, "flows = 8")],
    );
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let args = format!("--config={} no-such-host.invalid:9", file(&folder));
        let mut monitor = Monitor::start_as(program(), &args);
        monitor.wait_for("requests are in flight", |seen| {
            seen.of("a", "requests_in_flight") > 20
        });
        monitor.service.signal(signal);
        monitor.service.manager.wait_for("STOPPING=1");
        assert_eq!(monitor.service.wait().code(), Some(0), "{signal}");
        monitor.wait_for_log(&format!("stopping: received {signal}"));
        let lines = monitor.logged("did not stop in time");
        assert_eq!(lines, Vec::<String>::new());
    }
}

#[test]
fn metrics_port_in_use_names_the_option_or_variable() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let line = |setting| {
        format!(
            "udp-echo: cannot listen on TCP {address} for metrics: Address already in use \
             (os error 98); `ss -tlnp` shows the process that uses it: stop it or change {setting}\n"
        )
    };
    let option = format!("--metrics-listen={address} 127.0.0.1:9");
    let by_option = ended(&mut monitor(&option));
    let expected = |setting| (Some(1), String::new(), line(setting));
    assert_eq!(by_option, expected("--metrics-listen"));
    let name = "UDP_ECHO_MONITOR_METRICS_LISTEN";
    let mut command = monitor("127.0.0.1:9");
    command.env(name, address.to_string());
    assert_eq!(ended(&mut command), expected(name));
}

#[test]
fn targets_beyond_the_descriptor_limit_leave_others_and_http() {
    let reflector = Reflector::start(|_| 1);
    let names: Vec<_> = (0..40).map(|number| format!("t{number}")).collect();
    let all: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), reflector.address, ""))
        .collect();
    let folder = targets("mode = \"echo\"\ninterval = 0.05\nwait = 0.5", &all);
    let args = format!("--config={}", file(&folder));
    let monitor = Monitor::start_as(limited(Resource::RLIMIT_NOFILE, 64), &args);
    monitor.wait_for_log("cannot probe target ");
    let seen = monitor.wait_for("every target has sent requests", |seen| {
        let sent = |name: &String| seen.of(name, "requests_sent_total");
        names.iter().map(sent).min() > Some(20)
    });
    let (open, failed): (Vec<_>, Vec<_>) = names
        .iter()
        .partition(|name| seen.of(name, "replies_received_total") > 0);
    assert!(open.len() >= 8 && failed.len() >= 8, "{} open", open.len());
    for name in &failed {
        seen.assert_accounted_for(name);
        assert!(seen.of(name, "send_errors_total") > 0, "{name}");
        // One line for each target, not for each request.
        let lines = monitor.logged(&format!("cannot probe target {name:?}: "));
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert_has(&lines[0], "open file");
    }
    for name in &open {
        assert_eq!(seen.of(name, "send_errors_total"), 0, "{name}");
    }
    assert_eq!(monitor.get("/-/healthy").status, 200);
    assert_eq!(monitor.stop().code(), Some(0));
}

#[test]
fn suspended_monitor_counts_requests_that_are_not_sent() {
    let reflector = Reflector::start(|_| 1);
    let folder = targets(
        "mode = \"echo\"\ninterval = 0.02\nwait = 60",
        &[("a", reflector.address, "")],
    );
    let monitor = Monitor::start_with(&folder);
    monitor.wait_for("there are replies", |seen| {
        seen.of("a", "replies_received_total") > 3
    });
    monitor.service.signal(Signal::SIGSTOP);
    wait_until_stopped(&monitor.service.pid().to_string());
    std::thread::sleep(Duration::from_millis(600));
    monitor.service.signal(Signal::SIGCONT);
    let seen = monitor.wait_for("skipped requests are counted", |seen| {
        seen.own("requests_not_sent_total") > 10
    });
    assert_eq!(seen.of("a", "requests_lost_total"), 0);
    seen.assert_accounted_for("a");
}
