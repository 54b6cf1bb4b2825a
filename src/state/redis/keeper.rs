//! The one task that speaks with the store.
//!
//! One batch is under way at a time; what comes meanwhile is the next one. A batch that is not answered within [`LATE`] is waited
//! for, but nobody is kept waiting for the store from then on ([`Status::Late`]) until one is answered within [`SLOW`]; so it is
//! after some slow ones in a row. After [`PATIENCE`] a batch is given up, and the connection with it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::redis::{Cmd, Value, cmd};

use super::broken::Broken;
use super::link::{Link, Reply};
use super::{Lost, Question, Shared, Status};

/// The most questions of a batch: 100 KiB, and a millisecond of the store's time.
const BATCH_MAX: usize = 256;
/// A round that takes longer makes the store late at once; so do so many in a row that are slow.
const LATE: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_millis(3);
const SLOW_MAX: u32 = 16;
/// How long a round may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a connection that has nothing to say is left alone; one that is late is asked more often.
const IDLE: Duration = Duration::from_millis(500);
const PROBE: Duration = Duration::from_millis(50);
/// Until the next attempt to connect: the first, and the most.
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// The most numbers of an answer.
const NUMBERS_MAX: usize = 16;
/// A connection that has lasted for so long was a good one.
const LASTING: Duration = Duration::from_secs(10);
/// What is wrong is said again after this time, if it still is.
pub(super) const SAID_AGAIN: Duration = Duration::from_secs(60);

/// Serves for as long as anybody is there.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut said = Said::default();
    let mut wait = WAITS.0;
    loop {
        let broken = match Link::open(&shared.endpoint).await {
            Ok(link) => {
                shared.set_status(Status::Ready);
                let begun = Instant::now();
                let broken = serve(&shared, link, &mut said).await;
                // First: an outage is known by its number from its beginning on.
                shared.counters.losses.fetch_add(1, Ordering::Relaxed);
                shared.set_status(Status::Lost);
                if begun.elapsed() >= LASTING {
                    wait = WAITS.0;
                }
                broken
            }
            Err(broken) => broken,
        };
        said.lost(&broken);
        let left = std::mem::take(&mut *shared.questions());
        refuse(&shared, left);
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAITS.1);
    }
}

/// Asks all of it, and answers.
pub(super) async fn ask_once(shared: &Shared, questions: Vec<Question>) {
    match Link::open(&shared.endpoint).await {
        Ok(mut link) => {
            if let Err(broken) = ask(shared, &mut link, questions).await {
                log::warn!("fleet: {broken}; what is left of leases comes back with time");
            }
        }
        Err(_) => refuse(shared, questions),
    }
}

/// Until the connection is broken.
async fn serve(shared: &Shared, mut link: Link, said: &mut Said) -> Broken {
    let mut slow = 0;
    loop {
        let idle = if shared.status() == Status::Ready { IDLE } else { PROBE };
        // Whatever has been left before this is seen below, and what comes later wakes it.
        let _ = tokio::time::timeout(idle, shared.more.notified()).await;
        loop {
            let batch: Vec<_> = {
                let mut questions = shared.questions();
                let number = questions.len().min(BATCH_MAX);
                questions.drain(..number).collect()
            };
            let is_last = batch.len() < BATCH_MAX;
            let is_asked = !batch.is_empty();
            let asked = Instant::now();
            let mut round = pin!(ask(shared, &mut link, batch));
            let answered = match tokio::time::timeout(LATE, &mut round).await {
                Ok(answered) => answered,
                Err(_) => {
                    shared.set_status(Status::Late);
                    match tokio::time::timeout(PATIENCE, round).await {
                        Ok(answered) => answered,
                        Err(_) => Err(Broken("it does not answer".to_owned())),
                    }
                }
            };
            if let Err(broken) = answered {
                return broken;
            }
            // A server may take connections and refuse every script.
            if is_asked {
                said.found();
            }
            let took = asked.elapsed();
            shared
                .counters
                .round
                .store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            slow = if took <= SLOW { 0 } else { slow + 1 };
            match slow {
                0 => shared.set_status(Status::Ready),
                SLOW_MAX.. => shared.set_status(Status::Late),
                _ => {}
            }
            if is_last {
                break;
            }
        }
    }
}

/// One round, and another for scripts that the store does not know yet. A question that is dropped on the way is unanswered.
async fn ask(shared: &Shared, link: &mut Link, batch: Vec<Question>) -> Result<(), Broken> {
    if batch.is_empty() {
        return link.ping().await;
    }
    let unknown = round(shared, link, Unanswered::of(shared, batch), false).await?;
    if !unknown.questions.is_empty() {
        round(shared, link, unknown, true).await?;
    }
    Ok(())
}

