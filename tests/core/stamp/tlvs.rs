//! TLVs: their flags, answers and HMAC.

use super::*;

/// An open request with bytes after the base packet.
fn with(rest: &[u8]) -> Vec<u8> {
    [&open(0), rest].concat()
}

fn tlv(flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[flags, kind, high, low], value].concat()
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
