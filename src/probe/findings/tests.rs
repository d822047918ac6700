//! Each finding: the case in which it appears, and the nearest one in which it does not.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use super::*;
use crate::probe::attribution::Attribution;
use crate::probe::notes::Notes;
use crate::probe::pace::Missed;
use crate::probe::rtt::RoundTrips;
use crate::probe::tally::Tally;
use crate::reflect::stamp::ErrorEstimate;
use crate::udp::Icmp;

const TARGET: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const RTT: Duration = Duration::from_millis(1);

/// A run whose requests are sent by the flows in turn. `answers` says which get a reply.
fn run(flows: usize, answers: &[bool]) -> Outcome {
    let mut tally = Tally::new(flows, 1 << 12);
    for (index, is_answered) in answers.iter().enumerate() {
        let sequence = tally.next_sequence();
        tally.sent(index % flows, Duration::ZERO);
        if *is_answered {
            tally.reply(sequence, false, RTT, RTT);
        }
    }
    Outcome {
        tally,
        round_trips: RoundTrips::default(),
        notes: Notes::default(),
        ports: (1..).take(flows).collect(),
        own_drops: 0,
        is_plain: false,
        echoed_records: 0,
        stamp: None,
        clock_error: ErrorEstimate::UNKNOWN,
        missed: Missed::default(),
        started: SystemTime::UNIX_EPOCH,
        ended: Duration::ZERO,
        time: Duration::ZERO,
    }
}

fn all_answered() -> Outcome {
    run(1, &[true; 10])
}

fn none_answered() -> Outcome {
    run(1, &[false; 10])
}

fn sentences_with(mode: Mode, outcome: &Outcome, losses: Option<&Losses>) -> Vec<String> {
    let config = Config::example("192.0.2.1:9", mode);
    let finished = Finished {
        config: &config,
        address: "192.0.2.1:9",
        target: TARGET,
        outcome,
        losses,
    };
    let findings = of(&finished).into_iter();
    findings.map(|finding| finding.sentence).collect()
}

fn sentences(mode: Mode, outcome: &Outcome) -> Vec<String> {
    sentences_with(mode, outcome, None)
}

#[test]
fn findings_are_absent_when_all_is_well() {
    for mode in [Mode::Echo, Mode::Exchange, Mode::Lockstep] {
        for flows in [1, 2, 4, 10] {
            let outcome = run(flows, &[true; 10]);
            assert_eq!(sentences(mode, &outcome), [""; 0], "{mode:?} {flows}");
        }
    }
}

#[test]
fn every_second_is_lost_needs_requests_that_alternate() {
    const SENTENCE: &str = "every second request is lost: for a daemon in exchange mode use --mode \
                            exchange";
    let alternating = |flows: usize, number: usize| -> Vec<bool> {
        let turn = |index: usize| (index / flows).is_multiple_of(2);
        (0..number).map(turn).collect()
    };
    let is_said = |mode, outcome: &Outcome| sentences(mode, outcome) == [SENTENCE];
    for (flows, number) in [(1, 4), (1, 5), (1, 100), (4, 16)] {
        let outcome = run(flows, &alternating(flows, number));
        assert!(is_said(Mode::Echo, &outcome), "{flows} {number}");
        assert!(!is_said(Mode::Exchange, &outcome), "{flows} {number}");
    }
    // The daemon decodes another request as the record after a loss on the way.
    let mut outcome = alternating(1, 50);
    outcome.extend([false, false]);
    outcome.extend(alternating(1, 50));
    assert!(is_said(Mode::Echo, &run(1, &outcome)));
    // Half of the requests are lost otherwise.
    for (flows, answers) in [
        (4, vec![true; 4]),
        (1, [[true; 10], [false; 10]].concat()),
        (4, [[true; 4], [false; 4]].concat()),
        (1, vec![true, false, false, true]),
        (1, [true, true, false, false].repeat(10)),
        (1, vec![true, false]),
    ] {
        assert!(!is_said(Mode::Echo, &run(flows, &answers)), "{answers:?}");
    }
}