/// Questions on their way. Those that are never answered are told so.
struct Unanswered<'a> {
    shared: &'a Shared,
    questions: Vec<Question>,
}

impl<'a> Unanswered<'a> {
    fn of(shared: &'a Shared, questions: Vec<Question>) -> Self {
        Self { shared, questions }
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        for question in self.questions.drain(..) {
            self.shared.counters.unanswered.fetch_add(1, Ordering::Relaxed);
            (question.answer)(Err(Lost { sent: true }));
        }
    }
}

/// Asks by the scripts' hashes, or by their texts. Gives back what the store does not know the script of.
async fn round<'a>(
    shared: &'a Shared,
    link: &mut Link,
    mut asked: Unanswered<'a>,
    in_full: bool,
) -> Result<Unanswered<'a>, Broken> {
    let commands: Vec<_> =
        asked.questions.iter().map(|question| command(shared, question, in_full)).collect();
    let said = link.round(&commands).await?;
    let none = || Unanswered::of(shared, Vec::new());
    let (mut unknown, mut odd) = (none(), none());
    let mut refused_ones = Vec::new();
    let mut broken = None;
    for (question, said) in asked.questions.drain(..).zip(said) {
        match said {
            Reply::Refused(word) if &*word == "NOSCRIPT" && !in_full => unknown.questions.push(question),
            Reply::Refused(word) => {
                // A key that something else has written, or that is moving, bears on nobody but those who count by it.
                let is_of_key = match &*word {
                    "ERR" | "WRONGTYPE" | "ASK" | "TRYAGAIN" => true,
                    // Masters that do not agree about a slot have others.
                    "MOVED" => link.is_cluster(),
                    _ => false,
                };
                if !is_of_key {
                    broken = Some(link.refused(&word));
                } else if shared.may_say() {
                    let refused = link.refused(&word);
                    log::warn!("fleet: {refused}; who is counted by that key is counted by each node");
                }
                refused_ones.push(question);
            }
            Reply::Lost(lost) => {
                broken = Some(lost);
                odd.questions.push(question);
            }
            Reply::Answer(answer) => match numbers(answer) {
                Some(numbers) => {
                    shared.counters.answered.fetch_add(1, Ordering::Relaxed);
                    (question.answer)(Ok(numbers));
                }
                None => odd.questions.push(question),
            },
        }
    }
    // A script that ends in an error has changed nothing: its one change of a count is what it ends with.
    refuse(shared, refused_ones);
    match broken {
        Some(broken) => Err(broken),
        None => Ok(unknown),
    }
}

fn command(shared: &Shared, question: &Question, in_full: bool) -> Cmd {
    let Question { script, arguments, .. } = question;
    let mut command = match in_full {
        true => cmd("EVAL").arg(script.text).to_owned(),
        false => cmd("EVALSHA").arg(&script.hash[..]).to_owned(),
    };
    command.arg(1).arg(key(shared, question)).arg(arguments);
    command
}

fn key(shared: &Shared, question: &Question) -> String {
    format!("{}:{}", shared.endpoint.prefix(), question.key)
}

/// What a script gives: a list of numbers and nothing else.
fn numbers(answer: Value) -> Option<Vec<i64>> {
    let Value::Array(list) = answer else { return None };
    let number = |value| match value {
        Value::Int(number) => Some(number),
        _ => None,
    };
    (list.len() <= NUMBERS_MAX).then_some(list)?.into_iter().map(number).collect()
}

fn refuse(shared: &Shared, questions: Vec<Question>) {
    for question in questions {
        shared.counters.unanswered.fetch_add(1, Ordering::Relaxed);
        (question.answer)(Err(Lost { sent: false }));
    }
}

/// What the log has been told.
#[derive(Default)]
struct Said {
    /// What is wrong, and when that was said.
    lost: Option<(Broken, Instant)>,
    found: bool,
}

impl Said {
    /// Once for each cause, and again after a while.
    fn lost(&mut self, broken: &Broken) {
        let is_known =
            self.lost.as_ref().is_some_and(|(known, at)| known == broken && at.elapsed() < SAID_AGAIN);
        if !is_known {
            log::error!(
                "fleet: the store is lost: {broken}; until it is back, limits with `scope: fleet` are each node's share"
            );
            self.lost = Some((broken.clone(), Instant::now()));
        }
    }

    fn found(&mut self) {
        if self.lost.take().is_some() {
            log::info!("fleet: the store answers again");
        } else if !self.found {
            log::info!("fleet: the store answers");
        }
        self.found = true;
    }
}
