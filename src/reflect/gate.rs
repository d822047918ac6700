//! The checks before every protocol: the rules of admission, then the rate limits.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use super::{Admission, Datagram, Limits, Mode, ReflectorSettings, Refusal};

/// The rules and limits of one socket.
#[derive(Debug)]
pub(super) struct Gate {
    mode: Mode,
    admission: Admission,
    limits: Option<Arc<Limits>>,
    /// The last random number, never 0.
    random: u64,
}

impl Gate {
    pub(super) fn new(settings: ReflectorSettings) -> Self {
        Self {
            mode: settings.mode,
            admission: settings.admission,
            limits: settings.limits,
            random: RandomState::new().build_hasher().finish() | 1,
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// The reason to refuse a datagram, or each of a GRO batch, apart from the limits.
    #[inline]
    pub(super) fn refuses(&self, datagram: &Datagram<'_>) -> Option<Refusal> {
        self.admission.refuses(self.mode, datagram)
    }

    /// The number of datagrams within the limits: all of `datagrams`, else 1 if the first one is.
    /// `None` if the first one is above a limit.
    #[inline]
    pub(super) fn within_limits(
        &mut self,
        datagram: &Datagram<'_>,
        datagrams: usize,
    ) -> Option<usize> {
        let Some(limits) = &self.limits else {
            return Some(datagrams);
        };
        let source = datagram.peer.ip();
        if datagrams > 1 && limits.allow_all(source, datagrams as u64, datagram.at) {
            return Some(datagrams);
        }
        let random = || next_random(&mut self.random);
        limits.allow(source, datagram.at, random).then_some(1)
    }
}

/// A 64-bit xorshift generator (Marsaglia, "Xorshift RNGs", 2003).
fn next_random(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_are_those_of_xorshift64() {
        let mut random = 1;
        let numbers = [(); 3].map(|()| next_random(&mut random));
        let expected = [0x4082_2041, 0x1000_4106_0c01_1441, 0x9b1e_842f_6e86_2629];
        assert_eq!(numbers, expected);
    }
}
