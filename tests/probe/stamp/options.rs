//! The options of STAMP: defaults and usage errors.

use super::{assert_fits, key_file};
use crate::harness::tidy::Folder;
use crate::harness::{has_ipv6, program};
use crate::reflectors::{ended, joined, probe};
use crate::skipped;

#[test]
fn stamp_target_without_a_port_has_port_862() {
    let folder = Folder::new();
    let keys = key_file(&folder, "keys", &format!("* {}\n", "ab".repeat(16)), 0o600);
    let key = format!("--key-file={keys}");
    for (target, args, said) in [
        ("127.0.0.9", "", "127.0.0.9:862 in stamp mode: 44 bytes"),
        ("127.0.0.9:8", "", "127.0.0.9:8 in stamp mode: 44 bytes"),
        ("127.0.0.9", &key, "127.0.0.9:862 in stamp mode: 112 bytes"),
        (
            "127.0.0.9",
            "--cos=EF",
            "127.0.0.9:862 in stamp mode: 52 bytes",
        ),
        (
            "127.0.0.9",
            "--size=14",
            "127.0.0.9:862 in stamp mode: 14 bytes",
        ),
        ("::1", "", "[::1]:862 in stamp mode: 44 bytes"),
    ] {
        if target.contains("::") && !has_ipv6() {
            skipped!("no IPv6: the part about {target}");
            continue;
        }
        // Whether or not something answers.
        let args = format!("--mode=stamp -c 1 -W 0.1 {args}");
        let (_, out, err) = ended(&mut probe(target, &args));
        let said = format!("probing {said}, one request every 1 s\n");
        assert!(out.starts_with(&said), "{args}: {out}{err}");
        assert_fits(&out);
    }
}

#[test]
fn stamp_options_without_the_mode_are_usage_errors() {
    for option in ["--ssid=7", "--cos=EF", "--key-file=keys", "--padding=plain"] {
        let (name, _) = option.split_once('=').unwrap();
        for mode in ["exchange", "lockstep", "echo"] {
            let mode = format!("--mode={mode}");
            let args = format!("{mode} {option}");
            let said = format!("cannot use {name} with {}", mode.replace('=', " "));
            assert_usage(&args, &format!("{said}: it is for STAMP; add --mode stamp"));
        }
    }
}

#[test]
fn impossible_stamp_requests_are_usage_errors() {
    let no_header = "the header of the padding does not fit; use ";
    for (args, said) in [
        (
            "--mode=echo --size=15",
            "cannot use --size 15 with --mode echo: expected 16 to 65507",
        ),
        (
            "--size=14",
            "cannot use --size 14 with --mode exchange: expected 16 to 65507 bytes",
        ),
        (
            "--mode=stamp --size=13",
            "expected 16 to 65507 bytes (14 to 65507 in stamp mode)",
        ),
        (
            "--mode=stamp --size=65508",
            "expected 16 to 65507 bytes (14 to 65507 in stamp mode)",
        ),
        (
            "--mode=stamp --size=46",
            &format!("cannot use --size 46: {no_header}44, at least 48, or --padding plain"),
        ),
        (
            "--mode=stamp --cos=EF --size=53",
            &format!("cannot use --size 53: {no_header}52 or at least 56"),
        ),
        (
            "--mode=stamp --cos=EF --size=44",
            "cannot use --size 44: these requests have at least 52 bytes",
        ),
        (
            "--mode=stamp --key-file=keys --size=111",
            "cannot use --size 111: these requests have at least 112 bytes",
        ),
        (
            "--mode=stamp --key-file=keys --cos=EF --padding=plain --size=120",
            "cannot use --padding plain with --cos 46: padding after a TLV needs a header",
        ),
        (
            "--mode=stamp --cos=EF --padding=plain",
            "cannot use --padding plain with --cos 46: padding after a TLV needs a header",
        ),
        (
            "--mode=stamp --ssid=65536",
            "expected 0 to 65535, or 0x0 to 0xffff",
        ),
        ("--mode=stamp --cos=64", "expected 0 to 63 or a name"),
        (
            "--mode=stamp --padding=ones",
            "[possible values: zero, random, plain]",
        ),
    ] {
        assert_usage(args, said);
    }
}

#[test]
fn unusable_key_file_of_the_client_is_a_usage_error() {
    let folder = Folder::new();
    let line = format!("7 {}\n", "ab".repeat(16));
    let readable = key_file(&folder, "readable", &line, 0o644);
    let usable = key_file(&folder, "usable", &line, 0o600);
    let wrong = key_file(&folder, "wrong", "7 secret\n", 0o600);
    let cannot = "cannot use the STAMP key file";
    for (file, args, said) in [
        (
            &readable,
            "--ssid=7",
            format!("{cannot} {readable}: mode 0644 lets other users access it"),
        ),
        (
            &usable,
            "",
            format!("{cannot} {usable}: it has no key for SSID 0; add one, or one for *"),
        ),
        (
            &usable,
            "--ssid=8",
            format!("{cannot} {usable}: it has no key for SSID 8; add one, or one for *"),
        ),
        (&wrong, "--ssid=7", format!("{cannot} {wrong}: line 1: ")),
        (
            &format!("{usable}.gone"),
            "",
            format!("cannot read the STAMP key file {usable}.gone: No such file"),
        ),
    ] {
        assert_usage(&format!("--mode=stamp --key-file={file} {args}"), &said);
    }
}

/// Asserts that a client says this and does not start.
fn assert_usage(args: &str, said: &str) {
    let mut command = program();
    command.args(["probe", "127.0.0.1:1", "--count=1"]);
    let (status, out, err) = ended(command.args(args.split_whitespace()));
    assert_eq!((status, out.as_str()), (2, ""), "{args}: {err}");
    assert!(joined(&err).contains(said), "{args}: {err}");
}
