use std::path::Path;

use zeroize::Zeroizing;

use super::*;
use crate::policy::rate_limit::penalty::Rules;
use crate::policy::rate_limit::{Gcra, HashKey, KeyHash, LimitsFile};

const BYTES: usize = 256 << 10;

fn hourly() -> Gcra {
    Gcra::new(10, Duration::from_secs(3600), 10)
}

/// A process with its file and this limit in force, where one is named.
struct Process {
    live: Arc<Live>,
    file: LimitsFile,
    tables: Vec<Kept>,
}

impl Process {
    fn begin(directory: &Path, names: &[&str]) -> Self {
        let live = Arc::new(Live::new(directory));
        let file = LimitsFile::new(&live);
        let tables: Vec<_> = names.iter().map(|name| in_force(&live, name, &hourly())).collect();
        file.read(&tables, None);
        Self { live, file, tables }
    }

    /// Another configuration, with these limits.
    fn reload(&mut self, names: &[&str]) {
        let tables: Vec<_> = names.iter().map(|name| in_force(&self.live, name, &hourly())).collect();
        self.live.sweep();
        self.file.change(std::mem::take(&mut self.tables), &tables);
        self.tables = tables;
    }

    fn end(self) {
        self.file.write(self.tables, Vec::new(), None);
    }
}

fn in_force(live: &Live, name: &str, limit: &Gcra) -> Kept {
    let secret = HashKey::random().unwrap();
    let table = live.find_or("rate_limit", name, || Table::new(&format!("rate_limit {name}"), secret, None));
    table.put_in_force(&[(0, *limit)].into(), BYTES);
    Kept(table)
}

fn key(Kept(table): &Kept) -> KeyHash {
    let mut hasher = table.hash().hasher();
    hasher.part(b"key");
    hasher.finish(0)
}

fn spend(kept: &Kept, tokens: u32) {
    let _ = kept.0.charge(key(kept), &hourly(), tokens, Nanos::now());
}

fn left(kept: &Kept) -> u64 {
    kept.0.look(key(kept), &hourly(), 1, Nanos::now()).remaining()
}

#[test]
fn a_limit_that_two_processes_did_not_have_has_what_was_left() {
    for between in [&[][..], &["other client"]] {
        let place = tempfile::tempdir().unwrap();
        let first = Process::begin(place.path(), &["few client", "other client"]);
        spend(&first.tables[0], 4);
        first.end();
        for _ in 0..2 {
            Process::begin(place.path(), between).end();
        }
        let last = Process::begin(place.path(), &["few client", "other client"]);
        assert_eq!(left(&last.tables[0]), 6, "{between:?}");
        assert_eq!(left(&last.tables[1]), 10, "{between:?}");
        // Its key is part of what it is.
        let last = Process::begin(place.path(), &["few host"]);
        assert_eq!(left(&last.tables[0]), 10);
    }
}

#[test]
fn a_limit_comes_back_by_a_reload_whoever_had_it_last() {
    let place = tempfile::tempdir().unwrap();
    let first = Process::begin(place.path(), &["few client"]);
    spend(&first.tables[0], 4);
    first.end();
    let mut second = Process::begin(place.path(), &[]);
    second.reload(&["few client"]);
    assert_eq!(left(&second.tables[0]), 6);
    assert!(second.tables[0].0.figures().memory > 200 << 10, "its memory is its own again");
    spend(&second.tables[0], 1);
    // Gone for more than one reload, and then at the end.
    second.reload(&[]);
    second.reload(&[]);
    second.reload(&["few client"]);
    assert_eq!(left(&second.tables[0]), 5);
    second.reload(&[]);
    second.reload(&[]);
    second.end();
    assert_eq!(left(&Process::begin(place.path(), &["few client"]).tables[0]), 5);
}

