//! The journal: its entries, and a journald that is stalled or gone.

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
fn journal_entries_have_priority_and_source() {
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
        let module = file.trim_start_matches("src/");
        let target = format!("udp_echo::{module}");
        assert!(entry["TARGET"].starts_with(&target), "{entry:?}");
        assert!(entry["CODE_LINE"].parse::<u32>().is_ok(), "{entry:?}");
    }
    let (status, stderr) = service.end();
    assert!(status.success());
    assert_eq!(stderr, "");
}

#[test]
fn journal_gets_the_last_line() {
    let Some(journal) = Journal::new() else {
        skip!("no mount namespace can be had here");
    };
    wait_until("the log gets a CPU within the time to stop", || {
        let mut service = Service::start(journal.command(), &[JOURNALD]);
        service.signal(Signal::SIGTERM);
        let mut is_there = false;
        wait_until("all entries are read", || {
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
fn journal_gets_only_printable_payload_bytes() {
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
fn stalled_journald_blocks_nothing_and_losses_are_counted() {
    let Some(journal) = Journal::new() else {
        skip!("no mount namespace can be had here");
    };
    let args = [JOURNALD, "--mode=echo", ONLY_DATAGRAMS];
    let service = Service::start(journal.command(), &args);
    echoes_on(&service);
    let lost = wait_for_dropped(&service, |lost| lost > 0);
    eprintln!("stalled journald: {lost} of {} lines lost", 2 * DATAGRAMS);
    // journald reads again, to the last line.
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
    // A second time, where nothing reads at the end.
    echoes_on(&service);
    assert_ends(service);
}

#[test]
fn daemon_serves_when_journald_is_stalled_at_start() {
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
fn lines_lost_without_journald_are_counted_and_reported() {
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
    let entries = journal.until(" dropped: ");
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

/// A socket in the place of journald's.
struct Journal {
    folder: Folder,
    socket: Option<UnixDatagram>,
}

/// Starts a program in a mount namespace with the folder of the [`Journal`] in journald's place.
const START: &str = r#"
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal &&
    mount --bind "$0" /run/systemd/journal && exec "$@"
"#;

impl Journal {
    /// `None` where mount namespaces are not allowed.
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

    /// The daemon's program with this journal.
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

    /// Closes the socket and waits until no process has it: a process that another test starts has
    /// it until its exec.
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
        let socket = self.socket.as_ref().expect("the socket is open");
        socket.set_read_timeout(Some(time)).unwrap();
        let mut bytes = vec![0; 65536];
        loop {
            let length = uninterrupted(|| socket.recv(&mut bytes)).ok()?;
            // The daemon probes for journald with an empty datagram.
            if length > 0 {
                return Some(entry(&bytes[..length]));
            }
        }
    }

    /// The entries up to the first that contains `message`.
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

/// The fields of an entry in the journal's native protocol.
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
