//! `udp-echo attach` and `detach` change only pins of their own, in folders that others cannot change.

use std::fs;

use super::{Attached, LISTEN, Pins, Side};
use crate::harness::tidy::Folder;
use crate::harness::{program, run};
use crate::namespace::{Namespace, shell};

const UNTRUSTED: &str =
    "must be a folder, not a link, that belongs to root and that only root can write\n";

/// Runs a command of `udp-echo` with a folder of pins. Returns its status and error.
fn udp_echo(host: &Namespace, pins: &str, line: &str) -> (Option<i32>, String) {
    let mut command = host.command(program().get_program().to_str().unwrap());
    let (status, _, said) = run(command.args(line.split(' ')).args(["--pins", pins]));
    (status.code(), said)
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn attach_refuses_folders_that_others_can_change() {
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    let mount = Pins::new();
    let victim = Folder::new();
    fs::write(victim.join("link"), "text").unwrap();
    let pins = mount.0.join("udp-echo").display().to_string();
    let to_victim = format!("ln -s {} {pins}/eth0", victim.display());
    for (made, untrusted) in [
        (format!("chown 65534 {pins}"), ""),
        (format!("chmod 1777 {pins}"), ""),
        (
            format!("mkdir {pins}/eth0; chown 65534 {pins}/eth0"),
            "/eth0",
        ),
        (to_victim, "/eth0"),
    ] {
        shell(&format!("mkdir {pins}; {made}"));
        let attach = format!("attach --interface=eth0 --listen {LISTEN}");
        let (status, said) = udp_echo(&host, &pins, &attach);
        assert_eq!(status, Some(1), "{made}: {said}");
        let expected =
            format!("udp-echo: cannot pin to {pins}/eth0: {pins}{untrusted} {UNTRUSTED}");
        assert_eq!(said, expected, "{made}");
        assert!(victim.join("link").exists());
        let shown = host.shell("ip link show");
        assert!(!shown.contains("prog/xdp"), "{shown}");
        shell(&format!("rm -r {pins}"));
    }
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn failed_attach_leaves_a_folder_that_existed() {
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    let mount = Pins::new();
    let pins = mount.0.join("mine");
    fs::create_dir(&pins).unwrap();
    shell(&format!("chmod 755 {}", pins.display()));
    let pins = pins.display().to_string();
    let attach = format!("attach --interface=lo --listen {LISTEN}");
    let (status, said) = udp_echo(&host, &pins, &attach);
    assert_eq!(status, Some(1), "{said}");
    assert!(fs::exists(&pins).unwrap());
    // It is in no file system of type bpf.
    let plain = Folder::new();
    let pins = plain.join("udp-echo").display().to_string();
    let attach = format!("attach --interface=eth0 --listen {LISTEN}");
    let (status, said) = udp_echo(&host, &pins, &attach);
    assert_eq!(status, Some(1), "{said}");
    let expected = format!(
        "udp-echo: cannot pin to {pins}/eth0: Operation not permitted (os error 1); --pins needs a \
         folder in a file system of type bpf (mount -t bpf -o mode=0755 bpf /sys/fs/bpf)\n"
    );
    assert_eq!(said, expected);
    assert!(!fs::exists(&pins).unwrap());
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn detach_leaves_pins_of_other_programs() {
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    let attached = Attached::new(&host, Side::Server);
    let pins = attached.pins();
    // A link without addresses, a map of another name, a pin of another name, and nothing.
    let foreign = [
        "alone/link",
        "another/addresses",
        "more/addresses",
        "more/other",
        "nothing",
    ];
    let moved = [
        "mkdir alone another more nothing; chmod 755 *; mv eth0/link alone",
        "mv eth0/heartbeat another/addresses; mv eth0/addresses more",
        "ln -s x more/other; rmdir eth0",
    ];
    let other = attached.pins.0.join("other").display().to_string();
    shell(&format!(
        "mkdir {other}; chmod 755 {other}; mv {pins}/eth0 {other}"
    ));
    shell(&format!("cd {other}; {}", moved.join("; ")));
    let (status, said) = udp_echo(&host, &other, "detach");
    assert_eq!(status, Some(0), "{said}");
    for path in foreign {
        assert!(
            fs::symlink_metadata(format!("{other}/{path}")).is_ok(),
            "{path}"
        );
    }
    assert!(attached.is_attached());
    shell(&format!("rm -r {other}"));
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn detach_removes_what_a_killed_attach_left() {
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    for left in ["link heartbeat", "link", "link heartbeat addresses"] {
        let attached = Attached::new(&host, Side::Server);
        let pins = attached.pins();
        shell(&format!("cd {pins}/eth0; rm {left}"));
        attached.detach();
        assert!(!fs::exists(&pins).unwrap(), "{left}");
    }
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn detach_goes_on_after_an_error() {
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    host.shell("ip link add eth1 type veth peer name eth2");
    let attached = Attached::new(&host, Side::Server);
    let pins = attached.pins();
    let (success, said) = attached.attach(&["--interface=eth1", "--listen", LISTEN]);
    assert!(success, "{said}");
    shell(&format!("chown 65534 {pins}/eth0"));
    let (status, said) = udp_echo(&host, &pins, "detach");
    assert_eq!(status, Some(1), "{said}");
    let expected = format!(
        "udp-echo: cannot detach: cannot remove the pins in {pins}/eth0: {pins}/eth0 {UNTRUSTED}"
    );
    assert_eq!(said, expected);
    assert!(attached.is_attached());
    assert!(!fs::exists(format!("{pins}/eth1")).unwrap());
    shell(&format!("chown 0 {pins}/eth0"));
    attached.detach();
    assert!(!fs::exists(&pins).unwrap());
}

#[test]
#[ignore = "needs root and BPF; .ci/run runs it"]
fn interface_with_a_dot_in_its_name_is_attached() {
    needs_bpf!();
    let (host, _other) = Namespace::pair();
    host.shell("ip link set eth0 name eth0.5");
    let attached = Attached::with(&host, &["--interface=eth0.5", "--listen", LISTEN]);
    // The daemon does not open it.
    let other = format!("{}/other", attached.pins());
    fs::create_dir(&other).unwrap();
    let daemon = attached.daemon(LISTEN);
    fs::remove_dir(&other).unwrap();
    let active = "kernel_echo_active{interface=\"eth0.5\"}";
    host.inside(|| daemon.wait_for_metric(active, 1.0));
    let pins = attached.pins();
    let (status, said) = udp_echo(&host, &pins, "detach --interface eth0");
    assert_eq!(status, Some(0), "{said}");
    assert!(fs::exists(format!("{pins}/eth0:5")).unwrap());
    let (status, said) = udp_echo(&host, &pins, "detach --interface eth0.5");
    assert_eq!(status, Some(0), "{said}");
    assert!(!fs::exists(&pins).unwrap());
}
