//! Several daemons behind one address: the unchanged examples of `packaging/balancing/`.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::harness::tidy::Folder;
use crate::harness::{Daemon, has_nothing, receive, wait_until};
use crate::namespace::{Namespace, shell};
use crate::prometheus::{EXAMPLES, Prometheus, example};

const SERVICE: &str = "192.0.2.1:9999";
const INSTANCES: [&str; 3] = ["10.99.0.1", "10.99.0.2", "10.99.0.3"];
/// Python's `! I 2s Q 2h f`: 1, "ab", 2, 3, -4, 0.5.
const RECORD: [u8; 22] = *b"\0\0\0\x01ab\0\0\0\0\0\0\0\x02\0\x03\xff\xfc\x3f\0\0\0";
const PEERS: u16 = 300;
const FIRST_PORT: u16 = 20_000;

#[test]
#[ignore = "needs root, nft, conntrack and prometheus; .ci/run runs it"]
fn nftables_keeps_exchanges_whole_and_sums_exact() {
    let (server, clients) = hosts();
    let mut daemons = INSTANCES.map(|address| Some(instance(&server, address)));
    let file = fs::read_to_string(format!("{EXAMPLES}/balancing/nftables.conf")).unwrap();
    load(&server, &file);
    let peers: Vec<Peer> = (0..PEERS)
        .map(|number| Peer::new(&clients, FIRST_PORT + number))
        .collect();
    let all: Vec<&Peer> = peers.iter().collect();

    exchange(&all, || {});
    exchange(&all, || {});
    // The hash alone keeps a peer with its instance, without an entry of conntrack.
    echoes(&all, || {});
    flush_flows(&server);
    records(&all);
    let received = server.inside(|| {
        wait_until("all records are decoded", || {
            sum(&daemons, "records_decoded_total") == 900
        });
        assert_eq!(sum(&daemons, "datagrams_received_total"), 1800);
        assert_eq!(sum(&daemons, "datagrams_echoed_total"), 900);
        assert_eq!(sum(&daemons, "peers"), 0);
        daemons.each_ref().map(|daemon| {
            let daemon = daemon.as_ref().unwrap();
            daemon.assert_accounted_for();
            whole(daemon.metric("datagrams_received_total"))
        })
    });
    eprintln!(
        "{PEERS} peers by instance: {:?}",
        received.map(|count| count / 6)
    );
    assert!(received.iter().all(|count| *count > 6 * 50), "{received:?}");
    let orphans = ports_behind(&server, INSTANCES[1]);
    assert_eq!(orphans.len(), received[1] / 6);
    prometheus_sums_them_up(&server);

    // One daemon is killed during exchanges with the others.
    let (orphaned, others): (Vec<&Peer>, Vec<&Peer>) =
        peers.iter().partition(|peer| orphans.contains(&peer.port));
    exchange(&others, || daemons[1] = None);
    exchange(&others, || assert_refused(&orphaned));
    // The steps of the example's comment.
    let changed = file.replace("instance_1 = 10.99.0.2", "instance_1 = $instance_0");
    exchange(&others, || load(&server, &changed));
    exchange(&others, || assert_refused(&orphaned));
    let (_, rest) = file.split_once("\n#   3. ").expect("a third step");
    let step = rest.lines().next().unwrap();
    assert!(step.starts_with("conntrack -D "), "{step}");
    exchange(&others, || {
        server.shell(&format!("{step} 2>&1"));
    });
    exchange(&all, || {});
    // The hash stays the same when the rules are loaded again.
    echoes(&all, || {});
    load(&server, &changed);
    flush_flows(&server);
    records(&all);
    server.inside(|| {
        let decoded = 900 - received[1] / 2 + 5 * others.len() + 2 * all.len();
        wait_until("all records are decoded", || {
            sum(&daemons, "records_decoded_total") == decoded
        });
        assert_eq!(sum(&daemons, "datagrams_received_total"), 2 * decoded);
        assert_eq!(sum(&daemons, "peers"), 0);
    });
    assert!(peers.iter().all(|peer| has_nothing(&peer.socket)));
}

