//! A daemon as seen by `ss`, promtool and Prometheus.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::{Daemon, client, has_nothing, receive};
use crate::namespace::shell;
use crate::prometheus::{EXAMPLES, Prometheus, example, monitor_example};

#[path = "../harness/monitor.rs"]
mod monitor;

#[test]
#[ignore = "needs ss, and root for large buffers; .ci/run runs it"]
fn buffer_gauges_match_the_output_of_ss() {
    for args in [
        &[][..],
        &["--recv-buffer=64KiB", "--send-buffer=32KiB"],
        &["--recv-buffer=8MiB", "--send-buffer=16MiB", "--workers=2"],
    ] {
        let daemon = Daemon::start(args);
        let port = daemon.address().port();
        let shown = shell(&format!("ss -ulnm 'sport = :{port}'"));
        let workers = if args.len() == 3 { 2 } else { 1 };
        assert_eq!(shown.matches("skmem:").count(), workers, "{shown}");
        for worker in 0..workers {
            let labels = format!("{{listen=\"127.0.0.1:{port}\",worker=\"{worker}\"}}");
            let gauge = |name: &str| daemon.metric(&format!("{name}{labels}"));
            for (name, field) in [
                ("socket_receive_buffer_bytes", "rb"),
                ("socket_send_buffer_bytes", "tb"),
            ] {
                let expected = format!(",{field}{},", gauge(name));
                assert!(shown.contains(&expected), "{expected} in {shown}");
            }
        }
    }
}

#[test]
#[ignore = "needs promtool; .ci/run runs it"]
fn metrics_pass_the_check_of_promtool() {
    let daemon = Daemon::start(&["--recv-buffer=64KiB", "--send-buffer=64KiB"]);
    for metrics in [daemon.get("/metrics").body, monitor::text()] {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is installed");
        let mut input = promtool.stdin.take().unwrap();
        input.write_all(metrics.as_bytes()).unwrap();
        drop(input);
        let output = promtool.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(
            output.stdout.is_empty() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
}

#[test]
#[ignore = "needs prometheus; .ci/run runs it"]
fn prometheus_scrapes_the_running_daemon() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let peer = client(daemon.address());
    for number in 0..7_u8 {
        peer.send(&[number]).unwrap();
        assert_eq!(receive(&peer), [number]);
    }
    assert!(has_nothing(&peer));
    let prometheus = Prometheus::start(&example(&[daemon.http.unwrap().to_string()]));
    prometheus.wait_for("up", 1.0);
    prometheus.wait_for("udp_echo_datagrams_echoed_total", 7.0);
    prometheus.wait_for("udp_echo_echoed_bytes_total", 7.0);
    prometheus.wait_for_rules();
}

#[test]
#[ignore = "needs promtool; .ci/run runs it"]
fn prometheus_rules_pass_their_promtool_tests() {
    let promtool = |arguments: &str| {
        let done = shell(&format!(
            "cd {EXAMPLES}/prometheus && promtool {arguments} 2>&1"
        ));
        assert!(done.contains("SUCCESS"), "{done}");
    };
    promtool(
        "check rules recording.rules.yml alerting.rules.yml monitor.recording.rules.yml \
         monitor.alerting.rules.yml",
    );
    promtool("test rules tests.yml");
    for scrape in [example(&["127.0.0.1:9862".to_owned()]), monitor_example()] {
        let file = std::env::temp_dir().join(format!("udp-echo-scrape-{}.yml", std::process::id()));
        fs::write(&file, scrape).unwrap();
        promtool(&format!("check config {}", file.display()));
        fs::remove_file(file).unwrap();
    }

    // Each alert and each recording rule has a test.
    let read = |name: &str| fs::read_to_string(format!("{EXAMPLES}/prometheus/{name}")).unwrap();
    let tests = read("tests.yml");
    let both = |kind: &str| ["", "monitor."].map(|of| read(&format!("{of}{kind}.rules.yml")));
    let alerts = both("alerting").concat();
    for name in alerts.split("- alert: ").skip(1) {
        let name = name.lines().next().unwrap();
        for (wanted, what) in [
            (format!("alertname: {name}, exp_alerts: []"), "stays silent"),
            (format!("alertname: {name}\n"), "fires"),
        ] {
            assert!(tests.contains(&wanted), "no test when {name} {what}");
        }
    }
    for name in both("recording").concat().split("- record: ").skip(1) {
        let name = name.lines().next().unwrap();
        assert!(tests.contains(&format!("- expr: {name}")), "{name}");
    }
}
