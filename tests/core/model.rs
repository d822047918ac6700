//! A naive model of the contract, independent of the core.

use std::net::IpAddr;

use super::*;

/// Handles one datagram at a time, with the result of its reply.
pub(super) struct Model {
    pub(super) settings: ReflectorSettings,
    /// Longest-owing first. In lockstep, all peers are one.
    pub(super) owing: Vec<(SocketAddr, Instant)>,
    pub(super) idle_since: Instant,
    pub(super) evicted: u64,
    pub(super) records_expired: u64,
    pub(super) idle_timeouts: u64,
    /// Datagrams per second, from each source and in total.
    rates: [Option<NonZeroU32>; 2],
    /// The tokens left of each source and (`None`) in total, and when that was.
    left: HashMap<Option<IpAddr>, (Duration, Instant)>,
}

impl Model {
    pub(super) fn new(
        settings: &ReflectorSettings,
        rates: [Option<NonZeroU32>; 2],
        now: Instant,
    ) -> Self {
        Self {
            settings: settings.clone(),
            owing: Vec::new(),
            idle_since: now,
            evicted: 0,
            records_expired: 0,
            idle_timeouts: 0,
            rates,
            left: HashMap::new(),
        }
    }

    /// The tokens that a limit has left after one more datagram. `None` if they do not suffice.
    fn rest(&self, limit: usize, source: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let Some(rate) = self.rates[limit] else {
            return Some(Duration::ZERO);
        };
        let one = Duration::from_nanos(1_000_000_000_u64.div_ceil(rate.get().into()));
        let all = one * rate.get();
        let (left, since) = self.left.get(&source).unwrap_or(&(all, now)).to_owned();
        let left = (left + now.duration_since(since)).min(all);
        left.checked_sub(one)
    }

    fn limits_allow(&mut self, source: IpAddr, now: Instant) -> bool {
        let own = self.rest(0, Some(source), now);
        let all = self.rest(1, None, now);
        let Some((own, all)) = own.zip(all) else {
            return false;
        };
        self.left.insert(Some(source), (own, now));
        self.left.insert(None, (all, now));
        true
    }

    pub(super) fn decides(&mut self, sent: &Sent, now: Instant) -> (Action, Option<End>) {
        let ReflectorSettings { mode, exit_on, .. } = self.settings;
        let (mut peer, length) = (sent.datagram.peer, sent.datagram.length);
        let is_reflector = mode == Mode::Echo && peer == address(ECHO);
        let refusal = is_reflector.then_some(Refusal::SourcePort);
        if let Some(refusal) = sent.refused.or(refusal) {
            return (Action::Refuse(refusal), None);
        }
        if mode == Mode::Lockstep {
            peer = address(ALICE);
        }
        self.expires(now);
        if !self.limits_allow(sent.datagram.peer.ip(), now) {
            return (Action::Refuse(Refusal::RateLimit), None);
        }
        self.idle_since = now;
        if let Some(at) = self.owing.iter().position(|(owing, _)| *owing == peer) {
            self.owing.remove(at);
            if length == 0 {
                return (Action::Empty, None);
            }
            let is_fatal = exit_on.decode_error && length < 22;
            let end = is_fatal.then_some(End::DecodeError);
            return (record(sent.datagram.bytes), end);
        }
        if length == 0 && mode != Mode::Echo {
            return (Action::Empty, exit_on.empty.then_some(End::Empty));
        }
        if mode != Mode::Echo && !sent.reply_fails {
            if self.owing.len() == self.settings.max_peers.get() as usize {
                self.owing.remove(0);
                self.evicted += 1;
            }
            self.owing.push((peer, now));
        }
        let truncated = length > self.settings.max_datagram;
        let length = length.min(self.settings.max_datagram);
        (Action::Reply { length, truncated }, None)
    }

    pub(super) fn time(&mut self, now: Instant) -> Option<End> {
        let expired = self.expires(now);
        if now.duration_since(self.idle_since) < self.settings.timeout?.get() {
            return None;
        }
        if self.settings.mode == Mode::Lockstep && self.owing.pop().is_some() {
            self.records_expired += 1;
        } else if !expired.contains(&self.idle_since) {
            self.idle_timeouts += 1;
        }
        self.idle_since = now;
        self.settings.exit_on.timeout.then_some(End::Timeout)
    }

    /// Expires overdue records. Returns when each began to be owed.
    pub(super) fn expires(&mut self, now: Instant) -> Vec<Instant> {
        let mut expired = Vec::new();
        if let (Mode::Exchange, Some(timeout)) = (self.settings.mode, self.settings.timeout) {
            let late = |since| now.duration_since(since) >= timeout.get();
            let late = self.owing.extract_if(.., |(_, since)| late(*since));
            expired.extend(late.map(|(_, since)| since));
        }
        self.records_expired += expired.len() as u64;
        expired
    }

    pub(super) fn next_time(&self) -> Option<Instant> {
        let mut first = self.idle_since;
        if let (Mode::Exchange, Some((_, since))) = (self.settings.mode, self.owing.first()) {
            first = first.min(*since);
        }
        first.checked_add(self.settings.timeout?.get())
    }
}
