//! Odd requests.

use super::*;

/// Bytes that are neither zero nor a TLV.
fn random(length: usize) -> Vec<u8> {
    BYTES[64..].iter().copied().cycle().take(length).collect()
}

/// An open request with bytes after the base packet.
fn with(rest: &[u8]) -> Vec<u8> {
    [&open(0), rest].concat()
}

fn tlv(flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[flags, kind, high, low], value].concat()
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
fn tlvs_get_the_flags_of_their_faults() {
    let [padding, unknown] = [tlv(0x80, 1, b"padding"), tlv(0x80, 2, b"where")];
    let [cos, information] = [tlv(0x80, 4, &[0; 4]), tlv(0x80, 3, &[0; 4])];
    let hmac = tlv(0x80, 8, &[0; 16]);
    let too_long = [&[0x80, 1, 0, 8], &b"padding"[..]].concat();
    for (name, tlvs, flags) in [
        ("known", vec![&padding, &cos, &information], vec![0, 0, 0]),
        (
            "unknown",
            vec![&unknown, &padding, &unknown],
            vec![0x80, 0, 0x80],
        ),
        (
            "unknown flags",
            vec![&padding, &tlv(0x7f, 4, &[0; 4])],
            vec![0, 0],
        ),
        (
            "no value",
            vec![&tlv(0x80, 1, b""), &tlv(0x80, 99, b"")],
            vec![0, 0x80],
        ),
        ("too long", vec![&padding, &too_long], vec![0, 0x40]),
        (
            "too long and unknown",
            vec![&[0x80, 9, 1, 0][..].to_vec()],
            vec![0xc0],
        ),
        (
            "wrong length",
            vec![&tlv(0x80, 4, &[0; 5]), &cos],
            vec![0x40, 0x80],
        ),
        (
            "wrong length",
            vec![&tlv(0x80, 3, &[0; 3]), &cos],
            vec![0x40, 0x80],
        ),
        (
            "wrong length",
            vec![&tlv(0x80, 5, &[0; 11]), &cos],
            vec![0x40, 0x80],
        ),
        ("longer information", vec![&tlv(0x80, 3, &[0; 9])], vec![0]),
        (
            "HMAC without key",
            vec![&cos, &unknown, &hmac],
            vec![0xa0, 0xa0, 0xa0],
        ),
        (
            "malformed HMAC",
            vec![&cos, &tlv(0x80, 8, &[0; 15])],
            vec![0xa0, 0xe0],
        ),
        ("HMAC and padding", vec![&hmac, &padding], vec![0xa0, 0xa0]),
    ] {
        let mut request = open(0);
        let mut starts = Vec::new();
        for tlv in tlvs {
            starts.push(request.len());
            request.extend(tlv);
        }
        let reply = Side::new(stateful())
            .answers(ALICE, &request)
            .unwrap()
            .bytes;
        assert_eq!(reply.len(), request.len());
        let got: Vec<_> = starts.iter().map(|start| reply[*start]).collect();
        assert_eq!(got, flags, "{name}");
    }
}

#[test]
fn bytes_after_a_malformed_tlv_are_copied() {
    let rest = [&tlv(0x80, 5, &[1; 3])[..], &tlv(0x80, 3, &[7; 4])].concat();
    let reply = Side::new(stateful())
        .answers(ALICE, &with(&rest))
        .unwrap()
        .bytes;
    assert_eq!(reply[44], 0x40);
    assert_eq!(reply[45..], with(&rest)[45..]);
}

#[test]
fn bytes_that_cannot_be_a_tlv_are_copied() {
    for rest in [
        &[0x80][..],
        &[0x80, 1],
        &[0x80, 1, 0],
        &[0x81, 3, 0, 4, 0, 0, 0, 0],
    ] {
        let reply = Side::new(stateful())
            .answers(ALICE, &with(rest))
            .unwrap()
            .bytes;
        assert_eq!(reply[44..], *rest);
    }
    let rest = [&tlv(0x80, 1, b"")[..], &[0x80, 3, 0]].concat();
    let reply = Side::new(stateful())
        .answers(ALICE, &with(&rest))
        .unwrap()
        .bytes;
    assert_eq!(reply[44..], [0, 1, 0, 0, 0x80, 3, 0]);
}

