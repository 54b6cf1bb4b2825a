//! What keys have used of their quotas, as this process knows it: what the store said last, and what was counted here since and is
//! not written yet.
//!
//! A counter is about one key in one plan. It knows a period only once the store was asked about it, since another process, or
//! this one before it was started anew, may have counted too. What is not written of a period that is over stays until it is.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use foldhash::fast::FixedState;

use super::period::Period;

/// Workers that ask for different keys rarely meet.
const SHARDS: usize = 16;

/// What was used of a period, according to the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Requests, by all processes.
    pub used: u64,
    /// Whether it is the first period of this key in this plan.
    pub first: bool,
    /// Of these requests, so many were let pass by the node whose store was copied.
    pub copied: u64,
}

impl Known {
    /// Requests by this node alone.
    pub const fn own(&self) -> u64 {
        self.used.saturating_sub(self.copied)
    }
}

/// How many requests a period has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// In any period.
    pub limit: u64,
    /// So many less in the first one.
    pub offset: u64,
}

impl Allowance {
    /// That of the first period, or of another.
    pub const fn of(&self, first: bool) -> u64 {
        if first { self.limit.saturating_sub(self.offset) } else { self.limit }
    }
}

/// How it stands with a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Requests so far, this one included where it passes.
    pub used: u64,
    /// Requests of this period.
    pub allowed: u64,
}

impl Usage {
    /// Requests that are left.
    pub const fn left(&self) -> u64 {
        self.allowed.saturating_sub(self.used)
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// It is counted.
    Passed(Usage),
    /// The period's requests are used up: it is not counted.
    Spent(Usage),
    /// The store has not been asked about this period yet: it is not counted.
    Unknown,
}

/// Counters by key.
type Shard = RwLock<HashMap<Box<str>, Arc<Counter>, FixedState>>;

/// The counters of one plan.
#[derive(Debug)]
pub struct Tally {
    plan: Box<str>,
    shards: [Shard; SHARDS],
    unwritten: AtomicI64,
    /// What is counted is written within so many milliseconds, or as soon as it is so many requests.
    flush_millis: AtomicU64,
    flush_requests: AtomicI64,
}

/// The counter of one key in one plan.
#[derive(Debug)]
pub struct Counter {
    key: Box<str>,
    spans: Mutex<Spans>,
}

#[derive(Debug)]
struct Spans {
    /// Mostly one.
    list: Vec<Span>,
    /// A period that begins here or later is not the key's first in the plan.
    later: i64,
}

#[derive(Debug)]
struct Span {
    period: Period,
    known: Option<Known>,
    /// The store has not said so.
    guessed: bool,
    /// Counted here and not written. Less than nothing where more was written than has passed.
    unwritten: i64,
}

impl Tally {
    /// Of a plan that nobody has used yet.
    pub fn new(plan: &str) -> Self {
        Self {
            plan: plan.into(),
            shards: std::array::from_fn(|_| RwLock::default()),
            unwritten: AtomicI64::new(0),
            flush_millis: AtomicU64::new(1_000),
            flush_requests: AtomicI64::new(1_000),
        }
    }

    /// How long, and how much, may stay unwritten: a second and a thousand requests where nothing else was said.
    pub fn set_flush(&self, time: Duration, requests: u32) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.flush_millis.store(millis, Ordering::Relaxed);
        self.flush_requests.store(requests.into(), Ordering::Relaxed);
    }

    /// When what is counted is to be written; none where nothing is.
    pub fn write_within(&self) -> Option<Duration> {
        match self.unwritten() {
            0 => None,
            number if number >= self.flush_requests.load(Ordering::Relaxed) => Some(Duration::ZERO),
            _ => Some(self.flush()),
        }
    }

    /// One more request is counted; whether the keeper must hear of it, and what it has to keep.
    pub fn note_counted(&self) -> Option<Duration> {
        let before = self.add_unwritten(1);
        if before + 1 == self.flush_requests.load(Ordering::Relaxed) {
            return Some(Duration::ZERO);
        }
        (before <= 0).then(|| self.flush())
    }

    fn flush(&self) -> Duration {
        Duration::from_millis(self.flush_millis.load(Ordering::Relaxed))
    }

