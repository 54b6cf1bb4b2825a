//! What a node knows of one key of a fleet's limit: the tokens that it has leased, and what the store said last. Plain arithmetic;
//! `leases.rs` puts it to use.
//!
//! # How much is leased
//! As much as the key spends in [`AHEAD`], judged by what it has spent of late, and no more than this node's part of what
//! the fleet may hold ([`Terms::most`]). A new lease is fetched when half of it is left, so a busy key waits for nobody. What a
//! request needs beyond it is leased for that request, which spends it at once.
//!
//! # What is known without asking
//! What the store said last is, less the time that has passed since, the least that the bucket can owe now (others may have taken
//! more meanwhile; what they have given back is found a moment later). Where even that leaves too few tokens, the answer is no, and the store
//! is not asked: a client that hammers costs it nothing.
//!
//! # A store that has forgotten
//! Each question says what the node knows the bucket to owe, and in which life of the bucket it was told so (0: in none). A store that has lost
//! its memory begins another life with that: what nodes knew of the one before counts once, as the most that any of them says.

mod carry;
#[cfg(test)]
mod tests;

pub(super) use carry::Remembered;

use std::time::Duration;

use super::super::{Gcra, Nanos, Taken};
use super::terms::{Terms, Turn};

/// For how long a lease should last, in seconds.
const AHEAD: f64 = 0.1;
/// What has not been used for this long is given back, and forgotten after as much again.
pub(super) const IDLE: Duration = Duration::from_secs(1);

/// Instead of how often the store was lost: it has never said so.
const UNSAID: u64 = u64::MAX;

/// What this node knows of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// Leased and not spent.
    pub(super) tokens: u32,
    /// Spent without a lease: the store has not been told.
    owed: u32,
    /// Leased and not to be spent: the store is told with the next question.
    returned: u32,
    /// What the store said when it was last asked; none before.
    told: Option<Told>,
    /// Whether the store is being asked.
    pub(super) is_asked: bool,
    /// How many tokens a second are spent, and when that was found.
    rate: f64,
    rated: Nanos,
    used: Nanos,
    /// The store is to be told what this node has let pass, though nobody asks.
    pub(super) to_tell: bool,
    /// Requests of a quota that this node has let pass alone, and the store has not counted.
    alone: u64,
}

/// What the store has said of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    /// What it owed, in nanoseconds, when it was asked.
    debt: u64,
    at: Nanos,
    life: i64,
    /// How often the store had been lost by then.
    losses: u64,
    /// Of a quota: what was counted.
    counted: Option<Count>,
    /// Of a quota: what this node had let pass by then.
    passed: u64,
    /// Another process was told so.
    is_old: bool,
}

/// What was counted of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) used: u64,
    /// Whether it is the key's first period in the plan.
    pub(super) is_first: bool,
}

impl Count {
    /// What is not there to be spent, where a first period has so many less.
    pub(super) fn spent(self, offset: u64) -> u64 {
        self.used.saturating_add(if self.is_first { offset } else { 0 })
    }
}

/// What a node tells the store of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// What it owes at least, in nanoseconds.
    pub(super) debt: u64,
    /// Of a quota: what was counted when the store said so last.
    pub(super) counted: Option<Count>,
    /// In which of its lives the store has said so.
    pub(super) life: i64,
    /// How often the store had been lost by then.
    pub(super) losses: u64,
}

/// What the store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) leased: u32,
    /// What the bucket owes after it.
    pub(super) debt: Duration,
    /// Of a quota: what is counted after it.
    pub(super) counted: Option<Count>,
    /// When the bucket's life began, by the store's clock.
    pub(super) life: i64,
    /// How often the store had been lost when it was asked.
    pub(super) losses: u64,
}

/// What can be said at once.
#[derive(Clone, Copy, Debug)]
pub(super) enum Known {
    /// Decided: tokens were taken from the lease, or there are none anywhere.
    Decided(Taken),
    /// Only the store knows.
    Ask,
}

/// What the store is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Tokens to be charged; less than nothing: given back.
    pub(super) charge: i64,
    pub(super) want: u32,
    /// When it was asked.
    pub(super) at: Nanos,
    /// None where the store was never asked.
    pub(super) claim: Option<Claim>,
}

impl Account {
    /// Takes tokens from the lease, or says that there are none, or that it takes the store to say so, as it always does where the limit
    /// is strict.
    pub(super) fn spend(&mut self, terms: &Terms, cost: u32, now: Nanos) -> Known {
        self.used = now;
        if terms.strict {
            return Known::Ask;
        }
        if let Some(tokens) = self.tokens.checked_sub(cost) {
            self.tokens = tokens;
            self.note_spent(cost, now);
            return Known::Decided(self.seen(terms, true, cost, now));
        }
        match self.owes(now) {
            Some(owes) if !self.reaches(&terms.gcra, owes, cost) => {
                Known::Decided(self.seen(terms, false, cost, now))
            }
            Some(_) | None => Known::Ask,
        }
    }

