//! Replies of a reflector in open mode, from which each test makes faulty ones.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

/// The fields of a reply (RFC 8762, section 4.3.1).
pub const NUMBER: Range<usize> = 0..4;
pub const T3: Range<usize> = 4..12;
pub const ERROR: Range<usize> = 12..14;
pub const SSID: Range<usize> = 14..16;
pub const T2: Range<usize> = 16..24;
pub const T1: Range<usize> = 28..36;
pub const TTL: usize = 40;
pub const BASE: usize = 44;

/// An error estimate of a synchronized clock: 2^-20 s.
const SYNCHRONIZED: u16 = 1 << 15 | 12 << 8 | 1;

/// Seconds from 1900 to 1970.
const UNIX: u64 = 2_208_988_800;

/// The time of day in NTP format.
pub fn now() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let fraction = (u64::from(time.subsec_nanos()) << 32) / 1_000_000_000;
    (time.as_secs() + UNIX) << 32 | fraction
}

/// The time of day as a truncated PTP timestamp (RFC 8186).
pub fn ptp(ntp: u64) -> u64 {
    let nanoseconds = ((ntp & 0xffff_ffff) * 1_000_000_000) >> 32;
    ((ntp >> 32) - UNIX) << 32 | nanoseconds
}

/// The sequence number of a request.
pub fn number(request: &[u8]) -> u32 {
    u32::from_be_bytes(request[NUMBER].try_into().unwrap())
}

/// The timestamp in a field.
pub fn timestamp(packet: &[u8], field: Range<usize>) -> u64 {
    u64::from_be_bytes(packet[field].try_into().unwrap())
}

pub fn set_timestamp(packet: &mut [u8], field: Range<usize>, time: u64) {
    packet[field].copy_from_slice(&time.to_be_bytes());
}

/// A right reply with a sequence number. TLVs are returned as understood.
pub fn reply(request: &[u8], number: u32) -> Vec<u8> {
    let t2 = now();
    let mut reply = request.to_vec();
    reply.resize(request.len().max(BASE), 0);
    reply[NUMBER].copy_from_slice(&number.to_be_bytes());
    reply[ERROR].copy_from_slice(&SYNCHRONIZED.to_be_bytes());
    // SSID: returned. A TWAMP-Light request has none.
    if request.len() < BASE {
        reply[SSID].fill(0);
    }
    reply[24..28].copy_from_slice(&request[NUMBER]);
    reply[T1].copy_from_slice(&request[4..12]);
    reply[36..38].copy_from_slice(&request[12..14]);
    reply[38..40].fill(0);
    reply[TTL] = 63;
    reply[41..BASE].fill(0);
    if reply.get(BASE) == Some(&0x80) {
        reply[BASE] = 0;
    }
    set_timestamp(&mut reply, T2, t2);
    let mut t3 = now();
    while t3 <= t2 {
        t3 = now();
    }
    set_timestamp(&mut reply, T3, t3);
    reply
}

/// A stateful reflector: numbers its replies from 0, from the request 0 on.
#[derive(Default)]
pub struct Stateful(u32);

impl Stateful {
    pub fn reply(&mut self, request: &[u8]) -> Vec<u8> {
        if number(request) == 0 {
            self.0 = 0;
        }
        self.0 += 1;
        reply(request, self.0 - 1)
    }
}
