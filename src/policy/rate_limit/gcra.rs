//! One bucket of tokens, as one point in time: the generic cell rate algorithm (ITU-T I.371), in whole nanoseconds.
//!
//! A bucket that holds `burst` tokens and gets one every *interval* is described by the time at which it will be full again (its
//! *theoretical arrival time*). What it lacks until then is its *debt*, a time too. To take `n` tokens is to add `n` intervals to the
//! debt, and is allowed while the debt stays within the *capacity*, `burst` intervals. A bucket without debt says no more than
//! no bucket at all.
//!
//! An interval is kept to 2⁻³² ns and every cost is rounded down to whole nanoseconds. So nobody who keeps to the limit
//! as it is written is refused: `Σ ⌊nᵢ·interval⌋ ≤ ⌊Σ nᵢ·interval⌋`. The other way it costs less than a nanosecond a
//! decision: at 100,000 a second a hundredth of a per cent.

use std::time::Duration;

/// The longest time that a bucket takes to fill, 146 years: a slower one (a rate of nought among them) fills in that. So
/// whatever is configured, times and their sums stay within 64 bits.
const FILL_MAX: u64 = 1 << 62;
/// The share of a burst that the estimator may let pass before a key gets a bucket: 1/8, as a shift.
const SCREENED: u32 = 3;

/// A point in time, in nanoseconds since the machine was started; the time for which it was suspended is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(u64);

impl Nanos {
    /// Reads the clock, without a call into the kernel (25 ns): once a request is enough.
    ///
    /// It does not go backwards. Two threads may read it in one order and decide in the other.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
        Self::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
    }

    /// What is later than 146 years is those 146 years.
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        if nanoseconds < FILL_MAX { Self(nanoseconds) } else { Self(FILL_MAX) }
    }

    /// Less than 2⁶² + 1.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

/// What one key may do: `burst` tokens at once, and `count` more a `period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    /// The time that brings a token: whole nanoseconds, and 2⁻³² of them.
    interval: u64,
    fraction: u32,
    /// What an empty bucket takes to be full: `burst` intervals.
    capacity: u64,
    burst: u64,
    refills: bool,
}

impl Gcra {
    /// A count of nought brings no tokens; what is slower than a `burst` in 146 years brings that. A burst of nought
    /// passes nothing that costs anything.
    pub fn new(count: u64, period: Duration, burst: u64) -> Self {
        let asked = (period.as_nanos() << 32).checked_div(u128::from(count)).unwrap_or(u128::MAX);
        Self::bounded(asked, burst, count > 0)
    }

    /// With so many 2⁻³² ns a token, or as many as bring a burst in 146 years.
    fn bounded(asked: u128, burst: u64, refills: bool) -> Self {
        let slowest = (u128::from(FILL_MAX) << 32) / u128::from(burst.max(1));
        Self::of(asked.min(slowest).max(1), burst, refills)
    }

    /// Of an interval in 2⁻³² ns, of which a burst takes 146 years at the most.
    fn of(interval: u128, burst: u64, refills: bool) -> Self {
        let fraction = u32::try_from(interval & u128::from(u32::MAX)).unwrap_or_default();
        let whole = narrowed(interval >> 32);
        let capacity = narrowed((interval * u128::from(burst)) >> 32);
        Self { interval: whole, fraction, capacity, burst, refills }
    }

    /// The length of [`Gcra::to_bytes`].
    pub(super) const BYTES: usize = 21;

