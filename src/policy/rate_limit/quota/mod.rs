//! How many requests a key has a day, a week or a month, in a usage plan.
//!
//! # Where counts live
//! The store (`portcullis.db`) has what was used; a counter in memory has what it said last and what this process has counted since.
//! One thread, the keeper, writes, and another reads, each by a connection of its own: a lock that another process holds keeps nobody
//! from being told what was used. Requests never touch the disk.
//!
//! `durable: batched`: a request is counted in memory and passes while what is known and what is not written yet are below the
//! limit. What is counted is written within `flush`, or as soon as `flush_requests` are, in one transaction that the disk has
//! confirmed (`synchronous = FULL`). So a power cut costs no more than that, and what came while it was being written.
//!
//! That is so while one process counts on the state directory. While there are several, at an upgrade, `batched` counts as `strict` does,
//! but for going on without a store: so not one request more passes than the limit has. Who arrives waits until the one
//! before it has written what it had in memory: `presence.rs`.
//!
//! `durable: strict`: a request waits until its count is on the disk. The keeper decides for all that wait in one transaction, which
//! excludes other processes, so not one request more passes than the limit has, whatever happens.
//!
//! # What is asked first
//! Before a period is counted in memory the store is asked once what was used of it, by a request that waits for the answer.
//!
//! # Without a store
//! When the store cannot be used, or does not answer within `wait`: `batched` goes on in memory, from what it knows or from nought
//! (then with the `offset` of a first period), and writes it all when it can; `strict` refuses (503).

mod counters;
mod desk;
mod keeper;
mod passed;
mod period;
mod presence;
mod reader;
mod records;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;

pub use counters::{Allowance, Counted, Counter, Known, Tally, Usage};
pub use period::{Calendar, Per, Period, second};
pub use records::{Used, Uses};

use crate::state::{Access, Live, Store, Unusable};
use desk::{Ask, Desk, Question, Silent};

/// The quotas of this process.
#[derive(Debug)]
pub struct Quotas {
    directory: PathBuf,
    tallies: Mutex<BTreeMap<Box<str>, Arc<Tally>>>,
    /// For the keeper.
    desk: Desk<Ask>,
    /// For the reader.
    questions: Desk<Question>,
    opened: AtomicBool,
    /// No other process counts here, as far as this one knows.
    alone: AtomicBool,
    opening: Mutex<()>,
    /// The store cannot be written.
    lost: AtomicBool,
    /// The store cannot be read.
    unread: AtomicBool,
}

/// By which terms a request is counted.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How many.
    pub allowance: Allowance,
    /// How long a request waits for the store.
    pub wait: Duration,
}

/// The store has not confirmed a request's count in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotWritten;

/// What there is to tell of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Requests that are counted and not written.
    pub unwritten: u64,
    /// Keys that are counted in memory.
    pub keys: usize,
    /// Whether the store cannot be used at the moment.
    pub lost: bool,
}

impl Quotas {
    /// Those of the process.
    pub fn of(live: &Live) -> Arc<Self> {
        live.find_or("quotas", "", || Self::new(live.directory()))
    }

    fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
            tallies: Mutex::default(),
            desk: Desk::default(),
            questions: Desk::default(),
            opened: AtomicBool::new(false),
            alone: AtomicBool::new(true),
            opening: Mutex::default(),
            lost: AtomicBool::new(false),
            unread: AtomicBool::new(false),
        }
    }

    /// The counters of a plan, whatever its quota is now and has been.
    pub fn tally(&self, plan: &str) -> Arc<Tally> {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tallies.entry(plan.into()).or_insert_with(|| Arc::new(Tally::new(plan))))
    }

    /// Opens the store and starts the keeper and the reader; until then, and in `check` and `explain`, all is counted in memory alone. Later calls do
    /// nothing.
    ///
    /// # Errors
    /// The store cannot be made or written.
    pub fn open(self: &Arc<Self>) -> Result<(), Unusable> {
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.opened.load(Ordering::Acquire) {
            keeper::start(self)?;
            reader::start(self)?;
            self.opened.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// What there is to tell; none where no plan has a quota.
    pub fn figures(live: &Live) -> Option<Figures> {
        let own = live.find::<Self>("quotas", "")?;
        let tallies = own.tallies();
        Some(Figures {
            unwritten: unwritten(&tallies),
            keys: tallies.iter().map(|tally| tally.keys()).sum(),
            lost: own.lost.load(Ordering::Relaxed) || own.unread.load(Ordering::Relaxed),
        })
    }

    /// Has all that is counted written, before the process ends; waits no longer than this. Whether it is. Other processes need not
    /// mind this one from then on.
    pub fn flush(live: &Live, patience: Duration) -> bool {
        let Some(own) = live.find::<Self>("quotas", "") else { return true };
        if !own.opened.load(Ordering::Acquire) {
            return true;
        }
        let (answer, told) = mpsc::channel();
        own.desk.ask(Ask::Flush { last: true, answer });
        let written = told.recv_timeout(patience).unwrap_or(false);
        if !written {
            let unwritten = unwritten(&own.tallies());
            log::error!("quotas: {unwritten} requests were counted and could not be written; they are lost");
        }
        written
    }

    /// Counts a request: in memory, where it waits only if the store has not been asked about the period yet; in the store while another
    /// process counts there too.
    pub async fn count(&self, tally: &Arc<Tally>, key: &str, period: Period, terms: &Terms) -> Counted {
        let counter = tally.counter(key);
        let mut counted = counter.count_alone(period, terms.allowance, &self.alone);
        if counted == Some(Counted::Unknown) {
            let known = self.read(tally, &counter, period, terms.wait).await;
            if known.is_err() {
                counter.go_on_blindly(period);
            }
            counted = counter.count_alone(period, terms.allowance, &self.alone);
        }
        if counted.is_none()
            && let Ok(counted) = self.take(tally, &counter, period, terms).await
        {
            return counted;
        }
        let counted = match counted {
            Some(counted) if counted != Counted::Unknown => counted,
            // Without a store; or the clock has gone to another period and back meanwhile.
            Some(_) | None => {
                counter.go_on_blindly(period);
                counter.count(period, terms.allowance)
            }
        };
        if let Counted::Passed(_) = counted {
            self.is_counted(tally);
        }
        counted
    }

    /// Counts a request and waits until its count is on the disk. One that finds nothing left does not wait.
    ///
    /// # Errors
    /// It is not there in time: then it is not counted.
    pub async fn count_strictly(
        &self,
        tally: &Arc<Tally>,
        key: &str,
        period: Period,
        terms: &Terms,
    ) -> Result<Counted, NotWritten> {
        self.take(tally, &tally.counter(key), period, terms).await
    }

    /// Has the keeper count a request in the store.
    async fn take(
        &self,
        tally: &Arc<Tally>,
        counter: &Arc<Counter>,
        period: Period,
        terms: &Terms,
    ) -> Result<Counted, NotWritten> {
        if let Some(usage) = counter.look(period, terms.allowance).filter(|usage| usage.left() == 0) {
            return Ok(Counted::Spent(usage));
        }
        if !self.opened.load(Ordering::Acquire) {
            counter.go_on_blindly(period);
            return Ok(counter.count(period, terms.allowance));
        }
        let (answer, told) = oneshot::channel();
        let (tally, counter) = (Arc::clone(tally), Arc::clone(counter));
        self.desk.ask(Ask::Take { tally, counter, period, allowance: terms.allowance, answer });
        match tokio::time::timeout(terms.wait, told).await {
            Ok(Ok(Ok(decision))) => Ok(decision.accept()),
            Ok(Ok(Err(Silent)) | Err(_)) | Err(_) => Err(NotWritten),
        }
    }

    /// Counts a request, whether any is left or not, and tells how it stands, if that is known. Never waits.
    pub fn count_always(
        &self,
        tally: &Arc<Tally>,
        key: &str,
        period: Period,
        terms: &Terms,
    ) -> Option<Usage> {
        let counter = tally.counter(key);
        let before = counter.look(period, terms.allowance);
        if before.is_none() {
            if self.opened.load(Ordering::Acquire) {
                let (answer, _) = oneshot::channel();
                let (tally, counter) = (Arc::clone(tally), Arc::clone(&counter));
                // Where there is no room it is asked the next time.
                let _ = self.questions.leave(Question { tally, counter, period, answer });
            } else {
                counter.go_on_blindly(period);
            }
        }
        counter.charge(period, 1);
        self.is_counted(tally);
        before.map(|usage| Usage { used: usage.used + 1, ..usage })
    }

    /// How it stands according to the store, for `explain`; nothing is counted.
    ///
    /// # Errors
    /// The store is there and cannot be read.
    pub fn look(
        &self,
        plan: &str,
        key: &str,
        period: Period,
        allowance: Allowance,
    ) -> Result<Usage, Unusable> {
        let mut known = Known { used: 0, first: true, copied: 0 };
        if !self.directory.as_os_str().is_empty()
            && let Some(mut store) = Store::open(&self.directory, Access::Look)?
        {
            let connection = store.connection();
            let read = records::is_known(connection).and_then(|is_known| match is_known {
                true => records::Counts::prepare(connection)?.read(plan, key, period),
                false => Ok(known),
            });
            known = read.map_err(|error| store.explain(&error))?;
        }
        Ok(Usage { used: known.used, allowed: allowance.of(known.first) })
    }

    async fn read(
        &self,
        tally: &Arc<Tally>,
        counter: &Arc<Counter>,
        period: Period,
        wait: Duration,
    ) -> Result<(), Silent> {
        if !self.opened.load(Ordering::Acquire) {
            return Err(Silent);
        }
        let (answer, told) = oneshot::channel();
        let (tally, counter) = (Arc::clone(tally), Arc::clone(counter));
        if self.questions.leave(Question { tally, counter, period, answer }).is_err() {
            return Err(Silent);
        }
        match tokio::time::timeout(wait, told).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) | Err(_) => Err(Silent),
        }
    }

    /// One more is to be written.
    fn is_counted(&self, tally: &Tally) {
        if let Some(time) = tally.note_counted() {
            self.desk.write_within(time);
        }
    }

    fn tallies(&self) -> Vec<Arc<Tally>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

fn unwritten(tallies: &[Arc<Tally>]) -> u64 {
    tallies.iter().map(|tally| u64::try_from(tally.unwritten()).unwrap_or_default()).sum()
}

#[cfg(test)]
mod tests;
