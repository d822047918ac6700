//! The loop around the core.

use super::*;

/// What a datagram must come to.
pub(super) type Expected = (Action, Option<End>);

/// The loop around the core, which sends as late as it may.
pub(super) struct Daemon {
    pub(super) core: Reflector,
    pub(super) now: Instant,
    /// The peer of each reply, and whether it fails.
    unsent: Vec<(SocketAddr, bool)>,
    pub(super) received: u64,
    /// Each a reply, sent or failed, or decided on without one.
    pub(super) accounted_for: u64,
}

impl Daemon {
    pub(super) fn new(settings: &ReflectorSettings) -> Self {
        let now = Instant::now();
        Self {
            core: Reflector::new(settings.clone(), now).unwrap(),
            now,
            unsent: Vec::new(),
            received: 0,
            accounted_for: 0,
        }
    }

    pub(super) fn hears(&mut self, peer: &str, bytes: &[u8]) -> Action {
        let verdict = self.decides(&given(peer, bytes), false);
        self.sends();
        verdict.action
    }

    /// Hears one datagram or a batch. `expected` is asked what must come of each datagram, when
    /// that is sure.
    pub(super) fn hears_any(
        &mut self,
        sent: &Sent,
        expected: &mut impl FnMut(&Sent, Instant) -> Expected,
    ) {
        let each = sent.each();
        let mut at = 0;
        while at < each.len() {
            let rest = Given {
                bytes: &sent.datagram.bytes[at * sent.segment..],
                length: if at == 0 { sent.datagram.length } else { 0 },
                ..sent.datagram
            };
            let mut verdict = rest.handled(&mut self.core, sent.segment, self.now);
            if verdict.action == Action::SendFirst {
                assert!(!self.all_is_sent(), "there is nothing to send first");
                self.sends();
                verdict = rest.handled(&mut self.core, sent.segment, self.now);
            }
            assert!(verdict.datagrams > 0, "everything was sent");
            for sent in &each[at..at + verdict.datagrams] {
                let mut own = verdict;
                if let (Action::Reply { length, .. }, 2..) = (&mut own.action, own.datagrams) {
                    *length = sent.datagram.length;
                }
                let (action, end) = expected(sent, self.now);
                own.datagrams = 1;
                let expected = Verdict {
                    action,
                    datagrams: 1,
                    end,
                };
                assert_eq!(bits(own), bits(expected));
                self.goes_on(own, sent.datagram.peer, sent.reply_fails);
            }
            at += verdict.datagrams;
        }
    }

    pub(super) fn decides(&mut self, datagram: &Given<'_>, reply_fails: bool) -> Verdict {
        let segment = datagram.length.max(datagram.bytes.len());
        let mut verdict = datagram.handled(&mut self.core, segment, self.now);
        if verdict.action == Action::SendFirst {
            self.sends();
            verdict = datagram.handled(&mut self.core, segment, self.now);
        }
        self.goes_on(verdict, datagram.peer, reply_fails);
        verdict
    }

    fn goes_on(&mut self, verdict: Verdict, peer: SocketAddr, fails: bool) {
        self.received += 1;
        match verdict.action {
            Action::Reply { .. } => self.unsent.push((peer, fails)),
            Action::SendFirst => panic!("everything was sent"),
            _ => self.accounted_for += 1,
        }
    }

    pub(super) fn all_is_sent(&self) -> bool {
        self.unsent.is_empty()
    }

    pub(super) fn sends(&mut self) {
        for (peer, fails) in self.unsent.drain(..) {
            self.accounted_for += 1;
            if fails {
                self.core.reply_failed(peer);
            }
        }
        self.core.batch_sent();
    }
}
