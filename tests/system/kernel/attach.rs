//! `udp-echo attach` fails with one line, and leaves nothing behind.

use std::ffi::CString;

use super::{Attached, LISTEN, Pins, Side, bpf};
use crate::harness::{program, run};
use crate::namespace::Namespace;

/// Runs `attach`, which must fail with this line.
fn assert_fails(host: &Namespace, pins: &Pins, args: &[&str], expected: &str) {
    let folder = pins.0.join("udp-echo");
    let mut command = host.command(program().get_program().to_str().unwrap());
    command
        .args(["attach", "--listen", LISTEN, "--pins"])
        .arg(&folder);
    let (status, _, said) = run(command.args(args));
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said, format!("udp-echo: {expected}\n"));
    assert!(!folder.exists());
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn failed_attach_says_why_and_leaves_nothing() {
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    let pins = Pins::new();
    assert_fails(
        &host,
        &pins,
        &["--interface=eth9"],
        "cannot attach to eth9: No such device (os error 19); `ip link` lists the interfaces",
    );
    assert_fails(
        &host,
        &pins,
        &["--interface=eth0:1"],
        "cannot attach to eth0:1: No such device (os error 19); `ip link` lists the interfaces",
    );
    host.shell("ip tuntap add tun0 mode tun");
    assert_fails(
        &host,
        &pins,
        &["--interface=tun0"],
        "cannot attach to tun0: it is not an Ethernet device",
    );
    // The second interface cannot have it, so the first one does not get it.
    assert_fails(
        &host,
        &pins,
        &["--interface=eth0,lo"],
        "cannot attach to lo: Operation not supported (os error 95); its driver has no XDP: use \
         --generic",
    );
    let shown = || host.shell("ip link show");
    assert!(!shown().contains("prog/xdp"), "{}", shown());

    let attached = Attached::new(&host, Side::Server);
    assert!(attached.is_attached());
    assert_fails(
        &host,
        &pins,
        &["--interface=eth0"],
        "cannot attach to eth0: Device or resource busy (os error 16); the device has another XDP \
         program, and there can be only one: `ip link show eth0` shows it",
    );
    assert_fails(
        &host,
        &pins,
        &["--interface=eth0", "--generic"],
        "cannot attach to eth0: File exists (os error 17); the device has another XDP program, and \
         there can be only one: `ip link show eth0` shows it",
    );
    let (success, said) = attached.attach(&["--interface=eth0", "--listen", LISTEN]);
    assert!(!success);
    let twice = "udp-echo: cannot attach to eth0: udp-echo is already attached; run `udp-echo \
                 detach` first\n";
    assert_eq!(said, twice);
    assert!(attached.is_attached());
    drop(attached);
    assert!(!shown().contains("prog/xdp"), "{}", shown());
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn attach_without_privileges_names_the_capabilities() {
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    let binary = program().get_program().to_str().unwrap().to_owned();
    // The verifier has an objection if only CAP_PERFMON is missing.
    for (capabilities, cause) in [
        ("-all", "Operation not permitted (os error 1); "),
        (
            "-all,+bpf,+net_admin",
            "Permission denied (os error 13), the verifier says: R",
        ),
    ] {
        let mut command = host.command("setpriv");
        command.args(["--reuid=65534", "--clear-groups"]);
        for set in ["inh-caps", "ambient-caps", "bounding-set"] {
            command.arg(format!("--{set}={capabilities}"));
        }
        command.args([&*binary, "attach", "--interface=eth0", "--listen", LISTEN]);
        let (status, _, said) = run(&mut command);
        assert_eq!(status.code(), Some(1), "{said}");
        let start = format!("udp-echo: cannot attach to eth0: {cause}");
        let end = "; run it as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN\n";
        assert!(said.starts_with(&start) && said.ends_with(end), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn detach_detaches_while_a_process_holds_the_link() {
    /// `BPF_OBJ_GET`.
    const GET: i32 = 7;
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    let attached = Attached::new(&host, Side::Server);
    let path = CString::new(attached.pins() + "/eth0/link").unwrap();
    let link = bpf(GET, &[path.as_ptr().expose_provenance() as u64, 0]).unwrap();
    attached.detach();
    assert!(!attached.is_attached());
    drop(link);
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn daemon_says_which_setting_of_the_program_differs() {
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    let attached = Attached::new(&host, Side::Server);
    for (option, expected) in [
        (
            "--max-datagram=1000",
            "the program on eth0 was attached for --max-datagram 1024, not 1000",
        ),
        (
            "--min-source-port=1",
            "the program on eth0 was attached for --min-source-port 1024, not 1",
        ),
        (
            "--listen=127.0.0.1:0",
            "the program on eth0 was attached for --listen 10.77.0.1:9999, not ",
        ),
    ] {
        let mut command = host.command(program().get_program().to_str().unwrap());
        command.args([
            "--mode=echo",
            "--kernel-echo=require",
            "--metrics-listen=none",
        ]);
        command.args(["--pins", &attached.pins(), "--listen", LISTEN, option]);
        let (status, _, said) = run(&mut command);
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{expected} in {said}");
    }
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn generic_program_is_attached_once_to_a_repeated_name() {
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    let options = ["--generic", "--interface=eth0,eth0", "--listen", LISTEN];
    let attached = Attached::with(&host, &options);
    let shown = host.shell("ip link show eth0");
    assert!(
        shown.contains("prog/xdp") && shown.contains("xdpgeneric"),
        "{shown}"
    );
    attached.detach();
    assert!(!attached.is_attached());
}

#[test]
#[ignore = "needs root, BPF and ethtool; .ci/run runs it"]
fn attach_warns_of_replies_that_take_another_way() {
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    // Two interfaces in one network: the route is that of the first one.
    host.shell("ip link add eth1 type veth peer name eth2; ip link set eth2 up");
    host.shell("ip address add 10.77.0.3/24 dev eth1; ip link set eth1 up");
    let pins = Pins::new();
    let attach = |line: &str| {
        let mut command = host.command(program().get_program().to_str().unwrap());
        command.args(line.split(' ')).arg("--pins");
        let (status, out, said) = run(command.arg(pins.0.join("udp-echo")));
        assert!(status.success(), "{said}");
        (out, said)
    };
    let veth = |interface: &str| {
        format!(
            "udp-echo: warning: {interface} is a veth device, which loses the replies unless its other \
             end has an XDP program, too: use --generic\n"
        )
    };
    let tags = |interface: &str| {
        format!(
            "udp-echo: warning: {interface} removes VLAN tags: the program answers datagrams of every \
             VLAN, without a tag; `ethtool -K {interface} rxvlan off` leaves them to the socket\n"
        )
    };
    let route = "udp-echo: warning: replies of the program leave by eth1, where their datagrams came \
                 in; those of the socket leave to 10.77.0.0/24 by eth0\n";
    let line = format!("attach --interface eth0,eth1 --listen {LISTEN}");
    let [eth0, eth1] = ["eth0", "eth1"].map(|name| [veth(name), tags(name)]);
    let (out, said) = attach(&line);
    assert_eq!(out, "attached to eth0, eth1\n");
    assert_eq!(
        said,
        [&*eth0[0], &eth0[1], route, &eth1[0], &eth1[1]].concat()
    );
    assert_eq!(attach("detach --interface eth1").0, "detached from eth1\n");
    assert_eq!(attach("detach").0, "detached from eth0\n");
    host.shell("ethtool -K eth0 rxvlan off; ethtool -K eth1 rxvlan off");
    assert_eq!(attach(&format!("{line} --generic")).1, route);
    attach("detach");
    let nothing = format!(
        "nothing to detach: no such pins in {}/udp-echo\n",
        pins.0.display()
    );
    assert_eq!(attach("detach"), (nothing, String::new()));
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn address_that_is_none_of_the_interface_is_a_usage_error() {
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    host.shell("ip link add eth1 type veth peer name eth2; ip link set eth1 up");
    // It is the second address.
    host.shell("ip address add 10.78.0.1/30 brd + dev eth0");
    let pins = Pins::new();
    let folder = pins.0.join("udp-echo");
    let attach = |listen: &str, interfaces: &str| {
        let mut command = host.command(program().get_program().to_str().unwrap());
        command.args(["attach", "--interface", interfaces, "--listen", listen]);
        let (status, _, said) = run(command.arg("--pins").arg(&folder));
        (status.code(), said)
    };
    for listen in ["10.77.0.255:9999", "10.78.0.3:9999"] {
        let (status, said) = attach(listen, "eth0");
        assert_eq!(status, Some(2), "{said}");
        let expected = "is a wildcard, broadcast, multicast or loopback address";
        assert!(said.contains(expected), "{said}");
    }
    let listen = "[fe80::1%eth0]:9999";
    let (status, said) = attach(listen, "eth0,eth1");
    assert_eq!(status, Some(2), "{said}");
    let expected =
        format!("udp-echo: cannot attach to eth1: {listen} is an address of another interface\n");
    assert_eq!(said, expected);
    assert!(!host.shell("ip link show").contains("prog/xdp"));
    let (status, said) = attach(listen, "eth0");
    assert_eq!(status, Some(0), "{said}");
}
