//! The keys that several processes share, in one file of `server.state`, and the rules by which they change.
//!
//! A generated key signs from a moment that stands in the file, so all processes change at once, an hour after the key was published.
//! Whoever finds that a next one is due makes it, under a lock. A key of the operator's stands there too, its public part alone and for
//! so long as somebody signs by it: what one process signs, all publish.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

use super::config::LIFETIME_MAX;
use super::key::{PublicKey, SigningAlgorithm, SigningKey};
use crate::config::Secret;
use crate::state::private;

const FILE: &str = "identity-keys.json";
const LOCK: &str = "identity-keys.lock";
const VERSION: u32 = 1;
const FILE_BYTES_MAX: u64 = 64 << 10;
/// No more keys than these are kept: one is made an hour at the most.
const KEYS_MAX: usize = 16;
/// A key is published for so long before it signs: longer than anybody may keep the set without asking again.
pub(super) const PUBLISHED_BEFORE: u64 = 3600;
/// And for so long after it was the last to sign: the longest token, the leeway of who verifies, and a process that hears of it late.
pub(super) const PUBLISHED_AFTER: u64 = LIFETIME_MAX.as_secs() + 300;
/// A key of the operator's is published for so long after a process last said that it signs by it.
const FILE_PUBLISHED: u64 = 1800;
/// Keys that these rules do not sign by may be another process's, while a new one takes over from it; that takes no longer than this.
const OTHERS: u64 = 24 * 3600;
/// How long another process is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A key of the ring.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) public: PublicKey,
    /// From when it signs, in seconds since 1970, as all times here.
    pub(super) from: u64,
    /// Until when it is published; none: as the rules have it.
    until: Option<u64>,
    /// Itself, where it was generated.
    pub(super) key: Option<Arc<SigningKey>>,
    /// The same as it is kept.
    private: Option<Secret>,
}

/// What became of a ring.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Whether anything has changed.
    pub(super) any: bool,
    /// What of it is worth a line of the log.
    pub(super) told: Vec<String>,
}

impl Changes {
    fn tell(&mut self, line: String) {
        self.any = true;
        self.told.push(line);
    }
}

/// What is wanted of a ring.
#[derive(Debug)]
pub(super) enum Rules {
    /// Keys of the gateway's own.
    Generated { algorithm: SigningAlgorithm, rotate: u64 },
    /// The operator's.
    File(Arc<SigningKey>),
}

impl Rules {
    /// Equal for equal rules.
    pub(super) fn definition(&self) -> String {
        match self {
            Self::Generated { algorithm, rotate } => format!("generate {} {rotate}", algorithm.as_str()),
            Self::File(key) => format!("file {}", key.public().kid),
        }
    }

    /// The key that signs at this time: of those whose time has come the newest, of these rules' algorithm where there is one. Where
    /// clocks were wrong and no key's time has come, the next.
    pub(super) fn signer<'r>(&'r self, ring: &'r [Held], now: u64) -> Option<&'r Arc<SigningKey>> {
        if let Self::File(key) = self {
            return Some(key);
        }
        let generated = || ring.iter().filter(|held| held.key.is_some());
        let ready =
            generated().filter(|held| held.from <= now).max_by_key(|held| (self.wants(held), held.from));
        ready.or_else(|| generated().min_by_key(|held| held.from))?.key.as_ref()
    }

    /// Whether these rules sign by it, now or later.
    fn wants(&self, held: &Held) -> bool {
        match self {
            Self::Generated { algorithm, .. } => held.key.is_some() && held.public.algorithm == *algorithm,
            Self::File(key) => held.public.kid == key.public().kid,
        }
    }

    /// Brings a ring up to date. No key is made unless `makes`.
    pub(super) fn maintain(&self, ring: &mut Vec<Held>, now: u64, makes: bool) -> Changes {
        let mut changes = Changes::default();
        correct(ring, now, &mut changes);
        match self {
            Self::Generated { algorithm, rotate } if makes && ring.len() < KEYS_MAX => {
                if let Some(from) = self.next(ring, *rotate, now) {
                    generate(ring, *algorithm, from, now, &mut changes);
                }
            }
            Self::Generated { .. } => {}
            Self::File(key) => publish(ring, key, now, &mut changes),
        }
        self.prune(ring, now, &mut changes);
        changes
    }

