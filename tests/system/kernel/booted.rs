//! The drop-in of the service on a booted Debian.

use std::net::UdpSocket;
use std::path::Path;

use super::{Attached, LISTEN};
use crate::booted::{EXPOSURE, exposure, files};
use crate::harness::{receive, run, wait_until};
use crate::machine::Machine;
use crate::namespace::Namespace;
use crate::package::package;

const SOURCE: &str = "/usr/share/udp-echo/kernel-echo/kernel-echo.conf";
const FOLDER: &str = "/etc/systemd/system/udp-echo.service.d";
const COPY: &str = "/etc/systemd/system/udp-echo.service.d/kernel-echo.conf";
const SOCKET: &str = "/etc/systemd/system/udp-echo.socket.d/override.conf";

/// A machine and a client on the other side of its eth0.
struct Setup {
    machine: Machine,
    client: UdpSocket,
}

#[test]
#[ignore = "needs root, BPF, debootstrap and systemd-nspawn; .ci/run runs it"]
fn drop_in_attaches_and_nothing_stays_after_stop_or_purge() {
    let package = package();
    let other = Namespace::new();
    let setup = Setup::new(&other);
    let _peer = Attached::peer(&other);
    let machine = &setup.machine;
    let before = files(machine);
    machine.install(package, "");
    let before_it = permissions(machine);

    install_the_drop_in(machine);
    setup.assert_program_echoes();
    assert_eq!(permissions(machine), before_it);
    assert!(exposure(machine, "udp-echo") <= EXPOSURE);
    let pid = machine.main_pid().unwrap();
    let mounts = machine.shell(&format!("cat /proc/{pid}/mountinfo"));
    for folder in ["/run/udp-echo", "/run/udp-echo/pins"] {
        assert!(mounts.contains(&format!(" {folder} ro,")), "{mounts}");
    }
    let after = machine.property("udp-echo", "After");
    assert!(after.contains("network.target"), "{after}");
    let verified = machine.shell("systemd-analyze verify --man=no udp-echo.service 2>&1");
    assert_eq!(verified, "");

    // Read by the daemon and by attach, which would not agree otherwise.
    machine.shell("echo UDP_ECHO_MAX_DATAGRAM=2000 >>/etc/default/udp-echo");
    setup.assert_attached_again_after("systemctl restart udp-echo");
    let pid = machine.main_pid().unwrap();
    setup.assert_attached_again_after(&format!("kill -KILL {pid}"));
    assert_ne!(machine.main_pid(), Some(pid));
    machine.shell("systemctl stop udp-echo");
    setup.assert_nothing_is_left();
    machine.shell("systemctl start udp-echo");
    setup.assert_program_echoes();
    setup.socket_serves_without_the_interface();

    machine.shell("dpkg --purge udp-echo 2>&1");
    setup.assert_nothing_is_left();
    let left: Vec<_> = files(machine).difference(&before).cloned().collect();
    let parent = |path| Path::new(path).parent().unwrap().to_str().unwrap();
    assert_eq!(left, [FOLDER, COPY, parent(SOCKET), SOCKET]);

    // The operator's files apply again.
    machine.install(package, "");
    setup.assert_program_echoes();
    let [_, undo] = commands(machine, COPY);
    machine.shell(&undo);
    setup.assert_nothing_is_left();
    setup.assert_echoes();
    // A program that was attached by hand.
    machine.shell(&format!(
        "udp-echo attach --interface eth0 --listen {LISTEN}"
    ));
    assert!(setup.program().is_some());
    machine.shell("dpkg --purge udp-echo 2>&1");
    setup.assert_nothing_is_left();
}

impl Setup {
    fn new(other: &Namespace) -> Self {
        let machine = Machine::boot_with_bpf();
        let line = "link add eth0 type veth peer name eth0 netns";
        let mut command = machine.outer_command("ip");
        let (status, _, said) = run(command.args(line.split(' ')).arg(other.name()));
        assert!(status.success(), "{said}");
        machine.shell("ip address add 10.77.0.1/24 dev eth0; ip link set eth0 up");
        // Complete checksums, as on a wire.
        other.shell(
            "ip address add 10.77.0.2/24 dev eth0; ip link set eth0 up; ethtool -K eth0 tx off",
        );
        Self {
            client: other.client("10.77.0.2:0", LISTEN.parse().unwrap()),
            machine,
        }
    }

