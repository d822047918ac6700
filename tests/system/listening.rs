//! Addresses to listen on, on hosts with unusual settings.

use crate::harness::{Daemon, program, receive, request_to};
use crate::namespace::Namespace;

#[test]
#[ignore = "needs root; .ci/run runs it"]
fn localhost_is_known_without_a_resolver() {
    let host = Namespace::new();
    let mut command = host.command("unshare");
    let script = "mount --bind /dev/null /etc/hosts && mount --bind /dev/null /etc/nsswitch.conf \
                  && exec \"$0\" \"$@\"";
    command.args(["--mount", "sh", "-c", script]);
    command.arg(program().get_program());
    command.args(["--listen=localhost:9999", "--metrics-listen=none"]);
    let daemon = Daemon::start_exactly(command);
    assert_eq!(daemon.address(), "127.0.0.1:9999".parse().unwrap());
}

#[test]
#[ignore = "needs root; .ci/run runs it"]
fn wildcards_include_ipv4_with_the_bindv6only_sysctl() {
    let host = Namespace::new();
    host.shell("sysctl -qw net.ipv6.bindv6only=1");
    let daemon = host.daemon(&[
        "--mode=echo",
        "--listen=[::]:9999",
        "--metrics-listen=[::]:9862",
    ]);
    assert!(daemon.address().is_ipv6());
    for (local, udp, http) in [
        ("127.0.0.1:0", "127.0.0.1:9999", "127.0.0.1:9862"),
        ("[::1]:0", "[::1]:9999", "[::1]:9862"),
    ] {
        let peer = host.client(local, udp.parse().unwrap());
        peer.send(b"hello").unwrap();
        assert_eq!(receive(&peer), b"hello");
        let get = "GET /-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let response = host.inside(|| request_to(http.parse().unwrap(), get));
        assert_eq!(response.status, 200);
    }
}
