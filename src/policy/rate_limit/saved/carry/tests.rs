use std::sync::LazyLock;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::policy::rate_limit::penalty::Rules;
use crate::policy::rate_limit::{Gcra, HashKey, KeyHash};

const HOUR: Duration = Duration::from_secs(3600);
/// So many that they fill more than a frame.
const MANY: u32 = 4000;

fn writing(tables: &[Kept]) -> Writing<'_> {
    Writing { tables, retired: &[], claims: &[] }
}

fn heirs(tables: &[Kept]) -> Heirs<'_> {
    Heirs { tables, adopt: &|_| None, leases: &[] }
}

fn hourly(count: u64) -> Gcra {
    Gcra::new(count, HOUR, count)
}

/// A table of a process whose secret is this byte, with this limit for all and others for these values.
fn table(definition: &str, secret: u8, limit: Gcra, own: &[(&str, Gcra)]) -> Kept {
    sized(definition, secret, limit, own, 1 << 20)
}

fn sized(definition: &str, secret: u8, limit: Gcra, own: &[(&str, Gcra)], bytes: usize) -> Kept {
    let table = Arc::new(Table::new(definition, HashKey::from_bytes(Zeroizing::new([secret; 16])), None));
    let values: Vec<_> = own.iter().map(|(value, _)| (*value).to_owned()).collect();
    let classes = table.classes(values.iter()).into_iter().zip(own.iter().map(|(_, gcra)| *gcra));
    table.put_in_force(&classes.chain([(0, limit)]).collect(), bytes);
    Kept(table)
}

fn key(Kept(table): &Kept, name: &str, value: Option<&str>) -> KeyHash {
    let mut hasher = table.hash().hasher();
    hasher.part(name.as_bytes());
    let class = value.map(|value| table.classes([value.to_owned()].iter()).first().copied().unwrap());
    hasher.finish(class.unwrap_or_default())
}

fn spend(kept: &Kept, name: &str, value: Option<&str>, limit: &Gcra, tokens: u32) {
    let _ = kept.0.charge(key(kept, name, value), limit, tokens, Nanos::now());
}

fn left(kept: &Kept, name: &str, value: Option<&str>, limit: &Gcra) -> u64 {
    kept.0.look(key(kept, name, value), limit, 1, Nanos::now()).remaining()
}

