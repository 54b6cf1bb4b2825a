//! The one thread that writes what was used of quotas, and answers those that ask.
//!
//! A turn is one transaction: what is counted and due is added, then each question is answered from what the store says. Counters
//! hear of it only once the disk has confirmed it. It may wait for another process that writes; who only wants to know what was used
//! asks the [`reader`](super::reader), which waits for nobody.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, TransactionBehavior};

use super::counters::{Allowance, Counted, Counter, Known, Tally, Usage};
use super::desk::{Ask, IDLE, Work};
use super::period::{Period, second};
use super::presence::{Arrived, Presence};
use super::{Quotas, records};
use crate::state::{Access, Store, Unusable};

/// How long a store that cannot be used is left alone.
const PATIENCE: Duration = Duration::from_secs(1);
const TOGETHER: &str = "quotas: another process counts on this state directory: until it has gone each request is counted in the store";
/// How often what is long over is forgotten.
const TIDY: Duration = Duration::from_secs(600);

/// Opens the store, waits for a process that counts on it in memory, and starts the thread. It lives as long as the process.
///
/// # Errors
/// The store cannot be made, or be written, or nobody can be kept from it.
pub(super) fn start(quotas: &Arc<Quotas>) -> Result<(), Unusable> {
    let mut keeper =
        Keeper { quotas: Arc::clone(quotas), store: None, lost: None, tidied: None, presence: None };
    keeper.open(true)?;
    keeper.tidy()?;
    keeper.arrive()?;
    std::thread::Builder::new().name("quotas".to_owned()).spawn(move || keeper.keep()).map_err(|error| {
        Unusable { cause: format!("quotas cannot be written: {error}"), cure: "raise the limit of threads" }
    })?;
    Ok(())
}

/// The thread's own.
struct Keeper {
    quotas: Arc<Quotas>,
    store: Option<Store>,
    /// Since when the store cannot be used, or rather was last tried.
    lost: Option<Instant>,
    tidied: Option<Instant>,
    /// None once the process is about to end.
    presence: Option<Presence>,
}

/// One period of one counter, in one turn.
struct Entry {
    counter: Arc<Counter>,
    tally: Arc<Tally>,
    period: Period,
    /// What is counted in memory and written now.
    counted: i64,
    /// What the store says.
    known: Option<Known>,
    /// Requests that wait and are granted in this turn.
    granted: i64,
}

/// Questions, and what became of each.
type Told = Vec<(Ask, Counted)>;

/// Entries by counter and the begin of the period.
type Entries = HashMap<(usize, i64), Entry>;

impl Keeper {
    fn keep(mut self) {
        loop {
            let work = self.quotas.desk.wait(self.presence.as_ref().map_or(IDLE, Presence::due));
            let is_last = work.asks.iter().any(|ask| matches!(ask, Ask::Flush { last: true, .. }));
            if is_last {
                // Whatever comes now is counted in the store, so that there is nothing more to be written.
                self.quotas.alone.store(false, Ordering::SeqCst);
            }
            self.turn(work);
            if is_last {
                self.presence = None;
            }
            self.look_around();
            for tally in self.quotas.tallies() {
                if let Some(time) = tally.write_within() {
                    let least = if self.lost.is_some() { PATIENCE } else { Duration::ZERO };
                    self.quotas.desk.write_within(time.max(least));
                }
            }
            if self.tidied.is_none_or(|at| at.elapsed() >= TIDY) && self.lost.is_none() {
                // What was not forgotten now is forgotten the next time.
                if let Err(unusable) = self.tidy() {
                    log::warn!("quotas: what is over cannot be forgotten: {unusable}");
                    self.tidied = Some(Instant::now());
                }
            }
        }
    }

    /// Comes among those that count here.
    fn arrive(&mut self) -> Result<(), Unusable> {
        let directory = &self.quotas.directory;
        let (presence, arrived) = Presence::arrive(directory).map_err(|error| Unusable {
            cause: format!("`{}/quotas.alone` cannot be locked: {error}", directory.display()),
            cure: "keep `server.state` on a local disk, where the gateway's user can write",
        })?;
        self.quotas.alone.store(arrived == Arrived::Alone, Ordering::SeqCst);
        match arrived {
            Arrived::Alone => {}
            Arrived::Together => log::info!("{TOGETHER}"),
            Arrived::Unheard => log::warn!(
                "quotas: another process counts on this state directory and does not say what; what it has not written is not known here"
            ),
        }
        self.presence = Some(presence);
        Ok(())
    }

