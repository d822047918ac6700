//! The log: its content at each level, its formats and its destinations.

use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use udp_echo::record::Record;
use udp_echo::worker::log::python::{PythonBytes, PythonRecord};

use crate::harness::confined::without_capabilities;
use crate::harness::service::{Service, assert_has, count};
use crate::harness::tidy::Folder;
use crate::harness::{Daemon, Random, client, program, receive, shell, wait_until};
use crate::reference_server::has_python;
use crate::usage::assert_cannot_start;
use crate::{skip, skipped};

#[test]
fn debug_log_uses_the_words_of_the_reference_server() {
    let daemon = Daemon::start(&["--log=debug", "--max-datagram=40", "--timeout=none"]);
    let peer = client(daemon.address());
    let own = peer.local_addr().unwrap();
    peer.send(b"hello").unwrap();
    receive(&peer);
    let record = b"\0\0\0\x01ab\0\0\0\0\0\0\0\x02\xff\xfd\0\x04\x3f\xc0\0\0";
    peer.send(&[record.as_slice(), b"more"].concat()).unwrap();
    peer.send(b"").unwrap();
    peer.send(&[b'y'; 41]).unwrap();
    receive(&peer);
    peer.send(b"short").unwrap();
    daemon.wait_for_log("recv not unpacked");
    let cut = "y".repeat(40);
    let expected = [
        format!("recv: b'hello', from: {own}"),
        format!("sent: b'hello', to: {own}"),
        format!("recv: b'{}', from: {own}", record.escape_ascii()),
        "recv unpacked: (1, b'ab', 2, -3, 4, 1.5)".into(),
        format!("no data from {own}"),
        format!("recv: b'{cut}', from: {own} (cut)"),
        format!("sent: b'{cut}', to: {own}"),
        format!("recv: b'short', from: {own}"),
        "recv not unpacked: a record has 22 bytes, this datagram has 5".into(),
    ];
    let log = daemon.log();
    let messages = log.iter().filter_map(|line| line.split_once(" DEBUG "));
    assert_eq!(
        messages.map(|(_, message)| message).collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn bytes_and_records_are_formatted_as_in_python() {
    const SHOW: &str = "
import struct, sys
record = struct.Struct('! I 2s Q 2h f')
given = sys.stdin.buffer.read()
while given:
    end = 1 + given[0]
    print(given[1:end])
    if end > record.size:
        print(record.unpack_from(given, 1))
    given = given[end:]
";
    if !has_python() {
        skip!("python3 is missing");
    }
    let mut random = Random::new(3151);
    let mut shown: Vec<Vec<u8>> = vec![(0..128).collect(), (128..=255).collect()];
    // Python chooses the quotes by the content.
    let odd = b"\'\"\\\n\0b ~";
    let some = |random: &mut Random| {
        let length = random.below(12);
        (0..length).map(|_| odd[random.below(odd.len())]).collect()
    };
    shown.extend((0..2000).map(|_| some(&mut random)));
    let values = (-46..=39).flat_map(|exponent| {
        // The powers of ten, where Python changes the notation, and their neighbours.
        let power: f32 = format!("1e{exponent}").parse().unwrap();
        (0..9).map(move |ulps: u32| power.to_bits().wrapping_add(ulps).wrapping_sub(4))
    });
    let mut values: Vec<_> = values.flat_map(|bits| [bits, bits | 1 << 31]).collect();
    // The powers of two: the spacing of floats differs on their two sides.
    values.extend((0..=255).map(|exponent: u32| exponent << 23));
    values.extend([f32::NAN, -f32::NAN, 0.5, 16_777_216.0].map(f32::to_bits));
    for _ in 0..5000 {
        let bits = random.bytes(4).try_into().unwrap();
        values.push(u32::from_be_bytes(bits));
    }
    for value in values {
        let mut record = random.bytes(18);
        if random.below(2) == 0 {
            record[4..6].copy_from_slice(&[odd[random.below(8)], odd[random.below(8)]]);
        }
        record.extend(value.to_be_bytes());
        shown.push(record);
    }
    let mut python = Command::new("python3")
        .args(["-c", SHOW])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    // The script reads all of its input before it writes.
    let mut stdin = python.stdin.take().expect("piped");
    for bytes in &shown {
        stdin
            .write_all(&[u8::try_from(bytes.len()).unwrap()])
            .unwrap();
        stdin.write_all(bytes).unwrap();
    }
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    for bytes in &shown {
        assert_eq!(Some(&*PythonBytes(bytes).to_string()), lines.next());
        if let Ok(record) = Record::decode(bytes) {
            assert_eq!(Some(&*PythonRecord(&record).to_string()), lines.next());
        }
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn unread_log_delays_neither_echo_nor_stop() {
    // The test reads the pipe on standard error only at the end.
    let mut service = Service::start(program(), &["--mode=echo", "--log=debug"]);
    let peer = client(service.listen);
    for round in 0..2000_u32 {
        let datagram = [round.to_be_bytes(); 25].concat();
        peer.send(&datagram).unwrap();
        assert_eq!(receive(&peer), datagram);
    }
    service.signal(Signal::SIGTERM);
    assert!(service.wait().success());
}

#[test]
fn payload_cannot_forge_a_log_line() {
    let bytes: Vec<u8> = (0..=255).collect();
    let forged = b"x', from: 1.2.3.4:5\n2030-01-01T00:00:00Z ERROR gone\r\n\x1b[2J\x1b]0;t\x07";
    for format in ["text", "json"] {
        let daemon = Daemon::start(&["--mode=echo", "--log=debug", "--log-format", format]);
        let before = daemon.log().len();
        let peer = client(daemon.address());
        for payload in [bytes.as_slice(), forged] {
            peer.send(payload).unwrap();
            receive(&peer);
        }
        wait_until("both are logged", || count(&daemon.log(), "sent: ") == 2);
        let log = &end(daemon)[before..];
        assert_eq!(log.len(), 2 * 2, "{log:#?}");
        for line in log {
            assert!(
                line.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{line:?}"
            );
        }
        let shown = r#"b"x', from: 1.2.3.4:5\n2030-01-01T"#.to_owned();
        let in_json = shown.replace('\\', r"\\").replace('"', r#"\""#);
        let shown = if format == "json" { in_json } else { shown };
        assert_eq!(count(&log[2..4], &shown), 2, "{log:#?}");
    }
}

#[test]
fn info_log_has_no_line_per_datagram() {
    for level in ["info", "udp_echo=info", "udp_echo::http=debug,info"] {
        let daemon = Daemon::start(&["--log", level, "--timeout=none"]);
        let before = daemon.log().len();
        let peer = client(daemon.address());
        for round in 1..=10 {
            peer.send(b"hello").unwrap();
            receive(&peer);
            peer.send(&[7; 22]).unwrap();
            peer.send(b"").unwrap();
            daemon.wait_for_metric("datagrams_empty_total", f64::from(round));
        }
        let log = end(daemon);
        assert_eq!(log.len(), before, "{level}: {log:#?}");
    }
}

#[test]
fn log_is_empty_at_warn_error_and_off_without_faults() {
    for level in ["warn", "error", "off"] {
        let service = Service::start(program(), &["--log", level]);
        echoes(&service);
        assert_eq!(service.end().1, "", "{level}");
    }
}

#[test]
fn start_error_is_shown_at_any_log_level_and_format() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    for log in [
        "--log=off",
        "--log=trace",
        "--log-format=json",
        "--log-format=text",
    ] {
        assert_cannot_start(program().args([&listen, log]), "listen on UDP", "in use");
    }
}

#[test]
fn json_log_has_one_object_per_line() {
    let daemon = Daemon::start(&["--log-format=json", "--log=debug", "--mode=echo"]);
    let peer = client(daemon.address());
    peer.send(b"\"quoted\" \\ {\"level\":\"ERROR\"}\n").unwrap();
    receive(&peer);
    daemon.wait_for_log("sent: ");
    let log = end(daemon);
    assert!(log.len() >= 5, "{log:#?}");
    for line in &log {
        for part in ["\"level\":\"", "\"message\":\"", "\"target\":\"udp_echo::"] {
            assert_eq!(line.matches(part).count(), 1, "{line}");
        }
        assert_is_json_object(line);
    }
    let shown = r#""message":"recv: b'\"quoted\" \\\\ {\"level"#;
    assert!(log.iter().any(|line| line.contains(shown)), "{log:#?}");
}

#[test]
fn decode_errors_are_logged_once_with_a_hint() {
    for workers in ["--workers=1", "--workers=2"] {
        let daemon = Daemon::start(&[workers, "--timeout=none"]);
        for number in 1..=20 {
            let peer = client(daemon.address());
            peer.send(b"hello").unwrap();
            receive(&peer);
            peer.send(b"short").unwrap();
            daemon.wait_for_metric("decode_errors_total", f64::from(number));
        }
        let log = end(daemon);
        let warning = only_warning(&log);
        for part in [
            "cannot decode a record from 127.0.0.1:",
            "datagram has 5",
            "--mode echo",
        ] {
            assert_has(warning, part);
        }
    }
}

#[test]
fn buffer_cut_by_the_kernel_is_warned_of_once() {
    let asked = (i32::MAX / 2).to_string();
    for (option, name, sysctl) in [
        ("--recv-buffer", "receive", "net.core.rmem_max"),
        ("--send-buffer", "send", "net.core.wmem_max"),
    ] {
        let args = [
            option,
            &asked,
            "--workers=2",
            "--listen=127.0.0.1:0,127.0.0.1:0",
        ];
        let daemon = Daemon::start_as(without_capabilities(), &args);
        assert_eq!(daemon.listen.len(), 4);
        if daemon.metric(&format!("{name}_buffer_limit_bytes")) >= f64::from(i32::MAX / 2) {
            skipped!("{sysctl} is too high for the kernel to cut a buffer");
            continue;
        }
        let log = end(daemon);
        for part in [name, sysctl, &asked] {
            assert_has(only_warning(&log), part);
        }
    }
    // No warning for a size within the limit.
    let args = ["--recv-buffer=16KiB", "--send-buffer=16KiB"];
    let daemon = Daemon::start_as(without_capabilities(), &args);
    assert_eq!(count(&end(daemon), " WARN "), 0);
}

#[test]
fn echo_works_with_stderr_closed_or_full() {
    let start = |redirection| {
        let mut command = shell(&format!("exec \"$0\" \"$@\" {redirection}"));
        command.arg(program().get_program());
        Service::start(command, &["--mode=echo", "--log=debug"])
    };
    let mut without_reader = start("");
    drop(without_reader.child.stderr.take());
    for mut service in [without_reader, start("2>&-"), start("2>/dev/full")] {
        for _ in 0..100 {
            echoes(&service);
        }
        service.signal(Signal::SIGTERM);
        assert!(service.wait().success());
    }
}

#[test]
fn journal_is_not_used_if_stderr_is_not_connected() {
    for stream in ["", "garbage", "0:0", "8:99999999999"] {
        let mut command = program();
        command.env("JOURNAL_STREAM", stream);
        let log = end(Daemon::start_as(command, &[]));
        assert_has(&log[0], "  INFO listening on 127.0.0.1:");
        // The last line has no priority then.
        let mut command = program();
        command
            .arg("--listen=192.0.2.1:9")
            .env("JOURNAL_STREAM", stream);
        assert_cannot_start(&mut command, "192.0.2.1:9", "Cannot assign");
    }
}

#[test]
fn last_line_has_a_priority_if_stderr_is_the_journal() {
    let folder = Folder::new();
    let path = folder.join("stderr");
    let file = fs::File::create(&path).unwrap();
    let metadata = file.metadata().unwrap();
    let stream = format!("{}:{}", metadata.st_dev(), metadata.st_ino());
    let mut command = program();
    command.args(["--metrics-listen=none", "--listen=192.0.2.1:9"]);
    let status = command.env("JOURNAL_STREAM", stream).stderr(file).status();
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(status.unwrap().code(), Some(1));
    assert_has(&written, "<3>udp-echo: cannot listen on UDP 192.0.2.1:9: ");
}

#[test]
fn journald_format_is_refused_without_a_journal() {
    if Path::new("/run/systemd/journal/socket").exists() {
        skip!("there is a journal here");
    }
    let command = &mut program();
    command.args(["--log-format=journald", "--listen=127.0.0.1:0"]);
    assert_cannot_start(command, "the journal", "No such file");
}

/// Stops a daemon and returns its log up to then.
fn end(daemon: Daemon) -> Vec<String> {
    let log = daemon.whole_log();
    assert!(daemon.stop().success());
    log
}

fn echoes(service: &Service) {
    let peer = client(service.listen);
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
}

fn only_warning(log: &[String]) -> &str {
    assert_eq!(count(log, " WARN "), 1, "{log:#?}");
    log.iter().find(|line| line.contains(" WARN ")).unwrap()
}

/// Parses a flat object of strings.
fn assert_is_json_object(line: &str) {
    let mut rest = line;
    let mut before = '{';
    while let Some(after) = rest.strip_prefix(before) {
        rest = string(string(after).strip_prefix(':').expect(line));
        before = ',';
    }
    assert_eq!(rest, "}", "{line}");
}

/// The rest of a text after a string in quotation marks.
fn string(text: &str) -> &str {
    let mut rest = text.strip_prefix('"').expect(text);
    loop {
        let end = rest.find(['"', '\\']).expect(text);
        match rest.as_bytes()[end] {
            b'"' => return &rest[end + 1..],
            _ => rest = &rest[end + 2..],
        }
    }
}
