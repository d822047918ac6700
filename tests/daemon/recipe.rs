//! Where the original recipe dies: the daemon goes on, or dies like it where it is asked to.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;

use crate::harness::{DEADLINE, Daemon, Random, client, receive, uninterrupted, wait_until};
use crate::modes::{ask, assert_counts};
use crate::skip;

const GIVEN_UP: &str = r#"timeouts_total{waiting_for="record"}"#;
const QUIET: &str = r#"timeouts_total{waiting_for="echo"}"#;
const SENDERS: usize = 4;
const RECORD: &[u8] = &[7; 22];
const SIZES: [usize; 9] = [1, 21, 22, 23, 1023, 1024, 1025, 2000, 65507];
const SHORT: &[u8] = &[7; 21];

/// Which sender sends what, back to back.
type Script = Vec<(usize, Vec<u8>)>;
/// What each sender gets.
type Replies = Vec<Vec<Vec<u8>>>;

#[test]
fn lockstep_with_every_exit_is_the_original_recipe() {
    if !has_python() {
        skip!("python3 is missing: the daemon was not compared to the original recipe");
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
                let recipe = scope.spawn(|| play_to_recipe(script, &counts));
                let got = in_time(|timeout| play_to_daemon(&every, timeout, script, &counts));
                (recipe.join().unwrap(), got)
            });
            let lengths = |replies: &Replies| replies.iter().map(|r| sizes(r)).collect::<Vec<_>>();
            let sent: Vec<_> = script.iter().map(|(who, it)| (who, it.len())).collect();
            assert!(
                got == expected,
                "{} with replies of {:?} bytes is not the recipe's {} with {:?}: {sent:?}",
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
fn an_empty_datagram_ends_the_daemon_where_one_to_echo_is_due() {
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
fn a_decode_error_ends_the_daemon_with_status_1_and_a_line_that_says_so() {
    let datagrams: &[(usize, &[u8])] = &[
        (0, b""),
        (0, b"a"),
        (0, RECORD),
        (0, b"b"),
        (0, SHORT),
        (0, RECORD),
        (2, b"behind"),
    ];
    let replies: &[(usize, &[u8])] = &[(0, b"a"), (0, b"b")];
    for mode in ["--mode=exchange", "--mode=lockstep"] {
        let exits = "timeout,decode-error";
        assert_ends(mode, exits, datagrams, "decode-error", replies);
    }
}

#[test]
fn a_quiet_timeout_ends_the_daemon_and_nothing_else_that_was_not_asked_for() {
    let sent: &[(usize, &[u8])] = &[(0, b""), (0, b"a"), (1, b"b"), (0, SHORT), (0, b"c")];
    let exchange = [sent[1], sent[2], sent[4]];
    let lockstep = [sent[1], sent[3]];
    let every = "timeout,empty,decode-error";
    thread::scope(|scope| {
        scope.spawn(|| assert_ends("--mode=exchange", "timeout", sent, "timeout", &exchange));
        scope.spawn(|| assert_ends("--mode=lockstep", "timeout", sent, "timeout", &lockstep));
        scope.spawn(|| assert_ends("--mode=echo", every, sent, "timeout", sent));
    });
}

#[test]
fn a_daemon_is_not_quiet_while_one_of_its_sockets_is_busy() {
    in_time(|timeout| {
        let both = "--listen=127.0.0.1:0,127.0.0.1:0";
        let more = [&*seconds(timeout), "--metrics-listen=none", both];
        let start = Instant::now();
        let mut daemon =
            Daemon::start(&[&["--exit-on=timeout", "--mode=echo"], &more[..]].concat());
        let peer = client(daemon.listen[1]);
        peer.set_nonblocking(true).unwrap();
        let (mut heard, mut busy) = (start, true);
        while busy && heard - start < timeout * 3 / 2 {
            let asked = Instant::now();
            // It may have ended, and then there is nothing to send to.
            let _ = peer.send(b"busy");
            let mut answered = false;
            wait_until("it answers or ends", || {
                busy = daemon.is_running();
                answered = peer.recv(&mut [0; 4]).is_ok();
                answered || !busy
            });
            if answered {
                heard = asked;
                thread::sleep(Duration::from_millis(20));
            }
        }
        assert_eq!(daemon.wait().code(), Some(0));
        // Not before it was quiet for so long; before the time only where the machine was slow.
        assert!(heard.elapsed() >= timeout, "too early");
        (heard - start >= timeout * 3 / 2).then_some(())
    });
}

#[test]
fn a_record_that_does_not_come_in_time_is_given_up() {
    for mode in ["--mode=exchange", "--mode=lockstep"] {
        let daemon = Daemon::start(&[mode, "--timeout=300ms"]);
        let peer = client(daemon.address());
        for round in 1..=2 {
            assert_eq!(ask(&peer, b"afresh"), b"afresh");
            assert_counts(&daemon, &[(GIVEN_UP, round), ("peers", 0)]);
        }
    }
}

#[test]
fn a_record_is_given_up_though_others_keep_the_socket_busy() {
    let daemon = Daemon::start(&["--timeout=300ms"]);
    let [peer, other] = [client(daemon.address()), client(daemon.address())];
    assert_eq!(ask(&peer, b"a"), b"a");
    wait_until("the record is given up", || {
        other.send(b"").unwrap();
        daemon.metric(GIVEN_UP) > 0.5
    });
    assert_eq!(ask(&peer, b"afresh"), b"afresh");
}

/// What the rules refuse is as if it had never come, also where it never lets the socket be empty.
#[test]
fn a_flood_of_what_is_refused_holds_off_no_timeout() {
    let every = "--exit-on=timeout,empty,decode-error";
    for [mode, exits] in [
        ["--mode=lockstep", every],
        ["--mode=exchange", every],
        ["--mode=echo", "--exit-on=timeout"],
        ["--mode=lockstep", "--exit-on=empty"],
        ["--mode=exchange", "--exit-on=empty"],
    ] {
        let mut peers = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        peers.sort_by_key(|peer| peer.local_addr().unwrap().port());
        let [refused, peer] = peers;
        let least = format!("--min-source-port={}", peer.local_addr().unwrap().port());
        // So much waits that the senders may have no CPU for a while.
        let more = ["--timeout=500ms", "--recv-buffer=16MiB"];
        let ends = exits.contains("timeout");
        // It may end before its HTTP port could be asked.
        let http = if ends { "none" } else { "127.0.0.1:0" };
        let http = format!("--metrics-listen={http}");
        let mut daemon = Daemon::start(&[&[mode, exits, &least, &http], &more[..]].concat());
        for socket in [&refused, &peer] {
            socket.connect(daemon.address()).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
        }
        if !ends {
            assert_eq!(ask(&peer, b"a"), b"a", "{mode}");
        }
        while_flooded(&refused, || {
            if ends {
                assert_eq!(daemon.wait().code(), Some(0), "{mode} {exits}");
            } else {
                daemon.wait_for_metric(GIVEN_UP, 1.0);
            }
        });
    }
}

#[test]
fn what_came_while_the_daemon_was_stopped_came_in_time() {
    in_time(|timeout| {
        for mode in ["--mode=exchange", "--mode=lockstep"] {
            let start = Instant::now();
            let daemon = Daemon::start(&[mode, &seconds(timeout)]);
            let peer = client(daemon.address());
            assert_eq!(ask(&peer, b"a"), b"a");
            daemon.pause();
            if start.elapsed() > timeout / 2 {
                return None;
            }
            peer.send(RECORD).unwrap();
            peer.send(b"b").unwrap();
            thread::sleep(timeout);
            daemon.resume();
            assert_eq!(receive(&peer), b"b", "{mode}");
        }
        Some(())
    });
}

#[test]
fn quiet_timeouts_are_counted_one_after_the_other() {
    for mode in ["--mode=exchange", "--mode=lockstep", "--mode=echo"] {
        let start = Instant::now();
        let daemon = Daemon::start(&[mode, "--timeout=0.25"]);
        wait_until("it was quiet for long", || daemon.metric(QUIET) > 2.5);
        let count = daemon.metric(QUIET);
        assert!(count <= start.elapsed().as_secs_f64() / 0.25, "{mode}");
        assert_counts(&daemon, &[(GIVEN_UP, 0)]);
    }
}

#[test]
fn without_a_timeout_nothing_is_given_up() {
    let clock = Daemon::start(&["--timeout=100ms"]);
    for mode in ["--mode=exchange", "--mode=lockstep"] {
        let daemon = Daemon::start(&[mode, "--timeout=none"]);
        let peer = client(daemon.address());
        assert_eq!(ask(&peer, b"a"), b"a");
        let start = clock.metric(QUIET);
        wait_until("time passed", || clock.metric(QUIET) > start + 7.5);
        assert_counts(&daemon, &[("timeouts_total", 0), ("peers", 1)]);
        peer.send(RECORD).unwrap();
        assert_counts(&daemon, &[("records_decoded_total", 1), ("peers", 0)]);
    }
}

/// Does something while a socket sends so much that its receiver always has more.
fn while_flooded(socket: &UdpSocket, work: impl FnOnce()) {
    struct Stops<'a>(&'a AtomicBool);
    impl Drop for Stops<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    // One call sends 64 of them.
    setsockopt(socket, UdpGsoSegment, &1).unwrap();
    thread::scope(|scope| {
        // Also where the work fails.
        let _stops = Stops(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    // Nobody may be there any more.
                    let _ = socket.send(&[0; 64]);
                }
            });
        }
        work();
    });
}