    /// To be written, with what it limits: twelve bytes of the interval in 2⁻³² ns, the burst, whether it refills.
    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let interval = self.exact().to_le_bytes().into_iter().take(12);
        let fields = interval.chain(self.burst.to_le_bytes()).chain([u8::from(self.refills)]);
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    /// As it was written; none where no limit is written so.
    pub(super) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let [fields @ .., refills] = bytes;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |all, byte| all << 8 | u128::from(*byte));
        let (interval, burst) = fields.split_at_checked(12)?;
        let (interval, burst) = (number(interval), narrowed(number(burst)));
        let fits = interval.checked_mul(burst.into()).is_some_and(|fill| fill >> 32 <= FILL_MAX.into());
        (interval > 0 && fits && *refills <= 1).then(|| Self::of(interval, burst, *refills == 1))
    }

    /// The tokens that a full bucket holds.
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// What an empty bucket takes to be full.
    pub const fn fill(&self) -> Duration {
        Duration::from_nanos(self.capacity)
    }

    /// What each of so many nodes has of it: that part of the rate and of the burst, at least one token.
    pub(super) fn share(&self, nodes: u32) -> Self {
        let nodes = u64::from(nodes.max(1));
        let burst = (self.burst / nodes).max(self.burst.min(1));
        Self::bounded(self.exact().saturating_mul(nodes.into()), burst, self.refills)
    }

    /// The time that brings a token, in microseconds.
    pub(super) fn microseconds(&self) -> f64 {
        (self.interval as f64 + f64::from(self.fraction) / f64::from(2_u32.pow(31)) / 2.0) / 1e3
    }

    /// What the estimator may let pass of a key that has no bucket, in whole tokens: an eighth of the burst.
    pub const fn screened(&self) -> u64 {
        self.burst >> SCREENED
    }

    /// How long the estimator must remember, so that what it lets pass stays below the rate: the time that brings what it may
    /// let pass.
    pub const fn window(&self) -> Duration {
        Duration::from_nanos(self.capacity >> SCREENED)
    }

    /// Takes `cost` tokens from a bucket of this debt, if it holds as many.
    pub(super) fn take(&self, debt: u64, cost: u32) -> Taken {
        let after = debt.saturating_add(self.time(cost));
        let passed = after <= self.capacity && u64::from(cost) <= self.burst;
        Taken { passed, debt: if passed { after } else { debt }, cost, gcra: *self }
    }

    /// Whether `cost` tokens are there; none is taken.
    pub(super) fn look(&self, debt: u64, cost: u32) -> Taken {
        Taken { debt, ..self.take(debt, cost) }
    }

    /// What a bucket owes of which so many tokens are spent.
    pub(super) fn spent(&self, tokens: u64) -> u64 {
        narrowed((self.exact().saturating_mul(tokens.into())) >> 32).min(FILL_MAX)
    }

    /// What somebody else has decided about a bucket that owes so much.
    pub(super) fn judged(&self, passed: bool, debt: u64, cost: u32) -> Taken {
        Taken { passed, debt: debt.min(FILL_MAX), cost, gcra: *self }
    }

    /// Takes `cost` tokens, whether they are there or not: the bucket owes what it did not hold, up to another burst. So whatever is
    /// charged, there is a token again after the time that brings a burst and one more.
    pub(super) fn charge(&self, debt: u64, cost: u32) -> Taken {
        Taken { passed: true, debt: self.owing(debt, self.time(cost)), cost, gcra: *self }
    }

    /// Both debts together, as far as a bucket may owe them: two bursts.
    pub(super) fn owing(&self, debt: u64, more: u64) -> u64 {
        debt.saturating_add(more).min(self.capacity.saturating_mul(2).min(FILL_MAX))
    }

    /// What a debt under this limit is under another: as large a part of the bucket. So who has spent 10 of 10 has spent 1000 of 1000
    /// and who has spent 50 of 100 has spent 5 of 10, and a limit that is changed and changed back has given nobody tokens.
    ///
    /// It is rounded down, by less than a nanosecond; on the way back by what a nanosecond of the smaller bucket is in the larger. Where one
    /// of them holds nothing there is no part: the debt stays as it is, up to a whole bucket of the one that does.
    pub(super) fn scaled(&self, debt: u64, new: &Self) -> u64 {
        let debt = debt.min(FILL_MAX);
        match (self.capacity, new.capacity) {
            (_, 0) => debt,
            (0, most) => debt.min(most),
            (own, others) => narrowed(u128::from(debt) * u128::from(others) / u128::from(own)).min(FILL_MAX),
        }
    }

    /// [`Gcra::scaled`], as far as a bucket may owe it. One that holds nothing keeps what it cannot owe, for the limit that comes after it.
    pub(super) fn carried(&self, debt: u64, new: &Self) -> u64 {
        new.joined(0, self.scaled(debt, new))
    }

    /// What two buckets of one key owe together.
    pub(super) fn joined(&self, debt: u64, other: u64) -> u64 {
        if self.capacity == 0 { debt.max(other) } else { self.owing(debt, other) }
    }

    /// The time that brings `cost` tokens; too long to be so where they are more than the burst.
    pub(super) fn time(&self, cost: u32) -> u64 {
        let fraction = (u64::from(self.fraction) * u64::from(cost)) >> 32;
        self.interval.saturating_mul(u64::from(cost)).saturating_add(fraction)
    }

    /// The interval in 2⁻³² ns: never nought.
    fn exact(&self) -> u128 {
        (u128::from(self.interval) << 32) | u128::from(self.fraction)
    }

    /// The most tokens whose time, rounded down, is within this.
    fn tokens(&self, room: u64) -> u64 {
        let tokens = match self.fraction {
            0 => room / self.interval.max(1),
            _ => narrowed((((u128::from(room) + 1) << 32) - 1) / self.exact()),
        };
        tokens.min(self.burst)
    }
}

