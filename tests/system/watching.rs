//! What others see of a daemon: `ss`, promtool, Prometheus.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::{Daemon, client, has_nothing, receive, request_to, wait_until};
use crate::namespace::shell;

#[test]
#[ignore = "needs ss, and root for large buffers; .ci/run runs it"]
fn the_buffer_gauges_are_what_ss_shows() {
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
fn promtool_has_nothing_to_say_about_the_metrics() {
    let daemon = Daemon::start(&["--recv-buffer=64KiB", "--send-buffer=64KiB"]);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    let metrics = daemon.get("/metrics").body;
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

#[test]
#[ignore = "needs prometheus; .ci/run runs it"]
fn a_real_prometheus_scrapes_it() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let peer = client(daemon.address());
    for number in 0..7_u8 {
        peer.send(&[number]).unwrap();
        assert_eq!(receive(&peer), [number]);
    }
    assert!(has_nothing(&peer));
    let prometheus = Prometheus::start(&daemon.http.unwrap().to_string());
    assert_eq!(prometheus.wait_for("up"), "1");
    assert_eq!(prometheus.wait_for("udp_echo_datagrams_echoed_total"), "7");
    assert_eq!(prometheus.wait_for("udp_echo_echoed_bytes_total"), "7");
}

/// A Prometheus that scrapes one target every second.
struct Prometheus {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Prometheus {
    fn start(target: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("udp-echo-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let configuration = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: udp-echo\n    \
             static_configs: [{{targets: ['{target}']}}]\n"
        );
        let file = folder.join("prometheus.yml");
        fs::write(&file, configuration).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed");
        Self {
            child,
            folder,
            port,
        }
    }

    /// Waits until a query has a result; its value.
    fn wait_for(&self, query: &str) -> String {
        let mut value = None;
        wait_until(query, || {
            value = self.ask(query);
            value.is_some()
        });
        value.unwrap()
    }

    /// The value of the first result: `…"value":[1700000000.1,"1"]…`.
    fn ask(&self, query: &str) -> Option<String> {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], self.port));
        std::net::TcpStream::connect(address).ok()?;
        let request = format!(
            "GET /api/v1/query?query={query} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        );
        let body = request_to(address, &request).body;
        let (_, rest) = body.split_once("\"value\":[")?;
        let (_, rest) = rest.split_once('"')?;
        Some(rest.split_once('"')?.0.to_owned())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
