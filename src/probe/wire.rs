//! What goes over the wire: requests, records, and what comes back of either.
//!
//! A request is as long as `--size` says, in network byte order:
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | the run: a random number, by which a client knows its own |
//! | 4..12 | the sequence number, from 1 |
//! | 12..16 | a check of the two |
//! | 16.. | a pattern made from the two, so that any change is seen |
//!
//! A record, by the names in [`Record`]: `id` is the run, `tag` is `ue`, `stamp` the sequence
//! number of the request it follows, `pair` how many records were sent for that request before and
//! the flow, `value` the round-trip time in seconds, or no number where no reply came.

use std::time::Duration;

use crate::record::Record;

/// The least that a request has, in bytes: room for its header.
pub const HEADER_BYTES: usize = 16;

/// What marks a record of a client. Where a request has its sequence number's first bytes, which
/// no run comes to.
const TAG: [u8; 2] = *b"ue";

/// One run of a client: what its datagrams are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    id: u32,
    size: usize,
}

/// What a datagram that came is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A reply to the request of this sequence number.
    Reply {
        /// The sequence number, which may be one that was never sent.
        sequence: u64,
        /// What happened to it.
        change: Change,
    },
    /// One of the client's own records, echoed.
    Record {
        /// The sequence number of the request that it was for.
        sequence: u64,
        /// How many were sent for that request before it.
        earlier: u8,
    },
    /// Too damaged to tell what, and of this run by its first bytes or its length.
    Damaged,
    /// Not of this run: a late reply to another one, or of what echoes nothing.
    Foreign,
}

/// How a reply differs from its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    None,
    /// It is only the beginning.
    Cut {
        /// How long it is, in bytes.
        length: usize,
    },
    /// It has other bytes, or more.
    Other,
}

impl Run {
    /// A run with requests of `size` bytes, at least [`HEADER_BYTES`]. `id` is to be random.
    pub fn new(id: u32, size: usize) -> Self {
        let size = size.max(HEADER_BYTES);
        Self { id, size }
    }