    fn assert_echoes(&self) {
        self.client.send(b"a datagram").unwrap();
        assert_eq!(receive(&self.client), b"a datagram");
    }

    fn assert_program_echoes(&self) {
        let echoed = || self.machine.metric("kernel_echo_datagrams_total");
        let before = echoed();
        wait_until("the program echoes", || {
            self.assert_echoes();
            echoed() > before
        });
        let active = "kernel_echo_active{interface=\"eth0\"}";
        assert!((self.machine.metric(active) - 1.0).abs() < 0.5);
    }

    /// The number of the attached program.
    fn program(&self) -> Option<String> {
        let shown = self.machine.shell("ip link show eth0");
        let (_, program) = shown.split_once("prog/xdp id ")?;
        program.split(' ').next().map(str::to_owned)
    }

    /// Asserts that the command ends with another program.
    fn assert_attached_again_after(&self, command: &str) {
        let before = self.program();
        assert!(before.is_some());
        self.machine.shell(command);
        wait_until("another program is attached", || {
            let now = self.program();
            now.is_some() && now != before
        });
        self.machine.wait_for("ActiveState", "active");
        self.assert_program_echoes();
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(self.program(), None);
        for folder in ["/sys/fs/bpf/udp-echo", "/run/udp-echo"] {
            assert!(!self.machine.path(folder).exists(), "{folder}");
        }
    }

    /// With an interface that does not exist, and then with eth0 again.
    fn socket_serves_without_the_interface(&self) {
        let machine = &self.machine;
        let cursor = machine.cursor();
        let restart_with = |from, to| {
            machine.shell(&format!(
                "sed -i 's/interface {from}/interface {to}/' {COPY} && systemctl daemon-reload && \
                 systemctl restart udp-echo"
            ));
        };
        restart_with("eth0", "eth9");
        assert_eq!(self.program(), None);
        self.assert_echoes();
        let journal = machine.journal(&cursor, "-o cat");
        let lines = journal.lines().filter(|line| line.contains("eth9"));
        assert_eq!(
            lines.collect::<Vec<_>>(),
            [
                "udp-echo: cannot attach to eth9: No such device (os error 19); `ip link` lists the \
                 interfaces"
            ]
        );
        restart_with("eth9", "eth0");
        self.assert_program_echoes();
    }
}

/// Follows the comment of the drop-in.
fn install_the_drop_in(machine: &Machine) {
    let text = machine.shell(&format!("cat {SOURCE}"));
    let (_, socket) = text.split_once("systemctl edit udp-echo.socket\n").unwrap();
    let socket = socket.lines().map_while(|line| line.strip_prefix("#     "));
    let socket = socket.collect::<Vec<_>>().join("\n");
    machine.write(SOCKET, &socket.replace("192.0.2.1:9999", LISTEN));
    let [install, _] = commands(machine, SOURCE);
    let (copy, apply) = install.split_once(" && ").unwrap();
    machine.shell(copy);
    machine.shell(&format!("sed -i 's/192.0.2.1:9999/{LISTEN}/' {COPY}"));
    machine.shell(apply);
    // The restart of the socket does not wait for the service.
    machine.wait_for("ActiveState", "active");
}

/// The commands in the comment of the drop-in, to install and to undo it, without that of an editor.
fn commands(machine: &Machine, path: &str) -> [String; 2] {
    let text = machine.shell(&format!("cat {path}"));
    let (comment, _) = text.split_once("\n\n").unwrap();
    let (install, undo) = comment.split_once("# To undo").unwrap();
    [install, undo].map(|part| {
        let lines = part.lines().filter_map(|line| line.strip_prefix("#   "));
        let lines = lines.filter(|line| !line.starts_with(' ') && !line.contains(" edit "));
        lines.collect::<Vec<_>>().join(" && ")
    })
}

/// User, capabilities and restrictions of the main process.
fn permissions(machine: &Machine) -> String {
    let pid = machine.main_pid().unwrap();
    let status = machine.shell(&format!("cat /proc/{pid}/status"));
    let names = ["Uid", "Gid", "Cap", "NoNewPrivs", "Seccomp:"];
    let lines = status
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)));
    let lines = lines.collect::<Vec<_>>().join("\n");
    assert!(lines.contains("CapEff:\t0000000000000000"), "{lines}");
    assert!(!lines.contains("Uid:\t0\t"), "{lines}");
    lines
}