    /// Whether the lease is half spent, or something is owed; and what to ask for then. `waiting` tokens are asked for beside, by
    /// requests that wait. None where there is nothing to ask for, or an answer is waited for already.
    pub(super) fn order(&mut self, terms: &Terms, waiting: u32, now: Nanos) -> Option<Order> {
        if self.is_asked {
            return None;
        }
        let planned = self.planned(terms, now);
        let is_low = u64::from(self.tokens) * 2 < u64::from(planned)
            && self.owes(now).is_none_or(|owes| self.reaches(&terms.gcra, owes, self.tokens + 1));
        if waiting == 0 && self.owed == 0 && self.returned == 0 && !is_low {
            return None;
        }
        let ahead = planned.saturating_sub(self.tokens);
        let want = if waiting > 0 || is_low { waiting.max(ahead) } else { 0 };
        Some(self.ordered(0, want, now))
    }

    /// Gives back what is more than the node may hold: requests that had waited for it went without, or did not need it.
    pub(super) fn give_back_surplus(&mut self, terms: &Terms, now: Nanos) -> Option<Order> {
        let surplus = self.tokens.checked_sub(terms.most).filter(|surplus| *surplus > 0 && !self.is_asked)?;
        self.tokens = terms.most;
        Some(self.ordered(surplus, 0, now))
    }

    /// Gives the lease back, where nobody has used it for a while, or at once where `all` is over; what is owed is charged.
    pub(super) fn give_back(&mut self, all: bool, now: Nanos) -> Option<Order> {
        if self.is_asked || !(all || self.is_idle(now)) || self.is_even() {
            return None;
        }
        let back = std::mem::take(&mut self.tokens);
        Some(self.ordered(back, 0, now))
    }

    /// Gives so many back, charges what is owed, and wants so many.
    fn ordered(&mut self, back: u32, want: u32, now: Nanos) -> Order {
        let back = back.saturating_add(std::mem::take(&mut self.returned));
        let charge = i64::from(std::mem::take(&mut self.owed)) - i64::from(back);
        self.is_asked = true;
        let claim = self.told.map(|Told { life, losses, counted, .. }| Claim {
            debt: self.owes(now).unwrap_or(0),
            counted,
            life,
            losses,
        });
        Order { charge, want, at: now, claim }
    }

    /// Tells a store that was lost since it last said what the bucket owes, if that is anything.
    pub(super) fn claim(&mut self, losses: u64, now: Nanos) -> Option<Order> {
        let is_due = self.told.is_some_and(|told| told.losses != losses) && self.owes(now) > Some(0);
        (!self.is_asked && (is_due || self.to_tell)).then(|| self.ordered(0, 0, now))
    }

    /// The store has answered.
    pub(super) fn fill(&mut self, order: &Order, said: &Said) {
        let Said { leased, debt, counted, life, losses } = *said;
        (self.is_asked, self.to_tell) = (false, false);
        self.alone = self.owed.into();
        self.tokens = self.tokens.saturating_add(leased);
        let debt = u64::try_from(debt.as_nanos()).unwrap_or(u64::MAX);
        self.told = Some(Told { debt, at: order.at, life, losses, counted, passed: 0, is_old: false });
    }

    /// The store has not answered. What it surely was not told is told it the next time. What it may have been told is not, as nobody is
    /// charged twice: it is claimed, as what the bucket owes at least.
    pub(super) fn lose(&mut self, terms: &Terms, order: &Order, sent: bool) {
        self.is_asked = false;
        let back = u32::try_from(order.charge.saturating_neg()).unwrap_or(0);
        let charge = u32::try_from(order.charge).unwrap_or(0);
        if !sent {
            self.returned = self.returned.saturating_add(back);
            self.owe(charge, u32::MAX);
        } else if charge > 0 {
            let debt = terms.gcra.owing(self.debt(terms, order.at), terms.gcra.time(charge));
            let of_quota = |turn: Turn| {
                let none = Count { used: 0, is_first: !turn.is_later };
                let told = self.told.and_then(|told| told.counted).unwrap_or(none);
                Count { used: told.used.saturating_add(charge.into()), ..told }
            };
            let counted = terms.turn.map(of_quota);
            let (life, passed, is_old) =
                self.told.map_or((0, 0, true), |told| (told.life, told.passed, told.is_old));
            self.told = Some(Told { debt, at: order.at, life, losses: UNSAID, counted, passed, is_old });
        }
    }

    /// Spent without a lease: to be charged, up to a whole bucket.
    pub(super) fn owe(&mut self, cost: u32, most: u32) {
        self.owed = self.owed.saturating_add(cost).min(most);
    }

