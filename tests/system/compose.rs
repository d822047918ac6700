//! The example for Docker Compose: valid, consistent, and its own two services run by podman. There are no
//! images of Prometheus and Grafana here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::tidy::Folder;
use crate::harness::{program, run, wait_until};
use crate::kubernetes::yaml;
use crate::namespace::{Namespace, shell};
use crate::podman::{CONTAINERFILE, Container, Podman};
use crate::prometheus::{EXAMPLES, INSTALLED, Prometheus};

const COMPOSE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/compose");
/// The services with the image of this project.
const OWN: [&str; 2] = ["daemon", "monitor"];
/// The only port that others reach.
const PUBLIC: &str = "9999:9999/udp";

#[test]
#[ignore = "needs docker-compose; .ci/run runs it"]
fn compose_file_is_valid_and_a_broken_one_is_not() {
    let text = read("compose.yaml");
    let (valid, report) = validated(&text);
    assert!(valid, "{report}");
    for (part, other) in [
        ("read_only: true", "readOnly: true"),
        ("\"9999:9999/udp\"", "\"9999:echo/udp\""),
        ("condition: service_healthy", "condition: healthy"),
        ("<<: *confined", "<<: *confine"),
        ("volumes:\n  prometheus:\n", "volumes:\n"),
    ] {
        assert!(text.contains(part), "{part}");
        let (valid, report) = validated(&text.replace(part, other));
        assert!(!valid, "{other}: {report}");
    }
}

#[test]
#[ignore = "needs kubernetes-validate for its parser of YAML; .ci/run runs it"]
fn compose_services_are_confined_and_only_the_echo_is_public() {
    let file = parsed("compose.yaml");
    let containerfile = fs::read_to_string(CONTAINERFILE).unwrap();
    let mut public = Vec::new();
    for (name, service) in services(&file) {
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        let no_new = json!(["no-new-privileges:true"]);
        assert_eq!(service["security_opt"], no_new, "{name}");
        let image = service["image"].as_str().unwrap();
        let (_, tag) = image.split_once(':').expect("a tag");
        let is_version = tag
            .trim_start_matches('v')
            .split('.')
            .all(|number| number.parse::<u32>().is_ok());
        assert!(is_version && tag.matches('.').count() == 2, "{image}");
        // Docker would make a folder of a file that is missing.
        for (source, target) in mounts(service) {
            assert!(source.exists(), "{name}: no {}", source.display());
            let mount = format!(":{target}:ro");
            let is_read_only = strings(&service["volumes"])
                .iter()
                .any(|volume| volume.ends_with(&mount));
            assert!(is_read_only, "{name}: {target} is not read-only");
        }
        for port in strings(&service["ports"]) {
            match port.strip_prefix("127.0.0.1:") {
                None => public.push(port.clone()),
                // A port of the host is the one that texts and files name.
                Some(pair) => assert_eq!(pair.split(':').next(), pair.split(':').nth(1)),
            }
            if OWN.contains(&name) {
                let (_, inner) = port.rsplit_once(':').unwrap();
                let protocol = if inner.ends_with("/udp") { "" } else { "/tcp" };
                let exposed = format!(" {inner}{protocol}");
                let mut lines = containerfile.lines();
                let line = lines.find(|line| line.starts_with("EXPOSE ")).unwrap();
                assert!(line.contains(&exposed), "no {exposed} in {line}");
            }
        }
        if OWN.contains(&name) {
            assert_eq!(image, format!("udp-echo:{}", env!("CARGO_PKG_VERSION")));
            assert_eq!(service["healthcheck"], Value::Null);
        } else {
            let test = strings(&service["healthcheck"]["test"]);
            let url = format!("http://127.0.0.1:{}/", port_of(service));
            assert!(test.last().unwrap().starts_with(&url), "{test:?}");
        }
    }
    assert_eq!(public, [PUBLIC]);
    assert!(containerfile.contains("\nHEALTHCHECK "));

    // The package need not be there: paths are compared as texts.
    let build = &file["services"]["daemon"]["build"];
    let context = build["context"].as_str().unwrap();
    assert_eq!(context, "../../target/debian");
    let folder = Path::new(EXAMPLES).parent().unwrap().join("target/debian");
    let from_context = folder.join(build["dockerfile"].as_str().unwrap());
    assert_eq!(simplified(&from_context), Path::new(CONTAINERFILE));
    let command = "--file packaging/container/Containerfile target/debian";
    assert!(containerfile.contains(command), "{command}");
}

