//! `portcullis run`: serve, until told to stop.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Run, USAGE, document_to};
use crate::config::Build;
use crate::descriptors;
use crate::gateway::document::Document;
use crate::gateway::{Gateway, ListenAddress, state_directory};
use crate::observe::{self, Metrics, Polled, Sample, Settings};
use crate::policy::auth::Figure;
use crate::policy::auth::api_key::Keys;
use crate::policy::auth::identity_token::TokenFigures;
use crate::policy::rate_limit::{FleetFigures, LeaseFigures, LimitsFile, Quotas};
use crate::proxy::Gate;
use crate::server::{
    BackOffice, Closed, Counts, Loaded, Options, Refused, Server, Unserved, left, privileges,
};
use crate::state::Live;
use crate::upstream::{RetryOn, Waiting};

/// The gateway in force, for whoever tells of it.
type Current = Arc<Mutex<Arc<Gateway>>>;

/// How long the last lines of a log may take.
const FLUSH: Duration = Duration::from_secs(2);
/// How long the last counts of quotas may take: another process may be writing to the store.
const PATIENCE: Duration = Duration::from_secs(8);

/// 0: stopped as asked; 64: configuration; 1: anything else.
pub(super) fn run(asked: &Run, err: &mut dyn Write) -> u8 {
    Settings::default().apply();
    std::panic::set_hook(Box::new(|panic| log::error!("a defect of the gateway: {panic}")));
    if let Err(error) = privileges::harden() {
        let _ = writeln!(err, "error: cannot give up what a gateway does not need: {error}");
        return 1;
    }
    let office = BackOffice::new().and_then(|mut office| office.catch_signals().map(|()| office));
    let back_office = match office {
        Ok(back_office) => back_office,
        Err(error) => {
            let _ = writeln!(err, "error: cannot start: {error}");
            return 1;
        }
    };
    let mut build = Build::default();
    let compiled = asked.compile(&mut build, |document, build| {
        let live = Arc::new(Live::new(state_directory(document, build)));
        live.set_runtime(back_office.handle().clone());
        Gateway::compile(document, &live, 1, build).map(|gateway| (Arc::new(gateway), live))
    });
    let _ = write!(err, "{}", build.errors.render(&build.sources));
    let Some((gateway, live)) = compiled else { return USAGE };
    serve(asked, back_office, gateway, live, &build, err)
}

fn serve(
    asked: &Run,
    back_office: BackOffice,
    gateway: Arc<Gateway>,
    live: Arc<Live>,
    build: &Build,
    err: &mut dyn Write,
) -> u8 {
    gateway.telling().speak();
    gateway.put_limits_in_force();
    if let Some(shortage) = descriptors::too_few_for(gateway.settings.connections) {
        log::warn!("{shortage}");
    }
    let counts = Arc::new(Counts::default());
    let current: Current = Arc::new(Mutex::new(Arc::clone(&gateway)));
    let metrics = Metrics::of(&live);
    poll(&metrics, &counts, &current, &live);
    let files = match asked.to {
        Some(_) => Vec::new(),
        None => watched(build),
    };
    let limits = asked.to.is_none().then(|| Arc::new(LimitsFile::new(&live)));
    let counted = Arc::clone(&counts);
    let options = Options {
        settle: settle(&gateway, &live, limits.clone(), files.clone()),
        gateway,
        files,
        reload: reload(asked, Arc::clone(&live)),
        adopted: {
            let (current, limits) = (Arc::clone(&current), limits.clone());
            Box::new(move |gateway| {
                gateway.telling().start();
                gateway.put_limits_in_force();
                if let Some(limits) = &limits {
                    limits.change(in_force(&current).kept_limits(), &gateway.kept_limits());
                }
                *current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(gateway);
            })
        },
        reopen_logs: {
            let current = Arc::clone(&current);
            Box::new(move || in_force(&current).telling().reopen())
        },
        metrics: {
            let counts = Arc::clone(&counts);
            Arc::new(move || {
                counts.tell_reloads(|accepted, refused, generation, stale| {
                    metrics.set_reloads(accepted, refused, generation, stale);
                });
                metrics.render()
            })
        },
        counts,
        attended: true,
    };
    let served = Server::bind(back_office, options).and_then(|server| {
        if let Some(url) = &asked.to {
            log::info!("forwarding http://127.0.0.1:8080 to {url}");
        }
        server.run(|snapshots, worker| Gate::app(snapshots, worker, left))
    });
    let mut claims = Vec::new();
    if let Some(fleet) = &in_force(&current).fleet {
        claims = fleet.leave();
    }
    Quotas::flush(&live, PATIENCE);
    if let Some(limits) = limits {
        let draining = counted.draining.get().copied();
        limits.write(in_force(&current).kept_limits(), claims, draining);
    }
    in_force(&current).telling().flush(FLUSH);
    let heard = observe::flush(FLUSH);
    match served {
        Ok(()) => 0,
        Err(error) => {
            // Nobody is told who does not read: a write would wait for him.
            if heard {
                let _ = writeln!(err, "error: {error}");
            }
            1
        }
    }
}

