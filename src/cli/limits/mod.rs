//! `portcullis limits`: from access logs, how often keys ask, what limits have refused or would have, and a limit that few would
//! have met.
//!
//! The log is read once. Of each request a time and the hash of its key go, in order, into a file without a name in the directory for
//! temporary files; a proposed limit is asked about each of them. Memory stays below 256 MiB, whatever the log's length.

mod log;
mod propose;
mod replay;
mod sample;
mod tell;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::keys::Failed;
use super::{ConfigFile, USAGE};
use crate::client;
use crate::config::units::Time;
use crate::config::{Build, OrNone, Site, Spanned};
use crate::gateway::Gateway;
use crate::gateway::document::Document;
use crate::policy::rate_limit::{Config, HashKey, KeyHash};
use crate::state::Live;
use log::{Line, Logs, Said};
use replay::{Order, Request, Spool};
use sample::{KEYS_MAX, Sample, Top};

/// Policies and reasons that are told apart: more than any configuration that can be read by people has.
const REFUSALS_MAX: usize = 256;
/// Windows that requests are counted in.
const WINDOWS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(31 * 86_400));
/// Bytes of a key, as it is shown.
const SHOWN_MAX: usize = 64;

#[derive(Debug, Args)]
pub(super) struct Limits {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// An access log, as `log.access.format: json` writes it; `-` is standard input. May be given several times, also of several
    /// gateways [default: what `log.access.to` names, else standard input]
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// What requests are counted by; several with commas. Who has no such value is counted by client
    #[arg(long, value_name = "KEY", value_enum, value_delimiter = ',', default_value = "client")]
    key: Vec<Part>,
    /// The time in which they are counted, from 1s to 31d
    #[arg(long, value_name = "TIME", default_value = "1s")]
    per: String,
    /// The share of keys, in per cent, that the proposed limit refuses nothing
    #[arg(long, value_name = "PERCENT", default_value_t = 99.9)]
    percentile: f64,
    /// Only requests of this route
    #[arg(long, value_name = "ROUTE")]
    route: Option<String>,
    /// Only requests that ended in one of these, as `count: {status: …}` counts them
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<u16>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// A part of a key that the access log tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Part {
    /// The client's address, of IPv6 a network of 64 bits
    Client,
    /// Who it is
    Identity,
    /// The API key's id
    ApiKey,
    /// The route
    Route,
    /// The host
    Host,
}

/// What a log tells.
struct Told {
    read: u64,
    malformed: u64,
    late: u64,
    /// Milliseconds since 1970: of the first request that counts, and of the last.
    times: Option<(u64, u64)>,
    keys: Sample<Known>,
    spool: Spool,
    refusals: BTreeMap<Refused, Count>,
}

/// What is known of a key.
struct Known {
    shown: Box<str>,
    window: u64,
    count: u32,
    busiest: u32,
}

/// Who has refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Refused {
    policy: Box<str>,
    reason: Box<str>,
    /// Whether it only would have.
    shadowed: bool,
}

/// How often, and whom.
#[derive(Default)]
struct Count {
    requests: u64,
    clients: Top<IpAddr>,
}

/// What of the configuration matters here.
struct Place {
    limits: BTreeMap<String, Spanned<Config>>,
    /// Where plans are written, by name.
    plans: BTreeMap<String, Site>,
    /// The access log's file, and whether its lines can be read.
    log: Option<PathBuf>,
    is_json: bool,
}

/// 0: told; 64: usage or configuration; 1: anything else.
pub(super) fn limits(asked: &Limits, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let mut build = Build::default();
    let place = asked.file.compile(&mut build, |document, build| {
        Gateway::compile(document, &Live::default(), 0, build)?;
        Some(Place::of(document, build))
    });
    let Some(place) = place else {
        let _ = write!(err, "{}", build.errors.render(&build.sources));
        return USAGE;
    };
    run(asked, &place, out).map_or_else(|failed| failed.tell(err), |()| 0)
}

