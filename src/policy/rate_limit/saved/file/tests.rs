use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use zeroize::Zeroizing;

use super::*;
use crate::policy::rate_limit::table::Table;
use crate::policy::rate_limit::{Gcra, HashKey, Nanos};

fn limit() -> Gcra {
    Gcra::new(10, Duration::from_secs(3600), 10)
}

fn new(directory: &Path) -> LimitsFile {
    LimitsFile::new(&Arc::new(Live::new(directory)))
}

fn table(secret: u8) -> Kept {
    let table = Arc::new(Table::new("few", HashKey::from_bytes(Zeroizing::new([secret; 16])), None));
    table.put_in_force(&[(0, limit())].into(), 64 << 10);
    Kept(table)
}

/// What a key has left once it has spent so much.
fn spend(Kept(table): &Kept, tokens: u32) -> u64 {
    let mut hasher = table.hash().hasher();
    hasher.part(b"key");
    let key = hasher.finish(0);
    let _ = table.charge(key, &limit(), tokens, Nanos::now());
    table.look(key, &limit(), 1, Nanos::now()).remaining()
}

/// What a process finds that begins with this directory.
fn begun(directory: &Path) -> u64 {
    let (file, table) = (new(directory), table(2));
    file.read(std::slice::from_ref(&table), None);
    spend(&table, 0)
}

/// A process that begins with this directory at this moment.
fn begin(directory: &Path, secret: u8, moment: SystemTime) -> (LimitsFile, Kept) {
    let (file, table) = (new(directory), table(secret));
    file.read_at(moment, std::slice::from_ref(&table), None);
    (file, table)
}

/// A directory in which a process has left its file, and that file.
fn ended() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let (file, table) = (new(place.path()), table(1));
    file.read(std::slice::from_ref(&table), None);
    assert_eq!(spend(&table, 4), 6);
    file.write(vec![table], Vec::new(), None);
    let path = place.path().join(FILE);
    (place, path)
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_a_process_has_written_the_next_one_reads_and_nobody_else() {
    let (place, path) = ended();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(place.path()), [FILE], "nothing is left beside it");
    assert_eq!(begun(place.path()), 6);
    assert_eq!(begun(place.path()), 6, "it stays where it is");
}

#[test]
fn who_has_not_served_writes_nothing() {
    let (place, path) = ended();
    let before = fs::read(&path).unwrap();
    new(place.path()).write(vec![table(3)], Vec::new(), None);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_a_process_that_began_later_has_written_stays() {
    let place = tempfile::tempdir().unwrap();
    let begin = |secret| begin(place.path(), secret, SystemTime::now());
    let ((first, own), (second, other)) = (begin(1), begin(2));
    spend(&own, 1);
    assert_eq!(spend(&other, 9), 1);
    let draining = Some(SystemTime::now());
    second.write(vec![other], Vec::new(), draining);
    first.write(vec![own], Vec::new(), draining);
    first.write(Vec::new(), Vec::new(), draining);
    assert_eq!(begun(place.path()), 1, "a process that drains for longer than its successor serves");
    // The other way round the later one has the last word.
    let ((first, own), (second, other)) = (begin(3), begin(4));
    spend(&own, 0);
    assert_eq!(spend(&other, 1), 0);
    first.write(vec![own], Vec::new(), None);
    second.write(vec![other], Vec::new(), None);
    assert_eq!(begun(place.path()), 0);
}

#[test]
fn an_upgrade_that_is_given_up_leaves_the_word_to_who_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let begin = |secret| begin(place.path(), secret, SystemTime::now());
    let ((first, own), (second, other)) = (begin(1), begin(2));
    spend(&other, 1);
    second.write(vec![other], Vec::new(), Some(SystemTime::now()));
    spend(&own, 7);
    first.write(vec![own], Vec::new(), Some(SystemTime::now()));
    assert_eq!(begun(place.path()), 3);
}

