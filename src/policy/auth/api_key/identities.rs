//! Whose a key is: made of its record, and remembered of keys that are used again and again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use quick_cache::Weighter;

use super::super::remembered::{self, Remembered};
use super::table::{Found, Hash};
use crate::identity::{Claims, Identity, Method, Text};

/// What remembered identities of a policy may take.
const BYTES: u64 = 4 << 20;
/// What one takes beside its text, with its place in the table.
const EACH: u64 = size_of::<Identity>() as u64 + 144;
/// Of keys seen lately so many are known apart, by four bytes each.
const SEEN: usize = 1 << 14;

/// Identities, each of one state of its key. Whether the key is good is asked each time, and nowhere here.
///
/// One is made with two allocations, and remembered from the second use on: about eight thousand keys are. Where more than that are used in
/// turn, remembering would only drive out what comes next: then most are made each time, and nothing is written but four bytes.
pub(super) struct Identities {
    policy: Arc<str>,
    known: Remembered<Hash, Known, Weigher>,
    /// Pieces of hashes of keys that were seen once.
    seen: Box<[AtomicU32]>,
}

/// An identity, and of which state of its key it is.
#[derive(Clone)]
struct Known {
    epoch: u32,
    change: u32,
    /// The length of its record.
    record: u32,
    identity: Arc<Identity>,
}

#[derive(Clone)]
struct Weigher;

impl Weighter<Hash, Known> for Weigher {
    fn weight(&self, _: &Hash, known: &Known) -> u64 {
        weight(known.record)
    }
}

impl Identities {
    pub(super) fn new(policy: &Arc<str>) -> Self {
        Self {
            policy: Arc::clone(policy),
            known: remembered::within(BYTES, EACH + 48, Weigher),
            seen: (0..SEEN).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// That of the key with this hash, which was found in this reading of the whole store.
    pub(super) fn of(&self, hash: &Hash, found: &Found, epoch: u32) -> Arc<Identity> {
        let change = found.change();
        let known = self.known.get(hash);
        if let Some(known) = &known
            && (known.epoch, known.change) == (epoch, change)
        {
            return Arc::clone(&known.identity);
        }
        let identity = Arc::new(self.make(found));
        if known.is_some() || self.was_seen(hash) {
            let record = u32::try_from(found.record().0.len()).unwrap_or(u32::MAX);
            self.known.insert(*hash, Known { epoch, change, record, identity: Arc::clone(&identity) });
        }
        identity
    }

    fn make(&self, found: &Found) -> Identity {
        let (record, [id, name, owner]) = found.record();
        let whole: Arc<str> = record.into();
        let owner = Text::piece(&whole, name..owner);
        let mut identity = Identity::new(owner.clone(), Method::ApiKey, Arc::clone(&self.policy));
        identity.claims = Claims::of_key(Text::piece(&whole, id..name), owner);
        identity.key_id = Some(Text::piece(&whole, 0..id));
        identity.expires = found.ends();
        if let Some(grants) = found.grants() {
            identity.plan.clone_from(&grants.plan);
            identity.scopes.clone_from(&grants.scopes);
        }
        identity
    }

    /// Whether the key was the last to be seen of those that share its place; it is from now on.
    fn was_seen(&self, hash: &Hash) -> bool {
        let [_, first, second, a, b, c, d, ..] = *hash;
        let Some(place) = self.seen.get(usize::from(u16::from_le_bytes([first, second])) % SEEN) else {
            return false;
        };
        let own = u32::from_le_bytes([a, b, c, d]);
        place.load(Ordering::Relaxed) == own || {
            place.store(own, Ordering::Relaxed);
            false
        }
    }
}

/// With its record, and twice that for claims that somebody has read.
fn weight(record: u32) -> u64 {
    EACH + 3 * u64::from(record)
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{Row, Table};
    use super::*;

    fn table(number: u64, name: &str) -> (Table, Vec<Hash>) {
        let hash = |number: u64| -> Hash {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &number.to_le_bytes());
            digest.as_ref().try_into().unwrap()
        };
        let hashes: Vec<_> = (0..number).map(hash).collect();
        let row = |(number, hash): (usize, &Hash)| Row {
            hash: *hash,
            id: format!("{number:012}"),
            name: name.to_owned(),
            owner: "acme".into(),
            ..Row::default()
        };
        let table = Table::default();
        table.apply(hashes.iter().enumerate().map(row), true);
        (table, hashes)
    }

    #[test]
    fn one_is_remembered_from_its_second_use_on_and_of_one_state() {
        let (table, hashes) = table(1, "name");
        let (hash, found) = (&hashes[0], table.find(&hashes[0]).unwrap());
        let identities = Identities::new(&"auth.partners".into());
        let first = identities.of(hash, &found, 1);
        let second = identities.of(hash, &found, 1);
        assert!(!Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&second, &identities.of(hash, &found, 1)));
        assert!(!Arc::ptr_eq(&second, &identities.of(hash, &found, 2)), "the store was read anew");
    }

    #[test]
    fn what_is_remembered_is_bounded_whatever_its_texts() {
        for name in ["n", &"n".repeat(256)] {
            let (table, hashes) = table(40_000, name);
            let identities = Identities::new(&"auth.partners".into());
            for hash in &hashes {
                let found = table.find(hash).unwrap();
                for _ in 0..3 {
                    let _ = identities.of(hash, &found, 1);
                }
            }
            // What one takes: the identity, and its record three times.
            let record = 12 + name.len() as u64 + 4;
            let (most, held) =
                (BYTES / (size_of::<Identity>() as u64 + 3 * record), identities.known.len() as u64);
            assert!(held <= most, "{held} of {most}");
            assert!(held >= most / 4, "{held} of {most}: there is room for more");
        }
    }
}
