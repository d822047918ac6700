//! The events that end the reference server: the daemon continues, or ends with `--exit-on`.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{DEADLINE, Daemon, Random, uninterrupted, wait_until};
use crate::modes::RECORD;
use crate::skip;

const SENDERS: usize = 4;
const SIZES: [usize; 9] = [1, 21, 22, 23, 1023, 1024, 1025, 2000, 65507];
const SHORT: &[u8] = &[7; 21];

/// Datagrams sent back to back, each with its sender.
type Script = Vec<(usize, Vec<u8>)>;
/// The replies to each sender.
type Replies = Vec<Vec<Vec<u8>>>;

#[test]
fn lockstep_with_every_exit_is_the_reference_server() {
    if !has_python() {
        skip!("python3 is missing: the daemon was not compared to the reference server");
    }
    let mut random = Random::new(22);
    let mut scripts = fixed_scripts();
    scripts.extend((0..40).map(|_| random_script(&mut random)));
    assert_variety(&scripts);
    let next = AtomicUsize::new(0);
    let compare_some = || {
        while let Some(script) = scripts.get(next.fetch_add(1, Relaxed)) {
            let every = ["--mode=lockstep", "--exit-on=timeout,empty,decode-error"];
            let (end, counts) = foresee(script);
            let (expected, got) = thread::scope(|scope| {
                let reference = scope.spawn(|| play_to_reference(script, &counts));
                let got = in_time(|timeout| play_to_daemon(&every, timeout, script, &counts));
                (reference.join().unwrap(), got)
            });
            let lengths = |replies: &Replies| replies.iter().map(|r| sizes(r)).collect::<Vec<_>>();
            let sent: Vec<_> = script.iter().map(|(who, it)| (who, it.len())).collect();
            assert!(
                got == expected,
                "{} with replies of {:?} bytes, but {} with {:?} by the reference server: {sent:?}",
                got.0,
                lengths(&got.1),
                expected.0,
                lengths(&expected.1),
            );
            assert_eq!(got.0, end, "{sent:?}");
        }
    };
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(compare_some);
        }
    });
}

#[test]
fn empty_datagram_ends_the_daemon_if_no_record_is_owed() {
    let owed_and_not: &[(usize, &[u8])] = &[
        (0, b"a"),
        (1, b"b"),
        (0, SHORT),
        (1, b""),
        (0, b"c"),
        (1, b""),
        (1, b"behind"),
        (2, b"behind"),
    ];
    let replies: &[(usize, &[u8])] = &[(0, b"a"), (1, b"b"), (0, b"c")];
    assert_ends("--mode=exchange", "empty", owed_and_not, "empty", replies);
    let replies: &[(usize, &[u8])] = &[(0, b"a"), (0, SHORT), (0, b"c"), (1, b"behind")];
    let lockstep = [owed_and_not, &[(0, b""), (1, b"behind")]].concat();
    assert_ends("--mode=lockstep", "empty", &lockstep, "empty", replies);
}

#[test]
fn decode_error_ends_the_daemon_with_status_1() {
    let datagrams: &[(usize, &[u8])] = &[
        (0, b""),
        (0, b"a"),
        (0, &RECORD),
        (0, b"b"),
        (0, SHORT),
        (0, &RECORD),
        (2, b"behind"),
    ];
    let replies: &[(usize, &[u8])] = &[(0, b"a"), (0, b"b")];
    for mode in ["--mode=exchange", "--mode=lockstep"] {
        let exits = "timeout,decode-error";
        assert_ends(mode, exits, datagrams, "decode-error", replies);
    }
}

#[test]
fn idle_timeout_ends_the_daemon_but_other_events_do_not() {
    let sent: &[(usize, &[u8])] = &[(0, b""), (0, b"a"), (1, b"b"), (0, SHORT), (0, b"c")];
    let exchange = [sent[1], sent[2], sent[4]];
    let lockstep = [sent[1], sent[3]];
    thread::scope(|scope| {
        scope.spawn(|| assert_ends("--mode=exchange", "timeout", sent, "timeout", &exchange));
        scope.spawn(|| assert_ends("--mode=lockstep", "timeout", sent, "timeout", &lockstep));
        scope.spawn(|| assert_ends("--mode=echo", "timeout", sent, "timeout", sent));
    });
}

