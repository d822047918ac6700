//! The client with several addresses: of the reflector's name, and of its own host one after the
//! other; and the IP header of its requests.

use std::io::{BufRead, BufReader, Lines};
use std::mem::MaybeUninit;
use std::process::{Child, ChildStdout, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

use crate::harness::calm::undisturbed;
use crate::harness::{DEADLINE, program, wait_until};
use crate::namespace::Namespace;

#[test]
#[ignore = "needs root, for network namespaces; .ci/run runs it"]
fn probe_loses_nothing_when_its_own_address_is_replaced() {
    for (target, old, new) in [
        ("10.77.0.1:9999", "10.77.0.2", "10.77.0.3"),
        ("[fd77::1]:9999", "fd77::2", "fd77::3"),
    ] {
        for args in ["--mode=exchange", "--mode=echo --flows=3"] {
            let run = || replaced(target, old, new, args);
            let out = undisturbed(run, |out| out.contains(" 0 lost (0%)"));
            assert!(out.contains(" 0 lost (0%)"), "{args}: {out}");
            let said = format!("own address changed from {old} to {new}: using the new one\n");
            assert_eq!(out.matches(&said).count(), 1, "{args}: {out}");
            let summary = "changes of this host's own address: 1; ";
            assert!(out.contains(summary), "{args}: {out}");
        }
    }
}

/// Returns the output of a client whose host gets another address while the client waits.
fn replaced(target: &str, old: &str, new: &str, args: &str) -> String {
    let (server, clients) = Namespace::pair();
    let mode = args.split(' ').next().unwrap();
    let _daemon = server.daemon(&["--listen=[::]:9999", mode]);
    let mut command = clients.command(program().get_program().to_str().unwrap());
    command.args([
        "probe",
        target,
        "--interval=0.1",
        "--wait=20",
        "--duration=60",
    ]);
    command.args(args.split(' ')).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut out = replies(&mut lines, 6);
    signal(&child, Signal::SIGSTOP);
    let length = if new.contains(':') { 64 } else { 24 };
    clients.shell(&format!("ip address del {old}/{length} dev eth0"));
    clients.add_address(&format!("{new}/{length}"));
    signal(&child, Signal::SIGCONT);
    out += &replies(&mut lines, 6);
    signal(&child, Signal::SIGINT);
    out.extend(lines.map(|line| line.unwrap() + "\n"));
    assert!(child.wait().unwrap().success(), "{out}");
    out
}

/// Reads lines up to this number of replies.
fn replies(lines: &mut Lines<BufReader<ChildStdout>>, number: usize) -> String {
    let mut out = String::new();
    while out.matches(" bytes from ").count() < number {
        let line = lines.next().expect("further replies").unwrap();
        out += &(line + "\n");
    }
    out
}

fn signal(child: &Child, signal: Signal) {
    // `ip netns exec` becomes the client.
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

#[test]
#[ignore = "needs root, for network namespaces; .ci/run runs it"]
fn names_are_tried_in_the_order_of_the_system() {
    let (server, clients) = Namespace::pair();
    let _daemon = server.daemon(&["--listen=[::]:9999"]);
    // 2001:db8::1 has a route, but not over eth0.
    clients.shell(
        "ip link add other type veth peer name end && ip link set end up && \
         ip link set other up && ip address add 2001:db8::2/64 dev other nodad",
    );
    let hosts = "printf '%s reflector\\n' 2001:db8::1 fd77::1 10.77.0.1 >/run/hosts; \
                 mount --bind /run/hosts /etc/hosts";
    let program = program().get_program().to_str().unwrap().to_owned();
    let shell = |line: &str| {
        let line = format!("mount -t tmpfs none /run && {hosts} && {line}");
        let quoted = line.replace('\'', "'\\''");
        clients.shell(&format!("unshare -m sh -c '{quoted}'"))
    };
    let order = || shell("getent ahosts reflector");
    wait_until("the new address is preferred", || {
        order().starts_with("2001:db8::1 ")
    });
    for (args, address) in [
        ("-W 0.1", "[2001:db8::1]"),
        ("-6 -W 0.1", "[2001:db8::1]"),
        ("-4", "10.77.0.1"),
        ("-6 -I eth0", "[fd77::1]"),
    ] {
        let out = shell(&format!("{program} probe reflector -c 1 {args} || true"));
        let start = format!("probing reflector:9999 ({address}:9999) in ");
        assert!(out.starts_with(&start), "{args}: {out}");
        let has_answer = address != "[2001:db8::1]";
        assert_eq!(out.contains("1 sent, 1 received"), has_answer, "{out}");
    }
    let out = shell(&format!("{program} probe 203.0.113.1 -c 1 2>&1; true"));
    let said = "cannot connect a socket to UDP 203.0.113.1:9999: Network is unreachable (os error \
                101); check the route with `ip route get`\n";
    assert!(out.ends_with(said), "{out}");
}

#[test]
#[ignore = "needs root, for raw sockets; .ci/run runs it"]
fn ip_header_on_the_wire_is_that_of_the_options() {
    let (server, clients) = Namespace::pair();
    let _daemon = server.daemon(&["--listen=10.77.0.1:9999"]);
    let raw = server.inside(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap());
    raw.set_read_timeout(Some(DEADLINE)).unwrap();
    let probe = |args: &str| {
        let program = program().get_program().to_str().unwrap().to_owned();
        clients.shell(&format!(
            "{program} probe 10.77.0.1 --mode=echo -c 1 {args}; true"
        ))
    };
    for (args, tos, ttl, df) in [
        ("--dscp=EF --ttl=9 --df", 0xb8, 9, true),
        ("-Q 0x20 -t 33 -M dont", 0x20, 33, false),
        ("-M do", 0, 64, true),
    ] {
        let out = probe(args);
        assert!(out.contains("1 sent, 1 received"), "{out}");
        let mut packet = [MaybeUninit::<u8>::uninit(); 128];
        let length = raw.recv(&mut packet).unwrap();
        let header = read(&packet[..length.min(20)]);
        let seen = (header[1], header[8], header[6] & 0x40 != 0);
        assert_eq!(seen, (tos, ttl, df), "{args}");
    }
    // The link carries 1500 bytes.
    let out = probe("--size=3000");
    assert!(out.contains("1 sent, 1 received"), "{out}");
    let out = probe("--size=3000 --df --wait=1");
    let said = "\n1 request: cannot send: Message too long (os error 90); use a smaller --size";
    assert!(
        out.contains(said) && out.matches("request: ").count() == 1,
        "{out}"
    );
}

#[expect(unsafe_code, reason = "socket2 receives into uninitialized bytes")]
fn read(bytes: &[MaybeUninit<u8>]) -> Vec<u8> {
    let read = bytes.iter().map(|byte| {
        // SAFETY: the receive wrote these bytes.
        unsafe { byte.assume_init() }
    });
    read.collect()
}
