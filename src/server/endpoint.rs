//! A listener, alive: shared by the workers, changed by reloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::counts::{Counts, ListenerCounts};
use super::tls::Terminator;
use crate::client::Trusted;
use crate::gateway::ListenAddress;
use crate::gateway::document::RedirectToHttps;

/// A listener, alive.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) name: Arc<str>,
    /// Where it is bound.
    pub(super) local: ListenAddress,
    pub(super) counts: Arc<ListenerCounts>,
    plan: ArcSwap<Plan>,
    draining: watch::Sender<bool>,
    /// The same for those who look and do not wait.
    leaving: Arc<AtomicBool>,
}

/// What a reload can change on a listener that stays.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) redirect: RedirectToHttps,
    pub(super) tls: Option<Arc<Terminator>>,
    /// Peers that must send a PROXY header.
    pub(super) proxied: Option<Trusted>,
}

impl Endpoint {
    pub(super) fn new(name: Arc<str>, local: ListenAddress, plan: Plan, counts: &Counts) -> Self {
        let counts = counts.listener(&name);
        let plan = ArcSwap::from_pointee(plan);
        Self { name, local, counts, plan, draining: watch::Sender::new(false), leaving: Arc::default() }
    }

    pub(super) fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    pub(super) fn set_plan(&self, plan: Plan) {
        self.plan.store(Arc::new(plan));
    }

    /// The https port that plain requests are sent to.
    pub(super) fn redirect(&self) -> Option<u16> {
        match self.plan.load().redirect {
            RedirectToHttps::Port(port) => Some(port),
            RedirectToHttps::No => None,
        }
    }

    /// Becomes true when connections shall end after their next answer.
    pub(super) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// As [`Self::draining`], for those who only look.
    pub(super) fn leaving(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.leaving)
    }

    pub(super) fn drain(&self) {
        self.leaving.store(true, Ordering::Release);
        self.draining.send_replace(true);
    }
}
