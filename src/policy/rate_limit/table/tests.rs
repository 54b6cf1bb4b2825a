use zeroize::Zeroizing;

use super::*;

/// The least that a table may take.
const SMALL: usize = 64 << 10;

fn table() -> Arc<Table> {
    Arc::new(Table::new("few", HashKey::from_bytes(Zeroizing::new([7; 16])), None))
}

fn key(table: &Table, name: &str, class: u8) -> KeyHash {
    let mut hasher = table.hash().hasher();
    hasher.part(name.as_bytes());
    hasher.finish(class)
}

fn hourly(count: u32) -> Gcra {
    Gcra::new(u64::from(count), Duration::from_secs(3600), u64::from(count))
}

#[test]
fn buckets_stay_while_limits_are_what_they_were_and_are_scaled_where_they_change() {
    let (table, now) = (table(), Nanos::now());
    let (slow, fast) = (hourly(10), hourly(1000));
    let (one, own) = (key(&table, "one", 0), key(&table, "own", 1));
    let left = |key, gcra: &Gcra| table.look(key, gcra, 1, Nanos::now()).remaining();
    table.put_in_force(&[(0, slow), (1, hourly(4))].into(), SMALL);
    let _ = table.charge(one, &slow, 10, now);
    let _ = table.charge(own, &hourly(4), 3, now);
    assert_eq!((left(one, &slow), left(own, &hourly(4))), (0, 1));
    let before = Arc::as_ptr(&table.current.load().buckets);
    table.put_in_force(&[(0, slow), (1, hourly(4))].into(), SMALL);
    table.put_in_force(&[(0, slow), (1, hourly(4)), (2, hourly(5))].into(), SMALL);
    assert_eq!(
        before,
        Arc::as_ptr(&table.current.load().buckets),
        "nothing is copied for a limit that is new"
    );
    table.put_in_force(&[(0, fast), (1, hourly(4))].into(), SMALL);
    assert_eq!((left(one, &fast), left(own, &hourly(4))), (0, 1), "another class keeps what it owes");
    table.put_in_force(&[(0, slow), (1, hourly(4))].into(), SMALL);
    assert_eq!(left(one, &slow), 0, "a limit that is changed and changed back gives nothing");
    table.put_in_force(&[(0, hourly(0)), (1, hourly(4))].into(), SMALL);
    table.put_in_force(&[(0, slow), (1, hourly(4))].into(), SMALL);
    assert_eq!(left(one, &slow), 0, "nor does one that was closed");
}

#[test]
fn a_value_keeps_its_class() {
    let table = table();
    let classes = |values: &[&str]| {
        let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
        table.classes(values.iter())
    };
    assert_eq!(classes(&["gold", "silver"]), [1, 2]);
    assert_eq!(classes(&["bronze", "gold", "silver"]), [3, 1, 2]);
    assert_eq!(classes(&["silver"]), [2]);
    let many: Vec<_> = (0..VALUES_MAX).map(|number| format!("v{number}")).collect();
    let given: std::collections::BTreeSet<_> = table.classes(many.iter()).into_iter().collect();
    assert_eq!(given.len(), VALUES_MAX);
    assert!(!given.contains(&0));
}

/// A day's tokens, so that time brings none while a test runs.
fn daily(count: u32) -> Gcra {
    Gcra::new(u64::from(count), Duration::from_secs(86_400), u64::from(count))
}