/// Asserts that the daemon with `--exit-on` of `exits` ends by `end` after exactly these replies.
fn assert_ends(
    mode: &str,
    exits: &str,
    datagrams: &[(usize, &[u8])],
    end: &str,
    replies: &[(usize, &[u8])],
) {
    let own = |(who, bytes): &(usize, &[u8])| (*who, bytes.to_vec());
    let script: Script = datagrams.iter().map(own).collect();
    let mut expected: Replies = vec![Vec::new(); SENDERS];
    for (who, bytes) in replies {
        expected[*who].push(bytes.to_vec());
    }
    let counts = sizes(&expected);
    let exits = format!("--exit-on={exits}");
    let (how, got) = in_time(|timeout| play_to_daemon(&[mode, &exits], timeout, &script, &counts));
    assert_eq!(how, end, "{mode} {exits}");
    assert_eq!(got, expected, "{mode} {exits}");
}

/// Repeats a run with a longer timeout if the machine was too slow.
pub(crate) fn in_time<T>(run: impl Fn(Duration) -> Option<T>) -> T {
    let mut timeouts = [2, 2, 4]
        .into_iter()
        .chain([8; 20])
        .map(Duration::from_secs);
    timeouts
        .find_map(run)
        .expect("a machine that is fast enough")
}

pub(crate) fn seconds(timeout: Duration) -> String {
    format!("--timeout={}", timeout.as_secs())
}

/// Plays a script to a daemon. Returns the event that ended the daemon, and the replies; `None` if
/// the machine was too slow.
fn play_to_daemon(
    args: &[&str],
    timeout: Duration,
    script: &Script,
    counts: &[usize],
) -> Option<(String, Replies)> {
    const ENDS: [(&str, i32, &str); 3] = [
        ("timeout", 0, "stopping: idle for the whole timeout"),
        ("empty", 0, "stopping: received an empty datagram"),
        (
            "decode-error",
            1,
            "udp-echo: stopped: received a record shorter than 22 bytes",
        ),
    ];
    let start = Instant::now();
    let mut last = start;
    let more = [&*seconds(timeout), "--metrics-listen=none"];
    let mut daemon = Daemon::start(&[args, &more].concat());
    let senders = play(daemon.address(), script, &mut last);
    if start.elapsed() >= timeout {
        return None;
    }
    let status = daemon.wait().code();
    let took = last.elapsed();
    wait_until("the log has ended", || daemon.shared_log().has_ended());
    let ends: Vec<_> = ENDS.iter().filter(|end| said(&daemon, end.2)).collect();
    if ends.is_empty() {
        // The log thread got no CPU within the time to stop.
        return None;
    }
    assert_eq!(ends.len(), 1, "{:?}", daemon.log());
    let (end, with, _) = ends[0];
    assert_eq!(status, Some(*with), "{:?}", daemon.log());
    assert!(*end != "timeout" || took >= timeout, "too early: {took:?}");
    let replies = collect(&senders, daemon.address(), counts);
    Some(((*end).to_owned(), replies))
}

fn said(daemon: &Daemon, text: &str) -> bool {
    daemon.log().iter().any(|line| line.contains(text))
}