impl Run {
    fn compile<R>(
        &self,
        build: &mut Build,
        compile: impl FnOnce(&Document, &mut Build) -> Option<R>,
    ) -> Option<R> {
        match &self.to {
            Some(url) => document_to(url, build).and_then(|document| compile(&document, build)),
            None => self.file.compile(build, compile),
        }
    }
}

fn in_force(current: &Current) -> Arc<Gateway> {
    Arc::clone(&current.lock().unwrap_or_else(PoisonError::into_inner))
}

fn watched(build: &Build) -> Vec<PathBuf> {
    build.files.watched().iter().cloned().collect()
}

/// The next configuration: loaded and compiled anew; what is live is found again by its definition.
fn reload(asked: &Run, live: Arc<Live>) -> crate::server::Reload {
    let asked = asked.clone();
    Box::new(move |generation| {
        let mut build = Build::default();
        let gateway =
            asked.compile(&mut build, |document, build| Gateway::compile(document, &live, generation, build));
        let told = build.errors.render(&build.sources);
        let files = watched(&build);
        let told = told.lines().map(ToOwned::to_owned).filter(|line| !line.is_empty());
        let shortage =
            gateway.as_ref().and_then(|gateway| descriptors::too_few_for(gateway.settings.connections));
        let lines = told.chain(shortage).collect();
        live.sweep();
        match gateway {
            Some(gateway) => Ok(Loaded { gateway: Arc::new(gateway), files, warnings: lines }),
            None => Err(Refused { errors: lines, files }),
        }
    })
}

/// What is done once every address is bound: root is left, and what the process must be able to write is tried.
///
/// What `--to` serves keeps nothing, and has no file of limits: a first try leaves no directory behind.
fn settle(
    gateway: &Arc<Gateway>,
    live: &Arc<Live>,
    limits: Option<Arc<LimitsFile>>,
    files: Vec<PathBuf>,
) -> Box<dyn FnOnce() -> Result<(), String> + Send> {
    let (gateway, live) = (Arc::clone(gateway), Arc::clone(live));
    Box::new(move || {
        let settings = &gateway.settings;
        let state = limits.is_some().then_some(&*settings.state);
        let log = gateway.telling().file();
        let writer = leave_root(&gateway, state, log, &files)?;
        if let Some(Err(cause)) = state.map(state_is_writable) {
            return Err(format!(
                "{}: the state directory `{}` cannot be written{writer}: {cause}; \
                 make it the gateway's own, or name another with `server.state`",
                settings.sites.state,
                settings.state.display()
            ));
        }
        // A log that cannot be opened later loses lines and says so; here nobody has been served yet.
        if let Some(log) = log.filter(|_| settings.user.is_some())
            && let Err(cause) = OpenOptions::new().append(true).create(true).mode(0o640).open(log)
        {
            let log = log.display();
            return Err(format!(
                "the access log `{log}` cannot be written{writer}: {cause}; give it to that user"
            ));
        }
        live.settle()?;
        if let Some(limits) = limits {
            limits.read(&gateway.kept_limits(), gateway.fleet.as_deref());
        }
        for message in gateway.keys_without_their_plan(&live) {
            log::warn!("{message}");
        }
        gateway.telling().start();
        observe::let_a_thread_write();
        Ok(())
    })
}

