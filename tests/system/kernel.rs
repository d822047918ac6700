//! The kernel path: its program is compiled from its source, and echoes in network namespaces.

/// Ends a test that needs BPF where there is none.
macro_rules! needs_bpf {
    () => {
        if let Some(reason) = $crate::kernel::no_bpf() {
            $crate::skip!("{reason}");
        }
    };
}

mod attach;
mod booted;
mod counts;
mod interfaces;
mod killed;
mod lost;
mod pins;
mod program;
mod switching;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Command;

use crate::harness::tidy::Folder;
use crate::harness::{Daemon, program, run, wait_until};
use crate::namespace::Namespace;
use crate::namespace::shell;

const LISTEN: &str = "10.77.0.1:9999";

/// Calls bpf(2).
#[expect(unsafe_code, reason = "the system call, without a library")]
fn bpf(command: i32, attribute: &[u64]) -> io::Result<OwnedFd> {
    // SAFETY: the attribute outlives the call, and so does what it points to.
    let result = unsafe {
        let size = size_of_val(attribute);
        nix::libc::syscall(nix::libc::SYS_bpf, command, attribute.as_ptr(), size)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(result.try_into().unwrap()) })
}

/// Why there is no BPF here: the kernel has none, or a filter of system calls refuses it.
fn no_bpf() -> Option<String> {
    // A map of no type is invalid (`BPF_MAP_CREATE`).
    let error = bpf(0, &[]).expect_err("there is no such map");
    let is_refused = error.raw_os_error() != Some(nix::libc::EINVAL);
    is_refused.then(|| format!("bpf(2) cannot be used: {error}"))
}

/// The side of the veth pair.
#[derive(Clone, Copy)]
enum Side {
    Server,
    /// veth carries the program's replies only if its other end has a program, too.
    Peer,
}

/// A program that is attached to interfaces of a host, until this is dropped.
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
        // No second panic if a test fails.
        let _ = Command::new("umount").arg(&*self.0).status();
    }
}

impl<'a> Attached<'a> {
    fn new(host: &'a Namespace, side: Side) -> Self {
        let listen = match side {
            Side::Server => LISTEN,
            Side::Peer => "10.77.0.2:9",
        };
        Self::with(host, &["--interface=eth0", "--listen", listen])
    }

    /// Attaches the program with these options.
    fn with(host: &'a Namespace, args: &[&str]) -> Self {
        let attached = Self {
            host,
            pins: Pins::new(),
        };
        let (success, said) = attached.attach(args);
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

    /// A daemon on these addresses that needs the program.
    fn daemon(&self, listen: &str) -> Daemon {
        let [pins, listen] = [
            format!("--pins={}", self.pins()),
            format!("--listen={listen}"),
        ];
        let own = ["--mode=echo", "--kernel-echo=require", &*pins, &listen];
        self.host.daemon(&own)
    }

    fn is_attached(&self) -> bool {
        has_program(self.host, "eth0")
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        let _ = self.run("detach", &[]);
    }
}

/// Whether an interface has a program.
fn has_program(host: &Namespace, interface: &str) -> bool {
    let shown = host.shell(&format!("ip link show {interface}"));
    shown.contains("prog/xdp")
}

/// A metric that exists.
fn metric(daemon: &Daemon, name: &str) -> f64 {
    daemon.metric(name)
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn program_passes_everything_without_a_living_daemon() {
    needs_bpf!();
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
        let mut daemon = attached.daemon(LISTEN);
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