#[test]
fn flows_are_compared_only_if_one_loses_more_than_by_chance() {
    let losing = |number: usize, is_lost: fn(usize) -> bool| -> Vec<bool> {
        (0..number).map(|index| !is_lost(index)).collect()
    };
    for (flows, answers, is_shown) in [
        // One of four paths is broken, or one of 32.
        (4, losing(40, |index| index % 4 == 2), true),
        (32, losing(320, |index| index % 32 == 7), true),
        // One loses half.
        (4, losing(400, |index| index % 8 == 2), true),
        // A single loss, or a few that are spread.
        (2, losing(3, |index| index == 1), false),
        (4, losing(400, |index| index == 100), false),
        (32, losing(3200, |index| index % 101 == 0), false),
        // No flow is without loss.
        (2, losing(40, |index| index > 30 || index % 2 == 0), false),
        (2, losing(40, |_| true), false),
    ] {
        let outcome = run(flows, &answers);
        let said = sentences(Mode::Exchange, &outcome);
        let mut expected = vec!["some flows lose requests, others do not"];
        expected.truncate(is_shown.into());
        assert_eq!(said, expected, "{flows} {}", answers.len());
    }
}

#[test]
fn truncation_names_the_option_only_at_one_length() {
    let said = |lengths: &[usize], whole| {
        let mut outcome = all_answered();
        for length in lengths {
            outcome.notes.truncated(*length);
        }
        outcome.notes.whole_replies = whole;
        sentences(Mode::Echo, &outcome)
    };
    let limit = "replies are truncated to 1024 bytes: see --max-datagram of the daemon";
    assert_eq!(said(&[1024, 1024], 0), [limit]);
    assert_eq!(
        said(&[1024, 1024], 1),
        ["some replies are truncated, to 1024 to 1024 bytes"]
    );
    assert_eq!(
        said(&[1000, 1024], 0),
        ["some replies are truncated, to 1000 to 1024 bytes"]
    );
    assert_eq!(said(&[], 10), [""; 0]);
}

#[test]
fn datagrams_that_are_no_replies_question_a_silent_target_only() {
    let said = |mut outcome: Outcome| {
        outcome.notes.foreign = 3;
        sentences(Mode::Echo, &outcome)
    };
    let fact = "datagrams that are not replies: 3";
    let action = format!("{fact}; check that the target is an echo server");
    assert_eq!(said(none_answered()), [action]);
    assert_eq!(said(all_answered()), [fact]);
}

#[test]
fn late_replies_ask_for_a_longer_wait_only_with_loss() {
    let said = |answers: &[bool]| {
        let mut tally = Tally::new(1, 2);
        for is_answered in answers {
            let sequence = tally.next_sequence();
            tally.sent(0, Duration::ZERO);
            if *is_answered {
                tally.reply(sequence, false, RTT, RTT);
            }
        }
        tally.reply(1, false, RTT, RTT);
        let outcome = Outcome {
            tally,
            ..all_answered()
        };
        sentences(Mode::Echo, &outcome)
    };
    let action = "replies too late to match their requests: 1; use a longer --wait";
    assert_eq!(said(&[false, true, true]), [action]);
    assert_eq!(said(&[true, true, true]), ["late duplicates: 1"]);
}

#[test]
fn echoed_records_suggest_echo_mode() {
    let said = |is_plain, echoed_records| {
        let outcome = Outcome {
            is_plain,
            echoed_records,
            ..all_answered()
        };
        sentences(Mode::Exchange, &outcome)
    };
    let plain = "the reflector echoes records, too: use --mode echo";
    assert_eq!(said(true, 3), [plain]);
    let maybe = said(false, 1);
    assert!(maybe[0].starts_with("records echoed: 1; for a plain reflector use --mode echo ("));
    assert_eq!(said(false, 0), [""; 0]);
}