/// Becomes `server.user`, and says who cannot write what cannot be written, as part of a sentence.
fn leave_root(
    gateway: &Gateway,
    state: Option<&Path>,
    log: Option<&Path>,
    files: &[PathBuf],
) -> Result<String, String> {
    let settings = &gateway.settings;
    let site = &settings.sites.user;
    let Some(account) = &settings.user else {
        if privileges::is_root() {
            log::warn!("running as root: name a user to become with `server.user`");
        }
        return Ok(String::new());
    };
    let name = &account.name;
    if !privileges::is_root() {
        if privileges::is(account) {
            return Ok(String::new());
        }
        return Err(format!(
            "{site}: only root can become `{name}`; start the gateway as root or as `{name}`, or write `user: none`"
        ));
    }
    let addresses = gateway.listeners.iter().map(|listener| &listener.address).chain(&settings.status);
    let sockets = addresses.filter_map(|address| match address {
        ListenAddress::Unix(path) => Some(&**path),
        ListenAddress::Tcp(_) => None,
    });
    privileges::prepare(account, state, log, sockets);
    privileges::become_user(account).map_err(|cause| {
        format!("{site}: the process has not become `{name}`: {cause}; nothing is served")
    })?;
    log::info!("root is left: running as `{name}`");
    for file in files {
        if let Err(error) = std::fs::File::open(file)
            && error.kind() == ErrorKind::PermissionDenied
        {
            log::warn!("`{}` cannot be read by `{name}`: the next reload will be refused", file.display());
        }
    }
    Ok(format!(" by `{name}`"))
}