/// Plays a script to the reference server, which starts to receive when all of it is queued.
fn play_to_reference(script: &Script, counts: &[usize]) -> (String, Replies) {
    let mut reference = Command::new("python3")
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/reference_server.py"
        ))
        .args(["127.0.0.1", "0", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let mut lines = BufReader::new(reference.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    let address = SocketAddr::from(([127, 0, 0, 1], line().parse().expect("a port")));
    let senders = play(address, script, &mut Instant::now());
    drop(reference.stdin.take());
    let end = line();
    let status = reference.wait().unwrap().code();
    assert_eq!(status, Some(i32::from(end != "empty")), "{end}");
    (end, collect(&senders, address, counts))
}

/// Sends a script from one thread: loopback keeps the order. Sets `last` to the time of the last
/// datagram.
fn play(to: SocketAddr, script: &Script, last: &mut Instant) -> Vec<UdpSocket> {
    let bind = |_| UdpSocket::bind("127.0.0.1:0").unwrap();
    let senders: Vec<_> = (0..SENDERS).map(bind).collect();
    for (who, bytes) in script {
        *last = Instant::now();
        senders[*who].send_to(bytes, to).unwrap();
    }
    senders
}

/// The replies to each sender: waits for `counts` of them, then takes any others.
fn collect(senders: &[UdpSocket], from: SocketAddr, counts: &[usize]) -> Replies {
    let mut buffer = vec![0; 65536];
    let mut of = |(sender, count): (&UdpSocket, &usize)| {
        let mut replies = Vec::new();
        sender.set_read_timeout(Some(DEADLINE)).unwrap();
        loop {
            sender.set_nonblocking(replies.len() >= *count).unwrap();
            match uninterrupted(|| sender.recv_from(&mut buffer)) {
                Ok((length, source)) if source == from => replies.push(buffer[..length].to_vec()),
                // From the daemon of another test, to an earlier socket on this port.
                Ok(_) => {}
                Err(_) => return replies,
            }
        }
    };
    senders.iter().zip(counts).map(&mut of).collect()
}

/// The event that ends the reference server, and the number of replies to each sender.
fn foresee(script: &Script) -> (&'static str, [usize; SENDERS]) {
    let mut counts = [0; SENDERS];
    let mut owed = false;
    for (who, bytes) in script {
        match (owed, bytes.len()) {
            (false, 0) => return ("empty", counts),
            (false, _) => counts[*who] += 1,
            (true, 1..22) => return ("decode-error", counts),
            (true, _) => {}
        }
        owed = !owed;
    }
    ("timeout", counts)
}

fn fixed_scripts() -> Vec<Script> {
    let mut scripts = vec![
        vec![],
        vec![(0, vec![])],
        vec![(0, vec![]), (0, vec![1]), (0, vec![])],
        Vec::from([1, 0, 1, 0, 1, 0, 0, 1, 0].map(|size| (size, vec![9; size]))),
        (0..200).map(|turn| (turn % 3, vec![5; 22])).collect(),
    ];
    scripts.extend(SIZES.map(|size| vec![(0, vec![1; size]), (1, RECORD.to_vec()), (2, vec![])]));
    scripts.extend(SIZES.map(|size| vec![(3, vec![1]), (2, vec![1; size]), (0, RECORD.to_vec())]));
    scripts
}

/// A script that ends the server early, late or not at all, with datagrams after the end.
fn random_script(random: &mut Random) -> Script {
    let one_in = [4, 40, 4000][random.below(3)];
    let mut script = Script::new();
    let mut free = 170_000;
    let mut owed = false;
    for _ in 0..=random.below(180) {
        let spoilt = random.below(one_in) == 0;
        let any = [SIZES[random.below(8)], 1 + random.below(2000)][random.below(2)];
        let size = match (owed, spoilt) {
            (false, true) => 0,
            (true, true) => [1, 21, 1 + random.below(21)][random.below(3)],
            (false, false) => [any, 21, 22][random.below(3)],
            (true, false) => [22, 22, any.max(22), 0][random.below(4)],
        };
        // About the datagram's share of the receive buffer, which has 212992 bytes.
        let Some(left) = usize::checked_sub(free, 900 + 2 * size) else {
            break;
        };
        free = left;
        owed = !owed;
        script.push((random.below(SENDERS), random.bytes(size)));
    }
    script
}

fn assert_variety(scripts: &[Script]) {
    for end in ["timeout", "empty", "decode-error"] {
        let ends = |script: &&Script| foresee(script).0 == end;
        let count = scripts.iter().filter(ends).count();
        assert!(count > 7, "only {count} scripts end by {end}");
    }
    let replies = |script| foresee(script).1.iter().sum::<usize>();
    let long = scripts.iter().filter(|script| replies(script) > 20).count();
    assert!(long > 10, "only {long} scripts are long");
}

fn sizes<T>(lists: &[Vec<T>]) -> Vec<usize> {
    lists.iter().map(Vec::len).collect()
}

pub(crate) fn has_python() -> bool {
    let version = Command::new("python3").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}