    /// The plan's name.
    pub fn plan(&self) -> &str {
        &self.plan
    }

    /// The counter of a key. A new one takes about 200 bytes, until the period is over.
    pub fn counter(&self, key: &str) -> Arc<Counter> {
        let shard = self.shard(key);
        if let Some(found) = shard.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Arc::clone(found);
        }
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        let made = || Arc::new(Counter::new(key));
        Arc::clone(shard.entry(key.into()).or_insert_with(made))
    }

    /// Adds to what is counted and not written; gives what it was before.
    pub fn add_unwritten(&self, number: i64) -> i64 {
        self.unwritten.fetch_add(number, Ordering::AcqRel)
    }

    /// What is counted and not written.
    pub fn unwritten(&self) -> i64 {
        self.unwritten.load(Ordering::Acquire)
    }

    /// Counters that have something to be written, with what it is.
    pub fn to_write(&self) -> Vec<(Arc<Counter>, Period, i64)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            for counter in shard.values() {
                let spans = counter.lock();
                let of = |span: &Span| (Arc::clone(counter), span.period, span.unwritten);
                found.extend(spans.list.iter().filter(|span| span.unwritten != 0).map(of));
            }
        }
        found
    }

    /// Forgets counters whose periods are over, that nobody holds and of which all is written.
    pub fn sweep(&self, now: i64) {
        for shard in &self.shards {
            shard
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|_, counter| Arc::strong_count(counter) > 1 || !counter.is_over(now));
        }
    }

    /// Forgets what the store has said of any key: it is asked again.
    pub fn forget(&self) {
        for shard in &self.shards {
            shard
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .values()
                .for_each(|counter| counter.forget());
        }
    }

    /// How many keys are counted.
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, key: &str) -> &Shard {
        let [first, others @ ..] = &self.shards;
        let hash = FixedState::default().hash_one(key);
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        index.checked_sub(1).and_then(|index| others.get(index)).unwrap_or(first)
    }
}

impl Counter {
    fn new(key: &str) -> Self {
        Self { key: key.into(), spans: Mutex::new(Spans { list: Vec::new(), later: i64::MAX }) }
    }

    /// The key's id.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Counts a request, if the period has one left. Two at once never share the last one.
    pub fn count(&self, period: Period, allowance: Allowance) -> Counted {
        self.lock().count(period, allowance)
    }

    /// The same, where `alone` says that no other process counts; none otherwise. What was counted while it said so is found by who says
    /// no and then looks what is [to be written](Tally::to_write).
    pub fn count_alone(&self, period: Period, allowance: Allowance, alone: &AtomicBool) -> Option<Counted> {
        let mut spans = self.lock();
        alone.load(Ordering::Acquire).then(|| spans.count(period, allowance))
    }

    /// What the store has said is forgotten: others have written since. What is to be written is not.
    fn forget(&self) {
        for span in &mut self.lock().list {
            (span.known, span.guessed) = (None, false);
        }
    }

    /// How it stands. None where the store has not been asked yet.
    pub fn look(&self, period: Period, allowance: Allowance) -> Option<Usage> {
        self.lock().of(period).usage(allowance)
    }

    /// How many requests of a period this node has let pass; none where the store has not been asked yet.
    pub fn passed(&self, period: Period) -> Option<u64> {
        let mut spans = self.lock();
        let span = spans.of(period);
        let known = span.known.filter(|_| !span.guessed)?;
        Some(known.own().saturating_add_signed(span.unwritten))
    }

    /// Whether an earlier period of the key in the plan is known here.
    pub fn is_later(&self, period: Period) -> bool {
        period.begins >= self.lock().later
    }

    /// Counts so many, whether the period has them left or not.
    pub fn charge(&self, period: Period, number: i64) {
        let mut spans = self.lock();
        spans.of(period).unwritten += number;
        spans.later = spans.later.min(period.ends);
    }

    /// Whether the store has said what was used of a period.
    pub fn knows(&self, period: Period) -> bool {
        self.lock().list.iter().any(|span| span.period.begins == period.begins && span.is_known())
    }