    /// From when a next key is to sign, where one is due. While one waits for its hour, none is.
    fn next(&self, ring: &[Held], rotate: u64, now: u64) -> Option<u64> {
        let soon = now + PUBLISHED_BEFORE;
        match ring.iter().filter(|held| self.wants(held)).map(|held| held.from).max() {
            Some(newest) => (newest <= now && newest + rotate <= soon).then_some(soon),
            // Those of another algorithm sign until then.
            None if ring.iter().any(|held| held.key.is_some()) => Some(soon),
            None => Some(now),
        }
    }

    /// Takes out whose last token has expired.
    fn prune(&self, ring: &mut Vec<Held>, now: u64, changes: &mut Changes) {
        let newest = ring.iter().filter(|held| self.wants(held)).map(|held| held.from).max();
        let has_ended = |held: &Held| match (held.until, newest) {
            (Some(until), _) => until <= now,
            (None, _) if self.wants(held) => {
                let later = |next: &Held| self.wants(next) && next.from > held.from;
                ring.iter().any(|next| later(next) && next.from + PUBLISHED_AFTER <= now)
            }
            (None, Some(newest)) => newest.max(held.from) + OTHERS <= now,
            (None, None) => false,
        };
        let ended: Vec<_> =
            ring.iter().filter(|held| has_ended(held)).map(|held| held.public.kid.clone()).collect();
        ring.retain(|held| !ended.contains(&held.public.kid));
        for kid in ended {
            changes.tell(format!("the key `{kid}` is no longer published"));
        }
    }
}

/// Takes back what was written by a clock that was wrong.
fn correct(ring: &mut [Held], now: u64, changes: &mut Changes) {
    let latest = now + PUBLISHED_BEFORE;
    for held in ring {
        if held.key.is_some() && held.from > latest {
            held.from = latest;
            changes.tell(format!("the key `{}` signs in {PUBLISHED_BEFORE} s", held.public.kid));
        }
        if held.until.is_some_and(|until| until > now + FILE_PUBLISHED) {
            held.until = Some(now + FILE_PUBLISHED);
            changes.any = true;
        }
    }
}

fn generate(ring: &mut Vec<Held>, algorithm: SigningAlgorithm, from: u64, now: u64, changes: &mut Changes) {
    let Some((key, pkcs8)) = SigningKey::generate(algorithm) else {
        log::error!("identity tokens: no key can be made: the system has no randomness");
        return;
    };
    let mut private = String::with_capacity(pkcs8.len() * 2);
    STANDARD_NO_PAD.encode_string(&pkcs8, &mut private);
    let public = key.public().clone();
    changes.tell(match from.saturating_sub(now) {
        0 => format!("a new key, `{}`, signs from now on", public.kid),
        wait => format!("a new key, `{}`, is published, and signs in {wait} s", public.kid),
    });
    let private = Some(Secret::new(private));
    ring.push(Held { public, from, until: None, key: Some(Arc::new(key)), private });
}

