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
    identity: Arc<Identity>,
}

#[derive(Clone)]
struct Weigher;

impl Weighter<Hash, Known> for Weigher {
    fn weight(&self, _: &Hash, known: &Known) -> u64 {
        EACH + text_bytes(&known.identity)
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
            self.known.insert(*hash, Known { epoch, change, identity: Arc::clone(&identity) });
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

/// Its record, and twice that for claims that somebody has read.
fn text_bytes(identity: &Identity) -> u64 {
    let record = identity.id.len() + identity.key_id.as_ref().map_or(0, |id| id.len());
    3 * record as u64
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("known", &self.known.len()).finish_non_exhaustive()
    }
}
