//! Measurements of the daemon in all modes, and of scripted reflectors that misbehave.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use crate::harness::calm::undisturbed;
use crate::harness::{DEADLINE, Daemon, receive_from};
use crate::reflectors::{
    LONG, Reflector, counts, ended, finished, joined, json, measure, object, probe, sequence,
    started,
};

#[test]
fn daemon_answers_every_request_in_each_mode() {
    for (mode, records) in [("exchange", 60_u32), ("lockstep", 60), ("echo", 0)] {
        let listen = format!("--mode={mode}");
        let daemon = Daemon::start(&[&listen, "--timeout=none"]);
        for flows in [1, 3] {
            let args = format!("--count=60 --rate=2000 --flows={flows} --mode={mode} {LONG}");
            let (status, seen) = json(daemon.address(), &args);
            let expected = [
                ("corrupted", 0),
                ("duplicates", 0),
                ("lost", 0),
                ("received", 60),
                ("records_sent", records.into()),
                ("reordered", 0),
                ("sent", 60),
            ];
            assert_eq!(
                (status, counts(&seen)),
                (0, expected.into()),
                "{mode} {flows}"
            );
        }
        daemon.wait_for_metric("datagrams_echoed_total", 120.0);
        daemon.wait_for_metric("records_decoded_total", f64::from(2 * records));
        daemon.wait_for_metric("peers", 0.0);
        daemon.assert_accounted_for();
    }
}

#[test]
fn probe_counts_drops_duplicates_reorders_and_damage() {
    let mut kept: Option<Vec<u8>> = None;
    let reflector = Reflector::new(move |request| {
        let mut reply = request.to_vec();
        let number = sequence(request);
        let mut replies: Vec<Vec<u8>> = match number % 10 {
            // Dropped.
            3 => return vec![],
            // Sent after the next reply.
            5 => {
                kept = Some(reply);
                return vec![];
            }
            // Duplicated once and twice.
            7 => vec![reply.clone(), reply],
            8 => vec![reply.clone(), reply.clone(), reply],
            // A changed bit of the pattern, and an additional byte.
            9 if number % 20 == 9 => {
                reply[40] ^= 4;
                vec![reply]
            }
            9 => {
                reply.push(0);
                vec![reply]
            }
            // Damaged so that its request is unknown: counts as lost and as corrupted.
            0 if number.is_multiple_of(50) => {
                match number {
                    50 => reply[0] ^= 128,
                    100 => reply[11] ^= 1,
                    150 => reply[15] ^= 1,
                    _ => reply.fill(0),
                }
                vec![reply]
            }
            _ => vec![reply],
        };
        replies.extend(kept.take());
        // Not replies.
        replies.push(b"hello".into());
        replies.push(vec![]);
        replies
    });
    let args = "--mode=echo --rate=2000";
    let (status, seen) = object(reflector.measure(200, &format!("{args} --json")));
    let expected = [
        ("corrupted", 20 + 4),
        ("duplicates", 20 + 2 * 20),
        ("lost", 20 + 4),
        ("received", 200 - 20 - 4),
        ("records_sent", 0),
        ("reordered", 20),
        ("sent", 200),
    ];
    assert_eq!((status, counts(&seen)), (0, expected.into()));
    assert_eq!(seen["loss_ratio"], 0.12);
    let (_, out, _) = reflector.measure(200, &format!("{args} --quiet"));
    let line = "200 sent, 176 received, 24 lost (12%), 60 duplicates, 20 out of order, \
                24 corrupted in ";
    let out = joined(&out);
    assert!(out.contains(line), "{out}");
    assert!(out.contains("datagrams that are not replies: 320"), "{out}");
}

#[test]
fn losses_cost_no_other_request_in_exchange_mode() {
    let run = || {
        // A daemon whose requests and replies are lost by their sequence numbers.
        let mut owes = false;
        let reflector = Reflector::new(move |datagram| {
            let is_request = datagram.len() == 64;
            let number = if is_request { sequence(datagram) } else { 0 };
            if number % 7 == 2 {
                return vec![];
            }
            owes = !owes;
            match owes {
                true if number % 7 == 5 => vec![],
                true => vec![datagram.to_vec()],
                false => vec![],
            }
        });
        json(reflector.address, "--count=28 --rate=1000 --wait=0.4").1
    };
    let seen = undisturbed(run, |seen| seen["received"] == 20);
    assert_eq!((&seen["sent"], &seen["received"]), (&28.into(), &20.into()));
}

#[test]
fn plain_reflectors_are_detected_without_loss() {
    let reflector = Reflector::new(|datagram| vec![datagram.to_vec()]);
    for rate in [50, 10_000] {
        let args = format!("--count=20 --rate={rate} --quiet {LONG}");
        let (status, out, _) = ended(&mut probe(reflector.address, &args));
        assert_eq!(status, 0);
        assert!(out.contains("20 sent, 20 received, 0 lost (0%)"), "{out}");
        assert!(out.contains("use --mode echo"), "{out}");
    }
}

