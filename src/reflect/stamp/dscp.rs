//! The DSCP of replies (RFC 2474).

/// The DSCP of replies without a Class of Service TLV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyDscp {
    /// The DSCP of the request.
    Copy,
    /// Always this one, below 64.
    Fixed(u8),
}

/// A set of DSCPs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DscpSet(u64);

impl DscpSet {
    /// Adds a DSCP below 64; ignores any other.
    pub fn insert(&mut self, dscp: u8) {
        self.0 |= 1_u64.checked_shl(dscp.into()).unwrap_or_default();
    }

    /// Whether a DSCP is in the set.
    pub fn contains(self, dscp: u8) -> bool {
        dscp < 64 && self.0 >> dscp & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dscp_set_contains_exactly_the_inserted_values() {
        let mut set = DscpSet::default();
        for dscp in [0, 46, 63, 64, 255] {
            set.insert(dscp);
        }
        let contained: Vec<_> = (0..=255).filter(|dscp| set.contains(*dscp)).collect();
        assert_eq!(contained, [0, 46, 63]);
    }
}
