//! Metrics: figures of the process, told in Prometheus's text format. Labels come from the configuration only.

mod exposition;
mod polled;
mod series;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use polled::{Polled, Sample};
pub use series::{Counter, Gauge};
pub(super) use series::{Latency, Presence, RouteSeries};

use crate::record::RouteFacts;
use crate::state::Live;
use series::Family;

/// All figures of the process. One a process: it outlives snapshots.
#[derive(Default)]
pub struct Metrics {
    routes: Family<RouteSeries>,
    /// By the route's name, then its labels' names and values by turns.
    route_labels: Family<Presence>,
    upstreams: Family<Latency>,
    servers: Family<Presence>,
    retries: Family<Counter>,
    refusals: Family<Counter>,
    would_refuse: Family<Counter>,
    connections: Family<Gauge>,
    connections_refused: Family<Counter>,
    in_flight: Gauge,
    log_dropped: Arc<AtomicU64>,
    reloads_accepted: AtomicU64,
    reloads_refused: AtomicU64,
    generation: AtomicU64,
    stale: AtomicBool,
    polls: Mutex<Vec<Box<Poll>>>,
}

/// Asked at every scrape.
type Poll = dyn Fn(&mut Vec<Sample>) + Send + Sync;

impl Metrics {
    /// Those of the process.
    pub fn of(live: &Live) -> Arc<Self> {
        live.find_or("metrics", "", Self::default)
    }

    /// A request begins. Each must [`end`](Self::end), on whatever worker.
    pub fn begin(&self, worker: usize) {
        self.in_flight.add(worker);
    }

    /// A request has ended.
    pub fn end(&self, worker: usize) {
        self.in_flight.subtract(worker);
    }

    /// The open connections of a listener. The series exists as long as somebody holds it.
    pub fn connections(&self, listener: &str) -> Arc<Gauge> {
        self.connections.find_or_make(&[listener])
    }

    /// Connections closed before their first request, for this reason: a word written in the code. The series exists as long as
    /// somebody holds it.
    pub fn connections_refused(&self, reason: &'static str) -> Arc<Counter> {
        self.connections_refused.find_or_make(&[reason])
    }

    /// Attempts made again at an upstream, for this reason. The series exists as long as somebody holds it.
    pub fn retries(&self, upstream: &str, reason: &'static str) -> Arc<Counter> {
        self.retries.find_or_make(&[upstream, reason])
    }

    /// How reloads have gone: those accepted and refused, the generation in force, and whether the last was refused, so that
    /// what runs is not what the file says.
    pub fn set_reloads(&self, accepted: u64, refused: u64, generation: u64, stale: bool) {
        self.reloads_accepted.store(accepted, Ordering::Relaxed);
        self.reloads_refused.store(refused, Ordering::Relaxed);
        self.generation.store(generation, Ordering::Relaxed);
        self.stale.store(stale, Ordering::Relaxed);
    }

    /// Asks `poll` at every scrape: for figures that others keep. A sample takes the place of a series with the same labels.
    pub fn poll(&self, poll: impl Fn(&mut Vec<Sample>) + Send + Sync + 'static) {
        self.polls.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(poll));
    }

    /// Lines of the access log that were lost.
    pub(super) fn log_dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.log_dropped)
    }

    pub(super) fn route(&self, name: &str) -> Arc<RouteSeries> {
        self.routes.find_or_make(&[name])
    }

    /// The labels of a route, as a series to join others with. Names are made fit for Prometheus: `stage` → `label_stage`.
    pub(super) fn route_labels(&self, facts: &RouteFacts) -> Arc<Presence> {
        let fit = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let labels = facts
            .labels
            .iter()
            .map(|(name, value)| (format!("label_{}", name.chars().map(fit).collect::<String>()), value));
        // Two names may become one; the later wins.
        let labels: BTreeMap<_, _> = labels.collect();
        let pairs = labels.iter().flat_map(|(name, value)| [name.as_str(), &***value]);
        let all: Vec<&str> = std::iter::once(&*facts.name).chain(pairs).collect();
        self.route_labels.find_or_make(&all)
    }

    pub(super) fn upstream(&self, name: &str) -> Arc<Latency> {
        self.upstreams.find_or_make(&[name])
    }

    pub(super) fn server(&self, upstream: &str, server: &str) -> Arc<Presence> {
        self.servers.find_or_make(&[upstream, server])
    }

    pub(super) fn refusals(&self, policy: &str, reason: &str) -> Arc<Counter> {
        self.refusals.find_or_make(&[policy, reason])
    }

    pub(super) fn would_refuse(&self, policy: &str, reason: &str) -> Arc<Counter> {
        self.would_refuse.find_or_make(&[policy, reason])
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