/// What other rooms count, told at every scrape.
fn poll(metrics: &Metrics, counts: &Arc<Counts>, current: &Current, live: &Arc<Live>) {
    let (counts, current) = (Arc::clone(counts), Arc::clone(current));
    // The metrics are one of its things: it must not be held by them.
    let live = Arc::downgrade(live);
    metrics.poll(move |samples| {
        let mut tell = |family, labels: &[&str], value: f64| {
            samples.push(Sample {
                family,
                labels: labels.iter().map(|label| (*label).to_owned()).collect(),
                value,
            });
        };
        for (name, listener) in counts.listeners() {
            tell(Polled::Connections, &[&name], count(listener.open()));
        }
        for reason in Unserved::ALL {
            tell(Polled::ConnectionsRefused, &[reason.as_str()], count(counts.unserved(reason)));
        }
        for bound in Closed::ALL {
            tell(Polled::ConnectionsClosed, &[bound.as_str()], count(counts.closed(bound)));
        }
        for expiry in counts.expiries() {
            tell(Polled::CertificateNotAfter, &[&expiry.listener, &expiry.name], seconds(expiry.not_after));
        }
        tell(Polled::RequestsHeld, &[], size(counts.requests_held()));
        if let Some(live) = live.upgrade() {
            tell(Polled::AnswerBytesWaiting, &[], size(Waiting::of(&live).bytes()));
        }
        if let Some(keys) = live.upgrade().and_then(|live| Keys::figures(&live)) {
            tell(Polled::ApiKeys, &[], size(keys.keys));
            tell(Polled::ApiKeyBytes, &[], size(keys.bytes));
            tell(Polled::ApiKeysStale, &[], if keys.stale { 1.0 } else { 0.0 });
        }
        if let Some(quotas) = live.upgrade().and_then(|live| Quotas::figures(&live)) {
            tell(Polled::QuotaKeys, &[], size(quotas.keys));
            tell(Polled::QuotaUnwritten, &[], count(quotas.unwritten));
            tell(Polled::QuotaStoreLost, &[], if quotas.lost { 1.0 } else { 0.0 });
        }
        let gateway = in_force(&current);
        if let Some(FleetFigures { nodes, store }) = gateway.fleet.as_ref().map(|fleet| fleet.figures()) {
            tell(Polled::FleetNodes, &[], f64::from(nodes));
            tell(Polled::FleetStore, &[], f64::from(store.status as u8));
            tell(Polled::FleetStoreLosses, &[], count(store.losses));
            tell(Polled::FleetStoreAnswers, &["answered"], count(store.answered));
            tell(Polled::FleetStoreAnswers, &["none"], count(store.unanswered));
            tell(Polled::FleetStoreRound, &[], store.round.as_secs_f64());
        }
        for policy in &gateway.auth {
            for figure in policy.figures() {
                let name = policy.name();
                match figure {
                    Figure::IssuerFetches { result, count: number } => {
                        tell(Polled::IssuerFetches, &[name, result], count(number));
                    }
                    Figure::IssuerKeys(keys) => tell(Polled::IssuerKeys, &[name], count(keys as u64)),
                    Figure::IssuerKeysLeftOut(keys) => {
                        tell(Polled::IssuerKeysLeftOut, &[name], count(keys as u64));
                    }
                    Figure::IssuerKeysAge(age) => tell(Polled::IssuerKeysAge, &[name], count(age)),
                    Figure::RevokedListAge(age) => tell(Polled::RevokedListAge, &[name], count(age)),
                    Figure::Introspections { result, count: number } => {
                        tell(Polled::Introspections, &[name, result], count(number));
                    }
                }
            }
        }
        if let Some(figures) = gateway.identity_tokens.as_ref().map(|tokens| tokens.figures()) {
            let TokenFigures { signed, reused, refused, keys } = figures;
            for (result, number) in [("signed", signed), ("reused", reused), ("refused", refused)] {
                tell(Polled::IdentityTokens, &[result], count(number));
            }
            tell(Polled::IdentityKeys, &[], size(keys));
        }
        let limits = gateway.limits.iter().map(|limit| (limit.name(), limit.figures()));
        for (name, figures) in limits.chain(gateway.plans.iter().map(|plan| (plan.name(), plan.figures()))) {
            if let Some(figures) = figures {
                tell(Polled::RateLimitEntries, &[name], count(figures.entries));
                tell(Polled::RateLimitCapacity, &[name], count(figures.capacity));
                tell(Polled::RateLimitPromotions, &[name], count(figures.promotions));
                tell(Polled::RateLimitEvictions, &[name], count(figures.evictions));
                tell(Polled::RateLimitOverflows, &[name], count(figures.overflows));
                tell(Polled::RateLimitError, &[name], figures.error);
            }
        }
        let leases = gateway.limits.iter().map(|limit| (limit.name(), limit.lease_figures()));
        for (name, figures) in
            leases.chain(gateway.plans.iter().map(|plan| (plan.name(), plan.lease_figures())))
        {
            let Some(LeaseFigures { keys, leased, asked, alone, late, overflows }) = figures else {
                continue;
            };
            tell(Polled::FleetKeys, &[name], count(keys));
            tell(Polled::FleetLeased, &[name], count(leased));
            tell(Polled::FleetQuestions, &[name], count(asked));
            let store = alone.saturating_sub(late + overflows);
            for (reason, number) in [("late", late), ("room", overflows), ("store", store)] {
                tell(Polled::FleetAlone, &[name, reason], count(number));
            }
        }
        for limit in &gateway.limits {
            if let Some(under_way) = limit.under_way() {
                tell(Polled::RateLimitUnderWay, &[limit.name()], count(under_way));
            }
            if let Some(penalties) = limit.penalties() {
                tell(Polled::RateLimitCooledOff, &[limit.name()], count(penalties.cooled_off));
                tell(Polled::RateLimitPenalties, &[limit.name()], count(penalties.begun));
                tell(Polled::RateLimitPenaltiesMissed, &[limit.name()], count(penalties.missed));
            }
        }
        for upstream in &gateway.upstreams {
            for (server, healthy) in upstream.servers() {
                tell(Polled::UpstreamHealthy, &[upstream.name(), server], if healthy { 1.0 } else { 0.0 });
            }
            for on in RetryOn::ALL {
                let retries =
                    upstream.retries().find(|(word, _)| *word == on.as_str()).map_or(0, |(_, number)| number);
                tell(Polled::Retries, &[upstream.name(), on.as_str()], count(retries));
            }
        }
    });
}

/// Prometheus knows doubles only; a count that large loses its last digits.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows doubles only")]
fn count(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows doubles only; what fits into memory fits")]
fn size(number: usize) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows doubles only; seconds fit")]
fn seconds(number: i64) -> f64 {
    number as f64
}

/// Made if it is not there; a file is written to it and removed, so that a wrong owner is known before anything is served.
fn state_is_writable(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let probe = directory.join(format!(".probe-{}", std::process::id()));
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(probe)
}
