//! `--kernel-echo` without attached programs, and options that it excludes.

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::harness::service::{Service, assert_has};
use crate::harness::tidy::Folder;
use crate::harness::{program, run};
use crate::inherited::command_with_socket;
use crate::usage::ended_with_own_input;

const ECHO: [&str; 3] = [
    "--mode=echo",
    "--listen=127.0.0.1:0",
    "--metrics-listen=none",
];

#[test]
fn required_kernel_path_without_programs_ends_the_start() {
    let mut command = program();
    command
        .args(ECHO)
        .args(["--kernel-echo=require", "--pins=/no/pins"]);
    let (status, _, said) = run(&mut command);
    assert_eq!(status.code(), Some(1), "{said}");
    let expected = "udp-echo: cannot use the kernel path: no program is attached: there are no pins in \
                    /no/pins; run `udp-echo attach`\n";
    assert_eq!(said, expected);
}

#[test]
fn wildcard_address_of_a_passed_in_socket_ends_the_start() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let address = socket.local_addr().unwrap();
    let args = ["--mode=echo", "--kernel-echo=require"];
    let (status, _, said) = ended_with_own_input(&mut command_with_socket(socket, &args));
    assert_eq!(status, Some(1), "{said}");
    let expected = format!(
        "udp-echo: cannot use the kernel path: a program cannot answer for {address}, which is every \
         address: set one address in ListenDatagram= of the socket unit"
    );
    assert_has(&said, &expected);
}

#[test]
fn automatic_kernel_path_without_programs_warns_and_serves() {
    let mut command = program();
    command.env("UDP_ECHO_KERNEL_ECHO", "auto");
    command.env("UDP_ECHO_PINS", "/no/pins");
    let service = Service::start(command, &["--mode=echo"]);
    let client = crate::harness::client(service.listen);
    client.send(b"datagram").unwrap();
    assert_eq!(crate::harness::receive(&client), b"datagram");
    let (status, log) = service.end_with_whole_log();
    assert!(status.success(), "{log}");
    assert_has(&log, "kernel path disabled: no program is attached");
    assert_eq!(log.matches(" WARN ").count(), 1, "{log}");
}

#[test]
fn options_that_the_kernel_path_cannot_serve_are_errors() {
    for (options, expected) in [
        (
            "--mode exchange --kernel-echo auto",
            "cannot use --kernel-echo auto with --mode exchange: the kernel path only echoes; use \
             --mode echo",
        ),
        (
            "--mode echo --kernel-echo require --listen *:9999",
            "cannot use --kernel-echo require on 0.0.0.0:9999: the kernel path needs concrete \
             addresses; name them in --listen",
        ),
        (
            "--mode echo --kernel-echo auto --rate-limit 9",
            "with --rate-limit: the kernel path does not limit rates; remove one of the two",
        ),
        (
            "--mode echo --kernel-echo auto --rate-limit-total 9",
            "with --rate-limit-total: the kernel path does not limit rates",
        ),
        (
            "--mode echo --kernel-echo auto --timestamps",
            "with --timestamps: the kernel path measures no residence time",
        ),
        (
            "--mode echo --kernel-echo auto --exit-on timeout",
            "with --exit-on: the kernel path does not reset the idle time",
        ),
        (
            "--mode echo --kernel-echo auto --log debug",
            "with --log: the kernel path logs no datagrams",
        ),
        (
            "--mode echo --kernel-echo auto --log warn,udp_echo=trace",
            "with --log: the kernel path logs no datagrams",
        ),
    ] {
        let mut command = program();
        let (status, _, said) = run(command.args(options.split(' ')));
        assert_eq!(status.code(), Some(2), "{options}: {said}");
        assert_has(&said, expected);
    }
    // A log of other modules shows no datagrams.
    let mut command = program();
    command
        .args(ECHO)
        .args(["--kernel-echo=auto", "--log=hyper=debug", "--check"]);
    let (status, _, said) = run(&mut command);
    assert!(status.success(), "{said}");
}

