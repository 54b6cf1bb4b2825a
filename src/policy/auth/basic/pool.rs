//! Threads of their own for what is slow on purpose: a worker that hashed a password would serve nobody meanwhile.

use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::users::{Users, Whose};

/// Passwords that wait. With a hash of 100 ms and two threads the last waits three seconds.
const WAITING_MAX: usize = 64;
/// Each may take the memory of a hash (128 MiB at the most).
const THREADS_MAX: usize = 4;

/// The threads; started with the first password.
#[derive(Debug, Default)]
pub(super) struct Pool {
    queue: OnceLock<Option<SyncSender<Job>>>,
}

/// A password to be looked at.
struct Job {
    users: Arc<Users>,
    whose: Whose,
    password: Zeroizing<Vec<u8>>,
    told: oneshot::Sender<bool>,
}

/// There are as many as can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

impl Pool {
    /// Whether this is the password. Who stops waiting has it looked at no more, unless that has begun.
    pub(super) async fn verify(
        &self,
        users: &Arc<Users>,
        whose: Whose,
        password: Zeroizing<Vec<u8>>,
    ) -> Result<bool, Busy> {
        let (told, answer) = oneshot::channel();
        let job = Job { users: Arc::clone(users), whose, password, told };
        let queue = self.queue.get_or_init(start).as_ref().ok_or(Busy)?;
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Busy,
        })?;
        answer.await.map_err(|_| Busy)
    }
}

/// Half of the cores: a flood of passwords leaves the other half to the workers.
fn start() -> Option<SyncSender<Job>> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let (queue, jobs) = sync_channel(WAITING_MAX);
    let jobs = Arc::new(Mutex::new(jobs));
    let mut started = 0;
    for _ in 0..(cores / 2).clamp(1, THREADS_MAX) {
        let jobs = Arc::clone(&jobs);
        let thread = std::thread::Builder::new().name("passwords".to_owned());
        match thread.spawn(move || work(&jobs)) {
            Ok(_) => started += 1,
            Err(error) => log::error!("a thread for passwords cannot be had: {error}"),
        }
    }
    (started > 0).then_some(queue)
}

/// Until the pool is gone.
fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        // Whoever has the lock waits for the next job, the others for the lock.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { users, whose, password, told }) = job else { return };
        if !told.is_closed() {
            let _ = told.send(users.verify(whose, &password));
        }
    }
}
