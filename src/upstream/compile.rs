//! An upstream's configuration, checked and made ready.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::address::{Address, is_name};
use super::backlog::Waiting;
use super::balance::Turns;
use super::config::{Config, Health, Host, Server, Timeouts};
use super::health::{Check, Vitality};
use super::names::Addresses;
use super::pool::{self, Pool};
use super::retry::{Ledger, Retrying};
use super::tls::TlsClient;
use super::{Deadlines, Member, Upstream};
use crate::config::{Build, Errors, Spanned};
use crate::proxy_protocol::Version;
use crate::state::Live;

impl Upstream {
    /// Compiles an upstream. None when `build.errors` says why. What lives longer than a snapshot (addresses, verdicts, idle
    /// connections, counters) is found in `live`; background work begins where `live` has a runtime.
    pub fn compile(
        name: &str,
        config: &Spanned<Config>,
        live: &Live,
        build: &mut Build,
    ) -> Option<Arc<Self>> {
        let errors = &mut build.errors;
        let addresses = servers(config, errors);
        let turns = turns(config, errors);
        let host = host(&config.host, errors);
        let timeouts = timeouts(&config.timeouts, &config.path, errors);
        let kept = keep_alive(config, errors);
        let retries = retries(config, errors);
        let health = config.health.as_option().map(|health| check(health, errors));
        let tls = config.tls.as_option().map(|tls| TlsClient::compile(tls, build).map(Arc::new));
        let (addresses, turns, timeouts) = (addresses?, turns?, timeouts?);
        let (Some(()), Some(()), Some(())) = (host, kept, retries) else { return None };
        if matches!(tls, Some(None)) || matches!(health, Some(None)) {
            return None;
        }

        let name: Arc<str> = name.into();
        let tls = tls.flatten();
        let proxy = config.proxy_protocol.version();
        let members = config.servers.iter().zip(addresses).map(|(server, address)| {
            let written: Arc<str> = server.address.as_str().into();
            let addresses = Addresses::of(&address, live);
            let vitality = config.health.as_option().map(|health| {
                let host = match &config.host.value {
                    Host::Literal(host) => host,
                    Host::Keep | Host::Server => &server.address,
                };
                let check = Check::new(&name, &written, &address, host, health, tls.clone(), proxy);
                Vitality::of(check, &addresses, live)
            });
            Arc::new(Member { name: written, host: address.host, addresses, vitality })
        });
        Some(Arc::new(Self {
            servers: members.collect(),
            turns,
            site: config.site.clone(),
            host: config.host.value.clone(),
            timeouts,
            keep_alive: config.keep_alive,
            retrying: Retrying::new(&config.retries, ledger(&name, live)),
            pool: idle(&name, tls.as_deref(), proxy, live),
            waiting: Waiting::of(live),
            tls,
            proxy,
            name,
        }))
    }
}

/// Counters are the name's: they go on when servers come and go.
fn ledger(name: &str, live: &Live) -> Arc<Ledger> {
    live.find_or("upstream.retries", name, || Ledger::new(Instant::now()))
}

/// Idle connections are used again only under the same name, the same TLS and the same PROXY protocol: what was verified, or said,
/// under one rule must not serve under another.
fn idle(name: &str, tls: Option<&TlsClient>, proxy: Option<Version>, live: &Live) -> Arc<Pool> {
    let key = format!("{name} {proxy:?} {}", tls.map_or("", TlsClient::identity));
    let mut fresh = false;
    let pool = live.find_or("upstream.pool", &key, || {
        fresh = true;
        Pool::new()
    });
    if let (true, Some(runtime)) = (fresh, live.runtime()) {
        runtime.spawn(pool::sweep(Arc::downgrade(&pool)));
    }
    pool
}

fn servers(config: &Spanned<Config>, errors: &mut Errors) -> Option<Vec<Address>> {
    if config.servers.is_empty() {
        errors.push(
            &config.site,
            format!("{}.servers", config.path),
            "an upstream without servers serves nothing",
            "list at least one `host:port`",
        );
        return None;
    }
    let mut seen: HashMap<Address, &Spanned<Server>> = HashMap::new();
    let mut list = Vec::with_capacity(config.servers.len());
    for server in &config.servers {
        match Address::parse(&server.address) {
            Err(malformed) => {
                // Of the short form, `host:port` alone, the loader makes the element itself.
                let path = format!("{}.address", server.path);
                errors.push(&server.site, path, malformed.cause, malformed.cure);
            }
            Ok(address) => {
                if let Some(first) = seen.insert(address.clone(), server) {
                    errors.push(
                        &server.site,
                        &*server.path,
                        format!("the server `{}` is given twice; first at {}", server.address, first.site),
                        "name each server once; its share is its `weight`",
                    );
                }
                list.push(address);
            }
        }
    }
    (list.len() == config.servers.len() && seen.len() == list.len()).then_some(list)
}