#[test]
fn what_nobody_owes_anything_in_is_let_go() {
    let place = tempfile::tempdir().unwrap();
    let mut process = Process::begin(place.path(), &["few client", "idle client"]);
    spend(&process.tables[0], 4);
    let key = key(&process.tables[1]);
    process.reload(&[]);
    let retired = Retired::new(Arc::clone(&process.live));
    let find = || {
        let names = ["few client", "idle client"].into_iter();
        let is_there = |name: &&str| process.live.find::<Table>("rate_limit", name).is_some();
        names.filter(is_there).collect::<Vec<_>>()
    };
    let all: Vec<_> = find()
        .into_iter()
        .map(|name| Kept(process.live.find::<Table>("rate_limit", name).unwrap()))
        .collect();
    process.file.change(Vec::new(), &all);
    retired.change(all, &[]);
    assert_eq!(retired.owing().len(), 1);
    let now = Nanos::now();
    // A request that is under way is counted where the limit is back before it has ended.
    let slot = retired.tables()[1].0.slots.take(key, 1).unwrap();
    let _ = retired.forget_settled(now);
    assert_eq!(find(), ["few client", "idle client"]);
    drop(slot);
    // Four of ten in an hour.
    let rest = retired.forget_settled(now).unwrap();
    assert!((1400..=1440).contains(&rest.as_secs()), "{rest:?}");
    assert_eq!(find(), ["few client"]);
    let later = Nanos::from_nanos(now.as_nanos() + 1_500_000_000_000);
    assert_eq!(retired.forget_settled(later), None);
    assert!(find().is_empty());
    drop(process);
    assert!(!place.path().join("rate-limits.bin").exists());
}

#[test]
fn they_are_bounded_in_number_and_in_memory() {
    let retired = Retired::new(Arc::default());
    let head = |name: &str, sets: usize| Head {
        definition: format!("rate_limit {name}").into(),
        hash: HashKey::from_bytes(Zeroizing::new([1; 16])),
        sets: u32::try_from(sets).unwrap(),
        classes: Vec::new(),
    };
    assert!(retired.adopt(&head("large", Buckets::sets_in(MEMORY_MAX) + 1)).is_none());
    assert!(retired.adopt(&Head { definition: "other few".into(), ..head("", 1) }).is_none());
    for number in 0..MOST {
        assert!(retired.adopt(&head(&number.to_string(), 1)).is_some(), "{number}");
    }
    assert!(retired.adopt(&head("more", 1)).is_none());
    assert!(retired.adopt(&head("0", 1)).is_some(), "one that is known, in another size");
    let live = Live::default();
    retired.change(vec![in_force(&live, "more", &hourly())], &[]);
    let tables = retired.tables();
    assert_eq!(tables.len(), MOST);
    assert_eq!(tables[0].0.definition(), "rate_limit 1", "the one that left first is forgotten");
    assert!(retired.live.find::<Table>("rate_limit", "0").is_none());
}

/// Also where the bucket has been full for long.
#[test]
fn who_is_cooled_off_stays_so_while_the_limit_is_gone() {
    let place = tempfile::tempdir().unwrap();
    let rules = Rules::of(1, 60, 600, 600);
    let quick = Gcra::new(10, Duration::from_secs(1), 10);
    let live = Arc::new(Live::new(place.path()));
    let file = LimitsFile::new(&live);
    let kept = in_force(&live, "few client", &quick);
    kept.0.penalise();
    file.read(std::slice::from_ref(&kept), None);
    // Told to wait for five seconds ten seconds ago, it came again in the third.
    let began = Nanos::now().as_nanos() - 10_000_000_000;
    for seconds in [0, 3] {
        let now = Nanos::from_nanos(began + seconds * 1_000_000_000);
        let _ = kept.0.penalties().unwrap().refused(&rules, key(&kept), Duration::from_secs(5), now);
    }
    let cooled_off = |kept: &Kept| kept.0.cooled_off(key(kept), Nanos::now());
    assert!(cooled_off(&kept).is_some());
    file.write(vec![kept], Vec::new(), None);
    for _ in 0..2 {
        Process::begin(place.path(), &[]).end();
    }
    let live = Arc::new(Live::new(place.path()));
    let file = LimitsFile::new(&live);
    let kept = in_force(&live, "few client", &quick);
    kept.0.penalise();
    file.read(std::slice::from_ref(&kept), None);
    assert!(cooled_off(&kept).is_some());
}
