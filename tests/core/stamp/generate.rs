//! Requests: arbitrary bytes, and packets that are close to valid ones.

use super::*;

/// A base packet and the bytes after it.
pub(super) fn request(is_authenticated: bool) -> impl Strategy<Value = Vec<u8>> {
    let close = (base(is_authenticated), rest(), prop::bool::weighted(0.9)).prop_map(
        move |(mut base, rest, is_signed)| {
            if is_authenticated && is_signed {
                let hmac = key().sign(&[&base[..96]]);
                base[96..].copy_from_slice(&hmac);
            }
            let number = base[..4].to_vec();
            [base, rest.sign(&number)].concat()
        },
    );
    let cut = (close.clone(), any::<prop::sample::Index>()).prop_map(|(mut request, end)| {
        request.truncate(end.index(request.len() + 1));
        request
    });
    prop_oneof![
        1 => vec(any::<u8>(), 0..260),
        6 => close,
        2 => cut,
    ]
}

fn base(is_authenticated: bool) -> impl Strategy<Value = Vec<u8>> + Clone {
    let [size, t1, t2] = if is_authenticated {
        [112, 16, 32]
    } else {
        [44, 4, 16]
    };
    let number = prop_oneof![0..4_u32, Just(u32::MAX), Just(0xffff_0000), any::<u32>()];
    let time = prop_oneof![Just(0), Just(1800 << 32), Just(T3), any::<u64>()];
    // None is the zero of a proper request.
    let near = prop::option::weighted(0.2, -3602_i64..3603);
    let noise = prop_oneof![
        4 => Just(0_u8),
        1 => any::<u8>(),
    ];
    (number, time, near, any::<u16>(), 0..3_u16, noise).prop_map(
        move |(number, time, near, error, ssid, noise)| {
            let mut base = vec![0; size];
            base[t2..size].fill(noise);
            base[..4].copy_from_slice(&number.to_be_bytes());
            base[t1..t1 + 8].copy_from_slice(&time.to_be_bytes());
            base[t1 + 8..t1 + 10].copy_from_slice(&error.to_be_bytes());
            base[t1 + 10..t1 + 12].copy_from_slice(&ssid.to_be_bytes());
            if let Some(near) = near {
                let received = time.wrapping_add_signed(near << 32);
                base[t2..t2 + 8].copy_from_slice(&received.to_be_bytes());
            }
            base
        },
    )
}

/// The bytes after a base packet.
#[derive(Debug, Clone)]
struct Rest {
    bytes: Vec<u8>,
    /// Appends a valid HMAC TLV and these bytes.
    signed: Option<Vec<u8>>,
}

impl Rest {
    fn sign(self, number: &[u8]) -> Vec<u8> {
        let Some(end) = self.signed else {
            return self.bytes;
        };
        let hmac = key().sign(&[number, &self.bytes]);
        [&self.bytes[..], &[0x80, 8, 0, 16], &hmac, &end].concat()
    }
}

fn rest() -> impl Strategy<Value = Rest> + Clone {
    let any_bytes = vec(any::<u8>(), 0..40);
    let tlvs = vec(tlv(), 0..5).prop_map(|tlvs| tlvs.concat());
    let end = prop_oneof![
        3 => Just(Vec::new()),
        2 => (0..3_u8).prop_map(|length| [&[0x80, 1, 0, length][..], &vec![7; length.into()]].concat()),
        1 => tlv(),
    ];
    let bytes = prop_oneof![1 => any_bytes, 6 => tlvs];
    (bytes, prop::option::of(end)).prop_map(|(bytes, signed)| Rest { bytes, signed })
}

/// A TLV whose length mostly fits its type.
fn tlv() -> impl Strategy<Value = Vec<u8>> + Clone {
    let flags = prop_oneof![6 => Just(0x80), 1 => any::<u8>()];
    let known = select(vec![
        (1, 0),
        (1, 9),
        (2, 6),
        (3, 4),
        (3, 8),
        (4, 4),
        (5, 12),
        (8, 16),
        (10, 3),
    ]);
    let kind = prop_oneof![6 => known, 1 => (any::<u8>(), 0..20_u16)];
    let wrong = prop_oneof![9 => Just(0), 1 => select(vec![1, 2, 0xffff, 300])];
    (flags, kind, wrong, any::<[u8; 20]>()).prop_map(|(flags, (kind, length), wrong, value)| {
        let [high, low] = u16::wrapping_add(length, wrong).to_be_bytes();
        [&[flags, kind, high, low], &value[..length.into()]].concat()
    })
}