#[test]
fn wrong_address_of_attach_is_a_usage_error() {
    for (options, expected) in [
        ("--listen *:9999", "0.0.0.0:9999 is a wildcard, broadcast"),
        ("--listen [ff02::1]:9999", "[ff02::1]:9999 is a wildcard"),
        ("--listen localhost:9999", "localhost:9999 is a wildcard"),
        ("--listen 192.0.2.1:0", "192.0.2.1:0 has port 0"),
        (
            "--listen 192.0.2.1:9 --owner no-such-user",
            "there is no user no-such-user",
        ),
        (
            "--listen 192.0.2.1:9 --owner /no/such/file",
            "cannot read the owner of /no/such/file: No such file or directory",
        ),
    ] {
        let mut command = program();
        command.args(["attach", "--interface", "lo"]);
        let (status, _, said) = run(command.args(options.split(' ')));
        assert_eq!(status.code(), Some(2), "{options}: {said}");
        assert_has(&said, expected);
    }
    let mut command = program();
    let (status, _, said) = run(command.arg("attach"));
    assert_eq!(status.code(), Some(2), "{said}");
    assert_has(&said, "--interface <IF>");
}

#[test]
fn attach_fails_if_an_address_does_not_resolve() {
    let mut command = program();
    // The resolver asks no server for the zone.
    command.args(["attach", "--interface=lo", "--listen=[fe80::1%no-if]:9999"]);
    let (status, _, said) = run(&mut command);
    assert_eq!(status.code(), Some(1), "{said}");
    assert_has(&said, "udp-echo: cannot resolve \"fe80::1%no-if\": ");
}

#[test]
fn required_options_of_attach_have_variables() {
    // Port 0 is refused after the command line is parsed.
    let refused = "192.0.2.1:0 has port 0";
    for (variables, options, expected) in [
        (&["LISTEN=192.0.2.1:0"][..], "--interface=lo", refused),
        (&["ATTACH_INTERFACE=lo"], "--listen=192.0.2.1:0", refused),
        (&["LISTEN=192.0.2.1:0", "ATTACH_INTERFACE=lo"], "", refused),
        (&["LISTEN=192.0.2.1:0"], "", "--interface <IF>"),
        (&["LISTEN="], "--interface=lo", "--listen <ADDRESS:PORT>"),
    ] {
        let mut command = program();
        command.arg("attach").args(options.split_whitespace());
        for variable in variables {
            let (name, value) = variable.split_once('=').unwrap();
            command.env(format!("UDP_ECHO_{name}"), value);
        }
        let (status, _, said) = run(&mut command);
        assert_eq!(status.code(), Some(2), "{variables:?} {options}: {said}");
        assert_has(&said, expected);
    }
}

#[test]
fn detach_of_nothing_succeeds() {
    let mut command = program();
    let (status, out, said) = run(command.args(["detach", "--pins", "/no/pins"]));
    assert!(status.success(), "{said}");
    let expected = "nothing to detach: no such pins in /no/pins\n";
    assert_eq!([&*out, &said], [expected, ""]);
}

#[test]
fn detach_refuses_a_folder_that_others_can_change() {
    let folder = Folder::new();
    let pins = folder.join("pins");
    fs::create_dir(&pins).unwrap();
    fs::set_permissions(&pins, Permissions::from_mode(0o775)).unwrap();
    let real = folder.join("real");
    fs::create_dir(&real).unwrap();
    fs::set_permissions(&real, Permissions::from_mode(0o755)).unwrap();
    symlink(&real, folder.join("link")).unwrap();
    for name in ["pins", "link", "link/"] {
        let pins = folder.join(name);
        let mut command = program();
        let (status, _, said) = run(command.arg("detach").arg("--pins").arg(&pins));
        assert_eq!(status.code(), Some(1), "{name}: {said}");
        let expected = format!(
            "udp-echo: cannot detach: cannot remove the pins in {0}: {0} must be a folder, not a \
             link, that belongs to root and that only root can write\n",
            pins.display()
        );
        assert_eq!(said, expected);
    }
}

#[test]
fn detach_leaves_files_that_are_not_pins() {
    let folder = Folder::new();
    let pins = folder.join("udp-echo");
    for made in [&pins, &pins.join("project"), &pins.join("empty")] {
        fs::create_dir(made).unwrap();
        fs::set_permissions(made, Permissions::from_mode(0o755)).unwrap();
    }
    let names = ["link", "addresses", "heartbeat"];
    for name in names {
        fs::write(pins.join("project").join(name), "text").unwrap();
    }
    let mut command = program();
    let (status, _, said) = run(command.arg("detach").arg("--pins").arg(&pins));
    assert!(status.success(), "{said}");
    for name in names {
        assert!(pins.join("project").join(name).exists(), "{name}");
    }
    assert!(pins.join("empty").exists());
}
