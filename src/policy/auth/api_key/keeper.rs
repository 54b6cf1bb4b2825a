//! The keys of this process: read when it starts, kept in step with the store by a thread of their own.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::ErrorCode;

use super::records;
use super::table::{Found, Hash, Table};
use super::text;
use crate::state::{Access, Live, Store, Unusable};

/// How often it is asked whether another process has changed the store: a change is in force within a second.
const POLL: Duration = Duration::from_millis(250);
/// How long a store that cannot be read is left alone.
const PATIENCE: Duration = Duration::from_secs(1);
/// Last uses are written no more often than this.
const FLUSH: Duration = Duration::from_secs(60);

/// The keys of this process.
#[derive(Debug, Default)]
pub struct Keys {
    table: Table,
    /// Counts the times that all was read anew.
    epoch: AtomicU32,
    /// The store could not be read: what was known before is served.
    stale: AtomicBool,
    opened: Mutex<bool>,
}

/// What there is to tell of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Keys in memory, old, expired and revoked ones too.
    pub keys: usize,
    /// Bytes they take.
    pub bytes: usize,
    /// Whether the store cannot be read at the moment.
    pub stale: bool,
}

impl Keys {
    /// Those of the process.
    pub(super) fn of(live: &Live) -> Arc<Self> {
        live.find_or("api_keys", "", Self::default)
    }

    /// What there is to tell; none where no policy asks for keys.
    pub fn figures(live: &Live) -> Option<Figures> {
        let own = live.find::<Self>("api_keys", "")?;
        Some(Figures {
            keys: own.table.len(),
            bytes: own.table.bytes(),
            stale: own.stale.load(Ordering::Relaxed),
        })
    }

    /// The plans of keys that are good, with how many these are; none where no policy asks for keys, and before they are read.
    pub fn plans(live: &Live) -> BTreeMap<Arc<str>, usize> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        live.find::<Self>("api_keys", "").map(|own| own.table.plans(now)).unwrap_or_default()
    }

    /// Whether there is such a key, good or not: what a request's look-up does, its hash included. False where no policy asks for keys.
    pub fn know(live: &Live, key: &str) -> bool {
        live.find::<Self>("api_keys", "").is_some_and(|own| own.find(&text::hash(key.as_bytes())).is_some())
    }

    /// The key with this hash.
    pub(super) fn find(&self, hash: &Hash) -> Option<Found> {
        self.table.find(hash)
    }

    /// Whether a value is a key of ours, good or not, or has the form of one; or holds such a thing ([`text::is_in`]).
    pub(in crate::policy::auth) fn are_in(&self, value: &str) -> bool {
        text::is_in(value, |key| text::has_our_form(key) || self.find(&text::hash(key.as_bytes())).is_some())
    }

    /// Tells one reading of the whole store from the next.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Opens the store of a gateway, reads it, and stays in step with it from then on. Later calls do nothing.
    ///
    /// # Errors
    /// It cannot be made or read.
    pub(super) fn open(self: &Arc<Self>, directory: &Path) -> Result<(), Unusable> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if *opened {
            return Ok(());
        }
        let (store, seen) = self.read_all(directory, Access::Serve)?;
        let named = Store::path_in(directory);
        let named = named.display();
        match self.table.len() {
            0 => log::warn!(
                "`{named}` holds no API key yet, so nobody has one; make one with `portcullis keys create`"
            ),
            number => log::info!("API keys: {number} read from `{named}`"),
        }
        let keeper = Keeper {
            directory: directory.to_path_buf(),
            store,
            seen,
            version: None,
            flushed: None,
            flushed_minute: 0,
            lost: None,
        };
        let keys = Arc::downgrade(self);
        std::thread::Builder::new().name("api keys".to_owned()).spawn(move || keeper.keep(&keys)).map_err(
            |error| Unusable {
                cause: format!("`{named}` cannot be watched: {error}"),
                cure: "raise the limit of threads",
            },
        )?;
        *opened = true;
        Ok(())
    }

    /// Reads what there is, for `check` and `explain`.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(super) fn look(&self, directory: &Path) -> Result<(), Unusable> {
        self.read_all(directory, Access::Look).map(drop)
    }

    /// All keys, and what was read of changes.
    fn read_all(&self, directory: &Path, access: Access) -> Result<(Option<Store>, i64), Unusable> {
        let Some(mut store) = Store::open(directory, access)? else { return Ok((None, 0)) };
        // What was read before an error is half of it: it must not take the place of the whole.
        let mut rows = Vec::new();
        let read = if self.table.len() == 0 {
            records::read(store.connection(), None, |rows| self.table.apply(rows, true))
        } else {
            let read = records::read(store.connection(), None, |found| rows.extend(found));
            read.inspect(|_| self.table.apply(rows.into_iter(), true))
        };
        let seen = read.map_err(|error| store.explain(&error))?;
        self.epoch.fetch_add(1, Ordering::AcqRel);
        Ok((Some(store), seen))
    }
}

