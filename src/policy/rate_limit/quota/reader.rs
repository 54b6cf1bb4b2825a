//! The one thread that says what was used of periods. Its connection is its own: who reads a file with a write-ahead log waits for no
//! writer, neither the [`keeper`](super::keeper) nor another process that holds the lock for long.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::desk::{IDLE, Question, Silent};
use super::keeper::gone;
use super::{Quotas, records};
use crate::state::{Access, Store, Unusable};

/// How long a store that cannot be read is left alone, and how long it is waited for: while it is being restored, say.
const PATIENCE: Duration = Duration::from_secs(1);

/// Starts the thread. It lives as long as the process.
///
/// # Errors
/// There cannot be another thread.
pub(super) fn start(quotas: &Arc<Quotas>) -> Result<(), Unusable> {
    let reader = Reader { quotas: Arc::clone(quotas), store: None, lost: None };
    let named = "quotas read".to_owned();
    std::thread::Builder::new().name(named).spawn(move || reader.keep()).map(drop).map_err(|error| Unusable {
        cause: format!("quotas cannot be read: {error}"),
        cure: "raise the limit of threads",
    })
}

/// The thread's own.
struct Reader {
    quotas: Arc<Quotas>,
    store: Option<Store>,
    /// When the store was last tried in vain.
    lost: Option<Instant>,
}

impl Reader {
    fn keep(mut self) {
        loop {
            let questions = self.quotas.questions.wait(IDLE).asks;
            // Who waits now shall not wait for a store that did not answer a moment ago.
            if self.lost.is_some_and(|tried| tried.elapsed() < PATIENCE) {
                questions.into_iter().for_each(Question::refuse);
                continue;
            }
            let mut left = questions.into_iter();
            match self.open().and_then(|()| self.answer(&mut left)) {
                Ok(()) => self.found(),
                Err(unusable) => {
                    self.lose(&unusable);
                    left.for_each(Question::refuse);
                }
            }
        }
    }

    /// Answers them in order, each as soon as it is known: all from one state of the file.
    fn answer(&mut self, questions: &mut impl Iterator<Item = Question>) -> Result<(), Unusable> {
        let Some(store) = &mut self.store else { return Ok(()) };
        let read = || -> rusqlite::Result<()> {
            let transaction = store.connection().transaction()?;
            let mut counts = records::Counts::prepare(&transaction)?;
            for question in questions {
                // Many may ask about one counter before there is the first answer.
                if question.counter.knows(question.period) {
                    question.answer();
                    continue;
                }
                match counts.read(question.tally.plan(), question.counter.key(), question.period) {
                    Ok(known) => {
                        question.counter.know(question.period, known);
                        question.answer();
                    }
                    Err(error) => {
                        question.refuse();
                        return Err(error);
                    }
                }
            }
            Ok(())
        };
        read().map_err(|error| store.explain(&error))
    }

    /// Opens the file, where it is not open or another has taken its place. It is the keeper that makes it.
    fn open(&mut self) -> Result<(), Unusable> {
        let directory = &self.quotas.directory;
        let path = Store::path_in(directory);
        let in_place: io::Result<bool> = match &self.store {
            Some(store) => store.is_in_place(),
            None => std::fs::symlink_metadata(&path).map(|_| false),
        };
        match in_place {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => return Err(gone(&path.display().to_string(), &error)),
        }
        let mut store = Store::open(directory, Access::Serve)?;
        if let Some(store) = &mut store
            && let Err(error) = store.connection().busy_timeout(PATIENCE)
        {
            return Err(store.explain(&error));
        }
        self.store = store;
        Ok(())
    }

    fn lose(&mut self, unusable: &Unusable) {
        self.store = None;
        self.quotas.unread.store(true, Ordering::Relaxed);
        if self.lost.replace(Instant::now()).is_none() {
            log::error!(
                "quotas: {unusable}; until then what keys have used is not known, but for those seen before"
            );
        }
    }

    fn found(&mut self) {
        if self.lost.take().is_some() {
            self.quotas.unread.store(false, Ordering::Relaxed);
            log::info!("quotas: the store is read again");
        }
    }
}

impl Question {
    fn answer(self) {
        let _ = self.answer.send(Ok(()));
    }

    fn refuse(self) {
        let _ = self.answer.send(Err(Silent));
    }
}
