use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::rate_limit::{Buckets, Gcra, KeyHash};

const MILLI: u64 = 1_000_000;

const fn rules(after: u32, within: u64, first: u64, max: u64) -> Rules {
    Rules::of(after, within, first, max)
}

/// Evenly distributed bits (splitmix64), as a hash has.
fn mixed(number: u64) -> u64 {
    let bits = (number.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn key(number: u64) -> KeyHash {
    KeyHash::from_bits(mixed(number) & !0xff, mixed(!number))
}

/// A limit with a penalty, as requests meet it.
struct Limited {
    buckets: Buckets,
    penalties: Penalties,
    gcra: Gcra,
    rules: Rules,
}

/// What a request is told: after how many seconds to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Pass,
    Wait(u64),
    CooledOff(u64),
}

impl Limited {
    fn new(count: u64, per: u64, burst: u64, rules: Rules) -> Self {
        Self::of(64, 64, Gcra::new(count, Duration::from_secs(per), burst), rules)
    }

    fn of(sets: usize, records: usize, gcra: Gcra, rules: Rules) -> Self {
        Self { buckets: Buckets::of(sets, 64, &gcra), penalties: Penalties::of(records), gcra, rules }
    }

    fn ask(&self, key: KeyHash, now: u64) -> Told {
        let now = Nanos::from_nanos(now);
        if let Some(rest) = self.penalties.rest(key, now) {
            return Told::CooledOff(u64::try_from(rest.as_nanos()).unwrap().div_ceil(SECOND));
        }
        let taken = self.buckets.take(key, &self.gcra, 1, now);
        if taken.passed() {
            return Told::Pass;
        }
        let word = self.penalties.refused(&self.rules, key, taken.wait().unwrap(), now);
        let wait = word.wait.div_ceil(SECOND);
        if word.cooled_off { Told::CooledOff(wait) } else { Told::Wait(wait) }
    }

    /// Sends `each` apart, whatever it is told, until it is cooled off: when that was, and for how long.
    fn hammer(&self, key: KeyHash, from: u64, each: u64) -> (u64, u64) {
        let mut times = (0..100_000).map(|number| from + number * each);
        let cooled_off = |now: &u64| match self.ask(key, *now) {
            Told::CooledOff(wait) => Some(wait),
            Told::Pass | Told::Wait(_) => None,
        };
        times.find_map(|now| cooled_off(&now).map(|wait| (now, wait))).expect("it was never cooled off")
    }
}

#[test]
fn who_hammers_is_cooled_off_each_time_longer_up_to_a_bound() {
    for (count, per) in [(1000, 1), (1, 1), (1, 2), (1, 5), (5, 60), (1, 3600)] {
        let limited = Limited::new(count, per, count, rules(10, 60, 7200, 20_000));
        let mut now = 100 * SECOND;
        for expected in [7200, 14_400, 20_000, 20_000] {
            let (began, wait) = limited.hammer(key(1), now, MILLI / 2);
            assert_eq!(wait, expected, "{count}/{per}s");
            let end = began + wait * SECOND;
            // It is told the same end all the time, and served when it comes.
            assert_eq!(limited.ask(key(1), began + 1), Told::CooledOff(wait));
            assert_eq!(limited.ask(key(1), end - 1), Told::CooledOff(1));
            assert_eq!(limited.ask(key(1), end), Told::Pass, "{count}/{per}s");
            now = end;
        }
        assert_eq!(limited.ask(key(2), now), Told::Pass, "another key");
    }
}

#[test]
fn a_key_that_was_quiet_begins_anew() {
    let limited = Limited::new(1, 1, 1, rules(10, 60, 10, 900));
    let (began, wait) = limited.hammer(key(1), SECOND, MILLI);
    let end = began + wait * SECOND;
    // Refused now and then, but never too early: that is quiet.
    for number in 0..20 {
        assert_eq!(limited.ask(key(1), end + 3 * number * SECOND), Told::Pass);
        assert_eq!(limited.ask(key(1), end + 3 * number * SECOND), Told::Wait(3));
    }
    assert_eq!(limited.hammer(key(1), end + 60 * SECOND, MILLI).1, 10);
    let (began, _) = limited.hammer(key(2), SECOND, MILLI);
    let (began, wait) = limited.hammer(key(2), began + 10 * SECOND, MILLI);
    assert_eq!(wait, 20);
    // The last second of what is remembered is still held against it, and what it does then for a while more.
    assert_eq!(limited.hammer(key(2), began + (20 + 57) * SECOND, MILLI).1, 40);
}

#[test]
fn a_burst_of_one_moment_and_a_few_early_requests_are_borne() {
    let limited = Limited::new(1, 10, 1, rules(3, 30, 10, 900));
    for number in 0..1000 {
        let told = limited.ask(key(1), SECOND + number * MILLI);
        assert_eq!(told, if number == 0 { Told::Pass } else { Told::Wait(10) });
    }
    assert_eq!(limited.ask(key(1), 4 * SECOND), Told::Wait(7));
    assert_eq!(limited.ask(key(1), 5 * SECOND), Told::Wait(6));
    // Breaches that are longer ago than `within` are not counted with new ones.
    assert_eq!(limited.ask(key(1), 35 * SECOND), Told::Pass);
    assert_eq!(limited.ask(key(1), 35 * SECOND), Told::Wait(10));
    assert_eq!(limited.ask(key(1), 38 * SECOND), Told::Wait(7));
    assert_eq!(limited.ask(key(1), 39 * SECOND), Told::Wait(6));
    assert_eq!(limited.ask(key(1), 40 * SECOND), Told::CooledOff(10));
}

#[test]
fn records_are_of_one_key_exactly() {
    let limited = Limited::of(1 << 10, 1, Gcra::new(1, Duration::from_secs(1), 1), rules(1, 60, 600, 600));
    let one = KeyHash::from_bits(7 << 8, 9);
    let (began, _) = limited.hammer(one, SECOND, MILLI);
    for other in
        [KeyHash::from_bits(7 << 8, 10), KeyHash::from_bits(8 << 8, 9), KeyHash::from_bits(7 << 8 | 1, 9)]
    {
        assert_eq!(limited.penalties.rest(other, Nanos::from_nanos(began)), None, "{other:?}");
        let word = limited.penalties.refused(&limited.rules, other, Duration::ZERO, Nanos::from_nanos(began));
        assert!(!word.cooled_off, "{other:?}");
    }
    assert!(limited.penalties.rest(one, Nanos::from_nanos(began)).is_some());
    assert_eq!(limited.penalties.rest(KeyHash::from_bits(0, 0), Nanos::from_nanos(began)), None);
}

#[test]
fn where_there_is_no_room_there_is_no_penalty_and_nobody_is_forgotten() {
    let limited = Limited::of(1 << 10, 1, Gcra::new(1, Duration::from_secs(1), 1), rules(10, 60, 600, 600));
    let mut now = SECOND;
    for number in 0..7 {
        now = limited.hammer(key(number), now, MILLI).0;
    }
    let missed = (0..10_000)
        .filter(|number| !matches!(limited.ask(key(100), now + number * MILLI), Told::CooledOff(_)));
    assert_eq!(missed.count(), 10_000);
    let figures = limited.penalties.figures(Nanos::from_nanos(now));
    assert_eq!((figures.cooled_off, figures.begun), (7, 7));
    assert!(figures.missed > 9_000, "{figures:?}");
    for number in 0..7 {
        assert!(matches!(limited.ask(key(number), now), Told::CooledOff(_)), "{number}");
    }
    // Once they are forgotten their room is another's.
    let later = now + 1300 * SECOND;
    assert_eq!(limited.hammer(key(100), later, MILLI).1, 600);
    assert_eq!(limited.penalties.figures(Nanos::from_nanos(later + 4 * SECOND)).cooled_off, 1);
}

#[test]
fn clocks_may_jump() {
    let limited = Limited::new(1, 1, 1, rules(10, 60, 600, 600));
    let hour = 3600 * SECOND;
    let (began, _) = limited.hammer(key(1), 2 * hour, MILLI);
    assert!(limited.penalties.rest(key(1), Nanos::from_nanos(began - SECOND / 2)).is_some(), "a late thread");
    assert_eq!(limited.penalties.rest(key(1), Nanos::from_nanos(hour)), None, "set back");
    let word =
        limited.penalties.refused(&limited.rules, key(1), Duration::from_secs(1), Nanos::from_nanos(hour));
    assert_eq!(word, Word { wait: WAIT_MIN, cooled_off: false });
    for now in [0, 5 * hour, u64::MAX, 1] {
        let _ = limited.ask(key(1), now);
        let _ = limited.penalties.refused(&limited.rules, key(1), Duration::MAX, Nanos::from_nanos(now));
    }
    assert_eq!(rules(1, 1, 86_400, 86_400).cool_off(200), 86_400 * SECOND);
}

/// A request of a client of several workers, on its way.
type Sent = Reverse<(u64, usize)>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the others do, in tables of any size: a key that never exceeds its limit is never refused, so never penalised.
    #[test]
    fn no_key_within_its_limit_is_ever_penalised(
        records in 1..3_usize,
        sets in 1..4_usize,
        (count, burst) in (1..20_u64, 1..20_u64),
        after in 1..4_u32,
        others in prop::collection::vec((0..12_u64, 0..400 * MILLI), 50..600),
        own in prop::collection::vec(0..3 * SECOND, 50..200),
    ) {
        let gcra = Gcra::new(count, Duration::from_secs(1), burst);
        let limited = Limited::of(sets, records, gcra, rules(after, 60, 10, 900));
        // What the quiet key may do is said by a bucket that it has alone.
        let alone = Buckets::of(1, 16, &gcra);
        let mut now = SECOND;
        let mut quiet: BinaryHeap<Reverse<u64>> = own.iter().scan(SECOND, |at, gap| {
            *at += gap;
            Some(Reverse(*at))
        }).collect();
        for (number, gap) in others {
            now += gap;
            while let Some(Reverse(at)) = quiet.peek().copied().filter(|Reverse(at)| *at <= now) {
                quiet.pop();
                if alone.take(key(999), &gcra, 1, Nanos::from_nanos(at)).passed() {
                    // Asked in the order in which they come, as sets keep the latest time.
                    prop_assert_eq!(limited.ask(key(999), at), Told::Pass);
                }
            }
            // Others send several at once, and do not care.
            for _ in 0..3 {
                let _ = limited.ask(key(number), now);
            }
        }
    }

    /// Several workers of one key, each of which comes again when it was told to, and none of which begins anything while one was told
    /// to wait: not a single breach, though one would bring a cool-off.
    #[test]
    fn who_keeps_to_what_he_is_told_is_never_penalised(
        limit in prop::sample::select(vec![(1, 1, 1), (1, 1, 3), (50, 1, 50), (3, 10, 3), (1, 2, 1), (1, 4, 2), (5, 60, 5)]),
        workers in 1..12_usize,
        random in prop::collection::vec(any::<u64>(), 400),
    ) {
        let (count, per, burst) = limit;
        let limited = Limited::new(count, per, burst, rules(1, 86_400, 10, 900));
        let mut random = random.into_iter();
        let mut drawn = |below: u64| random.next().map(|number| number % below);
        let mut sent: BinaryHeap<Sent> = BinaryHeap::new();
        let mut not_before = 0;
        for worker in 0..workers {
            sent.push(Reverse((SECOND + drawn(2 * SECOND).unwrap_or_default(), worker)));
        }
        while let Some(Reverse((now, worker))) = sent.pop() {
            // The answer and the next request: less than a second there and back.
            let Some(way) = drawn(950 * MILLI) else { break };
            let Some(pause) = drawn(400 * MILLI) else { break };
            let next = match limited.ask(key(1), now) {
                Told::Pass => (now + pause).max(not_before),
                Told::Wait(wait) => {
                    not_before = not_before.max(now + wait * SECOND);
                    now + wait * SECOND
                }
                Told::CooledOff(wait) => return Err(TestCaseError::fail(format!("cooled off for {wait} s"))),
            };
            sent.push(Reverse((next + way, worker)));
        }
    }

    /// Whatever is configured and done: no overflow, and nobody is told more than the bound, or than the bucket wants.
    #[test]
    fn cool_offs_are_bounded(
        after in 1..5_u32,
        (within, first, max) in (1..86_400_u64, 1..86_400_u64, 1..86_400_u64),
        steps in prop::collection::vec((any::<u64>(), prop_oneof![0..SECOND, any::<u64>()], 0..100_u64), 1..200),
    ) {
        let rules = rules(after, within, first.min(max), max);
        let mut conduct = Conduct::default();
        let (mut now, mut longest) = (SECOND, WAIT_MIN.max(max * SECOND));
        for (jump, wait, kind) in steps {
            longest = longest.max(wait);
            now = match kind {
                0 => jump,
                1..10 => now.saturating_add(jump % (1 << 50)),
                _ => now.saturating_add(jump % (4 * SECOND)),
            };
            let (word, _) = rules.refuse(&mut conduct, wait, now);
            prop_assert!(word.wait <= longest.saturating_add(STALE));
            prop_assert!(word.wait > 0 || now == u64::MAX);
        }
    }
}
