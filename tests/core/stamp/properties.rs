//! The reflector against the model, over arbitrary requests.

use super::model::{Model, Rules};
use super::*;

/// Longer than a missing request is waited for.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

fn rules(is_authenticated: bool) -> impl Strategy<Value = Rules> {
    let dscp = || prop::option::of(select(vec![0_u8, 10, 46, 63]));
    (
        (any::<bool>(), select(vec![14, 14, 20, 44, 120]), 1..4_usize),
        (dscp(), dscp(), select(vec![0x1d80, 0x8001_u16])),
        (
            select(vec![0, 10 << 2, 46 << 2 | 1, 255_u8]),
            prop::option::of(1..=255_u8),
        ),
    )
        .prop_map(move |(sessions, policy, reception)| Rules {
            is_authenticated,
            is_stateful: sessions.0,
            min_request: sessions.1,
            most_sessions: sessions.2,
            session_timeout: SESSION_TIMEOUT,
            fixed_dscp: policy.0,
            allowed_dscp: policy.1,
            error: policy.2,
            traffic_class: reception.0,
            ttl: reception.1,
        })
}

/// A reflector with these rules.
fn reflector(rules: Rules) -> Side {
    let mut settings = if rules.is_stateful {
        stateful()
    } else {
        stateless()
    };
    settings.timeout = None;
    settings.max_peers = NonZeroU32::new(u32::try_from(rules.most_sessions).unwrap()).unwrap();
    settings.stamp.session_timeout = Timeout::new(rules.session_timeout).unwrap();
    settings.stamp.min_request = rules.min_request;
    settings.stamp.dscp = rules.fixed_dscp.map_or(ReplyDscp::Copy, ReplyDscp::Fixed);
    if let Some(dscp) = rules.allowed_dscp {
        settings.stamp.allowed_dscp.insert(dscp);
    }
    if rules.is_authenticated {
        settings = authenticated(settings);
    }
    let mut side = Side::new(settings);
    side.core
        .set_clock_error(ErrorEstimate::from_bits(rules.error));
    side.reception.ttl = rules.ttl;
    side.reception.traffic_class = Some(rules.traffic_class);
    side
}

fn scenario() -> impl Strategy<Value = (Rules, Vec<(&'static str, Vec<u8>)>)> {
    any::<bool>().prop_flat_map(|is_authenticated| {
        let request = (
            select(&[ALICE, BOB, CAROL][..]),
            generate::request(is_authenticated),
        );
        (rules(is_authenticated), vec(request, 1..20))
    })
}

/// A request in a run of requests: how far ahead of the last one, from whom, and after how long.
fn step() -> impl Strategy<Value = (u32, &'static str, Duration)> {
    let near = (-70..70_i32).prop_map(i32::cast_unsigned);
    let nearest = (-3..4_i32).prop_map(i32::cast_unsigned);
    let ahead = prop_oneof![8 => Just(1), 3 => nearest, 2 => near, 1 => any::<u32>()];
    let second = Duration::from_secs(1);
    let waits = [
        A_MOMENT,
        ALMOST_A_SECOND,
        second,
        Duration::from_nanos(2_999_999_999),
    ];
    let wait = prop_oneof![
        8 => Just(Duration::ZERO),
        4 => select(waits.to_vec()),
        1 => Just(SESSION_TIMEOUT),
    ];
    (ahead, select(&[ALICE, ALICE, ALICE, BOB, CAROL][..]), wait)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replies_match_the_model_for_any_requests((rules, requests) in scenario()) {
        let mut side = reflector(rules);
        let mut model = Model::new(rules);
        for (peer, request) in requests {
            let expected = model.answers(address(peer), &request, side.now);
            let answer = side.answers(peer, &request);
            prop_assert_eq!(&answer, &expected);
            let Ok(answer) = answer else { continue };
            let least = if rules.is_authenticated { 112 } else { 44 };
            prop_assert_eq!(answer.bytes.len(), request.len().max(least));
            // No reply is answered, whatever the request was.
            let again = reflector(Rules { min_request: 14, ..rules }).answers(peer, &answer.bytes);
            prop_assert_eq!(again, Err(Refusal::Reply));
        }
        prop_assert_eq!(side.totals().sessions.sessions, model.sessions());
    }

    #[test]
    fn sessions_and_uplink_counts_match_the_model(
        (rules, first) in (rules(false), select(vec![0, 1, 0xffff_0000 - 2, u32::MAX - 3])),
        steps in vec(step(), 1..150),
    ) {
        let rules = Rules { is_stateful: true, min_request: 14, ..rules };
        let mut side = reflector(rules);
        let mut model = Model::new(rules);
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        for (ahead, peer, wait) in steps {
            side.now += wait;
            let number = numbers.entry(peer).or_insert(first);
            *number = number.wrapping_add(ahead);
            let request = open(*number);
            let expected = model.answers(address(peer), &request, side.now);
            prop_assert_eq!(side.answers(peer, &request), expected);
            let totals = side.totals().sessions;
            prop_assert_eq!(totals.sessions, model.sessions());
            prop_assert_eq!([totals.unkept, totals.reset], [model.unkept, model.reset]);
            let uplink = [totals.uplink.lost, totals.uplink.reordered, totals.uplink.duplicates];
            prop_assert_eq!(uplink, [model.lost, model.reordered, model.duplicates]);
            prop_assert_eq!(side.core.next_expiry(), model.next_expiry());
        }
        side.now += SESSION_TIMEOUT;
        side.core.expire(side.now, None);
        model.expires(side.now);
        prop_assert_eq!(side.totals().sessions.uplink.lost, model.lost);
        prop_assert_eq!(side.totals().sessions.sessions, 0);
    }
}
