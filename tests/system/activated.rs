//! Sockets passed in by `systemd-socket-activate`, without a booted systemd. It waits for the first
//! datagram or connection and then executes the daemon.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::harness::{DEADLINE, Daemon, client, program, receive, wait_until};

#[test]
#[ignore = "needs systemd-socket-activate; .ci/run runs it"]
fn passed_in_sockets_replace_listen_with_a_warning() {
    let addresses = [free_port(), free_port()];
    let peers = addresses.map(client);
    let command = activate(
        &[
            "--datagram",
            &format!("--listen={}", addresses[0]),
            &format!("--listen={}", addresses[1]),
            "--fdname=echo:echo",
        ],
        &[
            "--mode=echo",
            "--listen=127.0.0.1:1,127.0.0.1:2",
            "--metrics-listen=127.0.0.1:0",
        ],
    );
    // The datagram that starts the daemon waits in the socket and is answered.
    let waits = thread::spawn({
        let peer = peers[0].try_clone().unwrap();
        move || until_answered(&peer)
    });
    let daemon = Daemon::start_exactly(command);
    waits.join().unwrap();
    assert_eq!(daemon.listen, addresses);
    for peer in &peers {
        peer.send(b"to each").unwrap();
        while receive(peer) != b"to each" {}
    }
    let log = daemon.log();
    let warnings = log
        .iter()
        .filter(|line| line.contains("ignoring --listen: systemd passed in sockets"));
    assert_eq!(warnings.count(), 1, "{log:#?}");
    for address in addresses {
        let labels = format!("{{listen=\"{address}\",worker=\"0\"}}");
        assert!(daemon.metric(&format!("socket_receive_buffer_bytes{labels}")) > 0.0);
    }
    daemon.assert_accounted_for();
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
#[ignore = "needs systemd-socket-activate; .ci/run runs it"]
fn unusable_passed_in_socket_is_named_in_the_error() {
    let folder = std::env::temp_dir().join(format!("udp-echo-activate-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("socket");
    let unix = path.to_str().unwrap();
    let [one, other] = [free_port(), free_port()].map(|address| address.to_string());
    for (how, options, args, code, line) in [
        (
            &["--datagram"][..],
            &[&*one, &other][..],
            &["--mode=lockstep"][..],
            2,
            "cannot use --mode lockstep with 2 UDP sockets: that mode serves only one",
        ),
        (&[], &[&one], &[], 1, "socket 3, passed in as echo: it is "),
        (
            &["--datagram"],
            &[unix],
            &[],
            1,
            "socket 3, passed in as echo: it is ",
        ),
        (
            &["--datagram", "--fdname=metrics"],
            &[&one],
            &[],
            1,
            "socket 3, passed in as metrics: it is not a listening TCP socket",
        ),
        (
            &["--datagram", "--fdname=else"],
            &[&one],
            &[],
            1,
            "socket 3, passed in as \"else\": unknown name",
        ),
        (
            &["--fdname=metrics:metrics"],
            &[&one, &other],
            &[],
            1,
            "socket 4, passed in as metrics: it is a second metrics socket",
        ),
    ] {
        let mut given: Vec<_> = how.iter().map(|option| (*option).to_owned()).collect();
        given.extend(options.iter().map(|address| format!("--listen={address}")));
        if !how.iter().any(|option| option.starts_with("--fdname")) {
            given.push(format!(
                "--fdname={}",
                vec!["echo"; options.len()].join(":")
            ));
        }
        let given: Vec<_> = given.iter().map(String::as_str).collect();
        let mut daemon = activate(&given, args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("systemd-socket-activate is installed");
        wait_until("the daemon ends", || {
            knock(options[0], how.contains(&"--datagram"));
            daemon.try_wait().unwrap().is_some()
        });
        let output = daemon.wait_with_output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{given:?}: {log}");
        let own: Vec<_> = log
            .lines()
            .filter(|line| line.starts_with("udp-echo: "))
            .collect();
        assert!(
            own.len() == 1 && own[0].contains(line),
            "{given:?}: {line:?} in {log}"
        );
        let _ = std::fs::remove_file(&path);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

fn activate(options: &[&str], args: &[&str]) -> Command {
    let mut command = Command::new("systemd-socket-activate");
    command
        .args(options)
        .arg(program().get_program())
        .args(args);
    command
}

/// Sends until a reply comes: the socket may not exist yet.
fn until_answered(peer: &UdpSocket) {
    let peer = peer.try_clone().unwrap();
    wait_until("the daemon answers", || {
        let _ = peer.send(b"datagram");
        peer.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        peer.recv(&mut [0; 16]).is_ok()
    });
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
}

/// Makes a socket readable, if it exists already.
fn knock(address: &str, datagram: bool) {
    if Path::new(address).is_absolute() {
        let _ = UnixDatagram::unbound().unwrap().send_to(b"knock", address);
    } else if datagram {
        let _ = client(address.parse().unwrap()).send(b"knock");
    } else {
        let _ = TcpStream::connect(address);
    }
}

fn free_port() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}
