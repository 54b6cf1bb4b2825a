//! What a snapshot tells of its requests: handles taken at load, used once a request.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::access_log::AccessLog;
use super::metrics::{Counter, Latency, Metrics, Presence, RouteSeries};
use super::operational::Settings;
use super::{AccessTarget, Config};
use crate::config::{Build, Spanned};
use crate::record::{ErrorFacts, Record, RouteFacts};
use crate::state::Live;

/// The route label of requests that no route was found for.
const NO_ROUTE: &str = "-";

/// The policy label of refusals that no policy made; in `policies` it names their reasons.
pub const GATEWAY: &str = "gateway";

/// Why an attempt is made again: the reasons of `portcullis_retries_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// No connection could be made.
    Connect,
    /// The connection was closed or reset before an answer.
    Reset,
}

/// How a snapshot's requests are told: metrics and the access log.
#[derive(Debug)]
pub struct Telling {
    metrics: Arc<Metrics>,
    routes: Vec<Arc<RouteSeries>>,
    no_route: Arc<RouteSeries>,
    upstreams: HashMap<Arc<str>, Upstream, foldhash::fast::FixedState>,
    policies: HashMap<Arc<str>, Policy, foldhash::fast::FixedState>,
    gateway: Policy,
    access: Option<AccessLog>,
    operational: Settings,
    /// Held, so that the series of the routes' labels exist.
    _route_labels: Vec<Arc<Presence>>,
}

#[derive(Debug)]
struct Upstream {
    latency: Arc<Latency>,
    connect: Arc<Counter>,
    reset: Arc<Counter>,
    /// Held, so that the servers' series exist.
    _servers: Vec<Arc<Presence>>,
}

/// The reasons of a policy. Those that it named at load are there from the start; another one, always a word of the code, is added
/// when it first comes.
#[derive(Debug)]
struct Policy {
    name: Arc<str>,
    reasons: Vec<Reason>,
    more: Mutex<Vec<Reason>>,
}

#[derive(Debug)]
struct Reason {
    word: &'static str,
    refusals: Option<Arc<Counter>>,
    would_refuse: Option<Arc<Counter>>,
}

