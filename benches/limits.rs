//! What a limit's decision costs, what it remembers, and how fair it is: this limiter, the same with its parts in the other order,
//! Pingora's `Rate`, governor and a map behind a lock, on the same requests.
//!
//! `cargo bench --bench limits` prints the tables of `docs/limits.md` (two minutes); `cargo test --benches` runs all of it, smaller.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench may stop, and tells its figures")]

#[path = "limits/decision.rs"]
mod decision;
#[path = "limits/policy.rs"]
mod policy;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use governor::clock::{Clock, FakeRelativeClock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use pingora_limits::rate::Rate;
use portcullis::policy::rate_limit::{Buckets, Gcra, HashKey, KeyHash, Nanos, Screen};

/// Counts the bytes that are held.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is made no other way; this one only counts")]
// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HELD.fetch_add(size, Ordering::Relaxed);
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

const MEMORY: usize = 64 << 20;
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// A part of the bench: `cargo bench --bench limits -- room` runs one alone.
type Part<'a> = (&'a str, &'a dyn Fn());

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (flags, wanted): (Vec<_>, Vec<_>) = arguments.iter().partition(|word| word.starts_with('-'));
    let measured = flags.iter().any(|flag| *flag == "--bench");
    let size = if measured { 10_000_000 } else { 10_000 };
    let parts: [Part<'_>; 8] = [
        ("decision", &|| decision::table(size)),
        ("cost", &|| speed(size)),
        ("threads", &|| threads(size / 40)),
        ("fairness", &|| fairness(size / 10, if measured { 4 * SECOND } else { SECOND / 10 })),
        ("long_run", &|| long_run(if measured { HOUR } else { 10 * SECOND })),
        ("room", &|| capacity(if measured { 1 << 20 } else { 16 << 10 })),
        ("policies", &|| policy::decisions(size)),
        ("restart", &|| policy::restart(size)),
    ];
    for (_, run) in
        parts.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| word == name))
    {
        run();
    }
}

