//! The dashboard of monitors.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::{MONITORS, Stop, dashboard, has_data, list, queries};
use crate::harness::wait_until;
use crate::mesh::{HOSTS, Monitor, Network};

/// Panels whose data is 0 in this test.
const ZERO: [&str; 1] = ["Monitors down"];
/// Counters of rare events that only a slow machine causes in this test.
const NONE: [&str; 2] = ["socket_drops_total", "log_lines_dropped_total"];
/// The port of a reflector that spoils its replies, and a port that a firewall keeps requests from.
const SPOILED: u16 = 9998;
const BLOCKED: u16 = 7777;

#[test]
#[ignore = "needs root, nft and prometheus; .ci/run runs it"]
fn mesh_dashboard_queries_have_data_from_three_monitors() {
    let queries = queries(&dashboard(MONITORS), "udp-echo-monitor");

    let network = Network::new();
    let _daemons = HOSTS.map(|host| network.daemon(host, &["--mode=stamp"]));
    network.host("a").shell(&format!(
        "nft 'add table ip t; add chain ip t out {{ type filter hook output priority 0; }}; \
         add rule ip t out udp dport {BLOCKED} drop'"
    ));
    // One request in four is lost on its way.
    network.host("b").shell(
        "nft 'add table ip t; add chain ip t in { type filter hook input priority 0; }; \
         add rule ip t in udp dport 9999 numgen random mod 4 == 0 drop; \
         add chain ip t out { type filter hook output priority 0; }'",
    );
    let monitors = HOSTS.map(|host| network.monitor(host, &targets(host)));
    let prometheus = network.prometheus(&format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: udp-echo-monitor, \
         static_configs: [{{targets: {:?}}}]}}]\n",
        Network::scraped(9863)
    ));
    let socket = network
        .host("c")
        .inside(|| UdpSocket::bind(("0.0.0.0", SPOILED)).unwrap());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| reflect(&socket, &done));
        scope.spawn(|| disturb(&network, &monitors[2], &done));
        let _stop = Stop(&done);
        network.switch().inside(|| {
            for (title, query) in &queries {
                if NONE.iter().any(|counter| query.contains(counter)) {
                    let (rates, _) = query.split_once(" and ").expect(title);
                    wait_until(&format!("{title:?} has series: {rates}"), || {
                        !prometheus.query(rates).is_empty()
                    });
                } else {
                    has_data(&prometheus, title, query, ZERO.contains(&&**title));
                }
            }
            let (_, starts) = queries.iter().find(|(title, _)| title == "Starts").unwrap();
            prometheus.wait_for(&format!("count({starts} / 1000 > time() - 3600)"), 3.0);
        });
    });
    eprintln!("{} queries have data", queries.len());
}