#[test]
#[ignore = "needs root, and nginx with its stream module; .ci/run runs it"]
fn nginx_keeps_exchanges_whole_while_the_session_lives() {
    let (server, clients) = hosts();
    let mut daemons = INSTANCES.map(|address| Some(instance(&server, address)));
    let file = fs::read_to_string(format!("{EXAMPLES}/balancing/nginx-stream.conf")).unwrap();
    {
        let _nginx = Nginx::start(&server, &file);
        let peers: Vec<Peer> = (0..60)
            .map(|number| Peer::new(&clients, FIRST_PORT + number))
            .collect();
        let all: Vec<&Peer> = peers.iter().collect();
        for _ in 0..4 {
            exchange(&all, || {});
        }
        server.inside(|| {
            wait_until("all records are decoded", || {
                sum(&daemons, "records_decoded_total") == 240
            });
            assert_eq!(sum(&daemons, "datagrams_received_total"), 480);
            for daemon in daemons.iter().flatten() {
                assert!(daemon.metric("datagrams_received_total") > 1.0);
                daemon.assert_accounted_for();
            }
        });
        assert!(peers.iter().all(|peer| has_nothing(&peer.socket)));

        // One daemon is killed: its peers move to the others and lose a few datagrams.
        daemons[1] = None;
        let lost: Vec<usize> = peers.iter().map(Peer::lost_before_reply).collect();
        let moved = lost.iter().filter(|lost| **lost > 0).count();
        eprintln!("{moved} peers moved: {lost:?}");
        assert!((1..60).contains(&moved));
    }
    let decoded = server.inside(|| sum(&daemons, "records_decoded_total"));

    // The documented pitfall: the record comes from another port, so the daemon echoes it.
    let trap = file.replace(
        "proxy_timeout 10s;",
        "proxy_timeout 10s; proxy_responses 1;",
    );
    assert_ne!(trap, file);
    let _nginx = Nginx::start(&server, &trap);
    let peer = Peer::new(&clients, FIRST_PORT + 1000);
    for sent in [&b"hello"[..], &RECORD] {
        peer.socket.send(sent).unwrap();
        assert_eq!(receive(&peer.socket), sent);
    }
    server.inside(|| assert_eq!(sum(&daemons, "records_decoded_total"), decoded));
}

#[test]
#[ignore = "needs bird2; .ci/run runs it"]
fn bird_accepts_the_example() {
    shell(&format!("bird -p -c {EXAMPLES}/balancing/bird.conf 2>&1"));
}

/// The host of the service address and of three instances, and the host of the peers.
fn hosts() -> (Namespace, Namespace) {
    let (server, clients) = Namespace::pair();
    server.shell("ip address add 192.0.2.1/32 dev eth0");
    // So that each ICMP error is sent.
    server.shell("sysctl -qw net.ipv4.icmp_ratelimit=0");
    for address in INSTANCES {
        server.shell(&format!("ip address add {address}/32 dev lo"));
    }
    clients.shell("ip route add 192.0.2.1 via 10.77.0.1");
    (server, clients)
}

/// With a long timeout: on a busy machine a record may take more than 5 s.
fn instance(server: &Namespace, address: &str) -> Daemon {
    server.daemon(&[
        &format!("--listen={address}:9999"),
        &format!("--metrics-listen={address}:9862"),
        "--timeout=1min",
    ])
}

fn load(server: &Namespace, rules: &str) {
    server.shell(&format!("nft -f - <<'END'\n{rules}\nEND"));
}

/// A client with a source port of its own on the host of the peers.
struct Peer {
    port: u16,
    socket: UdpSocket,
}

impl Peer {
    fn new(clients: &Namespace, port: u16) -> Self {
        let socket = clients.client(&format!("10.77.0.2:{port}"), SERVICE.parse().unwrap());
        Self { port, socket }
    }

    /// Sends until a reply comes. Returns the number of datagrams without a reply.
    fn lost_before_reply(&self) -> usize {
        let timeout = Duration::from_millis(100);
        self.socket.set_read_timeout(Some(timeout)).unwrap();
        let mut sent = 0;
        wait_until("a reply comes", || {
            self.socket.send(b"again").unwrap();
            sent += 1;
            // nginx sends an empty datagram when it has lost the session.
            self.socket
                .recv(&mut [0; 16])
                .is_ok_and(|length| length > 0)
        });
        sent - 1
    }
}

