//! A naive model of the reflector, independent of the core.

use std::collections::{BTreeSet, HashSet};

use super::*;

/// The settings that the model knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) is_authenticated: bool,
    pub(super) is_stateful: bool,
    pub(super) min_request: usize,
    pub(super) most_sessions: usize,
    pub(super) session_timeout: Duration,
    pub(super) fixed_dscp: Option<u8>,
    pub(super) allowed_dscp: Option<u8>,
    pub(super) error: u16,
    pub(super) traffic_class: u8,
    pub(super) ttl: Option<u8>,
}

/// The sessions and counts.
pub(super) struct Model {
    pub(super) rules: Rules,
    sessions: HashMap<(SocketAddr, u16), Session>,
    pub(super) unkept: u64,
    pub(super) reset: u64,
    pub(super) lost: u64,
    pub(super) reordered: u64,
    pub(super) duplicates: u64,
}

struct Session {
    last: Instant,
    replies: u32,
    /// Numbers count on beyond 2^32.
    newest: i64,
    received: HashSet<i64>,
    missing: BTreeSet<i64>,
    gap_at: Instant,
}

impl Model {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            sessions: HashMap::new(),
            unkept: 0,
            reset: 0,
            lost: 0,
            reordered: 0,
            duplicates: 0,
        }
    }

    pub(super) fn sessions(&self) -> u64 {
        self.sessions.len() as u64
    }

    pub(super) fn answers(
        &mut self,
        peer: SocketAddr,
        request: &[u8],
        now: Instant,
    ) -> Result<Answer, Refusal> {
        let rules = self.rules;
        let (base, shift) = if rules.is_authenticated {
            (112, 12)
        } else {
            (44, 0)
        };
        let (least, t2) = if rules.is_authenticated {
            (112, 32)
        } else {
            (14, 16)
        };
        if request.len() < least.max(rules.min_request) {
            return Err(Refusal::TooShort);
        }
        if rules.is_authenticated && request[96..112] != key().sign(&[&request[..96]]) {
            return Err(Refusal::Integrity);
        }
        if let Some(t2) = request.get(t2..t2 + 8).filter(|t2| **t2 != [0; 8]) {
            let seconds = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
            let apart = seconds(t2).wrapping_sub(seconds(&request[4 + shift..]));
            if apart <= 3600 || apart >= 3600_u32.wrapping_neg() {
                return Err(Refusal::Reply);
            }
        }
        let mut ssid = [0; 2];
        if request.len() >= base {
            ssid.copy_from_slice(&request[14 + shift..16 + shift]);
        }
        let is_padding = !rules.is_authenticated
            && request[16.min(request.len())..44.min(request.len())]
                .iter()
                .any(|byte| *byte != 0);
        let session_ssid = if is_padding {
            0
        } else {
            u16::from_be_bytes(ssid)
        };
        let number = u32::from_be_bytes(request[..4].try_into().unwrap());
        let replies = self.counts((peer, session_ssid), number, now);
        let own = replies.unwrap_or(number).to_be_bytes();
        let (tlvs, asked) = self.rest(
            &request[base.min(request.len())..],
            &request[..4],
            own,
            replies,
        );
        let zero = [0; 16];
        let mbz = |open: usize, signed: usize| {
            &zero[..if rules.is_authenticated { signed } else { open }]
        };
        let mut bytes = [
            &own[..],
            mbz(0, 12),
            &T3.to_be_bytes(),
            &rules.error.to_be_bytes(),
            &ssid,
            mbz(0, 4),
            &T2.to_be_bytes(),
            mbz(0, 8),
            &request[..4],
            mbz(0, 12),
            &request[4 + shift..14 + shift],
            mbz(2, 6),
            &[rules.ttl.unwrap_or(255)],
            mbz(3, 15),
        ]
        .concat();
        if rules.is_authenticated {
            bytes.extend(key().sign(&[&bytes]));
        }
        bytes.extend(tlvs);
        let dscp = rules.fixed_dscp.unwrap_or(rules.traffic_class / 4);
        let dscp = asked.unwrap_or(dscp);
        Ok(Answer { bytes, dscp })
    }

    /// The bytes after the base packet, and the DSCP that they choose.
    fn rest(
        &self,
        rest: &[u8],
        number: &[u8],
        own: [u8; 4],
        replies: Option<u32>,
    ) -> (Vec<u8>, Option<u8>) {
        let rules = self.rules;
        if rest.len() < 4 || rest[0] != 0x80 {
            return (rest.to_vec(), None);
        }
        // Type, value, whether it is malformed; then the bytes that are no TLV.
        let mut tlvs: Vec<(u8, Vec<u8>, bool)> = Vec::new();
        let mut lengths = Vec::new();
        let mut left = rest;
        while left.len() >= 4 && !tlvs.last().is_some_and(|(_, _, malformed)| *malformed) {
            let length = usize::from(left[2]) * 256 + usize::from(left[3]);
            let is_wrong = match left[1] {
                3 => length < 4,
                4 => length != 4,
                5 => length != 12,
                8 => length != 16,
                _ => false,
            };
            let malformed = is_wrong || length > left.len() - 4;
            let value = if malformed {
                &left[4..]
            } else {
                &left[4..4 + length]
            };
            lengths.push([left[2], left[3]]);
            tlvs.push((left[1], value.to_vec(), malformed));
            left = &left[4 + value.len()..];
        }
        let signed: usize = tlvs
            .iter()
            .take_while(|tlv| tlv.0 != 8)
            .map(|tlv| 4 + tlv.1.len())
            .sum();
        let at = tlvs.iter().position(|tlv| tlv.0 == 8);
        let is_right = match at {
            None => !rules.is_authenticated || tlvs.iter().all(|tlv| tlv.0 == 1),
            Some(at) => {
                let last = tlvs[at + 1..].iter().all(|tlv| tlv.0 == 1);
                let hmac = key().sign(&[number, &rest[..signed]]);
                rules.is_authenticated && last && !tlvs[at].2 && tlvs[at].1 == hmac
            }
        };
        let mut dscp = None;
        let mut bytes = Vec::new();
        for ((kind, mut value, malformed), length) in tlvs.into_iter().zip(lengths) {
            let mut flags = if malformed { 0x40 } else { 0 };
            if !is_right {
                flags |= 0xa0;
            } else if ![1, 3, 4, 5, 8].contains(&kind)
                || (kind == 5 && replies.is_none() && !malformed)
            {
                flags |= 0x80;
            } else if !malformed {
                match kind {
                    3 => {
                        let source = if rules.error >= 0x8000 { 1 } else { 5 };
                        value[..4].copy_from_slice(&[source, 2, source, 2]);
                    }
                    4 => {
                        let (asked, received) = (value[0] / 4, rules.traffic_class / 4);
                        let is_allowed = asked == received || rules.allowed_dscp == Some(asked);
                        let chosen = if is_allowed { asked } else { received };
                        dscp = Some(chosen);
                        let text = format!(
                            "{asked:06b}{received:06b}{:02b}{:02b}",
                            rules.traffic_class % 4,
                            u8::from(!is_allowed)
                        );
                        let bits = u16::from_str_radix(&text, 2).unwrap();
                        value = [bits.to_be_bytes(), [0; 2]].concat();
                    }
                    5 => {
                        let replies = replies.unwrap();
                        value[4..8].copy_from_slice(&(replies + 1).to_be_bytes());
                        value[8..].copy_from_slice(&replies.to_be_bytes());
                    }
                    8 => value = key().sign(&[&own, &bytes]).to_vec(),
                    _ => {}
                }
            }
            bytes.extend([flags, kind]);
            bytes.extend(length);
            bytes.extend(value);
        }
        bytes.extend(left);
        (bytes, dscp)
    }

    /// Counts a request. Returns the earlier replies of its session.
    fn counts(&mut self, key: (SocketAddr, u16), number: u32, now: Instant) -> Option<u32> {
        if !self.rules.is_stateful {
            return None;
        }
        self.expires(now);
        let is_full = self.sessions.len() == self.rules.most_sessions;
        let mut session = match self.sessions.remove(&key) {
            Some(session) if number != 0 || session.newest.rem_euclid(1 << 32) >= 0xffff_0000 => {
                session
            }
            Some(session) => {
                self.lost += session.missing.len() as u64;
                self.reset += 1;
                Session::new(number, now)
            }
            None if is_full => {
                self.unkept += 1;
                return None;
            }
            None => Session::new(number, now),
        };
        if session.replies > 0 {
            self.counts_on(&mut session, number, now);
        }
        session.replies += 1;
        session.last = now;
        let earlier = session.replies - 1;
        self.sessions.insert(key, session);
        Some(earlier)
    }

    fn counts_on(&mut self, session: &mut Session, number: u32, now: Instant) {
        if now - session.gap_at >= Duration::from_secs(1) {
            self.lost += session.missing.len() as u64;
            session.missing.clear();
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "modulo 2^32"
        )]
        let ahead = number.wrapping_sub(session.newest as u32).cast_signed();
        let number = session.newest + i64::from(ahead);
        if ahead > 0 {
            let skipped = session.newest + 1..number;
            if !skipped.is_empty() {
                session.gap_at = now;
            }
            let kept = skipped.start.max(number - 63)..skipped.end;
            self.lost += (kept.start - skipped.start).unsigned_abs();
            session.missing.extend(kept);
            let kept = session.missing.split_off(&(number - 63));
            self.lost += session.missing.len() as u64;
            session.missing = kept;
            session.newest = number;
        } else if session.newest - number < 64 && session.received.contains(&number) {
            self.duplicates += 1;
        } else {
            self.reordered += 1;
            session.missing.remove(&number);
        }
        session.received.insert(number);
    }

    pub(super) fn expires(&mut self, now: Instant) {
        let timeout = self.rules.session_timeout;
        let late = |session: &Session| now - session.last >= timeout;
        for (_, session) in self.sessions.extract_if(|_, session| late(session)) {
            self.lost += session.missing.len() as u64;
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let last = self.sessions.values().map(|session| session.last).min();
        last.map(|last| last + self.rules.session_timeout)
    }
}

impl Session {
    fn new(number: u32, now: Instant) -> Self {
        Self {
            last: now,
            replies: 0,
            newest: number.into(),
            received: HashSet::from([number.into()]),
            missing: BTreeSet::new(),
            gap_at: now,
        }
    }
}
