//! The HTTP port of the monitor.

use crate::harness::Daemon;
use crate::harness::service::assert_has;
use crate::process::Monitor;

#[test]
fn http_paths_answer_get_and_head_and_refuse_others() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let monitor = Monitor::start(&daemon.address().to_string());
    let metrics = "text/plain; version=0.0.4; charset=utf-8";
    let sample = "\nudp_echo_monitor_config_reload_success 1\n";
    let text = "text/plain; charset=utf-8";
    let probe = format!("/probe?target={}&mode=echo&count=1", daemon.address());
    for (path, kind, part) in [
        ("/", "text/html; charset=utf-8", "href=\"/metrics\""),
        ("/metrics", metrics, sample),
        ("/metrics?a=b", metrics, sample),
        ("/-/healthy", text, "healthy\n"),
        ("/-/ready", text, "ready\n"),
        (&probe, metrics, "\nprobe_success 1\n"),
    ] {
        let full = monitor.get(path);
        assert_eq!(full.status, 200, "{path}: {}", full.body);
        let kind = format!("\r\ncontent-type: {kind}\r\n");
        assert_has(&full.head, &kind);
        assert_has(&full.body, part);

        let head = monitor.ask("HEAD", path);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "HEAD {path}");
        assert_has(&head.head, &kind);

        for method in ["POST", "PUT", "DELETE", "BREW"] {
            let refused = monitor.ask(method, path);
            assert_eq!(refused.status, 405, "{method} {path}");
            assert_has(&refused.head, "\r\nallow: get,head\r\n");
        }
    }
    for path in "/nope //metrics /metrics/ /probe/ /-/ /../etc/passwd /%00".split(' ') {
        assert_eq!(monitor.get(path).status, 404, "{path}");
    }
}

#[test]
fn probe_endpoint_is_off_or_restricted_by_its_options() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let target = daemon.address();
    let path = format!("/probe?target={target}&mode=echo&count=2&interval=10ms");
    let asked = |args: &str| {
        let monitor = Monitor::start(&format!("{args} {target}"));
        let answer = monitor.get(&path);
        assert_eq!(monitor.get("/-/ready").status, 200, "{args}");
        (answer.status, answer.body)
    };
    let (status, body) = asked("--probe-allow=127.0.0.0/8");
    assert_eq!(status, 200, "{body}");
    assert_has(&body, "\nprobe_success 1\n");
    assert_has(&body, "\nprobe_udp_sent 2\n");
    assert_eq!(asked("--probe-endpoint=off").0, 404);
    let refused = format!("cannot probe \"{target}\": --probe-allow does not permit it\n");
    let asked = asked("--probe-allow=192.0.2.0/24,2001:db8::/32");
    assert_eq!(asked, (403, refused));
}

#[test]
fn status_page_names_targets_and_options() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let address = daemon.address();
    let monitor = Monitor::start(&format!("{address} no-such-host.invalid"));
    let page = monitor.get("/").body;
    assert_has(&page, &address.to_string());
    assert_has(&page, "no-such-host.invalid");
    assert_has(&page, "UDP_ECHO_MONITOR_PROBE_ENDPOINT");
    assert_has(&page, "<noscript>");
    let main = monitor.get("/?main").body;
    assert!(!main.contains("<html"), "{main}");
    assert_has(&main, &address.to_string());
}