/// Evenly distributed bits (splitmix64).
fn mixed(number: u64) -> u64 {
    let bits = (number.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// An address, as keys mostly are.
fn address(number: u64) -> u128 {
    (0x2001_0db8 << 96) | u128::from(mixed(number))
}

/// A limit that any of the limiters can be given.
#[derive(Clone, Copy)]
struct Limit {
    count: u32,
    period: Duration,
    burst: u32,
}

impl Limit {
    fn gcra(self) -> Gcra {
        Gcra::new(self.count.into(), self.period, self.burst.into())
    }

    fn quota(self) -> Quota {
        let quota = Quota::with_period(self.period / self.count).unwrap();
        quota.allow_burst(NonZeroU32::new(self.burst).unwrap())
    }

    fn most(self, time: Duration) -> f64 {
        f64::from(self.burst) + f64::from(self.count) * time.as_secs_f64() / self.period.as_secs_f64()
    }
}

trait Limiter: Sync {
    fn new(limit: Limit) -> Self;
    /// Decides at a time; who reads the clock itself, does.
    fn at(&self, key: u128, now: Nanos) -> bool;
    /// Decides now.
    fn now(&self, key: u128) -> bool {
        self.at(key, Nanos::now())
    }
}

/// This one: exact while there is room, then the estimator.
struct Exact {
    secret: HashKey,
    gcra: Gcra,
    buckets: Buckets,
}

impl Exact {
    fn of(limit: Limit, memory: usize) -> Self {
        let gcra = limit.gcra();
        Self { secret: HashKey::random().unwrap(), gcra, buckets: Buckets::new(memory, &gcra) }
    }
}

fn hashed(secret: &HashKey, key: u128) -> KeyHash {
    let mut hasher = secret.hasher();
    hasher.part(&key.to_be_bytes());
    hasher.finish(0)
}

impl Limiter for Exact {
    fn new(limit: Limit) -> Self {
        Self::of(limit, MEMORY)
    }

    fn at(&self, key: u128, now: Nanos) -> bool {
        self.buckets.take(hashed(&self.secret, key), &self.gcra, 1, now).passed()
    }
}

/// The other order: all keys are screened, those above an eighth of their burst get a bucket.
struct Screened {
    secret: HashKey,
    gcra: Gcra,
    screen: Screen,
    buckets: Buckets,
}

impl Limiter for Screened {
    fn new(limit: Limit) -> Self {
        let gcra = limit.gcra();
        let window = gcra.window().max(Duration::from_millis(100));
        let screen = Screen::new(MEMORY / 2 / 48, window);
        Self { secret: HashKey::random().unwrap(), gcra, screen, buckets: Buckets::new(MEMORY / 2, &gcra) }
    }

    fn at(&self, key: u128, now: Nanos) -> bool {
        let key = hashed(&self.secret, key);
        self.screen.count(key, 1, now) <= self.gcra.screened()
            || self.buckets.take(key, &self.gcra, 1, now).passed()
    }
}

/// Pingora's, with 4 × 1024 counters twice, or with as many as fit in the same memory.
struct Pingora<const SLOTS: usize> {
    rate: Rate,
    most: isize,
}

impl<const SLOTS: usize> Limiter for Pingora<SLOTS> {
    /// Of windows of a second, as it has; below that its reset may panic.
    fn new(limit: Limit) -> Self {
        let rate = Rate::new_with_estimator_config(limit.period.min(SECOND), 4, SLOTS);
        Self { rate, most: isize::try_from(limit.burst).unwrap() }
    }

    fn at(&self, key: u128, _: Nanos) -> bool {
        self.rate.observe(&key, 1) <= self.most
    }

    fn now(&self, key: u128) -> bool {
        self.rate.observe(&key, 1) <= self.most
    }
}

type Default4 = Pingora<1024>;
type Large = Pingora<{ MEMORY / 2 / 4 / 8 }>;

struct Governor(RateLimiter<u128, DashMapStateStore<u128>, MonotonicClock>);

impl Limiter for Governor {
    fn new(limit: Limit) -> Self {
        Self(RateLimiter::dashmap_with_clock(limit.quota(), MonotonicClock))
    }

    fn at(&self, key: u128, _: Nanos) -> bool {
        self.now(key)
    }

    fn now(&self, key: u128) -> bool {
        self.0.check_key(&key).is_ok()
    }
}

/// The same with a clock that is set.
struct GovernorAt {
    clock: FakeRelativeClock,
    limiter: RateLimiter<
        u128,
        DashMapStateStore<u128>,
        FakeRelativeClock,
        NoOpMiddleware<<FakeRelativeClock as Clock>::Instant>,
    >,
    last: Mutex<Nanos>,
}

impl Limiter for GovernorAt {
    fn new(limit: Limit) -> Self {
        let clock = FakeRelativeClock::default();
        let limiter = RateLimiter::dashmap_with_clock(limit.quota(), clock.clone());
        Self { clock, limiter, last: Mutex::default() }
    }

    fn at(&self, key: u128, now: Nanos) -> bool {
        let mut last = self.last.lock().unwrap();
        self.clock.advance(Duration::from_nanos(now.as_nanos() - last.as_nanos()));
        *last = now;
        self.limiter.check_key(&key).is_ok()
    }
}

/// What one writes first; it is exact, and what the others are held against.
struct Map {
    map: Mutex<HashMap<u128, u64>>,
    interval: u64,
    capacity: u64,
}

impl Limiter for Map {
    fn new(limit: Limit) -> Self {
        let interval = u64::try_from(limit.period.as_nanos()).unwrap() / u64::from(limit.count);
        Self { map: Mutex::default(), interval, capacity: interval * u64::from(limit.burst) }
    }

    fn at(&self, key: u128, now: Nanos) -> bool {
        let mut map = self.map.lock().unwrap();
        let full_at = map.entry(key).or_insert(0);
        let after = now.as_nanos().max(*full_at) + self.interval;
        let passed = after - now.as_nanos() <= self.capacity;
        if passed {
            *full_at = after;
        }
        passed
    }
}

/// The time that this thread has worked: what else the machine does is not the limiter's.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Nanoseconds a decision, for these numbers.
fn each<L: Limiter>(limiter: &L, numbers: std::ops::Range<u64>, key: impl Fn(u64) -> u64) -> f64 {
    stretches(numbers, |number| {
        black_box(limiter.now(address(key(number))));
    })
}

/// Nanoseconds that a thread works for each of these: of stretches of the run the one that a tenth of them are better than.
fn stretches(numbers: std::ops::Range<u64>, run: impl Fn(u64)) -> f64 {
    let stretch = (numbers.end - numbers.start).div_ceil(100).max(1);
    let mut found: Vec<f64> = numbers
        .clone()
        .step_by(usize::try_from(stretch).unwrap())
        .map(|first| {
            let last = (first + stretch).min(numbers.end);
            let began = worked();
            (first..last).for_each(&run);
            (worked() - began).as_secs_f64() * 1e9 / (last - first) as f64
        })
        .collect();
    found.sort_by(f64::total_cmp);
    found.get(found.len() / 10).copied().unwrap()
}

/// In the order of the table's columns; the memory is what is held when the most keys are.
fn costs<L: Limiter>(name: &str, size: u64) {
    let before = HELD.load(Ordering::Relaxed);
    let generous = Limit { count: 1000, period: SECOND, burst: 1_000_000 };
    let slow = Limit { count: 1, period: HOUR, burst: 100 };
    let among = |limit: Limit, keys: u64| {
        let limiter = L::new(limit);
        for number in 0..2 * keys {
            limiter.now(address(number % keys));
        }
        each(&limiter, 0..size / 5, |number| mixed(number) % keys)
    };
    let few = among(generous, size / 1000);
    let known = among(slow, size / 10);
    let new = each(&L::new(Limit { count: 100, period: SECOND, burst: 100 }), 0..size / 3, |number| number);
    let refused = among(Limit { count: 1, period: HOUR, burst: 1 }, size / 1000);
    let full = L::new(slow);
    each(&full, 0..size, |number| number);
    let more = each(&full, 0..size, |number| number);
    let held = (HELD.load(Ordering::Relaxed) - before) as f64 / f64::from(1 << 20);
    drop(full);
    let burst = L::new(Limit { count: 1, period: HOUR, burst: 7 });
    each(&burst, 0..size / 2, |number| number);
    let all = each(&burst, size / 2..size * 2 / 3, |number| number);
    println!(
        "| {name} | {few:.0} | {known:.0} | {new:.0} | {refused:.0} | {more:.0} | {all:.0} | {held:.1} |"
    );
}

const NAMES: [&str; 6] =
    ["Portcullis", "screen first", "`Rate`, default", "`Rate`, 64 MiB", "governor", "map behind a lock"];

fn speed(size: u64) {
    let memory = Buckets::new(MEMORY, &Gcra::new(10, SECOND, 10)).figures(Nanos::default()).memory;
    assert!(memory <= MEMORY as u64, "{memory} bytes");
    println!(
        "## Cost and memory\n\nNanoseconds that one thread works for a decision, reading the clock and hashing the key included; the \
         keys are {size} addresses.\n\n\
         - *few*: {} keys, whose buckets are below full; *refused*: as many, whose buckets are empty\n\
         - *known*: {}, below full; *new*: {}, each for the first time, 100/1s\n\
         - *all*: {size}, each for the second time, more than fit in 64 MiB: known or not; *evicting*: new ones where all \
         entries are taken and the burst is too small for an eighth of it\n",
        size / 1000,
        size / 10,
        size / 3
    );
    println!(
        "| limiter | few | known | new | refused | all | evicting | MiB held |\n|---|---|---|---|---|---|---|---|"
    );
    let [exact, screened, default, large, governor, map] = NAMES;
    costs::<Exact>(exact, size);
    costs::<Screened>(screened, size);
    costs::<Default4>(default, size);
    costs::<Large>(large, size);
    costs::<Governor>(governor, size);
    costs::<Map>(map, size);
    println!();
}

/// Decisions a second of two threads, for those of one.
fn threads(size: u64) {
    println!("## Two threads\n\nDecisions a second of two threads, divided by those of one.\n");
    println!("| limiter | 50,000 keys | one key |\n|---|---|---|");
    let [exact, screened, default, large, governor, map] = NAMES;
    scale::<Exact>(exact, size);
    scale::<Screened>(screened, size);
    scale::<Default4>(default, size);
    scale::<Large>(large, size);
    scale::<Governor>(governor, size);
    scale::<Map>(map, size);
    println!();
}

fn scale<L: Limiter>(name: &str, size: u64) {
    let limit = Limit { count: 1000, period: SECOND, burst: 1000 };
    let run = |limiter: &L, keys: u64, thread: u64| {
        let began = Instant::now();
        for number in 0..size {
            black_box(limiter.now(address(mixed(number + thread * size) % keys)));
        }
        began.elapsed().as_secs_f64()
    };
    let ratio = |keys: u64| {
        let limiter = L::new(limit);
        run(&limiter, keys, 0);
        let both = || {
            let (run, limiter) = (&run, &limiter);
            std::thread::scope(|scope| {
                let threads = [0, 1].map(|thread| scope.spawn(move || run(limiter, keys, thread)));
                threads.map(|thread| thread.join().unwrap()).into_iter().fold(0.0, f64::max)
            })
        };
        // The best of thirty short runs: what else the machine does is not the limiter's.
        let best = |run: &dyn Fn() -> f64| (0..30).map(|_| run()).fold(f64::INFINITY, f64::min);
        2.0 * best(&|| run(&limiter, keys, 0)) / best(&both)
    };
    println!("| {name} | {:.2} | {:.2} |", ratio(50_000), ratio(1));
}

/// A request: when, and whose.
type Event = (u64, u64);

/// What of a run was wrong.
#[derive(Default)]
struct Wrong {
    refused: u64,
    most: f64,
    beyond: f64,
}

/// Requests of a few seconds, in four shapes.
fn fairness(size: u64, time: Duration) {
    let limit = Limit { count: 10, period: SECOND, burst: 10 };
    println!(
        "## Fairness\n\n{size} requests in {time:?}, against 10/1s with a burst of 10. In the flood they are from 50,000 keys that keep \
         to the limit, and those of 50 keys that send 500 a second come on top. False refusals: requests refused of keys that an \
         exact bucket refuses nothing. Overshoot: what passed above burst + rate × time, of the key that got most and of all.\n"
    );
    println!(
        "| requests | limiter | false refusals | of | overshoot of one key | of all |\n|---|---|---|---|---|---|"
    );
    let span = u64::try_from(time.as_nanos()).unwrap();
    let even = |keys: u64| {
        (0..size).map(|number| (number * span / size, mixed(number) % keys)).collect::<Vec<Event>>()
    };
    judged("uniform, 100 keys", &even(100), limit, time);
    judged("uniform, 50,000 keys", &even(50_000), limit, time);
    judged("Zipf, 50,000 keys", &zipf(size, span), limit, time);
    let keys = size / (5 * time.as_secs()).max(1);
    let mut flood: Vec<Event> =
        (0..size).map(|number| (number * span / size, 1000 + number % keys)).collect();
    let hammers = 500 * span / 1_000_000_000;
    flood.extend((0..50 * hammers).map(|number| (number / 50 * span / hammers, number % 50)));
    flood.sort_unstable();
    judged("flood", &flood, limit, time);
    println!();
}

/// The n-th key has 1/n of the first one's requests.
fn zipf(size: u64, span: u64) -> Vec<Event> {
    let sums: Vec<f64> = (1..=50_000)
        .scan(0.0, |sum, rank| {
            *sum += 1.0 / f64::from(rank);
            Some(*sum)
        })
        .collect();
    let total = sums.last().copied().unwrap();
    let key = |number| {
        let point = mixed(number) as f64 / u64::MAX as f64 * total;
        sums.partition_point(|sum| *sum < point) as u64
    };
    (0..size).map(|number| (number * span / size, key(number))).collect()
}

fn judged(requests: &str, events: &[Event], limit: Limit, time: Duration) {
    let mut asked: HashMap<u64, (u64, u64)> = HashMap::new();
    let oracle = Map::new(limit);
    for (at, key) in events {
        let entry = asked.entry(*key).or_default();
        entry.0 += 1;
        entry.1 += u64::from(oracle.at(address(*key), Nanos::from_nanos(1_000_000_000 + at)));
    }
    let innocent: u64 =
        asked.values().filter(|(asked, passed)| asked == passed).map(|(asked, _)| asked).sum();
    let told = |name: &str, wrong: &Wrong| {
        println!(
            "| {requests} | {name} | {} | {innocent} | {:.1} % | {:.1} % |",
            wrong.refused,
            wrong.most * 100.0,
            wrong.beyond * 100.0
        );
    };
    let replay = |decide: &dyn Fn(u64, u64) -> bool| wrongs(events, &asked, limit, time, decide);
    fn simulated<L: Limiter>(limit: Limit) -> impl Fn(u64, u64) -> bool {
        let limiter = L::new(limit);
        move |at, key| limiter.at(address(key), Nanos::from_nanos(1_000_000_000 + at))
    }
    let [exact, screened, default, large, governor, map] = NAMES;
    let wrong = replay(&simulated::<Exact>(limit));
    assert_eq!(wrong.refused, 0, "who keeps to the limit was refused");
    told(exact, &wrong);
    let wrong = replay(&simulated::<Screened>(limit));
    assert_eq!(wrong.refused, 0, "who keeps to the limit was refused");
    told(screened, &wrong);
    // These read the clock themselves: the requests come when they come, for both at once.
    let (small, big) = (Default4::new(limit), Large::new(limit));
    let began = Instant::now();
    let large_passed = std::cell::RefCell::new(Vec::with_capacity(events.len()));
    let wrong = replay(&|at, key| {
        while began.elapsed() < Duration::from_nanos(at) {
            std::hint::spin_loop();
        }
        large_passed.borrow_mut().push(big.now(address(key)));
        small.now(address(key))
    });
    told(default, &wrong);
    let large_passed = large_passed.into_inner();
    let next = std::cell::Cell::new(0);
    told(large, &replay(&|_, _| large_passed.get(next.replace(next.get() + 1)).copied().unwrap()));
    told(governor, &replay(&simulated::<GovernorAt>(limit)));
    told(map, &replay(&simulated::<Map>(limit)));
}

fn wrongs(
    events: &[Event],
    asked: &HashMap<u64, (u64, u64)>,
    limit: Limit,
    time: Duration,
    decide: &dyn Fn(u64, u64) -> bool,
) -> Wrong {
    let mut wrong = Wrong::default();
    let mut passed: HashMap<u64, u64> = HashMap::new();
    for (at, key) in events {
        let innocent = asked.get(key).is_some_and(|(asked, passed)| asked == passed);
        if decide(*at, *key) {
            *passed.entry(*key).or_default() += 1;
        } else if innocent {
            wrong.refused += 1;
        }
    }
    let most = limit.most(time);
    let (mut beyond, mut due) = (0.0, 0.0);
    for (key, (asked, _)) in asked {
        let passed = passed.get(key).copied().unwrap_or_default() as f64;
        let allowed = most.min(*asked as f64);
        wrong.most = wrong.most.max(passed / most - 1.0);
        beyond += (passed - allowed).max(0.0);
        due += allowed;
    }
    wrong.beyond = beyond / due;
    wrong
}

/// Keys that ask five times as often as they may, for an hour; and the same while others fill the table many times over.
fn long_run(time: Duration) {
    let limit = Limit { count: 10, period: SECOND, burst: 20 };
    println!(
        "## A long run\n\n100 keys that send 50 a second against 10/1s with a burst of 20, for {} s of simulated time; beside them \
         4000 a second that ask once, each another key, so that 500 buckets are below full at any time.\n",
        time.as_secs()
    );
    println!(
        "| memory | room | overshoot of one key over burst + rate × time | overflows | promotions | estimator's error |"
    );
    println!("|---|---|---|---|---|---|");
    for memory in [MEMORY, 16 << 10, 12 << 10, 8 << 10, 4 << 10] {
        let limiter = Exact::of(limit, memory);
        let mut passed = [0_u64; 100];
        let steps = time.as_secs() * 50;
        for step in 0..steps {
            let now = Nanos::from_nanos(1_000_000_000 + step * 20_000_000);
            for (passed, number) in passed.iter_mut().zip(0..) {
                *passed += u64::from(limiter.at(address(number), now));
            }
            for other in 0..80 {
                assert!(limiter.at(address(1000 + step * 80 + other), now));
            }
        }
        let most = passed.iter().copied().max().unwrap() as f64 / limit.most(time) - 1.0;
        let figures = limiter.buckets.figures(Nanos::from_nanos(1_000_000_000 * time.as_secs()));
        println!(
            "| {} KiB | {} | {:.3} % | {} | {} | {:.2} |",
            memory >> 10,
            figures.capacity,
            most * 100.0,
            figures.overflows,
            figures.promotions,
            figures.error
        );
        if memory == MEMORY {
            assert!(most <= 0.01, "more than a hundredth above the bound");
        }
    }
    println!();
}

/// How many keys that all spend what they can a table holds to the limit.
fn capacity(memory: usize) {
    let limit = Limit { count: 1, period: 60 * SECOND, burst: 16 };
    let room = Buckets::new(memory, &limit.gcra()).figures(Nanos::default()).capacity;
    println!(
        "## A table that is too small\n\nKeys that all send what they can (ten bursts at once) against 1/1m with a burst of 16, in a \
         table of {} KiB with room for {room} buckets. Unlimited: more than 1 % above the bound. Otherwise held to it, to the token.\n",
        memory >> 10
    );
    println!("| keys, of the room | unlimited |\n|---|---|");
    for percent in [25, 50, 75, 80, 85, 90, 100, 150] {
        let keys = room * percent / 100;
        let limiter = Exact::of(limit, memory);
        let mut passed = vec![0_u16; usize::try_from(keys).unwrap()];
        for step in 0..160_u64 {
            let now = Nanos::from_nanos(1_000_000_000 + step * 1_000_000);
            for (passed, number) in passed.iter_mut().zip(0..) {
                *passed += u16::from(limiter.at(address(number), now));
            }
        }
        let free = passed.iter().filter(|passed| **passed > 18).count();
        println!("| {percent} % | {:.3} % |", free as f64 * 100.0 / keys as f64);
    }
    println!();
}
