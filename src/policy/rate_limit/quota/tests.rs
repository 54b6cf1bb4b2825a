//! Several processes on one store, as several [`Quotas`] on one directory: each has its own memory and its own keeper.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;

const TODAY: Period = Period { begins: 86_400, ends: 2 * 86_400 };

fn quotas(directory: &Path) -> Arc<Quotas> {
    let own = Arc::new(Quotas::new(directory));
    own.open().unwrap();
    own
}

fn terms(limit: u64) -> Terms {
    Terms { allowance: Allowance { limit, offset: 0 }, wait: Duration::from_secs(5) }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn flush(own: &Quotas) -> bool {
    flush_as(own, false)
}

/// As at the end of a process.
fn leave(own: &Quotas) -> bool {
    flush_as(own, true)
}

fn flush_as(own: &Quotas, last: bool) -> bool {
    let (answer, told) = mpsc::channel();
    own.desk.ask(Ask::Flush { last, answer });
    told.recv_timeout(Duration::from_secs(10)).unwrap()
}

fn is_alone(own: &Quotas) -> bool {
    own.alone.load(Ordering::SeqCst)
}

fn used(directory: &Path, key: &str) -> u64 {
    let mut store = Store::open(directory, Access::Look).unwrap().unwrap();
    let uses = Uses::prepare(store.connection()).unwrap().of("free", key).unwrap();
    uses.first().map_or(0, |used| used.known.used)
}

fn eventually(what: &str, check: impl Fn() -> bool) {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn passes(counted: Counted) -> bool {
    matches!(counted, Counted::Passed(_))
}

#[test]
fn what_was_counted_is_known_again_by_the_next_process() {
    let place = tempfile::tempdir().unwrap();
    let first = quotas(place.path());
    let tally = first.tally("free");
    for used in 1..=7 {
        let counted = run(first.count(&tally, "one", TODAY, &terms(10)));
        assert_eq!(counted, Counted::Passed(Usage { used, allowed: 10 }));
    }
    assert!(leave(&first));
    assert_eq!(used(place.path(), "one"), 7);
    let next = quotas(place.path());
    let tally = next.tally("free");
    let counted: Vec<_> = (0..5).map(|_| passes(run(next.count(&tally, "one", TODAY, &terms(10))))).collect();
    assert_eq!(counted, [true, true, true, false, false]);
    assert_eq!(tally.unwritten(), 3);
    assert!(flush(&next));
    assert_eq!((used(place.path(), "one"), tally.unwritten()), (10, 0));
}

#[test]
fn the_offset_is_taken_off_the_first_period_alone() {
    let place = tempfile::tempdir().unwrap();
    let short = Terms { allowance: Allowance { limit: 3, offset: 2 }, ..terms(0) };
    let number = |period: Period| {
        let own = quotas(place.path());
        let tally = own.tally("free");
        let passed = (0..5).filter(|_| passes(run(own.count(&tally, "one", period, &short)))).count();
        assert!(leave(&own));
        passed
    };
    assert_eq!(number(TODAY), 1);
    assert_eq!(number(TODAY), 0);
    assert_eq!(number(Period { begins: TODAY.ends, ends: TODAY.ends + 86_400 }), 3);
}

#[test]
fn of_two_processes_not_one_request_passes_beyond_the_limit_and_one_alone_counts_in_memory() {
    let place = tempfile::tempdir().unwrap();
    let limit = 300;
    let first = quotas(place.path());
    let ask =
        |own: &Arc<Quotas>, key: &str| passes(run(own.count(&own.tally("free"), key, TODAY, &terms(limit))));
    first.tally("free").set_flush(Duration::from_secs(60), 1_000_000);
    // What it has not written is written before the second one is there.
    let mut passed = (0..50).filter(|_| ask(&first, "one")).count();
    assert!(ask(&first, "other") && is_alone(&first));
    assert_eq!(used(place.path(), "one"), 0);
    let second = quotas(place.path());
    assert!(!is_alone(&first) && !is_alone(&second));
    assert_eq!(used(place.path(), "one"), 50);
    assert!(ask(&second, "other") && ask(&second, "other"));
    std::thread::scope(|scope| {
        let mut both = Vec::new();
        for own in [&first, &first, &second, &second] {
            both.push(scope.spawn(move || (0..100).filter(|_| ask(own, "one")).count()));
        }
        passed += both.into_iter().map(|one| one.join().unwrap()).sum::<usize>();
    });
    assert_eq!(passed as u64, limit);
    assert_eq!(used(place.path(), "one"), limit);
    assert!(!ask(&first, "one") && !ask(&second, "one"));
    assert!(leave(&second));
    eventually("the first to be alone again", || is_alone(&first));
    // What it knew of a key before is not what was used since.
    let counted = run(first.count(&first.tally("free"), "other", TODAY, &terms(limit)));
    assert_eq!(counted, Counted::Passed(Usage { used: 4, allowed: limit }));
    assert_eq!((first.tally("free").unwritten(), used(place.path(), "other")), (1, 3), "in memory");
}

#[test]
fn one_that_comes_and_goes_under_load_lets_nobody_pass_beyond_the_limit() {
    let place = tempfile::tempdir().unwrap();
    let limit = 30_000;
    let first = quotas(place.path());
    let (passed, done) = (std::sync::atomic::AtomicU64::new(0), AtomicBool::new(false));
    let count = |own: &Arc<Quotas>| {
        let counted = passes(run(own.count(&own.tally("free"), "one", TODAY, &terms(limit))));
        passed.fetch_add(u64::from(counted), Ordering::Relaxed);
        counted
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                let own = quotas(place.path());
                for _ in 0..50 {
                    count(&own);
                }
                assert!(leave(&own));
                eventually("the first to be alone", || is_alone(&first) || done.load(Ordering::Relaxed));
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while count(&first) {
                    std::thread::sleep(Duration::from_micros(50));
                }
                done.store(true, Ordering::Relaxed);
            });
        }
    });
    assert!(leave(&first));
    assert_eq!(passed.into_inner(), limit);
    assert_eq!(used(place.path(), "one"), limit);
}

