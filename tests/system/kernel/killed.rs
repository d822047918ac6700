//! `udp-echo attach` and `udp-echo detach` killed before a system call.

use std::path::Path;

use super::{LISTEN, Pins, has_program};
use crate::harness::{program, run};
use crate::namespace::Namespace;

/// A host with two interfaces, and pins.
struct Host {
    namespace: Namespace,
    _other: Namespace,
    pins: Pins,
}

impl Host {
    fn new() -> Self {
        let (namespace, other) = Namespace::pair();
        namespace.shell("ip link add eth1 type veth peer name eth2; ip link set eth1 up");
        Self {
            namespace,
            _other: other,
            pins: Pins::new(),
        }
    }

    fn folder(&self) -> String {
        self.pins.0.join("udp-echo").display().to_string()
    }

    /// Runs `attach` or `detach`, which is killed before the call with this number, if there is one.
    /// Returns whether it succeeded.
    fn run(&self, args: &[&str], kill: Option<(&str, usize)>) -> bool {
        let binary = program().get_program().to_str().unwrap().to_owned();
        let mut command = match kill {
            None => self.namespace.command(&binary),
            Some((calls, number)) => {
                let mut command = self.namespace.command("strace");
                let inject = format!("inject={calls}:signal=KILL:when={number}");
                command.args(["-qqo/dev/null", "-e", &inject, &binary]);
                command
            }
        };
        let (status, _, said) = run(command.args(args).args(["--pins", &self.folder()]));
        let mut errors = said
            .lines()
            .filter(|line| !line.starts_with("udp-echo: warning: "));
        assert_eq!(errors.next(), None);
        status.success()
    }

    /// Each interface with a program. It is pinned.
    fn attached(&self) -> Vec<&str> {
        let is_attached = |interface: &&str| {
            let link = Path::new(&self.folder()).join(interface).join("link");
            let is_attached = has_program(&self.namespace, interface);
            assert_eq!(link.exists(), is_attached, "{interface}");
            is_attached
        };
        ["eth0", "eth1"].into_iter().filter(is_attached).collect()
    }

    /// Detaches the program, which leaves nothing.
    fn detach(&self) {
        assert!(self.run(&["detach"], None));
        assert!(self.attached().is_empty());
        assert!(!Path::new(&self.folder()).exists());
    }
}

/// The calls that change something, and how many of them an `attach` has.
const CALLS: [(&str, usize); 5] = [
    ("bpf", 9),
    ("mkdir", 2),
    ("fchmod", 2),
    ("chmod", 3),
    ("lchown", 3),
];

#[test]
#[ignore = "needs root, BPF and strace; .ci/run runs it"]
fn killed_attach_leaves_nothing_and_blocks_nothing() {
    needs_bpf!();
    let host = Host::new();
    let attach = ["attach", "--interface=eth0", "--listen", LISTEN];
    for (calls, least) in CALLS {
        let mut kills = 0;
        while !host.run(&attach, Some((calls, kills + 1))) {
            kills += 1;
            // Only the owner and the mode of the pinned link may be missing.
            let is_complete = !host.attached().is_empty();
            assert!(
                !is_complete || ["chmod", "lchown"].contains(&calls),
                "{calls} {kills}"
            );
            host.detach();
            host.run(&attach, Some((calls, kills)));
            assert!(is_complete || host.run(&attach, None));
            assert_eq!(host.attached(), ["eth0"]);
            host.detach();
        }
        host.detach();
        assert!(kills >= least, "{kills} {calls}");
    }
}

#[test]
#[ignore = "needs root, BPF and strace; .ci/run runs it"]
fn killed_attach_to_two_interfaces_keeps_both_or_none() {
    needs_bpf!();
    let host = Host::new();
    let attach = ["attach", "--interface=eth0,eth1", "--listen", LISTEN];
    let mut partly = 0;
    let mut kills = 0;
    while !host.run(&attach, Some(("bpf", kills + 1))) {
        kills += 1;
        // The links are pinned one after the other.
        partly += host.attached().len();
        host.detach();
    }
    assert_eq!(host.attached(), ["eth0", "eth1"]);
    host.detach();
    assert!(kills >= 16 && partly == 1, "{kills} {partly}");
}

#[test]
#[ignore = "needs root, BPF and strace; .ci/run runs it"]
fn killed_detach_is_completed_by_the_next() {
    needs_bpf!();
    let host = Host::new();
    let attach = ["attach", "--interface=eth0", "--listen", LISTEN];
    for (calls, least) in [("bpf", 2), ("/^unlink", 3), ("/^rmdir", 2)] {
        let mut kills = 0;
        loop {
            assert!(host.run(&attach, None));
            if host.run(&["detach"], Some((calls, kills + 1))) {
                break;
            }
            kills += 1;
            host.detach();
        }
        host.detach();
        assert!(kills >= least, "{kills} {calls}");
    }
}