    /// What the store said of a period when it was asked. Ignored where the counter has gone on to another one, and where it has heard
    /// more since: what has been written, or will be soon, is told by who writes.
    pub fn know(&self, period: Period, known: Known) {
        let mut spans = self.lock();
        let span = spans.list.iter_mut().find(|span| span.period.begins == period.begins);
        let Some(span) = span.filter(|span| !span.is_known()) else { return };
        if span.guessed && span.unwritten != 0 {
            return;
        }
        span.is_told(known);
        spans.heard(period, known);
    }

    /// The store does not answer: this process counts from nought, unless it knows better. Where it does not know of an earlier
    /// period either, it is taken for the key's first one, which has the least.
    pub fn go_on_blindly(&self, period: Period) {
        let mut spans = self.lock();
        let first = period.begins < spans.later;
        let span = spans.of(period);
        if span.known.is_none() {
            (span.known, span.guessed) = (Some(Known { used: 0, first, copied: 0 }), true);
        }
    }

    /// So many of a period were written, and this is what the store says after it.
    pub fn wrote(&self, period: Period, number: i64, known: Known) {
        let mut spans = self.lock();
        if let Some(span) = spans.list.iter_mut().find(|span| span.period.begins == period.begins) {
            span.unwritten -= number;
            span.is_told(known);
            spans.heard(period, known);
        }
    }

    fn is_over(&self, now: i64) -> bool {
        self.lock().list.iter().all(|span| span.unwritten == 0 && span.period.ends <= now)
    }

    fn lock(&self) -> MutexGuard<'_, Spans> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Span {
    fn usage(&self, allowance: Allowance) -> Option<Usage> {
        let known = self.known?;
        let used = known.used.saturating_add_signed(self.unwritten);
        Some(Usage { used, allowed: allowance.of(known.first) })
    }

    fn is_known(&self) -> bool {
        self.known.is_some() && !self.guessed
    }

    fn is_told(&mut self, known: Known) {
        (self.known, self.guessed) = (Some(known), false);
    }
}

impl Spans {
    fn count(&mut self, period: Period, allowance: Allowance) -> Counted {
        let span = self.of(period);
        let Some(usage) = span.usage(allowance) else { return Counted::Unknown };
        if usage.left() == 0 {
            return Counted::Spent(usage);
        }
        span.unwritten += 1;
        self.later = self.later.min(period.ends);
        Counted::Passed(Usage { used: usage.used + 1, ..usage })
    }

    /// The span of a period; of others only those stay that are not written.
    fn of(&mut self, period: Period) -> &mut Span {
        let at = match self.list.iter().position(|span| span.period.begins == period.begins) {
            Some(at) => at,
            None => {
                self.list.retain(|span| span.unwritten != 0);
                self.list.push(Span { period, known: None, guessed: false, unwritten: 0 });
                self.list.len() - 1
            }
        };
        #[expect(clippy::indexing_slicing, reason = "found or pushed just above")]
        let span = &mut self.list[at];
        // A day and a month may begin together: it is the same count, whichever the quota is for.
        span.period.ends = period.ends;
        span
    }

