//! The file in `server.state` in which what keys owe outlives the process.
//!
//! It is written at every ordinary end, after the last request has been settled, and read at the start, before the first is served.
//! A process that is killed writes nothing: then keys owe what the end before has left of them, mostly nothing, and each may have a
//! burst again. What must not be lost is a quota. Nothing is written in between, as that would be up to [`FILE_BYTES_MAX`] a time for
//! what is forgotten within one fill of a bucket anyway.
//!
//! Where two processes overlap, as in an upgrade, each writes the whole file when it ends, unless a process that began later has done so
//! while this one was draining: that one knows what came last. One that began later and ended while this one went on serving was an upgrade
//! that was given up. The successor
//! has read what was there when it began, from before its predecessor: what keys have spent with that one is not known to it. So
//! who uses both at once has two bursts; nobody who keeps to the limit is refused by that.
//!
//! An old file does no harm: what a key owed then and has not got back since, it owes now, or more.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant, SystemTime};

use super::carry::{self, Bounds, Found, Given, Heirs, Kept, Writing};
use super::form::Unusable;
use super::retired::Retired;
use crate::policy::rate_limit::fleet::{Claims, Fleet};
use crate::state::{Live, private};

const FILE: &str = "rate-limits.bin";
/// The largest file that is written or read: 26 million buckets.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// How long it may be written, and read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the disk may take to confirm it.
const SYNC: Duration = Duration::from_secs(5);
/// What stands beside the file for longer was left behind by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(600);

/// The file of a process that serves.
#[derive(Debug)]
pub struct LimitsFile {
    directory: PathBuf,
    /// When it was read, as the process began: who has never served has nothing to write. Later than when the process began whose file it
    /// read, though clocks may say otherwise: that one was there before.
    began: OnceLock<SystemTime>,
    /// What is of limits that are not in force.
    retired: Arc<Retired>,
}

impl LimitsFile {
    /// In `server.state`. Nothing is read or written by it.
    pub fn new(live: &Arc<Live>) -> Self {
        let retired = Arc::new(Retired::new(Arc::clone(live)));
        Self { directory: live.directory().to_owned(), began: OnceLock::new(), retired }
    }

    /// Fills these tables, whose limits are in force, and what the fleet's node knows, with what was written. Called once, before the first
    /// request; takes ten seconds at the most. What cannot be used is told and not used.
    pub fn read(&self, tables: &[Kept], fleet: Option<&Fleet>) {
        self.read_at(SystemTime::now(), tables, fleet);
    }

