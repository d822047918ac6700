//! The journal: what it is given, and that the daemon waits for no journald.

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::service::Service;
use crate::harness::tidy::Folder;
use crate::harness::{DEADLINE, client, program, receive, uninterrupted, wait_until};
use crate::skip;
use crate::unread::{
    DATAGRAMS, ONLY_DATAGRAMS, assert_ends, dropped, echoes_on, missing, wait_for_dropped,
};

const JOURNALD: &str = "--log-format=journald";

#[test]
fn the_journal_gets_each_line_with_its_priority_and_where_it_comes_from() {
    let Some(journal) = Journal::new() else {
        skip!("no mount namespace can be had here");
    };
    let args = [JOURNALD, "--log=debug"];
    let service = Service::start(journal.command(), &args);
    let peer = client(service.listen);
    peer.send(b"hello").unwrap();
    receive(&peer);
    peer.send(b"short").unwrap();
    let entries = journal.until("cannot decode a record");
    for (message, priority, file) in [
        ("listening on 127.0.0.1:", "6", "src/daemon"),
        ("serving in exchange mode", "6", "src/daemon"),
        ("recv: b'hello', from: 127.0.0.1:", "7", "src/worker"),
        ("cannot decode a record from", "4", "src/worker"),
    ] {
        let entry = entries
            .iter()
            .find(|entry| entry["MESSAGE"].starts_with(message));
        let entry = entry.unwrap_or_else(|| panic!("no {message:?} in {entries:#?}"));
        assert_eq!(entry["PRIORITY"], priority, "{entry:?}");
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "udp-echo", "{entry:?}");
        assert!(entry["CODE_FILE"].starts_with(file), "{entry:?}");
        let room = file.trim_start_matches("src/").trim_end_matches(".rs");
        let target = format!("udp_echo::{room}");
        assert!(entry["TARGET"].starts_with(&target), "{entry:?}");
        assert!(entry["CODE_LINE"].parse::<u32>().is_ok(), "{entry:?}");
    }
    let (status, stderr) = service.end();
    assert!(status.success());
    assert_eq!(stderr, "");
}

#[test]
fn the_journal_gets_the_last_line() {
    let Some(journal) = Journal::new() else {
        skip!("no mount namespace can be had here");
    };
    wait_until("the log gets a CPU within the time to stop", || {
        let mut service = Service::start(journal.command(), &[JOURNALD]);
        service.signal(Signal::SIGTERM);
        let mut is_there = false;
        wait_until("all is read", || {
            let ended = service.child.try_wait().unwrap().is_some();
            let entry = journal.next_within(Duration::from_millis(10));
            let last = |entry: &Entry| entry["MESSAGE"].starts_with("stopped: 0 received");
            is_there |= entry.as_ref().is_some_and(last);
            ended && entry.is_none()
        });
        is_there
    });
}

#[test]
fn no_byte_of_a_payload_reaches_the_journal_as_it_is_unless_it_is_printable() {
    let Some(journal) = Journal::new() else {
        skip!("no mount namespace can be had here");
    };
    let args = [JOURNALD, "--mode=echo", "--log=debug"];
    let service = Service::start(journal.command(), &args);
    let peer = client(service.listen);
    let bytes: Vec<u8> = (0..=255).collect();
    let forged = b"x\nPRIORITY=0\nMESSAGE=gone\n\x1b[2J";
    for payload in [bytes.as_slice(), forged] {
        peer.send(payload).unwrap();
        receive(&peer);
        for entry in journal.until("sent: ") {
            let message = &entry["MESSAGE"];
            let printable = |byte| (b' '..=b'~').contains(&byte);
            assert!(message.bytes().all(printable), "{message:?}");
            assert_ne!(entry["PRIORITY"], "0");
        }
    }
}

#[test]
fn a_journald_that_does_not_read_holds_up_nothing_and_what_is_lost_is_counted() {
    let Some(journal) = Journal::new() else {
        skip!("no mount namespace can be had here");
    };
    let args = [JOURNALD, "--mode=echo", ONLY_DATAGRAMS];
    let service = Service::start(journal.command(), &args);
    echoes_on(&service);
    let lost = wait_for_dropped(&service, |lost| lost > 0);
    eprintln!(
        "a journald that does not read: {lost} of {} lines lost",
        2 * DATAGRAMS
    );
    // It reads again, to the last line.
    let (mut written, mut lost) = (0, 0);
    while written + lost < u64::from(2 * DATAGRAMS) {
        let entry = journal.next_within(DEADLINE).expect("an entry");
        match missing(&[entry["MESSAGE"].clone()]) {
            0 => written += 1,
            more => lost += more,
        }
    }
    assert_eq!(written + lost, u64::from(2 * DATAGRAMS));
    assert_eq!(lost, dropped(&service));
    // And not once more.
    echoes_on(&service);
    assert_ends(service);
}

