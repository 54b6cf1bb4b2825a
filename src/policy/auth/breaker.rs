//! A circuit breaker: a server that has failed again and again is left alone for a while, then asked once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES: u32 = 5;

/// The breaker of one server.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Whose server it is, for the log.
    policy: Arc<str>,
    /// How long it stays open before one question is let through.
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
    /// One question is under way that tells whether the server is back.
    probing: bool,
}

/// Leave to ask once. One that is dropped after it has begun, and was not answered, is a failure; one that never began says
/// nothing: waiting in our own queue is no fault of the server's.
#[derive(Debug)]
pub(super) struct Turn {
    breaker: Arc<Breaker>,
    begun: bool,
    answered: bool,
}

impl Breaker {
    pub(super) fn new(policy: Arc<str>, pause: Duration) -> Arc<Self> {
        Arc::new(Self { policy, pause, state: Mutex::default() })
    }

    /// A turn; none while the server is left alone.
    pub(super) fn turn(self: &Arc<Self>, now: Instant) -> Option<Turn> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.open_until {
            None => {}
            Some(until) if now < until || state.probing => return None,
            Some(_) => state.probing = true,
        }
        Some(Turn { breaker: Arc::clone(self), begun: false, answered: false })
    }

    /// How it went, and whether that opens or closes it.
    fn report(&self, answered: bool, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let was_open = state.open_until.is_some();
        if answered {
            *state = State::default();
            return was_open;
        }
        state.failures = state.failures.saturating_add(1);
        // A question from before it opened must not close the way to the probe.
        if state.probing || !was_open && state.failures >= FAILURES {
            state.open_until = Some(now + self.pause);
            state.probing = false;
        }
        !was_open && state.open_until.is_some()
    }
}

impl Turn {
    /// The server is asked from now on.
    pub(super) fn begin(&mut self) {
        self.begun = true;
    }

    /// It has answered, whatever it said.
    pub(super) fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let breaker = &self.breaker;
        if !self.begun {
            // The next one may be the probe.
            breaker.state.lock().unwrap_or_else(PoisonError::into_inner).probing = false;
        } else if breaker.report(self.answered, Instant::now()) {
            let (state, level) =
                if self.answered { ("closed", log::Level::Info) } else { ("open", log::Level::Warn) };
            log::log!(level, "{}: the circuit breaker is {state}", breaker.policy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn breaker() -> (Arc<Breaker>, Instant) {
        (Breaker::new("auth.test".into(), PAUSE), Instant::now())
    }

    /// Whether a question is let through; it is not answered yet.
    fn allows(breaker: &Arc<Breaker>, now: Instant) -> bool {
        breaker.turn(now).map(std::mem::forget).is_some()
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_through_after_a_while() {
        let (breaker, start) = breaker();
        for _ in 1..FAILURES {
            assert!(allows(&breaker, start) && !breaker.report(false, start));
        }
        assert!(allows(&breaker, start) && !breaker.report(true, start), "one success forgives all");
        for _ in 1..FAILURES {
            assert!(allows(&breaker, start) && !breaker.report(false, start));
        }
        assert!(allows(&breaker, start) && breaker.report(false, start), "that opened it");
        let before = start + PAUSE - Duration::from_millis(1);
        assert!(!allows(&breaker, start) && !allows(&breaker, before));
        let probe = start + PAUSE;
        assert!(allows(&breaker, probe));
        assert!(!allows(&breaker, probe), "one probe at a time");
        assert!(!breaker.report(false, probe), "it stays open");
        assert!(!allows(&breaker, probe + PAUSE - Duration::from_millis(1)));
        let next = probe + PAUSE;
        assert!(allows(&breaker, next) && breaker.report(true, next), "that closed it");
        assert!(allows(&breaker, next) && allows(&breaker, next));
    }

    #[test]
    fn a_late_failure_does_not_keep_it_open() {
        let (breaker, start) = breaker();
        for _ in 0..FAILURES {
            breaker.report(false, start);
        }
        breaker.report(false, start + Duration::from_secs(4));
        assert!(allows(&breaker, start + PAUSE));
    }

    #[test]
    fn a_turn_says_how_it_went_however_it_ends() {
        let (breaker, start) = breaker();
        for _ in 0..10 * FAILURES {
            drop(breaker.turn(start).expect("nothing was asked yet"));
        }
        for _ in 0..FAILURES {
            breaker.turn(start).expect("it opens after the last").begin();
        }
        assert!(breaker.turn(start).is_none());
        let probe = Instant::now() + PAUSE;
        drop(breaker.turn(probe).expect("the first probe"));
        let mut second = breaker.turn(probe).expect("another in the stead of one that never began");
        assert!(breaker.turn(probe).is_none());
        second.begin();
        second.answered();
        drop(second);
        assert!(breaker.turn(start).is_some(), "an answer closes it");
    }
}