/// One exchange per peer. Calls `happens` between echo datagrams and records.
fn exchange(peers: &[&Peer], happens: impl FnOnce()) {
    echoes(peers, happens);
    records(peers);
}

/// The echo half of the exchanges. Calls `happens` while replies are in flight.
fn echoes(peers: &[&Peer], happens: impl FnOnce()) {
    let hello = |peer: &Peer| format!("hello from {}", peer.port).into_bytes();
    let (before, after) = peers.split_at(peers.len() / 2);
    for peer in before {
        peer.socket.send(&hello(peer)).unwrap();
        assert_eq!(receive(&peer.socket), hello(peer));
    }
    for peer in after {
        peer.socket.send(&hello(peer)).unwrap();
    }
    happens();
    for peer in after {
        assert_eq!(receive(&peer.socket), hello(peer));
    }
}

/// The record half, in another order, so that a round-robin balancer fails.
fn records(peers: &[&Peer]) {
    for peer in peers.iter().rev() {
        peer.socket.send(&RECORD).unwrap();
    }
}

/// Asserts ICMP errors for a sample of these peers: the kernel sends at most 50 at once.
fn assert_refused(peers: &[&Peer]) {
    for peer in peers.iter().take(5) {
        peer.socket.send(b"request").unwrap();
        let error = loop {
            let mut bytes = [0; 16];
            match peer.socket.recv(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                got => break got.expect_err("an ICMP error"),
            }
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{}", peer.port);
    }
}

fn flush_flows(server: &Namespace) {
    server.shell("conntrack -F 2>&1");
}

/// The source ports of the flows that conntrack keeps for an instance.
fn ports_behind(server: &Namespace, address: &str) -> BTreeSet<u16> {
    let flows = server.shell(&format!("conntrack -L -p udp --reply-src {address}"));
    let ports = flows.lines().map(|flow| {
        let (_, rest) = flow.split_once(" sport=").expect(flow);
        rest.split(' ').next().unwrap().parse().unwrap()
    });
    ports.collect()
}

fn prometheus_sums_them_up(server: &Namespace) {
    server.inside(|| {
        let targets = INSTANCES.map(|address| format!("{address}:9862"));
        let prometheus = Prometheus::start(&example(&targets));
        prometheus.wait_for("count(up == 1)", 3.0);
        for (series, value) in [
            ("datagrams_received", 1800.0),
            ("datagrams_echoed", 900.0),
            ("records_decoded", 900.0),
        ] {
            prometheus.wait_for(&format!("job:udp_echo_{series}:sum"), value);
        }
        let rates = "count(instance:udp_echo_datagrams_received:rate1m)";
        prometheus.wait_for(rates, 3.0);
    });
}

/// The sum of a metric over the daemons that run.
fn sum(daemons: &[Option<Daemon>], series: &str) -> usize {
    let daemons = daemons.iter().flatten();
    daemons.map(|daemon| whole(daemon.metric(series))).sum()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter"
)]
fn whole(value: f64) -> usize {
    value as usize
}

/// nginx with two worker processes and an example, included as in Debian's configuration.
pub struct Nginx {
    child: Child,
    /// Of its configuration, its log and its process id.
    _folder: Folder,
}

impl Nginx {
    pub fn start(host: &Namespace, example: &str) -> Self {
        let folder = Folder::new();
        let file = folder.join("nginx.conf");
        // nginx removes its pid file when it ends.
        let before = format!(
            "load_module modules/ngx_stream_module.so; user www-data; worker_processes 2; \
             daemon off; pid {}/pid; events {{}}",
            folder.display()
        );
        fs::write(&file, format!("{before}\n{example}")).unwrap();
        let child = host
            .command("nginx")
            .args(["-p", "/usr/share/nginx", "-c"])
            .arg(&file)
            .arg("-e")
            .arg(folder.join("error.log"))
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        let pid = child.id();
        let nginx = Self {
            child,
            _folder: folder,
        };
        wait_until("both worker processes run", || {
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
                .is_ok_and(|children| children.split_whitespace().count() == 2)
        });
        nginx
    }
}

impl Drop for Nginx {
    /// By SIGTERM, which ends the worker processes too.
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