#[test]
fn plain_reflectors_that_skip_datagrams_get_a_hint() {
    // xinetd drops a datagram that follows another too closely.
    let run = || {
        let mut records = 0;
        let reflector = Reflector::new(move |datagram| {
            let is_record = datagram.len() == 22;
            records += u32::from(is_record);
            let is_dropped = is_record && records != 4;
            (!is_dropped)
                .then(|| datagram.to_vec())
                .into_iter()
                .collect()
        });
        let args = format!("--count=8 --interval=0.01 --quiet {LONG}");
        ended(&mut probe(reflector.address, &args))
    };
    // Only a record that the client sends in time counts.
    let (status, out, _) = undisturbed(run, |(_, out, _)| out.contains("records echoed: 1;"));
    assert_eq!(status, 0);
    assert!(out.contains("8 sent, 8 received, 0 lost (0%)"), "{out}");
    let hint = "records echoed: 1; for a plain reflector use --mode echo";
    assert!(out.contains(hint), "{out}");
}

#[test]
fn truncated_replies_are_corrupted_and_name_the_option() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let args = &format!("--mode=echo --size=2000 --count=3 --interval=0.01 {LONG}");
    let (status, seen) = json(daemon.address(), args);
    assert_eq!(
        (status, &seen["received"], &seen["corrupted"]),
        (0, &3.into(), &3.into())
    );
    let (_, out, _) = ended(&mut probe(daemon.address(), args));
    assert!(out.contains("1024 bytes from "), "{out}");
    let hint = "replies are truncated to 1024 bytes: see --max-datagram of the daemon";
    assert!(out.contains(hint), "{out}");
}

#[test]
fn probe_counts_a_duplicate_of_the_last_reply() {
    let reflector = UdpSocket::bind("127.0.0.1:0").unwrap();
    reflector.set_read_timeout(Some(DEADLINE)).unwrap();
    let target = reflector.local_addr().unwrap();
    let run = || {
        let args = format!("--mode=echo --count=1 --json {LONG}");
        let child = started(&mut probe(target, &args));
        let (request, peer) = receive_from(&reflector);
        reflector.send_to(&request, peer).unwrap();
        thread::sleep(Duration::from_millis(150));
        reflector.send_to(&request, peer).unwrap();
        object(finished(child.wait_with_output().unwrap())).1
    };
    let seen = undisturbed(run, |seen| seen["duplicates"] == 1);
    assert_eq!(seen["duplicates"], 1);
}

#[test]
fn probe_hints_at_exchange_mode_when_every_second_is_lost() {
    let hint = "every second request is lost: for a daemon in exchange mode use --mode exchange";
    let exchanges = Daemon::start(&["--timeout=none"]);
    let half = Reflector::new(|request| {
        let answered = sequence(request) <= 10;
        answered.then(|| request.to_vec()).into_iter().collect()
    });
    let mut all = 0.0;
    for flows in [1, 3] {
        let args = format!("--mode=echo --rate=1000 --flows={flows}");
        all += 20.0;
        let all_came = || {
            let metrics = ["datagrams_echoed_total", "records_decoded_total"];
            let done: f64 = metrics.map(|metric| exchanges.metric(metric)).iter().sum();
            done >= all
        };
        let mut command = probe(exchanges.address(), &format!("{args} --count=20"));
        for (out, is_shown) in [
            (measure(&mut command, all_came).1, true),
            (half.measure(20, &args).1, false),
        ] {
            assert!(out.contains("20 sent, 10 received") || flows == 3, "{out}");
            assert_eq!(joined(&out).contains(hint), is_shown, "{out}");
        }
    }
}

#[test]
fn probe_reports_requests_that_were_due_but_not_sent() {
    let silent = Reflector::new(|_| vec![]);
    let args = "--rate=1000 --duration=0.2 --wait=0.4 --quiet";
    let run = || joined(&ended(&mut probe(silent.address, args)).1);
    let hint = "; every flow still waited for a reply";
    let only = |out: &String| out.contains(hint) && !out.contains("stopped or blocked");
    let out = undisturbed(run, only);
    assert!(only(&out), "{out}");
    assert!(out.contains("1 sent, 0 received"), "{out}");
    assert!(!out.contains("--flows"), "the loss makes it wait: {out}");
    assert!(out.contains("requests due but not sent: "), "{out}");
    assert!(out.contains(hint), "{out}");
    let daemon = Daemon::start(&[]);
    let run = || ended(&mut probe(daemon.address(), "--count=2 --interval=0.2")).1;
    let out = undisturbed(run, |out| !out.contains("due but not sent"));
    assert!(!out.contains("due but not sent"), "{out}");
}

#[test]
fn probe_measures_with_every_size() {
    // One request is in flight at a time and fits into any buffer.
    let daemon = Daemon::start(&["--max-datagram=65507", "--timeout=none"]);
    for size in [16, 17, 22, 1472, 1473, 65507] {
        let args = format!("--size={size} --count=20 --rate=1000 {LONG}");
        let (_, seen) = json(daemon.address(), &args);
        assert_eq!(
            (&seen["lost"], &seen["corrupted"]),
            (&0.into(), &0.into()),
            "{size}"
        );
    }
}

#[test]
fn probe_accounts_for_all_requests_at_a_high_rate() {
    let buffer = "--recv-buffer=8MiB";
    let daemon = Daemon::start(&["--mode=echo", buffer]);
    for flows in [1, 64] {
        let args = format!("--mode=echo --count=20000 --rate=100000 --flows={flows}");
        let (_, seen) = json(daemon.address(), &args);
        assert_eq!(seen["sent"], 20_000);
        // This host may drop some. All are accounted for.
        let sum = seen["received"].as_u64().unwrap() + seen["lost"].as_u64().unwrap();
        assert_eq!((sum, &seen["corrupted"]), (20_000, &0.into()));
    }
}
