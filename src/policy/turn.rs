//! A request that waits for its turn: its client may leave meanwhile, and then it need not wait any more.
//!
//! A policy that waits says so, and how it shall be noted if the client leaves; whoever serves the connection watches it only then, and lets the
//! request go. So policies know nothing of connections. Only waits that nothing depends on are said: what judges a credential, or counts,
//! is not broken off by a client that goes.

use std::sync::{Arc, Mutex, PoisonError};

use crate::record::ErrorFacts;

/// Whether a request waits, seen by whoever waits and by whoever watches its client.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<Mutex<Option<ErrorFacts>>>);

/// Somebody waits, until it is dropped.
#[derive(Debug)]
#[must_use = "the wait is over when it is dropped"]
pub struct Waiting(Turn);

impl Turn {
    /// From now on the request waits; `left` is noted if its client leaves.
    pub fn waits(&self, left: ErrorFacts) -> Waiting {
        self.set(Some(left));
        Waiting(self.clone())
    }

    /// What is noted if the client leaves now; none while nobody waits.
    pub fn left(&self) -> Option<ErrorFacts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, facts: Option<ErrorFacts>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.set(None);
    }
}