fn turns(config: &Spanned<Config>, errors: &mut Errors) -> Option<Turns> {
    let heavy: Vec<_> = config.servers.iter().filter(|server| server.weight > 1000).collect();
    for server in &heavy {
        errors.push(
            &server.site,
            format!("{}.weight", server.path),
            format!("weight {} is too large", server.weight),
            "write a number from 0 to 1000",
        );
    }
    let weights: Vec<_> = config.servers.iter().map(|server| server.weight.min(1000)).collect();
    let turns = Turns::new(&weights);
    if turns.is_none() && !weights.is_empty() {
        errors.push(
            &config.site,
            format!("{}.servers", config.path),
            "every server has weight 0, so none would ever be asked",
            "give at least one server a weight of 1 or more",
        );
    }
    turns.filter(|_| heavy.is_empty())
}

fn host(host: &Spanned<Host>, errors: &mut Errors) -> Option<()> {
    let Host::Literal(text) = &host.value else { return Some(()) };
    let valid = is_name(text)
        || Address::parse(text).is_ok()
        || text.parse::<std::net::Ipv4Addr>().is_ok()
        || text
            .strip_prefix('[')
            .and_then(|t| t.strip_suffix(']'))
            .is_some_and(|t| t.parse::<std::net::Ipv6Addr>().is_ok());
    if valid {
        return Some(());
    }
    errors.push(
        &host.site,
        &*host.path,
        format!("`{text}` is not a host"),
        "write `keep`, `server`, or a host such as `api.internal`",
    );
    None
}

fn timeouts(config: &Spanned<Timeouts>, upstream: &str, errors: &mut Errors) -> Option<Deadlines> {
    let base = if config.path.is_empty() { format!("{upstream}.timeouts") } else { config.path.to_string() };
    let Timeouts { connect, read, total } = config.value;
    let mut right = true;
    for (key, time) in [("connect", connect), ("read", read), ("total", total)] {
        if time.0.is_zero() {
            right = false;
            errors.push(
                &config.site,
                format!("{base}.{key}"),
                "a timeout of zero fails every request",
                "write a duration such as `1s`",
            );
        }
    }
    // `read` may well be longer: it goes on between bytes when the head has come.
    if right && connect > total {
        errors.warn(
            &config.site,
            format!("{base}.connect"),
            "`connect` is longer than `total`, which ends first",
            "raise `total`, or lower `connect`",
        );
    }
    right.then_some(Deadlines { connect: connect.0, read: read.0, total: total.0 })
}

fn keep_alive(config: &Spanned<Config>, errors: &mut Errors) -> Option<()> {
    if !config.keep_alive.idle.0.is_zero() {
        return Some(());
    }
    errors.push(
        &config.site,
        format!("{}.keep_alive.idle", config.path),
        "connections cannot be kept for no time",
        "write a duration such as `60s`, or `connections: 0` to keep none",
    );
    None
}

fn retries(config: &Spanned<Config>, errors: &mut Errors) -> Option<()> {
    let retries = &config.retries;
    if (1..=10).contains(&retries.attempts) {
        return Some(());
    }
    errors.push(
        &retries.site,
        format!("{}.attempts", retries.path),
        format!("{} attempts are out of range", retries.attempts),
        "write a number from 1 (never tried again) to 10",
    );
    None
}

fn check(config: &Spanned<Health>, errors: &mut Errors) -> Option<()> {
    let mut right = true;
    let mut wrong = |key: &str, cause: String, cure: &'static str| {
        right = false;
        errors.push(&config.site, format!("{}.{key}", config.path), cause, cure);
    };
    let path = &config.value.path.value;
    if !path.starts_with('/') {
        wrong("path", format!("`{path}` does not start with `/`"), "write a path such as `/healthz`");
    } else if !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        wrong("path", format!("`{path}` holds what a path cannot"), "write it percent-encoded");
    }
    for (key, time) in [("interval", config.interval), ("timeout", config.timeout)] {
        if time.0 < Duration::from_millis(10) {
            wrong(key, "shorter than 10ms".to_owned(), "write a duration such as `1s`");
        }
    }
    for (key, count) in [("healthy_after", config.healthy_after), ("unhealthy_after", config.unhealthy_after)]
    {
        if !(1..=100).contains(&count) {
            wrong(key, format!("{count} is out of range"), "write a number from 1 to 100");
        }
    }
    if !(200..=599).contains(&config.status) {
        wrong(
            "status",
            format!("{} is not the status of an answer", config.status),
            "write a status such as 200",
        );
    }
    right.then_some(())
}
