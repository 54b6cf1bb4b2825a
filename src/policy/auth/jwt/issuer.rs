//! SKELETON

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};

use super::jwks::KeySet;
use crate::policy::auth::Context;

/// Where an issuer's keys are fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The issuer's document names them (OpenID Connect Discovery 1.0 §4).
    Discovery {
        /// The issuer, a URL.
        issuer: String,
    },
    /// A JWKS.
    Url(String),
}

/// When they are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// At the latest after this time.
    pub(super) refresh: Duration,
    /// For this time after a fetch that an unknown key caused, another causes none.
    pub(super) cooldown: Duration,
    /// Keys older than this are not used.
    pub(super) stale_keys_max: Duration,
}

/// The keys of an issuer, as they are now; outlives snapshots.
#[derive(Debug, Default)]
pub(super) struct Issuer {
    current: ArcSwapOption<KeySet>,
}

impl Issuer {
    /// Finds the issuer of this source and schedule, or begins to fetch.
    pub(super) fn find(_source: &Source, _schedule: Schedule, context: &Context<'_>) -> Arc<Self> {
        context.live.find_or("auth.issuer", "", Self::default)
    }

    /// The keys, if there are any that may be used. Costs no allocation and no shared count.
    pub(super) fn current(&self) -> Guard<Option<Arc<KeySet>>> {
        self.current.load()
    }

    /// The first keys, where there are none yet and a fetch is under way: waits for it, for a bounded time.
    pub(super) async fn first(&self) -> Option<Arc<KeySet>> {
        self.current.load_full()
    }

    /// A token names a key that is not in the set of generation `seen`. Causes at most one fetch a cool-down, whoever asks; waits for
    /// it, for a bounded time, and gives another set if one has come. None at once within the cool-down.
    pub(super) async fn after_unknown(&self, _seen: u64) -> Option<Arc<KeySet>> {
        None
    }
}
