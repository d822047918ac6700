//! Packets that other implementations sent, as captured.

use super::*;

/// twampy 1.3.2, 44 and 14 bytes.
const TWAMPY: &str = "00000000eeb2414f85071fff3fff0000\
    00000000000000000000000000000000000000000000000000000000";
const TWAMPY_SHORT: &str = "00000000eeb2425c67c3f3ff3fff";
const TWAMPY_REPLY: &str = "00000000eeb2414f8519d7ff00010000eeb2414f8519d7ff\
    00000000eeb2414f85071fff3fff";

/// stamp-suite 1.0.0.
const BASE: &str = "00000001eeb24258379b26b30001000000000000\
    000000000000000000000000000000000000000000000000";
const BASE_REPLY: &str = "00000001eeb2425837a14eda00010000eeb2425837a0a033\
    00000001eeb24258379b26b300010000ff000000";
const TLVS: &str = "00000000eeb2425858270bbf00011234\
    00000000000000000000000000000000000000000000000000000000\
    80040004b8004000 8003000400000000\
    8002002c00000000800700100000000000000000000000000000000080040010000000000000000000000000\
    00000000\
    8007001000000000000000000000000000000000 8005000c000000010000000000000000";
const TLVS_REPLY: &str = "00000000eeb242585928036900011234eeb242585925f2f2\
    00000000eeb2425858270bbf00010000ff000000\
    00040004bae47000 0003000405020502\
    0002002c035e1389000800107f000001000000000000000000000000000500107f000001000000000000000000\
    000000\
    0007001000000000000000000000000002000000 0005000c000000010000000100000000";
const SHORT_REPLY: &str = "00000005eeb2425c6882ac9300010000eeb2425c6881dc27\
    00000000eeb2425c67c3f3ff3fff000040000000";

/// domos twamp-light.
const DOMOS_REPLY: &str = "00000000eeb2428637ab7fff80010000eeb2428637b01024\
    00000000eeb2428637b39f2d3fff000040880000";

/// stamp-suite 1.0.0, authenticated.
const SIGNED: &str = "00000000000000000000000000000000eeb242bff479bd2300010000\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    000000000000000000000000000000000000000000000000\
    2b50306a7aae913ebb651caf47c4eabc";
const SIGNED_REPLY: &str = "00000000000000000000000000000000eeb242bff485cab8\
    0001000000000000eeb242bff4846405000000000000000000000000000000000000000000000000\
    eeb242bff479bd230001000000000000ff000000000000000000000000000000\
    2b21dbf3bbeb6ee16782abe6b4de53a3";
const SIGNED_TLVS: &str = "00000000000000000000000000000000eeb242c0107f269100011234\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    000000000000000000000000000000000000000000000000\
    001155d93d512f93cb1490b708d9b33a\
    8003000400000000800800103decf0e8d489a0f2258319d85b013081";
const SIGNED_TLVS_REPLY: &str = "00000000000000000000000000000000eeb242c01089a9a1\
    0001123400000000eeb242c01087efbc000000000000000000000000000000000000000000000000\
    eeb242c0107f26910001000000000000ff000000000000000000000000000000\
    90eea9e40f157d4f1a3fd87351cee85b\
    000300040502050200080010b95b059454c20ad45cd38d9bd536a8e4";

/// A reflector with the clock of a captured reply and the error estimate of stamp-suite.
fn side(settings: ReflectorSettings, reply: &[u8], t2: usize, t3: usize) -> Side {
    let at = |at: usize| u64::from_be_bytes(reply[at..at + 8].try_into().unwrap());
    let mut side = Side::new(settings);
    side.core.set_clock_error(ErrorEstimate::from_bits(1));
    side.reception.at = NtpTimestamp::from_bits(at(t2));
    side.reception.ttl = None;
    side.sent_at = at(t3);
    side
}

#[test]
fn base_reply_equals_that_of_stamp_suite() {
    let reply = hex(BASE_REPLY);
    let answer = side(stateless(), &reply, 16, 4).answers(ALICE, &hex(BASE));
    assert_eq!(answer.unwrap().bytes, reply);
}