#[test]
#[ignore = "needs promtool and kubernetes-validate; .ci/run runs it"]
fn compose_files_name_existing_services_ports_and_paths() {
    let file = parsed("compose.yaml");
    let scrape = parsed("prometheus.yml");
    // The jobs have the names that the rules use, and targets that exist.
    let mut jobs = Vec::new();
    for (job, own) in list(&scrape["scrape_configs"]).iter().zip(OWN) {
        jobs.push(job["job_name"].as_str().unwrap());
        let expected = format!("{own}:{}", port_of(&file["services"][own]));
        assert_eq!(job["static_configs"][0]["targets"], json!([expected]));
    }
    let original = ["", "monitor."].map(|files| {
        let scrape = fs::read_to_string(format!("{EXAMPLES}/prometheus/{files}scrape.yml"));
        let scrape = scrape.unwrap();
        let job = scrape.split("job_name: ").nth(1).unwrap();
        job.lines().next().unwrap().to_owned()
    });
    assert_eq!(jobs, original);

    let [prometheus, grafana] = ["prometheus", "grafana"].map(|name| &file["services"][name]);
    let inside = |service: &Value, path: &str| {
        let mounts = mounts(service);
        let mut found = mounts.iter().filter_map(|(source, target)| {
            let rest = path.strip_prefix(target)?;
            Some(simplified(&source.join(rest.trim_start_matches('/'))))
        });
        found.next().unwrap_or_else(|| panic!("{path} is no mount"))
    };
    let rules = scrape["rule_files"][0].as_str().unwrap();
    let rules = inside(prometheus, rules);
    assert_eq!(
        rules,
        Path::new(EXAMPLES).join("prometheus/*.rules.yml"),
        "{}",
        rules.display()
    );
    // Its default in the image.
    let own = inside(prometheus, "/etc/prometheus/prometheus.yml");
    assert_eq!(own, Path::new(COMPOSE).join("prometheus.yml"));
    let folder = Folder::new();
    let changed = folder.join("prometheus.yml");
    fs::write(
        &changed,
        read("prometheus.yml").replace(INSTALLED, EXAMPLES),
    )
    .unwrap();
    let report = shell(&format!("promtool check config {} 2>&1", changed.display()));
    assert!(report.contains("4 rule files found"), "{report}");

    // The data source is that of the service, and the one that the dashboards ask for.
    let source = &parsed("grafana-datasources.yaml")["datasources"][0];
    let url = format!("http://prometheus:{}", port_of(prometheus));
    assert_eq!(source["url"], url);
    let interval = &scrape["scrape_configs"][0]["scrape_interval"];
    assert_eq!(source["jsonData"]["timeInterval"], *interval);
    let provider = &parsed("grafana-dashboards.yaml")["providers"][0];
    let dashboards = inside(grafana, provider["options"]["path"].as_str().unwrap());
    let mut count = 0;
    for entry in fs::read_dir(dashboards).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let variable = &dashboard["templating"]["list"][0];
        assert_eq!(variable["type"], "datasource");
        assert_eq!(variable["query"], source["type"]);
        assert_eq!(variable["current"]["text"], source["name"]);
        let own = format!("\"uid\": \"${{{}}}\"", variable["name"].as_str().unwrap());
        let asked = text.matches("\"datasource\": {").count();
        assert_eq!(text.matches(&own).count(), asked);
        count += 1;
    }
    assert_eq!(count, 2);
    // The files are where Grafana looks for them.
    for kind in ["datasources", "dashboards"] {
        let place = format!("/etc/grafana/provisioning/{kind}/udp-echo.yaml");
        let expected = Path::new(COMPOSE).join(format!("grafana-{kind}.yaml"));
        assert_eq!(inside(grafana, &place), expected);
    }
}

#[test]
#[ignore = "needs kubernetes-validate for its parser of YAML; .ci/run runs it"]
fn compose_options_pass_the_check() {
    let file = parsed("compose.yaml");
    for name in OWN {
        let service = &file["services"][name];
        let mut variables = image_variables();
        variables.extend(service_variables(service));
        // The file has the path of the container.
        for (_, value) in &mut variables {
            if let Some((source, _)) = mounts(service).iter().find(|(_, path)| path == value) {
                *value = source.to_str().unwrap().to_owned();
            }
        }
        let mut command = program();
        command.args(strings(&service["command"]));
        command.envs(variables).arg("--check");
        let (status, options, err) = run(&mut command);
        assert!(status.success() && err.is_empty(), "{name}: {err}");
        for (variable, value) in service_variables(service) {
            let line = format!("{variable}={value}");
            let is_there = options.lines().any(|option| option == line);
            assert!(is_there, "{line} in {options}");
        }
        // Each published port is one of the addresses: the image has `*`.
        for port in strings(&service["ports"]) {
            let (_, inner) = port.rsplit_once(':').unwrap();
            let end = format!("LISTEN=0.0.0.0:{}", inner.trim_end_matches("/udp"));
            let is_there = options.lines().any(|option| option.ends_with(&end));
            assert!(is_there, "{end} in {options}");
        }
    }
    // The target is the service.
    let daemon = port_of_echo(&file);
    let target = format!("\naddress = \"daemon:{daemon}\"\nmode = \"echo\"\n");
    assert!(read("monitor.toml").contains(&target), "{target}");
}

