//! Three hosts on one network that measure each other, and a Prometheus that watches all of them.

mod alerts;
mod beside;

use std::fs;
use std::process::Stdio;

use crate::harness::tidy::Folder;
use crate::harness::{Daemon, program};
use crate::namespace::{Namespace, shell};
use crate::prometheus::Prometheus;

/// The names of the hosts, and their addresses in the same order.
pub const HOSTS: [&str; 3] = ["a", "b", "c"];
const ADDRESSES: [&str; 3] = ["10.77.0.1", "10.77.0.2", "10.77.0.3"];

/// Three hosts joined by a switch. The switch itself is a host too, 10.77.0.254, from which
/// Prometheus reads the metrics. The three hosts know each other by name.
pub struct Network {
    hosts: [Namespace; 3],
    switch: Namespace,
}

impl Network {
    pub fn new() -> Self {
        let switch = Namespace::new();
        switch.shell("ip link add br0 type bridge; ip link set br0 up");
        switch.shell("ip address add 10.77.0.254/24 dev br0");
        let hosts = [1, 2, 3].map(|number| {
            let host = Namespace::new();
            shell(&format!(
                "ip -n {} link add eth0 type veth peer name host{number} netns {}",
                host.name(),
                switch.name()
            ));
            switch.shell(&format!("ip link set host{number} master br0 up"));
            host.shell(&format!(
                "ip address add 10.77.0.{number}/24 dev eth0; ip link set eth0 up"
            ));
            host.write_hosts(&format!("127.0.0.1 localhost\n{}", names(&HOSTS)));
            host
        });
        Self { hosts, switch }
    }

    /// A host by its name.
    pub fn host(&self, name: &str) -> &Namespace {
        &self.hosts[number(name)]
    }

    /// The host that joins the others.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// Starts a Prometheus on the switch.
    pub fn prometheus(&self, configuration: &str) -> Prometheus {
        self.switch.inside(|| Prometheus::start(configuration))
    }

    /// The addresses of all hosts with a port, for the configuration of Prometheus.
    pub fn scraped(port: u16) -> [String; 3] {
        ADDRESSES.map(|address| format!("{address}:{port}"))
    }

    /// Starts a daemon on a host. Its HTTP port is 9862.
    pub fn daemon(&self, host: &str, args: &[&str]) -> Daemon {
        let addresses = ["--listen=0.0.0.0:9999", "--metrics-listen=0.0.0.0:9862"];
        self.host(host).daemon(&[&addresses[..], args].concat())
    }

    /// Starts a monitor on a host with the text of its file. Its HTTP port is 9863.
    pub fn monitor(&self, host: &str, file: &str) -> Monitor {
        let folder = Folder::new();
        let path = folder.join("monitor.toml");
        fs::write(&path, file).unwrap();
        let host = self.host(host);
        let mut command = host.command(program().get_program().to_str().unwrap());
        command.args(["monitor", "--metrics-listen=0.0.0.0:9863", "--config"]);
        command.arg(&path).stdin(Stdio::null());
        let mut process = host.inside(|| Daemon::start_until(command, "probing "));
        process.http = Some("127.0.0.1:9863".parse().unwrap());
        Monitor {
            process,
            _folder: folder,
        }
    }
}

/// A running monitor.
pub struct Monitor {
    pub process: Daemon,
    /// Holds its file.
    _folder: Folder,
}

fn number(host: &str) -> usize {
    let number = HOSTS.iter().position(|name| *name == host);
    number.expect("a name of a host")
}

fn address(host: &str) -> &'static str {
    ADDRESSES[number(host)]
}

/// A hosts file with these hosts.
fn names(hosts: &[&str]) -> String {
    let lines = hosts.iter().map(|host| [address(host), " ", host, "\n"]);
    lines.flatten().collect()
}