fn generous() -> Bounds {
    Bounds { began: SystemTime::UNIX_EPOCH, bytes: u64::MAX, until: Instant::now() + HOUR }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn given(tables: &[Kept], seconds: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let given = give(writing(tables), &mut bytes, at(seconds), generous()).unwrap();
    assert!(given.all);
    bytes
}

/// What is found in it, and why there is no more.
fn found(tables: &[Kept], bytes: &[u8], seconds: u64) -> (Found, Option<String>) {
    let (found, unusable) = take(&heirs(tables), &mut &*bytes, at(seconds), Instant::now() + HOUR);
    let found = Found { began: 0, ..found };
    (found, unusable.map(|unusable| unusable.to_string()))
}

#[test]
fn what_keys_owe_outlives_a_process_and_is_less_by_the_time_between() {
    let limit = hourly(10);
    let before = table("few", 1, limit, &[]);
    for spent in 1..=12 {
        spend(&before, &spent.to_string(), None, &limit, spent);
    }
    let bytes = given(std::slice::from_ref(&before), 1_000_000);
    // 10 an hour are one in 360 seconds; a clock that was set back brings none, and nobody owes anything in a thousand years.
    for (seconds, brought, early) in [(0, 0_u64, false), (720, 2, false), (9_999_999, 99, false)] {
        let after = table("few", 2, limit, &[]);
        let whole = Found { tables: 1, retired: 0, buckets: 12, early, began: 0 };
        assert_eq!(found(std::slice::from_ref(&after), &bytes, 1_000_000 + seconds), (whole, None));
        for spent in 1..=12_u64 {
            let expected = (10 + brought).saturating_sub(spent).min(10);
            assert_eq!(left(&after, &spent.to_string(), None, &limit), expected, "{spent} after {seconds} s");
        }
        assert_eq!(left(&after, "another", None, &limit), 10);
    }
    for seconds in [0, 999_999] {
        let after = table("few", 2, limit, &[]);
        let (found, unusable) = found(std::slice::from_ref(&after), &bytes, seconds);
        assert_eq!((found.early, unusable), (true, None));
        assert_eq!([left(&after, "4", None, &limit), left(&after, "12", None, &limit)], [6, 0]);
    }
    // And from there into a third process: it is the same secret still.
    let second = table("few", 2, limit, &[]);
    let _ = found(std::slice::from_ref(&second), &bytes, 1_000_000);
    let third = table("few", 3, limit, &[]);
    let bytes = given(&[second], 1_000_360);
    let _ = found(std::slice::from_ref(&third), &bytes, 1_000_720);
    assert_eq!(left(&third, "4", None, &limit), 7);
}

#[test]
fn rates_that_have_changed_are_scaled_as_a_reload_does() {
    let cases = [
        (hourly(10), 10, hourly(1000), 0),
        (hourly(10), 4, hourly(1000), 600),
        (hourly(1000), 500, hourly(10), 5),
        (hourly(10), 4, hourly(10), 6),
        (Gcra::new(0, HOUR, 3), 3, hourly(10), 0),
        (hourly(10), 4, Gcra::new(0, HOUR, 10), 6),
    ];
    for (old, spent, new, expected) in cases {
        let (before, after) = (table("few", 1, old, &[]), table("few", 2, new, &[]));
        spend(&before, "a", None, &old, spent);
        let bytes = given(&[before], 9);
        assert_eq!(found(std::slice::from_ref(&after), &bytes, 9).1, None);
        assert_eq!(left(&after, "a", None, &new), expected, "{spent} of {old:?}");
    }
}

#[test]
fn values_with_limits_of_their_own_are_found_by_their_names() {
    let (all, gold) = (hourly(10), hourly(100));
    let before = table("few", 1, all, &[("gold", gold), ("silver", hourly(20))]);
    spend(&before, "a", None, &all, 4);
    spend(&before, "b", Some("gold"), &gold, 40);
    spend(&before, "c", Some("silver"), &hourly(20), 10);
    let bytes = given(&[before], 9);
    // They had other numbers, and one is gone.
    let after = table("few", 2, all, &[("bronze", hourly(5)), ("copper", hourly(5)), ("gold", gold)]);
    assert_eq!(found(std::slice::from_ref(&after), &bytes, 9).1, None);
    assert_eq!(left(&after, "a", None, &all), 6);
    assert_eq!(left(&after, "b", Some("gold"), &gold), 60);
    assert_eq!(left(&after, "c", None, &all), 10);
    assert_eq!(left(&after, "b", Some("copper"), &hourly(5)), 5);
}

#[test]
fn values_whose_limit_is_gone_meanwhile_have_what_they_had_left_when_it_comes_back() {
    let (all, gold) = (hourly(10), hourly(100));
    let before = table("few", 1, all, &[("gold", gold)]);
    spend(&before, "a", None, &all, 4);
    spend(&before, "b", Some("gold"), &gold, 40);
    let bytes = given(&[before], 0);
    let between = table("few", 2, all, &[("copper", hourly(5))]);
    assert_eq!(found(std::slice::from_ref(&between), &bytes, 360).1, None);
    assert_eq!(left(&between, "b", None, &all), 10);
    let bytes = given(&[between], 720);
    // By a process that limits nobody for a while, too.
    let nobody = Table::new("few", HashKey::from_bytes(Zeroizing::new([3; 16])), None);
    let nobody = Kept(Arc::new(nobody));
    assert_eq!(found(std::slice::from_ref(&nobody), &bytes, 720).0.tables, 1);
    let bytes = given(std::slice::from_ref(&nobody), 1080);
    nobody.0.put_in_force(&[(0, all)].into(), 1 << 20);
    assert_eq!(left(&nobody, "a", None, &all), 7, "by a reload, too");
    let after = table("few", 4, all, &[("silver", hourly(5)), ("gold", gold)]);
    assert_eq!(
        found(std::slice::from_ref(&after), &bytes, 1080),
        (Found { tables: 1, retired: 0, buckets: 2, early: false, began: 0 }, None)
    );
    assert_eq!(left(&after, "a", None, &all), 7);
    assert_eq!(left(&after, "b", Some("gold"), &gold), 70);
    assert_eq!(left(&after, "b", Some("silver"), &hourly(5)), 5);
    // One that has never limited anybody takes no memory, and is not written.
    let idle = Kept(Arc::new(Table::new("few", HashKey::from_bytes(Zeroizing::new([5; 16])), None)));
    assert_eq!(found(std::slice::from_ref(&idle), &given(std::slice::from_ref(&idle), 0), 0).0.tables, 0);
}

#[test]
fn what_is_gone_is_forgotten_and_what_is_new_begins_empty() {
    let limit = hourly(10);
    let before = [table("one", 1, limit, &[]), table("two", 2, limit, &[]), table("three", 3, limit, &[])];
    before.iter().for_each(|kept| spend(kept, "a", None, &limit, 9));
    let bytes = given(&before, 9);
    let after = [table("new", 4, limit, &[]), table("two", 5, limit, &[])];
    let (found, unusable) = found(&after, &bytes, 9);
    assert_eq!(
        (found, unusable),
        (Found { tables: 1, retired: 0, buckets: 1, early: false, began: 0 }, None)
    );
    let left: Vec<_> = after.iter().map(|kept| left(kept, "a", None, &limit)).collect();
    assert_eq!(left, [10, 1]);
}

#[test]
fn another_memory_after_a_restart_forgives_nobody() {
    let (limit, gold) = (hourly(10), hourly(100));
    let own = [("gold", gold)];
    let before = sized("few", 1, limit, &own, 1 << 20);
    (0..MANY).for_each(|number| spend(&before, &number.to_string(), None, &limit, 1 + number % 9));
    spend(&before, "a", Some("gold"), &gold, 60);
    let mut bytes = given(std::slice::from_ref(&before), 9);
    // Smaller, larger, and at last with other rates: who came again was carried, and who did not waits in a former table.
    for (memory, limit, part) in [(256 << 10, limit, 0), (4 << 20, limit, 1), (2 << 20, hourly(1000), 2)] {
        let after = sized("few", 2, limit, &own, memory);
        assert_eq!(found(std::slice::from_ref(&after), &bytes, 9).1, None);
        for number in (part..MANY).step_by(37) {
            let tenths = 9 - u64::from(number % 9);
            let tokens = limit.burst() / 10 * tenths;
            let left = left(&after, &number.to_string(), None, &limit);
            assert!((tokens..=tokens + 1).contains(&left), "{number} has {left} in {memory}");
        }
        assert_eq!(left(&after, "a", Some("gold"), &gold), 40);
        assert_eq!(left(&after, "another", None, &limit), limit.burst());
        bytes = given(std::slice::from_ref(&after), 9);
    }
}

#[test]
fn only_what_owes_something_is_written_and_no_more_than_may_be() {
    let limit = hourly(10);
    let large = table("large", 1, limit, &[]);
    (0..MANY).for_each(|number| spend(&large, &number.to_string(), None, &limit, 1 + number % 9));
    let small = table("small", 2, limit, &[]);
    spend(&small, "a", None, &limit, 9);
    // Full again in a microsecond: it says no more than no bucket.
    let _ = small.0.charge(
        key(&small, "b", None),
        &Gcra::new(1_000_000, Duration::from_secs(1), 9),
        1,
        Nanos::now(),
    );
    let tables = [large, small];
    let mut bytes = Vec::new();
    let whole = give(writing(&tables), &mut bytes, at(9), generous()).unwrap();
    assert_eq!(whole, Given { buckets: u64::from(MANY) + 1, all: true });
    assert!(bytes.len() < 1000 + Saved::BYTES * MANY as usize, "{} bytes", bytes.len());
    let some = Bounds { bytes: 70_000, ..generous() };
    let mut bytes = Vec::new();
    let buckets = 1 + (64 << 10) / Saved::BYTES as u64;
    assert_eq!(give(writing(&tables), &mut bytes, at(9), some).unwrap(), Given { buckets, all: false });
    assert!(bytes.len() <= 70_000, "{} bytes", bytes.len());
    let after = [table("large", 3, limit, &[]), table("small", 4, limit, &[])];
    assert_eq!(
        found(&after, &bytes, 9),
        (Found { tables: 2, retired: 0, buckets, early: false, began: 0 }, None)
    );
    assert_eq!(left(&after[1], "a", None, &limit), 1, "the smaller first");
    let late = Bounds { until: Instant::now(), ..generous() };
    let mut bytes = Vec::new();
    assert_eq!(give(writing(&tables), &mut bytes, at(9), late).unwrap(), Given { buckets: 0, all: false });
    assert_eq!(found(&after, &bytes, 9).1, None);
    let (found, unusable) = take(&heirs(&after), &mut &*bytes, at(9), Instant::now());
    assert_eq!((found.tables, unusable.unwrap().to_string()), (0, "to read it takes too long".to_owned()));
}

#[test]
fn a_table_whose_description_is_too_long_is_left_out() {
    let limit = hourly(10);
    let tables = [table(&"x".repeat(65 << 10), 1, limit, &[]), table("few", 2, limit, &[])];
    tables.iter().for_each(|kept| spend(kept, "a", None, &limit, 9));
    let mut bytes = Vec::new();
    let given = give(writing(&tables), &mut bytes, at(9), generous()).unwrap();
    assert_eq!(given, Given { buckets: 1, all: false });
    let after = table("few", 3, limit, &[]);
    assert_eq!(
        found(std::slice::from_ref(&after), &bytes, 9),
        (Found { tables: 1, retired: 0, buckets: 1, early: false, began: 0 }, None)
    );
}

#[test]
fn who_is_cooled_off_stays_so_until_the_time_that_was_told() {
    let (limit, rules) = (hourly(1), Rules::of(1, 60, 100, 1000));
    let cooled = |kept: &Kept, name: &str, value: Option<&str>| {
        let rest = kept.0.cooled_off(key(kept, name, value), Nanos::now());
        rest.map(|rest| rest.as_secs_f64().ceil())
    };
    let before = table("few", 1, limit, &[("gold", limit)]);
    before.0.penalise();
    let penalties = before.0.penalties().unwrap();
    let now = Nanos::now().as_nanos() - 10_000_000_000;
    let refuse = |name, value, seconds: u64| {
        let now = Nanos::from_nanos(now + seconds * 1_000_000_000);
        let _ = penalties.refused(&rules, key(&before, name, value), HOUR, now);
    };
    // Ten seconds ago, told to wait for an hour: what comes in the third second brings a cool-off of at least as long.
    for (name, value) in [("a", None), ("b", Some("gold"))] {
        refuse(name, value, 0);
        refuse(name, value, 3);
    }
    refuse("waits", None, 0);
    let bytes = given(std::slice::from_ref(&before), 1000);
    for (seconds, expected) in [(0, Some(3593.0)), (1003, Some(2590.0)), (3604, None)] {
        let after = table("few", 2, limit, &[("bronze", limit), ("gold", limit)]);
        after.0.penalise();
        assert_eq!(found(std::slice::from_ref(&after), &bytes, 1000 + seconds).1, None);
        for (name, value) in [("a", None), ("b", Some("gold"))] {
            assert_eq!(cooled(&after, name, value), expected, "{name} after {seconds} s");
        }
        for name in ["waits", "b", "c"] {
            assert_eq!(cooled(&after, name, None), None, "{name}");
        }
    }
    // Where no penalty is in force it is kept for one that may be again.
    let after = table("few", 3, limit, &[]);
    assert_eq!(found(std::slice::from_ref(&after), &bytes, 1000).1, None);
    after.0.penalise();
    assert_eq!(cooled(&after, "a", None), Some(3593.0));
}

/// Two tables, of which one has more than a frame of buckets: `n` has spent 1 + n mod 9.
static STREAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let limit = hourly(10);
    let tables = [table("few", 1, limit, &[("gold", hourly(20))]), table("one", 2, limit, &[])];
    (0..MANY).for_each(|number| spend(&tables[0], &number.to_string(), None, &limit, 1 + number % 9));
    spend(&tables[1], "a", None, &limit, 9);
    given(&tables, 1_000_000)
});

