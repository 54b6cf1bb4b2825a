//! What requests leave for the keeper of quotas: questions that it answers, and word that something is to be written. And for the
//! reader: what was used of a period.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::counters::{Allowance, Counted, Counter, Tally};
use super::period::Period;

/// Questions that wait at the most; who comes then is told at once that there is no answer.
const ASKS_MAX: usize = 65_536;
/// How long who has nothing to do sleeps at the most.
pub(super) const IDLE: Duration = Duration::from_secs(600);

/// The store does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silent;

/// What was used of a period? The counter knows it when there is an answer.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) tally: Arc<Tally>,
    pub(super) counter: Arc<Counter>,
    pub(super) period: Period,
    pub(super) answer: oneshot::Sender<Result<(), Silent>>,
}

/// What is to be written.
#[derive(Debug)]
pub(super) enum Ask {
    /// One request more, counted on the disk before there is an answer.
    Take {
        tally: Arc<Tally>,
        counter: Arc<Counter>,
        period: Period,
        allowance: Allowance,
        answer: oneshot::Sender<Result<Decision, Silent>>,
    },
    /// That all be written now; whether it is. `last`: this process ends, and counts for no other any more.
    Flush { last: bool, answer: mpsc::Sender<bool> },
}

impl Ask {
    /// Told what the store says, once the disk has confirmed it.
    pub(super) fn answer(self, counted: Counted) {
        match self {
            Self::Take { tally, counter, period, answer, .. } => {
                let _ = answer.send(Ok(Decision { counted, of: Some((tally, counter, period)) }));
            }
            Self::Flush { answer, .. } => {
                let _ = answer.send(true);
            }
        }
    }

    /// Told that there is no answer.
    pub(super) fn refuse(self) {
        match self {
            Self::Take { answer, .. } => {
                let _ = answer.send(Err(Silent));
            }
            Self::Flush { answer, .. } => {
                let _ = answer.send(false);
            }
        }
    }
}

/// A decision on its way to the request that waits for it. Where that has gone meanwhile it did not pass: what was granted, and is on the
/// disk already, is given back.
#[derive(Debug)]
pub(super) struct Decision {
    counted: Counted,
    of: Option<(Arc<Tally>, Arc<Counter>, Period)>,
}

impl Decision {
    /// It has arrived.
    pub(super) fn accept(mut self) -> Counted {
        self.of = None;
        self.counted
    }
}

impl Drop for Decision {
    fn drop(&mut self) {
        if let (Some((tally, counter, period)), Counted::Passed(_)) = (self.of.take(), self.counted) {
            counter.charge(period, -1);
            tally.add_unwritten(-1);
        }
    }
}

/// What there is to do.
#[derive(Debug)]
pub(super) struct Work<A> {
    pub(super) asks: Vec<A>,
    /// Whether what is counted is to be written.
    pub(super) flush: bool,
}

/// Where both meet. Its lock is held for as long as it takes to push or to take, never while the disk is waited for.
#[derive(Debug)]
pub(super) struct Desk<A> {
    inbox: Mutex<Inbox<A>>,
    more: Condvar,
}

#[derive(Debug)]
struct Inbox<A> {
    asks: Vec<A>,
    /// When something is to be written; none where nothing is.
    due: Option<Instant>,
}

impl<A> Default for Desk<A> {
    fn default() -> Self {
        Self { inbox: Mutex::new(Inbox { asks: Vec::new(), due: None }), more: Condvar::new() }
    }
}

impl Desk<Ask> {
    /// Leaves a question.
    pub(super) fn ask(&self, ask: Ask) {
        if let Err(ask) = self.leave(ask) {
            ask.refuse();
        }
    }
}

impl<A> Desk<A> {
    /// Leaves a question.
    ///
    /// # Errors
    /// Too many wait: the question back.
    pub(super) fn leave(&self, ask: A) -> Result<(), A> {
        let mut inbox = self.lock();
        if inbox.asks.len() >= ASKS_MAX {
            return Err(ask);
        }
        inbox.asks.push(ask);
        drop(inbox);
        self.more.notify_one();
        Ok(())
    }

    /// Something is to be written within this time.
    pub(super) fn write_within(&self, time: Duration) {
        let due = Instant::now() + time;
        let mut inbox = self.lock();
        if inbox.due.is_none_or(|before| due < before) {
            inbox.due = Some(due);
            drop(inbox);
            self.more.notify_one();
        }
    }

    /// Waits until there is something to do, so long at the most.
    pub(super) fn wait(&self, most: Duration) -> Work<A> {
        let mut inbox = self.lock();
        let until = Instant::now() + most;
        loop {
            let now = Instant::now();
            let flush = inbox.due.is_some_and(|due| due <= now);
            if flush || !inbox.asks.is_empty() || now >= until {
                if flush {
                    inbox.due = None;
                }
                return Work { asks: std::mem::take(&mut inbox.asks), flush };
            }
            let time = inbox.due.map_or(until, |due| due.min(until)).saturating_duration_since(now);
            inbox = self.more.wait_timeout(inbox, time).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox<A>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keeper_wakes_for_questions_at_once_and_for_writing_in_time() {
        let desk = Desk::<Ask>::default();
        desk.write_within(Duration::from_millis(30));
        desk.write_within(Duration::from_secs(9));
        let begun = Instant::now();
        let work = desk.wait(IDLE);
        assert!(work.flush && work.asks.is_empty());
        assert!(begun.elapsed() >= Duration::from_millis(25), "{:?}", begun.elapsed());
        desk.write_within(Duration::from_secs(9));
        let (answer, told) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| desk.ask(Ask::Flush { last: false, answer }));
            let work = desk.wait(IDLE);
            assert!(!work.flush);
            work.asks.into_iter().for_each(Ask::refuse);
        });
        assert_eq!(told.recv(), Ok(false));
    }

    #[test]
    fn who_finds_the_desk_full_is_told_at_once() {
        let desk = Desk::<Ask>::default();
        let (answer, told) = mpsc::channel();
        for _ in 0..=ASKS_MAX {
            desk.ask(Ask::Flush { last: false, answer: answer.clone() });
        }
        assert_eq!(told.try_recv(), Ok(false));
        assert!(told.try_recv().is_err());
    }
}
