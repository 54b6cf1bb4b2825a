//! The figures as Prometheus reads them (text format 0.0.4).

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::Metrics;
use super::polled::{Definition, Polled};
use super::series::{Bounds, Distribution, Family, LATENCY, Labels, OWN};

/// So many routes have all their series from the load on. Of more, a route's series begin with its first request: ten thousand
/// routes without traffic would make every scrape 60 MB long.
const ROUTES_IN_FULL: usize = 500;

impl Metrics {
    /// All figures, in Prometheus's text format.
    pub fn render(&self) -> String {
        let mut families = self.families();
        families.extend(ProcessCollector::for_self().collect());
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            log::error!("metrics cannot be told: {error}");
        }
        String::from_utf8(text).unwrap_or_default()
    }

    fn families(&self) -> Vec<MetricFamily> {
        let mut families = self.of_routes();
        let upstream = Definition {
            name: "portcullis_upstream_duration_seconds",
            help: "Time from the first attempt at an upstream to the head of its response.",
            labels: &["upstream"],
        };
        families.push(upstream.histogram(
            self.upstreams.living().iter().map(|(labels, latency)| (labels.clone(), latency.distribution())),
            &LATENCY,
        ));
        for (name, help, family) in [
            (
                "portcullis_refusals_total",
                "Requests refused or failed, by policy and reason.",
                &self.refusals,
            ),
            (
                "portcullis_would_refuse_total",
                "Requests that policies in shadow mode would have refused.",
                &self.would_refuse,
            ),
        ] {
            families.push(Definition { name, help, labels: &["policy", "reason"] }.counters(counts(family)));
        }
        families.extend(self.of_the_process());
        families.extend(self.polled());
        families
    }

    fn of_routes(&self) -> Vec<MetricFamily> {
        let mut routes = self.routes.living();
        let in_full = routes.len() <= ROUTES_IN_FULL;
        routes.retain(|(_, series)| in_full || series.is_used());
        let requests = Definition {
            name: "portcullis_requests_total",
            help: "Requests; route \"-\" are those that no route was found for.",
            labels: &["route", "method", "code"],
        };
        let counted = routes.iter().flat_map(|(labels, series)| {
            series
                .requests()
                // Informational answers and none at all are rare enough to begin when they occur.
                .filter(move |(_, code, count)| *count > 0 || in_full && !matches!(*code, "none" | "1xx"))
                .map(|(method, code, count)| {
                    let labels = labels.iter().cloned().chain([method.into(), code.into()]).collect();
                    (labels, float(count))
                })
        });
        let total = Definition {
            name: "portcullis_request_duration_seconds",
            help: "Time from a request's first byte to its response's last.",
            labels: &["route"],
        };
        let own = Definition {
            name: "portcullis_own_duration_seconds",
            help: "The gateway's own share of a request's time: waiting neither for client nor upstream.",
            labels: &["route"],
        };
        vec![
            requests.counters(counted),
            total.histogram(routes.iter().map(|(labels, series)| (labels.clone(), series.total())), &LATENCY),
            own.histogram(routes.iter().map(|(labels, series)| (labels.clone(), series.own())), &OWN),
            self.route_info(),
        ]
    }

    /// `portcullis_route_info{route="orders",label_stage="prod"} 1`: routes that have labels.
    fn route_info(&self) -> MetricFamily {
        let metrics = self.route_labels.living().into_iter().map(|(words, _)| {
            let mut words = words.into_iter();
            let route = words.next().unwrap_or_default();
            let mut pairs = vec![pair("route", route)];
            while let (Some(name), Some(value)) = (words.next(), words.next()) {
                pairs.push(pair(&name, value));
            }
            let mut metric = Metric::from_label(pairs);
            set_gauge(&mut metric, 1.0);
            metric
        });
        let mut family = MetricFamily::default();
        family.set_metric(metrics.collect());
        family.set_name("portcullis_route_info".to_owned());
        family.set_help("The labels of a route, to join other figures with.".to_owned());
        family.set_field_type(MetricType::GAUGE);
        family
    }

    fn of_the_process(&self) -> Vec<MetricFamily> {
        let counter = |name, help, value: u64| {
            Definition { name, help, labels: &[] }.counters([(Vec::new(), float(value))].into_iter())
        };
        let gauge = |name, help, value: f64| {
            Definition { name, help, labels: &[] }.gauges([(Vec::new(), value)].into_iter())
        };
        let reloads = Definition {
            name: "portcullis_reloads_total",
            help: "Reloads of the configuration, accepted or refused.",
            labels: &["result"],
        };
        let results = [("accepted", &self.reloads_accepted), ("refused", &self.reloads_refused)];
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 requests in flight")]
        let in_flight = self.in_flight.sum().max(0) as f64;
        vec![
            gauge("portcullis_requests_in_flight", "Requests on their way.", in_flight),
            counter(
                "portcullis_log_dropped_total",
                "Lines of the access log that were lost.",
                self.log_dropped.load(Ordering::Relaxed),
            ),
            reloads.counters(
                results
                    .iter()
                    .map(|(result, count)| (vec![(*result).into()], float(count.load(Ordering::Relaxed)))),
            ),
            gauge(
                "portcullis_config_generation",
                "The generation of the configuration in use.",
                float(self.generation.load(Ordering::Relaxed)),
            ),
            gauge(
                "portcullis_config_stale",
                "Whether the last reload was refused (1), so that an older configuration is in use.",
                f64::from(u8::from(self.stale.load(Ordering::Relaxed))),
            ),
        ]
    }

    /// Figures that others keep, on top of the series that others count.
    fn polled(&self) -> Vec<MetricFamily> {
        let mut samples = Vec::new();
        for poll in &*self.polls.lock().unwrap_or_else(PoisonError::into_inner) {
            poll(&mut samples);
        }
        let told = |family: Polled, known: Vec<(Labels, f64)>| {
            let mut values: BTreeMap<Labels, f64> = known.into_iter().collect();
            for sample in samples.iter().filter(|sample| sample.family == family) {
                values
                    .insert(sample.labels.iter().map(|label| label.as_str().into()).collect(), sample.value);
            }
            values.into_iter()
        };
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 connections")]
        let connections =
            self.connections.living().into_iter().map(|(l, open)| (l, open.sum().max(0) as f64));
        // A server counts as healthy until somebody says otherwise.
        let healthy = self.servers.living().into_iter().map(|(labels, _)| (labels, 1.0));
        vec![
            Polled::Connections.definition().gauges(told(Polled::Connections, connections.collect())),
            Polled::ConnectionsRefused
                .definition()
                .counters(told(Polled::ConnectionsRefused, counts(&self.connections_refused).collect())),
            Polled::ConnectionsClosed.definition().counters(told(Polled::ConnectionsClosed, Vec::new())),
            Polled::UpstreamHealthy.definition().gauges(told(Polled::UpstreamHealthy, healthy.collect())),
            Polled::Retries.definition().counters(told(Polled::Retries, counts(&self.retries).collect())),
            Polled::CertificateNotAfter.definition().gauges(told(Polled::CertificateNotAfter, Vec::new())),
            Polled::ApiKeys.definition().gauges(told(Polled::ApiKeys, Vec::new())),
            Polled::ApiKeyBytes.definition().gauges(told(Polled::ApiKeyBytes, Vec::new())),
            Polled::AnswerBytesWaiting.definition().gauges(told(Polled::AnswerBytesWaiting, Vec::new())),
            Polled::RequestsHeld.definition().gauges(told(Polled::RequestsHeld, Vec::new())),
            Polled::ApiKeysStale.definition().gauges(told(Polled::ApiKeysStale, Vec::new())),
            Polled::IssuerFetches.definition().counters(told(Polled::IssuerFetches, Vec::new())),
            Polled::IssuerKeys.definition().gauges(told(Polled::IssuerKeys, Vec::new())),
            Polled::IssuerKeysLeftOut.definition().gauges(told(Polled::IssuerKeysLeftOut, Vec::new())),
            Polled::IssuerKeysAge.definition().gauges(told(Polled::IssuerKeysAge, Vec::new())),
            Polled::RevokedListAge.definition().gauges(told(Polled::RevokedListAge, Vec::new())),
            Polled::Introspections.definition().counters(told(Polled::Introspections, Vec::new())),
            Polled::IdentityTokens.definition().counters(told(Polled::IdentityTokens, Vec::new())),
            Polled::IdentityKeys.definition().gauges(told(Polled::IdentityKeys, Vec::new())),
            Polled::RateLimitEntries.definition().gauges(told(Polled::RateLimitEntries, Vec::new())),
            Polled::RateLimitCapacity.definition().gauges(told(Polled::RateLimitCapacity, Vec::new())),
            Polled::RateLimitPromotions.definition().counters(told(Polled::RateLimitPromotions, Vec::new())),
            Polled::RateLimitEvictions.definition().counters(told(Polled::RateLimitEvictions, Vec::new())),
            Polled::RateLimitOverflows.definition().counters(told(Polled::RateLimitOverflows, Vec::new())),
            Polled::RateLimitError.definition().gauges(told(Polled::RateLimitError, Vec::new())),
            Polled::RateLimitUnderWay.definition().gauges(told(Polled::RateLimitUnderWay, Vec::new())),
            Polled::RateLimitCooledOff.definition().gauges(told(Polled::RateLimitCooledOff, Vec::new())),
            Polled::RateLimitPenalties.definition().counters(told(Polled::RateLimitPenalties, Vec::new())),
            Polled::RateLimitPenaltiesMissed
                .definition()
                .counters(told(Polled::RateLimitPenaltiesMissed, Vec::new())),
            Polled::QuotaKeys.definition().gauges(told(Polled::QuotaKeys, Vec::new())),
            Polled::QuotaUnwritten.definition().gauges(told(Polled::QuotaUnwritten, Vec::new())),
            Polled::QuotaStoreLost.definition().gauges(told(Polled::QuotaStoreLost, Vec::new())),
            Polled::FleetNodes.definition().gauges(told(Polled::FleetNodes, Vec::new())),
            Polled::FleetStore.definition().gauges(told(Polled::FleetStore, Vec::new())),
            Polled::FleetStoreLosses.definition().counters(told(Polled::FleetStoreLosses, Vec::new())),
            Polled::FleetStoreAnswers.definition().counters(told(Polled::FleetStoreAnswers, Vec::new())),
            Polled::FleetStoreRound.definition().gauges(told(Polled::FleetStoreRound, Vec::new())),
            Polled::FleetKeys.definition().gauges(told(Polled::FleetKeys, Vec::new())),
            Polled::FleetLeased.definition().gauges(told(Polled::FleetLeased, Vec::new())),
            Polled::FleetQuestions.definition().counters(told(Polled::FleetQuestions, Vec::new())),
            Polled::FleetAlone.definition().counters(told(Polled::FleetAlone, Vec::new())),
        ]
    }
}

