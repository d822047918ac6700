//! Arguments and environment variables in error messages cannot forge log lines or control a
//! terminal.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::harness::{program, run, shell};

/// Control characters of each kind: C0, DEL, C1, bidirectional controls and separators.
const CONTROLS: [&str; 14] = [
    "\n",
    "\r\n",
    "\t",
    "\u{1}",
    "\u{1b}[2J",
    "\u{7}",
    "\u{7f}",
    "\u{9b}31m",
    "\u{61c}",
    "\u{200f}",
    "\u{202e}",
    "\u{2066}",
    "\u{2028}",
    "\u{2029}",
];
const OPTIONS: &str = "listen mode timeout max-datagram recv-buffer send-buffer workers busy-poll \
                       max-peers exit-on reuse-address timestamps min-source-port metrics-listen \
                       log log-format nonsense";

#[test]
fn control_characters_in_arguments_are_escaped_usage_errors() {
    for control in CONTROLS {
        for option in OPTIONS.split(' ') {
            let forged = format!("a{control}udp-echo: all is well");
            let argument = format!("--{option}={forged}");
            assert_refused(program().arg(&argument), "cannot use the argument");
            assert_refused(program().args([&format!("--{option}"), &forged]), "\"a");
            let name = format!("UDP_ECHO_{}", option.replace('-', "_").to_uppercase());
            if option != "nonsense" {
                assert_refused(program().env(&name, &forged), &name);
            }
        }
        assert_refused(program().arg(format!("--no{control}nsense")), "--no");
        assert_refused(program().arg0(format!("udp{control}echo")).arg("-x"), "udp");
    }
    let odd = OsString::from_vec(b"--listen=\xff\x1b[2J\n\xfe:9".to_vec());
    assert_refused(program().arg(odd), "--listen=");
}

#[test]
fn printable_unicode_in_arguments_is_shown_unescaped() {
    for (argument, shown) in [
        ("--mode=größe ☃", "'größe ☃'"),
        ("--listen=a b", "'a b'"),
        ("--log=世界", "'世界'"),
    ] {
        let (status, _, stderr) = run(program().arg(argument));
        assert_eq!(status.code(), Some(2));
        assert!(stderr.contains(shown), "{stderr}");
    }
}

#[test]
fn last_line_escapes_environment_variables() {
    for (name, value) in [
        ("LISTEN_FDNAMES", "ec\x1b[2Jho\nudp-echo: all is well"),
        ("LISTEN_FDS", "1\x1b[2J\n"),
        ("JOURNAL_STREAM", "\x1b[2J\n"),
        ("NOTIFY_SOCKET", "/no/\x1b[2J\nwhere"),
        (
            "LISTEN_FDNAMES",
            "ec\u{202e}ho\u{2028}udp-echo: all is well",
        ),
    ] {
        // exec keeps the process ID of the shell.
        let line = "LISTEN_PID=$$ LISTEN_FDS=${LISTEN_FDS-1} exec \"$0\" --listen=192.0.2.1:9";
        let mut command = shell(line);
        command.arg(program().get_program());
        let (status, _, stderr) = run(command.env(name, value));
        assert!(!status.success());
        assert_eq!(stderr.lines().count(), 1, "{stderr:?}");
        assert_has_no_control(&stderr);
    }
}

/// Asserts a usage error that contains `named`, no control character and no forged line.
fn assert_refused(command: &mut Command, named: &str) {
    let (status, stdout, stderr) = run(command);
    assert_eq!((status.code(), stdout.as_str()), (Some(2), ""), "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr:?}");
    assert!(stderr.contains(named), "no {named:?} in {stderr:?}");
    assert_has_no_control(&stderr);
    let forged = stderr.lines().any(|line| line.starts_with("udp-echo"));
    assert!(!forged, "{stderr}");
}

fn assert_has_no_control(text: &str) {
    let others = [
        '\u{61c}', '\u{200f}', '\u{202e}', '\u{2066}', '\u{2028}', '\u{2029}',
    ];
    let control = |c: char| c != '\n' && (c.is_control() || others.contains(&c));
    assert!(!text.contains(control), "{text:?}");
}
