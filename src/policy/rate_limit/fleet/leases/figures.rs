//! What leases tell of themselves.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Leases, lock};

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) asked: AtomicU64,
    pub(super) alone: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) overflows: AtomicU64,
}

/// What leases tell of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseFigures {
    /// Keys that have an account.
    pub keys: u64,
    /// Tokens that are leased and not spent.
    pub leased: u64,
    /// Questions for the store.
    pub asked: u64,
    /// Decisions that this node made by its share alone.
    pub alone: u64,
    /// Of these, the ones that had waited for the store in vain.
    pub late: u64,
    /// Decisions for keys that had no room for an account.
    pub overflows: u64,
}

impl LeaseFigures {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            keys: self.keys + other.keys,
            leased: self.leased + other.leased,
            asked: self.asked + other.asked,
            alone: self.alone + other.alone,
            late: self.late + other.late,
            overflows: self.overflows + other.overflows,
        }
    }
}

impl Leases {
    /// What there is to tell. Locks shards one after the other.
    pub(in super::super::super) fn figures(&self) -> LeaseFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { asked, alone, late, overflows } = &self.counters;
        let (keys, leased) = self.shards.iter().fold((0, 0), |(keys, leased), shard| {
            let shard = lock(shard);
            let own: u64 = shard.values().map(|entry| u64::from(entry.account.tokens)).sum();
            (keys + shard.len() as u64, leased + own)
        });
        let (asked, alone, late, overflows) = (read(asked), read(alone), read(late), read(overflows));
        LeaseFigures { keys, leased, asked, alone, late, overflows }
    }
}

pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