    fn read_at(&self, moment: SystemTime, tables: &[Kept], fleet: Option<&Fleet>) {
        let mut began = moment;
        tidy(&self.directory);
        let path = self.directory.join(FILE);
        let named = path.display();
        let leases = fleet.map(Fleet::claimants).unwrap_or_default();
        let heirs = Heirs { tables, adopt: &|head| self.retired.adopt(head), leases: &leases };
        match read(&path, &heirs, moment, Instant::now() + PATIENCE) {
            Ok(None) => {}
            Ok(Some((Found { tables, retired, buckets, early, began: before }, unusable))) => {
                let after =
                    SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(before.saturating_add(1)));
                began = began.max(after.unwrap_or(began));
                if buckets > 0 {
                    log::info!("limits: {buckets} buckets of {tables} limits are taken over from `{named}`");
                }
                if retired > 0 {
                    log::info!(
                        "limits: {retired} of them are not in force, and kept while keys owe them something"
                    );
                }
                if early {
                    log::warn!("limits: `{named}` is of a time to come: what keys owe in it has not aged");
                }
                if let Some(unusable) = unusable {
                    log::warn!("limits: the rest of `{named}` is not used: {unusable}; its keys owe nothing");
                }
            }
            Err(error) => log::warn!("limits: `{named}` is not used: {error}; no key owes anything"),
        }
        let _ = self.began.set(began);
        self.retired.look_after();
    }

    /// Another configuration is in force: these tables were, and those are. What keys owe in the others is kept while it matters.
    pub fn change(&self, before: Vec<Kept>, after: &[Kept]) {
        self.retired.change(before, after);
        self.retired.look_after();
    }

    /// Writes what these tables owe, and those of limits that are not in force any more, and what is known of the fleet's buckets. Does
    /// nothing in a process that has read nothing. Takes fifteen seconds at the most: what has not been written by then is told, and the
    /// file stays as it was. Since `draining` the process has taken no new connections, if it did drain.
    pub fn write(&self, tables: Vec<Kept>, claims: Vec<Claims>, draining: Option<SystemTime>) {
        let Some(began) = self.began.get().copied() else { return };
        let path = self.directory.join(FILE);
        if is_successors(&path, began, draining.unwrap_or_else(SystemTime::now)) {
            log::info!("limits: `{}` is of this one's successor, and stays as it is", path.display());
            return;
        }
        let retired = self.retired.owing();
        if tables.is_empty() && retired.is_empty() && claims.iter().all(|claims| claims.saved.is_empty()) {
            let _ = fs::remove_file(path);
            return;
        }
        let named = path.display().to_string();
        let (done, written) = mpsc::channel();
        let write = move || {
            // What ends it is short.
            let writing = Writing { tables: &tables, retired: &retired, claims: &claims };
            let bounds = Bounds { began, bytes: FILE_BYTES_MAX - 1024, until: Instant::now() + PATIENCE };
            let _ = done.send(write(&path, writing, SystemTime::now(), bounds));
        };
        // A disk that does not answer keeps a thread, and not the process.
        let thread = std::thread::Builder::new().name("limits".to_owned()).spawn(write);
        let late = |_| Err(io::Error::from(ErrorKind::TimedOut));
        match thread.and_then(|_| written.recv_timeout(PATIENCE + SYNC).unwrap_or_else(late)) {
            Ok(Given { buckets, all: true }) => log::info!("limits: {buckets} buckets are kept in `{named}`"),
            Ok(Given { buckets, all: false }) => log::warn!(
                "limits: {buckets} buckets are kept in `{named}`, which may not be all: no more than 512MiB are \
                 written, for no longer than 10s; a key whose bucket is not there owes nothing after a restart"
            ),
            Err(error) => {
                log::warn!(
                    "limits: `{named}` cannot be written: {error}; after a restart no key owes anything"
                );
            }
        }
    }
}

/// Whether the file is of a process that took this one's place. What cannot be read is nobody's.
fn is_successors(path: &Path, began: SystemTime, draining: SystemTime) -> bool {
    private::open(path, FILE_BYTES_MAX).is_ok_and(|mut file| carry::is_successors(&mut file, began, draining))
}

/// What was found, and why that is not all of it. None where there is no file.
///
/// # Errors
/// It cannot be read, or is not for the gateway's eyes alone.
fn read(
    path: &Path,
    heirs: &Heirs<'_>,
    moment: SystemTime,
    until: Instant,
) -> io::Result<Option<(Found, Option<Unusable>)>> {
    let file = match private::open(path, FILE_BYTES_MAX) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    Ok(Some(carry::take(heirs, &mut file.take(FILE_BYTES_MAX), moment, until)))
}

fn write(path: &Path, writing: Writing<'_>, moment: SystemTime, bounds: Bounds) -> io::Result<Given> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    private::replace(path, &beside, |file| carry::give(writing, file, moment, bounds))
}

/// Removes what processes that were killed while they wrote have left.
fn tidy(directory: &Path) {
    let is_abandoned = |entry: &fs::DirEntry| {
        let is_ours = entry.file_name().to_string_lossy().starts_with("rate-limits.new-");
        let changed = entry.metadata().and_then(|found| found.modified());
        is_ours && changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > ABANDONED))
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten().filter(is_abandoned) {
        let _ = fs::remove_file(entry.path());
    }
}

#[cfg(test)]
mod tests;