#[test]
fn a_journald_that_does_not_read_from_the_start_on_does_not_keep_it_from_serving() {
    let Some(journal) = Journal::new() else {
        skip!("no mount namespace can be had here");
    };
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"", journal.path()).is_ok() {}
    let service = Service::start(journal.command(), &[JOURNALD, "--mode=echo"]);
    echoes_on(&service);
    assert_ends(service);
}

#[test]
fn what_a_journald_that_is_gone_does_not_get_is_counted_and_told_to_the_next() {
    let Some(mut journal) = Journal::new() else {
        skip!("no mount namespace can be had here");
    };
    let args = [JOURNALD, "--mode=echo", ONLY_DATAGRAMS];
    let service = Service::start(journal.command(), &args);
    let peer = client(service.listen);
    peer.send(b"hello").unwrap();
    receive(&peer);
    journal.until("sent: ");
    journal.leave();
    for _ in 0..100 {
        peer.send(b"hello").unwrap();
        receive(&peer);
    }
    wait_for_dropped(&service, |lost| lost == 200);
    journal.come_back();
    peer.send(b"hello").unwrap();
    receive(&peer);
    let entries = journal.until(" missing: ");
    let messages: Vec<_> = entries
        .iter()
        .map(|entry| entry["MESSAGE"].clone())
        .collect();
    assert_eq!(missing(&messages), 200, "{messages:?}");
    let warning = entries.last().unwrap();
    let expected = [("PRIORITY", "4"), ("SYSLOG_IDENTIFIER", "udp-echo")];
    for (name, value) in expected {
        assert_eq!(warning[name], value, "{warning:?}");
    }
    assert_eq!(dropped(&service), 200);
    assert_ends(service);
}

/// A journal: a socket that the daemon finds where journald's is.
struct Journal {
    folder: Folder,
    socket: Option<UnixDatagram>,
}

/// What a program is started with in a mount namespace where the journal is this one.
const START: &str = r#"
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal &&
    mount --bind "$0" /run/systemd/journal && exec "$@"
"#;

impl Journal {
    /// None where nothing may be mounted.
    fn new() -> Option<Self> {
        let folder = Folder::new();
        let mut journal = Self {
            folder,
            socket: None,
        };
        journal.come_back();
        let attempt = journal.started("true").output();
        let mounts = attempt.is_ok_and(|output| output.status.success());
        mounts.then_some(journal)
    }

    /// The daemon's program, for which this is the journal.
    fn command(&self) -> Command {
        self.started(program().get_program().to_str().unwrap())
    }

    fn started(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if fs::metadata("/proc/self").expect("a /proc").st_uid() != 0 {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["sh", "-c", START])
            .arg(&*self.folder)
            .arg(program);
        command
    }

    fn path(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Closes the socket, and waits until no process has it: one that is started by another test
    /// has it until exec.
    fn leave(&mut self) {
        self.socket = None;
        let sender = UnixDatagram::unbound().unwrap();
        wait_until("the socket is gone", || {
            sender.connect(self.path()).is_err()
        });
    }

    fn come_back(&mut self) {
        let _ = fs::remove_file(self.path());
        self.socket = Some(UnixDatagram::bind(self.path()).unwrap());
    }

    fn next_within(&self, time: Duration) -> Option<Entry> {
        let socket = self.socket.as_ref().expect("it is there");
        socket.set_read_timeout(Some(time)).unwrap();
        let mut bytes = vec![0; 65536];
        loop {
            let length = uninterrupted(|| socket.recv(&mut bytes)).ok()?;
            // An empty one asks whether it is there.
            if length > 0 {
                return Some(entry(&bytes[..length]));
            }
        }
    }

    /// The entries up to one with such a message.
    fn until(&self, message: &str) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            let next = self.next_within(DEADLINE);
            let next = next.unwrap_or_else(|| panic!("no {message:?} in {entries:#?}"));
            let found = next["MESSAGE"].contains(message);
            entries.push(next);
            if found {
                return entries;
            }
        }
    }
}

type Entry = BTreeMap<String, String>;

/// The fields of an entry in the journal's own protocol.
fn entry(mut bytes: &[u8]) -> Entry {
    let mut fields = Entry::new();
    while let Some(end) = bytes.iter().position(|byte| b"=\n".contains(byte)) {
        let (name, rest) = (text(&bytes[..end]), &bytes[end + 1..]);
        let (value, rest) = if bytes[end] == b'=' {
            rest.split_at(rest.iter().position(|byte| *byte == b'\n').unwrap())
        } else {
            let (length, rest) = rest.split_first_chunk().unwrap();
            rest.split_at(u64::from_le_bytes(*length).try_into().unwrap())
        };
        let before = fields.insert(name, text(value));
        assert_eq!(before, None, "a field twice");
        bytes = rest.strip_prefix(b"\n").expect("the end of a field");
    }
    assert!(bytes.is_empty(), "{bytes:?}");
    fields
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}
