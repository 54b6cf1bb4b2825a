//! When a request is tried again: attempts, causes, and a budget that keeps a fault from becoming a storm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::config::{Retries, RetryOn};

/// Seconds the budget looks back.
const WINDOW: usize = 10;
const WINDOW_SECONDS: u64 = WINDOW as u64;
/// Counters of their own for this many workers; more share.
const SHARDS: usize = 16;

/// What is remembered of an upstream's retries across reloads: the budget's window and the counters for metrics.
#[derive(Debug)]
pub(super) struct Ledger {
    began: Instant,
    requests: [Window; SHARDS],
    retries: Window,
    counts: [AtomicU64; RetryOn::ALL.len()],
}

/// A counter of the last ten seconds: each slot holds its second above and a count below. Two racing callers may lose a count at
/// the turn of a second: the budget is a brake, not a meter.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Window([AtomicU64; WINDOW]);

impl Window {
    fn add(&self, second: u64) {
        let Some(slot) = usize::try_from(second % WINDOW_SECONDS).ok().and_then(|n| self.0.get(n)) else {
            return;
        };
        let held = slot.load(Ordering::Relaxed);
        if held >> 32 == second {
            slot.fetch_add(1, Ordering::Relaxed);
        } else {
            let _ = slot.compare_exchange(held, (second << 32) | 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn sum(&self, second: u64) -> u64 {
        let counts = self.0.iter().map(|slot| slot.load(Ordering::Relaxed));
        counts.filter(|held| (held >> 32) + WINDOW_SECONDS > second).map(|held| held & 0xffff_ffff).sum()
    }
}

impl Ledger {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, requests: Default::default(), retries: Window::default(), counts: Default::default() }
    }

    /// Retries so far by their cause.
    pub(super) fn count(&self, on: RetryOn) -> u64 {
        self.counts.get(on as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Seconds since the ledger began, plus one window: a slot never touched is never recent.
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() + WINDOW_SECONDS
    }
}

/// How an upstream tries again.
#[derive(Debug)]
pub(super) struct Retrying {
    attempts: u32,
    connect: bool,
    reset: bool,
    /// Parts of 10,000.
    share: u64,
    ledger: Arc<Ledger>,
}

impl Retrying {
    pub(super) fn new(config: &Retries, ledger: Arc<Ledger>) -> Self {
        Self {
            attempts: config.attempts,
            connect: config.on.contains(&RetryOn::Connect),
            reset: config.on.contains(&RetryOn::Reset),
            share: u64::from(config.budget.0),
            ledger,
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Counts a request towards the budget.
    pub(super) fn note_request(&self, worker: usize, now: Instant) {
        if self.attempts > 1
            && let Some(window) = self.ledger.requests.get(worker % SHARDS)
        {
            window.add(self.ledger.second(now));
        }
    }

    /// Whether to try again after `attempts` so far; a yes is counted. Racing callers may exceed the budget by their number.
    pub(super) fn permits(&self, on: RetryOn, attempts: u32, now: Instant) -> bool {
        let wanted = match on {
            RetryOn::Connect => self.connect,
            RetryOn::Reset => self.reset,
        };
        if !wanted || attempts >= self.attempts {
            return false;
        }
        let second = self.ledger.second(now);
        let requests: u64 = self.ledger.requests.iter().map(|window| window.sum(second)).sum();
        // One a second is always allowed: in quiet hours a share of nearly nothing is nothing.
        let allowed = (requests * self.share / 10_000).max(WINDOW_SECONDS);
        if self.ledger.retries.sum(second) >= allowed {
            return false;
        }
        self.ledger.retries.add(second);
        self.note(on);
        true
    }

    /// Counts a retry that asked for no budget.
    pub(super) fn note(&self, on: RetryOn) {
        if let Some(count) = self.ledger.counts.get(on as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::units::Percent;

    fn retrying(attempts: u32, on: Vec<RetryOn>, budget: u32, began: Instant) -> Retrying {
        Retrying::new(&Retries { attempts, on, budget: Percent(budget) }, Arc::new(Ledger::new(began)))
    }

    #[test]
    fn counts_attempts_in_all() {
        let now = Instant::now();
        let own = retrying(3, vec![RetryOn::Connect], 10_000, now);
        assert!(own.permits(RetryOn::Connect, 1, now));
        assert!(own.permits(RetryOn::Connect, 2, now));
        assert!(!own.permits(RetryOn::Connect, 3, now));
        assert!(!own.permits(RetryOn::Reset, 1, now));
        assert_eq!((own.ledger().count(RetryOn::Connect), own.ledger().count(RetryOn::Reset)), (2, 0));
    }

    #[test]
    fn keeps_to_the_budget() {
        let began = Instant::now();
        let own = retrying(2, vec![RetryOn::Connect], 1_000, began);
        for n in 0..1000 {
            own.note_request(n, began + Duration::from_secs(3));
        }
        let at = |seconds| began + Duration::from_secs(seconds);
        let granted = (0..500).filter(|_| own.permits(RetryOn::Connect, 1, at(3))).count();
        assert_eq!(granted, 100);
        assert!(!own.permits(RetryOn::Connect, 1, at(12)), "the window is ten seconds");
        let granted = (0..500).filter(|_| own.permits(RetryOn::Connect, 1, at(13))).count();
        assert_eq!(granted, 10, "one a second without any requests");
        assert!(own.permits(RetryOn::Connect, 1, at(23)));
    }
}
