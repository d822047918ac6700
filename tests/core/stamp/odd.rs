//! Odd requests.

use super::*;

/// Bytes that are neither zero nor a TLV.
fn random(length: usize) -> Vec<u8> {
    BYTES[64..].iter().copied().cycle().take(length).collect()
}

#[test]
fn reply_has_the_length_of_its_request_or_of_the_base() {
    for (length, expected) in [
        (0, None),
        (1, None),
        (13, None),
        (14, Some(44)),
        (41, Some(44)),
        (43, Some(44)),
        (44, Some(44)),
        (45, Some(45)),
        (47, Some(47)),
        (100, Some(100)),
        (1472, Some(1472)),
        (9000, Some(9000)),
        (65507, Some(65507)),
    ] {
        let zero = [vec![0; 14], vec![0; 65493]].concat();
        let random = [vec![0; 14], random(65493)].concat();
        for request in [&zero[..length], &random[..length]] {
            let mut side = Side::new(stateful());
            let Ok(answer) = side.answers(ALICE, request) else {
                assert_eq!(expected, None, "{length}");
                continue;
            };
            assert_eq!(Some(answer.bytes.len()), expected);
            if length > 44 {
                assert_eq!(answer.bytes[44..], request[44..], "{length}");
            }
            assert_eq!(answer.bytes[24..28], request[..4]);
            assert_eq!(answer.bytes[28..38], request[4..14]);
            assert_eq!(answer.bytes[38..44], [0, 0, 64, 0, 0, 0]);
            let ssid = if length < 44 {
                &[0, 0]
            } else {
                &request[14..16]
            };
            assert_eq!(&answer.bytes[14..16], ssid, "{length}");
        }
        let signed = Side::new(authenticated(stateful())).answers(ALICE, &zero[..length]);
        let refused = if length < 112 {
            Refusal::TooShort
        } else {
            Refusal::Integrity
        };
        assert_eq!(signed, Err(refused), "{length}");
    }
}

#[test]
fn minimum_request_ends_replies_longer_than_requests() {
    let mut settings = stateful();
    settings.stamp.min_request = 44;
    let mut side = Side::new(settings);
    assert_eq!(side.answers(ALICE, &open(0)[..43]), Err(Refusal::TooShort));
    assert_eq!(side.answers(ALICE, &open(0)).unwrap().bytes.len(), 44);
}

#[test]
fn long_request_is_cut_to_the_maximum_but_not_below_the_base() {
    let cuts = |max_datagram, is_signed: bool, length| {
        let mut settings = stateful();
        settings.max_datagram = max_datagram;
        if is_signed {
            settings = authenticated(settings);
        }
        let mut request = open(0);
        if is_signed {
            request = vec![0; 96];
            request.extend(key().sign(&[&[0; 96]]));
        }
        request.resize(length, 7);
        Side::new(settings)
            .answers(ALICE, &request)
            .unwrap()
            .bytes
            .len()
    };
    assert_eq!(cuts(100, false, 101), 100);
    assert_eq!(cuts(100, false, 100), 100);
    assert_eq!(cuts(1, false, 44), 44);
    assert_eq!(cuts(1, false, 60), 44);
    assert_eq!(cuts(1, true, 120), 112);
}

#[test]
fn keys_are_chosen_by_ssid() {
    let keys = |text: String| Some(Arc::new(StampKeys::parse(text.as_bytes()).unwrap()));
    let mut settings = stateful();
    settings.stamp.keys = keys(format!("7 {KEY}\n8 {}", "ab".repeat(16)));
    let mut side = Side::new(settings);
    for (ssid, refused) in [
        (7, None),
        (8, Some(Refusal::Integrity)),
        (9, Some(Refusal::Integrity)),
        (0, Some(Refusal::Integrity)),
    ] {
        let mut request = vec![0; 96];
        request[27] = ssid;
        request.extend(key().sign(&[&request]));
        assert_eq!(side.answers(ALICE, &request).err(), refused, "{ssid}");
    }
}

#[test]
fn odd_fields_are_answered_and_returned() {
    let set = |at: usize, bytes: &[u8]| {
        let mut request = open(0);
        request[at..at + bytes.len()].copy_from_slice(bytes);
        request
    };
    for request in [
        // Multiplier 0, Z = 1.
        set(12, &[0x3f, 0]),
        set(12, &[0x40, 1]),
        // T1 near zero.
        set(4, &[0; 8]),
        set(4, &(1800_u64 << 32).to_be_bytes()),
        set(4, &(((1_u64 << 32) - 10) << 32).to_be_bytes()),
        // Bytes that must be zero are not.
        set(14, &[0xff; 30]),
        set(40, b"ttl."),
    ] {
        let reply = Side::new(stateful())
            .answers(ALICE, &request)
            .unwrap()
            .bytes;
        assert_eq!(reply[28..38], request[4..14]);
        assert_eq!(reply[14..16], request[14..16]);
        assert_eq!(reply[38..44], [0, 0, 64, 0, 0, 0]);
        let shown = [T3.to_be_bytes(), T2.to_be_bytes()];
        assert_eq!(
            [&reply[4..12], &reply[16..24]],
            shown.each_ref().map(|time| &time[..])
        );
    }
}

#[test]
fn replies_are_recognized_around_the_start_of_an_era() {
    let second = 1_u64 << 32;
    for (t2, t3) in [
        (1, 1),
        (1, second / 2),
        (0_u64.wrapping_sub(1), 5),
        (0_u64.wrapping_sub(10 * second), 3590 * second),
        (3600 * second, 0),
    ] {
        let mut side = Side::new(stateful());
        side.reception.at = NtpTimestamp::from_bits(t2);
        side.sent_at = t3;
        let reply = side.answers(ALICE, &open(0)).unwrap().bytes;
        assert_eq!(
            side.answers(BOB, &reply),
            Err(Refusal::Reply),
            "{t2:x} {t3:x}"
        );
    }
    // A padding that is not near T1.
    let mut request = open(0);
    let far = (T3 >> 32) + 3601;
    request[16..20].copy_from_slice(&u32::try_from(far).unwrap().to_be_bytes());
    request[4..8].copy_from_slice(&u32::try_from(T3 >> 32).unwrap().to_be_bytes());
    assert!(Side::new(stateful()).answers(ALICE, &request).is_ok());
    request[16..20].copy_from_slice(&u32::try_from(far - 1).unwrap().to_be_bytes());
    let refused = Side::new(stateful()).answers(ALICE, &request);
    assert_eq!(refused, Err(Refusal::Reply));
}

#[test]
fn refused_requests_reset_no_idle_time() {
    let mut side = Side::new(stateful());
    let idle_since = side.core.totals().idle_since;
    side.now += TIMEOUT;
    let _ = side.answers(ALICE, b"");
    assert_eq!(side.core.totals().idle_since, idle_since);
    side.answers(ALICE, &open(0)).unwrap();
    assert_eq!(side.core.totals().idle_since, side.now);
}

#[test]
fn short_segments_of_a_gro_batch_are_not_overwritten() {
    let mut side = Side::new(stateful());
    let mut memory = vec![0; 200];
    let mut datagram = Datagram {
        peer: address(ALICE),
        destination: HERE,
        at: side.now,
        reception: side.reception,
        length: 60,
        segment: 20,
        memory: &mut memory,
    };
    let verdict = side.core.handle(&mut datagram, side.now);
    let refused = Action::Refuse(Refusal::TooShort);
    assert_eq!((verdict.action, verdict.datagrams), (refused, 1));
}
