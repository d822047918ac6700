//! A bounded table, ordered by time: the peers that owe a record, and the sessions of STAMP.
//!
//! The timeout is the same for every entry, so the order of expiry is the order of insertion: a
//! linked list through a slab. The chains of a hash table run through the same slab. Every
//! operation takes constant time, and none allocates: memory for all entries is reserved once, and
//! the kernel provides pages when they are first touched. Unlike an open-addressed table, chains
//! need no cleanup after many removals.

use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Instant;

/// An index into the slab, plus 1. Zeroed memory is `None`.
type Link = Option<NonZeroU32>;

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    since: Instant,
    value: V,
    /// The next entry of the same hash bucket, or of the free list.
    chain: Link,
    older: Link,
    newer: Link,
}

/// The identity of an entry.
pub(super) trait Key: Copy + Eq {
    /// Adds the key to a hash.
    fn hash(&self, hasher: &mut impl Hasher);
}

/// The place of a key in the table: its bucket, and its entry if there is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    bucket: usize,
    link: Link,
}

impl Place {
    /// The place of a key where there is no table.
    pub(super) const NONE: Self = Self {
        bucket: 0,
        link: None,
    };
}

/// The most memory per peer, in bytes.
pub const BYTES_PER_PEER: usize = bytes_per_entry::<SocketAddr, ()>();

/// The most memory per entry, in bytes: there are up to two buckets for each.
pub(super) const fn bytes_per_entry<K, V>() -> usize {
    size_of::<Entry<K, V>>() + 2 * size_of::<Link>()
}

/// The peers above the capacity that a table holds until the results of replies are known. At least
/// the peers of a batch.
pub const SLACK: usize = 64;

/// The table of peers could not be allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not enough memory for a table of {0} peers")]
pub struct NoMemory(NonZeroU32);

/// The bounded table. `S` keys the hash, so that senders cannot choose keys of one bucket.
#[derive(Debug)]
pub(super) struct Table<K, V, S> {
    entries: Vec<Entry<K, V>>,
    capacity: usize,
    buckets: Box<[Link]>,
    free: Link,
    oldest: Link,
    newest: Link,
    length: usize,
    hasher: S,
}

impl<K: Key, V: Copy, S: BuildHasher> Table<K, V, S> {
    /// An empty table for at most `capacity` entries.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(super) fn new(capacity: NonZeroU32, hasher: S) -> Result<Self, NoMemory> {
        let no_memory = NoMemory(capacity);
        let capacity = capacity.get() as usize;
        let (slots, buckets) = (capacity + SLACK, capacity.next_power_of_two());
        // Zeroed memory cannot be allocated without an abort on failure. Reserve the memory of the
        // buckets with the entries, where failure is an error, then release it for the buckets.
        let buckets_in_slots = (buckets * size_of::<Link>()).div_ceil(size_of::<Entry<K, V>>());
        let mut entries = Vec::new();
        entries
            .try_reserve_exact(slots + buckets_in_slots)
            .map_err(|_| no_memory)?;
        entries.shrink_to(slots);
        Ok(Self {
            entries,
            capacity,
            buckets: vec![None; buckets].into_boxed_slice(),
            free: None,
            oldest: None,
            newest: None,
            length: 0,
            hasher,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Whether no entry can be inserted within the capacity.
    pub(super) fn is_full(&self) -> bool {
        self.length >= self.capacity
    }

    /// Whether peers must be evicted if no reply fails.
    pub(super) fn is_over_full(&self) -> bool {
        self.length > self.capacity
    }

    /// Whether another peer can be inserted, at least until the results of replies are known.
    pub(super) fn can_insert(&self) -> bool {
        self.length < self.capacity + SLACK
    }

    /// The place of a key. Valid until the table changes.
    pub(super) fn place(&self, key: &K) -> Place {
        let bucket = self.bucket(key);
        let mut link = self.buckets[bucket];
        while let Some(at) = link {
            let entry = self.entry(at);
            if entry.key == *key {
                break;
            }
            link = entry.chain;
        }
        Place { bucket, link }
    }

    /// The time of the entry at a place.
    pub(super) fn since(&self, place: Place) -> Option<Instant> {
        Some(self.entry(place.link?).since)
    }

    /// The value of the entry at a place.
    pub(super) fn value_mut(&mut self, place: Place) -> Option<&mut V> {
        Some(&mut self.entry_mut(place.link?).value)
    }

    /// The time of the oldest entry.
    pub(super) fn oldest(&self) -> Option<Instant> {
        Some(self.entry(self.oldest?).since)
    }

    /// Inserts a key that is not in the table. [`Self::can_insert`] must hold, and `since` must
    /// not be before that of an earlier call.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most `capacity` entries, which was a u32"
    )]
    pub(super) fn insert(&mut self, place: Place, key: K, since: Instant, value: V) {
        let Place { bucket, .. } = place;
        let entry = Entry {
            key,
            since,
            value,
            chain: self.buckets[bucket],
            older: None,
            newer: None,
        };
        let link = if let Some(link) = self.free {
            self.free = self.entry(link).chain;
            *self.entry_mut(link) = entry;
            link
        } else {
            debug_assert!(
                self.entries.len() < self.entries.capacity(),
                "the slab never grows"
            );
            let link = NonZeroU32::MIN.saturating_add(self.entries.len() as u32);
            self.entries.push(entry);
            link
        };
        self.buckets[bucket] = Some(link);
        self.append(link);
        self.length += 1;
    }

