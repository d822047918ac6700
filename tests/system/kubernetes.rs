//! The manifests for Kubernetes: valid, consistent, and run by podman.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::tidy::Folder;
use crate::harness::{program, request_to, run, wait_until};
use crate::machine::KEPT;
use crate::namespace::Namespace;
use crate::podman::{CONTAINERFILE, Container, Podman, metrics};
use crate::prometheus::Prometheus;

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/kubernetes");
/// The oldest and the newest version of Kubernetes whose schemas there are.
const VERSIONS: [&str; 2] = ["1.25", "1.37"];

#[test]
#[ignore = "needs kubectl and kubernetes-validate; .ci/run runs it"]
fn manifests_are_valid_and_a_broken_one_is_not() {
    let rendered = rendered();
    for version in VERSIONS {
        let (valid, report) = validated(&rendered, version);
        assert!(valid, "{report}");
        for kind in ["configmap", "service", "daemonset"] {
            let passed = format!(" passed for resource {kind}/udp-echo");
            assert!(report.contains(&passed), "no {kind} in {report}");
        }
        // The only one that is not of Kubernetes itself.
        assert_eq!(report.matches("WARN").count(), 1, "{report}");
        assert!(report.contains("kind PodMonitor"), "{report}");
        for (name, other) in [
            ("readOnlyRootFilesystem:", "readOnlyRootFileSystem:"),
            ("containerPort: 9999", "containerPort: echo"),
            ("clusterIP: None", "clusterIp: None"),
        ] {
            assert!(rendered.contains(name), "{name}");
            let (valid, report) = validated(&rendered.replace(name, other), version);
            assert!(!valid, "{other}: {report}");
        }
    }
}

#[test]
#[ignore = "needs kubectl and kubernetes-validate; .ci/run runs it"]
fn manifests_agree_with_each_other_and_the_image() {
    let [map, service, set, podmonitor] = objects();
    let pod = &set["spec"]["template"];
    let labels = &pod["metadata"]["labels"];
    assert_eq!(set["spec"]["selector"]["matchLabels"], *labels);
    assert_eq!(service["spec"]["selector"], *labels);
    assert_eq!(podmonitor["spec"]["selector"]["matchLabels"], *labels);

    let [daemon, monitor] = [0, 1].map(|number| &pod["spec"]["containers"][number]);
    let containerfile = fs::read_to_string(CONTAINERFILE).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for container in [daemon, monitor] {
        let image = container["image"].as_str().unwrap();
        assert!(image.ends_with(&format!("/udp-echo:{version}")), "{image}");
        let expected = json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        });
        assert_eq!(container["securityContext"], expected);
        for port in list(&container["ports"]) {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
            let port = format!("{}/{protocol}", port["containerPort"]);
            let mut exposed = containerfile
                .lines()
                .filter(|line| line.starts_with("EXPOSE "));
            assert!(
                exposed.any(|line| line.split(' ').any(|word| word == port)),
                "{port}"
            );
        }
    }
    let user = &pod["spec"]["securityContext"];
    let line = format!("\nUSER {}:{}\n", user["runAsUser"], user["runAsGroup"]);
    assert!(containerfile.contains(&line), "{line}");

    // The file with the targets, its Service and its place.
    let file = fs::read_to_string(format!("{MANIFESTS}/monitor.toml")).unwrap();
    assert_eq!(map["data"], json!({"monitor.toml": file}));
    let volume = &pod["spec"]["volumes"][0];
    assert_eq!(volume["configMap"]["name"], map["metadata"]["name"]);
    let mount = &monitor["volumeMounts"][0];
    assert_eq!(mount["name"], volume["name"]);
    let place = format!(
        "--config={}/monitor.toml",
        mount["mountPath"].as_str().unwrap()
    );
    assert!(strings(&monitor["args"]).contains(&place), "{place}");
    let port = &service["spec"]["ports"][0];
    let name = service["metadata"]["name"].as_str().unwrap();
    assert!(
        file.contains(&format!("\naddress = \"{name}:{}\"\n", port["port"])),
        "{file}"
    );
    assert_eq!(port["port"], daemon["ports"][0]["containerPort"]);
    assert_eq!(port["targetPort"], daemon["ports"][0]["name"]);
    assert_eq!(port["protocol"], daemon["ports"][0]["protocol"]);

    // The names of the HTTP ports. There is no schema of the fields of the operator.
    assert_eq!(podmonitor["apiVersion"], "monitoring.coreos.com/v1");
    let endpoints = list(&podmonitor["spec"]["podMetricsEndpoints"]);
    assert_eq!(endpoints.len(), 2);
    for (container, endpoint) in [daemon, monitor].into_iter().zip(endpoints) {
        for field in endpoint.as_object().unwrap().keys() {
            let known = ["port", "interval", "relabelings", "metricRelabelings"];
            assert!(known.contains(&field.as_str()), "{field}");
        }
        let http = list(&container["ports"]).last().unwrap();
        for user in [
            &endpoint["port"],
            &container["livenessProbe"]["httpGet"]["port"],
            &container["readinessProbe"]["httpGet"]["port"],
        ] {
            assert_eq!(*user, http["name"]);
        }
    }
}

