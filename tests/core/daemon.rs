//! A loop around the core.

use super::*;

/// The expected verdict of a datagram.
pub(super) type Expected = (Action, Option<End>);

/// A loop around the core that sends replies as late as allowed.
pub(super) struct Daemon {
    pub(super) core: Reflector,
    pub(super) now: Instant,
    /// The peer of each pending reply, and whether the reply fails.
    unsent: Vec<(SocketAddr, bool)>,
    pub(super) received: u64,
    /// Datagrams without a reply, or with one that was sent or failed.
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

    pub(super) fn receives(&mut self, peer: &str, bytes: &[u8]) -> Action {
        let verdict = self.decides(&given(peer, bytes), false);
        self.sends();
        verdict.action
    }

    /// Handles a datagram or a GRO batch. Calls `expected` for each datagram once it can be decided.
    pub(super) fn handles(
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
                assert!(!self.all_is_sent(), "SendFirst without pending replies");
                self.sends();
                verdict = rest.handled(&mut self.core, sent.segment, self.now);
            }
            assert!(verdict.datagrams > 0, "undecided without pending replies");
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
                self.apply(own, sent.datagram.peer, sent.reply_fails);
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
        self.apply(verdict, datagram.peer, reply_fails);
        verdict
    }

    fn apply(&mut self, verdict: Verdict, peer: SocketAddr, fails: bool) {
        self.received += 1;
        match verdict.action {
            Action::Reply { .. } => self.unsent.push((peer, fails)),
            Action::SendFirst => panic!("SendFirst without pending replies"),
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