/// What became of a decision, and what the bucket holds after it.
#[derive(Clone, Copy, Debug)]
#[must_use = "a refusal that nobody looks at refuses nothing"]
pub struct Taken {
    passed: bool,
    debt: u64,
    cost: u32,
    gcra: Gcra,
}

impl Taken {
    /// Whether the tokens were there.
    pub const fn passed(&self) -> bool {
        self.passed
    }

    /// Whether the bucket owes tokens that it did not hold.
    pub(super) const fn is_owing(&self) -> bool {
        self.debt > self.gcra.capacity
    }

    /// Whole tokens that are left.
    pub fn remaining(&self) -> u64 {
        match self.gcra.capacity.checked_sub(self.debt) {
            Some(room) => self.gcra.tokens(room),
            None => 0,
        }
    }

    /// Time until one more token is left; nought where the bucket is full.
    pub fn next_token(&self) -> Duration {
        let next = u128::from(self.remaining()) + 1;
        if next > u128::from(self.gcra.burst) {
            return Duration::ZERO;
        }
        let time = narrowed((self.gcra.exact() * next) >> 32);
        self.beyond(time)
    }

    /// Time until the bucket is full, if nobody takes from it.
    pub const fn full(&self) -> Duration {
        Duration::from_nanos(self.debt)
    }

    /// Time until what was refused would pass (`Retry-After`): nought for what passed, none where it never will, because it costs
    /// more than the bucket ever holds, or nothing is brought back.
    pub fn wait(&self) -> Option<Duration> {
        if self.passed {
            return Some(Duration::ZERO);
        }
        let possible = self.gcra.refills && u64::from(self.cost) <= self.gcra.burst;
        possible.then(|| self.beyond(self.gcra.time(self.cost)))
    }

    /// Which limit was asked.
    pub const fn gcra(&self) -> &Gcra {
        &self.gcra
    }

    pub(super) const fn debt(&self) -> u64 {
        self.debt
    }

    /// By how much the debt would be too large, if this came to it.
    fn beyond(&self, time: u64) -> Duration {
        Duration::from_nanos(time.saturating_add(self.debt).saturating_sub(self.gcra.capacity))
    }
}