/// The thread's own.
struct Keeper {
    directory: PathBuf,
    store: Option<Store>,
    /// The last change that was read.
    seen: i64,
    /// `PRAGMA data_version`: another connection has written when it is another.
    version: Option<i64>,
    flushed: Option<Instant>,
    /// Uses before this minute are written.
    flushed_minute: u32,
    /// What is wrong with the store, since when it was last tried.
    lost: Option<Instant>,
}

impl Keeper {
    /// Until nobody wants the keys any more.
    fn keep(mut self, keys: &Weak<Keys>) {
        loop {
            std::thread::sleep(POLL);
            let Some(keys) = keys.upgrade() else { return };
            if self.lost.is_some_and(|tried| tried.elapsed() < PATIENCE) {
                continue;
            }
            match self.turn(&keys) {
                Ok(()) if self.lost.take().is_some() => {
                    keys.stale.store(false, Ordering::Relaxed);
                    log::info!("API keys: `{}` is read again", Store::path_in(&self.directory).display());
                }
                Ok(()) => {}
                Err(unusable) => {
                    self.store = None;
                    if self.lost.replace(Instant::now()).is_none() {
                        keys.stale.store(true, Ordering::Relaxed);
                        log::error!(
                            "API keys: {unusable}; until then the keys known so far are served, and changes are not seen"
                        );
                    }
                }
            }
        }
    }

    fn turn(&mut self, keys: &Keys) -> Result<(), Unusable> {
        let in_place = match &self.store {
            Some(store) => store.is_in_place(),
            // Made anew by a gateway it would be empty, and every key be gone: somebody else has to put it there.
            None => std::fs::symlink_metadata(Store::path_in(&self.directory)).map(|_| false),
        };
        match in_place {
            Ok(true) => {}
            Ok(false) => return self.reopen(keys),
            Err(error) => return Err(gone(&self.directory, &error)),
        }
        let Some(store) = &mut self.store else { return Ok(()) };
        if let Err(error) = Self::follow(store, keys, &mut self.seen, &mut self.version) {
            return Err(store.explain(&error));
        }
        if self.seen < 0 {
            return self.reopen(keys);
        }
        self.flush(keys)
    }

    /// Another file, or none that was open: all is read anew.
    fn reopen(&mut self, keys: &Keys) -> Result<(), Unusable> {
        let before = keys.table.len();
        let (store, seen) = keys.read_all(&self.directory, Access::Serve)?;
        let now = keys.table.len();
        if now < before {
            let path = Store::path_in(&self.directory);
            log::warn!(
                "API keys: `{}` is another file: of {before} keys that were known {now} are left",
                path.display()
            );
        }
        (self.store, self.seen, self.version) = (store, seen, None);
        Ok(())
    }

    /// Takes over what other processes have changed. `seen` is -1 where the changes count from an earlier number than before.
    fn follow(
        store: &mut Store,
        keys: &Keys,
        seen: &mut i64,
        version: &mut Option<i64>,
    ) -> rusqlite::Result<()> {
        let connection = store.connection();
        let now: i64 = connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if *version == Some(now) {
            return Ok(());
        }
        let last = records::last_change(connection)?;
        if last < *seen {
            *seen = -1;
            return Ok(());
        }
        if last > *seen {
            // Whole before it is taken over; changes are few.
            let mut rows = Vec::new();
            *seen = records::read(connection, Some(*seen), |found| rows.extend(found))?;
            keys.table.apply(rows.into_iter(), false);
        }
        *version = Some(now);
        Ok(())
    }

    /// Writes when keys were last used.
    fn flush(&mut self, keys: &Keys) -> Result<(), Unusable> {
        if self.flushed.is_some_and(|at| at.elapsed() < FLUSH) {
            return Ok(());
        }
        let Some(store) = &mut self.store else { return Ok(()) };
        let minute = minute(SystemTime::now());
        let uses = keys.table.take_used(self.flushed_minute);
        if uses.is_empty() {
            return Ok(());
        }
        self.flushed = Some(Instant::now());
        match records::note_uses(store.connection(), &uses) {
            Ok(()) => self.flushed_minute = minute,
            // A long import: nothing else is wrong. These uses are written with the next ones.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
            Err(error) => return Err(store.explain(&error)),
        }
        Ok(())
    }
}

fn gone(directory: &Path, error: &io::Error) -> Unusable {
    let named = Store::path_in(directory);
    let cause = match error.kind() {
        io::ErrorKind::NotFound => format!("`{}` is gone", named.display()),
        _ => format!("`{}` cannot be looked at: {error}", named.display()),
    };
    Unusable { cause, cure: "put it back, or restore it from a backup" }
}

/// Minutes since 1970, from 1.
pub(super) fn minute(time: SystemTime) -> u32 {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    u32::try_from(seconds / 60).unwrap_or(u32::MAX).max(1)
}