impl Telling {
    /// Takes the handles. `routes` stand in the order of their index; `upstreams` are names and their servers, as configured;
    /// `policies` are names (`access.office`) and the reasons with which each can refuse, [`GATEWAY`]'s among them. None when
    /// `build.errors` says why. Nothing is opened or started: see [`Telling::start`].
    pub fn compile(
        routes: &[Arc<RouteFacts>],
        upstreams: &[(Arc<str>, Vec<Arc<str>>)],
        policies: &[(Arc<str>, Vec<&'static str>)],
        config: &Spanned<Config>,
        live: &Live,
        build: &mut Build,
    ) -> Option<Self> {
        let before = build.errors.errors().len();
        let metrics = Metrics::of(live);
        let operational = Settings::compile(config, build);
        let access = AccessLog::compile(routes, &config.access, &metrics, live, build);
        if build.errors.errors().len() > before {
            return None;
        }
        let policy = |name: &Arc<str>| {
            let reasons = policies.iter().filter(|(known, _)| known == name).flat_map(|(_, reasons)| reasons);
            Policy::new(Arc::clone(name), reasons, &metrics)
        };
        Some(Self {
            routes: routes.iter().map(|facts| metrics.route(&facts.name)).collect(),
            no_route: metrics.route(NO_ROUTE),
            _route_labels: routes
                .iter()
                .filter(|facts| !facts.labels.is_empty())
                .map(|facts| metrics.route_labels(facts))
                .collect(),
            upstreams: upstreams
                .iter()
                .map(|(name, servers)| (Arc::clone(name), Upstream::new(name, servers, &metrics)))
                .collect(),
            policies: policies.iter().map(|(name, _)| (Arc::clone(name), policy(name))).collect(),
            gateway: policy(&GATEWAY.into()),
            access,
            operational: operational?,
            metrics,
        })
    }

    /// Levels of the operational log take effect; nothing is opened.
    pub fn speak(&self) {
        self.operational.apply();
    }

    /// The access log's file, where it goes to one.
    pub fn file(&self) -> Option<&Path> {
        match self.access.as_ref()?.sink.target() {
            AccessTarget::File(path) => Some(path),
            AccessTarget::Stdout | AccessTarget::Stderr => None,
        }
    }

    /// The snapshot is in use: levels of the operational log take effect, and the access log is opened.
    pub fn start(&self) {
        self.speak();
        if let Some(access) = &self.access {
            access.sink.start();
        }
    }

    /// The figures of the process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Once a request, when all is known: counts it and writes its line. Never waits.
    pub fn settle(&self, record: &Record) {
        let route = record.route.as_ref().and_then(|route| self.routes.get(route.index));
        route.unwrap_or(&self.no_route).settle(
            record.worker,
            record.method.as_ref(),
            record.status,
            record.response_latency,
            record.own_latency,
        );
        if let Some(integration) = &record.integration
            && let Some(latency) = integration.latency
            && let Some(upstream) = self.upstreams.get(&integration.upstream)
        {
            upstream.latency.observe(record.worker, latency);
        }
        if let Some(error) = &record.error {
            self.policy(error).refused(error.reason, record.worker, &self.metrics);
        }
        for would in &record.would {
            self.policy(would).would_refuse(would.reason, record.worker, &self.metrics);
        }
        if let Some(access) = &self.access {
            access.tell(record);
        }
    }

    /// Counts a refusal of the gateway's that has no line in the log, so that its series is right all the same.
    pub fn refused_untold(&self, worker: usize, reason: &'static str) {
        self.gateway.refused(reason, worker, &self.metrics);
    }

    /// An attempt at this upstream is made again.
    pub fn retried(&self, worker: usize, upstream: &str, why: Retry) {
        let Some(upstream) = self.upstreams.get(upstream) else {
            return;
        };
        match why {
            Retry::Connect => upstream.connect.add(worker),
            Retry::Reset => upstream.reset.add(worker),
        }
    }

    /// Opens the access log's file anew (SIGUSR1).
    pub fn reopen(&self) {
        if let Some(access) = &self.access {
            access.sink.reopen();
        }
    }

    /// Waits until all lines so far are written, at most this long. Whether they are.
    pub fn flush(&self, patience: Duration) -> bool {
        self.access.as_ref().is_none_or(|access| access.sink.flush(patience))
    }

    fn policy(&self, error: &ErrorFacts) -> &Policy {
        let named = error.policy.as_ref().and_then(|name| self.policies.get(name));
        named.unwrap_or(&self.gateway)
    }
}

impl Upstream {
    fn new(name: &str, servers: &[Arc<str>], metrics: &Metrics) -> Self {
        Self {
            latency: metrics.upstream(name),
            connect: metrics.retries(name, "connect"),
            reset: metrics.retries(name, "reset"),
            _servers: servers.iter().map(|server| metrics.server(name, server)).collect(),
        }
    }
}

impl Policy {
    fn new<'a>(name: Arc<str>, reasons: impl Iterator<Item = &'a &'static str>, metrics: &Metrics) -> Self {
        let shadows = &*name != GATEWAY;
        let reasons = reasons.map(|word| Reason {
            word,
            refusals: Some(metrics.refusals(&name, word)),
            would_refuse: shadows.then(|| metrics.would_refuse(&name, word)),
        });
        Self { reasons: reasons.collect(), name, more: Mutex::default() }
    }

    fn refused(&self, word: &'static str, worker: usize, metrics: &Metrics) {
        if let Some(known) = self.known(word).and_then(|reason| reason.refusals.as_ref()) {
            return known.add(worker);
        }
        let mut more = self.more.lock().unwrap_or_else(PoisonError::into_inner);
        let refusals = &mut Reason::of(&mut more, word).refusals;
        refusals.get_or_insert_with(|| metrics.refusals(&self.name, word)).add(worker);
    }

    fn would_refuse(&self, word: &'static str, worker: usize, metrics: &Metrics) {
        if let Some(known) = self.known(word).and_then(|reason| reason.would_refuse.as_ref()) {
            return known.add(worker);
        }
        let mut more = self.more.lock().unwrap_or_else(PoisonError::into_inner);
        let would_refuse = &mut Reason::of(&mut more, word).would_refuse;
        would_refuse.get_or_insert_with(|| metrics.would_refuse(&self.name, word)).add(worker);
    }

    fn known(&self, word: &str) -> Option<&Reason> {
        self.reasons.iter().find(|reason| reason.word == word)
    }
}

impl Reason {
    /// The entry of this word, added if it is new.
    fn of<'a>(list: &'a mut Vec<Self>, word: &'static str) -> &'a mut Self {
        let at = list.iter().position(|reason| reason.word == word).unwrap_or_else(|| {
            list.push(Self { word, refusals: None, would_refuse: None });
            list.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found, or just pushed")]
        &mut list[at]
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use http::Method;

    use super::*;
    use crate::config::{OrNone, Site};
    use crate::observe::{Access, Polled, Sample};
    use crate::record::Integration;

    fn route(index: usize, name: &str) -> Arc<RouteFacts> {
        Arc::new(RouteFacts {
            index,
            name: name.into(),
            resource_path: "/".into(),
            labels: Default::default(),
            site: Site::default_value(),
        })
    }

    fn config(to: OrNone<Spanned<String>>) -> Spanned<Config> {
        Spanned::unwritten(Config { access: Access { to, ..Access::default() }, ..Config::default() })
    }

    fn compile(routes: &[Arc<RouteFacts>], config: &Spanned<Config>, live: &Live) -> Telling {
        let mut build = Build::default();
        let upstreams = [("pool".into(), vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()])];
        let policies: [(Arc<str>, Vec<&'static str>); 2] =
            [("access.office".into(), vec!["denied"]), (GATEWAY.into(), vec!["no_route"])];
        Telling::compile(routes, &upstreams, &policies, config, live, &mut build).unwrap()
    }

    fn refused(policy: Option<&str>, reason: &'static str) -> ErrorFacts {
        ErrorFacts {
            response_type: "ACCESS_DENIED",
            reason,
            message: "".into(),
            policy: policy.map(Into::into),
            site: None,
        }
    }

    fn record(route: Option<&Arc<RouteFacts>>, status: u16) -> Record {
        let mut record = Record::new(3, 1, Instant::now(), SystemTime::now());
        record.route = route.cloned();
        record.method = Some(Method::GET);
        record.status = status;
        record.response_latency = Some(Duration::from_millis(3));
        record.own_latency = Some(Duration::from_micros(30));
        record
    }

    /// The samples by name and labels; each must stand under its family's TYPE, with a HELP.
    fn parse(text: &str) -> HashMap<String, f64> {
        let mut family = "";
        let mut samples = HashMap::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').unwrap();
                assert!(!words.is_empty());
                family = name;
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, family);
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(name.starts_with(family), "{line} under {family}");
                let twice = samples.insert(name.to_owned(), value.parse().unwrap());
                assert_eq!(twice, None, "{line}");
            }
        }
        samples
    }

    #[test]
    fn every_series_exists_from_the_load_on() {
        let live = Live::default();
        let telling = compile(&[route(0, "hello")], &config(OrNone::None), &live);
        let told = parse(&telling.metrics().render());
        for name in [
            r#"portcullis_requests_total{code="5xx",method="OTHER",route="hello"}"#,
            r#"portcullis_requests_total{code="4xx",method="GET",route="-"}"#,
            r#"portcullis_request_duration_seconds_count{route="hello"}"#,
            r#"portcullis_request_duration_seconds_bucket{route="hello",le="0.0005"}"#,
            r#"portcullis_own_duration_seconds_bucket{route="hello",le="0.00001"}"#,
            r#"portcullis_upstream_duration_seconds_sum{upstream="pool"}"#,
            "portcullis_requests_in_flight",
            r#"portcullis_retries_total{reason="connect",upstream="pool"}"#,
            r#"portcullis_retries_total{reason="reset",upstream="pool"}"#,
            r#"portcullis_refusals_total{policy="access.office",reason="denied"}"#,
            r#"portcullis_refusals_total{policy="gateway",reason="no_route"}"#,
            r#"portcullis_would_refuse_total{policy="access.office",reason="denied"}"#,
            r#"portcullis_reloads_total{result="accepted"}"#,
            r#"portcullis_reloads_total{result="refused"}"#,
            "portcullis_config_generation",
            "portcullis_config_stale",
            "portcullis_log_dropped_total",
        ] {
            let found = told.iter().find(|(known, _)| same_series(known, name));
            assert_eq!(found.map(|(_, value)| *value), Some(0.0), "{name}");
        }
        assert_eq!(value(&told, r#"portcullis_upstream_healthy{upstream="pool",server="127.0.0.1:2"}"#), 1.0);
        assert!(told["process_resident_memory_bytes"] > 0.0);
    }

    /// The same name and the same labels, in whatever order.
    fn same_series(a: &str, b: &str) -> bool {
        let parts = |text: &str| {
            let mut parts: Vec<_> = text.trim_end_matches('}').split(['{', ',']).map(str::to_owned).collect();
            parts.sort();
            parts
        };
        parts(a) == parts(b)
    }

    fn value(told: &HashMap<String, f64>, name: &str) -> f64 {
        let found = told.iter().find(|(known, _)| same_series(known, name));
        *found.unwrap_or_else(|| panic!("{name} is not told")).1
    }

    #[test]
    fn requests_are_counted_where_they_belong_and_survive_reloads() {
        let live = Live::default();
        let hello = route(0, "hello");
        let first = compile(&[Arc::clone(&hello)], &config(OrNone::None), &live);
        first.settle(&record(Some(&hello), 200));
        // The same route at another place, beside a new one.
        let moved = route(1, "hello");
        let second = compile(&[route(0, "new"), Arc::clone(&moved)], &config(OrNone::None), &live);
        drop(first);
        live.sweep();
        let mut bad = record(Some(&moved), 502);
        bad.integration = Some(Integration {
            upstream: "pool".into(),
            latency: Some(Duration::from_secs(2)),
            ..Integration::default()
        });
        bad.error = Some(refused(None, "no_route"));
        bad.would =
            vec![refused(Some("access.office"), "denied"), refused(Some("access.office"), "unforeseen")];
        second.settle(&bad);
        let mut lost = record(None, 404);
        lost.error = Some(refused(Some("access.office"), "unforeseen"));
        second.settle(&lost);
        second.settle(&lost);
        second.retried(0, "pool", Retry::Reset);
        second.metrics().begin(0);
        second.metrics().begin(1);
        second.metrics().end(2);
        let told = parse(&second.metrics().render());
        for (name, expected) in [
            (r#"portcullis_requests_total{route="hello",method="GET",code="2xx"}"#, 1.0),
            (r#"portcullis_requests_total{route="hello",method="GET",code="5xx"}"#, 1.0),
            (r#"portcullis_requests_total{route="-",method="GET",code="4xx"}"#, 2.0),
            (r#"portcullis_request_duration_seconds_count{route="hello"}"#, 2.0),
            (r#"portcullis_request_duration_seconds_sum{route="hello"}"#, 0.006),
            (r#"portcullis_request_duration_seconds_bucket{route="hello",le="0.0025"}"#, 0.0),
            (r#"portcullis_request_duration_seconds_bucket{route="hello",le="0.005"}"#, 2.0),
            (r#"portcullis_request_duration_seconds_bucket{route="hello",le="+Inf"}"#, 2.0),
            (r#"portcullis_own_duration_seconds_bucket{route="hello",le="0.00005"}"#, 2.0),
            (r#"portcullis_upstream_duration_seconds_count{upstream="pool"}"#, 1.0),
            (r#"portcullis_refusals_total{policy="gateway",reason="no_route"}"#, 1.0),
            (r#"portcullis_refusals_total{policy="access.office",reason="unforeseen"}"#, 2.0),
            (r#"portcullis_would_refuse_total{policy="access.office",reason="denied"}"#, 1.0),
            (r#"portcullis_would_refuse_total{policy="access.office",reason="unforeseen"}"#, 1.0),
            (r#"portcullis_retries_total{upstream="pool",reason="reset"}"#, 1.0),
            ("portcullis_requests_in_flight", 1.0),
        ] {
            assert_eq!(value(&told, name), expected, "{name}");
        }
    }

    #[test]
    fn labels_of_routes_are_a_series_to_join_with() {
        let live = Live::default();
        let mut facts = RouteFacts::clone(&route(0, "hello"));
        facts.labels = [("stage", "prod"), ("team-x", "a"), ("team.x", "b"), ("ü", "1")]
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        let telling = compile(&[facts.into(), route(1, "bare")], &config(OrNone::None), &live);
        let told = parse(&telling.metrics().render());
        let infos: Vec<_> = told.keys().filter(|name| name.starts_with("portcullis_route_info")).collect();
        assert_eq!(
            infos,
            [r#"portcullis_route_info{route="hello",label__="1",label_stage="prod",label_team_x="b"}"#]
        );
    }

    #[test]
    fn a_route_that_is_gone_is_not_told_any_more() {
        let live = Live::default();
        let first = compile(&[route(0, "gone")], &config(OrNone::None), &live);
        let second = compile(&[route(0, "stays")], &config(OrNone::None), &live);
        assert!(second.metrics().render().contains("\"gone\""));
        drop(first);
        assert!(!second.metrics().render().contains("\"gone\""));
    }

    #[test]
    fn many_routes_are_told_once_they_are_used() {
        let live = Live::default();
        let routes: Vec<_> = (0..10_000).map(|index| route(index, &format!("r{index}"))).collect();
        let telling = compile(&routes, &config(OrNone::None), &live);
        telling.settle(&record(routes.get(77), 200));
        let text = telling.metrics().render();
        assert!(text.contains("\"r77\"") && !text.contains("\"r78\""));
        assert!(text.len() < 20_000, "{}", text.len());
    }

    #[test]
    fn what_others_keep_is_asked_for() {
        let live = Live::default();
        let telling = compile(&[], &config(OrNone::None), &live);
        let metrics = telling.metrics();
        metrics.poll(|samples| {
            samples.push(Sample {
                family: Polled::UpstreamHealthy,
                labels: vec!["pool".into(), "127.0.0.1:2".into()],
                value: 0.0,
            });
            samples.push(Sample {
                family: Polled::CertificateNotAfter,
                labels: vec!["127.0.0.1:8443".into(), "a\"b".into()],
                value: 1.9e9,
            });
        });
        let connections = metrics.connections("127.0.0.1:8080");
        connections.add(0);
        connections.add(1);
        connections.subtract(1);
        let refused = metrics.connections_refused("limit");
        refused.add(0);
        metrics.set_reloads(1, 0, 2, false);
        metrics.set_reloads(1, 1, 2, true);
        let told = parse(&metrics.render());
        for (name, expected) in [
            (r#"portcullis_upstream_healthy{upstream="pool",server="127.0.0.1:1"}"#, 1.0),
            (r#"portcullis_upstream_healthy{upstream="pool",server="127.0.0.1:2"}"#, 0.0),
            (r#"portcullis_certificate_not_after_seconds{listener="127.0.0.1:8443",name="a\"b"}"#, 1.9e9),
            (r#"portcullis_connections{listener="127.0.0.1:8080"}"#, 1.0),
            (r#"portcullis_connections_refused_total{reason="limit"}"#, 1.0),
            (r#"portcullis_reloads_total{result="accepted"}"#, 1.0),
            (r#"portcullis_reloads_total{result="refused"}"#, 1.0),
            ("portcullis_config_generation", 2.0),
            ("portcullis_config_stale", 1.0),
        ] {
            assert_eq!(value(&told, name), expected, "{name}");
        }
        metrics.set_reloads(2, 1, 3, false);
        assert_eq!(value(&parse(&metrics.render()), "portcullis_config_stale"), 0.0);
    }

    #[test]
    fn a_reload_keeps_the_log_and_a_full_disk_is_counted() {
        let live = Live::default();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log").display().to_string();
        let to = |path: &str| config(OrNone::Some(Spanned::unwritten(path.to_owned())));
        let hello = route(0, "hello");
        let first = compile(&[Arc::clone(&hello)], &to(&path), &live);
        first.settle(&record(Some(&hello), 200));
        let second = compile(&[Arc::clone(&hello)], &to(&path), &live);
        drop(first);
        live.sweep();
        second.settle(&record(Some(&hello), 201));
        assert!(second.flush(Duration::from_secs(10)));
        let statuses: Vec<_> = std::fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["status"].clone())
            .collect();
        assert_eq!(statuses, [200, 201]);
        let full = compile(&[Arc::clone(&hello)], &to("/dev/full"), &live);
        full.settle(&record(Some(&hello), 200));
        assert!(full.flush(Duration::from_secs(10)));
        assert_eq!(value(&parse(&full.metrics().render()), "portcullis_log_dropped_total"), 1.0);
    }

    #[test]
    fn promtool_finds_nothing_to_say() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let live = Live::default();
        let hello = route(0, "hello");
        let telling = compile(&[Arc::clone(&hello)], &config(OrNone::None), &live);
        telling.settle(&record(Some(&hello), 200));
        let spawned = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                eprintln!("promtool is not on PATH, so its check is left out: {error}");
                return;
            }
        };
        child.stdin.take().unwrap().write_all(telling.metrics().render().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        assert_eq!(said.trim(), "");
    }
}