#[test]
fn another_memory_gives_nobody_tokens_and_takes_none() {
    let table = table();
    let (ten, thousand) = (daily(10), daily(1000));
    let keys: Vec<_> =
        (0..900_u32).map(|number| (key(&table, &number.to_string(), 0), number % 11)).collect();
    table.put_in_force(&[(0, ten)].into(), SMALL);
    for (key, spent) in &keys {
        let _ = table.charge(*key, &ten, *spent, Nanos::now());
    }
    // Every step is another memory; some are another rate too. Only some of the keys come in each.
    let steps = [
        (2 * SMALL, ten, 2),
        (8 * SMALL, ten, 3),
        (2 * SMALL, thousand, 5),
        (SMALL, thousand, 7),
        (SMALL, ten, 11),
        (16 * SMALL, thousand, 13),
        (SMALL, ten, 1),
    ];
    for (bytes, gcra, some) in steps {
        table.put_in_force(&[(0, gcra)].into(), bytes);
        for (key, spent) in keys.iter().step_by(some) {
            let left = table.look(*key, &gcra, 1, Nanos::now()).remaining();
            let expected = gcra.burst() * u64::from(10 - spent) / 10;
            assert!((expected..=expected + 1).contains(&left), "{left} of {expected} in {bytes}");
        }
    }
    let before = table.figures();
    // A day later nobody owes anything: whoever has not come needs no table any more.
    let later = Nanos::from_nanos(Nanos::now().as_nanos() + 86_400_000_000_000);
    assert_eq!(table.forget_settled(later), None);
    assert!(table.current.load().former.is_empty() && table.figures().memory < before.memory);
}

#[test]
fn a_former_table_stays_while_anybody_owes_something_there_and_no_more_than_three_do() {
    let (table, gcra) = (table(), daily(10));
    let one = key(&table, "one", 0);
    table.put_in_force(&[(0, gcra)].into(), SMALL);
    let _ = table.charge(one, &gcra, 9, Nanos::now());
    table.put_in_force(&[(0, gcra)].into(), 2 * SMALL);
    let rest = table.forget_settled(Nanos::now()).unwrap();
    assert!(rest > Duration::from_secs(77_000) && rest < Duration::from_secs(77_761), "{rest:?}");
    assert_eq!(table.look(one, &gcra, 1, Nanos::now()).remaining(), 1);
    assert_eq!(table.forget_settled(Nanos::now()), None, "the key has come along");
    for (step, left) in [(3, 1), (4, 1), (5, 1), (6, 10)] {
        let bytes = step * SMALL;
        table.put_in_force(&[(0, gcra)].into(), bytes);
        assert!(table.current.load().former.len() <= FORMER_MAX);
        if step == 5 || step == 6 {
            assert_eq!(table.look(one, &gcra, 1, Nanos::now()).remaining(), left.max(1), "{step}");
        }
        if step == 5 {
            // Tables in which nobody owes anything take nobody's place.
            (7..7 + FORMER_MAX + 1).for_each(|size| table.put_in_force(&[(0, gcra)].into(), size * SMALL));
            assert_eq!(table.look(one, &gcra, 1, Nanos::now()).remaining(), left);
            // From here on it comes no more until its table is forgotten.
            for size in 12..12 + FORMER_MAX + 1 {
                table.put_in_force(&[(0, gcra)].into(), size * SMALL);
                let _ = table.charge(key(&table, &size.to_string(), 0), &gcra, 1, Nanos::now());
            }
        }
    }
}

#[test]
fn who_is_cooled_off_stays_so_whatever_the_memory() {
    let (table, gcra) = (table(), daily(10));
    let rules = crate::policy::rate_limit::penalty::Rules::of(1, 60, 100, 1000);
    table.put_in_force(&[(0, gcra)].into(), 16 * SMALL);
    table.penalise();
    let keys: Vec<_> = (0..20).map(|number: u32| key(&table, &number.to_string(), 0)).collect();
    let now = Nanos::now().as_nanos();
    for key in &keys {
        for before in [5_000_000_000, 1] {
            let at = Nanos::from_nanos(now - before);
            let _ = table.penalties().unwrap().refused(&rules, *key, Duration::from_secs(9), at);
        }
    }
    for bytes in [SMALL, 32 * SMALL, 16 * SMALL] {
        table.put_in_force(&[(0, gcra)].into(), bytes);
        table.penalise();
        let penalties = table.penalties().unwrap();
        assert!(penalties.fills(bytes / PENALTY_SHARE));
        assert!(keys.iter().all(|key| table.cooled_off(*key, Nanos::now()).is_some()), "{bytes}");
        assert_eq!(penalties.figures(Nanos::now()).begun, 20);
    }
}

