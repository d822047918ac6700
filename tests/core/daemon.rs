//! The loop around the core.

use super::*;

/// What a datagram must come to.
pub(super) type Expected = (Action, Option<End>);

/// The loop around the core, which sends as late as it may.
pub(super) struct Daemon {
    pub(super) core: Exchange,
    pub(super) now: Instant,
    unsent: Vec<Unsent>,
    pub(super) received: u64,
    /// Each a reply, sent or failed, or decided on without one.
    pub(super) accounted_for: u64,
}

enum Unsent {
    Reply {
        peer: SocketAddr,
        fails: bool,
    },
    /// The replies to a burst of so many datagrams.
    Burst {
        peer: SocketAddr,
        datagrams: usize,
    },
    /// The replies to a burst, which cannot be sent as one.
    FailingBurst(Vec<Sent>),
}

impl Daemon {
    pub(super) fn new(settings: &Settings) -> Self {
        let now = Instant::now();
        Self {
            core: Exchange::new(settings.clone(), now).unwrap(),
            now,
            unsent: Vec::new(),
            received: 0,
            accounted_for: 0,
        }
    }

    pub(super) fn hears(&mut self, peer: &str, bytes: &[u8]) -> Action {
        let verdict = self.decides(&datagram(peer, bytes), false);
        self.sends_all();
        verdict.action
    }

    /// Hears one datagram or a burst. `expected` is asked what must come of each datagram, when
    /// that is sure.
    pub(super) fn hears_any(
        &mut self,
        sent: &Sent,
        expected: &mut impl FnMut(&Sent, Instant) -> Expected,
    ) {
        let each = sent.each();
        for at in 0..each.len() {
            if each.len() - at > 1 && self.hears_together(&each[at..], expected) {
                return;
            }
            self.hears_one(&each[at], expected);
        }
    }

    fn hears_one(&mut self, sent: &Sent, expected: &mut impl FnMut(&Sent, Instant) -> Expected) {
        let mut datagram = sent.datagram;
        datagram.at = self.now;
        let mut verdict = self.core.datagram(&datagram, self.now);
        if verdict.action == Action::SendFirst {
            assert!(!self.all_is_sent(), "there is nothing to send first");
            self.sends(expected);
            verdict = self.core.datagram(&datagram, self.now);
        }
        let (action, end) = expected(sent, self.now);
        assert_eq!(bits(verdict), bits(Verdict { action, end }));
        self.goes_on(verdict, &sent.datagram, sent.reply_fails);
    }

    /// Whether the core decided on all at once.
    fn hears_together(
        &mut self,
        each: &[Sent],
        expected: &mut impl FnMut(&Sent, Instant) -> Expected,
    ) -> bool {
        let Datagram {
            peer, destination, ..
        } = each[0].datagram;
        let bytes: Vec<_> = each.iter().map(|sent| sent.datagram.bytes).collect();
        let bytes = bytes.concat();
        let burst = Burst {
            peer,
            destination,
            at: self.now,
            segment: each[0].datagram.length,
            bytes: &bytes,
        };
        let Some(together) = self.core.burst(&burst, self.now) else {
            return false;
        };
        let refused = matches!(together, Together::Refuse(_));
        if each[0].burst_fails && !refused {
            self.unsent.push(Unsent::FailingBurst(each.to_vec()));
            return true;
        }
        for (mut sent, (_, action)) in each.iter().copied().zip(together.actions(&burst)) {
            sent.reply_fails = false;
            let (must, end) = expected(&sent, self.now);
            let verdict = Verdict { action, end: None };
            assert_eq!(bits(verdict), bits(Verdict { action: must, end }));
            self.received += 1;
            self.accounted_for += 1;
        }
        let datagrams = each.len();
        if !refused {
            self.unsent.push(Unsent::Burst { peer, datagrams });
        }
        true
    }

    pub(super) fn decides(&mut self, datagram: &Datagram<'_>, reply_fails: bool) -> Verdict {
        let mut verdict = self.core.datagram(datagram, self.now);
        if verdict.action == Action::SendFirst {
            self.sends_all();
            verdict = self.core.datagram(datagram, self.now);
        }
        self.goes_on(verdict, datagram, reply_fails);
        verdict
    }

    fn goes_on(&mut self, verdict: Verdict, datagram: &Datagram<'_>, fails: bool) {
        self.received += 1;
        let peer = datagram.peer;
        match verdict.action {
            Action::Echo { .. } => self.unsent.push(Unsent::Reply { peer, fails }),
            Action::SendFirst => panic!("everything was sent"),
            _ => self.accounted_for += 1,
        }
    }

    pub(super) fn all_is_sent(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Sends what is no burst that fails.
    pub(super) fn sends_all(&mut self) {
        self.sends(&mut |_, _| panic!("a burst that fails"));
    }

    pub(super) fn sends(&mut self, expected: &mut impl FnMut(&Sent, Instant) -> Expected) {
        let mut one_by_one = Vec::new();
        for unsent in self.unsent.drain(..) {
            match unsent {
                Unsent::Reply { peer, fails } => {
                    self.accounted_for += 1;
                    if fails {
                        self.core.reply_failed(peer);
                    }
                }
                Unsent::Burst { peer, datagrams } => self.core.burst_sent(peer, datagrams),
                Unsent::FailingBurst(each) => {
                    self.core.burst_failed(each[0].datagram.peer, each.len());
                    one_by_one.extend(each);
                }
            }
        }
        self.core.replies_sent();
        for sent in &one_by_one {
            self.hears_one(sent, expected);
        }
        if !one_by_one.is_empty() {
            self.sends(expected);
        }
    }
}
