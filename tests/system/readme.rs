//! Runs every command of README.md literally: as an operator on a booted Debian, as a developer in a
//! checkout, or on a host beside the reflector's. `tests/harness/readme.rs` decides which.

mod changes;
mod claims;
mod mesh;
mod neighbor;
mod typed;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::readme::{self, Passage, Place, bare};
use crate::harness::{DEADLINE, request_to, samples, total, wait_until};
use crate::machine::{METRICS, Machine};
use crate::namespace::Namespace;
use crate::package::package;
use crate::routed::network;

use changes::{Edit, assigned, assignments, edited, undo};
use claims::{claims, has_figures};
use typed::Typed;

/// The machine's hosts file. The README's `reflector` is the machine itself.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.0.1\treflector\n";
/// The part of a command that makes it a measurement.
const PROBE: &str = " probe ";
/// The path of a checkout on the machine, with the package built in it.
const CHECKOUT: &str = "/root/udp-echo";
/// An editor that enters the lines of a file.
const EDITOR: &str = "#!/bin/sh\ncat /root/lines >\"$1\"\n";
/// The README's command to install the package.
const INSTALL: &str = "apt install ./target/debian/udp-echo_*.deb";

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn every_command_for_an_operator_works_on_a_booted_debian() {
    let machine = Machine::boot();
    prepare(&machine);
    // Two networks with the same addresses: the README binds the service to one of them.
    let networks = ["eth1", "eth2"].map(|interface| network(&machine, interface));
    let operator = Person::Operator(&machine);
    // In the README's order: later commands need the packages of earlier ones.
    let mut sections = readme::sections();
    sections.sort_by_key(|section| !section.has("apt install"));
    let mut count = 0;
    for section in sections {
        let mut busy = Vec::new();
        let mut edit = Edit::default();
        for passage in &section.passages {
            let commands = section.commands(passage, Place::Machine);
            count += commands.len();
            edit = edit.next(passage);
            for command in &commands {
                operator.types(passage, command, &edit, &mut busy);
            }
            if commands
                .iter()
                .any(|command| command.starts_with("apt purge "))
            {
                operator.run(INSTALL);
            }
            let assignments = assignments(passage);
            if !edit.units.is_empty() || !assignments.is_empty() {
                edit.finish(&operator, passage, &mut busy);
                edit.is_in_effect(&machine, &networks);
                for assignment in assignments {
                    assigned(&machine, assignment);
                }
                undo(&machine);
            }
        }
        for typed in busy {
            typed.interrupt_and_end();
        }
        if section.has("cp -r /usr/share/udp-echo/stamp/") {
            undo(&machine);
        }
        if section.has("systemctl enable --now udp-echo-monitor") {
            // Other sections count the datagrams of their own clients.
            machine.shell("systemctl disable --now udp-echo-monitor 2>&1");
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
#[ignore = "needs root; .ci/run runs it"]
fn every_command_in_a_checkout_works() {
    let namespace = Namespace::new();
    let developer = Person::Developer(&namespace, Folder::new());
    // Built first, so that a command does not wait for the compiler.
    developer.run("cargo build --release");
    let mut count = 0;
    for section in readme::sections() {
        let mut busy = Vec::new();
        for passage in &section.passages {
            for command in section.commands(passage, Place::Checkout) {
                developer.types(passage, command, &Edit::default(), &mut busy);
                count += 1;
            }
        }
        for typed in busy {
            typed.interrupt_and_end();
        }
    }
    assert!(count > 2, "{count}");
}

/// Prepares the machine for the README's commands: apt without questions, a name for the reflector,
/// an address to move to, Debian's Prometheus, and a checkout with a built package.
fn prepare(machine: &Machine) {
    machine.write("/etc/hosts", HOSTS);
    machine.write(
        "/etc/apt/apt.conf.d/90yes",
        "APT::Get::Assume-Yes \"true\";\n",
    );
    machine.write("/root/editor", EDITOR);
    machine.shell(&format!(
        "chmod +x /root/editor; mkdir -p {CHECKOUT}/target/debian; \
         ip address add 192.0.2.1/32 dev lo; systemctl unmask prometheus 2>&1; \
         systemctl start prometheus"
    ));
    let name = package().file_name().unwrap().to_str().unwrap();
    let there = machine.path(&format!("{CHECKOUT}/target/debian/{name}"));
    fs::copy(package(), there).unwrap();
}

/// Waits until Prometheus has scraped the daemon and loaded the rules.
fn prometheus_watches_it(machine: &Machine) {
    let address: SocketAddr = "127.0.0.1:9090".parse().unwrap();
    let ask = |what: &str| {
        let request = format!("GET /api/v1/{what} HTTP/1.0\r\n\r\n");
        machine.inside(|| {
            let is_there = TcpStream::connect(address).is_ok();
            is_there.then(|| request_to(address, &request).body)
        })
    };
    let target = "\"job\":\"udp-echo\"";
    wait_until("Prometheus scrapes udp-echo", || {
        let targets = ask("targets").unwrap_or_default();
        targets.contains(target) && targets.contains("\"health\":\"up\"")
    });
    let rules = ask("rules").expect("an answer");
    assert!(rules.contains("\"UdpEchoDown\""), "{rules}");
    assert!(!rules.contains("\"health\":\"err\""), "{rules}");
}

/// The user that runs the commands.
enum Person<'a> {
    Operator(&'a Machine),
    /// With a folder for installed programs.
    Developer(&'a Namespace, Folder),
}

impl Person<'_> {
    /// Runs a command and asserts the documented result. A daemon or a long measurement, which runs
    /// beside later commands, is added to `busy`.
    fn types(&self, passage: &Passage, command: &str, edit: &Edit, busy: &mut Vec<Typed>) {
        eprintln!("{command}");
        if let (Self::Operator(machine), Some(_)) = (self, edited(command)) {
            machine.write("/root/lines", &edit.lines);
            // `systemctl edit` needs a terminal.
            self.run(&format!("script -qefc '{}' /dev/null", bare(command)));
            return;
        }
        let is_asked = ["--help", "--version"]
            .iter()
            .any(|option| command.contains(option));
        let line = bare(command);
        let is_ours = line.starts_with("udp-echo") || line.starts_with("cargo run");
        if is_ours && !is_asked {
            return self.starts(command, busy);
        }
        // These are repeated until they succeed.
        let waits = ["curl ", "promtool query "]
            .iter()
            .any(|start| line.starts_with(start));
        if waits {
            let deadline = Instant::now() + DEADLINE;
            loop {
                let (status, said) = self.attempt(command);
                if status.success() && has_figures(line, &said) {
                    return;
                }
                assert!(Instant::now() < deadline, "{command}: {status}\n{said}");
                thread::sleep(Duration::from_millis(100));
            }
        }
        let said = self.run(command);
        for expected in claims(passage, command) {
            let plain = |text: &str| text.replace('"', "'");
            assert!(
                plain(&said).contains(&plain(&expected)),
                "{command}: no {expected} in {said}"
            );
        }
        if let (Self::Operator(machine), "systemctl restart prometheus") = (self, line) {
            prometheus_watches_it(machine);
        }
    }

    /// Starts a daemon or a client, and waits until it works.
    fn starts(&self, command: &str, busy: &mut Vec<Typed>) {
        if !command.contains(PROBE) {
            // One daemon at a time: they use the same ports.
            for other in busy.drain(..) {
                other.interrupt_and_end();
            }
            let mut typed = Typed::start(self.command(command), command);
            typed.wait_for("the daemon serves", |said| said.contains("serving in"));
            busy.push(typed);
            return;
        }
        // One client at a time, as its replies are counted by the daemon's metric.
        for other in busy.extract_if(.., |typed| typed.line.contains(PROBE)) {
            other.interrupt_and_end();
        }
        self.has_a_plain_reflector(command);
        let enough = self.echoed().unwrap_or_default() + 2.5;
        let mut typed = Typed::start(self.command(command), command);
        typed.wait_for("replies come", |said| {
            said.contains("bytes from") || self.echoed() > Some(enough)
        });
        if command.contains("--duration") {
            busy.push(typed);
        } else {
            typed.interrupt_and_end();
        }
    }

    /// Starts a plain reflector on port 7, if a command measures one.
    fn has_a_plain_reflector(&self, command: &str) {
        if let (Self::Operator(machine), true) = (self, command.contains(":7 ")) {
            machine.shell(
                "systemctl is-active plain || systemd-run --unit=plain --property=Type=notify \
                 udp-echo --mode=echo --listen=127.0.0.1:7 --metrics-listen=none 2>&1",
            );
        }
    }

    /// Runs a command that must succeed. Returns its output.
    fn run(&self, command: &str) -> String {
        let (status, said) = self.attempt(command);
        assert!(status.success(), "{command}: {status}\n{said}");
        said
    }

    fn attempt(&self, command: &str) -> (ExitStatus, String) {
        let mut typed = Typed::start(self.command(command), command);
        let status = typed.wait();
        (status, typed.said())
    }

    /// A shell that runs a command line.
    fn command(&self, line: &str) -> Command {
        match self {
            // The machine has no curl.
            Self::Operator(machine) if line.starts_with("curl ") => {
                let mut command = machine.outer_command("sh");
                command.args(["-c", line]);
                command
            }
            Self::Operator(machine) => {
                // The tests of the rules are in the folder of the rules.
                let folder = if line.starts_with("promtool test") {
                    "/usr/share/udp-echo/prometheus"
                } else {
                    CHECKOUT
                };
                let mut command = machine.command("sh");
                command.env("SYSTEMD_EDITOR", "/root/editor");
                command.args(["-c", &format!("cd {folder}; {line}")]);
                command
            }
            Self::Developer(namespace, folder) => {
                let mut command = namespace.command("sh");
                command.args(["-c", line]).current_dir(readme::root());
                // Another cargo must not get the variables that cargo sets for tests.
                for (name, _) in std::env::vars_os() {
                    let name = name.to_string_lossy();
                    let place = ["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&&*name);
                    if name.starts_with("CARGO") && !place {
                        command.env_remove(&*name);
                    }
                }
                command.env("CARGO_INSTALL_ROOT", &folder.0);
                // Offline: all dependencies have been fetched.
                command.env("CARGO_NET_OFFLINE", "true");
                command
            }
        }
    }

    /// The number of datagrams that the daemon echoed, if one runs.
    fn echoed(&self) -> Option<f64> {
        let ask = || {
            let address: SocketAddr = METRICS.parse().unwrap();
            TcpStream::connect(address).ok()?;
            let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
            let metrics = samples(&request_to(address, request).body);
            Some(total(&metrics, "datagrams_echoed_total"))
        };
        match self {
            Self::Operator(machine) => machine.inside(ask),
            Self::Developer(namespace, _) => namespace.inside(ask),
        }
    }
}

/// A folder that is removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("udp-echo-installed-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
