//! The file in `server.state` that several processes share: gateways that serve, and the command line that changes it. SQLite,
//! with a write-ahead log, so that readers and a writer do not wait for each other.

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

/// Its name in `server.state`; SQLite keeps `-wal` and `-shm` beside it.
const FILE: &str = "portcullis.db";
/// How long a writer waits for another.
const BUSY: Duration = Duration::from_secs(5);
/// `PRAGMA application_id`: "Port", so that no other program's file is taken for ours.
const APPLICATION: i32 = 0x506f_7274;

/// What each version of the schema adds to the one before it; `PRAGMA user_version` counts them. Never edit one that was released.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE api_keys (
        id TEXT PRIMARY KEY NOT NULL,
        name TEXT NOT NULL,
        owner TEXT NOT NULL,
        plan TEXT,
        scopes TEXT NOT NULL,       -- with a space between them, as the next two
        addresses TEXT NOT NULL,    -- CIDRs; none: from anywhere
        routes TEXT NOT NULL,       -- names; none: all
        created INTEGER NOT NULL,   -- seconds since 1970, as all times here
        expires INTEGER,
        revoked INTEGER,
        change INTEGER NOT NULL     -- `changes.number` when this row was last written
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX api_keys_by_change ON api_keys (change);
    CREATE TABLE api_key_hashes (
        hash BLOB PRIMARY KEY NOT NULL,     -- SHA-256 of the key
        key TEXT NOT NULL REFERENCES api_keys (id),
        until INTEGER                       -- the end of an old key's overlap; none: the present key
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX api_key_hashes_by_key ON api_key_hashes (key);
    CREATE TABLE api_key_uses (
        key TEXT PRIMARY KEY NOT NULL,
        at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE changes (
        what TEXT PRIMARY KEY NOT NULL,
        number INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO changes VALUES ('api_keys', 0);
",
    "
    CREATE TABLE quota_uses (
        key TEXT NOT NULL,          -- an API key's id
        plan TEXT NOT NULL,
        begins INTEGER NOT NULL,    -- a day, a week or a month
        ends INTEGER NOT NULL,
        used INTEGER NOT NULL,      -- requests that have passed in it
        first INTEGER NOT NULL,     -- 1: the key's first period in the plan
        PRIMARY KEY (key, plan, begins)
    ) STRICT, WITHOUT ROWID;
",
    "
    ALTER TABLE quota_uses ADD COLUMN copied INTEGER NOT NULL DEFAULT 0;    -- of `used`: by the node whose file was copied
    CREATE TABLE quota_node (       -- one row: the node of a fleet whose counts these are
        name TEXT PRIMARY KEY NOT NULL
    ) STRICT, WITHOUT ROWID;
",
];

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To be looked at, by `check` and `explain`: no file is made, nothing is written.
    Look,
    /// By a gateway: it is made where it is missing. A crash of the machine may cost what was written last.
    Serve,
    /// To be changed by the command line, or by whoever counts: what is said to be done is on the disk.
    Change,
}

/// The file, open.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// Device and inode: a file that takes its place is another.
    file: (u64, u64),
}

/// Why it cannot be used, with the cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Names the file.
    pub cause: String,
    /// What to do.
    pub cure: &'static str,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.cause, self.cure)
    }
}

impl Store {
    /// Where it is.
    pub fn path_in(directory: &Path) -> PathBuf {
        directory.join(FILE)
    }

