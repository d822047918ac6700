//! The client in networks with firewalls, forged ICMP errors and unresponsive resolvers.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

use crate::harness::{DEADLINE, Log, has_nothing, program, request_to, run, wait_until};
use crate::namespace::Namespace;

const REFLECTOR: &str = "10.77.0.1:9999";

#[test]
#[ignore = "needs root, for raw sockets; .ci/run runs it"]
fn probe_bounds_icmp_errors_from_ever_new_addresses() {
    const REQUESTS: u32 = 40;
    const ERRORS: u32 = 50;
    let (server, clients) = Namespace::pair();
    for interface in ["all", "eth0"] {
        clients.shell(&format!("sysctl -qw net.ipv4.conf.{interface}.rp_filter=0"));
    }
    let (firewall, icmp) = server.inside(|| {
        let icmp = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        icmp.set_header_included_v4(true).unwrap();
        (UdpSocket::bind(REFLECTOR).unwrap(), icmp)
    });
    firewall.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = clients.command(program().get_program().to_str().unwrap());
    command.args(["probe", REFLECTOR, "--mode=echo", "--interval=0.05"]);
    command.args([&format!("--count={REQUESTS}"), "--wait=1"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    for request in 0..REQUESTS {
        let (length, peer) = firewall.recv_from(&mut [0; 65]).unwrap();
        assert_eq!(length, 64);
        let to: SocketAddr = "10.77.0.2:0".parse().unwrap();
        for error in 0..ERRORS {
            let from = Ipv4Addr::from([10, 77, 1, 0]).to_bits() + request * ERRORS + error;
            icmp.send_to(&prohibited(from.into(), peer.port()), &to.into())
                .unwrap();
        }
    }
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("40 sent, 0 received, 40 lost"), "{text}");
    let counted = text
        .lines()
        .filter_map(|line| line.split_once(" request"))
        .filter(|(_, rest)| rest.trim_start_matches('s').starts_with(": "));
    let counts: Vec<u32> = counted
        .filter_map(|(count, _)| count.parse().ok())
        .collect();
    assert!(counts.len() <= 32, "{text}");
    let sum: u32 = counts.iter().sum();
    assert!((33..=REQUESTS).contains(&sum), "{text}");
    // One line for each during the run, and one for each kind in the summary.
    let errors = text.matches("\na request: ICMP administratively prohibited");
    assert_eq!(errors.count(), sum as usize, "{text}");
    let rejections = text.matches("a firewall rejects the datagrams").count();
    assert_eq!(rejections, 31, "{text}");
}

#[test]
#[ignore = "needs root and nft; .ci/run runs it"]
fn probe_counts_records_that_cannot_be_sent_apart() {
    let (server, clients) = Namespace::pair();
    let _daemon = server.daemon(&["--listen=10.77.0.1:9999"]);
    clients.shell("nft add table inet t");
    clients.shell("nft 'add chain inet t o { type filter hook output priority 0; }'");
    clients.shell("nft 'add rule inet t o udp length 30 drop'");
    let mut command = clients.command(program().get_program().to_str().unwrap());
    command.args(["probe", REFLECTOR, "--count=1", "--wait=1"]);
    let out = command.stdin(Stdio::null()).output().unwrap();
    let text = joined(&String::from_utf8(out.stdout).unwrap());
    assert!(text.contains("1 sent, 1 received"), "{text}");
    let cause =
        "cannot send: Operation not permitted (os error 1); a firewall on this host blocks it";
    assert!(text.contains(&format!(" 1 record: {cause}")), "{text}");
    assert!(!text.contains(" request: "), "{text}");
}

#[test]
#[ignore = "needs root, for namespaces; .ci/run runs it"]
fn probe_ends_while_the_resolver_does_not_answer() {
    let host = Namespace::new();
    let _daemon = host.daemon(&["--listen=127.0.0.1:9999", "--metrics-listen=127.0.0.1:9862"]);
    let resolver = host.inside(|| UdpSocket::bind("127.0.0.1:53").unwrap());
    resolver.set_read_timeout(Some(DEADLINE)).unwrap();
    let file = |name: &str, text: &str| {
        let file = std::env::temp_dir().join(format!("udp-echo-{name}-{}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        file
    };
    let hosts = file("hosts", "");
    // A timeout beyond the test's deadline.
    let servers = "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n";
    let servers = file("resolv.conf", servers);
    let start = || {
        let mut command = host.command("unshare");
        let script = "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf && \
                      exec \"$0\" probe 127.0.0.1:9998 --metrics-url=http://metrics.test:9862";
        command
            .args(["-m", "sh", "-c", script])
            .arg(program().get_program());
        command.args([&hosts, &servers]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let ended = |mut child: Child, signal: Option<Signal>| {
        wait_until("the client ends", || {
            if let Some(signal) = signal {
                kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
            }
            child.try_wait().unwrap().is_some()
        });
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        joined(&String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let text = ended(start(), None);
    assert!(text.contains("no response within 5 s"), "{text}");
    assert!(resolver.recv(&mut [0; 512]).is_ok());

    std::fs::write(&hosts, "127.0.0.1 metrics.test\n").unwrap();
    let mut child = start();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("ICMP port unreachable")));
    while !has_nothing(&resolver) {}
    std::fs::write(&hosts, "").unwrap();
    let interrupt = || {
        kill(
            Pid::from_raw(child.id().try_into().unwrap()),
            Signal::SIGINT,
        )
    };
    interrupt().unwrap();
    assert!(resolver.recv(&mut [0; 512]).is_ok());
    let text = ended(child, Some(Signal::SIGINT));
    let words = "cannot read the metrics at http://metrics.test:9862/: interrupted";
    assert!(text.contains(words), "{text}");
    for file in [hosts, servers] {
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
#[ignore = "needs root, for namespaces; .ci/run runs it"]
fn link_local_addresses_have_the_name_of_their_interface() {
    let (server, clients) = Namespace::pair();
    let address = |host: &Namespace| {
        let link = host.shell("ip -6 -o address show dev eth0 scope link");
        let address = link.split_whitespace().nth(3).unwrap().split('/').next();
        address.unwrap().to_owned()
    };
    let [own, peer] = [&server, &clients].map(address);
    let index = clients.shell("cat /sys/class/net/eth0/ifindex");
    let (listen, url) = (format!("[{own}%eth0]:9999"), format!("[{own}%25eth0]:9862"));
    let mut command = server.command(program().get_program().to_str().unwrap());
    command.args(["--log=debug", "--mode=echo", &format!("--listen={listen}")]);
    command.arg(format!("--metrics-listen=[{own}%eth0]:9862"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut daemon = Running(command.spawn().unwrap());
    let log = Log::follow(daemon.0.stderr.take().unwrap());
    let logs = |text: &str| {
        wait_until(text, || log.lines().iter().any(|line| line.contains(text)));
    };
    logs(&format!("listening on {listen} (UDP)"));
    logs(&format!("metrics on http://{url}/metrics"));
    logs("serving in ");
    for target in [listen.clone(), format!("[{own}%{}]:9999", index.trim())] {
        let mut command = clients.command(program().get_program().to_str().unwrap());
        command.args([
            "probe",
            &target,
            "--mode=echo",
            "--count=2",
            "--interval=0.01",
        ]);
        command.arg(format!("--metrics-url=http://{url}"));
        let (status, out, err) = run(&mut command);
        assert!(status.success() && err.is_empty(), "{out}{err}");
        let out = joined(&out);
        let name = if target == listen {
            target.clone()
        } else {
            format!("{target} ({listen})")
        };
        assert!(out.contains(&format!("probing {name} in ")), "{out}");
        assert!(
            out.contains(&format!("64 bytes from {listen}: seq=1 ")),
            "{out}"
        );
        assert!(out.contains(&format!("--- {name} ---")), "{out}");
    }
    logs(&format!("from: [{peer}%eth0]:"));
    logs(&format!("to: [{peer}%eth0]:"));
    let http = clients.resolve(&format!("[{own}%eth0]:9862"));
    let request = "GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";
    let metrics = clients.inside(|| request_to(http, request)).body;
    let label = format!("udp_echo_socket_drops_total{{listen=\"{listen}\",");
    assert!(metrics.contains(&label), "{metrics}");
    // A socket that was passed in may belong to another namespace.
    let socket = server.inside(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    assert_eq!(
        udp_echo::udp::named(server.resolve(&listen), &socket),
        listen
    );
}

#[test]
#[ignore = "needs root, for namespaces; .ci/run runs it"]
fn port_range_sysctl_is_named_when_no_port_is_free() {
    let host = Namespace::new();
    host.shell("sysctl -qw net.ipv4.ip_local_port_range='40000 40003'");
    let program = program().get_program().to_str().unwrap().to_owned();
    let hint = "; no local port is free: widen net.ipv4.ip_local_port_range\n";
    // Occupies the four ports of both protocols.
    let _taken: Vec<_> = (40000..40004)
        .map(|port| host.inside(|| UdpSocket::bind(("127.0.0.1", port)).unwrap()))
        .collect();
    let _taken_tcp: Vec<_> = (40000..40004)
        .map(|port| host.inside(|| TcpListener::bind(("127.0.0.1", port)).unwrap()))
        .collect();
    for args in [
        &["probe", "127.0.0.1:9"][..],
        &["--listen=127.0.0.1:0"],
        &["--listen=127.0.0.1:9999", "--metrics-listen=127.0.0.1:0"],
    ] {
        let (status, out, err) = run(host.command(&program).args(args));
        assert_eq!((status.code(), out.as_str()), (Some(1), ""), "{err}");
        assert!(err.ends_with(hint), "{err}");
    }
}

/// Joins the lines of a text: long sentences of the client are broken into several.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An IPv4 packet with the ICMP error "administratively prohibited" about a request from a port of
/// 10.77.0.2. It quotes the IP and UDP headers, the minimum of RFC 792.
fn prohibited(from: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut message = vec![3, 13, 0, 0, 0, 0, 0, 0];
    message.extend([0x45, 0, 0, 92, 0, 0, 0, 0, 64, 17, 0, 0]);
    message.extend([10, 77, 0, 2, 10, 77, 0, 1]);
    message.extend([port, 9999, 72, 0].map(u16::to_be_bytes).concat());
    // The checksum of RFC 1071.
    let words = message
        .chunks(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let sum: u32 = words.map(u32::from).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    message[2..4].copy_from_slice(&(!sum).to_be_bytes());
    // The kernel fills in the length, the identification and the checksum.
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
    packet.extend(from.octets());
    packet.extend([10, 77, 0, 2]);
    packet.extend(message);
    packet
}