fn narrowed(wide: u128) -> u64 {
    u64::try_from(wide).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Takes one after the other at the same time.
    fn takes(gcra: &Gcra, cost: u32, times: usize) -> Taken {
        let mut taken = gcra.take(0, cost);
        for _ in 1..times {
            taken = gcra.take(taken.debt(), cost);
        }
        taken
    }

    #[test]
    fn a_burst_passes_and_one_more_waits_for_a_token() {
        let gcra = Gcra::new(10, SECOND, 5);
        let last = takes(&gcra, 1, 5);
        assert!(last.passed());
        assert_eq!(
            (last.remaining(), last.next_token(), last.full()),
            (0, Duration::from_millis(100), Duration::from_millis(500))
        );
        assert_eq!(last.wait(), Some(Duration::ZERO));
        let more = gcra.take(last.debt(), 1);
        assert!(!more.passed());
        assert_eq!((more.remaining(), more.wait()), (0, Some(Duration::from_millis(100))));
        assert!(gcra.take(more.debt() - 100_000_000, 1).passed());
        assert!(!gcra.take(more.debt() - 99_999_999, 1).passed());
        let heavy = gcra.take(last.debt(), 3);
        assert_eq!(heavy.wait(), Some(Duration::from_millis(300)));
    }

    #[test]
    fn what_is_left_is_what_would_pass() {
        // 333,333,333.3… ns a token: three of them are a nanosecond short of a second.
        let gcra = Gcra::new(3, SECOND, 3);
        assert_eq!(takes(&gcra, 1, 1).remaining(), 2);
        assert_eq!(takes(&gcra, 1, 2).remaining(), 1);
        assert_eq!(takes(&gcra, 1, 3).remaining(), 0);
        assert_eq!(gcra.look(0, 1).remaining(), 3);
        assert_eq!(gcra.look(0, 1).next_token(), Duration::ZERO);
    }

    #[test]
    fn a_cost_above_the_burst_never_passes() {
        let gcra = Gcra::new(10, SECOND, 5);
        let taken = gcra.take(0, 6);
        assert!(!taken.passed());
        assert_eq!((taken.wait(), taken.remaining()), (None, 5));
        assert!(gcra.take(0, 5).passed());
        let none = Gcra::new(10, SECOND, 0);
        assert_eq!((none.take(0, 1).passed(), none.take(0, 1).wait()), (false, None));
        assert!(none.take(0, 0).passed());
    }

    #[test]
    fn a_rate_of_nought_brings_nothing_back() {
        let gcra = Gcra::new(0, SECOND, 5);
        let last = takes(&gcra, 1, 5);
        assert!(last.passed());
        let year = 365 * 86_400 * 1_000_000_000;
        let later = gcra.take(last.debt() - 20 * year, 1);
        assert!(!later.passed());
        assert_eq!(later.wait(), None);
        assert!(later.next_token() > Duration::from_secs(8 * 365 * 86_400));
        assert!(!Gcra::new(0, SECOND, 0).take(0, 1).passed());
    }

    #[test]
    fn what_is_charged_is_owed() {
        let gcra = Gcra::new(1, SECOND, 2);
        let owed = gcra.charge(0, 3);
        assert_eq!((owed.remaining(), owed.full(), owed.next_token()), (0, 3 * SECOND, 2 * SECOND));
        assert_eq!(gcra.take(owed.debt(), 1).wait(), Some(2 * SECOND));
        let slow = Gcra::new(0, SECOND, 2);
        assert_eq!(slow.charge(u64::MAX, u32::MAX).debt(), FILL_MAX);
    }

    #[test]
    fn whoever_is_charged_for_a_day_owes_another_burst_and_no_more() {
        let gcra = Gcra::new(5, Duration::from_secs(60), 5);
        let owed = (0..10_000).fold(0, |debt, _| gcra.charge(debt, 1).debt());
        assert_eq!(gcra.look(owed, 1).wait(), Some(Duration::from_secs(60 + 12)));
        assert_eq!(gcra.look(owed, 1).full(), Duration::from_secs(120));
        assert_eq!(gcra.charge(0, u32::MAX).debt(), owed, "at once too");
        assert_eq!(Gcra::new(5, SECOND, 0).charge(0, 9).debt(), 0, "what holds nothing refuses all anyway");
    }

    #[test]
    fn a_debt_is_as_large_a_part_of_another_bucket() {
        let minute = |count, burst| Gcra::new(count, Duration::from_secs(60), burst);
        let left = |old: &Gcra, spent: u32, new: &Gcra| {
            new.look(old.scaled(old.charge(0, spent).debt(), new), 1).remaining()
        };
        assert_eq!(left(&minute(10, 10), 10, &minute(1000, 1000)), 0);
        assert_eq!(left(&minute(10, 10), 4, &minute(1000, 1000)), 600);
        assert_eq!(left(&minute(100, 100), 50, &minute(10, 10)), 5);
        assert_eq!(left(&minute(100, 100), 100, &minute(10, 10)), 0);
        assert_eq!(left(&minute(10, 10), 4, &minute(10, 10)), 6);
        assert_eq!(left(&minute(10, 0), 4, &minute(10, 10)), 10);
        assert_eq!(left(&minute(10, 10), 4, &minute(10, 0)), 0);
        // As much is owed beyond a bucket.
        let (slow, fast) = (minute(10, 10), minute(600, 20));
        let owed = slow.scaled(slow.charge(0, 15).debt(), &fast);
        assert_eq!((fast.look(owed, 1).remaining(), fast.look(owed, 1).full()), (0, Duration::from_secs(3)));
        // A block of one value, and its end.
        let (open, blocked) = (minute(10, 10), minute(0, 0));
        let debt = open.charge(0, 7).debt();
        assert_eq!(blocked.scaled(open.scaled(debt, &blocked), &open), debt);
        assert!(blocked.scaled(u64::MAX, &minute(600, 1)) <= minute(600, 1).charge(0, 1).debt());
    }

    #[test]
    fn a_share_is_a_part_of_rate_and_burst() {
        let whole = Gcra::new(100, SECOND, 50);
        assert_eq!(whole.share(1), whole);
        let third = whole.share(3);
        assert_eq!((third.burst(), third.take(0, 1).full()), (16, Duration::from_millis(30)));
        let small = Gcra::new(1, SECOND, 2).share(5);
        assert_eq!((small.burst(), small.take(0, 1).full()), (1, 5 * SECOND));
        assert!((Gcra::new(3, SECOND, 3).microseconds() - 333_333.333_333).abs() < 1e-3);
    }

    #[test]
    fn the_clock_goes_on() {
        let first = Nanos::now();
        assert!(first > Nanos::default() && first <= Nanos::now());
        assert_eq!(Nanos::from_nanos(u64::MAX).as_nanos(), FILL_MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever is configured and owed: nothing overflows, and the figures fit each other.
        #[test]
        fn figures_fit_each_other(
            count in prop_oneof![0..5_u64, any::<u64>(), 1..100_000_u64],
            period in prop_oneof![any::<u64>(), 1..100_000_000_000_u64],
            burst in prop_oneof![0..5_u64, any::<u64>(), 1..100_000_u64],
            debt in prop_oneof![Just(0), 0..=FILL_MAX, 0..1_000_000_000_u64],
            cost in prop_oneof![0..5_u32, any::<u32>()],
        ) {
            let gcra = Gcra::new(count, Duration::from_nanos(period), burst);
            prop_assert!(gcra.capacity <= FILL_MAX);
            let seen = gcra.look(debt, cost);
            let left = seen.remaining();
            prop_assert!(left <= burst);
            let passes = |debt: u64, tokens: u64| match u32::try_from(tokens) {
                Ok(tokens) => gcra.take(debt, tokens).passed(),
                Err(_) => false,
            };
            if debt <= gcra.capacity && left <= u64::from(u32::MAX) {
                prop_assert!(passes(debt, left), "{left} are said to be left");
                prop_assert!(!passes(debt, left + 1), "more than {left} pass");
            }
            if let (false, Some(wait)) = (seen.passed(), seen.wait()) {
                let wait = u64::try_from(wait.as_nanos()).unwrap();
                prop_assert!(wait > 0 && passes(debt.saturating_sub(wait), u64::from(cost)));
                prop_assert!(wait > debt || !passes(debt - (wait - 1), u64::from(cost)));
            }
            let taken = gcra.take(debt, cost);
            prop_assert!(!taken.passed() || taken.debt() <= gcra.capacity);
            prop_assert!(gcra.charge(debt, cost).debt() <= FILL_MAX);
            let other = Gcra::new(burst, Duration::from_nanos(debt), count);
            let there = gcra.scaled(debt, &other);
            prop_assert!(there <= FILL_MAX);
            // There and back nothing is forgiven but what rounding down is, and nothing is added.
            let owed = debt.min(gcra.capacity);
            let back = other.scaled(gcra.scaled(owed, &other), &gcra);
            let unit = gcra.capacity.checked_div(other.capacity).map_or(0, |unit| unit + 2);
            prop_assert!(back <= owed && (owed - back <= unit || other.capacity == 0), "{owed} came back as {back}");
            let _ = (seen.next_token(), seen.full());
        }
    }
}
