//! What a limit says to a request that it does not let pass.

use std::time::Duration;

use super::limit::{AUTH_FAILURES, Asked, RATE, RateLimit, SPENT};
use super::penalty::PENALTY;
use super::{Nanos, Taken};
use crate::reply::Kind;

/// Why a request is not let pass, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Short {
    pub(super) kind: Kind,
    pub(super) reason: &'static str,
    /// Whole tokens that are left all the same, fewer than it costs.
    pub(super) remaining: u64,
    /// Until there is one more; until there are all.
    pub(super) next: Duration,
    pub(super) full: Duration,
    /// When to come again; none where it would be in vain.
    pub(super) wait: Option<Duration>,
}

impl Short {
    fn cooled_off(rest: Duration, full: Duration) -> Self {
        Self {
            kind: Kind::AbnormalUsage,
            reason: PENALTY,
            remaining: 0,
            next: rest,
            full: full.max(rest),
            wait: Some(rest),
        }
    }
}

impl RateLimit {
    /// Whether the key is cooled off: nothing of it is let pass, and no token taken.
    pub(super) fn cooled_off(&self, asked: &Asked, now: Nanos) -> Option<Short> {
        self.penalty?;
        if asked.cost == 0 || self.allowance.is_none() {
            return None;
        }
        let rest = self.table.cooled_off(asked.key, now)?;
        Some(Short::cooled_off(rest, Duration::ZERO))
    }

    /// The bucket had too few tokens, and this is what it said. A key that has come too early too often is cooled off from now on.
    pub(super) fn short(&self, asked: &Asked, seen: &Taken, now: Nanos) -> Short {
        let mut short = self.lacking(seen);
        let Some((rules, wait)) = self.penalty.as_ref().zip(short.wait) else { return short };
        let Some(penalties) = self.table.penalties() else { return short };
        let word = penalties.refused(rules, asked.key, wait, now);
        let wait = Duration::from_nanos(word.wait);
        if word.cooled_off {
            return Short::cooled_off(wait, short.full);
        }
        // All that wait are told one moment, in whatever field they look for it.
        (short.next, short.full, short.wait) = (wait, short.full.max(wait), Some(wait));
        short
    }

    /// The bucket has too few tokens, and this is what it said; no conduct of the key's is noted.
    pub(super) fn lacking(&self, seen: &Taken) -> Short {
        Short {
            kind: Kind::Throttled,
            reason: match self.counts_auth_failures() {
                true => AUTH_FAILURES,
                false if self.counts_ends() => SPENT,
                false => RATE,
            },
            remaining: seen.remaining(),
            next: seen.next_token(),
            full: seen.full(),
            wait: seen.wait(),
        }
    }
}