    /// Counts in memory where no other process is there, and not where one is.
    fn look_around(&mut self) {
        let Some(presence) = self.presence.as_mut().filter(|presence| presence.due().is_zero()) else {
            return;
        };
        let quotas = &self.quotas;
        // What the store said of a key may be long ago.
        let begin = || {
            quotas.tallies().iter().for_each(|tally| tally.forget());
            quotas.alone.store(true, Ordering::SeqCst);
        };
        if presence.is_alone() {
            if !presence.has_company() {
                // It has gone before all was written.
                if !quotas.alone.load(Ordering::SeqCst) {
                    begin();
                }
                return;
            }
            // First: what has been counted in memory until now is found below, to the last request.
            let was = quotas.alone.swap(false, Ordering::SeqCst);
            self.turn(Work { asks: Vec::new(), flush: true });
            // Where it cannot be written the other one is kept waiting, for as long as it does.
            if self.lost.is_some() {
                return;
            }
            match self.presence.as_mut().map(Presence::join_others) {
                Some(Ok(())) => log::info!("{TOGETHER}"),
                Some(Err(error)) if was => log::warn!("quotas: another process is kept waiting: {error}"),
                Some(Err(_)) | None => {}
            }
            return;
        }
        if self.lost.is_some() {
            return;
        }
        // Where it cannot be said, each request goes on being counted in the store.
        if let Ok(Some(Arrived::Alone)) = presence.try_alone(begin) {
            log::info!("quotas: no other process counts here any more");
        }
    }

    fn turn(&mut self, Work { asks, flush }: Work<Ask>) {
        let is_final = asks.iter().any(|ask| matches!(ask, Ask::Flush { .. }));
        // Who waits now shall not wait for a store that did not answer a moment ago.
        if self.lost.is_some_and(|tried| tried.elapsed() < PATIENCE) && !is_final {
            asks.into_iter().for_each(Ask::refuse);
            return;
        }
        if !flush && asks.is_empty() {
            return;
        }
        let mut entries = self.counted();
        match self.write(&mut entries, asks) {
            Ok(told) => {
                self.found();
                for entry in entries.into_values() {
                    let Entry { counter, tally, period, counted, known, granted: _ } = entry;
                    let Some(known) = known else { continue };
                    counter.wrote(period, counted, known);
                    tally.add_unwritten(-counted);
                }
                told.into_iter().for_each(|(ask, counted)| ask.answer(counted));
            }
            Err((unusable, asks)) => {
                // First: who is refused finds it said why.
                self.lose(&unusable);
                asks.into_iter().for_each(Ask::refuse);
            }
        }
    }

    /// What is to be written.
    fn counted(&self) -> Entries {
        let mut entries = Entries::new();
        for tally in self.quotas.tallies() {
            for (counter, period, counted) in tally.to_write() {
                let key = (Arc::as_ptr(&counter).addr(), period.begins);
                let entry =
                    Entry { counter, tally: Arc::clone(&tally), period, counted, known: None, granted: 0 };
                entries.insert(key, entry);
            }
        }
        entries
    }

    /// One transaction. Gives the questions back where it fails: then nothing is written.
    fn write(&mut self, entries: &mut Entries, asks: Vec<Ask>) -> Result<Told, (Unusable, Vec<Ask>)> {
        if let Err(unusable) = self.open(false) {
            return Err((unusable, asks));
        }
        let Some(store) = &mut self.store else { return Ok(Told::new()) };
        let done = transact(store.connection(), entries, &asks);
        match done {
            Ok(decided) => Ok(asks.into_iter().zip(decided).collect()),
            Err(error) => Err((store.explain(&error), asks)),
        }
    }