    /// Opens the file in this directory, and brings an older one up to date. None where it is only to be looked at and is not
    /// there, or holds nothing yet.
    ///
    /// Made with mode 0600; by root, as the directory's owner's. No link is followed.
    ///
    /// # Errors
    /// It cannot be made or read, is no file of ours, or was made by a newer version.
    pub fn open(directory: &Path, access: Access) -> Result<Option<Self>, Unusable> {
        let path = Self::path_in(directory);
        let unmade = |error: io::Error| Unusable {
            cause: format!("`{}` cannot be made: {error}", path.display()),
            cure: "make `server.state` a directory that the gateway's user can write to",
        };
        match access {
            Access::Look => match fs::symlink_metadata(&path) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                // A directory that one may not look into is no empty one.
                Err(error) => {
                    return Err(Unusable {
                        cause: format!("`{}` cannot be looked for: {error}", path.display()),
                        cure: "look as root, or as the gateway's user",
                    });
                }
            },
            Access::Serve | Access::Change => make(directory, &path).map_err(unmade)?,
        }
        let real = directory.canonicalize().map_err(unmade)?.join(FILE);
        let mut connection = connect(&real, access).map_err(|error| unusable(&path, &error))?;
        let version = prepare(&mut connection, &path, access)?;
        if access == Access::Look && version == 0 {
            return Ok(None);
        }
        let file = identity(&path).map_err(unmade)?;
        Ok(Some(Self { connection, path, file }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file that is open still has its name: a backup put in its place is another file.
    ///
    /// # Errors
    /// There is no file of that name, or it cannot be looked at.
    pub fn is_in_place(&self) -> io::Result<bool> {
        identity(&self.path).map(|found| found == self.file)
    }

    /// To read and write.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// What an error of SQLite means for this file.
    pub fn explain(&self, error: &rusqlite::Error) -> Unusable {
        unusable(&self.path, error)
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// An empty file is an empty database: made here, so that nobody but its owner could ever read it.
fn make(directory: &Path, path: &Path) -> io::Result<()> {
    if !directory.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            let owner = fs::metadata(directory)?;
            let own = file.metadata()?;
            // Root makes it for whoever the state is of. SQLite gives `-wal` and `-shm` to the file's owner.
            if own.uid() == 0 && owner.uid() != 0 {
                fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn connect(path: &Path, access: Access) -> rusqlite::Result<Connection> {
    let common = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = match access {
        Access::Look => {
            // Where nobody has it open there is no log beside it, and one would be made even by a reader.
            let beside = |end: &str| path.with_file_name(format!("{FILE}{end}")).exists();
            let open = beside("-wal") && beside("-shm");
            let name = percent_encoding::percent_encode(
                path.as_os_str().as_encoded_bytes(),
                percent_encoding::NON_ALPHANUMERIC,
            )
            .to_string()
            .replace("%2F", "/");
            let uri = format!("file:{name}{}", if open { "" } else { "?immutable=1" });
            Connection::open_with_flags(
                uri,
                common | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
            )?
        }
        Access::Serve | Access::Change => {
            Connection::open_with_flags(path, common | OpenFlags::SQLITE_OPEN_READ_WRITE)?
        }
    };
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    match access {
        Access::Look => {}
        Access::Serve | Access::Change => {
            write_ahead(&connection)?;
            let safety = if access == Access::Change { "FULL" } else { "NORMAL" };
            connection.pragma_update(None, "synchronous", safety)?;
        }
    }
    Ok(connection)
}

/// Turns the write-ahead log on. Two processes that do so at once to a new file do not wait for each other by themselves.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let deadline = Instant::now() + BUSY;
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0)) {
            Ok(_) => return Ok(()),
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Checks whose file it is and how old, and migrates it. Returns its version.
fn prepare(connection: &mut Connection, path: &Path, access: Access) -> Result<usize, Unusable> {
    let told = |error: rusqlite::Error| unusable(path, &error);
    // In one transaction: between two looks of its own another process may make the tables, which would then be nobody's.
    let reading = connection.transaction().map_err(told)?;
    let version = check(&reading, path)?;
    drop(reading);
    if version == MIGRATIONS.len() || access == Access::Look {
        return Ok(version);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(told)?;
    // Another process may have been here first.
    let version = check(&transaction, path)?;
    for migration in MIGRATIONS.get(version..).unwrap_or_default() {
        transaction.execute_batch(migration).map_err(told)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION).map_err(told)?;
    let newest = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    transaction.pragma_update(None, "user_version", newest).map_err(told)?;
    transaction.commit().map_err(told)?;
    Ok(MIGRATIONS.len())
}

/// The version of a file that is ours, or empty.
fn check(connection: &Connection, path: &Path) -> Result<usize, Unusable> {
    let number = |name: &str| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i32>(0))
            .map_err(|error| unusable(path, &error))
    };
    let (application, version) = (number("application_id")?, number("user_version")?);
    let known = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    let named = path.display();
    match (application, version) {
        (0, 0) => {
            let tables = connection
                .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))
                .map_err(|error| unusable(path, &error))?;
            if tables == 0 {
                return Ok(0);
            }
            Err(Unusable { cause: format!("`{named}` is another program's database"), cure: ANOTHER })
        }
        (APPLICATION, version) if version > known => Err(Unusable {
            cause: format!(
                "`{named}` was made by a newer version (schema {version}, this one knows {known})"
            ),
            cure: "run the newer version, or restore a backup from before it",
        }),
        (APPLICATION, version) => Ok(usize::try_from(version).unwrap_or(0)),
        _ => Err(Unusable { cause: format!("`{named}` is another program's database"), cure: ANOTHER }),
    }
}

const ANOTHER: &str = "give the gateway a directory of its own with `server.state`";

/// SQLite's own words for the rest: they name tables and columns, never values.
fn unusable(path: &Path, error: &rusqlite::Error) -> Unusable {
    let (what, cure) = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => ("is no database".to_owned(), DAMAGED),
        Some(ErrorCode::DatabaseCorrupt) => ("is damaged".to_owned(), DAMAGED),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            format!("is held by another process for more than {} s", BUSY.as_secs()),
            "try again; see who holds it with `fuser`",
        ),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            ("cannot be opened".to_owned(), "make it a plain file that the gateway's user can read and write")
        }
        Some(ErrorCode::ReadOnly) => {
            ("cannot be written".to_owned(), "give it to the user that the gateway runs as")
        }
        Some(ErrorCode::DiskFull) => {
            ("cannot be written: the disk is full".to_owned(), "make room on its disk")
        }
        _ => (format!("cannot be used: {error}"), "see to its disk and its permissions"),
    };
    Unusable { cause: format!("`{}` {what}", path.display()), cure }
}

