//! `--mode stamp`: packets of other implementations, odd requests, sessions, and a naive model.

use udp_echo::reflect::stamp::{
    DscpSet, ErrorEstimate, HmacKey, NtpTimestamp, ReplyDscp, StampKeys, StampReply, StampSequence,
    StampTotals,
};

use super::*;

mod generate;
mod model;
mod odd;
mod properties;
mod sessions;
mod tlvs;
mod vectors;

/// The key of the captured packets, for every SSID.
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

const ALMOST_A_SECOND: Duration = Duration::from_nanos(999_999_999);

/// 1795671000.348235305, as a captured packet has it.
const T2: u64 = 0xeeb2_4258_5925_f2f2;
const T3: u64 = 0xeeb2_4258_5928_0369;

/// A reflector with a fixed clock.
struct Side {
    core: Reflector,
    now: Instant,
    reception: Reception,
    sent_at: u64,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    bytes: Vec<u8>,
    dscp: u8,
}

impl Side {
    fn new(settings: ReflectorSettings) -> Self {
        let now = Instant::now();
        Self {
            core: Reflector::new(settings, now).unwrap(),
            now,
            reception: Reception {
                at: NtpTimestamp::from_bits(T2),
                ttl: Some(64),
                traffic_class: Some(0),
            },
            sent_at: T3,
        }
    }

    fn answers(&mut self, peer: &str, request: &[u8]) -> Result<Answer, Refusal> {
        self.answers_from(address(peer), HERE, request)
    }

    fn answers_from(
        &mut self,
        peer: SocketAddr,
        destination: Destination,
        request: &[u8],
    ) -> Result<Answer, Refusal> {
        // The slot has bytes of an earlier datagram behind the request.
        let mut memory = [request, &[0xa5; 200]].concat();
        let mut datagram = Datagram {
            peer,
            destination,
            at: self.now,
            reception: self.reception,
            length: request.len(),
            segment: request.len(),
            memory: &mut memory,
        };
        let verdict = self.core.handle(&mut datagram, self.now);
        assert_eq!((verdict.datagrams, verdict.end), (1, None));
        match verdict.action {
            Action::StampReply(reply) => {
                let StampReply { length, dscp, .. } = reply;
                let sent_at = NtpTimestamp::from_bits(self.sent_at);
                self.core.complete(&reply, &mut memory, sent_at);
                let rest = &memory[length.max(request.len())..];
                assert!(rest.iter().all(|byte| *byte == 0xa5));
                memory.truncate(length);
                let bytes = memory;
                Ok(Answer { bytes, dscp })
            }
            Action::Refuse(refusal) => {
                memory.truncate(request.len());
                assert_eq!(memory, request, "a refusal changed the bytes");
                Err(refusal)
            }
            action => panic!("{action:?}"),
        }
    }

    /// The sequence number of the reply.
    fn number(&mut self, peer: &str, request: &[u8]) -> u32 {
        let answer = self.answers(peer, request).unwrap();
        u32::from_be_bytes(answer.bytes[..4].try_into().unwrap())
    }

    fn totals(&self) -> StampTotals {
        self.core.stamp_totals().unwrap()
    }
}

fn stateless() -> ReflectorSettings {
    let mut settings = defaults(Mode::Stamp);
    settings.stamp.sequence = StampSequence::Stateless;
    settings.max_datagram = 65507;
    settings
}

fn stateful() -> ReflectorSettings {
    let mut settings = stateless();
    settings.stamp.sequence = StampSequence::Stateful;
    settings
}

fn authenticated(mut settings: ReflectorSettings) -> ReflectorSettings {
    let keys = StampKeys::parse(format!("* {KEY}").as_bytes()).unwrap();
    settings.stamp.keys = Some(Arc::new(keys));
    settings
}

fn key() -> HmacKey {
    HmacKey::new(&hex(KEY)).unwrap()
}

/// An open request of 44 bytes.
fn open(sequence: u32) -> Vec<u8> {
    let mut request = vec![0; 44];
    request[..4].copy_from_slice(&sequence.to_be_bytes());
    request[4..12].copy_from_slice(&0xeeb2_4258_5827_0bbf_u64.to_be_bytes());
    request[12..14].copy_from_slice(&[0x3f, 0xff]);
    request
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| u8::try_from(digit).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}
