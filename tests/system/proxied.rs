//! Metrics behind nginx with TLS and a password: the example of `packaging/nginx/`.

use std::fs;

use crate::balanced::Nginx;
use crate::harness::tidy::Folder;
use crate::harness::{Daemon, receive, run, wait_until};
use crate::namespace::{Namespace, shell};
use crate::prometheus::{EXAMPLES, Prometheus};

const NAME: &str = "reflector.example.org";
const PASSWORD: &str = "a password: with $ and a space";

#[test]
#[ignore = "needs root, nginx, openssl and curl; .ci/run runs it"]
fn nginx_serves_metrics_only_by_tls_with_a_password() {
    let proxied = Proxied::start();
    let get = |options: &str, path: &str| proxied.get(options, path);
    let user = format!("--user 'prometheus:{PASSWORD}'");
    for path in ["/metrics", "/", "/?main", "/-/healthy", "/-/ready"] {
        for wrong in ["", "--user prometheus:wrong", "--user other:wrong"] {
            let (status, answer) = get(wrong, path);
            assert_eq!(status, "401", "{wrong} {path}: {answer}");
            assert!(!answer.contains("udp-echo ") && !answer.contains("udp_echo_"));
        }
        let (status, answer) = get(&user, path);
        assert_eq!(status, "200", "{path}: {answer}");
    }
    assert!(get(&user, "/metrics").1.contains("\nudp_echo_build_info{"));
    let page = get(&user, "/").1;
    assert!(page.contains("<title>") && page.contains("9999"), "{page}");
    let links: Vec<_> = page.split("href=\"/").skip(1).collect();
    for link in &links {
        let path = format!("/{}", link.split('"').next().unwrap());
        assert_eq!(get(&user, &path).0, "200", "{path}");
    }
    assert_eq!(links.len(), 3, "{page}");
    // The daemon gets one Host, whatever the client sends.
    for version in [
        "--http1.0 --header Host:",
        "--http1.1 --header 'Host: other'",
    ] {
        assert_eq!(get(&format!("{user} {version}"), "/metrics").0, "200");
    }

    // Nothing else is passed on, and the version of nginx is not shown.
    for path in ["/-/", "/-/healthy/", "/probe", "/metrics/", "//metrics"] {
        assert_eq!(get(&user, path).0, "404", "{path}");
    }
    let (status, answer) = get(&format!("{user} --include"), "/none");
    assert_eq!(status, "404");
    assert!(answer.contains("\nServer: nginx\r\n"), "{answer}");
    assert!(!answer.contains("nginx/"), "{answer}");
}

#[test]
#[ignore = "needs root, nginx, openssl and curl; .ci/run runs it"]
fn nginx_refuses_plain_http_and_old_tls() {
    let proxied = Proxied::start();
    let user = format!("--user 'prometheus:{PASSWORD}'");
    let plain = format!("curl -s {user} -w '%{{http_code}}' http://localhost");
    let answer = proxied.host.shell(&format!("{plain}:443/metrics"));
    assert!(answer.ends_with("400") && !answer.contains("udp_echo_"));
    // Nothing redirects: that would invite clients to send the password in plain text.
    let refused = proxied.host.shell(&format!("{plain}/metrics || echo $?"));
    assert_eq!(refused, "0007\n");

    let connect = |version: &str| {
        let mut command = proxied.host.command("openssl");
        command.args(["s_client", "-connect", "localhost:443", version]);
        // The client would refuse the old versions, too.
        let (status, _, err) = run(command.args(["-cipher", "DEFAULT:@SECLEVEL=0"]));
        (status.success(), err.contains("alert protocol version"))
    };
    for (version, allowed) in [
        ("-tls1", false),
        ("-tls1_1", false),
        ("-tls1_2", true),
        ("-tls1_3", true),
    ] {
        assert_eq!(connect(version), (allowed, !allowed), "{version}");
    }
}

#[test]
#[ignore = "needs root, nginx, openssl and curl; .ci/run runs it"]
fn nginx_limits_the_rate_of_password_guesses() {
    let proxied = Proxied::start();
    let guess = "--user prometheus:wrong -o /dev/null";
    let mut refused = [0, 0];
    // A request takes far less than a tenth of a second, unless the machine is busy.
    wait_until("nginx refuses a guess", || {
        for line in proxied.tried(guess, "/metrics?[1-200]").lines() {
            match line {
                "401" => refused[0] += 1,
                "429" => refused[1] += 1,
                "" => {}
                other => panic!("{other}"),
            }
        }
        refused[1] > 0
    });
    assert!(refused[0] > 19, "{refused:?}");
    // The limit comes before the password, and ends.
    let user = format!("--user 'prometheus:{PASSWORD}'");
    assert_eq!(proxied.get(&user, "/metrics").0, "200");
}

