//! The service as it is found: how many wait for it, whether it answers, and what it has said. Outlives a reload.

use std::fmt;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::config::By;
use crate::egress::{self, Egress, Fetched};
use crate::identity::Identity;
use crate::policy::auth::Asked;
use crate::policy::auth::breaker::Breaker;

/// What is remembered of answers, in bytes.
const REMEMBERED: u64 = 4 << 20;
/// What an entry costs beside its key and its fields.
const ENTRY: u64 = 512;
/// A request that differs by more than this is asked about each time.
const KEY_MAX: usize = 16 << 10;
/// How long a service that has failed again and again is left alone; then one request tries.
const PAUSE: Duration = Duration::from_secs(1);

/// What became of a question.
#[derive(Debug)]
pub(super) enum Asking {
    Answered(Fetched),
    /// No answer: why, for the log.
    Failed(String),
    /// Too many wait already.
    Busy,
}

/// The service.
pub(super) struct Service {
    client: Arc<Result<Egress, String>>,
    waiting: Arc<Semaphore>,
    breaker: Arc<Breaker>,
    /// By all that makes requests equal, compared in full; the hash has a secret of the process.
    known: Cache<Box<[u8]>, Known, Weight, RandomState>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Known {
    until: Instant,
    identity: Arc<Identity>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Box<[u8]>, Known> for Weight {
    fn weight(&self, key: &Box<[u8]>, known: &Known) -> u64 {
        let fields =
            known.identity.upstream_headers.iter().map(|(name, value)| name.as_str().len() + value.len());
        // The values stand among the claims too.
        let bytes = key.len() + 2 * fields.sum::<usize>();
        ENTRY + u64::try_from(bytes).unwrap_or(u64::MAX / 2)
    }
}

impl Service {
    pub(super) fn new(policy: Arc<str>, client: Arc<Result<Egress, String>>, in_flight: usize) -> Self {
        let items = usize::try_from(REMEMBERED / (2 * ENTRY)).unwrap_or(1024);
        Self {
            client,
            waiting: Arc::new(Semaphore::new(in_flight)),
            breaker: Breaker::new(policy, PAUSE),
            known: Cache::with(items, REMEMBERED, Weight, RandomState::new(), DefaultLifecycle::default()),
        }
    }

    /// Asks for this client, in its own time: a client that goes away leaves the question to end by itself.
    pub(super) async fn ask(
        self: &Arc<Self>,
        runtime: &Handle,
        client: IpAddr,
        question: egress::Request,
    ) -> Asking {
        let Ok(place) = Arc::clone(&self.waiting).try_acquire_owned() else { return Asking::Busy };
        let Some(mut turn) = self.breaker.turn(client, Instant::now()) else {
            return Asking::Failed(
                "the service has failed several times in a row; it is left alone for a second".to_owned(),
            );
        };
        let own = Arc::clone(self);
        let task = runtime.spawn(async move {
            turn.begin();
            let asking = match &*own.client {
                Ok(client) => match client.send(question).await {
                    Ok(fetched) => Asking::Answered(fetched),
                    Err(failure) => {
                        turn.failed(&failure);
                        Asking::Failed(format!("the service gave no answer: {failure}"))
                    }
                },
                Err(cause) => Asking::Failed(format!("nothing can be asked: {cause}")),
            };
            // A server in distress answers 5xx: that is no answer either.
            if matches!(&asking, Asking::Answered(fetched) if !fetched.status.is_server_error()) {
                turn.answered();
            }
            drop((turn, place));
            asking
        });
        task.await.unwrap_or_else(|_| Asking::Failed("the question was dropped".to_owned()))
    }

    /// Whose an equal request was, while that is remembered.
    pub(super) fn recall(&self, key: &[u8]) -> Option<Arc<Identity>> {
        let known = self.known.get(key)?;
        if Instant::now() < known.until {
            return Some(known.identity);
        }
        self.known.remove(key);
        None
    }

    pub(super) fn remember(&self, key: &[u8], lasts: Duration, identity: &Arc<Identity>) {
        if key.len() <= KEY_MAX {
            let known = Known { until: Instant::now() + lasts, identity: Arc::clone(identity) };
            self.known.insert(key.into(), known);
        }
    }
}

/// All that makes two requests equal; each part after its length, each field after how often it stands there.
pub(super) fn key(by: &[By], asked: &Asked<'_>) -> Vec<u8> {
    let request = asked.request;
    let mut key = Vec::with_capacity(256);
    let mut add = |part: &[u8]| {
        key.extend_from_slice(&(part.len() as u64).to_be_bytes());
        key.extend_from_slice(part);
    };
    // The service sees no routes, yet what one route asks is not what another asks.
    add(asked.route.name.as_bytes());
    for by in by {
        match by {
            By::Header(name) => {
                let values = request.headers.get_all(name);
                add(&(values.iter().count() as u64).to_be_bytes());
                values.iter().for_each(|value| add(value.as_bytes()));
            }
            By::Method => add(request.method.as_str().as_bytes()),
            By::Host => {
                add(if request.client.https { b"https" } else { b"http" });
                add(request.target.authority().as_bytes());
            }
            By::Path => {
                add(request.target.path().as_bytes());
                add(asked.query.unwrap_or_default().as_bytes());
                add(if asked.query.is_some() { b"?" } else { b"" });
            }
            By::Client => add(request.client_ip().to_canonical().to_string().as_bytes()),
        }
    }
    key
}