fn counts(family: &Family<super::Counter>) -> impl Iterator<Item = (Labels, f64)> {
    family.living().into_iter().map(|(labels, counter)| (labels, float(counter.sum())))
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has floats only; they are exact up to 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

fn pair(name: &str, value: Box<str>) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.into());
    pair
}

fn set_gauge(metric: &mut Metric, value: f64) {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
}

impl Definition {
    fn counters(&self, series: impl Iterator<Item = (Labels, f64)>) -> MetricFamily {
        self.family(MetricType::COUNTER, series, |metric, value| {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        })
    }

    fn gauges(&self, series: impl Iterator<Item = (Labels, f64)>) -> MetricFamily {
        self.family(MetricType::GAUGE, series, set_gauge)
    }

    fn histogram(
        &self,
        series: impl Iterator<Item = (Labels, Distribution)>,
        bounds: &Bounds,
    ) -> MetricFamily {
        self.family(MetricType::HISTOGRAM, series, |metric, distribution| {
            let mut histogram = Histogram::default();
            let bucket = |(bound, count): (&u64, &u64)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(float(*bound) / 1e9);
                bucket.set_cumulative_count(*count);
                bucket
            };
            histogram.set_bucket(bounds.iter().zip(&distribution.cumulative).map(bucket).collect());
            histogram.set_sample_count(distribution.count());
            histogram.set_sample_sum(float(distribution.sum_nanos) / 1e9);
            metric.set_histogram(histogram);
        })
    }

    fn family<V>(
        &self,
        kind: MetricType,
        series: impl Iterator<Item = (Labels, V)>,
        set: impl Fn(&mut Metric, V),
    ) -> MetricFamily {
        let metrics = series.map(|(values, value)| {
            let pairs = self.labels.iter().zip(values).map(|(name, value)| pair(name, value));
            let mut metric = Metric::from_label(pairs.collect());
            set(&mut metric, value);
            metric
        });
        let mut family = MetricFamily::default();
        family.set_metric(metrics.collect());
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(kind);
        family
    }
}