    /// Makes the entry at a place, if there is one, the newest. `since` must not be before that of
    /// an earlier call.
    pub(super) fn touch(&mut self, place: Place, since: Instant) {
        if let Some(link) = place.link {
            self.detach(link);
            self.append(link);
            self.entry_mut(link).since = since;
        }
    }

    /// Removes the entry at a place, if there is one.
    pub(super) fn remove(&mut self, Place { bucket, link }: Place) {
        if let Some(link) = link {
            self.unlink(bucket, link);
        }
    }

    /// Removes the oldest entry. Returns its value.
    pub(super) fn remove_oldest(&mut self) -> Option<V> {
        let link = self.oldest?;
        let Entry { key, value, .. } = *self.entry(link);
        self.unlink(self.bucket(&key), link);
        Some(value)
    }

    fn unlink(&mut self, bucket: usize, link: NonZeroU32) {
        let Entry { chain, .. } = *self.entry(link);
        if self.buckets[bucket] == Some(link) {
            self.buckets[bucket] = chain;
        } else {
            let mut before = self.buckets[bucket];
            while let Some(at) = before {
                if self.entry(at).chain == Some(link) {
                    self.entry_mut(at).chain = chain;
                    break;
                }
                before = self.entry(at).chain;
            }
        }
        self.detach(link);
        self.entry_mut(link).chain = self.free;
        self.free = Some(link);
        self.length -= 1;
    }

    /// Adds an entry to the list as the newest.
    fn append(&mut self, link: NonZeroU32) {
        let older = self.newest.replace(link);
        match older {
            Some(older) => self.entry_mut(older).newer = Some(link),
            None => self.oldest = Some(link),
        }
        let entry = self.entry_mut(link);
        (entry.older, entry.newer) = (older, None);
    }

    /// Takes an entry out of the list.
    fn detach(&mut self, link: NonZeroU32) {
        let Entry { older, newer, .. } = *self.entry(link);
        match older {
            Some(older) => self.entry_mut(older).newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.entry_mut(newer).older = older,
            None => self.newest = older,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "masked to the number of buckets"
    )]
    fn bucket(&self, key: &K) -> usize {
        let mut hasher = self.hasher.build_hasher();
        key.hash(&mut hasher);
        hasher.finish() as usize & (self.buckets.len() - 1)
    }

    fn entry(&self, link: NonZeroU32) -> &Entry<K, V> {
        &self.entries[link.get() as usize - 1]
    }

    fn entry_mut(&mut self, link: NonZeroU32) -> &mut Entry<K, V> {
        &mut self.entries[link.get() as usize - 1]
    }
}

impl Key for SocketAddr {
    fn hash(&self, hasher: &mut impl Hasher) {
        // One write is faster than the several of `SocketAddr::hash`.
        let port = self.port().to_ne_bytes();
        match self {
            SocketAddr::V4(v4) => {
                let mut bytes = [0; 8];
                bytes[..4].copy_from_slice(&v4.ip().octets());
                bytes[4..6].copy_from_slice(&port);
                hasher.write(&bytes);
            }
            SocketAddr::V6(v6) => {
                let mut bytes = [0; 24];
                bytes[..16].copy_from_slice(&v6.ip().octets());
                bytes[16..20].copy_from_slice(&v6.scope_id().to_ne_bytes());
                bytes[20..22].copy_from_slice(&port);
                hasher.write(&bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

    use super::*;

    type Peers = Table<SocketAddr, (), RandomState>;

    fn peers(capacity: u32) -> Peers {
        Table::new(NonZeroU32::new(capacity).unwrap(), RandomState::new()).unwrap()
    }

    #[test]
    fn peers_that_differ_in_any_part_spread_over_the_buckets() {
        let peers = peers(1024);
        let parts: [fn(u16) -> SocketAddr; 5] = [
            |number| (Ipv4Addr::LOCALHOST, number).into(),
            |number| (Ipv4Addr::from_bits(number.into()), 7).into(),
            |number| (Ipv6Addr::LOCALHOST, number).into(),
            |number| (Ipv6Addr::from_bits(number.into()), 7).into(),
            |number| SocketAddrV6::new(Ipv6Addr::LOCALHOST, 7, 0, number.into()).into(),
        ];
        for part in parts {
            let mut used = vec![false; peers.buckets.len()];
            (0..1024).for_each(|number| used[peers.bucket(&part(number))] = true);
            // A random hash leaves 377 of the buckets empty, with a standard deviation of 10.
            let empty = used.iter().filter(|used| !**used).count();
            assert!((277..477).contains(&empty), "{empty} for {}", part(1));
        }
    }

    #[test]
    fn table_takes_the_documented_memory_per_peer() {
        for capacity in [1, 2, 63, 64, 1000, (1 << 16) + 1] {
            let peers = peers(capacity);
            let entries = peers.entries.capacity() * size_of::<Entry<SocketAddr, ()>>();
            let bytes = entries + peers.buckets.len() * size_of::<Link>();
            let most =
                capacity as usize * BYTES_PER_PEER + SLACK * size_of::<Entry<SocketAddr, ()>>();
            assert!(bytes <= most, "{bytes} for {capacity} peers");
            // Just above a power of two, almost every peer takes the most.
            assert!(
                capacity < 1 << 16 || bytes + 100 > most,
                "{bytes} of {most}"
            );
        }
    }
}
