//! The keys of this process: opened when it starts, kept in step with the file by a thread of their own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use serde_json::json;

use super::key::SigningKey;
use super::ring::{self, Held, Rules, Unusable};
use crate::state::Live;

/// How often it is looked whether another process has written, and whether a key's time has come.
const POLL: Duration = Duration::from_secs(1);
/// How often it is looked whether a key has to be made or is to go.
const TURN: Duration = Duration::from_secs(60);

/// Keys by one set of rules.
#[derive(Debug)]
pub(super) struct Keys {
    rules: Rules,
    current: ArcSwapOption<Current>,
    opened: Mutex<bool>,
}

/// What requests need of them.
#[derive(Debug)]
pub(super) struct Current {
    /// Signs.
    pub(super) key: Arc<SigningKey>,
    /// What is published: a set of keys (RFC 7517 §5).
    pub(super) set: Bytes,
    /// How many.
    pub(super) count: usize,
}

impl Keys {
    /// Those of these rules.
    pub(super) fn find(live: &Live, rules: Rules) -> Arc<Self> {
        live.find_or("identity_tokens", &rules.definition(), || Self {
            rules,
            current: ArcSwapOption::empty(),
            opened: Mutex::new(false),
        })
    }

    /// What is in force; none until they were opened. Never blocks.
    pub(super) fn current(&self) -> Option<Arc<Current>> {
        self.current.load_full()
    }

    /// Opens the file, made where it is missing, and stays in step with it from then on. A later call reads it anew.
    ///
    /// # Errors
    /// It cannot be made or used. What was known before is kept.
    pub(super) fn open(self: &Arc<Self>, directory: &Path) -> Result<(), Unusable> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        let (held, stamp) = ring::turn(directory, &self.rules, now, true)?;
        self.publish(&held, now);
        if *opened {
            return Ok(());
        }
        let keeper =
            Keeper { directory: directory.to_path_buf(), held, stamp, turned: Instant::now(), trouble: None };
        let own = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("identity keys".to_owned())
            .spawn(move || keeper.keep(&own))
            .map_err(|error| {
                (
                    format!("the identity tokens' keys cannot be watched: {error}"),
                    "raise the limit of threads",
                )
            })?;
        *opened = true;
        Ok(())
    }

    /// Puts what is due at this time in force.
    fn publish(&self, held: &[Held], now: u64) {
        let Some(key) = self.rules.signer(held, now) else { return };
        let mut keys: Vec<_> = held.iter().map(|held| held.public.jwk()).collect();
        // By its own rules it stands there; never may one sign that does not.
        if !held.iter().any(|held| held.public == *key.public()) {
            keys.push(key.public().jwk());
        }
        let set = format!("{}\n", json!({"keys": keys})).into();
        let current = self.current.load();
        let is_same = current
            .as_ref()
            .is_some_and(|current| current.key.public() == key.public() && current.set == set);
        if is_same {
            return;
        }
        if current.as_ref().is_some_and(|current| current.key.public() != key.public()) {
            log::info!("identity tokens: signed with the key `{}` from now on", key.public().kid);
        }
        self.current.store(Some(Arc::new(Current { key: Arc::clone(key), set, count: keys.len() })));
    }
}

/// The thread's own.
struct Keeper {
    directory: PathBuf,
    held: Vec<Held>,
    /// The file as it was read.
    stamp: ring::Stamp,
    turned: Instant,
    /// What the log was told.
    trouble: Option<String>,
}

impl Keeper {
    /// Until nobody wants the keys any more.
    fn keep(mut self, keys: &Weak<Keys>) {
        loop {
            std::thread::sleep(POLL);
            let Some(keys) = keys.upgrade() else { return };
            let stamp = ring::stamp(&self.directory);
            if stamp != self.stamp || self.turned.elapsed() >= TURN {
                self.turn(&keys, stamp);
            }
            keys.publish(&self.held, now());
        }
    }

    fn turn(&mut self, keys: &Arc<Keys>, stamp: ring::Stamp) {
        self.turned = Instant::now();
        // Where it cannot be used it is looked at again when it changes, and after a while.
        self.stamp = stamp;
        // One is what keeps them for the next reload, one is held here. Where nobody else does, no configuration wants a key made.
        let wanted = Arc::strong_count(keys) > 2;
        match ring::turn(&self.directory, &keys.rules, now(), wanted) {
            Ok((held, stamp)) => {
                (self.held, self.stamp) = (held, stamp);
                if self.trouble.take().is_some() {
                    log::info!("identity tokens: their keys can be read again");
                }
            }
            Err((cause, cure)) => {
                if self.trouble.as_ref() != Some(&cause) {
                    log::error!(
                        "identity tokens: {cause}; {cure}; until then the keys known so far are used"
                    );
                    self.trouble = Some(cause);
                }
            }
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