fn run(asked: &Limits, place: &Place, out: &mut dyn Write) -> Result<(), Failed> {
    let usage = |cause: &str, cure: &str| Failed::usage((cause.to_owned(), cure.to_owned()));
    let (shortest, longest) = WINDOWS;
    let per = Time::parse(&asked.per).map(|Time(per)| per).filter(|per| (shortest..=longest).contains(per));
    let per = per.ok_or_else(|| usage("`--per` is no duration from `1s` to `31d`", "write such as `1m`"))?;
    if !(asked.percentile > 0.0 && asked.percentile <= 100.0) {
        return Err(usage("`--percentile` is not above 0 and at most 100", "write such as `99.9`"));
    }
    if asked.key.iter().enumerate().any(|(at, part)| asked.key.iter().take(at).any(|other| other == part)) {
        return Err(usage("a part of `--key` stands there twice", "name each part once"));
    }
    let mut paths = asked.logs.clone();
    if paths.is_empty() {
        paths.push(place.log.clone().unwrap_or_else(|| PathBuf::from("-")));
    }
    let stdin = paths.iter().filter(|path| path.as_os_str() == "-").count();
    if stdin > 1 {
        return Err(usage("standard input can be read once", "name it once"));
    }
    if stdin == 1 && asked.logs.is_empty() && io::stdin().is_terminal() {
        let cause = "the access log goes to no file, and nothing comes by standard input";
        return Err(usage(cause, "name one with `--log FILE`"));
    }
    let Some(secret) = HashKey::random() else {
        return Err(Failed::new("this machine has no randomness to hash keys with"));
    };
    let mut told = read(asked, per, &secret, paths.iter().map(PathBuf::as_path))?;
    if told.read == told.malformed {
        let cause = match told.read {
            0 => "the log is empty".to_owned(),
            lines => format!(
                "none of {lines} lines is one of an access log as `log.access.format: json` writes it"
            ),
        };
        let cure = match place.is_json {
            true => "name another with `--log`",
            false => "set `log.access.format: json`; what was written before cannot be read",
        };
        return Err(Failed::with_cure(cause, cure));
    }
    let proposal = propose::propose(&mut told, per, asked.percentile).map_err(|error| spoiled(&error))?;
    if asked.json {
        writeln!(out, "{:#}", tell::as_json(asked, per, &told, proposal.as_ref()))?;
    } else {
        tell::tell(asked, per, place, &told, proposal.as_ref(), out)?;
    }
    out.flush()?;
    Ok(())
}

fn read<'a>(
    asked: &Limits,
    per: Duration,
    secret: &HashKey,
    paths: impl Iterator<Item = &'a Path>,
) -> Result<Told, Failed> {
    let unread =
        |(name, error): (String, io::Error)| Failed::new(format!("`{name}` cannot be read: {error}"));
    let mut logs = Logs::new();
    for path in paths {
        logs.open(path).map_err(unread)?;
    }
    let mut told = Told {
        read: 0,
        malformed: 0,
        late: 0,
        times: None,
        keys: Sample::new(KEYS_MAX),
        spool: Spool::new().map_err(|error| spoiled(&error))?,
        refusals: BTreeMap::new(),
    };
    let (mut order, window) = (Order::default(), u64::try_from(per.as_millis()).unwrap_or(u64::MAX));
    while let Some(request) = logs.next(|line| told.take(line, asked, secret)).map_err(unread)? {
        if let Some(request) = request.and_then(|request| order.push(request)) {
            told.count(request, window).map_err(|error| spoiled(&error))?;
        }
    }
    while let Some(request) = order.pop() {
        told.count(request, window).map_err(|error| spoiled(&error))?;
    }
    (told.read, told.malformed, told.late) = (logs.lines, logs.malformed, order.late);
    Ok(told)
}

fn spoiled(error: &io::Error) -> Failed {
    let directory = std::env::temp_dir();
    Failed::with_cure(
        format!("no file in `{}` can be used: {error}", directory.display()),
        "24 bytes a request are needed there; `TMPDIR` names another directory",
    )
}

impl Told {
    /// Notes what has refused a request, or would have. None where it is none of those that are asked about.
    fn take(&mut self, line: &Line<'_>, asked: &Limits, secret: &HashKey) -> Option<Request> {
        let route = line.route.as_deref();
        if asked.route.as_deref().is_some_and(|wanted| route != Some(wanted))
            || (!asked.status.is_empty() && !line.status.is_some_and(|status| asked.status.contains(&status)))
        {
            return None;
        }
        let client = line.client();
        let said =
            line.error.iter().map(|said| (said, false)).chain(line.would.iter().map(|said| (said, true)));
        for (said, shadowed) in said.take(64) {
            self.note(said, shadowed, client);
        }
        let (key, shown) = key_of(&asked.key, line, client, secret);
        self.keys.of(key, || Known { shown: shown().into(), window: u64::MAX, count: 0, busiest: 0 });
        Some(Request::new(line.request_time_epoch, key))
    }