#[test]
fn a_clock_that_was_ahead_once_is_forgotten_at_the_next_end() {
    let place = tempfile::tempdir().unwrap();
    let begin = |secret, moment| begin(place.path(), secret, moment);
    let now = SystemTime::now();
    let (ahead, own) = begin(1, now + Duration::from_secs(7 * 86_400));
    spend(&own, 4);
    ahead.write(vec![own], Vec::new(), None);
    // The clock is right again, or was set back: each end keeps what its process knows.
    for (secret, back) in [(2, 0), (3, 0), (4, 7200)] {
        let (file, own) = begin(secret, now - Duration::from_secs(back));
        spend(&own, 1);
        file.write(vec![own], Vec::new(), None);
    }
    assert_eq!(begun(place.path()), 10 - 4 - 3);
}

#[test]
fn who_has_no_limits_keeps_none() {
    let (place, path) = ended();
    let file = new(place.path());
    file.read(&[], None);
    assert!(path.exists());
    file.write(Vec::new(), Vec::new(), None);
    assert!(!path.exists());
    file.write(Vec::new(), Vec::new(), None);
}

/// What stands where the file should be.
type Odd = (&'static str, fn(&Path));

/// None of these may harm or keep waiting who begins.
#[test]
fn what_is_no_file_of_ours_is_not_used() {
    let cases: [Odd; 8] = [
        ("nothing", |_| {}),
        ("empty", |path| fs::write(path, b"").unwrap()),
        ("text", |path| fs::write(path, b"limits: none\n").unwrap()),
        ("a pipe that nobody writes to", |path| {
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("endless", |path| symlink("/dev/zero", path).unwrap()),
        ("huge", |path| {
            let file = File::create(path).unwrap();
            file.set_len(FILE_BYTES_MAX + 1).unwrap();
        }),
        ("large and empty", |path| {
            let file = File::create(path).unwrap();
            file.set_len(FILE_BYTES_MAX).unwrap();
        }),
    ];
    for (name, make) in cases {
        let (place, path) = ended();
        fs::remove_file(&path).unwrap();
        make(&path);
        if path.is_file() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let start = Instant::now();
        assert_eq!(begun(place.path()), 10, "{name}");
        assert!(start.elapsed() < Duration::from_secs(2), "{name} took {:?}", start.elapsed());
    }
}

#[test]
fn what_others_may_read_or_a_link_leads_to_is_not_used() {
    let (place, path) = ended();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(begun(place.path()), 10, "its secret may be known");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(begun(place.path()), 6);
    let away = place.path().join("away");
    fs::rename(&path, &away).unwrap();
    symlink(&away, &path).unwrap();
    assert_eq!(begun(place.path()), 10);
}

#[test]
fn a_file_that_cannot_be_written_stays_as_it_was() {
    let (place, path) = ended();
    let before = fs::read(&path).unwrap();
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    fs::create_dir(&beside).unwrap();
    let (file, table) = (new(place.path()), table(3));
    file.read(std::slice::from_ref(&table), None);
    assert_eq!(spend(&table, 2), 4);
    file.write(vec![table.clone()], Vec::new(), None);
    assert_eq!(fs::read(&path).unwrap(), before);
    // Nor does it matter where the directory is gone.
    drop(place);
    file.write(vec![table], Vec::new(), None);
}

#[test]
fn what_a_process_left_that_was_killed_while_it_wrote_goes_in_time() {
    let (place, _) = ended();
    let (old, young) = ("rate-limits.new-1", "rate-limits.new-2");
    for name in [old, young, "other.new-1"] {
        fs::write(place.path().join(name), b"x").unwrap();
    }
    let aged = |name: &str| {
        let file = File::options().write(true).open(place.path().join(name)).unwrap();
        file.set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
    };
    aged(old);
    aged("other.new-1");
    assert_eq!(begun(place.path()), 6);
    assert_eq!(names(place.path()), ["other.new-1", FILE, young]);
}