/// Reads it, and holds what is found to be no more than what was owed. How many buckets, and why no more.
fn judged(bytes: &[u8]) -> (u64, Option<String>) {
    let limit = hourly(10);
    let tables = [table("few", 3, limit, &[("gold", hourly(20))]), table("one", 4, limit, &[])];
    let (found, unusable) = found(&tables, bytes, 1_000_000);
    for number in (0..MANY).step_by(37) {
        let left = left(&tables[0], &number.to_string(), None, &limit);
        assert!(left == 10 || left == 9 - u64::from(number % 9), "{number}: {left}");
    }
    (found.buckets, unusable)
}

#[test]
fn a_stream_is_read_to_its_end_and_no_further() {
    assert_eq!(judged(&STREAM), (u64::from(MANY) + 1, None));
    let longer = [&**STREAM, b"more"].concat();
    assert_eq!(judged(&longer), (u64::from(MANY) + 1, None));
    assert_eq!(judged(b"").1.unwrap(), "it ends too early");
    assert_eq!(judged(b"server:\n  state: ./state\n").1.unwrap(), "it is none of the gateway's");
    let mut newer = STREAM.clone();
    newer[12] = 3;
    assert_eq!(judged(&newer), (0, Some("it is of version 3, this gateway's is 2".to_owned())));
    // A length that nobody has written takes no memory.
    let mut long = STREAM.clone();
    long[17..21].fill(0xff);
    assert_eq!(judged(&long), (0, Some("it is damaged".to_owned())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// One byte that is another, wherever: what comes from there on is not used, and nobody owes more than he did.
    #[test]
    fn damage_is_noticed(place in any::<prop::sample::Index>(), change in 1..=255_u8) {
        let mut bytes = STREAM.clone();
        let place = place.index(bytes.len());
        bytes[place] ^= change;
        prop_assert!(judged(&bytes).1.is_some(), "{place}");
    }

    /// Cut at any place, and also where a frame ends.
    #[test]
    fn an_end_that_is_missing_is_noticed(place in any::<prop::sample::Index>()) {
        let place = place.index(STREAM.len());
        prop_assert_eq!(judged(&STREAM[..place]).1.unwrap(), "it ends too early");
    }

    /// Any bytes at all, behind a beginning of ours or not.
    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), ours in 0..60_usize) {
        let bytes = [&STREAM[..ours], &bytes].concat();
        let (buckets, unusable) = judged(&bytes);
        prop_assert!(buckets == 0 && unusable.is_some());
    }
}