    /// Opens the file, where it is not open or another has taken its place. One that was there and is gone is not made anew: somebody
    /// has to put it back.
    fn open(&mut self, make: bool) -> Result<(), Unusable> {
        let directory = &self.quotas.directory;
        let path = Store::path_in(directory);
        let in_place = match &self.store {
            Some(store) => store.is_in_place(),
            None if make => Ok(false),
            None => std::fs::symlink_metadata(&path).map(|_| false),
        };
        match in_place {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => return Err(gone(&path.display().to_string(), &error)),
        }
        let store = Store::open(directory, Access::Change)?;
        self.store = store;
        Ok(())
    }

    /// Forgets counters and rows of what is long over.
    fn tidy(&mut self) -> Result<(), Unusable> {
        let now = second(SystemTime::now());
        self.quotas.tallies().iter().for_each(|tally| tally.sweep(now));
        if let Some(store) = &mut self.store
            && let Err(error) = records::forget(store.connection(), now)
        {
            return Err(store.explain(&error));
        }
        self.tidied = Some(Instant::now());
        Ok(())
    }

    fn lose(&mut self, unusable: &Unusable) {
        self.store = None;
        self.quotas.lost.store(true, Ordering::Relaxed);
        if self.lost.replace(Instant::now()).is_none() {
            log::error!(
                "quotas: {unusable}; until then plans that are `batched` are counted in memory alone, and `strict` ones refuse"
            );
        }
    }

    fn found(&mut self) {
        if self.lost.take().is_some() {
            self.quotas.lost.store(false, Ordering::Relaxed);
            log::info!("quotas: the store is written again");
        }
    }
}

/// Adds what is counted, then decides in order for those that wait. Gives what became of each, and leaves in `entries` what the store
/// says now.
fn transact(
    connection: &mut Connection,
    entries: &mut Entries,
    asks: &[Ask],
) -> rusqlite::Result<Vec<Counted>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut counts = records::Counts::prepare(&transaction)?;
    for entry in entries.values_mut() {
        let Entry { counter, tally, period, counted, .. } = &*entry;
        entry.known = Some(counts.add(tally.plan(), counter.key(), *period, *counted)?);
    }
    let mut decided = Vec::with_capacity(asks.len());
    for ask in asks {
        let (tally, counter, period, allowance) = match ask {
            // Who has gone meanwhile takes nothing.
            Ask::Take { answer, .. } if answer.is_closed() => {
                decided.push(Counted::Unknown);
                continue;
            }
            Ask::Take { tally, counter, period, allowance, .. } => (tally, counter, period, *allowance),
            Ask::Flush { .. } => {
                decided.push(Counted::Unknown);
                continue;
            }
        };
        let entry = entries.entry((Arc::as_ptr(counter).addr(), period.begins)).or_insert_with(|| Entry {
            counter: Arc::clone(counter),
            tally: Arc::clone(tally),
            period: *period,
            counted: 0,
            known: None,
            granted: 0,
        });
        let known = match entry.known {
            Some(known) => known,
            None => counts.read(tally.plan(), counter.key(), *period)?,
        };
        entry.known = Some(known);
        decided.push(grant(entry, known, allowance));
    }
    for entry in entries.values_mut().filter(|entry| entry.granted > 0) {
        let Entry { counter, tally, period, granted, .. } = &*entry;
        entry.known = Some(counts.add(tally.plan(), counter.key(), *period, *granted)?);
    }
    drop(counts);
    transaction.commit()?;
    Ok(decided)
}

/// One of those that are left, if one is.
fn grant(entry: &mut Entry, known: Known, allowance: Allowance) -> Counted {
    let used = known.used.saturating_add_signed(entry.granted);
    let usage = Usage { used, allowed: allowance.of(known.first) };
    if usage.left() == 0 {
        return Counted::Spent(usage);
    }
    entry.granted += 1;
    Counted::Passed(Usage { used: used + 1, ..usage })
}

pub(super) fn gone(named: &str, error: &io::Error) -> Unusable {
    let cause = match error.kind() {
        io::ErrorKind::NotFound => format!("`{named}` is gone"),
        _ => format!("`{named}` cannot be looked at: {error}"),
    };
    Unusable { cause, cure: "put it back, or restore it from a backup" }
}
