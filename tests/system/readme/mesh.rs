//! The commands for three hosts that measure each other.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::harness::readme::{self, Passage, Place, bare};
use crate::harness::tidy::Folder;
use crate::harness::{program, wait_until};
use crate::mesh::{HOSTS, Network};
use crate::prometheus::EXAMPLES;

use super::typed::Typed;

/// Runs a command where the package is installed: its program and examples lie above those of this
/// host.
const INSTALLED: &str = r#"
mount -t overlay overlay -o "lowerdir=$0/share:/usr/share" /usr/share
PATH=$0/bin:$PATH exec sh -c "$1"
"#;
/// Three hosts that measure three targets.
const PAIRS: usize = 9;

#[test]
#[ignore = "needs root and prometheus; .ci/run runs it"]
fn every_command_of_the_mesh_works_on_three_hosts() {
    let network = Network::new();
    let installed = Folder::new();
    for (path, of) in [
        ("bin", program().get_program().into()),
        ("share", EXAMPLES.into()),
    ] {
        fs::create_dir(installed.join(path)).unwrap();
        let of: std::path::PathBuf = of;
        symlink(of, installed.join(path).join("udp-echo")).unwrap();
    }
    let folders = HOSTS.map(|_| Folder::new());
    let shell = |host: &str, line: &str| {
        let number = HOSTS.iter().position(|name| *name == host).unwrap();
        let mut command: Command = network.host(host).command("unshare");
        command.current_dir(&*folders[number]);
        command.args(["--mount", "sh", "-ec", INSTALLED]);
        command.arg(&*installed).arg(line);
        command
    };
    // The service that the package enables, and that of Prometheus.
    let _services: Vec<_> = HOSTS
        .iter()
        .map(|host| network.host(host).inside(service_ports))
        .collect();
    let mut running = Vec::new();
    let mut queries = 0;
    for (hosts, block) in blocks() {
        for command in &block.commands {
            for host in &hosts {
                eprintln!("{host}# {command}");
                let line = bare(command);
                if let Some(line) = line.strip_suffix('&') {
                    // Until it serves: the next command may need it.
                    let mut typed = Typed::start(shell(host, line), line);
                    typed.wait_for("it serves", |said| {
                        ["serving in", "probing ", "ready to receive"]
                            .iter()
                            .any(|text| said.contains(text))
                    });
                    running.push(typed);
                    continue;
                }
                let run = || {
                    let mut typed = Typed::start(shell(host, line), line);
                    let status = typed.wait();
                    (status.success(), typed.said())
                };
                if !line.starts_with("promtool query ") {
                    let (succeeds, said) = run();
                    assert!(succeeds, "{line}: {said}");
                    continue;
                }
                // Both directions have a line.
                let lines = PAIRS * if line.contains("one_way") { 2 } else { 1 };
                let mut last = String::new();
                wait_until(line, || {
                    let (succeeds, said) = run();
                    last = said;
                    let values: Vec<_> = last.lines().filter_map(value).collect();
                    let is_loss = line.contains("lost");
                    let is_right = |value: &f64| if is_loss { *value < 0.5 } else { *value > 0.0 };
                    succeeds && values.len() == lines && values.iter().all(is_right)
                });
                eprintln!("{last}");
                queries += 1;
            }
        }
    }
    assert_eq!([running.len(), queries], [7, 3]);
}

/// Each block of commands, and the hosts on which the text before it says to enter it.
fn blocks() -> Vec<(Vec<&'static str>, Passage)> {
    let sections = readme::sections().into_iter();
    let mut hosts = Vec::new();
    let mut blocks = Vec::new();
    for section in sections {
        let is_mesh = |command: &String| section.place(command) == Place::Mesh;
        if !section
            .passages
            .iter()
            .flat_map(|passage| &passage.commands)
            .any(is_mesh)
        {
            continue;
        }
        for passage in section.passages {
            if !passage.commands.is_empty() {
                blocks.push((hosts.clone(), passage));
            } else if !passage.text.trim().is_empty() {
                let all = passage.text.contains("every host");
                let own = |host: &&str| all || passage.text.contains(&format!("On `{host}`"));
                hosts = HOSTS.into_iter().filter(own).collect();
            }
        }
    }
    assert!(blocks.iter().all(|(hosts, _)| !hosts.is_empty()));
    blocks
}

/// The value of a line such as `{target="b"} => 0 @[1795739762]`.
fn value(line: &str) -> Option<f64> {
    let (_, value) = line.split_once("=> ")?;
    value.split(' ').next()?.parse().ok()
}

/// Holds the ports of the services that the packages start.
fn service_ports() -> (UdpSocket, [TcpListener; 2]) {
    let tcp = ["127.0.0.1:9862", "0.0.0.0:9090"];
    (
        UdpSocket::bind("127.0.0.1:9999").unwrap(),
        tcp.map(|address| TcpListener::bind(address).unwrap()),
    )
}