#[test]
#[ignore = "needs kubectl and kubernetes-validate; .ci/run runs it"]
fn manifests_have_options_that_pass_the_check() {
    let [_, _, set, _] = objects();
    for container in list(&set["spec"]["template"]["spec"]["containers"]) {
        let mut command = program();
        for arg in strings(&container["args"]) {
            command.arg(arg.replace("/etc/udp-echo", MANIFESTS));
        }
        let variables = variables(container);
        command.envs(variables.clone()).arg("--check");
        let (status, options, err) = run(&mut command);
        assert!(status.success() && err.is_empty(), "{err}");
        for (name, value) in variables {
            let line = format!("{name}={value}");
            assert!(
                options.lines().any(|option| option == line),
                "{line} in {options}"
            );
        }
        // Each port is one of the addresses.
        for port in list(&container["ports"]) {
            let end = format!("LISTEN=[::]:{}", port["containerPort"]);
            assert!(
                options.lines().any(|option| option.ends_with(&end)),
                "{end} in {options}"
            );
        }
    }
}

/// Two network namespaces are the nodes, each with the two containers of the pod. A hosts file is the
/// headless Service.
#[test]
#[ignore = "needs root, podman, kubectl, prometheus and a package; .ci/run runs it"]
fn nodes_measure_each_other_as_the_manifests_say() {
    let podman = Podman::with_image();
    let [_, _, set, podmonitor] = objects();
    let pod = &set["spec"]["template"]["spec"];
    let nodes = Namespace::pair();
    let nodes = [&nodes.0, &nodes.1];
    let containers = [0, 1].map(|number| {
        let container = &pod["containers"][number];
        nodes.map(|node| node.inside(|| start(podman, pod, container)))
    });
    for (container, text) in containers
        .iter()
        .zip(["serving in echo mode", "probing 1 target"])
    {
        for container in container {
            container.wait_for_log(text);
            let log = container.log();
            assert!(!log.contains(" WARN ") && !log.contains("ERROR"), "{log}");
        }
    }

    let addresses = ["10.77.0.1", "[fd77::1]", "10.77.0.2", "[fd77::2]"];
    for (node, other) in [(nodes[0], "[fd77::2]"), (nodes[1], "10.77.0.1")] {
        node.inside(|| {
            wait_until("every pod replies", || {
                let metrics = metrics("127.0.0.1:9863");
                addresses.iter().all(|address| {
                    let series = format!(
                        "udp_echo_monitor_replies_received_total{{target=\"udp-echo:9999\",\
                         address=\"{address}:9999\"}}"
                    );
                    metrics.get(&series).is_some_and(|replies| *replies > 4.0)
                })
            });
            assert_probes_pass(pod, other);
        });
    }

    let prometheus = nodes[0].inside(|| Prometheus::start(&scraping(&podmonitor)));
    nodes[0].inside(|| {
        // One address of each pod is known by the scrape of its daemon.
        let query = query_of_peers();
        prometheus.wait_for(&format!("count(count by (instance, peer) ({query}))"), 4.0);
        prometheus.wait_for(&format!("count(({query}) >= 0)"), 4.0);
        prometheus.wait_for("count(up{job=\"udp-echo\", instance=\"node-2\"})", 1.0);
        let targets = "count(count by (target) (udp_echo_monitor_requests_sent_total{\
                       job=\"udp-echo-monitor\", instance=\"node-1\"}))";
        prometheus.wait_for(targets, 4.0);
        // A daemon that no longer answers is lost, not left out.
        containers[0][1].signal("STOP");
        prometheus.wait_for("up{job=\"udp-echo\", instance=\"node-2\"}", 0.0);
        prometheus.wait_for(&format!("count(({query}) > 0)"), 2.0);
        containers[0][1].signal("CONT");
    });
    for container in containers.into_iter().flatten() {
        assert_eq!(container.stop(), "0");
    }
}

/// Starts a container of the pod.
fn start(podman: &'static Podman, pod: &Value, container: &Value) -> Container {
    let user = &pod["securityContext"];
    let mut options = vec![
        format!("--user={}:{}", user["runAsUser"], user["runAsGroup"]),
        "--add-host=udp-echo:10.77.0.1".to_owned(),
        "--add-host=udp-echo:10.77.0.2".to_owned(),
        "--add-host=udp-echo:fd77::1".to_owned(),
        "--add-host=udp-echo:fd77::2".to_owned(),
    ];
    for (name, value) in variables(container) {
        options.push(format!("--env={name}={value}"));
    }
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let path = mount["mountPath"].as_str().unwrap();
        options.push(format!("--volume={MANIFESTS}:{path}:ro"));
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let args = strings(&container["args"]);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    podman.start(&options, &args)
}