#[test]
#[ignore = "needs root, podman, prometheus and a package; .ci/run runs it"]
fn compose_daemon_and_monitor_run_and_are_scraped() {
    let podman = Podman::with_image();
    let file = parsed("compose.yaml");
    let host = Namespace::new();
    host.inside(|| {
        let daemon = start(podman, &file["services"]["daemon"]);
        daemon.wait_for_log("serving in echo mode");
        wait_until("the daemon is healthy", || daemon.is_healthy());
        let monitor = start(podman, &file["services"]["monitor"]);
        monitor.wait_for_log("probing 1 target");
        wait_until("the monitor is healthy", || monitor.is_healthy());
        let mut scrape = read("prometheus.yml").replace(INSTALLED, EXAMPLES);
        for name in OWN {
            scrape = scrape.replace(&format!("- {name}:"), "- 127.0.0.1:");
        }
        let scrape = scrape.replace("scrape_interval: 15s", "scrape_interval: 1s");
        let prometheus =
            Prometheus::start(&format!("global: {{evaluation_interval: 1s}}\n{scrape}"));
        prometheus.wait_for("count(up == 1)", 2.0);
        let replies = "udp_echo_monitor_replies_received_total{target=\"daemon:9999\"} > bool 4";
        prometheus.wait_for(replies, 1.0);
        prometheus.wait_for("sum(udp_echo_datagrams_echoed_total) > bool 4", 1.0);
        prometheus.wait_for_rules();
        for container in [daemon, monitor] {
            let log = container.log();
            assert!(!log.contains(" WARN ") && !log.contains("ERROR"), "{log}");
            assert_eq!(container.stop(), "0");
        }
    });
}

/// Starts a service in the network namespace of this thread.
fn start(podman: &'static Podman, service: &Value) -> Container {
    let mut options = vec!["--add-host=daemon:127.0.0.1".to_owned()];
    for (name, value) in service_variables(service) {
        options.push(format!("--env={name}={value}"));
    }
    for (source, target) in mounts(service) {
        options.push(format!("--volume={}:{target}:ro", source.display()));
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let args = strings(&service["command"]);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    podman.start(&options, &args)
}

/// Whether docker-compose takes a text, and its report. Version 1, that of Debian 12, wants the folder of the
/// build, and does not know `name`.
fn validated(text: &str) -> (bool, String) {
    let folder = Folder::new();
    let compose = folder.join("packaging/compose");
    for folder in [&compose, &folder.join("target/debian")] {
        fs::create_dir_all(folder).unwrap();
    }
    let file = compose.join("compose.yaml");
    fs::write(&file, text.replacen("\nname: udp-echo\n", "\n", 1)).unwrap();
    let mut command = Command::new("docker-compose");
    command.arg("--file").arg(file).args(["config", "-q"]);
    let (status, out, err) = run(&mut command);
    (status.success(), out + &err)
}

/// The files and folders that a service mounts, each with its place in the container.
fn mounts(service: &Value) -> Vec<(PathBuf, String)> {
    let volumes = strings(&service["volumes"]).into_iter();
    volumes
        .filter(|volume| volume.starts_with('.'))
        .map(|volume| {
            let mut parts = volume.split(':');
            let source = simplified(&Path::new(COMPOSE).join(parts.next().unwrap()));
            (source, parts.next().unwrap().to_owned())
        })
        .collect()
}

/// A path without `.` and `..`, which need not exist.
fn simplified(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        match part.as_os_str().to_str() {
            Some("..") => {
                path.pop();
            }
            _ => path.push(part),
        }
        path
    })
}

/// The port of the container that a service publishes last: the one of HTTP.
fn port_of(service: &Value) -> String {
    let ports = strings(&service["ports"]);
    let (_, port) = ports.last().unwrap().rsplit_once(':').unwrap();
    port.to_owned()
}

fn port_of_echo(file: &Value) -> String {
    let port = &strings(&file["services"]["daemon"]["ports"])[0];
    let (_, port) = port.rsplit_once(':').unwrap();
    port.trim_end_matches("/udp").to_owned()
}

/// The environment that the image sets.
fn image_variables() -> Vec<(String, String)> {
    let text = fs::read_to_string(CONTAINERFILE).unwrap();
    let text = text.split("\nENV ").nth(1).unwrap();
    let words = text.split("\nEXPOSE").next().unwrap().split_whitespace();
    let pairs = words.filter_map(|word| word.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The environment that a service sets.
fn service_variables(service: &Value) -> Vec<(String, String)> {
    let variables = service["environment"].as_object().into_iter().flatten();
    variables
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}

fn services(file: &Value) -> Vec<(&str, &Value)> {
    let services = file["services"].as_object().unwrap().iter();
    let services: Vec<_> = services
        .map(|(name, service)| (name.as_str(), service))
        .collect();
    assert_eq!(services.len(), 4);
    services
}

fn parsed(name: &str) -> Value {
    yaml(&Path::new(COMPOSE).join(name)).remove(0)
}

fn read(name: &str) -> String {
    fs::read_to_string(format!("{COMPOSE}/{name}")).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn strings(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.map(|text| text.as_str().unwrap().to_owned()).collect()
}
