//! The wire format of requests and records.
//!
//! A request has `--size` bytes, in network byte order:
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | run ID: a random number that identifies the client's own datagrams |
//! | 4..12 | sequence number, from 1 |
//! | 12..16 | checksum of run ID and sequence number |
//! | 16.. | pattern derived from run ID and sequence number, which reveals any change |
//!
//! The fields of a [`Record`]: `id` is the run ID, `tag` is `ue`, `stamp` is the sequence number of
//! the request that the record follows. `pair` is the attempt (0 for the first record after that
//! request) and the flow. `value` is the round-trip time in seconds, or NaN if no reply came.

use std::time::Duration;

use crate::record::Record;

/// Length of a request's header, which is the minimum length of a request, in bytes.
pub const HEADER_BYTES: usize = 16;

/// Marks a record of a client. In a request these are the first bytes of the sequence number, which
/// never gets this large.
const TAG: [u8; 2] = *b"ue";

/// The identity of one run of a client, which writes and parses its datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    id: u32,
    size: usize,
}

/// A received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A reply to a request.
    Reply {
        /// Sequence number of the request, which may never have been sent.
        sequence: u64,
        /// How the reply differs from the request.
        change: Change,
    },
    /// One of the client's own records, echoed.
    Record {
        /// Sequence number of the request that the record followed.
        sequence: u64,
        /// Number of records sent for that request before this one.
        attempt: u8,
    },
    /// Belongs to this run by its run ID or its length, but its sequence number is unreadable.
    Damaged,
    /// Belongs to another run, or is no echo at all.
    Foreign,
}

/// How a reply differs from its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The reply equals the request.
    None,
    /// The reply is the beginning of the request.
    Truncated {
        /// Length of the reply in bytes.
        length: usize,
    },
    /// The reply has different bytes, or is longer.
    Altered,
}

impl Run {
    /// Creates a run with the random number `id` and requests of `size` bytes. A `size` below
    /// [`HEADER_BYTES`] is raised to it.
    pub fn new(id: u32, size: usize) -> Self {
        let size = size.max(HEADER_BYTES);
        Self { id, size }
    }

    /// Returns the length of a request in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes the request with this sequence number to `out`, which has [`Self::size`] bytes.
    pub fn write(&self, sequence: u64, out: &mut [u8]) {
        let (header, pattern) = out.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&self.header(sequence));
        let mut random = self.random(sequence);
        for piece in pattern.chunks_mut(8) {
            piece.copy_from_slice(&next(&mut random).to_be_bytes()[..piece.len()]);
        }
    }

    /// Parses a datagram of `length` bytes. `bytes` holds all of it, or at least one byte more than
    /// a request has.
    pub fn parse(&self, bytes: &[u8], length: usize) -> Message {
        let id = self.id.to_be_bytes();
        let start = &bytes[..bytes.len().min(id.len())];
        if start.is_empty() || *start != id[..start.len()] {
            // As long as a reply, but from no run: a reply of this run with a damaged run ID.
            let damaged = length == self.size && !is_of_some_run(bytes);
            return if damaged {
                Message::Damaged
            } else {
                Message::Foreign
            };
        }
        if let Some(message) = self.parse_record(bytes, length) {
            return message;
        }
        let Some(sequence) = bytes.get(4..12).and_then(|bytes| bytes.try_into().ok()) else {
            return Message::Damaged;
        };
        let sequence = u64::from_be_bytes(sequence);
        let header = self.header(sequence);
        let kept = bytes.len().min(HEADER_BYTES);
        if bytes[..kept] != header[..kept] {
            return Message::Damaged;
        }
        let change = if length > self.size || !self.has_pattern(sequence, &bytes[kept..]) {
            Change::Altered
        } else if length < self.size {
            Change::Truncated { length }
        } else {
            Change::None
        };
        Message::Reply { sequence, change }
    }

    /// Returns the record that follows a request, after `attempt` other records for that request.
    pub fn record(&self, sequence: u64, attempt: u8, flow: usize, rtt: Option<Duration>) -> Record {
        Record {
            id: self.id,
            tag: TAG,
            stamp: sequence,
            pair: [attempt.into(), i16::try_from(flow).unwrap_or(i16::MAX)],
            value: rtt.map_or(f32::NAN, |rtt| rtt.as_secs_f32()),
        }
    }

    fn parse_record(&self, bytes: &[u8], length: usize) -> Option<Message> {
        let record = Record::decode(bytes).ok()?;
        if length != Record::BYTES || record.id != self.id || record.tag != TAG {
            return None;
        }
        Some(Message::Record {
            sequence: record.stamp,
            attempt: u8::try_from(record.pair[0]).ok()?,
        })
    }

    fn header(&self, sequence: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&self.id.to_be_bytes());
        header[4..12].copy_from_slice(&sequence.to_be_bytes());
        let check = next(&mut self.random(!sequence));
        header[12..].copy_from_slice(&check.to_be_bytes()[..4]);
        header
    }

    fn has_pattern(&self, sequence: u64, bytes: &[u8]) -> bool {
        let mut random = self.random(sequence);
        bytes
            .chunks(8)
            .all(|piece| *piece == next(&mut random).to_be_bytes()[..piece.len()])
    }

    fn random(&self, sequence: u64) -> u64 {
        u64::from(self.id).rotate_left(32) ^ sequence.wrapping_mul(0xd6e8_feb8_6659_fd93)
    }
}