#[test]
fn class_of_service_is_granted_by_policy() {
    let (af11, ef, cs6) = (10, 46, 48);
    let mut settings = stateful();
    settings.stamp.allowed_dscp = {
        let mut set = DscpSet::default();
        set.insert(ef);
        set
    };
    for (fixed, asked, dscp, value) in [
        // Allowed.
        (None, Some(ef), ef, 46 << 10 | 10 << 4 | 3 << 2),
        // As received.
        (None, Some(af11), af11, 10 << 10 | 10 << 4 | 3 << 2),
        // Not permitted.
        (None, Some(cs6), af11, 48 << 10 | 10 << 4 | 3 << 2 | 1),
        (Some(cs6), Some(cs6), af11, 48 << 10 | 10 << 4 | 3 << 2 | 1),
        (None, None, af11, 0),
        (Some(cs6), None, cs6, 0_u16),
    ] {
        settings.stamp.dscp = fixed.map_or(ReplyDscp::Copy, ReplyDscp::Fixed);
        let mut side = Side::new(settings.clone());
        side.reception.traffic_class = Some(af11 << 2 | 3);
        let cos = asked.map(|asked| tlv(0x80, 4, &[asked << 2, 0xff, 0xff, 0xff]));
        let request = with(&cos.unwrap_or_default());
        let answer = side.answers(ALICE, &request).unwrap();
        assert_eq!(answer.dscp, dscp);
        if asked.is_some() {
            let [high, low] = value.to_be_bytes();
            assert_eq!(answer.bytes[44..], [0, 4, 0, 4, high, low, 0, 0]);
        }
    }
}

#[test]
fn timestamp_information_follows_the_clock() {
    let mut side = Side::new(stateful());
    let request = with(&tlv(0x80, 3, &[9; 6]));
    for (is_synchronized, source) in [(false, 5), (true, 1)] {
        let error = ErrorEstimate::new(is_synchronized, Duration::from_millis(1));
        side.core.set_clock_error(error);
        let reply = side.answers(ALICE, &request).unwrap().bytes;
        assert_eq!(reply[44..], [0, 3, 0, 6, source, 2, source, 2, 9, 9]);
        assert_eq!(reply[12..14], error.to_bits().to_be_bytes());
    }
}

#[test]
fn direct_measurement_needs_a_session() {
    let request = with(&tlv(0x80, 5, &[7; 12]));
    let mut side = Side::new(stateful());
    for replies in 0..3 {
        side.answers(BOB, &open(replies)).unwrap();
        let mut request = request.clone();
        request[3] = u8::try_from(replies).unwrap();
        let reply = side.answers(ALICE, &request).unwrap().bytes;
        let count = u8::try_from(replies).unwrap();
        let value = [7, 7, 7, 7, 0, 0, 0, count + 1, 0, 0, 0, count];
        assert_eq!(reply[44..], [&[0, 5, 0, 12], &value[..]].concat());
    }
    let reply = Side::new(stateless())
        .answers(ALICE, &request)
        .unwrap()
        .bytes;
    assert_eq!(reply, [&reply[..44], &request[44..]].concat());
}

#[test]
fn signed_tlvs_are_verified_and_signed_again() {
    let number = 5_u32.to_be_bytes();
    let base = |tlvs: &[u8]| {
        let mut base = vec![0; 96];
        base[..4].copy_from_slice(&number);
        let hmac = key().sign(&[&base]);
        [&base[..], &hmac, tlvs].concat()
    };
    let signed = |tlvs: &[u8]| {
        let hmac = key().sign(&[&number, tlvs]);
        [tlvs, &tlv(0x80, 8, &hmac)].concat()
    };
    let [padding, cos, unknown] = [
        tlv(0x80, 1, b"pad"),
        tlv(0x80, 4, &[0; 4]),
        tlv(0x80, 9, b"?"),
    ];
    let both = [&cos[..], &unknown].concat();
    let mut side = Side::new(authenticated(stateful()));
    // Another sequence number than that of the request.
    side.answers(ALICE, &base(b"")).unwrap();
    for (tlvs, flags, is_verified) in [
        (signed(&both), vec![(0, 0), (8, 0x80), (13, 0)], true),
        (
            [&signed(&both)[..], &padding].concat(),
            vec![(0, 0), (13, 0), (33, 0)],
            true,
        ),
        (padding.clone(), vec![(0, 0)], false),
        (both.clone(), vec![(0, 0xa0), (8, 0xa0)], false),
        (
            [&signed(&both)[..], &cos].concat(),
            vec![(0, 0xa0), (13, 0xa0), (33, 0xa0)],
            false,
        ),
        (
            [&signed(&cos)[..], &signed(&cos)].concat(),
            vec![(0, 0xa0), (8, 0xa0)],
            false,
        ),
        (
            signed(&tlv(0x80, 4, &[0; 5])),
            vec![(0, 0xe0), (9, 0x80)],
            false,
        ),
    ] {
        let request = base(&tlvs);
        let reply = side.answers(ALICE, &request).unwrap().bytes;
        let (own, hmac) = (&reply[112..], key().sign(&[&reply[..96]]));
        assert_eq!(reply[96..112], hmac);
        for (at, flags) in flags {
            assert_eq!(own[at], flags, "{at} of {tlvs:x?}");
        }
        if is_verified {
            assert_eq!(own[17..33], key().sign(&[&reply[..4], &own[..13]]));
        }
    }
    // Byte 0 says that there are TLVs, and the HMAC does not cover its own flags in byte 13.
    for at in (1..33).filter(|at| *at != 13) {
        let mut request = base(&signed(&both));
        request[112 + at] ^= 0x10;
        let answer = side.answers(ALICE, &request).unwrap().bytes;
        assert_eq!(answer[112] & 0x20, 0x20, "byte {at}");
    }
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
