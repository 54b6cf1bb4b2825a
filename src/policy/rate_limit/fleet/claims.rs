//! What a node knows of the fleet's buckets, on its way to the process after it, or to leases of another store.
//!
//! So gateways that begin while the store is lost know what was left, and one that comes back empty hears of it.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::account::{Account, Count, Remembered};
use super::leases::{Entry, Leases, Wanted, lock};
use super::terms::{Terms, Turn};
use crate::policy::rate_limit::{Gcra, KeyHash, Nanos};
use crate::state::Live;

/// Leases of one limit, each of its store; they are found for as long as one of them is there.
pub(super) type Same = Mutex<Vec<Weak<Leases>>>;

/// What was known of one limit's or quota's buckets.
#[derive(Debug)]
pub struct Claims {
    /// Those leases by which they are found.
    pub(in super::super) definition: Box<str>,
    pub(in super::super) saved: Vec<SavedClaim>,
}

/// What was known of a key's bucket: 110 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedClaim {
    key: KeyHash,
    shared: KeyHash,
    gcra: Gcra,
    /// In nanoseconds from when it was saved.
    debt: u64,
    life: i64,
    /// Of a quota: its period, what was counted, and whether it was the key's first.
    counted: Option<(i64, i64, Count)>,
    /// Of a quota: what this node had let pass by then.
    passed: u64,
}

impl SavedClaim {
    /// Its length in bytes.
    pub const BYTES: usize = 2 * 16 + Gcra::BYTES + 8 + 8 + 1 + 3 * 8 + 8;

    /// To be written, numbers with the lowest byte first.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let (begins, ends, count) = self.counted.unwrap_or((0, 0, Count { used: 0, is_first: false }));
        let kind = self.counted.map_or(0, |_| 1 + u8::from(count.is_first));
        let hashes = [self.key, self.shared].into_iter().flat_map(|hash| [hash.fingerprint, hash.place]);
        let numbers = [begins.cast_unsigned(), ends.cast_unsigned(), count.used];
        let fields = hashes
            .flat_map(u64::to_le_bytes)
            .chain(self.gcra.to_bytes())
            .chain(self.debt.to_le_bytes())
            .chain(self.life.to_le_bytes())
            .chain([kind])
            .chain(numbers.into_iter().flat_map(u64::to_le_bytes))
            .chain(self.passed.to_le_bytes());
        let mut bytes = [0; Self::BYTES];
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    /// As it was written; none where nothing is written so.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let from = &mut &bytes[..];
        let [key, shared] = [hash(from)?, hash(from)?];
        let gcra = Gcra::from_bytes(taken(from)?)?;
        let (debt, life) = (number(from)?, number(from)?.cast_signed());
        let [kind] = *taken(from)?;
        let (begins, ends, used) = (number(from)?.cast_signed(), number(from)?.cast_signed(), number(from)?);
        let counted = match kind {
            0 => None,
            1 | 2 => Some((begins, ends, Count { used, is_first: kind == 2 })),
            _ => return None,
        };
        let passed = number(from)?;
        Some(Self { key, shared, gcra, debt, life, counted, passed })
    }

    fn terms(&self) -> Terms {
        let turn = self.counted.map(|(begins, ends, Count { is_first, .. })| Turn {
            begins,
            ends,
            offset: 0,
            is_later: !is_first,
            passed: None,
        });
        Terms { gcra: self.gcra, most: 0, strict: false, turn }
    }
}

impl Leases {
    /// What is known of keys that owe something.
    pub(super) fn claims(&self, now: Nanos) -> Claims {
        let mut saved = Vec::new();
        for shard in &self.shards {
            for (key, Entry { account, shared, terms, .. }) in &*lock(shard) {
                let Some(remembered) = account.remembered(terms, now) else { continue };
                let Remembered { debt, life, counted, passed } = remembered;
                let counted =
                    terms.turn.zip(counted).map(|(turn, counted)| (turn.begins, turn.ends, counted));
                let (key, shared, gcra) = (*key, *shared, terms.gcra);
                saved.push(SavedClaim { key, shared, gcra, debt, life, counted, passed });
            }
        }
        Claims { definition: self.definition.clone(), saved }
    }