/// Sends the requests of the kubelet.
fn assert_probes_pass(pod: &Value, address: &str) {
    for container in list(&pod["containers"]) {
        for probe in ["livenessProbe", "readinessProbe"] {
            let get = &container[probe]["httpGet"];
            let mut ports = list(&container["ports"]).iter();
            let port = ports.find(|port| port["name"] == get["port"]).unwrap();
            let to = format!("{address}:{}", port["containerPort"]);
            let path = get["path"].as_str().unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
            let response = request_to(to.parse().unwrap(), &request);
            assert_eq!(response.status, 200, "{to}{path}: {response:?}");
        }
    }
}

/// The configuration of Prometheus that the operator makes of the `PodMonitor`, for the two nodes.
/// The second one is known by its IPv6 address. JSON is YAML, too.
fn scraping(podmonitor: &Value) -> String {
    let jobs = list(&podmonitor["spec"]["podMetricsEndpoints"]).iter();
    let jobs = jobs.zip([9862, 9863]).map(|(endpoint, port)| {
        let node = |name: &str, address: &str| {
            let labels = json!({"__meta_kubernetes_pod_node_name": name});
            json!({"targets": [format!("{address}:{port}")], "labels": labels})
        };
        json!({
            "job_name": endpoint["port"],
            "static_configs": [node("node-1", "10.77.0.1"), node("node-2", "[fd77::2]")],
            "relabel_configs": relabeling(&endpoint["relabelings"]),
            "metric_relabel_configs": relabeling(&endpoint["metricRelabelings"]),
        })
    });
    let jobs: Vec<_> = jobs.collect();
    json!({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}).to_string()
}

/// The names of the operator's fields are those of Prometheus in camel case.
fn relabeling(rules: &Value) -> Value {
    let rules = rules.as_array().into_iter().flatten().map(|rule| {
        let fields = rule.as_object().unwrap().iter();
        let fields = fields.map(|(name, value)| {
            let name = match name.as_str() {
                "sourceLabels" => "source_labels",
                "targetLabel" => "target_label",
                "regex" | "replacement" => name,
                other => panic!("{other}"),
            };
            (name.to_owned(), value.clone())
        });
        Value::Object(fields.collect())
    });
    rules.collect()
}

/// The query in the comment of the `PodMonitor`.
fn query_of_peers() -> String {
    let text = fs::read_to_string(format!("{MANIFESTS}/podmonitor.yaml")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("#   "));
    lines.collect::<Vec<_>>().join("\n")
}

/// The environment that a container of the manifests sets.
fn variables(container: &Value) -> Vec<(String, String)> {
    let variables = list(&container["env"]).iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    variables
        .map(|variable| (text(&variable["name"]), text(&variable["value"])))
        .collect()
}

/// The objects that `kubectl apply --kustomize` would send.
fn rendered() -> String {
    let (status, out, err) = run(Command::new("kubectl").args(["kustomize", MANIFESTS]));
    assert!(status.success(), "{err}");
    out
}

/// `ConfigMap`, `Service`, `DaemonSet` and `PodMonitor`.
fn objects() -> [Value; 4] {
    let folder = Folder::new();
    let file = folder.join("rendered.yaml");
    fs::write(&file, rendered()).unwrap();
    let objects = yaml(&file);
    assert_eq!(objects.len(), 4);
    ["ConfigMap", "Service", "DaemonSet", "PodMonitor"].map(|kind| {
        let mut all = objects.iter();
        all.find(|object| object["kind"] == kind)
            .expect(kind)
            .clone()
    })
}

/// Whether manifests fit the schemas of a version of Kubernetes, and the report.
fn validated(manifests: &str, version: &str) -> (bool, String) {
    let folder = Folder::new();
    let file = folder.join("rendered.yaml");
    fs::write(&file, manifests).unwrap();
    let mut command = python();
    command.args(["-m", "kubernetes_validate", "--strict", "-k", version]);
    let (status, out, err) = run(command.arg(file));
    (status.success(), out + &err)
}

/// The interpreter that has a parser of YAML.
fn python() -> Command {
    let python = format!("{KEPT}/kubernetes-validate-1.37.0/bin/python");
    assert!(fs::exists(&python).unwrap(), "no {python}: run .ci/run");
    Command::new(python)
}

/// The documents of a YAML file.
pub fn yaml(file: &Path) -> Vec<Value> {
    let script = "import json, sys, yaml; \
                  print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let (status, out, err) = run(python().args(["-c", script]).arg(file));
    assert!(status.success(), "{}: {err}", file.display());
    serde_json::from_str(&out).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn strings(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.map(|text| text.as_str().unwrap().to_owned()).collect()
}