/// Says again that the operator's key signs, once half of its time is over.
fn publish(ring: &mut Vec<Held>, key: &SigningKey, now: u64, changes: &mut Changes) {
    let until = Some(now + FILE_PUBLISHED);
    match ring.iter_mut().find(|held| held.public.kid == key.public().kid) {
        // Where it is one that was generated, it is published for as long as that.
        Some(Held { until: None, .. }) => {}
        Some(held) if held.until > Some(now + FILE_PUBLISHED / 2) => {}
        Some(held) => {
            held.until = until;
            changes.any = true;
        }
        None => {
            // Of keys that were changed again and again the oldest have the least to say.
            if ring.len() >= KEYS_MAX
                && let Some(oldest) = ring.iter().filter_map(|held| held.until).min()
            {
                ring.retain(|held| held.until != Some(oldest));
            }
            changes.tell(format!("the key `{}` is published", key.public().kid));
            ring.push(Held { public: key.public().clone(), from: now, until, key: None, private: None });
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    keys: Vec<KeptKey>,
}

#[derive(Serialize, Deserialize)]
struct KeptKey {
    #[serde(flatten)]
    public: PublicKey,
    from: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
    /// PKCS #8, base64.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "write_private")]
    private: Option<Secret>,
}

fn write_private<S: Serializer>(private: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    match private {
        Some(text) => serializer.serialize_str(text),
        None => serializer.serialize_none(),
    }
}

/// Which file it is, and in which state: what tells that another process has written.
pub(super) type Stamp = Option<(u64, u64, i64, i64, u64)>;

/// That of the file in this directory; none where there is none, or where it cannot be told.
pub(super) fn stamp(directory: &Path) -> Stamp {
    let found = fs::symlink_metadata(directory.join(FILE)).ok()?;
    Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
}

/// Why the file cannot be used, with what to do.
pub(super) type Unusable = (String, &'static str);

/// Reads the ring; none where there is no file.
///
/// # Errors
/// It cannot be read, is damaged, or is not for the gateway's eyes alone.
pub(super) fn read(directory: &Path) -> Result<Option<Vec<Held>>, Unusable> {
    let path = directory.join(FILE);
    let named = path.display();
    let text = match open(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let cure = "make it a plain file of the gateway's user, with mode 0600";
            return Err((format!("`{named}` cannot be read: {error}"), cure));
        }
    };
    let damaged = |what: &str| {
        let cure =
            "restore it, or move it away: new keys are made then, and tokens of the old ones end at once";
        (format!("`{named}` {what}"), cure)
    };
    let kept: Kept = serde_json::from_slice(&text).map_err(|_| damaged("is damaged"))?;
    if kept.version != VERSION {
        return Err(damaged("was made by another version of the gateway"));
    }
    let mut ring: Vec<Held> = Vec::with_capacity(kept.keys.len());
    for KeptKey { public, from, until, private } in kept.keys {
        let key = match &private {
            None => None,
            Some(text) => {
                let pkcs8 = STANDARD_NO_PAD.decode(text.as_bytes()).map(Zeroizing::new);
                let key = pkcs8.ok().and_then(|pkcs8| SigningKey::from_pkcs8(public.algorithm, &pkcs8));
                Some(key.filter(|key| *key.public() == public).ok_or_else(|| damaged("has a damaged key"))?)
            }
        };
        let twice = ring.iter().any(|held| held.public.kid == public.kid);
        // Each has a private part, or an end.
        if twice || !public.is_sound() || key.is_none() == until.is_none() || ring.len() > KEYS_MAX * 2 {
            return Err(damaged("has a damaged key"));
        }
        ring.push(Held { public, from, until, key: key.map(Arc::new), private });
    }
    Ok(Some(ring))
}

/// Whether there is a file that this user may not read.
pub(super) fn is_forbidden(directory: &Path) -> bool {
    private::open(&directory.join(FILE), FILE_BYTES_MAX)
        .is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

fn open(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = private::open(path, FILE_BYTES_MAX)?;
    // Whole at once: keys must not leave their beginnings behind in smaller buffers.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(FILE_BYTES_MAX).unwrap_or(0) + 1));
    file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Called under the lock alone, so that one name beside is enough, and what a crash left there goes.
fn write(directory: &Path, ring: &[Held]) -> io::Result<()> {
    let keys = ring.iter().map(|held| KeptKey {
        public: held.public.clone(),
        from: held.from,
        until: held.until,
        private: held.private.clone(),
    });
    let kept = Kept { version: VERSION, keys: keys.collect() };
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(FILE_BYTES_MAX).unwrap_or(0)));
    serde_json::to_writer_pretty(&mut *text, &kept)?;
    private::replace(&directory.join(FILE), &directory.join(format!("{FILE}.new")), |file| {
        file.write_all(&text)
    })
}

/// Reads the ring, brings it up to date, and writes it where that changed anything: all under a lock, so that of two processes one makes
/// the key that is missing, and the other takes it over. A file that cannot be used is not written over. The stamp is that of the file
/// as it is left.
///
/// # Errors
/// It cannot be read or written, or another process holds it for longer than five seconds.
pub(super) fn turn(
    directory: &Path,
    rules: &Rules,
    now: u64,
    makes: bool,
) -> Result<(Vec<Held>, Stamp), Unusable> {
    let unwritten = |error: io::Error| {
        let cause = format!("`{}` cannot be written: {error}", directory.join(FILE).display());
        (cause, "make `server.state` a directory that the gateway's user can write to")
    };
    let _lock = lock(directory).map_err(unwritten)?;
    let found = read(directory)?;
    let was_there = found.is_some();
    let mut ring = found.unwrap_or_default();
    let changes = rules.maintain(&mut ring, now, makes);
    if changes.any {
        write(directory, &ring).map_err(unwritten)?;
    }
    for line in &changes.told {
        match was_there {
            true => log::info!("identity tokens: {line}"),
            false => {
                log::info!("identity tokens: {line} (`{}` was not there)", directory.join(FILE).display())
            }
        }
    }
    Ok((ring, stamp(directory)))
}

/// Held until it is dropped, at the latest by the end of the process.
fn lock(directory: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join(LOCK))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                let held = format!("another process holds `{LOCK}` for more than {} s", PATIENCE.as_secs());
                return Err(io::Error::other(held));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const START: u64 = 1_000_000;
    const ROTATE: u64 = 30 * 24 * 3600;

    fn rules(algorithm: SigningAlgorithm) -> Rules {
        Rules::Generated { algorithm, rotate: ROTATE }
    }

    fn es256() -> Rules {
        rules(SigningAlgorithm::ES256)
    }

    fn kids(ring: &[Held]) -> Vec<Box<str>> {
        ring.iter().map(|held| held.public.kid.clone()).collect()
    }

    fn signer(rules: &Rules, ring: &[Held], now: u64) -> Box<str> {
        rules.signer(ring, now).unwrap().public().kid.clone()
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_until_its_last_token_has_expired() {
        let (rules, mut ring) = (es256(), Vec::new());
        assert!(rules.maintain(&mut ring, START, true).any);
        let first = signer(&rules, &ring, START);
        let due = START + ROTATE - PUBLISHED_BEFORE;
        for now in [START, START + 1, due - 1] {
            assert!(!rules.maintain(&mut ring, now, true).any, "{now}");
            assert_eq!(kids(&ring), std::slice::from_ref(&first));
        }
        assert!(!rules.maintain(&mut ring, due, false).any, "nobody wants one made");
        assert!(rules.maintain(&mut ring, due, true).any);
        let second = ring[1].public.kid.clone();
        assert_ne!(first, second);
        let switch = due + PUBLISHED_BEFORE;
        for (now, signs) in [(due, &first), (switch - 1, &first), (switch, &second), (switch + 9999, &second)]
        {
            assert_eq!(signer(&rules, &ring, now), *signs, "{now}");
        }
        for now in [due + 60, switch, switch + PUBLISHED_AFTER - 1] {
            assert!(!rules.maintain(&mut ring, now, true).any, "{now}");
            assert_eq!(kids(&ring), [first.clone(), second.clone()]);
        }
        assert!(PUBLISHED_AFTER > LIFETIME_MAX.as_secs() + 60);
        assert!(rules.maintain(&mut ring, switch + PUBLISHED_AFTER, true).any);
        assert_eq!(kids(&ring), [second]);
    }

    #[test]
    fn who_has_been_away_for_long_signs_with_the_old_key_until_the_new_one_is_known() {
        let (rules, mut ring) = (es256(), Vec::new());
        rules.maintain(&mut ring, START, true);
        let late = START + 10 * ROTATE;
        rules.maintain(&mut ring, late, true);
        assert_eq!(ring.len(), 2);
        assert_eq!(signer(&rules, &ring, late), ring[0].public.kid);
        assert_eq!(signer(&rules, &ring, late + PUBLISHED_BEFORE), ring[1].public.kid);
    }

    #[test]
    fn another_algorithm_signs_once_its_key_is_known_and_two_processes_do_not_quarrel() {
        let (old, new, mut ring) = (es256(), rules(SigningAlgorithm::EdDSA), Vec::new());
        old.maintain(&mut ring, START, true);
        let now = START + 9 * 24 * 3600;
        assert!(new.maintain(&mut ring, now, true).any);
        let [first, second] = &kids(&ring)[..] else { panic!("{ring:?}") };
        assert_eq!((signer(&new, &ring, now), signer(&old, &ring, now)), (first.clone(), first.clone()));
        let switch = now + PUBLISHED_BEFORE;
        // While both run, each signs by its own, and neither makes or takes away anything.
        for at in [now + 1, switch, switch + PUBLISHED_AFTER, now + PUBLISHED_BEFORE + OTHERS - 1] {
            assert!(!old.maintain(&mut ring, at, true).any && !new.maintain(&mut ring, at, true).any, "{at}");
            assert_eq!(signer(&old, &ring, at), *first);
        }
        assert_eq!(signer(&new, &ring, switch), *second);
        assert!(new.maintain(&mut ring, switch + OTHERS, true).any);
        assert_eq!(kids(&ring), std::slice::from_ref(second));
    }

    #[test]
    fn a_key_of_the_operators_is_published_for_as_long_as_somebody_signs_by_it() {
        let (key, _) = SigningKey::generate(SigningAlgorithm::EdDSA).unwrap();
        let (rules, mut ring) = (Rules::File(Arc::new(key)), Vec::new());
        es256().maintain(&mut ring, START, true);
        assert!(rules.maintain(&mut ring, START, true).any);
        assert_eq!(ring.len(), 2);
        assert!(ring[1].private.is_none());
        assert_eq!(signer(&rules, &ring, START), ring[1].public.kid);
        assert!(!rules.maintain(&mut ring, START + 60, true).any);
        let half = START + FILE_PUBLISHED / 2;
        let changes = rules.maintain(&mut ring, half, true);
        assert!(changes.any && changes.told.is_empty(), "{changes:?}");
        // Another process publishes it, until nobody says any more that it signs.
        for (now, keys) in [(half + FILE_PUBLISHED - 1, 2), (half + FILE_PUBLISHED, 1)] {
            es256().maintain(&mut ring, now, true);
            assert_eq!(ring.len(), keys, "{now}");
        }
        // However often it is changed, there are no more than so many.
        let mut many = ring.clone();
        for at in 0..100 {
            let (key, _) = SigningKey::generate(SigningAlgorithm::EdDSA).unwrap();
            Rules::File(Arc::new(key)).maintain(&mut many, START + at, true);
            assert!(many.len() <= KEYS_MAX);
        }
        // And the gateway's own go, a day after nobody wants them.
        rules.maintain(&mut ring, START + 10_000, true);
        rules.maintain(&mut ring, START + 10_000 + OTHERS, true);
        assert_eq!(ring.len(), 1);
        assert!(ring[0].key.is_none());
    }

    #[test]
    fn a_clock_that_was_wrong_does_no_harm() {
        let (rules, mut ring) = (es256(), Vec::new());
        rules.maintain(&mut ring, START * 100, true);
        assert_eq!(signer(&rules, &ring, START), ring[0].public.kid, "none is ready: the next");
        rules.maintain(&mut ring, START, true);
        assert_eq!(ring[0].from, START + PUBLISHED_BEFORE);
        for now in (0..200).map(|hour| START + hour * 3600) {
            rules.maintain(&mut ring, now, true);
        }
        assert_eq!(ring.len(), 1);
        // However often it jumps, there are no more than so many.
        for now in (0..200).map(|jump| START + jump * 5 * ROTATE) {
            rules.maintain(&mut ring, now, true);
            assert!(ring.len() <= KEYS_MAX);
        }
    }

    #[test]
    fn what_is_written_is_read_and_is_the_owners_alone() {
        let place = tempfile::tempdir().unwrap();
        assert!(read(place.path()).unwrap().is_none());
        let (ring, before) = turn(place.path(), &es256(), START, true).unwrap();
        let path = place.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (again, after) = turn(place.path(), &es256(), START + 1, true).unwrap();
        assert_eq!((before, before.is_some()), (after, true), "it was written for nothing");
        assert_eq!(kids(&ring), kids(&again));
        let text = fs::read_to_string(&path).unwrap();
        assert!(!format!("{ring:?}").contains(ring[0].private.as_deref().unwrap()));
        for (wrong, expected) in [
            (String::new(), "damaged"),
            (text.chars().take(text.len() / 2).collect(), "damaged"),
            (text.replace("\"version\": 1", "\"version\": 2"), "another version"),
            (text.replace("ES256", "EdDSA"), "damaged key"),
            (text.replace("\"private\": \"", "\"private\": \"AAAA"), "damaged key"),
            (text.replace("private", "other"), "damaged key"),
        ] {
            fs::write(&path, &wrong).unwrap();
            let (cause, _) = turn(place.path(), &es256(), START, true).unwrap_err();
            assert!(cause.contains(expected), "{cause}");
            assert_eq!(fs::read_to_string(&path).unwrap(), wrong, "it is written over");
        }
        fs::write(&path, &text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(place.path()).unwrap_err().0.contains("others than its owner"));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(read(place.path()).is_err(), "a link is followed");
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(read(place.path()).unwrap_err().0.contains("no plain file"), "nobody waits for a pipe");
    }

    #[test]
    fn of_many_that_begin_at_once_one_makes_the_key() {
        let place = tempfile::tempdir().unwrap();
        let found = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let (ring, _) = turn(place.path(), &es256(), START, true).unwrap();
                    found.lock().unwrap().push(kids(&ring));
                });
            }
        });
        let all = found.into_inner().unwrap();
        assert_eq!(all.len(), 8);
        assert!(all.iter().all(|kids| *kids == all[0] && kids.len() == 1), "{all:?}");
    }
}
