//! The kernel path: its program is compiled from its source, and echoes in network namespaces.

mod attach;
mod counts;
mod pins;
mod program;
mod switching;

use crate::harness::tidy::Folder;
use crate::harness::{Daemon, program, run, wait_until};
use crate::namespace::Namespace;
use crate::namespace::shell;

const LISTEN: &str = "10.77.0.1:9999";

/// The side of the veth pair.
#[derive(Clone, Copy)]
enum Side {
    Server,
    /// veth carries the program's replies only if its other end has a program, too.
    Peer,
}

/// A program that is attached to the veth interface of a host, until this is dropped.
struct Attached<'a> {
    host: &'a Namespace,
    pins: Pins,
}

/// A file system of type bpf.
struct Pins(Folder);

impl Pins {
    fn new() -> Self {
        let folder = Folder::new();
        shell(&format!("mount -t bpf bpf {}", folder.display()));
        Self(folder)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        shell(&format!("umount {}", self.0.display()));
    }
}

impl<'a> Attached<'a> {
    fn new(host: &'a Namespace, side: Side) -> Self {
        let listen = match side {
            Side::Server => LISTEN,
            Side::Peer => "10.77.0.2:9",
        };
        Self::of(host, &["--interface=eth0", "--listen", listen])
    }

    /// With these options.
    fn of(host: &'a Namespace, options: &[&str]) -> Self {
        let attached = Self {
            host,
            pins: Pins::new(),
        };
        let (success, said) = attached.attach(options);
        assert!(success, "{said}");
        attached
    }

    fn peer(host: &'a Namespace) -> Self {
        Self::new(host, Side::Peer)
    }

    /// The folder of the pins.
    fn pins(&self) -> String {
        self.pins.0.join("udp-echo").display().to_string()
    }

    /// Runs `udp-echo attach`. Returns whether it succeeded, and its error.
    fn attach(&self, args: &[&str]) -> (bool, String) {
        self.run("attach", args)
    }

    fn detach(&self) {
        let (success, said) = self.run("detach", &[]);
        assert!(success, "{said}");
    }

    fn run(&self, verb: &str, args: &[&str]) -> (bool, String) {
        let mut command = self.host.command(program().get_program().to_str().unwrap());
        command.args([verb, "--pins", &self.pins()]).args(args);
        let (status, _, said) = run(&mut command);
        (status.success(), said)
    }

    /// A daemon that uses the program, once it answers.
    fn daemon(&self, when: &str, args: &[&str]) -> Daemon {
        let [when, pins, listen] = [
            format!("--kernel-echo={when}"),
            format!("--pins={}", self.pins()),
            format!("--listen={LISTEN}"),
        ];
        let own = ["--mode=echo", &*when, &pins, &listen];
        self.host.daemon(&[&own[..], args].concat())
    }

    /// Whether the interface has a program.
    fn is_attached(&self) -> bool {
        self.host.shell("ip link show eth0").contains("prog/xdp")
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        let _ = self.run("detach", &[]);
    }
}

/// A metric that exists.
fn metric(daemon: &Daemon, name: &str) -> f64 {
    daemon.metric(name)
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn program_passes_everything_without_a_living_daemon() {
    let (server, clients) = Namespace::pair();
    let _peer = Attached::peer(&clients);
    clients.shell("ethtool -K eth0 tx off");
    let attached = Attached::new(&server, Side::Server);
    let client = clients.client("10.77.0.2:0", LISTEN.parse().unwrap());
    let echoes = || {
        client.send(b"a datagram").unwrap();
        assert_eq!(crate::harness::receive(&client), b"a datagram");
    };
    for end in [
        nix::sys::signal::Signal::SIGKILL,
        nix::sys::signal::Signal::SIGTERM,
    ] {
        let mut daemon = attached.daemon("require", &[]);
        wait_until("the program answers", || {
            echoes();
            server.inside(|| metric(&daemon, "kernel_echo_datagrams_total")) > 0.5
        });
        daemon.signal(end);
        daemon.wait();
        // Another daemon on the same port, which does not use the program.
        let plain = server.daemon(&["--mode=echo", &format!("--listen={LISTEN}")]);
        wait_until("the socket gets all datagrams", || {
            let before = server.inside(|| metric(&plain, "datagrams_received_total"));
            for _ in 0..5 {
                echoes();
            }
            let after = server.inside(|| metric(&plain, "datagrams_received_total"));
            (after - before - 5.0).abs() < 0.5
        });
    }
    assert!(attached.is_attached());
    attached.detach();
    assert!(!attached.is_attached());
    // It is no error that there is nothing to detach.
    attached.detach();
}