const DAMAGED: &str = "restore it from a backup, or move it away and create the keys anew";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_cannot_be_looked_for_is_not_taken_for_missing() {
        let place = tempfile::tempdir().unwrap();
        assert!(Store::open(&place.path().join("none"), Access::Look).unwrap().is_none());
        // As root reads everything: a directory that is none.
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        let unusable = Store::open(&file, Access::Look).unwrap_err();
        assert!(unusable.cause.contains("cannot be looked for: Not a directory"), "{unusable}");
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn version(store: &mut Store) -> i32 {
        store.connection().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_file_is_made_once_for_its_owner_alone() {
        let place = tempfile::tempdir().unwrap();
        let state = place.path().join("a/state");
        let mut first = Store::open(&state, Access::Change).unwrap().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(first.path()), 0o600);
        let log = first.connection().pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0));
        assert_eq!(log.unwrap(), "wal");
        let newest = i32::try_from(MIGRATIONS.len()).unwrap();
        assert_eq!(version(&mut first), newest);
        let mut second = Store::open(&state, Access::Serve).unwrap().unwrap();
        assert_eq!(version(&mut second), newest);
        assert!(second.is_in_place().unwrap());
        fs::rename(second.path(), state.join("away")).unwrap();
        assert!(second.is_in_place().is_err());
        Store::open(&state, Access::Change).unwrap().unwrap();
        assert!(!second.is_in_place().unwrap());
    }

    #[test]
    fn many_may_make_it_at_once() {
        let place = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let opened: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| Store::open(place.path(), Access::Serve).map(|store| store.is_some()))
                })
                .collect();
            for opened in opened {
                assert_eq!(opened.join().unwrap(), Ok(true));
            }
        });
    }

    #[test]
    fn to_look_makes_nothing() {
        let place = tempfile::tempdir().unwrap();
        assert!(Store::open(place.path(), Access::Look).unwrap().is_none());
        assert!(Store::open(&place.path().join("nowhere"), Access::Look).unwrap().is_none());
        assert!(names(place.path()).is_empty());
        let mut store = Store::open(place.path(), Access::Change).unwrap().unwrap();
        let change = "UPDATE changes SET number = 7";
        store.connection().execute(change, []).unwrap();
        let number = || {
            let mut seen = Store::open(place.path(), Access::Look).unwrap().unwrap();
            assert!(seen.connection().execute(change, []).is_err(), "it can be written");
            seen.connection().query_row("SELECT number FROM changes", [], |row| row.get::<_, i64>(0)).unwrap()
        };
        assert_eq!(number(), 7, "beside a process that has it open");
        drop(store);
        let before = names(place.path());
        assert_eq!(before, [FILE]);
        assert_eq!(number(), 7, "with nobody else");
        assert_eq!(names(place.path()), before);
    }

    #[test]
    fn what_is_not_ours_is_refused_by_name() {
        let refused = |content: &dyn Fn(&Path), expected: &str| {
            let place = tempfile::tempdir().unwrap();
            content(&Store::path_in(place.path()));
            for access in [Access::Look, Access::Serve, Access::Change] {
                let error = Store::open(place.path(), access).unwrap_err().to_string();
                assert!(error.contains(FILE) && error.contains(expected), "{access:?}: {error}");
            }
        };
        refused(
            &|path| fs::write(path, "text, and more than a header of SQLite's: no database").unwrap(),
            "is no database; restore it",
        );
        refused(
            &|path| Connection::open(path).unwrap().execute_batch("CREATE TABLE a (b)").unwrap(),
            "is another program's database; give the gateway",
        );
        refused(
            &|path| Connection::open(path).unwrap().pragma_update(None, "application_id", 7).unwrap(),
            "is another program's database",
        );
        refused(
            &|path| {
                let other = Connection::open(path).unwrap();
                other.pragma_update(None, "application_id", APPLICATION).unwrap();
                other.pragma_update(None, "user_version", 99).unwrap();
            },
            &format!(
                "was made by a newer version (schema 99, this one knows {}); run the newer",
                MIGRATIONS.len()
            ),
        );
        refused(&|path| std::os::unix::fs::symlink(path.with_file_name("elsewhere"), path).unwrap(), "");
    }
}
