//! Network namespaces as separate hosts.

use std::fs::{self, File};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nix::sched::{CloneFlags, setns};
use udp_echo::address::HostPort;

use crate::harness::{DEADLINE, Daemon, program, run, wait_until};

/// A network namespace, removed when dropped.
pub struct Namespace(String);

impl Namespace {
    /// A new namespace with its loopback interface up.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let namespace = Self(format!("udp-echo-{}-{number}", std::process::id()));
        shell(&format!("ip netns add {}", namespace.0));
        namespace.shell("ip link set lo up");
        namespace
    }

    /// Two namespaces joined by a veth pair. The first has 10.77.0.1/24 and `fd77::1/64`, the second
    /// 10.77.0.2/24 and `fd77::2/64`.
    pub fn pair() -> (Self, Self) {
        let (left, right) = (Self::new(), Self::new());
        left.join(&right);
        (left, right)
    }

    /// Joins two namespaces by a veth pair, as [`Self::pair`] does.
    pub fn join(&self, right: &Self) {
        shell(&format!(
            "ip -n {} link add eth0 type veth peer name eth0 netns {}",
            self.0, right.0
        ));
        for (namespace, number) in [(self, 1), (right, 2)] {
            // Without duplicate address detection, which takes time.
            namespace.shell("sysctl -qw net.ipv6.conf.eth0.accept_dad=0");
            namespace.shell(&format!(
                "ip address add 10.77.0.{number}/24 brd + dev eth0"
            ));
            namespace.shell(&format!("ip address add fd77::{number}/64 dev eth0 nodad"));
            namespace.shell("ip link set eth0 up");
        }
        for (namespace, number) in [(self, 1), (right, 2)] {
            let own = format!("local fd77::{number} ");
            namespace.wait_for_routes(&["local fe80::", "multicast ff00::/8", &own]);
        }
    }

    /// The name that `ip netns` knows.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Adds an address to the veth interface.
    pub fn add_address(&self, address: &str) {
        if address.contains(':') {
            self.shell(&format!("ip address add {address} dev eth0 nodad"));
            let (address, _) = address.split_once('/').unwrap();
            self.wait_for_routes(&[&format!("local {address} ")]);
        } else {
            self.shell(&format!("ip address add {address} dev eth0"));
        }
    }

    /// Waits until the veth pair carries IPv6: a kernel thread enables an address some time after it
    /// is added (net/ipv6/addrconf.c, `addrconf_dad_work`), and then adds its route.
    fn wait_for_routes(&self, expected: &[&str]) {
        wait_until("the veth pair has its routes", || {
            let routes = self.shell("ip -6 route show table all dev eth0");
            expected.iter().all(|route| routes.contains(route))
        });
    }

    /// Gives the namespace a hosts file of its own (`ip-netns(8)`).
    pub fn write_hosts(&self, text: &str) {
        let folder = self.etc();
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("hosts"), text).unwrap();
    }

    /// The files that replace those of /etc in the namespace.
    fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.0)
    }

    /// Runs a shell command in the namespace.
    pub fn shell(&self, line: &str) -> String {
        let mut command = self.command("sh");
        command.args(["-c", line]);
        checked(&mut command)
    }

    /// A command that runs in the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    /// A daemon in the namespace. Its HTTP port is there too: read it with [`Self::inside`].
    pub fn daemon(&self, args: &[&str]) -> Daemon {
        let command = self.command(program().get_program().to_str().unwrap());
        self.inside(|| Daemon::start_as(command, args))
    }

    /// Runs `work` in the namespace, on this thread: processes started there end with the thread that
    /// started them (`PR_SET_PDEATHSIG`).
    pub fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Back(File);
        impl Drop for Back {
            fn drop(&mut self) {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("root may go back");
            }
        }
        let _back = Back(File::open("/proc/thread-self/ns/net").unwrap());
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
        work()
    }

    /// Resolves an address in the namespace, including its zone.
    pub fn resolve(&self, text: &str) -> SocketAddr {
        self.inside(|| text.parse::<HostPort>().unwrap().resolve().unwrap())
    }

    /// A connected client in the namespace, bound to `local`.
    pub fn client(&self, local: &str, to: SocketAddr) -> UdpSocket {
        self.inside(|| {
            let socket = UdpSocket::bind(local).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        shell(&format!("ip netns delete {}", self.0));
        let _ = fs::remove_dir_all(self.etc());
    }
}

/// Runs a shell command.
pub fn shell(line: &str) -> String {
    checked(Command::new("sh").args(["-c", line]))
}

fn checked(command: &mut Command) -> String {
    let (status, out, err) = run(command);
    assert!(status.success(), "{command:?}: {status}\n{out}{err}");
    out
}
