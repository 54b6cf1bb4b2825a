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
//! Each question says what the node knows the bucket to owe, and in which life of the bucket it was told so. A store that has lost
//! its memory begins another life with that: what nodes knew of the one before counts once, as the most that any of them says.

use std::time::Duration;

use super::super::{Gcra, Nanos, Taken};

/// For how long a lease should last, in seconds.
const AHEAD: f64 = 0.1;
/// What has not been used for this long is given back, and forgotten after as much again.
pub(super) const IDLE: Duration = Duration::from_secs(1);

/// By which terms a key is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Terms {
    pub(in super::super) gcra: Gcra,
    /// The most tokens that this node may hold; none where the limit is strict.
    pub(in super::super) most: u32,
    /// Whether the store is asked every time.
    pub(in super::super) strict: bool,
    /// Of a quota: the second at which its period ends. Its bucket gets no tokens back.
    pub(in super::super) ends: Option<i64>,
}

/// What this node knows of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// Leased and not spent.
    pub(super) tokens: u32,
    /// Spent without a lease: the store has not been told.
    owed: u32,
    /// What the store said when it was last asked; none before.
    told: Option<Told>,
    /// Whether the store is being asked.
    pub(super) is_asked: bool,
    /// How many tokens a second are spent, and when that was found.
    rate: f64,
    rated: Nanos,
    used: Nanos,
    /// Requests of a quota that this node may still let pass alone; none before the first of an outage.
    alone: Option<u64>,
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
}

/// What a node tells the store of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// What it owes at least, in nanoseconds.
    pub(super) debt: u64,
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
        if waiting == 0 && self.owed == 0 && !is_low {
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
        if self.is_asked || !(all || self.is_idle(now)) || (self.tokens == 0 && self.owed == 0) {
            return None;
        }
        let back = std::mem::take(&mut self.tokens);
        Some(self.ordered(back, 0, now))
    }

    /// Gives so many back, charges what is owed, and wants so many.
    fn ordered(&mut self, back: u32, want: u32, now: Nanos) -> Order {
        let charge = i64::from(std::mem::take(&mut self.owed)) - i64::from(back);
        self.is_asked = true;
        let claim = self.told.map(|Told { life, losses, .. }| Claim {
            debt: self.owes(now).unwrap_or(0),
            life,
            losses,
        });
        Order { charge, want, at: now, claim }
    }

    /// Tells a store that was lost since it last said what the bucket owes, if that is anything.
    pub(super) fn claim(&mut self, losses: u64, now: Nanos) -> Option<Order> {
        let is_due = !self.is_asked && self.told.is_some_and(|told| told.losses != losses);
        (is_due && self.owes(now) > Some(0)).then(|| self.ordered(0, 0, now))
    }

    /// The store has answered.
    pub(super) fn fill(&mut self, order: &Order, said: &Said) {
        let Said { leased, debt, life, losses } = *said;
        self.is_asked = false;
        self.alone = None;
        self.tokens = self.tokens.saturating_add(leased);
        let debt = u64::try_from(debt.as_nanos()).unwrap_or(u64::MAX);
        self.told = Some(Told { debt, at: order.at, life, losses });
    }

    /// The store has not answered: what it surely was not told is told it the next time. What it may have been told is not, as nobody
    /// is charged twice.
    pub(super) fn lose(&mut self, order: &Order, sent: bool) {
        self.is_asked = false;
        if !sent {
            self.owe(u32::try_from(order.charge).unwrap_or(0), u32::MAX);
        }
    }

    /// Spent without a lease: to be charged, up to a whole bucket.
    pub(super) fn owe(&mut self, cost: u32, most: u32) {
        self.owed = self.owed.saturating_add(cost).min(most);
    }

    /// Decides about a quota without the store, of which this node has its part of what was left.
    pub(super) fn spend_alone(&mut self, terms: &Terms, cost: u32, nodes: u32, now: Nanos) -> Taken {
        let left = terms.gcra.look(self.owes(now).unwrap_or(0), 1).remaining();
        let part = left.saturating_sub(self.owed.into()) / u64::from(nodes.max(1));
        let alone = self.alone.get_or_insert(part);
        let passed = match alone.checked_sub(cost.into()) {
            Some(rest) => {
                *alone = rest;
                self.owe(cost, u32::MAX);
                true
            }
            None => false,
        };
        let rest = self.alone.unwrap_or(0);
        terms.gcra.judged(passed, terms.gcra.spent(terms.gcra.burst().saturating_sub(rest)), cost)
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

    /// Whether it says no more than no account at all.
    pub(super) fn is_over(&self, now: Nanos) -> bool {
        self.is_idle_and_settled(now) && self.owes(now).unwrap_or(0) == 0
    }

    /// Whether it says no more than the store does.
    pub(super) fn is_idle_and_settled(&self, now: Nanos) -> bool {
        let idle = now.as_nanos().saturating_sub(self.used.as_nanos());
        self.tokens == 0 && self.owed == 0 && !self.is_asked && idle >= 2 * nanoseconds(IDLE)
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
        let owes = self.owes(now).unwrap_or(0).saturating_sub(terms.gcra.time(self.tokens));
        terms.gcra.judged(passed, owes, cost)
    }
}