#[test]
fn strictly_counted_not_one_passes_beyond_the_limit_in_however_many_processes() {
    let place = tempfile::tempdir().unwrap();
    let limit = 200;
    let mut passed = 0;
    std::thread::scope(|scope| {
        let both: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let own = quotas(place.path());
                    let tally = own.tally("free");
                    let terms = terms(limit);
                    run(async {
                        let mut passed = 0;
                        for _ in 0..10 {
                            let asked = (0..20).map(|_| {
                                let (own, tally) = (Arc::clone(&own), Arc::clone(&tally));
                                tokio::spawn(
                                    async move { own.count_strictly(&tally, "one", TODAY, &terms).await },
                                )
                            });
                            let asked: Vec<_> = asked.collect();
                            for asked in asked {
                                passed += usize::from(passes(asked.await.unwrap().unwrap()));
                            }
                        }
                        passed
                    })
                })
            })
            .collect();
        for own in both {
            passed += own.join().unwrap();
        }
    });
    assert_eq!(passed as u64, limit);
    assert_eq!(used(place.path(), "one"), limit);
}

#[test]
fn who_does_not_wait_for_the_answer_takes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let own = quotas(place.path());
    let tally = own.tally("free");
    let terms = terms(1_000);
    let passed = run(async {
        let mut passed = 0;
        for number in 0..200_u64 {
            let asked = own.count_strictly(&tally, "one", TODAY, &terms);
            // Some go at once, some just when the answer comes.
            let patience = Duration::from_micros(number * 20);
            if let Ok(told) = tokio::time::timeout(patience, asked).await {
                passed += u64::from(passes(told.unwrap()));
            }
        }
        passed
    });
    assert!(flush(&own));
    // Drops of the last answers may have come after that.
    eventually("what was given back to be written", || flush(&own) && tally.unwritten() == 0);
    assert_eq!(used(place.path(), "one"), passed);
}

