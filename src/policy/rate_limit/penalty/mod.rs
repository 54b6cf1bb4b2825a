//! Keys that keep hammering are cooled off, each time longer.
//!
//! # What is a breach
//! A limit refuses a request and tells its key when to come again: the key *waits*. With a penalty that is three seconds at least, and
//! whatever is refused while it waits is told the same moment. A request that is refused while its key waits, but not in the
//! first two seconds, is a *breach*. As many breaches as [`Rules`] say bring a *cool-off*: until its end everything of the key
//! is refused, whether there are tokens or not. A cool-off is never made longer while it runs: what was told holds.
//! The next one is twice as long, up to a bound, unless the key has been quiet for a while.
//!
//! # A key within its limit is never penalised
//! A key has a record only from its first refusal on: [`Penalties::refused`] is called for a request whose bucket lacked the
//! tokens, and a bucket never refuses a key within its limit (see `buckets.rs`). A record is found by all 128 bits of a key's hash,
//! under a secret (see `hash.rs`), so no other key's record is taken for it; 8 of them tell its class. Where a record has no room
//! nothing is remembered of that key, and nothing of others is forgotten or given to it.
//!
//! # Nor is who keeps to what he is told
//! Who honours what he is told sends nothing between an answer and the time in it. Be `t` when a key begins to wait, and `u` the end.
//! What was on its way when the first answer came arrives before `t + 2 s`, if the way there and back takes less. All else that
//! is sent of the key was told `u`, and so arrives at `u` or later: nothing of it is a breach of this wait. As `Retry-After` has
//! whole seconds it also arrives before `u + 1 s` and the time of the way, so before `u + 2 s`, if that is less than a second.
//! The next wait begins at `u` or later, and its first two seconds are none of breaches: what was told `u` is none of this one either. A
//! wait that is prolonged (tokens have been taken meanwhile, by requests that came when there were some) has its first two seconds
//! from `u` on. Who is cooled off has made breaches before.
//!
//! A fleet's limit may refuse at one node what another has left (see `fleet/`); for that nobody is penalised who keeps to what he is
//! told.
//!
//! The key is what is penalised: where several share one, such as an address, one who hammers has all of them cooled off.
//!
//! # Clocks
//! A record from more than a second in the future is void: the clock was set back.

mod config;
mod saved;
mod table;
#[cfg(test)]
mod tests;

pub use config::PenaltyConfig;
pub(super) use saved::SavedPenalty;
pub(super) use table::Penalties;
pub use table::PenaltyFigures;

use super::gcra::Nanos;
use super::screen::STALE;

/// Why a key that is cooled off is refused.
pub(super) const PENALTY: &str = "penalty";

const SECOND: u64 = 1_000_000_000;
/// What arrives so soon after a key was told to wait may have been on its way.
const GRACE: u64 = 2 * SECOND;
/// The shortest that a key is told to wait: longer than [`GRACE`], or nothing would be a breach.
const WAIT_MIN: u64 = 3 * SECOND;

/// When a key is cooled off, and for how long. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    after: u32,
    within: u64,
    first: u64,
    max: u64,
}

/// What a refused request is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Nanoseconds until it may come again.
    pub(super) wait: u64,
    pub(super) cooled_off: bool,
}

/// What a key was told, and how it has behaved since. Times are in nanoseconds, as [`Nanos`] has them.
#[derive(Clone, Copy, Debug, Default)]
struct Conduct {
    /// The key waits, or is cooled off, from then until then.
    since: u64,
    until: u64,
    /// From when on what is refused is a breach.
    excused: u64,
    /// When the first of the breaches was.
    began: u64,
    /// How long the last cool-off is remembered.
    remembered: u64,
    breaches: u32,
    /// Cool-offs so far that are not forgotten.
    level: u8,
    cooled_off: bool,
}

impl Rules {
    /// Of times in seconds.
    #[cfg(test)]
    pub(super) const fn of(after: u32, within: u64, first: u64, max: u64) -> Self {
        Self { after, within: within * SECOND, first: first * SECOND, max: max * SECOND }
    }

    /// The cool-off of a key that had so many before.
    fn cool_off(&self, level: u8) -> u64 {
        let doubled = 1_u64.checked_shl(u32::from(level)).unwrap_or(u64::MAX);
        self.first.saturating_mul(doubled).min(self.max)
    }

    /// A request was refused by its bucket, which has tokens again in `wait`. Says what it is told, and whether a cool-off begins.
    fn refuse(&self, conduct: &mut Conduct, wait: u64, now: u64) -> (Word, bool) {
        if let Some(rest) = conduct.rest(now) {
            return (Word { wait: rest, cooled_off: true }, false);
        }
        if conduct.is_void(self, now) {
            *conduct = Conduct::default();
        }
        let ready = now.saturating_add(wait);
        if now >= conduct.until {
            conduct.begin_wait(now, now.saturating_add(GRACE), ready.max(now.saturating_add(WAIT_MIN)));
        } else {
            if now >= conduct.excused && self.count(conduct, now) {
                return (self.begin(conduct, wait, now), true);
            }
            let honoured = conduct.until.saturating_add(GRACE);
            if ready > honoured {
                conduct.begin_wait(now, honoured, ready);
            }
        }
        (Word { wait: conduct.until.saturating_sub(now), cooled_off: false }, false)
    }

    /// Counts a breach. Whether it is one too many.
    fn count(&self, conduct: &mut Conduct, now: u64) -> bool {
        if conduct.breaches == 0 || now.saturating_sub(conduct.began) >= self.within {
            (conduct.breaches, conduct.began) = (0, now);
        }
        conduct.breaches += 1;
        if let Some(last) = conduct.level.checked_sub(1) {
            let quiet = self.within.max(self.cool_off(last));
            conduct.remembered = conduct.remembered.max(now.saturating_add(quiet));
        }
        conduct.breaches >= self.after
    }

    fn begin(&self, conduct: &mut Conduct, wait: u64, now: u64) -> Word {
        let cool_off = self.cool_off(conduct.level);
        let told = cool_off.max(wait);
        let until = now.saturating_add(told);
        *conduct = Conduct {
            since: now,
            until,
            excused: until,
            began: 0,
            remembered: until.saturating_add(cool_off.max(self.within)),
            breaches: 0,
            level: conduct.level.saturating_add(1),
            cooled_off: true,
        };
        Word { wait: told, cooled_off: true }
    }
}

impl Conduct {
    fn begin_wait(&mut self, now: u64, excused: u64, until: u64) {
        let level = if now < self.remembered { self.level } else { 0 };
        *self = Self { since: now, until, excused, level, cooled_off: false, ..*self };
    }

    /// How long a key is cooled off yet; none where it is not.
    fn rest(&self, now: u64) -> Option<u64> {
        let held = self.cooled_off && !self.is_of_the_future(now);
        self.until.checked_sub(now).filter(|rest| held && *rest > 0)
    }

    /// Whether it says no more than none.
    fn is_void(&self, rules: &Rules, now: u64) -> bool {
        let counts = self.breaches > 0 && now.saturating_sub(self.began) < rules.within;
        self.is_of_the_future(now) || (now >= self.until && now >= self.remembered && !counts)
    }

    const fn is_of_the_future(&self, now: u64) -> bool {
        self.since > now.saturating_add(STALE)
    }
}