/// That `--exit-on` of `exits` ends the daemon by `end` after just these replies.
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

/// Repeats with a longer timeout what the machine was too slow to do within it.
fn in_time<T>(run: impl Fn(Duration) -> Option<T>) -> T {
    let mut timeouts = [2, 2, 4]
        .into_iter()
        .chain([8; 20])
        .map(Duration::from_secs);
    timeouts
        .find_map(run)
        .expect("a machine that is fast enough")
}

fn seconds(timeout: Duration) -> String {
    format!("--timeout={}", timeout.as_secs())
}

/// How the daemon ends that is played a script, and the replies.
fn play_to_daemon(
    args: &[&str],
    timeout: Duration,
    script: &Script,
    counts: &[usize],
) -> Option<(String, Replies)> {
    const ENDS: [(&str, i32, &str); 3] = [
        ("timeout", 0, "stopping: quiet for the whole timeout"),
        ("empty", 0, "stopping: an empty datagram came"),
        ("decode-error", 1, "udp-echo: stopped on a decode error"),
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
    wait_until("all is logged", || daemon.shared_log().has_ended());
    let ends: Vec<_> = ENDS.iter().filter(|end| said(&daemon, end.2)).collect();
    if ends.is_empty() {
        // The log got no CPU within the time to stop.
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

/// The same of the original recipe, which finds all of the script there.
fn play_to_recipe(script: &Script, counts: &[usize]) -> (String, Replies) {
    let mut recipe = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recipe.py"))
        .args(["127.0.0.1", "0", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let mut lines = BufReader::new(recipe.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    let address = SocketAddr::from(([127, 0, 0, 1], line().parse().expect("a port")));
    let senders = play(address, script, &mut Instant::now());
    drop(recipe.stdin.take());
    let end = line();
    let status = recipe.wait().unwrap().code();
    assert_eq!(status, Some(i32::from(end != "empty")), "{end}");
    (end, collect(&senders, address, counts))
}

/// Sends a script from one thread: loopback keeps the order. Tells when the last was.
fn play(to: SocketAddr, script: &Script, last: &mut Instant) -> Vec<UdpSocket> {
    let bind = |_| UdpSocket::bind("127.0.0.1:0").unwrap();
    let senders: Vec<_> = (0..SENDERS).map(bind).collect();
    for (who, bytes) in script {
        *last = Instant::now();
        senders[*who].send_to(bytes, to).unwrap();
    }
    senders
}

/// What each sender got: as much as it is due, and what there is beyond.
fn collect(senders: &[UdpSocket], from: SocketAddr, counts: &[usize]) -> Replies {
    let mut buffer = vec![0; 65536];
    let mut of = |(sender, count): (&UdpSocket, &usize)| {
        let mut replies = Vec::new();
        sender.set_read_timeout(Some(DEADLINE)).unwrap();
        loop {
            sender.set_nonblocking(replies.len() >= *count).unwrap();
            match uninterrupted(|| sender.recv_from(&mut buffer)) {
                Ok((length, source)) if source == from => replies.push(buffer[..length].to_vec()),
                // What another test's daemon sent to the socket that had this port before.
                Ok(_) => {}
                Err(_) => return replies,
            }
        }
    };
    senders.iter().zip(counts).map(&mut of).collect()
}

/// How the recipe must end, and how many replies each sender must get.
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

/// Some are bound to end soon, some later, some not at all; more follows where they may end.
fn random_script(random: &mut Random) -> Script {
    let one_in = [4, 40, 4000][random.below(3)];
    let mut script = Script::new();
    let mut room = 170_000;
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
        // About what it takes of the receive buffer, 212992 bytes in all.
        let Some(left) = usize::checked_sub(room, 900 + 2 * size) else {
            break;
        };
        room = left;
        owed = !owed;
        script.push((random.below(SENDERS), random.bytes(size)));
    }
    script
}

fn assert_variety(scripts: &[Script]) {
    for end in ["timeout", "empty", "decode-error"] {
        let ends_so = |script: &&Script| foresee(script).0 == end;
        let count = scripts.iter().filter(ends_so).count();
        assert!(count > 7, "only {count} scripts end by {end}");
    }
    let replies = |script| foresee(script).1.iter().sum::<usize>();
    let long = scripts.iter().filter(|script| replies(script) > 20).count();
    assert!(long > 10, "only {long} scripts are long");
}

fn sizes<T>(lists: &[Vec<T>]) -> Vec<usize> {
    lists.iter().map(Vec::len).collect()
}

/// Says on the real standard error, which no test runner captures, when it is missing.
pub(crate) fn has_python() -> bool {
    let version = Command::new("python3").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}