#[test]
#[ignore = "needs root, nginx, openssl and prometheus; .ci/run runs it"]
fn prometheus_scrapes_through_nginx_with_the_example() {
    let proxied = Proxied::start();
    let peer = proxied.host.client("127.0.0.1:0", proxied.daemon.address());
    for number in 0..7_u8 {
        peer.send(&[number]).unwrap();
        assert_eq!(receive(&peer), [number]);
    }
    let password = proxied.folder.join("udp-echo.password");
    fs::write(password, PASSWORD).unwrap();
    let scrape = fs::read_to_string(format!("{EXAMPLES}/nginx/scrape.yml")).unwrap();
    let scrape = scrape
        .replace("/etc/prometheus", proxied.folder.to_str().unwrap())
        .replace("scrape_interval: 15s", "scrape_interval: 1s");
    let scrape = scrape.replace(NAME, "localhost");
    // The second job is a comment.
    let both = scrape.replace("\n  #- ", "\n  - ");
    let both = both.replace("\n  #  ", "\n    ");
    assert_eq!(both.matches("\n  - job_name:").count(), 2, "{both}");
    let changed = proxied.folder.join("both.yml");
    fs::write(&changed, both).unwrap();
    let report = shell(&format!(
        "promtool check config --syntax-only {}",
        changed.display()
    ));
    assert!(report.contains("SUCCESS"), "{report}");
    let up = "up{job=\"udp-echo\", instance=\"localhost:443\"}";
    proxied.host.inside(|| {
        let prometheus = Prometheus::start(&scrape);
        prometheus.wait_for(up, 1.0);
        prometheus.wait_for("udp_echo_datagrams_echoed_total", 7.0);
        // Each part of the job is necessary.
        for part in ["ca_file:", "password_file:"] {
            let lines = scrape.lines().filter(|line| !line.contains(part));
            let without = lines.collect::<Vec<_>>().join("\n");
            assert_ne!(without, scrape.trim_end(), "{part}");
            Prometheus::start(&without).wait_for(up, 0.0);
        }
    });
}

/// A daemon and nginx with the example, on a host of their own. Only names and folders are replaced.
struct Proxied {
    daemon: Daemon,
    _nginx: Nginx,
    folder: Folder,
    host: Namespace,
}

impl Proxied {
    fn start() -> Self {
        let host = Namespace::new();
        let folder = Folder::new();
        let file = fs::read_to_string(format!("{EXAMPLES}/nginx/udp-echo.conf")).unwrap();
        let file = file
            .replace("/etc/nginx", folder.to_str().unwrap())
            .replace(NAME, "localhost");
        let comment = file.lines().filter_map(|line| line.strip_prefix("#   "));
        let commands = comment.collect::<Vec<_>>().join("\n");
        let (secrets, rest) = commands.split_once("install -m 644 ").unwrap();
        assert!(
            rest.contains("\nnginx -t\nsystemctl reload nginx"),
            "{rest}"
        );
        let asks = "openssl passwd -6 |";
        assert!(secrets.contains(asks), "{secrets}");
        let given = format!("printf '%s' '{PASSWORD}' | openssl passwd -6 -stdin |");
        shell(&format!("set -e\n{}", secrets.replace(asks, &given)));

        let daemon = host.daemon(&[
            "--mode=echo",
            "--listen=127.0.0.1:9999",
            "--metrics-listen=127.0.0.1:9862",
        ]);
        let nginx = Nginx::start(&host, &format!("http {{ access_log off;\n{file} }}"));
        Self {
            daemon,
            _nginx: nginx,
            folder,
            host,
        }
    }

    /// The status of a request with TLS, and the answer. Waits while nginx limits the rate.
    fn get(&self, options: &str, path: &str) -> (String, String) {
        let mut answer = (String::new(), String::new());
        wait_until("nginx does not limit the rate", || {
            let text = self.tried(options, path);
            let (text, status) = text.rsplit_once('\n').unwrap();
            answer = (status.to_owned(), text.to_owned());
            status != "429"
        });
        answer
    }

    /// The answer of each request with TLS, and its status on a line.
    fn tried(&self, options: &str, path: &str) -> String {
        self.host.shell(&format!(
            "curl -s --path-as-is --cacert {}/udp-echo.crt -w '\n%{{http_code}}' {options} 'https://localhost{path}'",
            self.folder.display()
        ))
    }
}