    /// Decides about a quota without the store, of which this node has its part of what was left.
    pub(super) fn spend_alone(&mut self, terms: &Terms, cost: u32, nodes: u32) -> Taken {
        let left = |debt| terms.gcra.look(debt, 1).remaining() / u64::from(nodes.max(1));
        let rest = match self.told {
            Some(told) if !told.is_old => left(told.debt).saturating_sub(self.alone),
            // What it has let pass since was its own part, whichever of its processes did.
            told => {
                let (debt, then) = told.map_or_else(|| (terms.assumed(), 0), |told| (told.debt, told.passed));
                let passed = terms.turn.and_then(|turn| turn.passed).unwrap_or(0);
                left(debt).saturating_sub(passed.saturating_sub(then).max(self.alone))
            }
        };
        let after = rest.checked_sub(cost.into());
        if after.is_some() {
            self.alone = self.alone.saturating_add(cost.into());
            self.owe(cost, u32::MAX);
        }
        let rest = after.unwrap_or(rest);
        let owes = terms.gcra.spent(terms.gcra.burst().saturating_sub(rest));
        terms.gcra.judged(after.is_some(), owes, cost)
    }

    /// A request that took tokens did not need them.
    pub(super) fn take_back(&mut self, cost: u32) {
        self.tokens = self.tokens.saturating_add(cost);
        self.rate = (self.rate - f64::from(cost) / AHEAD).max(0.0);
    }

    /// Takes tokens if they are there, for requests that have waited.
    pub(super) fn serve(&mut self, terms: &Terms, cost: u32, now: Nanos) -> Taken {
        let Some(tokens) = self.tokens.checked_sub(cost) else { return self.seen(terms, false, cost, now) };
        self.tokens = tokens;
        self.note_spent(cost, now);
        self.seen(terms, true, cost, now)
    }

    /// Takes tokens, and owes them where they are not there, up to `most`: how it stands then, as far as this node knows.
    pub(super) fn charge(&mut self, terms: &Terms, cost: u32, most: u32, now: Nanos) -> Taken {
        let served = self.serve(terms, cost, now);
        if served.passed() {
            return served;
        }
        self.owe(cost, most);
        terms.gcra.charge(served.debt(), self.owed)
    }

    /// The least that the fleet's bucket owes now; none where the store has never been asked.
    pub(super) fn owes(&self, now: Nanos) -> Option<u64> {
        let Told { debt, at, .. } = self.told?;
        Some(debt.saturating_sub(now.as_nanos().saturating_sub(at.as_nanos())))
    }

    /// The same; before the store was asked, what is taken from a quota's period that may be the key's first.
    fn debt(&self, terms: &Terms, now: Nanos) -> u64 {
        self.owes(now).unwrap_or_else(|| terms.assumed())
    }

    /// Whether the period of a quota is the key's first, as the store says; none before it was asked.
    pub(super) fn is_first(&self) -> Option<bool> {
        Some(self.told?.counted?.is_first)
    }

    /// Whether it says no more than no account at all.
    pub(super) fn is_over(&self, now: Nanos) -> bool {
        self.is_idle_and_settled(now) && self.owes(now).unwrap_or(0) == 0
    }

    /// Whether it says no more than the store does.
    pub(super) fn is_idle_and_settled(&self, now: Nanos) -> bool {
        let idle = now.as_nanos().saturating_sub(self.used.as_nanos());
        self.is_even() && !self.is_asked && !self.to_tell && idle >= 2 * nanoseconds(IDLE)
    }

    /// Whether the store has nothing to get from this node, nor this node has anything of the store's.
    fn is_even(&self) -> bool {
        (self.tokens, self.owed, self.returned) == (0, 0, 0)
    }

    pub(super) fn used(&mut self, now: Nanos) {
        self.used = now;
    }

    fn is_idle(&self, now: Nanos) -> bool {
        now.as_nanos().saturating_sub(self.used.as_nanos()) >= nanoseconds(IDLE)
    }

    /// How many tokens a lease should have: none for a key that has asked once.
    fn planned(&self, terms: &Terms, now: Nanos) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "a cast of floats saturates")]
        let planned = (self.rate_at(now) * AHEAD - 1.0).round() as u32;
        planned.min(terms.most)
    }

    /// Tokens a second: what was spent counts for less the longer it is ago, half of it after [`AHEAD`]. At a steady rate it is that
    /// and one more in [`AHEAD`].
    fn rate_at(&self, now: Nanos) -> f64 {
        self.rate / (1.0 + seconds(self.rated, now) / AHEAD)
    }

    fn note_spent(&mut self, cost: u32, now: Nanos) {
        self.rate = self.rate_at(now) + f64::from(cost) / AHEAD;
        self.rated = now;
    }

    /// Whether so many tokens would be there, ours and those of a bucket that owes so much.
    fn reaches(&self, gcra: &Gcra, owes: u64, cost: u32) -> bool {
        gcra.look(owes.saturating_sub(gcra.time(self.tokens)), cost).passed()
    }

    /// How it stands with the fleet's bucket, our lease being a part of it that is not spent.
    fn seen(&self, terms: &Terms, passed: bool, cost: u32, now: Nanos) -> Taken {
        let owes = self.debt(terms, now).saturating_sub(terms.gcra.time(self.tokens));
        terms.gcra.judged(passed, owes, cost)
    }
}

fn seconds(from: Nanos, to: Nanos) -> f64 {
    Duration::from_nanos(to.as_nanos().saturating_sub(from.as_nanos())).as_secs_f64()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