#[test]
fn requests_not_sent_have_their_own_reason_each() {
    let said = |mode, missed| {
        let outcome = Outcome {
            missed,
            ..all_answered()
        };
        sentences(mode, &outcome)
    };
    let all = Missed {
        waiting: 1,
        stalled: 2,
        slow: 3,
        longest_stall: Duration::from_millis(4210),
    };
    let [waiting, lockstep, stalled, slow] = [
        "requests due but not sent: 1; every flow still waited for a reply, use more --flows",
        "requests due but not sent: 1; the previous request still waited for its reply",
        "requests due but not sent: 2; this process was stopped or blocked for up to 4.21 s",
        "requests due but not sent: 3; this host was too slow, use a lower --rate",
    ];
    assert_eq!(said(Mode::Exchange, all), [waiting, stalled, slow]);
    assert_eq!(said(Mode::Lockstep, all), [lockstep, stalled, slow]);
    let none = Missed::default();
    for (missed, sentence) in [
        (Missed { waiting: 1, ..none }, waiting),
        (Missed { slow: 3, ..none }, slow),
        (
            Missed {
                waiting: 0,
                slow: 0,
                ..all
            },
            stalled,
        ),
    ] {
        assert_eq!(said(Mode::Exchange, missed), [sentence]);
    }
    let outcome = Outcome {
        missed: Missed { waiting: 1, ..none },
        ..run(1, &[true, false])
    };
    let no_advice = "requests due but not sent: 1; every flow still waited for a reply";
    assert_eq!(sentences(Mode::Exchange, &outcome), [no_advice]);
}

#[test]
fn errors_and_drops_are_shown_if_there_were_any() {
    let mut outcome = all_answered();
    let closed = DeliveryError::Rejected {
        errno: libc::ECONNREFUSED,
        icmp: Some(Icmp {
            v6: false,
            kind: 3,
            code: 3,
        }),
        from: Some(TARGET),
    };
    (0..2).for_each(|_| outcome.notes.errors.add(closed));
    outcome.notes.unsent_records.insert(libc::EPERM, 1);
    outcome.own_drops = 7;
    let cause =
        "cannot send: Operation not permitted (os error 1); a firewall on this host blocks it";
    let drops = "replies dropped by this host: 7; its receive buffer was full, or their checksum was \
                 wrong";
    assert_eq!(
        sentences(Mode::Echo, &outcome),
        [
            "2 requests: the port is closed (ICMP port unreachable from 192.0.2.1)",
            &format!("1 record: {cause}"),
            drops,
        ]
    );
}

#[test]
fn place_of_loss_is_shown_only_with_loss() {
    let located = |decoded| {
        Some(Losses::Located(Attribution {
            uplink: 1,
            server_drops: 2,
            server_refused: 3,
            downlink: 1,
            unsent: 0,
            decoded,
            of_others: 0,
        }))
    };
    let said = |outcome: &Outcome, losses: Option<Losses>| {
        sentences_with(Mode::Exchange, outcome, losses.as_ref())
    };
    for losses in [
        located(3),
        Some(Losses::DaemonRestarted),
        Some(Losses::Unknown("why".into())),
        None,
    ] {
        assert_eq!(said(&all_answered(), losses), [""; 0]);
    }
    let places = "place of loss, by the daemon's metrics: 1 on the way there, 2 dropped by its host, \
                  3 refused by it, 1 on the way back";
    for (decoded, rest) in [
        (3, "3 decoded as records"),
        (1, "1 decoded as records, 2 in an unknown place"),
        (0, "3 in an unknown place"),
    ] {
        let expected = [format!("{places}, {rest}")];
        assert_eq!(said(&none_answered(), located(decoded)), expected);
    }
    let mut damaged = none_answered();
    damaged.tally.damaged();
    let expected = [format!(
        "{places}, 1 with damaged replies, 2 decoded as records"
    )];
    assert_eq!(said(&damaged, located(3)), expected);
    let unknown = said(
        &none_answered(),
        Some(Losses::Unknown("no response".into())),
    );
    assert_eq!(unknown, ["place of loss unknown: no response"]);
}

#[test]
fn other_clients_and_unsent_replies_qualify_the_place_of_loss() {
    let said = |unsent, of_others| {
        let losses = Losses::Located(Attribution {
            uplink: 10,
            server_drops: 0,
            server_refused: 0,
            downlink: 0,
            unsent,
            decoded: 0,
            of_others,
        });
        sentences_with(Mode::Echo, &none_answered(), Some(&losses)).split_off(1)
    };
    assert_eq!(said(0, 0), [""; 0]);
    let action = "check the firewall and the routes of its host";
    assert_eq!(
        said(1, 2),
        [
            format!("the daemon failed to send 1 datagram: {action}"),
            "these figures are not exact: the daemon also received 2 further datagrams, from other \
             clients or duplicated by the network"
                .to_owned()
        ]
    );
}