fn seconds(from: Nanos, to: Nanos) -> f64 {
    Duration::from_nanos(to.as_nanos().saturating_sub(from.as_nanos())).as_secs_f64()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(milliseconds: u64) -> Nanos {
        Nanos::from_nanos(100 * SECOND + milliseconds * 1_000_000)
    }

    fn terms(count: u64, burst: u64, most: u32) -> Terms {
        Terms { gcra: Gcra::new(count, Duration::from_secs(1), burst), most, strict: false, ends: None }
    }

    fn said(leased: u32, debt: Duration) -> Said {
        Said { leased, debt, life: 7, losses: 0 }
    }

    fn decided(known: Known) -> Taken {
        match known {
            Known::Decided(taken) => taken,
            Known::Ask => panic!("the store is asked"),
        }
    }

    #[test]
    fn a_key_that_nobody_knows_is_asked_for_and_spent_from_then_on() {
        let terms = terms(100, 100, 10);
        let mut account = Account::default();
        assert!(matches!(account.spend(&terms, 1, at(0)), Known::Ask));
        let order = account.order(&terms, 1, at(0)).unwrap();
        assert_eq!((order.charge, order.want), (0, 1), "one request is no rate");
        assert_eq!(account.order(&terms, 1, at(0)), None, "one question at a time");
        account.fill(&order, &said(1, Duration::from_millis(10)));
        let first = account.serve(&terms, 1, at(1));
        assert!(first.passed());
        assert_eq!((account.tokens, first.remaining()), (0, 99));
        assert!(matches!(account.spend(&terms, 1, at(1)), Known::Ask), "there may be more");
    }

    #[test]
    fn what_the_store_has_said_is_no_until_time_has_brought_a_token() {
        let terms = terms(100, 100, 10);
        let mut account = Account::default();
        let order = account.order(&terms, 5, at(0)).unwrap();
        account.fill(&order, &said(2, Duration::from_secs(1)));
        // Two of ours, none in the store.
        assert!(decided(account.spend(&terms, 1, at(0))).passed());
        let three = decided(account.spend(&terms, 3, at(0)));
        assert!(!three.passed());
        assert_eq!((three.remaining(), three.wait()), (1, Some(Duration::from_millis(20))));
        assert!(decided(account.spend(&terms, 1, at(0))).passed());
        let none = decided(account.spend(&terms, 1, at(5)));
        assert_eq!((none.passed(), none.wait()), (false, Some(Duration::from_millis(5))));
        assert!(matches!(account.spend(&terms, 1, at(10)), Known::Ask));
    }

    #[test]
    fn what_is_charged_is_told_whether_it_was_leased_or_is_owed() {
        let terms = terms(10, 10, 5);
        let mut account = Account::default();
        let order = account.order(&terms, 2, at(0)).unwrap();
        account.fill(&order, &said(2, Duration::from_millis(200)));
        let left: Vec<_> = (0..5).map(|_| account.charge(&terms, 1, 10, at(0)).remaining()).collect();
        assert_eq!((left, account.owed), (vec![9, 8, 7, 6, 5], 3));
    }

    #[test]
    fn a_lease_is_what_is_spent_in_a_tenth_of_a_second_and_no_more_than_the_node_may_hold() {
        for (most, leased) in [(1000, 95..=100), (40, 40..=40), (0, 0..=0)] {
            let terms = terms(1_000_000, 1_000_000, most);
            let mut account = Account::default();
            let order = account.order(&terms, 1000, at(0)).unwrap();
            account.fill(&order, &said(1000, Duration::ZERO));
            for spent in 0..1000 {
                assert!(decided(account.spend(&terms, 1, at(spent))).passed());
            }
            // A thousand tokens a second.
            let order = account.order(&terms, 0, at(1000));
            let wanted = order.map_or(0, |order| order.want);
            assert!(leased.contains(&wanted), "{wanted} of {most}");
        }
    }

    #[test]
    fn a_key_that_asks_now_and_then_gets_what_it_asks_for_and_nothing_ahead() {
        let terms = terms(1000, 1000, 100);
        let mut account = Account::default();
        for turn in 0..10 {
            let now = at(turn * 300);
            assert!(matches!(account.spend(&terms, 1, now), Known::Ask));
            let order = account.order(&terms, 1, now).unwrap();
            assert_eq!(order.want, 1);
            account.fill(&order, &said(1, Duration::from_millis(1)));
            assert!(account.serve(&terms, 1, now).passed());
            assert_eq!(account.order(&terms, 0, now), None);
        }
    }

    #[test]
    fn a_lease_is_fetched_when_half_of_it_is_left_and_never_where_the_bucket_is_empty() {
        let terms = terms(1000, 1000, 100);
        let mut account = Account::default();
        let order = account.order(&terms, 100, at(0)).unwrap();
        account.fill(&order, &said(100, Duration::from_millis(100)));
        let mut ordered = None;
        for spent in 1..=100 {
            assert!(decided(account.spend(&terms, 1, at(spent))).passed());
            ordered = account.order(&terms, 0, at(spent));
            if ordered.is_some() {
                assert!((10..=60).contains(&account.tokens), "{} left", account.tokens);
                break;
            }
        }
        let order = ordered.unwrap();
        account.fill(&order, &said(0, Duration::from_secs(1)));
        account.spend(&terms, 1, order.at);
        assert_eq!(account.order(&terms, 0, order.at), None, "an empty bucket is left alone");
    }

    #[test]
    fn what_is_idle_is_given_back_and_forgotten_once_the_bucket_is_full() {
        let terms = terms(10, 10, 10);
        let mut account = Account::default();
        account.used(at(0));
        let order = account.order(&terms, 3, at(0)).unwrap();
        account.fill(&order, &said(3, Duration::from_secs(5)));
        assert_eq!(account.give_back(false, at(900)), None);
        let back = account.give_back(false, at(1000)).unwrap();
        assert_eq!((back.charge, back.want, account.tokens), (-3, 0, 0));
        account.fill(&back, &said(0, Duration::from_secs(4)));
        assert!(!account.is_over(at(4999)));
        assert!(account.is_over(at(5000)));
        account.take_back(2);
        assert_eq!(account.give_back(true, at(5000)).unwrap().charge, -2);
    }

    #[test]
    fn a_strict_limit_asks_every_time_and_keeps_nothing() {
        let terms = Terms { strict: true, ..terms(10, 10, 0) };
        let mut account = Account::default();
        let order = account.order(&terms, 2, at(0)).unwrap();
        account.fill(&order, &said(2, Duration::from_secs(1)));
        assert!(account.serve(&terms, 1, at(0)).passed());
        assert!(matches!(account.spend(&terms, 1, at(0)), Known::Ask));
        let surplus = account.give_back_surplus(&terms, at(0)).unwrap();
        assert_eq!((surplus.charge, surplus.want), (-1, 0));
        account.fill(&surplus, &said(0, Duration::from_secs(1)));
        assert_eq!(account.give_back_surplus(&terms, at(0)), None);
        assert!(matches!(account.spend(&terms, 1, at(0)), Known::Ask), "whatever it said before");
    }

    #[test]
    fn what_was_spent_without_a_lease_is_charged_once_and_no_more_than_a_bucket() {
        let terms = terms(10, 10, 10);
        let mut account = Account::default();
        account.owe(4, 10);
        account.owe(9, 10);
        let order = account.order(&terms, 0, at(0)).unwrap();
        assert_eq!((order.charge, order.want), (10, 0));
        account.lose(&order, false);
        let order = account.order(&terms, 2, at(1)).unwrap();
        assert_eq!((order.charge, order.want), (10, 2));
        account.lose(&order, true);
        assert_eq!(account.order(&terms, 0, at(2)), None, "it may have been charged");
    }

    #[test]
    fn the_store_is_told_what_it_has_said_and_at_once_where_it_was_lost_since() {
        let terms = terms(10, 10, 10);
        let mut account = Account::default();
        let order = account.order(&terms, 1, at(0)).unwrap();
        assert_eq!(order.claim, None);
        account.fill(&order, &said(1, Duration::from_millis(500)));
        assert!(account.serve(&terms, 1, at(0)).passed());
        let claim = |debt: u64| Some(Claim { debt: debt * 1_000_000, life: 7, losses: 0 });
        assert_eq!(account.claim(0, at(100)), None);
        let order = account.claim(1, at(100)).unwrap();
        assert_eq!((order.charge, order.want, order.claim), (0, 0, claim(400)));
        assert_eq!(account.claim(1, at(100)), None, "it is being asked");
        account.lose(&order, true);
        assert_eq!(account.order(&terms, 2, at(200)).unwrap().claim, claim(300));
        account.is_asked = false;
        assert_eq!(account.claim(1, at(500)), None, "nothing is owed any more");
    }

    #[test]
    fn a_quota_alone_is_a_part_of_what_is_left_however_often_late_answers_come() {
        let gcra = Gcra::new(0, Duration::from_secs(1), 90);
        let terms = Terms { gcra, most: 0, strict: true, ends: Some(1) };
        let mut account = Account::default();
        let order = account.order(&terms, 1, at(0)).unwrap();
        let mut passed = 0;
        for _ in 0..3 {
            // The answer says nothing of what has passed here meanwhile.
            account.fill(&order, &said(0, Duration::from_nanos(gcra.spent(0))));
            passed += (0..90).filter(|_| account.spend_alone(&terms, 1, 3, at(1)).passed()).count();
        }
        assert_eq!(passed, 30 + 20 + 13);
    }
}
