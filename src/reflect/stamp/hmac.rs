//! The HMAC of packets and of TLVs: the first 16 bytes of HMAC-SHA-256 (RFC 8762, section 4.4).

use std::fmt;

use ::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The size of an HMAC in a packet, in bytes.
pub const HMAC_BYTES: usize = 16;

/// A secret key.
#[derive(Clone)]
pub struct HmacKey(Hmac<Sha256>);

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey")
    }
}

/// Keys are equal if they sign equally.
impl PartialEq for HmacKey {
    fn eq(&self, other: &Self) -> bool {
        other.verifies(&[], &self.sign(&[]))
    }
}

impl HmacKey {
    /// A key of any number of bytes.
    pub fn new(key: &[u8]) -> Option<Self> {
        Hmac::new_from_slice(key).ok().map(Self)
    }

    /// The HMAC of all parts, one after the other.
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; HMAC_BYTES] {
        let mut short = [0; HMAC_BYTES];
        short.copy_from_slice(&self.digest(parts).finalize().into_bytes()[..HMAC_BYTES]);
        short
    }

    /// Whether `hmac` is that of all parts. Takes the same time whichever bytes differ.
    pub fn verifies(&self, parts: &[&[u8]], hmac: &[u8; HMAC_BYTES]) -> bool {
        self.digest(parts).verify_truncated_left(hmac).is_ok()
    }

    fn digest(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut digest = self.0.clone();
        for part in parts {
            digest.update(part);
        }
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_equals_that_of_rfc_4231() {
        for (key, data, hmac) in [
            (
                &[0x0b; 20][..],
                &b"Hi There"[..],
                0xb034_4c61_d8db_3853_5ca8_afce_af0b_f12b_u128,
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                0x5bdc_c146_bf60_754e_6a04_2426_0895_75c7,
            ),
        ] {
            let key = HmacKey::new(key).unwrap();
            let (first, rest) = data.split_at(3);
            assert_eq!(key.sign(&[first, rest]), hmac.to_be_bytes());
            assert!(key.verifies(&[data], &hmac.to_be_bytes()));
        }
    }

    #[test]
    fn hmac_with_any_wrong_bit_is_refused() {
        let key = HmacKey::new(&[7; 32]).unwrap();
        let hmac = u128::from_be_bytes(key.sign(&[b"data"]));
        for bit in 0..128 {
            assert!(!key.verifies(&[b"data"], &(hmac ^ 1 << bit).to_be_bytes()));
        }
        assert_eq!(format!("{key:?}"), "HmacKey");
    }
}
