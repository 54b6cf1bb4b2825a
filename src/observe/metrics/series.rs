//! Figures that workers count without meeting each other, summed when somebody asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::Method;

use crate::observe::shard::Shards;

/// Counts up.
#[derive(Debug, Default)]
pub struct Counter(Shards<AtomicU64>);

impl Counter {
    /// One more.
    pub fn add(&self, worker: usize) {
        self.0.of(worker).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sum(&self) -> u64 {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Counts up and down. A worker may take back what another has added.
#[derive(Debug, Default)]
pub struct Gauge(Shards<AtomicI64>);

impl Gauge {
    /// One more.
    pub fn add(&self, worker: usize) {
        self.0.of(worker).fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn subtract(&self, worker: usize) {
        self.0.of(worker).fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn sum(&self) -> i64 {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Upper bounds of a histogram's buckets, in nanoseconds.
pub(super) type Bounds = [u64; 15];

const fn micros(bounds: [u64; 15]) -> Bounds {
    let mut nanos = [0; 15];
    let mut at = 0;
    while at < 15 {
        #[expect(clippy::indexing_slicing, reason = "both arrays have fifteen entries")]
        {
            nanos[at] = bounds[at] * 1_000;
        }
        at += 1;
    }
    nanos
}

/// From half a millisecond to half a minute: what clients and upstreams feel.
pub(super) const LATENCY: Bounds = micros([
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
]);

/// From ten microseconds on: our own share is some tens of them.
pub(super) const OWN: Bounds =
    micros([10, 25, 50, 75, 100, 150, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000]);

/// One worker's histogram; a bucket holds what is above the one before it.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    counts: [AtomicU64; 16],
    /// 64 bits of nanoseconds are 584 years of latency.
    sum_nanos: AtomicU64,
}

impl Buckets {
    pub(super) fn observe(&self, bounds: &Bounds, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // Most are in the first few buckets: walking beats halving.
        let bucket = bounds.iter().position(|bound| nanos <= *bound).unwrap_or(bounds.len());
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// A histogram as a whole: counts up to each bound, then all; and the sum.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Distribution {
    pub(super) cumulative: [u64; 16],
    pub(super) sum_nanos: u64,
}

impl Distribution {
    pub(super) fn of<'a>(shards: impl Iterator<Item = &'a Buckets>) -> Self {
        let mut own = Self::default();
        for shard in shards {
            for (sum, count) in own.cumulative.iter_mut().zip(&shard.counts) {
                *sum += count.load(Ordering::Relaxed);
            }
            own.sum_nanos = own.sum_nanos.wrapping_add(shard.sum_nanos.load(Ordering::Relaxed));
        }
        let mut below = 0;
        for count in &mut own.cumulative {
            below += *count;
            *count = below;
        }
        own
    }

    pub(super) fn count(&self) -> u64 {
        self.cumulative.last().copied().unwrap_or_default()
    }
}

/// The latencies of an upstream.
#[derive(Debug, Default)]
pub(in crate::observe) struct Latency(Shards<Buckets>);

impl Latency {
    pub(in crate::observe) fn observe(&self, worker: usize, duration: Duration) {
        self.0.of(worker).observe(&LATENCY, duration);
    }

    pub(super) fn distribution(&self) -> Distribution {
        Distribution::of(self.0.iter())
    }
}

/// Methods as a label: nine, and all others.
pub(super) const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER"];

/// Classes of status codes as a label, by their first digit; the first is for requests that got no answer.
pub(super) const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// What one worker counts of a route.
#[derive(Debug, Default)]
pub(super) struct RouteShard {
    requests: [[AtomicU64; 6]; 10],
    total: Buckets,
    own: Buckets,
}

/// The figures of a route.
#[derive(Debug, Default)]
pub(in crate::observe) struct RouteSeries(Shards<RouteShard>);

impl RouteSeries {
    pub(in crate::observe) fn settle(
        &self,
        worker: usize,
        method: Option<&Method>,
        status: u16,
        total: Option<Duration>,
        own: Option<Duration>,
    ) {
        let shard = self.0.of(worker);
        let method = method.map_or("OTHER", Method::as_str);
        let method = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1);
        let class = usize::from(status / 100);
        if let Some(count) = shard.requests.get(method).and_then(|classes| classes.get(class)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(total) = total {
            shard.total.observe(&LATENCY, total);
        }
        if let Some(own) = own {
            shard.own.observe(&OWN, own);
        }
    }

    /// Method, class, count.
    pub(super) fn requests(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        METHODS.iter().enumerate().flat_map(move |(m, method)| {
            CLASSES.iter().enumerate().map(move |(c, class)| {
                let of = |shard: &RouteShard| {
                    let count = shard.requests.get(m).and_then(|classes| classes.get(c));
                    count.map_or(0, |count| count.load(Ordering::Relaxed))
                };
                (*method, *class, self.0.iter().map(of).sum())
            })
        })
    }

    pub(super) fn total(&self) -> Distribution {
        Distribution::of(self.0.iter().map(|shard| &shard.total))
    }

    pub(super) fn own(&self) -> Distribution {
        Distribution::of(self.0.iter().map(|shard| &shard.own))
    }

    /// Whether a request has ever been counted.
    pub(super) fn is_used(&self) -> bool {
        self.0.iter().next().is_some()
    }
}

/// A series that says by its labels that something is there.
#[derive(Debug, Default)]
pub(in crate::observe) struct Presence;

/// Series of one kind by their labels. A series lives as long as a snapshot or a holder names it: it survives reloads that keep it,
/// and one that nobody names any more disappears, so that their number is bounded by the configuration.
#[derive(Debug)]
pub(super) struct Family<T>(Mutex<BTreeMap<Labels, Weak<T>>>);

/// Values of labels, in the family's order.
pub(super) type Labels = Vec<Box<str>>;

impl<T> Default for Family<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Default> Family<T> {
    /// The series with these labels; made if nobody holds it.
    pub(super) fn find_or_make(&self, labels: &[&str]) -> Arc<T> {
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let labels: Labels = labels.iter().map(|label| (*label).into()).collect();
        if let Some(found) = series.get(&labels).and_then(Weak::upgrade) {
            return found;
        }
        let made = Arc::new(T::default());
        series.insert(labels, Arc::downgrade(&made));
        made
    }

    /// Those that somebody holds.
    pub(super) fn living(&self) -> Vec<(Labels, Arc<T>)> {
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        series.retain(|_, series| series.strong_count() > 0);
        series.iter().filter_map(|(labels, series)| Some((labels.clone(), series.upgrade()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_their_bounds_inclusive() {
        let latency = Latency::default();
        for (worker, micros) in [(0, 1), (1, 500), (2, 501), (3, 30_000_000), (4, 31_000_000)] {
            latency.observe(worker, Duration::from_micros(micros));
        }
        let distribution = latency.distribution();
        assert_eq!(distribution.cumulative[..3], [2, 3, 3]);
        assert_eq!(distribution.cumulative[13..], [3, 4, 5]);
        assert_eq!(distribution.sum_nanos, 61_001_002_000);
        assert!(LATENCY.is_sorted() && OWN.is_sorted());
    }

    #[test]
    fn every_request_counts_whatever_its_method_and_status() {
        let series = RouteSeries::default();
        let brew = Method::from_bytes(b"BREW").unwrap();
        for (method, status) in
            [(Some(&Method::GET), 200), (Some(&brew), 418), (None, 0), (Some(&Method::GET), 299)]
        {
            series.settle(7, method, status, None, None);
        }
        let counted: Vec<_> = series.requests().filter(|(_, _, count)| *count > 0).collect();
        assert_eq!(counted, [("GET", "2xx", 2), ("OTHER", "none", 1), ("OTHER", "4xx", 1)]);
    }

    #[test]
    fn a_series_lives_as_long_as_somebody_names_it() {
        let family = Family::<Counter>::default();
        let first = family.find_or_make(&["a"]);
        first.add(0);
        let second = family.find_or_make(&["a"]);
        drop(first);
        assert_eq!(second.sum(), 1);
        drop(second);
        assert!(family.living().is_empty());
        assert_eq!(family.find_or_make(&["a"]).sum(), 0);
    }

    #[test]
    fn workers_share_what_they_count() {
        let (counter, gauge) = (Counter::default(), Gauge::default());
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let (counter, gauge) = (&counter, &gauge);
                scope.spawn(move || {
                    for _ in 0..1_000 {
                        counter.add(worker);
                        gauge.add(worker);
                        gauge.subtract(worker + 1);
                    }
                });
            }
        });
        assert_eq!((counter.sum(), gauge.sum()), (8_000, 0));
    }
}
