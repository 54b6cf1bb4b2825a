//! What a fleet shares: a Redis or Valkey, asked by scripts, in batches, over one connection.
//!
//! Nobody waits for the store here. A question is left with a function that is called with the answer; one task in the back office
//! sends all that have come since it last did, reads the answers, and connects anew when it has to. While the store does not answer,
//! questions are answered at once with [`Lost`]: what that costs a request is one look at a flag.
//!
//! Speaking is the crate `redis`'s: protocol, TLS, logins, a cluster's ways. Ours is when: a script's answer is worth a few milliseconds,
//! and nobody is charged twice. A script has one key, so a cluster's node that has it can run it.

mod broken;
mod config;
mod keeper;
mod link;
mod node;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

pub use config::{ClusterConfig, Config, Endpoint, SentinelConfig};

use crate::state::Live;

/// The most questions that wait to be sent. Who comes then is told at once that there is no answer.
const QUESTIONS_MAX: usize = 16_384;

/// The store of a fleet.
pub struct Redis {
    shared: Arc<Shared>,
    keeper: Option<AbortHandle>,
}

/// What the store's task and those who ask have in common.
#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    questions: Mutex<Vec<Question>>,
    more: Notify,
    status: AtomicU8,
    counters: Counters,
    /// When it was last said that single questions are refused.
    said: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Counters {
    answered: AtomicU64,
    unanswered: AtomicU64,
    losses: AtomicU64,
    /// How often it was found without memory.
    forgotten: AtomicU64,
    /// How long the last round took, in microseconds.
    round: AtomicU64,
}

/// How it stands with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// There is no connection.
    Lost = 0,
    /// It has not answered for some milliseconds, or did so slowly: who cannot wait long should not ask.
    Late = 1,
    /// It answers.
    Ready = 2,
}

/// A script in Lua, which the store runs as one step. It has one key.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    /// By which the store knows it once it has seen it: SHA-1, in hex.
    hash: [u8; 40],
}

/// A question.
pub struct Question {
    /// What to run.
    pub script: &'static Script,
    /// On which key, behind the prefix: `PREFIX:key`.
    pub key: String,
    /// With which arguments.
    pub arguments: Vec<String>,
    /// Called with the answer, in the store's task or, where there is none, at once by who asks.
    pub answer: Answer,
}

/// Takes an answer: the numbers that a script gives.
pub type Answer = Box<dyn FnOnce(Result<Vec<i64>, Lost>) + Send>;

/// There is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Whether the store may have run the script all the same.
    pub sent: bool,
}

/// What there is to tell of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// How it stands.
    pub status: Status,
    /// Questions that were answered.
    pub answered: u64,
    /// Questions that were not.
    pub unanswered: u64,
    /// How often it was lost.
    pub losses: u64,
    /// How long the last batch took.
    pub round: Duration,
}

impl Redis {
    /// That of this endpoint, and its task if there is a runtime; found again after a reload. Connecting goes on in the background.
    pub fn of(endpoint: Endpoint, live: &Live) -> Arc<Self> {
        let definition = endpoint.definition().to_owned();
        let runtime = live.runtime();
        live.find_or("redis", &definition, || {
            let shared = Arc::new(Shared {
                endpoint,
                questions: Mutex::default(),
                more: Notify::new(),
                status: AtomicU8::new(Status::Lost as u8),
                counters: Counters::default(),
                said: Mutex::default(),
            });
            let keeper =
                runtime.map(|runtime| runtime.spawn(keeper::keep(Arc::clone(&shared))).abort_handle());
            Self { shared, keeper }
        })
    }

    /// How it stands. One load.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Whether nobody will ever answer: in `check` and `explain`.
    pub fn is_asleep(&self) -> bool {
        self.keeper.is_none()
    }

    /// Leaves a question.
    pub fn ask(&self, question: Question) {
        if self.status() != Status::Lost {
            let mut questions = self.shared.questions();
            if questions.len() < QUESTIONS_MAX {
                questions.push(question);
                drop(questions);
                self.shared.more.notify_one();
                return;
            }
        }
        self.shared.counters.unanswered.fetch_add(1, Ordering::Relaxed);
        (question.answer)(Err(Lost { sent: false }));
    }

    /// Asks over a connection of its own, before the process ends: the task has gone by then. Gives up after this time.
    pub async fn ask_at_last(&self, questions: Vec<Question>, patience: Duration) {
        let asking = keeper::ask_once(&self.shared, questions);
        if tokio::time::timeout(patience, asking).await.is_err() {
            log::warn!(
                "fleet: the store did not answer in time; what is left of leases comes back with time"
            );
        }
    }

    /// How often it may have lost its memory, with the connection or without.
    pub fn lapses(&self) -> u64 {
        let Counters { losses, forgotten, .. } = &self.shared.counters;
        losses.load(Ordering::Relaxed) + forgotten.load(Ordering::Relaxed)
    }

    /// It has lost its memory, though the connection lives.
    pub fn has_forgotten(&self) {
        self.shared.counters.forgotten.fetch_add(1, Ordering::Relaxed);
        log::warn!("fleet: the store has lost what it knew, and is told it again");
    }

    /// What keys begin with.
    pub fn prefix(&self) -> &str {
        self.shared.endpoint.prefix()
    }

    /// What there is to tell.
    pub fn figures(&self) -> Figures {
        let Counters { answered, unanswered, losses, round, .. } = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            status: self.status(),
            answered: read(answered),
            unanswered: read(unanswered),
            losses: read(losses),
            round: Duration::from_micros(read(round)),
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

impl Shared {
    fn status(&self) -> Status {
        match self.status.load(Ordering::Acquire) {
            0 => Status::Lost,
            1 => Status::Late,
            _ => Status::Ready,
        }
    }

    fn set_status(&self, status: Status) {
        self.status.store(status as u8, Ordering::Release);
    }

    /// Whether it may be said again that a single question is refused.
    fn may_say(&self) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let may = said.is_none_or(|at| at.elapsed() >= keeper::SAID_AGAIN);
        if may {
            *said = Some(Instant::now());
        }
        may
    }

    fn questions(&self) -> MutexGuard<'_, Vec<Question>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Script {
    /// Of this text.
    pub fn new(text: &'static str) -> Self {
        let mut hash = [0; 40];
        let digits = b"0123456789abcdef";
        for (pair, byte) in hash.chunks_exact_mut(2).zip(openssl::sha::sha1(text.as_bytes())) {
            for (place, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
                *place = digits.get(usize::from(nibble)).copied().unwrap_or(b'0');
            }
        }
        Self { text, hash }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("endpoint", &self.shared.endpoint)
            .field("status", &self.status())
            .finish()
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("key", &self.key).finish_non_exhaustive()
    }
}