/// The queries select paths by the same labels as the legend shows.
#[test]
fn mesh_dashboard_limits_the_series_of_each_panel() {
    let mut count = 0;
    for panel in list(&dashboard(MONITORS)["panels"]) {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let legend = target["legendFormat"].as_str().unwrap();
            // Up to 10 000 addresses per monitor would make a legend unreadable.
            if legend.contains("{{target}}") {
                assert!(query.contains("topk("), "{title}: {query}");
                count += 1;
            }
            // topk at each point in time would show other series at each.
            let is_graph = panel["type"] == "timeseries";
            assert!(!is_graph || !query.starts_with("topk("), "{title}");
            let is_chosen =
                query.contains(" and topk(20, ") && query.contains("[$__range] @ end()");
            assert!(
                !is_graph || !query.contains("topk(") || is_chosen,
                "{title}"
            );
            // Negative delays: this sum can fall.
            for sum in ["one_way_delay_seconds_sum", "delay_variation_seconds_sum"] {
                assert!(!query.contains(sum), "{title}");
            }
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn mesh_matrices_have_a_row_per_target() {
    let dashboard = dashboard(MONITORS);
    let panels = list(&dashboard["panels"]).iter();
    let matrices = panels.filter_map(|panel| {
        let steps = panel["transformations"].as_array()?;
        let step = |step: &Value| (step["id"].clone(), step["options"].clone());
        let [sorted, grouped, rows] = steps.iter().map(step).collect::<Vec<_>>().try_into().ok()?;
        Some((panel, sorted, grouped, rows))
    });
    let mut count = 0;
    for (panel, sorted, (id, grouped), rows) in matrices {
        // Prometheus does not sort the series of an instant query.
        assert_eq!(
            [&sorted.0, &id, &rows.0],
            ["sortBy", "groupingToMatrix", "sortBy"]
        );
        assert_eq!(sorted.1["sort"][0]["field"], grouped["columnField"]);
        assert_eq!(
            [&grouped["columnField"], &grouped["rowField"]],
            ["instance", "target"]
        );
        // The name that Grafana gives to the column of the rows.
        let corner = "target\\instance";
        assert_eq!(rows.1["sort"][0]["field"], corner);
        let overridden = &panel["fieldConfig"]["overrides"][0]["matcher"]["options"];
        assert_eq!(overridden, corner);
        let query = panel["targets"][0]["expr"].as_str().unwrap();
        assert!(query.contains("sum by (instance, target"), "{query}");
        assert_eq!(panel["targets"][0]["format"], "table");
        count += 1;
    }
    assert_eq!(count, 2);
}

/// The other hosts, a closed port, a firewall, a name that does not resolve and a reflector that
/// spoils its replies.
fn targets(host: &str) -> String {
    let target = |name: &str, address: &str, more: &str| {
        format!("[[target]]\nname = \"{name}\"\naddress = \"{address}\"\n{more}\n")
    };
    let stamp = "mode = \"stamp\"\nflows = 4\nper_flow = true\ninterval = \"20ms\"";
    let others = HOSTS.iter().filter(|other| **other != host);
    let mut targets: Vec<_> = others
        .map(|other| target(other, &format!("{other}:9999"), stamp))
        .collect();
    let echo = "mode = \"echo\"\ninterval = \"20ms\"";
    targets.push(target("closed", "c:9", echo));
    targets.push(target("blocked", &format!("b:{BLOCKED}"), echo));
    targets.push(target("unknown", "unknown.invalid", echo));
    targets.push(target("spoiled", &format!("c:{SPOILED}"), echo));
    targets.concat()
}

/// Sends some replies twice, some after the reply to the next request, and some damaged.
fn reflect(socket: &UdpSocket, done: &AtomicBool) {
    let timeout = Duration::from_millis(20);
    socket.set_read_timeout(Some(timeout)).unwrap();
    let send = |reply: &[u8], peer: SocketAddr| socket.send_to(reply, peer).unwrap();
    let mut bytes = [0; 2048];
    let mut held: Option<(Vec<u8>, SocketAddr)> = None;
    while !done.load(Relaxed) {
        // An error is a timeout or a signal.
        let Ok((length, peer)) = socket.recv_from(&mut bytes) else {
            continue;
        };
        let reply = &mut bytes[..length];
        // The sequence number of the request.
        match reply[11] % 4 {
            0 => {
                send(reply, peer);
                send(reply, peer);
            }
            1 => {
                if let Some((reply, peer)) = held.replace((reply.to_vec(), peer)) {
                    send(&reply, peer);
                }
            }
            2 => {
                send(reply, peer);
                if let Some((reply, peer)) = held.take() {
                    send(&reply, peer);
                }
            }
            _ => {
                reply[length - 1] ^= 1;
                send(reply, peer);
            }
        }
    }
}

/// Changes the TTL of replies, and stops a monitor for a moment.
fn disturb(network: &Network, monitor: &Monitor, done: &AtomicBool) {
    for ttl in [50, 60].into_iter().cycle() {
        if done.load(Relaxed) {
            break;
        }
        network.host("b").shell(&format!(
            "nft 'flush chain ip t out; add rule ip t out udp sport 9999 ip ttl set {ttl}'"
        ));
        monitor.process.pause();
        thread::sleep(Duration::from_millis(500));
        monitor.process.resume();
        // Time for more than one scrape.
        thread::sleep(Duration::from_secs(2));
    }
}
