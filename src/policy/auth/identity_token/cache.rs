//! Signed tokens, kept for half of their lifetime.
//!
//! They are found by the very text that was signed, times and `jti` apart: a hash with a secret of the process, then a comparison of
//! every byte. Two identities that differ in anything that a token says can have no token in common.

use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;
use quick_cache::Weighter;

use crate::policy::auth::remembered::{self, Remembered};

/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 256;
/// A text and its token, for a first guess at how many there are.
const USUAL_BYTES: u64 = 1024;

/// A token, as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Signed {
    pub(super) value: HeaderValue,
    /// The name of the key that signed it.
    pub(super) kid: Box<str>,
    /// When it was made, in seconds since 1970.
    pub(super) made: u64,
    /// Until when it is sent again.
    pub(super) until: u64,
}

/// Within so many bytes.
pub(super) struct Cache {
    table: Remembered<Box<[u8]>, std::sync::Arc<Signed>, Weight>,
}

impl Cache {
    pub(super) fn new(bytes: u64) -> Self {
        Self { table: remembered::within(bytes, USUAL_BYTES, Weight) }
    }

    /// The token of this text, where it was signed by the key that signs now and half its lifetime is left. A clock that was put back
    /// makes it one of the future, which nobody would take. No allocation.
    pub(super) fn recall(&self, text: &[u8], kid: &str, now: u64) -> Option<HeaderValue> {
        let signed = self.table.get(text)?;
        let is_good = *signed.kid == *kid && (signed.made..signed.until).contains(&now);
        is_good.then(|| signed.value.clone())
    }

    /// Keeps a token, in place of one of the same text.
    pub(super) fn keep(&self, text: &[u8], signed: Signed) {
        self.table.insert(text.into(), signed.into());
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("tokens", &self.table.len()).finish_non_exhaustive()
    }
}

/// Bytes.
#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Box<[u8]>, std::sync::Arc<Signed>> for Weight {
    fn weight(&self, text: &Box<[u8]>, signed: &std::sync::Arc<Signed>) -> u64 {
        ENTRY_BYTES + (text.len() + signed.value.len() + signed.kid.len()) as u64
    }
}

/// Counts without workers meeting: each thread has one of a few places of its own.
#[derive(Debug, Default)]
pub(super) struct Count([Place; 8]);

/// A line of the cache.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Place(AtomicU64);

impl Count {
    /// One more, by this worker.
    pub(super) fn add(&self, worker: usize) {
        if let Some(place) = self.0.get(worker % self.0.len()) {
            place.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn sum(&self) -> u64 {
        self.0.iter().map(|place| place.0.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(value: &str) -> Signed {
        Signed { value: HeaderValue::from_str(value).unwrap(), kid: "k".into(), made: 100, until: 130 }
    }

    #[test]
    fn a_token_is_sent_again_for_its_text_its_key_and_its_time_alone() {
        let cache = Cache::new(1 << 20);
        cache.keep(b"alice", signed("a"));
        for (text, kid, now, found) in [
            (&b"alice"[..], "k", 100, true),
            (b"alice", "k", 129, true),
            (b"alice", "k", 130, false),
            (b"alice", "k", 99, false),
            (b"alice", "l", 110, false),
            (b"alic", "k", 110, false),
            (b"alicf", "k", 110, false),
        ] {
            assert_eq!(cache.recall(text, kid, now).is_some(), found, "{text:?} {kid} {now}");
        }
        cache.keep(b"alice", signed("b"));
        assert_eq!(cache.recall(b"alice", "k", 110).unwrap(), "b");
    }

    #[test]
    fn it_holds_so_many_bytes_whatever_comes() {
        for room in [1000, 1 << 20] {
            let cache = Cache::new(room);
            for number in 0..3000 {
                cache.keep(format!("{number:01000}").as_bytes(), signed(&"x".repeat(1000)));
            }
            assert!(cache.table.weight() <= room, "{} of {room}", cache.table.weight());
        }
    }
}
