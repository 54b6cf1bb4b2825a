//! A circuit breaker: a server that has failed again and again is left alone for a while, then asked once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
/// How long it stays open before one question is let through.
const OPEN: Duration = Duration::from_secs(5);

/// The breaker of one server.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
    /// One question is under way that tells whether the server is back.
    probing: bool,
}

impl Breaker {
    /// Whether the server may be asked now. Each yes must be followed by [`Breaker::report`].
    pub(super) fn allows(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.open_until {
            None => true,
            Some(until) if now < until || state.probing => false,
            Some(_) => {
                state.probing = true;
                true
            }
        }
    }

    /// How it went. True when that opens or closes it.
    pub(super) fn report(&self, answered: bool, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let was_open = state.open_until.is_some();
        if answered {
            *state = State::default();
            return was_open;
        }
        state.failures = state.failures.saturating_add(1);
        // A question from before it opened must not close the way to the probe.
        if state.probing || !was_open && state.failures >= FAILURES {
            state.open_until = Some(now + OPEN);
            state.probing = false;
        }
        !was_open && state.open_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_through_after_a_while() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 1..FAILURES {
            assert!(breaker.allows(start) && !breaker.report(false, start));
        }
        assert!(breaker.allows(start) && !breaker.report(true, start), "one success forgives all");
        for _ in 1..FAILURES {
            assert!(breaker.allows(start) && !breaker.report(false, start));
        }
        assert!(breaker.allows(start) && breaker.report(false, start), "that opened it");
        let before = start + OPEN - Duration::from_millis(1);
        assert!(!breaker.allows(start) && !breaker.allows(before));
        let probe = start + OPEN;
        assert!(breaker.allows(probe));
        assert!(!breaker.allows(probe), "one probe at a time");
        assert!(!breaker.report(false, probe), "it stays open");
        assert!(!breaker.allows(probe + OPEN - Duration::from_millis(1)));
        let next = probe + OPEN;
        assert!(breaker.allows(next) && breaker.report(true, next), "that closed it");
        assert!(breaker.allows(next) && breaker.allows(next));
    }

    #[test]
    fn a_late_failure_does_not_keep_it_open() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..FAILURES {
            breaker.report(false, start);
        }
        breaker.report(false, start + Duration::from_secs(4));
        assert!(breaker.allows(start + OPEN));
    }
}
