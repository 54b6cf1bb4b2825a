//! What a decision of this limiter is made of, held to what was promised: 150 ns.

use std::hint::black_box;
use std::ops::Range;

use portcullis::policy::rate_limit::{Buckets, HashKey, KeyHash, Nanos};

use super::{HOUR, Limit, MEMORY, SECOND, address, hashed, mixed, stretches, worked};

/// What was promised of a decision, its key's hash included, in nanoseconds.
const MOST: f64 = 150.0;
/// The clock is read once for so many decisions: it is a request's, not a decision's.
const READINGS: u64 = 64;

/// How a row's keys are asked before it is measured, and then.
struct Row {
    name: &'static str,
    limit: Limit,
    before: u64,
    keys: u64,
    measured: Range<u64>,
    /// Among as many keys at random, or each in turn.
    is_random: bool,
}

/// The rows of `docs/limits.md`.
fn rows(size: u64) -> [Row; 7] {
    let slow = |burst| Limit { count: 1, period: HOUR, burst };
    let among = |name, limit, keys: u64| Row {
        name,
        limit,
        before: 2 * keys,
        keys,
        measured: 0..size / 5,
        is_random: true,
    };
    let in_turn = |name, limit, before, measured| Row {
        name,
        limit,
        before,
        keys: u64::MAX,
        measured,
        is_random: false,
    };
    [
        among("few", Limit { count: 1000, period: SECOND, burst: 1_000_000 }, size / 1000),
        among("known", slow(100), size / 10),
        in_turn("new", Limit { count: 100, period: SECOND, burst: 100 }, 0, 0..size / 3),
        among("refused", slow(1), size / 1000),
        Row { keys: size, ..in_turn("screened", slow(1_000_000), size, size..size * 3 / 2) },
        in_turn("evicting", slow(7), size / 2, size / 2..size * 2 / 3),
        Row { keys: size, ..in_turn("all", slow(100), size, size..2 * size) },
    ]
}

impl Row {
    /// Nanoseconds a decision, each with its key made before it. `ahead`: the key of the next is made, and what it needs is fetched,
    /// before this one is decided, as the gateway has something else to do in between.
    fn each(&self, ahead: bool, key: impl Fn(u64) -> KeyHash) -> f64 {
        let gcra = self.limit.gcra();
        let buckets = Buckets::new(MEMORY, &gcra);
        let made = std::cell::Cell::new(None);
        let clock = std::cell::Cell::new(Nanos::now());
        let ask = |number: u64| {
            if number.is_multiple_of(READINGS) {
                clock.set(Nanos::now());
            }
            black_box(buckets.take(key(number % self.keys), &gcra, 1, clock.get()).passed());
        };
        (0..self.before).for_each(ask);
        let which = |number: u64| if self.is_random { mixed(number) } else { number };
        stretches(self.measured.clone(), |number| {
            if !ahead {
                return ask(which(number));
            }
            if number.is_multiple_of(READINGS) {
                clock.set(Nanos::now());
            }
            let next = key(which(number + 1) % self.keys);
            buckets.fetch(next);
            if let Some(key) = made.replace(Some(next)) {
                black_box(buckets.take(key, &gcra, 1, clock.get()).passed());
            }
        })
    }
}

/// Each row: the decision alone, with its key's hash, and whether that is what was promised.
pub(super) fn table(size: u64) {
    let secret = HashKey::random().unwrap();
    println!(
        "## A decision\n\nNanoseconds that one thread works for a decision of Portcullis, of {size} addresses, in a table of {} MiB. \
         *decision*: with bits that are evenly distributed in the place of a hash; *at once*: with the hash of an address before it; \
         *ahead*: likewise, but the hash is made, and memory asked, one decision earlier, as the gateway does for the edge's limits when the \
         client is known. \
         The clock is read once for {READINGS} decisions, as it is read once a request: it comes on top, below. Promised are {MOST} ns, the \
         hash included and the clock not.\n\n\
         - *few*, *known*, *refused*, *new*, *evicting*, *all*: as below; *screened*: {size} keys, each for the second time, more than fit, most of which the \
         estimator lets pass\n",
        MEMORY >> 20
    );
    println!("| keys | decision | and hash, at once | and hash, ahead | {MOST} ns |\n|---|---|---|---|---|");
    for row in rows(size) {
        let alone = row.each(false, |number| KeyHash::from_bits(mixed(number) & !0xff, mixed(!number)));
        let [both, ahead] =
            [false, true].map(|ahead| row.each(ahead, |number| hashed(&secret, address(number))));
        let word = if ahead <= MOST { "met" } else { "MISSED" };
        println!("| {} | {alone:.0} | {both:.0} | {ahead:.0} | {word} |", row.name);
    }
    println!();
    parts(&secret);
}

/// What the clock and the hash take, and what the machine does for a look at memory that no cache has.
fn parts(secret: &HashKey) {
    let timed = |run: &mut dyn FnMut(u64)| {
        let began = worked();
        (0..1_000_000).for_each(run);
        (worked() - began).as_secs_f64() * 1e3
    };
    let clock = timed(&mut |_| {
        black_box(Nanos::now());
    });
    let key = timed(&mut |number| {
        black_box(address(mixed(number)));
    });
    let hash = timed(&mut |number| {
        black_box(hashed(secret, black_box(u128::from(number))));
    });
    let long = vec![b'k'; 8 << 10];
    let hash_long = timed(&mut |number| {
        if number < 1000 {
            let mut hasher = secret.hasher();
            hasher.part(black_box(&long));
            black_box(hasher.finish(0));
        }
    }) * 1000.0;
    let table: Vec<u64> = (0..MEMORY as u64 / 8).collect();
    let mut last = 0_u64;
    let memory = timed(&mut |number| {
        let place = mixed(number ^ last) % table.len() as u64;
        last = table.get(usize::try_from(place).unwrap()).copied().unwrap();
    });
    black_box(last);
    println!(
        "The clock takes {clock:.0} ns, the hash of an address {hash:.0} ns, choosing a key for the bench {key:.0} ns. The hash of a key \
         of 8 KiB takes {hash_long:.0} ns. To look at one word of {} MiB, each look's place known only after the one before, takes this \
         machine {memory:.0} ns: a decision about a set that is in no cache waits for that.\n",
        MEMORY >> 20
    );
}