    /// Knows what leases of the same limit know that ask another store.
    pub(super) fn follow(self: &Arc<Self>, live: &Live) {
        let same = live.find_or("leases of a name", &self.definition, Same::default);
        let mut all = same.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|own| own.strong_count() > 0);
        if self.same.set(Arc::clone(&same)).is_ok() {
            all.push(Arc::downgrade(self));
        }
        let others: Vec<_> =
            all.iter().filter_map(Weak::upgrade).filter(|other| !Arc::ptr_eq(other, self)).collect();
        drop(all);
        let now = Nanos::now();
        for other in others {
            self.restore(other.claims(now).saved.into_iter(), Duration::ZERO, now);
        }
    }

    /// Tells the store what this node has let pass of a quota, as soon as it is there, where that is news and there is room.
    pub(in super::super) fn announce(&self, wanted: &Wanted, now: Nanos) {
        let mut shard = self.shard(wanted.account);
        let has_room = shard.len() < self.keys_max();
        match shard.get_mut(&wanted.account) {
            Some(entry) if entry.passed() < passed(&wanted.terms) => {
                entry.account.to_tell = true;
                entry.carry(wanted.terms, now);
            }
            None if has_room => {
                let entry = Entry::of(Account::telling(now), wanted.shared, wanted.terms);
                shard.insert(wanted.account, entry);
            }
            Some(_) | None => {}
        }
    }

    /// Knows that too, `age` after it was saved, as far as there is room. What is known here already stays, unless less was.
    pub(in super::super) fn restore(
        &self,
        claims: impl Iterator<Item = SavedClaim>,
        age: Duration,
        now: Nanos,
    ) {
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        for claim in claims {
            // A count does not come back with time; it ends with its period.
            let debt = if claim.counted.is_some() { claim.debt } else { claim.debt.saturating_sub(age) };
            if debt == 0 {
                continue;
            }
            let SavedClaim { life, passed, .. } = claim;
            let counted = claim.counted.map(|(.., counted)| counted);
            let remembered = Remembered { debt, life, counted, passed };
            let mut shard = self.shard(claim.key);
            let has_room = shard.len() < self.keys_max();
            match shard.get_mut(&claim.key) {
                Some(entry) if !entry.account.is_asked => {
                    let terms = entry.terms;
                    entry.carry(claim.terms(), now);
                    if entry.account.owes(now).is_none_or(|owes| owes < debt) {
                        entry.account.know(remembered, now);
                    }
                    entry.carry(terms, now);
                }
                None if has_room => {
                    let mut entry = Entry::of(Account::default(), claim.shared, claim.terms());
                    entry.account.know(remembered, now);
                    shard.insert(claim.key, entry);
                }
                Some(_) | None => {}
            }
        }
    }
}

impl super::Fleet {
    /// What this node knows.
    pub(super) fn claims(&self) -> Vec<Claims> {
        let now = Nanos::now();
        self.shared.leases().iter().map(|leases| leases.claims(now)).collect()
    }

    /// The leases by which claims are found.
    pub(in super::super) fn claimants(&self) -> Vec<Arc<Leases>> {
        self.shared.leases()
    }
}

impl Entry {
    fn passed(&self) -> u64 {
        passed(&self.terms)
    }
}

fn passed(terms: &Terms) -> u64 {
    terms.turn.and_then(|turn| turn.passed).unwrap_or(0)
}

fn taken<'a, const LENGTH: usize>(from: &mut &'a [u8]) -> Option<&'a [u8; LENGTH]> {
    let (first, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(first)
}

fn number(from: &mut &[u8]) -> Option<u64> {
    taken(from).copied().map(u64::from_le_bytes)
}

fn hash(from: &mut &[u8]) -> Option<KeyHash> {
    Some(KeyHash::from_bits(number(from)?, number(from)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_as_it_was_written() {
        let gcra = Gcra::new(30, Duration::from_secs(60), 90);
        let (key, shared) = (KeyHash::from_bits(1, 2), KeyHash::from_bits(u64::MAX, 3));
        let of_limit = SavedClaim { key, shared, gcra, debt: 5, life: -1, counted: None, passed: 6 };
        let count = Count { used: 9, is_first: true };
        let of_quota = SavedClaim { counted: Some((-86_400, 0, count)), ..of_limit };
        for claim in [of_limit, of_quota] {
            assert_eq!(SavedClaim::from_bytes(&claim.to_bytes()), Some(claim));
        }
        let mut bytes = of_quota.to_bytes();
        bytes[32 + Gcra::BYTES + 16] = 3;
        assert_eq!(SavedClaim::from_bytes(&bytes), None);
        assert_eq!(SavedClaim::from_bytes(&[0; SavedClaim::BYTES]), None, "no limit is written so");
    }
}