#[test]
fn threads_that_decide_while_the_memory_changes_get_no_burst_by_it() {
    const THREADS: u64 = 4;
    const CHANGES: u64 = 40;
    let (table, gcra) = (table(), daily(1000));
    let one = key(&table, "one", 0);
    table.put_in_force(&[(0, gcra)].into(), SMALL);
    let (done, passed) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let taken = table.take(one, &gcra, 1, Nanos::now());
                    passed.fetch_add(u64::from(taken.passed()), Ordering::Relaxed);
                }
            });
        }
        for change in 0..CHANGES {
            std::thread::sleep(Duration::from_millis(2));
            table.put_in_force(&[(0, gcra)].into(), SMALL * [2, 1, 3][usize::try_from(change % 3).unwrap()]);
        }
        while passed.load(Ordering::Relaxed) < 1000 {
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
    // Who has begun with the former table may take one token there beside what has come along.
    let passed = passed.into_inner();
    assert!((1000..=1000 + THREADS * CHANGES).contains(&passed), "{passed}");
    assert!(!table.take(one, &gcra, 1, Nanos::now()).passed());
}

#[tokio::test]
async fn the_back_office_lets_former_tables_go_each_time() {
    let gcra = Gcra::new(1000, Duration::from_secs(1), 10);
    let secret = HashKey::from_bytes(Zeroizing::new([7; 16]));
    let table = Arc::new(Table::new("few", secret, Some(Handle::current())));
    let one = key(&table, "one", 0);
    for bytes in [SMALL, 2 * SMALL, SMALL] {
        table.put_in_force(&[(0, gcra)].into(), bytes);
        let has_former = || !table.current.load().former.is_empty();
        let gone = async {
            while has_former() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
        let _ = table.charge(one, &gcra, 10, Nanos::now());
    }
}

#[test]
fn a_class_that_comes_back_finds_what_it_had_left() {
    let table = table();
    let ids = |values: &[&str]| {
        let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
        table.classes(values.iter())
    };
    let (all, few) = (daily(10), daily(4));
    let gold = ids(&["gold"])[0];
    let own = key(&table, "own", gold);
    let left = |gcra: &Gcra| table.look(own, gcra, 1, Nanos::now()).remaining();
    let with_gold: Limits = [(0, all), (gold, few)].into();
    table.put_in_force(&with_gold, SMALL);
    let _ = table.charge(own, &few, 3, Nanos::now());
    let other = |count| Limits::from([(0, daily(count))]);
    for between in [vec![other(10)], vec![other(99)], vec![[(9, all)].into(), other(7), other(8)]] {
        for limits in &between {
            table.put_in_force(limits, SMALL);
        }
        table.put_in_force(&with_gold, SMALL);
        assert_eq!(left(&few), 1, "{between:?}");
    }
    // With another memory meanwhile.
    table.put_in_force(&other(10), 2 * SMALL);
    table.put_in_force(&with_gold, 4 * SMALL);
    assert_eq!(left(&few), 1);
    // Changed when it comes back, and changed back.
    table.put_in_force(&other(10), SMALL);
    table.put_in_force(&[(0, all), (gold, daily(400))].into(), SMALL);
    assert_eq!(left(&daily(400)), 100);
    table.put_in_force(&with_gold, SMALL);
    assert_eq!(left(&few), 1);
    // Its number is another value's, once there are too many of them.
    table.put_in_force(&other(10), SMALL);
    let many: Vec<_> = (0..VALUES_MAX).map(|number| format!("v{number}")).collect();
    let many: Limits = table.classes(many.iter()).into_iter().map(|class| (class, few)).collect();
    assert!(many.contains_key(&gold));
    table.put_in_force(&many, SMALL);
    assert_eq!(left(&few), 4, "another's debt");
    assert!(table.current.load().limits.len() <= 1 + VALUES_MAX);
}

#[test]
fn what_is_gone_is_kept_no_longer_than_it_may_owe_something() {
    let table = table();
    let short = Gcra::new(1000, Duration::from_millis(1), 1);
    table.put_in_force(&[(0, daily(10)), (1, short)].into(), SMALL);
    table.put_in_force(&[(0, daily(10))].into(), SMALL);
    assert!(table.current.load().gone.contains_key(&1));
    std::thread::sleep(Duration::from_millis(1));
    table.put_in_force(&[(0, daily(10)), (2, short)].into(), SMALL);
    let current = table.current.load();
    assert!(current.gone.is_empty() && !current.limits.contains_key(&1));
}

/// Decides as requests do, until it is told to stop: how many have passed.
fn ask_until(table: &Table, key: KeyHash, gcra: &Gcra, is_over: &AtomicBool) -> u64 {
    let mut passed = 0;
    while !is_over.load(Ordering::Acquire) {
        passed += u64::from(table.take_in_force(key, gcra, 1, Nanos::now()).passed());
    }
    passed
}

#[test]
fn a_limit_that_changes_while_requests_come_gives_nobody_tokens() {
    let (table, bytes) = (table(), 4 << 20);
    let limits = [daily(1000), daily(1001)];
    table.put_in_force(&[(0, limits[0])].into(), bytes);
    // Others owe something, so that there is something to move.
    for number in 0..20_000_u32 {
        let _ = table.take(key(&table, &number.to_string(), 0), &limits[0], 1, Nanos::now());
    }
    let (one, is_over) = (key(&table, "one", 0), AtomicBool::new(false));
    let passed: u64 = std::thread::scope(|scope| {
        let asking: Vec<_> =
            (0..2).map(|_| scope.spawn(|| ask_until(&table, one, &limits[0], &is_over))).collect();
        for round in 0..20 {
            table.put_in_force(&[(0, limits[(round + 1) % 2])].into(), bytes);
        }
        is_over.store(true, Ordering::Release);
        asking.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // As many as the larger bucket holds, and one for each thread that was about to decide when a limit changed.
    assert!((1000..=1001 + 2 * 20).contains(&passed), "{passed}");
    // What a request under way over a reload is charged is in the present limit's time.
    let second = Gcra::new(100, Duration::from_secs(1), 100);
    table.put_in_force(&[(0, second)].into(), bytes);
    for _ in 0..3 {
        let _ = table.charge_in_force(one, &daily(2), 1, Nanos::now());
    }
    let owed = table.look_in_force(one, &second, 1, Nanos::now()).full();
    assert!(owed <= Duration::from_secs(2), "{owed:?}");
}

#[test]
fn whoever_has_spent_all_gets_nothing_from_a_smaller_burst_that_comes_into_force() {
    let table = table();
    let (large, small) = (daily(300), daily(10));
    let one = key(&table, "one", 0);
    table.put_in_force(&[(0, large)].into(), SMALL);
    let passes =
        |gcra: &Gcra| (0..400).filter(|_| table.take_in_force(one, gcra, 1, Nanos::now()).passed()).count();
    assert_eq!(passes(&large), 300);
    // Requests that came under the configuration before go on asking with its limit.
    table.put_in_force(&[(0, small)].into(), SMALL);
    assert_eq!(passes(&large), 0);
    table.put_in_force(&[(0, large)].into(), SMALL);
    assert_eq!(passes(&small), 0);
    let full = table.look_in_force(one, &large, 1, Nanos::now()).full();
    assert!(full <= large.fill(), "{full:?}");
}

#[test]
fn buckets_of_a_class_that_has_become_another_values_are_nobodys() {
    let (table, now) = (table(), Nanos::now());
    let gcra = daily(5);
    let class = |value: &str| table.classes([&value.to_owned()].into_iter())[0];
    let gold = class("gold");
    table.put_in_force(&[(0, gcra), (gold, gcra)].into(), SMALL);
    let (one, other) = (key(&table, "one", gold), key(&table, "other", 0));
    let _ = table.take_in_force(one, &gcra, 5, now);
    let _ = table.take_in_force(other, &gcra, 2, now);
    // So many others that the number of the first becomes one of theirs.
    let many: Vec<_> = (0..VALUES_MAX).map(|number| format!("v{number}")).collect();
    let given = table.classes(many.iter());
    assert!(given.contains(&gold));
    let limits = given.iter().map(|class| (*class, gcra)).chain([(0, gcra)]).collect();
    table.put_in_force(&limits, SMALL);
    let left = |key| table.look_in_force(key, &gcra, 1, Nanos::now()).remaining();
    assert_eq!((left(one), left(other)), (5, 3));
}