    fn note(&mut self, said: &Said<'_>, shadowed: bool, client: IpAddr) {
        let is_limit = |policy: &&str| policy.starts_with("rate_limits.") || policy.starts_with("plans.");
        let Some(policy) = said.policy.as_deref().filter(is_limit) else { return };
        let refused = Refused { policy: shown(policy).into(), reason: shown(&said.reason).into(), shadowed };
        if self.refusals.len() >= REFUSALS_MAX && !self.refusals.contains_key(&refused) {
            return;
        }
        let count = self.refusals.entry(refused).or_default();
        count.requests += 1;
        count.clients.count(client::subscriber(client));
    }

    /// In order: what is busiest of a key, in windows that begin with the same moment for all.
    fn count(&mut self, request: Request, window: u64) -> io::Result<()> {
        let (first, _) = self.times.unwrap_or((request.at, request.at));
        self.times = Some((first, request.at));
        if let Some(known) = self.keys.get_mut(request.key()) {
            let number = request.at / window.max(1);
            known.count = if known.window == number { known.count.saturating_add(1) } else { 1 };
            known.window = number;
            known.busiest = known.busiest.max(known.count);
        }
        self.spool.write(request)
    }
}

/// A subscriber as it is shown: an address, or a network of IPv6.
fn network(subscriber: IpAddr) -> String {
    format!("{subscriber}{}", if subscriber.is_ipv6() { "/64" } else { "" })
}

/// A request's key as limits make it, and how it is shown.
fn key_of<'a>(
    parts: &'a [Part],
    line: &'a Line<'_>,
    client: IpAddr,
    secret: &HashKey,
) -> (KeyHash, impl FnOnce() -> String + 'a) {
    let subscriber = client::subscriber(client);
    let mut hasher = secret.hasher();
    for part in parts {
        match part.of(line) {
            Some(value) => {
                hasher.part(&[*part as u8]);
                hasher.part(value.as_bytes());
            }
            None => {
                // Nobody is called so: every other part has its own byte before it.
                hasher.part(&[0x80 | *part as u8]);
                hasher.part(subscriber.to_string().as_bytes());
            }
        }
    }
    let text = move || {
        let of = |part: &Part| match part.of(line) {
            Some(value) => shown(value),
            None => network(subscriber),
        };
        shown(&parts.iter().map(of).collect::<Vec<_>>().join(" "))
    };
    (hasher.finish(0), text)
}

impl Part {
    /// Its value; none where the client stands in for it.
    fn of<'a>(self, line: &'a Line<'_>) -> Option<&'a str> {
        let value = match self {
            Self::Client => None,
            Self::Identity => line.identity.user.as_deref(),
            Self::ApiKey => line.identity.api_key_id.as_deref(),
            Self::Route => line.route.as_deref(),
            Self::Host => line.domain_name.as_deref(),
        };
        value.filter(|value| !value.is_empty())
    }

    /// As a configuration has it.
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Identity => "identity",
            Self::ApiKey => "api_key",
            Self::Route => "route",
            Self::Host => "host",
        }
    }
}

impl Place {
    fn of(document: &Document, build: &Build) -> Self {
        let access = &document.log.access;
        let log = match &access.to {
            OrNone::Some(to) if !matches!(to.value.as_str(), "stdout" | "stderr") => {
                Some(build.files.resolve(&to.site, &to.value))
            }
            OrNone::Some(_) | OrNone::None => None,
        };
        let policies = &document.policies;
        let plans = policies.plans.iter().map(|(name, plan)| (name.clone(), plan.site.clone())).collect();
        let is_json = access.format.value == "json";
        Self { limits: policies.rate_limits.clone(), plans, log, is_json }
    }
}

/// What a log says, as it may be shown on a terminal: printable ASCII, and not much of it.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if shown.len() >= SHOWN_MAX {
            shown.push_str("...");
            break;
        }
        match c {
            ' '..='~' => shown.push(c),
            other => shown.extend(other.escape_unicode()),
        }
    }
    shown
}

#[cfg(test)]
mod tests;