#[test]
fn what_is_counted_is_written_in_time_or_when_it_is_many() {
    let place = tempfile::tempdir().unwrap();
    let own = quotas(place.path());
    let tally = own.tally("free");
    tally.set_flush(Duration::from_secs(60), 10);
    for _ in 0..9 {
        run(own.count(&tally, "one", TODAY, &terms(1_000)));
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(used(place.path(), "one"), 0);
    run(own.count(&tally, "one", TODAY, &terms(1_000)));
    eventually("ten to be written", || used(place.path(), "one") == 10);
    let slow = own.tally("slow");
    slow.set_flush(Duration::from_millis(30), 1_000_000);
    run(own.count(&slow, "one", TODAY, &terms(1_000)));
    eventually("one to be written", || slow.unwritten() == 0);
}

#[test]
fn without_a_store_one_goes_on_and_the_other_refuses_until_it_is_back() {
    let place = tempfile::tempdir().unwrap();
    let own = quotas(place.path());
    let (tally, path) = (own.tally("free"), Store::path_in(place.path()));
    let short = Terms { wait: Duration::from_millis(500), ..terms(5) };
    assert!(passes(run(own.count(&tally, "one", TODAY, &short))));
    assert!(flush(&own));
    std::fs::rename(&path, place.path().join("away")).unwrap();
    assert_eq!(run(own.count_strictly(&tally, "two", TODAY, &short)), Err(NotWritten));
    assert!(own.lost.load(Ordering::Relaxed));
    assert!(!flush(&own));
    let passed = (0..9).filter(|_| passes(run(own.count(&tally, "one", TODAY, &short)))).count();
    assert_eq!(passed, 4, "what was known holds");
    let passed = (0..9).filter(|_| passes(run(own.count(&tally, "new", TODAY, &short)))).count();
    assert_eq!(passed, 5, "of what was not known nothing is");
    assert!(!path.exists(), "it is not made anew");
    std::fs::rename(place.path().join("away"), &path).unwrap();
    eventually("the store to be written again", || tally.unwritten() == 0);
    assert_eq!((used(place.path(), "one"), used(place.path(), "new"), used(place.path(), "two")), (5, 5, 0));
    assert!(!own.lost.load(Ordering::Relaxed));
    eventually("strict ones to pass again", || {
        run(own.count_strictly(&tally, "two", TODAY, &short)).is_ok_and(passes)
    });
}

#[test]
fn without_a_keeper_it_is_counted_in_memory_alone() {
    let own = Arc::new(Quotas::new(Path::new("")));
    let tally = own.tally("free");
    let passed = (0..5).filter(|_| passes(run(own.count(&tally, "one", TODAY, &terms(3))))).count();
    assert_eq!(passed, 3);
    assert_eq!(
        run(own.count_strictly(&tally, "one", TODAY, &terms(4))),
        Ok(Counted::Passed(Usage { used: 4, allowed: 4 }))
    );
    assert_eq!(own.count_always(&tally, "one", TODAY, &terms(3)), Some(Usage { used: 5, allowed: 3 }));
    assert_eq!(own.look("free", "one", TODAY, terms(3).allowance), Ok(Usage { used: 0, allowed: 3 }));
}

#[test]
fn a_shadowed_plan_counts_beyond_its_limit_and_never_waits() {
    let place = tempfile::tempdir().unwrap();
    let own = quotas(place.path());
    let tally = own.tally("free");
    assert_eq!(own.count_always(&tally, "one", TODAY, &terms(1)), None, "not known yet");
    eventually("the answer", || tally.counter("one").look(TODAY, terms(1).allowance).is_some());
    for _ in 0..3 {
        assert!(own.count_always(&tally, "one", TODAY, &terms(1)).is_some());
    }
    assert!(flush(&own));
    assert_eq!(used(place.path(), "one"), 4);
}

#[test]
fn nobody_waits_for_another_process_that_writes() {
    let place = tempfile::tempdir().unwrap();
    let first = quotas(place.path());
    let tally = first.tally("free");
    for key in ["one", "two"] {
        assert!(passes(run(first.count(&tally, key, TODAY, &terms(10)))));
    }
    assert!(leave(&first));
    let own = quotas(place.path());
    let tally = own.tally("free");
    tally.set_flush(Duration::from_millis(10), 1);
    let mut other = Store::open(place.path(), Access::Change).unwrap().unwrap();
    other.connection().execute_batch("BEGIN IMMEDIATE").unwrap();
    // The first one's count is due at once, so from then on the keeper waits for the lock.
    for (key, used) in [("one", 2), ("two", 2), ("three", 1)] {
        let begun = Instant::now();
        let counted = run(own.count(&tally, key, TODAY, &terms(10)));
        assert_eq!(counted, Counted::Passed(Usage { used, allowed: 10 }), "{key}");
        // The keeper's own patience is 5 s, a request's here too.
        assert!(begun.elapsed() < Duration::from_secs(1), "{key}: {:?}", begun.elapsed());
    }
    assert_eq!(tally.unwritten(), 3);
    other.connection().execute_batch("ROLLBACK").unwrap();
    eventually("all to be written", || tally.unwritten() == 0);
    assert_eq!(["one", "two", "three"].map(|key| used(place.path(), key)), [2, 2, 1]);
    assert!(!own.lost.load(Ordering::Relaxed) && !own.unread.load(Ordering::Relaxed));
}