/// Whether these bytes start with the header of a request, or are a record, of any run.
fn is_of_some_run(bytes: &[u8]) -> bool {
    let Some((id, rest)) = bytes.split_first_chunk() else {
        return false;
    };
    let run = Run::new(u32::from_be_bytes(*id), bytes.len());
    let sequence = rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    run.parse_record(bytes, bytes.len()).is_some()
        || sequence.is_some_and(|sequence| bytes.starts_with(&run.header(sequence)))
}

/// The next number of the `SplitMix64` generator.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(run: Run, sequence: u64) -> Vec<u8> {
        let mut bytes = vec![0; run.size()];
        run.write(sequence, &mut bytes);
        bytes
    }

    fn parse(run: Run, bytes: &[u8]) -> Message {
        run.parse(bytes, bytes.len())
    }

    #[test]
    fn splitmix64_matches_its_published_numbers() {
        let mut state = 0;
        let numbers = [(); 3].map(|()| next(&mut state));
        let expected = [
            0xe220_a839_7b1d_cdaf,
            0x6e78_9e6a_a1b9_65f4,
            0x06c4_5d18_8009_454f,
        ];
        assert_eq!(numbers, expected);
    }

    /// The bytes were computed from the format by another program.
    #[test]
    fn request_has_the_documented_bytes() {
        let expected = b"\x01\x02\x03\x04\0\0\0\0\0\0\0\x05\x89\x75\xae\xc7\x3d\x86\x7a\xf2\x76\x02\x52\x27\xa0\xd4\x48";
        assert_eq!(request(Run::new(0x0102_0304, expected.len()), 5), expected);
    }

    #[test]
    fn record_has_the_documented_fields() {
        let run = Run::new(7, 16);
        let rtt = Some(Duration::from_millis(1500));
        let expected = Record {
            id: 7,
            tag: TAG,
            stamp: 5,
            pair: [2, 3],
            value: 1.5,
        };
        assert_eq!(run.record(5, 2, 3, rtt), expected);
        let record = run.record(5, 2, usize::MAX, None);
        assert!(record.value.is_nan() && record.pair == [2, i16::MAX]);
    }

    #[test]
    fn echoed_record_must_have_the_length_of_one() {
        let run = Run::new(7, 64);
        let mut bytes = [0; 65];
        bytes[..Record::BYTES].copy_from_slice(&run.record(5, 0, 0, None).encode());
        for length in [Record::BYTES + 1, 64, 65] {
            assert_eq!(parse(run, &bytes[..length]), Message::Damaged, "{length}");
        }
        // No client makes this many attempts.
        bytes[14] = 1;
        assert_eq!(parse(run, &bytes[..Record::BYTES]), Message::Damaged);
    }

    proptest! {
        #[test]
        fn replies_parse_to_their_request_and_change(
            id: u32, size in 16_usize..300, sequence in 1_u64..1 << 40, cut in 0_usize..300
        ) {
            let run = Run::new(id, size);
            let mut bytes = request(run, sequence);
            let reply = |change| Message::Reply { sequence, change };
            prop_assert_eq!(parse(run, &bytes), reply(Change::None));
            bytes.push(0);
            prop_assert_eq!(parse(run, &bytes), reply(Change::Altered));
            let cut = cut % size;
            let expected = match cut {
                0 => Message::Foreign,
                1..12 => Message::Damaged,
                _ => reply(Change::Truncated { length: cut }),
            };
            prop_assert_eq!(parse(run, &bytes[..cut]), expected);
        }

        #[test]
        fn parse_detects_every_changed_bit(
            id: u32, size in 16_usize..300, sequence in 1_u64..1 << 40, bit in 0_usize..2400
        ) {
            let run = Run::new(id, size);
            let mut bytes = request(run, sequence);
            let bit = bit % (size * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit / 8 {
                0..16 => Message::Damaged,
                _ => Message::Reply { sequence, change: Change::Altered },
            };
            prop_assert_eq!(parse(run, &bytes), expected);
        }

        #[test]
        fn records_never_parse_as_replies_when_echoed(
            id: u32, size in 16_usize..64, sequence in 1_u64..1 << 40, attempt in 0_u8..9
        ) {
            let run = Run::new(id, size);
            let record = run.record(sequence, attempt, 3, Some(Duration::from_millis(5)));
            prop_assert_eq!(parse(run, &record.encode()), Message::Record { sequence, attempt });
            prop_assert_eq!(parse(Run::new(!id, size), &record.encode()), Message::Foreign);
        }

        #[test]
        fn parse_finds_damage_in_datagrams_as_long_as_a_request(
            id: u32, other: u32, sequence in 1_u64..1 << 40, mut bytes: [u8; 64], length in 0_usize..64
        ) {
            let [run, other] = [id, other].map(|id| Run::new(id, 64));
            bytes[0] = !id.to_be_bytes()[0];
            prop_assert_eq!(parse(run, &bytes), Message::Damaged);
            prop_assert_eq!(parse(run, &bytes[..length]), Message::Foreign);
            prop_assume!(run != other);
            prop_assert_eq!(parse(run, &request(other, sequence)), Message::Foreign);
        }

        #[test]
        fn datagram_parser_accepts_any_bytes(id: u32, mut bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let run = Run::new(id, 32);
            let _ = parse(run, &bytes);
            let ours = bytes.len().min(4);
            bytes[..ours].copy_from_slice(&id.to_be_bytes()[..ours]);
            let _ = parse(run, &bytes);
        }
    }
}
