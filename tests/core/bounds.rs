//! The bounds of the core: a full table, the rate limits, the time of an expiry.

use udp_echo::reflect::{LEAK, SLACK};

use super::*;

#[test]
fn full_table_takes_as_many_more_peers_as_a_batch_has() {
    let mut settings = defaults(Mode::Exchange);
    settings.max_peers = NonZeroU32::new(3).unwrap();
    let Daemon { mut core, now, .. } = Daemon::new(&settings);
    let mut action = |number: usize, bytes| {
        let peer = format!("192.0.2.1:{}", 5000 + number);
        let verdict = given(&peer, bytes).handled(&mut core, bytes.len(), now);
        if verdict.action == Action::SendFirst {
            core.batch_sent();
        }
        (verdict.action, core.totals().evicted)
    };
    let first = 3 + SLACK;
    for number in 0..first {
        assert_eq!(action(number, HELLO), (echo(5), 0), "{number}");
    }
    assert_eq!(action(first, b""), (Action::Empty, 0));
    assert_eq!(action(first, HELLO), (Action::SendFirst, SLACK as u64));
    assert_eq!(action(first, HELLO), (echo(5), SLACK as u64));
}

#[test]
fn gro_batch_within_the_limits_is_echoed_as_one() {
    let rate = |number| Rate::new(NonZeroU32::new(number).unwrap());
    for (limit, datagrams, length) in [(3, 3, 66), (2, 1, 22)] {
        let mut settings = defaults(Mode::Echo);
        let limits = Limits::new(*START, 0, rate(limit), rate(limit));
        settings.limits = Some(Arc::new(limits));
        let Daemon { mut core, now, .. } = Daemon::new(&settings);
        let verdict = given(ALICE, &BYTES[..66]).handled(&mut core, 22, now);
        assert_eq!(
            (verdict.action, verdict.datagrams),
            (echo(length), datagrams)
        );
    }
}

#[test]
fn one_datagram_in_64_above_the_limit_passes_at_random() {
    let rate = Rate::new(NonZeroU32::MIN);
    let passed = [(); 4].map(|()| {
        let mut settings = defaults(Mode::Echo);
        settings.limits = Some(Arc::new(Limits::new(*START, LEAK, rate, None)));
        let Daemon { mut core, now, .. } = Daemon::new(&settings);
        let mut passes = || given(ALICE, HELLO).handled(&mut core, 5, now).action == echo(5);
        (0..6400).filter(|_| passes()).collect::<Vec<_>>()
    });
    for one in &passed {
        // 1 + 100, with a standard deviation of 10.
        assert!((1..=201).contains(&one.len()), "{}", one.len());
    }
    assert!(
        passed.windows(2).all(|pair| pair[0] != pair[1]),
        "{passed:?}"
    );
}

#[test]
fn expiry_is_exact_if_a_reply_or_the_end_depends_on_its_time() {
    for mode in Mode::ALL {
        for exits in [false, true] {
            let mut settings = defaults(mode);
            settings.exit_on.timeout = exits;
            let Daemon { core, .. } = Daemon::new(&settings);
            assert_eq!(core.expires_exactly(), exits || mode == Mode::Lockstep);
        }
    }
}

/// A record that expires after the last datagram was another one is a timeout of its own.
#[test]
fn idle_timeout_counts_beside_the_record_of_another_peer() {
    let settings = defaults(Mode::Exchange);
    let timeout = settings.timeout.unwrap().get();
    let Daemon { mut core, now, .. } = Daemon::new(&settings);
    let mut receive = |peer, bytes: &[u8], at| {
        given(peer, bytes).handled(&mut core, bytes.len(), at);
        core.batch_sent();
    };
    receive(ALICE, HELLO, now);
    let later = now + timeout / 4;
    receive(BOB, HELLO, later);
    receive(BOB, &BYTES[..22], later);
    assert_eq!(core.expire(later + timeout, None), None);
    let totals = core.totals();
    assert_eq!((totals.records_expired, totals.idle_timeouts), (1, 1));
}