    /// The length of a request in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes a request over `out`, which is as long as one.
    pub fn write(&self, sequence: u64, out: &mut [u8]) {
        let (header, pattern) = out.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&self.header(sequence));
        let mut random = self.random(sequence);
        for piece in pattern.chunks_mut(8) {
            piece.copy_from_slice(&next(&mut random).to_be_bytes()[..piece.len()]);
        }
    }

    /// What a datagram of `length` bytes is, of which `bytes` was kept: all, or more than a
    /// request has.
    pub fn read(&self, bytes: &[u8], length: usize) -> Seen {
        let id = self.id.to_be_bytes();
        let start = &bytes[..bytes.len().min(id.len())];
        if start.is_empty() || *start != id[..start.len()] {
            // As long as a reply and of no run at all: it was one of this run.
            let damaged = length == self.size && !is_of_some_run(bytes);
            return if damaged {
                Seen::Damaged
            } else {
                Seen::Foreign
            };
        }
        if let Some(seen) = self.read_record(bytes, length) {
            return seen;
        }
        let Some(sequence) = bytes.get(4..12).and_then(|bytes| bytes.try_into().ok()) else {
            return Seen::Damaged;
        };
        let sequence = u64::from_be_bytes(sequence);
        let header = self.header(sequence);
        let kept = bytes.len().min(HEADER_BYTES);
        if bytes[..kept] != header[..kept] {
            return Seen::Damaged;
        }
        let change = if length > self.size || !self.has_pattern(sequence, &bytes[kept..]) {
            Change::Other
        } else if length < self.size {
            Change::Cut { length }
        } else {
            Change::None
        };
        Seen::Reply { sequence, change }
    }

    /// The record that follows a request, after so many `earlier` ones.
    pub fn record(&self, sequence: u64, earlier: u8, flow: usize, rtt: Option<Duration>) -> Record {
        Record {
            id: self.id,
            tag: TAG,
            stamp: sequence,
            pair: [earlier.into(), i16::try_from(flow).unwrap_or(i16::MAX)],
            value: rtt.map_or(f32::NAN, |rtt| rtt.as_secs_f32()),
        }
    }

    fn read_record(&self, bytes: &[u8], length: usize) -> Option<Seen> {
        let record = Record::decode(bytes).ok()?;
        if length != Record::BYTES || record.id != self.id || record.tag != TAG {
            return None;
        }
        Some(Seen::Record {
            sequence: record.stamp,
            earlier: u8::try_from(record.pair[0]).ok()?,
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

/// Whether it is a whole request or record, of whatever run.
fn is_of_some_run(bytes: &[u8]) -> bool {
    let Some((id, rest)) = bytes.split_first_chunk() else {
        return false;
    };
    let run = Run::new(u32::from_be_bytes(*id), bytes.len());
    let sequence = rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    run.read_record(bytes, bytes.len()).is_some()
        || sequence.is_some_and(|sequence| bytes.starts_with(&run.header(sequence)))
}

/// `SplitMix64`.
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

    fn read(run: Run, bytes: &[u8]) -> Seen {
        run.read(bytes, bytes.len())
    }

    proptest! {
        #[test]
        fn a_reply_tells_its_request_and_whether_it_is_whole(
            id: u32, size in 16_usize..300, sequence in 1_u64..1 << 40, cut in 0_usize..300
        ) {
            let run = Run::new(id, size);
            let mut bytes = request(run, sequence);
            let reply = |change| Seen::Reply { sequence, change };
            prop_assert_eq!(read(run, &bytes), reply(Change::None));
            bytes.push(0);
            prop_assert_eq!(read(run, &bytes), reply(Change::Other));
            let cut = cut % size;
            let expected = match cut {
                0 => Seen::Foreign,
                1..12 => Seen::Damaged,
                _ => reply(Change::Cut { length: cut }),
            };
            prop_assert_eq!(read(run, &bytes[..cut]), expected);
        }

        #[test]
        fn no_changed_bit_goes_unseen(
            id: u32, size in 16_usize..300, sequence in 1_u64..1 << 40, bit in 0_usize..2400
        ) {
            let run = Run::new(id, size);
            let mut bytes = request(run, sequence);
            let bit = bit % (size * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit / 8 {
                0..16 => Seen::Damaged,
                _ => Seen::Reply { sequence, change: Change::Other },
            };
            prop_assert_eq!(read(run, &bytes), expected);
        }

        #[test]
        fn a_record_that_comes_back_is_never_taken_for_a_reply(
            id: u32, size in 16_usize..64, sequence in 1_u64..1 << 40, earlier in 0_u8..9
        ) {
            let run = Run::new(id, size);
            let record = run.record(sequence, earlier, 3, Some(Duration::from_millis(5)));
            prop_assert_eq!(read(run, &record.encode()), Seen::Record { sequence, earlier });
            prop_assert_eq!(read(Run::new(!id, size), &record.encode()), Seen::Foreign);
        }

        #[test]
        fn what_is_as_long_as_a_request_is_one_that_was_damaged_or_another_runs(
            id: u32, other: u32, sequence in 1_u64..1 << 40, mut bytes: [u8; 64], length in 0_usize..64
        ) {
            let [run, other] = [id, other].map(|id| Run::new(id, 64));
            bytes[0] = !id.to_be_bytes()[0];
            prop_assert_eq!(read(run, &bytes), Seen::Damaged);
            prop_assert_eq!(read(run, &bytes[..length]), Seen::Foreign);
            prop_assume!(run != other);
            prop_assert_eq!(read(run, &request(other, sequence)), Seen::Foreign);
        }

        #[test]
        fn reading_is_total(id: u32, mut bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let run = Run::new(id, 32);
            let _ = read(run, &bytes);
            let ours = bytes.len().min(4);
            bytes[..ours].copy_from_slice(&id.to_be_bytes()[..ours]);
            let _ = read(run, &bytes);
        }
    }
}
