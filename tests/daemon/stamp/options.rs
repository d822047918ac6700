//! The options of stamp mode: defaults, errors, key files and warnings.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::service::assert_has;
use crate::harness::tidy::Folder;
use crate::harness::{Daemon, program};
use crate::usage::{assert_wrong_usage, ended};

const KEY: &str = "00112233445566778899aabbccddeeff";

#[test]
fn stamp_mode_has_defaults_of_its_own() {
    let check = |args: &[&str], timestamps: &str| {
        let mut command = program();
        command.args(["--check", "--mode=stamp"]).args(args);
        let (status, out, err) = ended(command.env("UDP_ECHO_TIMESTAMPS", timestamps));
        assert_eq!((status, err.as_str()), (Some(0), ""));
        out
    };
    let given = ["--listen=127.0.0.1:9", "--max-datagram=100"];
    for (args, timestamps, lines) in [
        (
            &[][..],
            "",
            &[
                "LISTEN=localhost:862",
                "MAX_DATAGRAM=65507",
                "TIMESTAMPS=true",
            ][..],
        ),
        (
            &given,
            "no",
            &["LISTEN=127.0.0.1:9", "MAX_DATAGRAM=100", "TIMESTAMPS=false"],
        ),
        (
            &["--offload=auto", "--timestamps"],
            "",
            &["TIMESTAMPS=true"],
        ),
    ] {
        let out = check(args, timestamps);
        for line in lines.iter().chain(&["MODE=stamp", "OFFLOAD=off"]) {
            assert_has(&out, &format!("UDP_ECHO_{line}\n"));
        }
    }
}

#[test]
fn wrong_stamp_option_is_a_usage_error() {
    for (args, named) in [
        ("--mode=stamp --exit-on=empty", "--exit-on empty stamp"),
        (
            "--mode=stamp --exit-on=timeout,decode-error",
            "--exit-on decode-error stamp",
        ),
        (
            "--stamp-sequence=none",
            "--stamp-sequence 'none' stateful stateless",
        ),
        ("--stamp-session-timeout=0", "--stamp-session-timeout '0'"),
        (
            "--stamp-session-timeout=none",
            "--stamp-session-timeout 'none'",
        ),
        ("--stamp-min-request=13", "--stamp-min-request '13' 14"),
        (
            "--stamp-min-request=65508",
            "--stamp-min-request '65508' 65507",
        ),
        ("--stamp-clock=soon", "--stamp-clock 'soon' auto none"),
        ("--stamp-clock=-1", "--stamp-clock '-1'"),
        ("--stamp-dscp=64", "--stamp-dscp '64' copy"),
        ("--stamp-dscp=EF,CS1", "--stamp-dscp 'EF,CS1'"),
        ("--stamp-allow-dscp=EF,64", "--stamp-allow-dscp '64'"),
        ("--stamp-allow-dscp=9-8", "--stamp-allow-dscp '9-8'"),
        ("--stamp-allow-dscp=copy", "--stamp-allow-dscp 'copy'"),
        ("--stamp-key-file=", "--stamp-key-file"),
    ] {
        for check in [&[][..], &["--check"]] {
            assert_wrong_usage(program().args(args.split(' ')).args(check), named);
        }
    }
}

#[test]
fn unusable_key_file_is_status_2_for_check_and_start() {
    let folder = Folder::new();
    let file = |name: &str, text: &str, mode: u32| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    let good = format!("* {KEY}\n");
    for (path, cause) in [
        (folder.join("missing"), ": No such file or directory"),
        (file("others", &good, 0o604), ": mode 0604 lets other users"),
        (file("writable", &good, 0o620), ": mode 0620 "),
        (file("empty", "# none\n", 0o600), ": no key: "),
        (
            file("short", &format!("1 {KEY}\n2 c0ffee\n"), 0o600),
            ": line 2: the key is not 16 to 64 bytes",
        ),
        (
            file("twice", &format!("1 {KEY}\n0x1 {KEY}\n"), 0o600),
            ": line 2: line 1 already has a key",
        ),
        (
            file("order", &format!("{KEY} 7\n"), 0o600),
            ": line 1: the SSID is not ",
        ),
    ] {
        let outcome = |args: &[&str]| ended(with_key_file(&path).args(args));
        let (start, check) = (
            outcome(&["--mode=stamp"]),
            outcome(&["--mode=stamp", "--check"]),
        );
        assert_eq!(start, check);
        let (status, out, err) = start;
        assert_eq!((status, out.as_str()), (Some(2), ""), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.starts_with("udp-echo: cannot "), "{err}");
        assert_has(&err, &format!("STAMP key file {}", path.display()));
        assert_has(&err, cause);
        assert!(!err.contains(KEY) && !err.contains("c0ffee"), "{err}");
        // Other modes do not read it.
        assert_eq!(outcome(&["--mode=echo", "--check"]).0, Some(0));
    }
    let good = file("good", &good, 0o440);
    let (status, out, err) = ended(with_key_file(&good).args(["--mode=stamp", "--check"]));
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert_has(
        &out,
        &format!("UDP_ECHO_STAMP_KEY_FILE={}\n", good.display()),
    );
    assert!(!out.contains(KEY), "{out}");
}

#[test]
fn stamp_options_are_ignored_with_a_warning_in_other_modes() {
    let mut command = program();
    command.env("UDP_ECHO_STAMP_DSCP", "EF");
    let daemon = Daemon::start_as(command, &["--mode=echo", "--stamp-min-request=44"]);
    let log = daemon.whole_log();
    let warnings: Vec<_> = log.iter().filter(|line| line.contains(" WARN ")).collect();
    let [warning] = warnings[..] else {
        panic!("{log:#?}");
    };
    assert_has(warning, " ignoring ");
    for text in ["--stamp-min-request", "UDP_ECHO_STAMP_DSCP", "--mode echo"] {
        assert_has(warning, text);
    }
    assert!(!log.iter().any(|line| line.contains("STAMP replies")));
    let used = ["--mode=stamp", "--stamp-min-request=44", "--stamp-clock=0"];
    let log = Daemon::start(&used).whole_log();
    assert!(!log.iter().any(|line| line.contains(" WARN ")), "{log:#?}");
}

fn with_key_file(path: &Path) -> std::process::Command {
    let mut command = program();
    command.env("UDP_ECHO_STAMP_KEY_FILE", path);
    command.args(["--listen=127.0.0.1:0", "--metrics-listen=none"]);
    command
}
