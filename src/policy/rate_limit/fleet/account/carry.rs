//! What an account is worth under other terms: after a reload, and for answers to what was asked before it; and what is left of it when
//! the process ends.

use super::{Account, Count, Told, UNSAID};
use crate::policy::rate_limit::Nanos;
use crate::policy::rate_limit::fleet::terms::{Terms, Turn};

/// What outlives an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Remembered {
    /// What the bucket owes at least, in nanoseconds.
    pub(in super::super) debt: u64,
    /// In which of its lives the store has said so; 0: in none.
    pub(in super::super) life: i64,
    /// Of a quota: what was counted.
    pub(in super::super) counted: Option<Count>,
    /// Of a quota: what this node had let pass by then.
    pub(in super::super) passed: u64,
}

impl Account {
    /// Of a quota: what this node had let pass when the store was asked.
    pub(in super::super) fn note_passed(&mut self, passed: u64) {
        if let Some(told) = &mut self.told {
            told.passed = passed;
        }
    }

    /// What the bucket owes when what is leased has been given back, and of a limit what is owed has been charged: of a quota this node says
    /// by itself what it has let pass. None where that is nothing.
    pub(in super::super) fn remembered(&self, terms: &Terms, now: Nanos) -> Option<Remembered> {
        let life = self.told.map_or(0, |told| told.life);
        let (back, owed) = (self.tokens.saturating_add(self.returned), self.owed);
        let (debt, counted) = match terms.turn {
            None => {
                let debt = self.owes(now).unwrap_or(0).saturating_sub(terms.gcra.time(back));
                (terms.gcra.owing(debt, terms.gcra.time(owed)), None)
            }
            Some(turn) => {
                let none = Count { used: 0, is_first: !turn.is_later };
                let told = self.told.and_then(|told| told.counted).unwrap_or(none);
                let counted = Count { used: told.used.saturating_sub(back.into()), ..told };
                (terms.gcra.spent(counted.spent(turn.offset)), Some(counted))
            }
        };
        let passed = self.told.map_or(0, |told| told.passed);
        let is_nothing = debt == 0 || (self.told.is_none() && (owed == 0 || counted.is_some()));
        (!is_nothing).then_some(Remembered { debt, life, counted, passed })
    }

    /// One that has something to tell.
    pub(in super::super) fn telling(now: Nanos) -> Self {
        Self { to_tell: true, used: now, ..Self::default() }
    }

    /// Knows what another process did.
    pub(in super::super) fn know(&mut self, remembered: Remembered, now: Nanos) {
        let Remembered { debt, life, counted, passed } = remembered;
        self.told = Some(Told { debt, at: now, life, losses: UNSAID, counted, passed, is_old: true });
        self.used = now;
    }

    /// Counts by other terms from now on. Of a limit what is leased and what is owed stay as large a part of the bucket as they were, as
    /// `lease.lua` has it. Of a quota what was counted stays; where there are fewer requests than before, what is leased goes back.
    pub(in super::super) fn carry(&mut self, from: &Terms, to: &Terms, now: Nanos) {
        let offset = |terms: &Terms| terms.turn.map_or(0, |turn| turn.offset);
        if (from.gcra, offset(from)) == (to.gcra, offset(to)) {
            return;
        }
        match to.turn {
            None => {
                let (before, after) = (u128::from(from.gcra.burst().max(1)), u128::from(to.gcra.burst()));
                // Rounded so that no token comes of it.
                let tokens = u128::from(self.tokens) * after / before;
                let owed = (u128::from(self.owed) * after).div_ceil(before);
                self.tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
                self.owed = u32::try_from(owed).unwrap_or(u32::MAX);
                if let Some(debt) = self.owes(now) {
                    let debt = from.gcra.scaled(debt, &to.gcra);
                    self.told = self.told.map(|told| Told { debt, at: now, ..told });
                }
            }
            Some(Turn { offset, .. }) => {
                if to.gcra.burst() < from.gcra.burst() {
                    self.returned = self.returned.saturating_add(std::mem::take(&mut self.tokens));
                }
                if let Some(told) = &mut self.told
                    && let Some(counted) = told.counted
                {
                    told.debt = to.gcra.spent(counted.spent(offset));
                }
            }
        }
    }
}
