//! How fast a request's body comes: a clock that runs only while its client is waited for. No IO here.

use std::time::{Duration, Instant};

/// How fast bodies must come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes a second, more than 0.
    pub rate: u64,
    /// How far a body may lie behind.
    pub grace: Duration,
    /// The whole body, whoever is waited for.
    pub total: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rate: 1 << 10, grace: Duration::from_secs(5), total: Duration::from_secs(3600) }
    }
}

/// The clock of one body.
///
/// At each moment `bytes ≥ rate × (waited − grace)` must hold. `waited` is the time in which the client was waited for and
/// nobody else: what an upstream holds back is not the client's fault. It never starts anew, so a byte now and then gains
/// no more than what it pays for.
#[derive(Clone, Copy, Debug)]
pub struct BodyClock {
    pace: Pace,
    bytes: u64,
    waited: Duration,
    since: Option<Instant>,
    until: Instant,
}

impl BodyClock {
    /// The client is waited for from now on.
    pub fn start(pace: Pace, now: Instant) -> Self {
        let until = now.checked_add(pace.total).unwrap_or(now);
        Self { pace, bytes: 0, waited: Duration::ZERO, since: Some(now), until }
    }

    /// The client is waited for; changes nothing if it was already.
    pub fn wait(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Somebody else is waited for.
    pub fn pause(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.waited += now.saturating_duration_since(since);
        }
    }

    /// For so long of the time since then the client could send nothing, though it was waited for.
    pub fn excuse(&mut self, time: Duration) {
        self.since = self.since.map(|since| since.checked_add(time).unwrap_or(since));
    }

    /// How many bytes of content have come so far.
    pub fn set_bytes(&mut self, bytes: u64) {
        self.bytes = bytes;
    }

    /// Notes that more content has come.
    pub fn add_bytes(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// The body must end by then whatever its pace: nobody needs it any more.
    pub fn end_by(&mut self, until: Instant) {
        self.until = self.until.min(until);
    }

    /// When the client will be too late if nothing more comes.
    pub fn deadline(&self) -> Instant {
        let Some(since) = self.since else { return self.until };
        let earned = self.bytes.saturating_mul(1_000_000) / self.pace.rate.max(1);
        let allowed = self.pace.grace.saturating_add(Duration::from_micros(earned));
        let due = since.checked_add(allowed.saturating_sub(self.waited));
        due.map_or(self.until, |due| due.min(self.until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { rate: 1000, grace: Duration::from_secs(5), total: Duration::from_secs(100) };

    fn due(clock: &BodyClock, began: Instant) -> u128 {
        clock.deadline().saturating_duration_since(began).as_millis()
    }

    #[test]
    fn a_byte_now_and_then_gains_what_it_pays_for() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut clock = BodyClock::start(PACE, began);
        assert_eq!(due(&clock, began), 5000);
        for n in 1..=4 {
            clock.pause(at(n * 1000));
            clock.add_bytes(1);
            clock.wait(at(n * 1000));
        }
        assert_eq!(due(&clock, began), 5004);
    }

    #[test]
    fn content_at_the_rate_is_never_late() {
        let began = Instant::now();
        let mut clock = BodyClock::start(PACE, began);
        for n in 1..=60 {
            let now = began + Duration::from_secs(n);
            assert!(now < clock.deadline(), "{n}");
            clock.pause(now);
            clock.add_bytes(1000);
            clock.wait(now);
        }
        assert_eq!(due(&clock, began), 65_000);
    }

    #[test]
    fn time_in_which_the_client_may_not_send_does_not_count() {
        let began = Instant::now();
        let at = |s| began + Duration::from_secs(s);
        let mut clock = BodyClock::start(PACE, began);
        clock.excuse(Duration::from_secs(3));
        assert_eq!(due(&clock, began), 8_000);
        clock.pause(at(4));
        clock.excuse(Duration::from_secs(50));
        clock.wait(at(10));
        assert_eq!(due(&clock, began), 14_000, "one of five seconds was the client's");
    }

    #[test]
    fn what_others_take_does_not_count_but_for_the_total() {
        let began = Instant::now();
        let at = |s| began + Duration::from_secs(s);
        let mut clock = BodyClock::start(PACE, began);
        clock.pause(at(1));
        assert_eq!(due(&clock, began), 100_000, "nobody waits for the client");
        clock.wait(at(50));
        clock.wait(at(51));
        assert_eq!(due(&clock, began), 54_000);
        clock.set_bytes(90_000);
        assert_eq!(due(&clock, began), 100_000);
        clock.end_by(at(53));
        assert_eq!(due(&clock, began), 53_000);
    }
}
