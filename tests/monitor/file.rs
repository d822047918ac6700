//! Files and targets that the monitor refuses.

use std::fmt::Write as _;
use std::fs::{self, File};

use nix::sys::stat::{Mode, SFlag, mknod};

use crate::harness::tidy::Folder;
use crate::{assert_refused, ended, monitor, with_file};

#[test]
fn wrong_file_is_status_2_and_one_line() {
    for (text, line) in [
        (
            "[[target]]\naddress = h\n",
            ":2: not TOML: string values must be quoted, expected literal string, at \"h\"",
        ),
        (
            "[[target]]\naddress = \"h\"\nintervall = 1\n",
            ":3: unknown key intervall in [[target]]; expected name, address, mode, interval, \
             flows, size, wait, dscp, family, all_addresses, per_flow, source, ttl, ssid, key_file",
        ),
        (
            "[[target]]\naddress = \"h\"\n\n[[target]]\naddress = \"h\"\n",
            ":5: cannot add target \"h\" twice: line 2 has the same address; add a name to one of \
             them",
        ),
        (
            "[[target]]\naddress = \"h:0\"\n",
            ":2: cannot use address = \"h:0\": cannot send to port 0: it is reserved; use 1 to \
             65535",
        ),
        (
            "[[target]]\naddress = \"h\"\ninterval = \"\u{1b}[2J\"\n",
            ":3: not TOML: invalid basic string, expected non-double-quote visible characters, \
             `\\`, at \"\\u{1b}\"",
        ),
    ] {
        let folder = with_file(text);
        assert_refused(
            &folder,
            "--config=monitor.toml",
            &format!("monitor.toml{line}"),
        );
    }
}

#[test]
fn monitor_without_a_target_is_refused() {
    let folder = with_file("[defaults]\nflows = 8\n");
    let line = "no target: add one to monitor.toml or name it on the command line";
    assert_refused(&folder, "--config=monitor.toml", line);
    let line = "no target: name one on the command line, or in a file with --config";
    assert_refused(&folder, "", line);
}

#[test]
fn file_that_cannot_be_read_is_refused() {
    let folder = Folder::new();
    fs::create_dir(folder.join("directory")).unwrap();
    let mode = Mode::from_bits_truncate(0o644);
    mknod(&folder.join("fifo"), SFlag::S_IFIFO, mode, 0).unwrap();
    let large = File::create(folder.join("large")).unwrap();
    large.set_len((64 << 20) + 1).unwrap();
    fs::write(folder.join("latin1"), b"[defaults]\n# caf\xe9\n").unwrap();
    let kind = "it is not a regular file of at most 64 MiB";
    for (name, line) in [
        (
            "missing",
            "cannot read missing: No such file or directory (os error 2); check its path and \
             permissions",
        ),
        ("directory", &format!("cannot use directory: {kind}")),
        ("fifo", &format!("cannot use fifo: {kind}")),
        ("large", &format!("cannot use large: {kind}")),
        ("latin1", "latin1:2: the text is not UTF-8; correct it"),
    ] {
        assert_refused(&folder, &format!("--config={name}"), line);
    }
}

#[test]
fn more_than_10000_targets_are_refused() {
    let mut text = String::new();
    for number in 0..10_000 {
        writeln!(text, "[[target]]\naddress = \"h{number}\"").unwrap();
    }
    let folder = with_file(text);
    let most = "--config=monitor.toml";
    let line = "cannot probe 10001 targets: at most 10000 are possible; remove some";
    assert_refused(&folder, &format!("{most} other"), line);
    let mut command = monitor(&format!("{most} --check"));
    let (status, _, stderr) = ended(command.current_dir(&*folder));
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
}

#[test]
fn target_of_the_command_line_is_refused_without_a_line() {
    let folder = with_file("[[target]]\nname = \"a\"\naddress = \"h\"\n");
    for (args, line) in [
        (
            "a",
            "cannot add target \"a\" twice: monitor.toml:2 has the same name; use another name",
        ),
        (
            "b b",
            "cannot add target \"b\" twice: the command line has the same target; remove one",
        ),
        (
            "224.0.0.1",
            "cannot use 224.0.0.1: reflectors refuse multicast; use the address of one reflector",
        ),
    ] {
        assert_refused(&folder, &format!("--config=monitor.toml {args}"), line);
    }
}

#[test]
fn key_file_of_a_target_is_checked_at_the_start() {
    let folder = with_file(
        "[defaults]\nmode = \"stamp\"\nkey_file = \"keys\"\n[[target]]\naddress = \"h\"\n",
    );
    let line = "monitor.toml:3: cannot read the STAMP key file keys: No such file or directory (os \
                error 2); check its path and owner";
    assert_refused(&folder, "--config=monitor.toml", line);
}
