//! By which terms a key is counted.

use super::super::Gcra;

/// By which terms a key is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Terms {
    pub(in super::super) gcra: Gcra,
    /// The most tokens that this node may hold; none where the limit is strict.
    pub(in super::super) most: u32,
    /// Whether the store is asked every time.
    pub(in super::super) strict: bool,
    /// Of a quota: its period. Its bucket gets no tokens back.
    pub(in super::super) turn: Option<Turn>,
}

/// A period of a quota. What a first period has less is taken for spent, so that all else need not know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Turn {
    /// The second at which it begins, and that at which the next one does.
    pub(in super::super) begins: i64,
    pub(in super::super) ends: i64,
    /// So many requests less has the first period of a key in the plan.
    pub(in super::super) offset: u64,
    /// This node knows of an earlier one.
    pub(in super::super) is_later: bool,
    /// How many requests of it this node has let pass so far; none where it cannot say.
    pub(in super::super) passed: Option<u64>,
}

impl Terms {
    /// What a node may owe of a key that it let pass alone: a whole bucket.
    pub(super) fn most_owed(&self) -> u32 {
        u32::try_from(self.gcra.burst()).unwrap_or(u32::MAX)
    }

    /// What a bucket of which nothing was heard is taken to owe: where it may be a key's first period, what that has less.
    pub(super) fn assumed(&self) -> u64 {
        match self.turn {
            Some(turn) if !turn.is_later => self.gcra.spent(turn.offset),
            Some(_) | None => 0,
        }
    }
}
