//! What is counted of keys, in bounded memory: of all of them while they are few, else of every second, fourth, eighth …
//!
//! Whether a key is looked at is decided by its hash, and those that are not looked at only become more. So each key that is looked at
//! in the end was from its first request on: what is said of it is exact, and they are a fair sample of all. With `n` keys in it the
//! number of all is right within `1/√n` (one standard deviation, 0.2 % for the fewest), and a percentile `p` within `√(p·(1−p)/n)`
//! of the keys: 0.006 points at 99.9 %.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::FixedState;

use crate::policy::rate_limit::KeyHash;

/// The most keys that are looked at: with 60 to 200 bytes each.
pub(super) const KEYS_MAX: usize = 1 << 19;
/// The most that is counted in a [`Top`].
const TOP_MAX: usize = 1024;

/// Keys, and what is known of each. They are found by hashes under a secret, so nobody can choose which fall together.
pub(super) struct Sample<T> {
    keys: HashMap<KeyHash, T, FixedState>,
    most: usize,
    /// One in 2 to the power of this is looked at.
    level: u32,
}

impl<T> Sample<T> {
    pub(super) fn new(most: usize) -> Self {
        Self { keys: HashMap::default(), most, level: 0 }
    }

    /// What is known of a key; made where it is new. None where it is not looked at.
    pub(super) fn of(&mut self, key: KeyHash, make: impl FnOnce() -> T) -> Option<&mut T> {
        if !self.has(key) {
            return None;
        }
        if self.keys.len() >= self.most && !self.keys.contains_key(&key) {
            self.level += 1;
            let level = self.level;
            self.keys.retain(|key, _| is_in(*key, level));
            if !self.has(key) {
                return None;
            }
        }
        Some(self.keys.entry(key).or_insert_with(make))
    }

    /// What is known of a key that was made before.
    pub(super) fn get_mut(&mut self, key: KeyHash) -> Option<&mut T> {
        self.keys.get_mut(&key)
    }

    pub(super) fn get(&self, key: KeyHash) -> Option<&T> {
        self.keys.get(&key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (KeyHash, &T)> {
        self.keys.iter().map(|(key, known)| (*key, known))
    }

    /// How many keys there are; an estimate, unless all are looked at.
    pub(super) fn number(&self) -> u64 {
        (self.keys.len() as u64).saturating_mul(1_u64.checked_shl(self.level).unwrap_or(u64::MAX))
    }

    /// One in so many is looked at.
    pub(super) fn one_in(&self) -> u64 {
        1_u64.checked_shl(self.level).unwrap_or(u64::MAX)
    }

    fn has(&self, key: KeyHash) -> bool {
        is_in(key, self.level)
    }
}

fn is_in(key: KeyHash, level: u32) -> bool {
    let (_, place) = key.bits();
    place.leading_zeros() >= level
}

/// Which come most often (Metwally and others, "Space-Saving", 2005): who is counted here was seen as often as it says, or less by
/// as much as is said to be uncertain; nobody who is not was seen more often than whoever is counted least.
#[derive(Debug)]
pub(super) struct Top<K> {
    counts: HashMap<K, Count, FixedState>,
    /// Whether some had to make room.
    pub(super) is_full: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) seen: u64,
    pub(super) uncertain: u64,
}

impl<K> Default for Top<K> {
    fn default() -> Self {
        Self { counts: HashMap::default(), is_full: false }
    }
}

impl<K: Copy + Eq + Hash + Ord> Top<K> {
    pub(super) fn count(&mut self, key: K) {
        if let Some(count) = self.counts.get_mut(&key) {
            count.seen += 1;
            return;
        }
        let mut count = Count { seen: 1, uncertain: 0 };
        if self.counts.len() >= TOP_MAX {
            self.is_full = true;
            let least =
                self.counts.iter().min_by_key(|(_, count)| count.seen).map(|(key, count)| (*key, *count));
            if let Some((out, least)) = least {
                self.counts.remove(&out);
                count = Count { seen: least.seen + 1, uncertain: least.seen };
            }
        }
        self.counts.insert(key, count);
    }

    /// How many different ones there were; at least so many where it is full.
    pub(super) fn number(&self) -> usize {
        self.counts.len()
    }

    /// Those that came most often, first.
    pub(super) fn first(&self, most: usize) -> Vec<(K, Count)> {
        let mut all: Vec<_> = self.counts.iter().map(|(key, count)| (*key, *count)).collect();
        all.sort_unstable_by_key(|(key, count)| (std::cmp::Reverse(count.seen), *key));
        all.truncate(most);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> KeyHash {
        let bits = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        KeyHash::from_bits(number, bits ^ (bits >> 31))
    }

    #[test]
    fn all_keys_are_counted_while_they_are_few() {
        let mut sample = Sample::new(1000);
        for number in 0..3000_u64 {
            *sample.of(key(number % 1000), || 0).unwrap() += 1;
        }
        assert_eq!((sample.number(), sample.one_in()), (1000, 1));
        assert!(sample.iter().all(|(_, count)| *count == 3));
    }

    #[test]
    fn of_many_keys_a_fair_sample_is_counted_from_the_first_request_on() {
        const KEYS: u64 = 200_000;
        let mut sample = Sample::new(4096);
        for round in 0..3 {
            for number in 0..KEYS {
                if let Some(count) = sample.of(key(number), || 0) {
                    *count += 1;
                }
            }
            assert!(sample.iter().all(|(_, count)| *count == round + 1));
        }
        let number = sample.number();
        assert!(number.abs_diff(KEYS) < KEYS / 10, "{number}");
        assert!(sample.iter().count() <= 4096 && sample.one_in() == 64);
        let even = sample.iter().filter(|(key, _)| key.bits().0 % 2 == 0).count() as f64;
        assert!((0.45..0.55).contains(&(even / sample.iter().count() as f64)), "{even}");
    }

    #[test]
    fn who_comes_often_is_found_among_any_number() {
        let mut top = Top::default();
        for number in 0..100_000_u64 {
            top.count(number);
            if number % 10 == 0 {
                top.count(u64::MAX);
            }
        }
        let first = top.first(2);
        let (found, Count { seen, uncertain }) = first[0];
        assert_eq!((found, top.is_full, first.len()), (u64::MAX, true, 2));
        assert!(seen >= 10_000 && seen - uncertain <= 10_000, "{seen} {uncertain}");
        assert_eq!(top.number(), TOP_MAX);
        let mut few = Top::default();
        [3, 1, 3, 2, 2, 3].into_iter().for_each(|number| few.count(number));
        let exact = |seen| Count { seen, uncertain: 0 };
        assert_eq!(few.first(9), [(3, exact(3)), (2, exact(2)), (1, exact(1))]);
        assert!(!few.is_full);
    }
}