#[test]
fn tlvs_of_stamp_suite_are_answered() {
    let mut expected = hex(TLVS_REPLY);
    let request = hex(TLVS);
    assert_eq!(request.len(), 144);
    let mut side = side(stateful(), &expected, 16, 4);
    side.reception.traffic_class = Some(46 << 2 | 1);
    // The reserved bits of Class of Service are 0.
    expected[50..52].fill(0);
    // Location and Follow-Up Telemetry are unknown.
    expected[60..128].copy_from_slice(&request[60..128]);
    let answer = side.answers(ALICE, &request).unwrap();
    assert_eq!(answer.bytes, expected);
    assert_eq!(answer.dscp, 46);
    let totals = side.totals().tlvs;
    assert_eq!(
        (totals.kinds, totals.faults),
        ([0, 1, 1, 1, 0, 2], [2, 0, 0])
    );
}

#[test]
fn short_request_of_twampy_gets_a_base_packet() {
    let mut expected = hex(SHORT_REPLY);
    // The captured reflector did not notice that its sender was restarted.
    expected[..4].fill(0);
    let mut side = side(stateful(), &expected, 16, 4);
    side.reception.ttl = Some(64);
    let answer = side.answers(ALICE, &hex(TWAMPY_SHORT));
    assert_eq!(answer.unwrap().bytes, expected);
}

#[test]
fn signed_replies_equal_those_of_stamp_suite() {
    for (request, reply) in [(SIGNED, SIGNED_REPLY), (SIGNED_TLVS, SIGNED_TLVS_REPLY)] {
        let reply = hex(reply);
        for settings in [stateful(), stateless()] {
            let mut side = side(authenticated(settings), &reply, 32, 16);
            let answer = side.answers(ALICE, &hex(request));
            assert_eq!(answer.unwrap().bytes, reply);
        }
    }
}

#[test]
fn signed_request_with_any_wrong_byte_is_refused() {
    let mut side = Side::new(authenticated(stateful()));
    for at in 0..112 {
        let mut request = hex(SIGNED);
        request[at] ^= 1;
        let refused = side.answers(ALICE, &request).unwrap_err();
        // A changed T2 is too far from T1 to be that of a reply.
        assert_eq!(refused, Refusal::Integrity, "byte {at}");
    }
    assert_eq!(side.totals().sessions.sessions, 0);
}

#[test]
fn captured_replies_are_refused_and_requests_are_not() {
    let mut open = Side::new(stateful());
    for reply in [
        TWAMPY_REPLY,
        BASE_REPLY,
        TLVS_REPLY,
        SHORT_REPLY,
        DOMOS_REPLY,
    ] {
        assert_eq!(open.answers(ALICE, &hex(reply)), Err(Refusal::Reply));
    }
    for request in [TWAMPY, TWAMPY_SHORT, BASE, TLVS] {
        assert!(open.answers(ALICE, &hex(request)).is_ok());
    }
    let mut signed = Side::new(authenticated(stateful()));
    for reply in [SIGNED_REPLY, SIGNED_TLVS_REPLY] {
        assert_eq!(signed.answers(ALICE, &hex(reply)), Err(Refusal::Reply));
        // The HMAC is checked first.
        let mut forged = hex(reply);
        forged[100] ^= 1;
        assert_eq!(signed.answers(ALICE, &forged), Err(Refusal::Integrity));
    }
    let short = [TWAMPY, TWAMPY_SHORT, BASE].map(|open| signed.answers(ALICE, &hex(open)));
    assert!(short.iter().all(|answer| *answer == Err(Refusal::TooShort)));
    assert_eq!(signed.answers(ALICE, &hex(TLVS)), Err(Refusal::Integrity));
}

#[test]
fn reflectors_exchange_one_reply_each_after_a_forged_packet() {
    for (request, is_signed) in [
        (TWAMPY, false),
        (TWAMPY_SHORT, false),
        (TLVS, false),
        (SIGNED, true),
    ] {
        let settings = |settings| {
            if is_signed {
                authenticated(settings)
            } else {
                settings
            }
        };
        let mut sides = [stateful(), stateless()].map(|kind| Side::new(settings(kind)));
        let mut packet = hex(request);
        let mut replies = 0;
        loop {
            match sides[replies % 2].answers(ALICE, &packet) {
                Ok(answer) => packet = answer.bytes,
                Err(refusal) => break assert_eq!(refusal, Refusal::Reply),
            }
            replies += 1;
        }
        assert_eq!(replies, 1);
    }
}