    /// A period that is not the first, or was used, makes those after it none either.
    fn heard(&mut self, period: Period, known: Known) {
        if !known.first {
            self.later = self.later.min(period.begins);
        } else if known.used > 0 {
            self.later = self.later.min(period.ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: Period = Period { begins: 1000, ends: 2000 };
    const TOMORROW: Period = Period { begins: 2000, ends: 3000 };
    const THREE: Allowance = Allowance { limit: 3, offset: 1 };

    fn known(used: u64, first: bool) -> Known {
        Known { used, first, copied: 0 }
    }

    fn passed(used: u64, allowed: u64) -> Counted {
        Counted::Passed(Usage { used, allowed })
    }

    fn spent(used: u64, allowed: u64) -> Counted {
        Counted::Spent(Usage { used, allowed })
    }

    #[test]
    fn a_period_is_counted_once_it_is_known_and_up_to_its_limit() {
        let tally = Tally::new("free");
        let one = tally.counter("one");
        assert_eq!(one.count(TODAY, THREE), Counted::Unknown);
        assert_eq!(one.look(TODAY, THREE), None);
        one.know(TODAY, known(1, false));
        assert_eq!(one.count(TODAY, THREE), passed(2, 3));
        assert_eq!(one.look(TODAY, THREE), Some(Usage { used: 2, allowed: 3 }));
        assert_eq!(one.count(TODAY, THREE), passed(3, 3));
        assert_eq!(one.count(TODAY, THREE), spent(3, 3));
        assert_eq!(
            one.count(TODAY, Allowance { limit: 4, offset: 0 }),
            passed(4, 4),
            "the limit is the request's"
        );
        assert_eq!(one.count(TODAY, THREE), spent(4, 3), "less than was used");
        assert_eq!(Arc::as_ptr(&one), Arc::as_ptr(&tally.counter("one")));
        assert_eq!(tally.counter("two").count(TODAY, THREE), Counted::Unknown);
    }

    #[test]
    fn the_first_period_is_shorter_by_the_offset() {
        let counter = Tally::new("free").counter("one");
        assert_eq!(counter.look(TODAY, THREE), None);
        counter.know(TODAY, known(0, true));
        assert_eq!(counter.count(TODAY, THREE), passed(1, 2));
        assert_eq!(counter.count(TODAY, THREE), passed(2, 2));
        assert_eq!(counter.count(TODAY, THREE), spent(2, 2));
        counter.know(TOMORROW, known(0, false));
        assert_eq!(counter.count(TOMORROW, THREE), Counted::Unknown, "nobody had asked about it");
        counter.know(TOMORROW, known(0, false));
        assert_eq!(counter.count(TOMORROW, THREE), passed(1, 3));
        assert_eq!(Allowance { limit: 1, offset: 9 }.of(true), 0);
    }

    #[test]
    fn what_is_written_is_told_once_and_what_came_meanwhile_stays() {
        let tally = Tally::new("free");
        let counter = tally.counter("one");
        counter.go_on_blindly(TODAY);
        assert!(tally.to_write().is_empty());
        let many = Allowance { limit: 100, offset: 0 };
        for _ in 0..5 {
            counter.count(TODAY, many);
        }
        let told: Vec<_> = tally
            .to_write()
            .into_iter()
            .map(|(own, period, number)| (own.key.clone(), period, number))
            .collect();
        assert_eq!(told, [("one".into(), TODAY, 5)]);
        counter.count(TODAY, many);
        // Another process has written 10.
        counter.wrote(TODAY, 5, known(15, false));
        assert_eq!(counter.look(TODAY, many), Some(Usage { used: 16, allowed: 100 }));
        assert_eq!(tally.to_write()[0].2, 1);
        counter.wrote(TODAY, 1, known(16, false));
        assert!(tally.to_write().is_empty());
        // Granted, written, and then nobody waited for it any more.
        counter.charge(TODAY, -1);
        assert_eq!(counter.look(TODAY, many), Some(Usage { used: 15, allowed: 100 }));
        assert_eq!(tally.to_write()[0].2, -1);
    }

    #[test]
    fn what_is_not_written_outlives_its_period_and_a_clock_that_goes_back() {
        let tally = Tally::new("free");
        let counter = tally.counter("one");
        counter.go_on_blindly(TODAY);
        assert_eq!(counter.count(TODAY, THREE), passed(1, 2));
        assert_eq!(counter.count(TOMORROW, THREE), Counted::Unknown);
        counter.go_on_blindly(TOMORROW);
        assert_eq!(counter.count(TOMORROW, THREE), passed(1, 3));
        assert_eq!(counter.count(TODAY, THREE), passed(2, 2), "back again");
        let mut told: Vec<_> =
            tally.to_write().into_iter().map(|(_, period, number)| (period.begins, number)).collect();
        told.sort_unstable();
        assert_eq!(told, [(1000, 2), (2000, 1)]);
        counter.wrote(TOMORROW, 1, known(9, false));
        counter.go_on_blindly(TOMORROW);
        assert_eq!(
            counter.look(TOMORROW, THREE),
            Some(Usage { used: 9, allowed: 3 }),
            "what is known is known"
        );
    }

    #[test]
    fn counters_go_when_their_period_is_over_and_all_is_written() {
        let tally = Tally::new("free");
        for key in ["ended", "unwritten", "held", "current"] {
            let period = if key == "current" { TOMORROW } else { TODAY };
            tally.counter(key).go_on_blindly(period);
            if key == "unwritten" {
                tally.counter(key).count(period, THREE);
            }
        }
        let held = tally.counter("held");
        tally.sweep(1999);
        assert_eq!(tally.keys(), 4);
        tally.sweep(2000);
        assert_eq!(tally.keys(), 3);
        tally.counter("unwritten").wrote(TODAY, 1, known(1, false));
        drop(held);
        tally.sweep(2000);
        assert_eq!(tally.keys(), 1);
        assert_eq!(tally.counter("current").look(TOMORROW, THREE), Some(Usage { used: 0, allowed: 2 }));
    }

    #[test]
    fn of_what_is_not_known_the_first_period_has_least() {
        let counter = Tally::new("free").counter("one");
        counter.go_on_blindly(TODAY);
        assert_eq!(counter.look(TODAY, THREE), Some(Usage { used: 0, allowed: 2 }));
        assert!(!counter.knows(TODAY));
        // The answer comes late.
        counter.know(TODAY, known(1, false));
        assert_eq!(counter.look(TODAY, THREE), Some(Usage { used: 1, allowed: 3 }));
        assert!(counter.knows(TODAY));
        counter.go_on_blindly(TOMORROW);
        assert_eq!(counter.look(TOMORROW, THREE), Some(Usage { used: 0, allowed: 3 }), "not the first");
        // What is counted already is told by who writes it: an answer from before that would count it twice, or not at all.
        counter.charge(TOMORROW, 1);
        counter.know(TOMORROW, known(1, false));
        assert_eq!(counter.look(TOMORROW, THREE), Some(Usage { used: 1, allowed: 3 }));
        counter.wrote(TOMORROW, 1, known(5, false));
        counter.know(TOMORROW, known(4, false));
        assert_eq!(counter.look(TOMORROW, THREE), Some(Usage { used: 5, allowed: 3 }));
        let used = Tally::new("free").counter("two");
        used.look(TODAY, THREE);
        used.know(TODAY, known(1, true));
        used.go_on_blindly(TOMORROW);
        assert_eq!(used.look(TOMORROW, THREE), Some(Usage { used: 0, allowed: 3 }), "the second");
    }

    #[test]
    fn what_was_let_pass_here_is_told_apart_from_what_a_copy_has() {
        let counter = Tally::new("free").counter("one");
        assert_eq!(counter.passed(TODAY), None, "nobody has said");
        counter.charge(TODAY, 2);
        counter.know(TODAY, Known { copied: 3, ..known(10, false) });
        assert_eq!(counter.passed(TODAY), Some(9));
        counter.wrote(TODAY, 2, Known { copied: 3, ..known(12, false) });
        assert_eq!(counter.passed(TODAY), Some(9));
    }

    #[test]
    fn the_keeper_hears_of_the_first_and_of_the_last_that_may_be_lost() {
        let tally = Tally::new("free");
        tally.set_flush(Duration::from_millis(50), 3);
        let soon = Some(Duration::from_millis(50));
        assert_eq!(tally.write_within(), None);
        let told: Vec<_> = (0..4).map(|_| tally.note_counted()).collect();
        assert_eq!(told, [soon, None, Some(Duration::ZERO), None]);
        assert_eq!(tally.write_within(), Some(Duration::ZERO), "four are three and more");
        tally.add_unwritten(-3);
        assert_eq!(tally.write_within(), soon);
        tally.add_unwritten(-2);
        assert_eq!(
            (tally.unwritten(), tally.write_within()),
            (-1, soon),
            "what is given back is written too"
        );
    }

    #[test]
    fn threads_at_once_never_pass_more_than_there_are() {
        let tally = Tally::new("free");
        tally.counter("one").go_on_blindly(TODAY);
        let allowance = Allowance { limit: 5_000, offset: 0 };
        let passed: usize = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let asked = (0..2_000).map(|_| tally.counter("one").count(TODAY, allowance));
                        asked.filter(|counted| matches!(counted, Counted::Passed(_))).count()
                    })
                })
                .collect();
            asking.into_iter().map(|asking| asking.join().unwrap()).sum()
        });
        assert_eq!(passed, 5_000);
        assert_eq!(tally.to_write()[0].2, 5_000);
    }
}
