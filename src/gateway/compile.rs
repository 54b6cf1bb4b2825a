//! A document → a gateway. Everything that can be wrong is found here, all of it at once; nothing is checked again later.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::document::{Document, Edge, Server, Workers};
use super::listener::{self, ListenAddress, listen_address};
use super::passage::Resources;
use super::route::{Route, path_of};
use super::{Gateway, SettingSites, Settings, account, bounds, identity, limits, names, plans, reasons};
use crate::config::units::Rate;
use crate::config::{Build, OrNone, Site, Spanned};
use crate::egress;
use crate::framing::Pace;
use crate::observe::Telling;
use crate::policy::access::Access;
use crate::policy::auth::identity_token::IdentityTokens;
use crate::policy::auth::{self, Auth};
use crate::policy::cors::Cors;
use crate::policy::headers::HeaderRules;
use crate::policy::rate_limit::{Fleet, Limits, RateLimit};
use crate::record::RouteFacts;
use crate::reply::Replies;
use crate::route::{RouteInput, Routes};
use crate::state::Live;
use crate::upstream::Upstream;

/// The policies of a document, compiled, by name. What could not be compiled is absent, and an error says why.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) auth: BTreeMap<String, Arc<Auth>>,
    pub(super) access: BTreeMap<String, Arc<Access>>,
    pub(super) cors: BTreeMap<String, Arc<Cors>>,
    pub(super) headers: BTreeMap<String, Arc<HeaderRules>>,
    pub(super) rate_limits: BTreeMap<String, Arc<RateLimit>>,
    pub(super) upstreams: BTreeMap<String, Arc<Upstream>>,
    pub(super) identity_tokens: Option<Arc<IdentityTokens>>,
    pub(super) fleet: Option<Arc<Fleet>>,
}

pub(super) fn compile(
    document: &Document,
    live: &Live,
    generation: u64,
    build: &mut Build,
) -> Option<Gateway> {
    let settings = settings(&document.server, build);
    let egress = egress::Policy::compile(&document.server.egress, &document.server.site, build);
    let listeners = listener::compile(&document.listeners, build);
    // Where the rules are wrong their error stops the load; until then nothing may be fetched.
    let egress = Arc::new(egress.unwrap_or_default());
    build.plans = document.policies.plans.keys().cloned().collect();
    let shelf = shelf(document, &egress, live, build);
    let plans = plans::compile(document, shelf.fleet.as_ref(), live, build);
    plans::keys_have_theirs(document, &plans, live, build);
    super::authentication::certificates_are_asked_for(document, build);
    bounds::check_tokens(document, build);
    let edge_access = edge(&document.edge, document, &shelf, build);
    let edge_limits = limits::of_edge(document, &shelf, build);
    let replies = Replies::compile(&document.server.problem_types, &document.replies, build);
    defaults(document, &shelf, build);
    let entries = routes(document, &edge_limits, &shelf, build);
    let identity_fields = identity::check(document, &shelf, &entries, build);
    let told_fields = identity::told(&shelf);
    identity::nothing_is_decided_by(&[&identity_fields, &told_fields], document, &entries, build);
    let key_places = auth::KeyPlaces::of(shelf.auth.values());
    let inputs: Vec<_> = entries
        .iter()
        .zip(&document.routes)
        .map(|(entry, written)| RouteInput {
            facts: Arc::clone(&entry.facts),
            matches: &written.matches,
            priority: written.priority,
            tolerated: entry.tolerated,
        })
        .collect();
    let routes = Routes::assemble(&inputs, build);
    if let Some(routes) = &routes {
        routes.check(build);
        super::route::check_preflights(routes, document, build);
    }
    limits::overridden_routes_exist(document, &shelf, build);
    plans::routes_exist(document, build);
    plans::overridden_plans_exist(document, build);
    plans::plans_of_tokens_bound_nothing(document, build);
    plans::names_are_apart(document, build);
    limits::tables_are_small(document, build);
    names::unused(document, build);
    names::logged_names_exist(document, build);
    names::header_names_exist(document, &shelf, &entries, build);
    let facts: Vec<_> = entries.iter().map(|entry| Arc::clone(&entry.facts)).collect();
    let upstreams: Vec<_> = shelf.upstreams.values().cloned().collect();
    let pools: Vec<_> = upstreams
        .iter()
        .map(|upstream| {
            (Arc::clone(upstream.name()), upstream.servers().map(|(name, _)| Arc::from(name)).collect())
        })
        .collect();
    let telling = Telling::compile(&facts, &pools, &reasons::policies(document), &document.log, live, build);
    if !build.errors.is_empty() {
        return None;
    }
    let routes = routes?;
    Some(Gateway {
        resources: Arc::new(Resources::new(&routes)),
        generation,
        hash: build.files.hash(),
        settings: settings?,
        listeners,
        has_queues: shelf.rate_limits.values().any(|limit| limit.waits()),
        limits: shelf.rate_limits.into_values().collect(),
        plans: Arc::new(plans),
        fleet: shelf.fleet,
        edge_access,
        edge_limits: Limits::new(&edge_limits, Vec::new(), false).map(Arc::new),
        replies: Arc::new(replies?),
        routes: Arc::new(routes),
        entries: entries.into_iter().map(Arc::new).collect(),
        upstreams,
        auth: shelf.auth.into_values().collect(),
        egress,
        identity_tokens: shelf.identity_tokens,
        identity_fields,
        told_fields,
        key_places,
        telling: Arc::new(telling?),
        former: OnceLock::new(),
        #[cfg(test)]
        settled: None,
    })
}

fn settings(server: &Spanned<Server>, build: &mut Build) -> Option<Settings> {
    let status = match &server.status {
        OrNone::None => None,
        OrNone::Some(written) => status_address(written, server, build),
    };
    let workers = match server.workers.value {
        Workers::Auto => std::thread::available_parallelism().map_or(1, usize::from),
        Workers::Number(number) => number,
    };
    let keep_alive = server.timeouts.keep_alive.0;
    if server.drain.value.0 < keep_alive {
        build.errors.warn(
            &server.drain.site,
            "server.drain",
            "draining ends before idle connections do: a client that never retries can lose a request at a restart",
            format!("make `drain` at least `timeouts.keep_alive` ({}s) and the longest request", keep_alive.as_secs()),
        );
    }
    for (name, time) in [
        ("handshake", server.timeouts.handshake),
        ("head", server.timeouts.head),
        ("body_grace", server.timeouts.body_grace),
        ("body_total", server.timeouts.body_total),
        ("keep_alive", server.timeouts.keep_alive),
        ("write_stall", server.timeouts.write_stall),
    ] {
        if time.0.is_zero() {
            let path = format!("server.timeouts.{name}");
            build.errors.push(
                &server.site,
                path,
                "a deadline of zero would end every connection",
                "write a duration such as `10s`",
            );
        }
    }
    if server.timeouts.body_rate.0 == 0 {
        build.errors.push(
            &server.site,
            "server.timeouts.body_rate",
            "a body that may come at no speed may hold its connection for ever",
            "write a speed such as `1KiB/s`; `1B/s` is the least",
        );
    }
    let bytes = |size: crate::config::units::Size| usize::try_from(size.0).unwrap_or(usize::MAX);
    let limits = server.limits;
    for (name, size, most) in [
        ("header_bytes", bytes(limits.header_bytes), 256 << 10),
        ("field_bytes", bytes(limits.field_bytes), 256 << 10),
        ("uri_bytes", bytes(limits.uri_bytes), 64 << 10),
    ] {
        if !(64..=most).contains(&size) {
            let path = format!("server.limits.{name}");
            let cause = format!("{size}B is out of range");
            build.errors.push(
                &server.site,
                path,
                cause,
                format!("write a size from `64B` to `{}KiB`", most >> 10),
            );
        }
    }
    resets_fit(limits.http2_resets, server, build);
    bounds::check(server, build);
    Some(Settings {
        workers,
        state: build.files.resolve(&server.state.site, &server.state),
        status,
        user: account::compile(&server.user, build),
        drain: server.drain.value.0,
        handshake: server.timeouts.handshake.0,
        head: server.timeouts.head.0,
        keep_alive,
        connections: limits.connections,
        connections_per_client: limits.connections_per_client,
        requests_in_flight: limits.requests_in_flight,
        http2_streams: limits.http2_streams,
        http2_resets: limits.http2_resets,
        header_fields: limits.header_fields,
        header_bytes: bytes(limits.header_bytes),
        field_bytes: bytes(limits.field_bytes),
        uri_bytes: bytes(limits.uri_bytes),
        requests_per_connection: limits.requests_per_connection,
        pace: Pace {
            rate: server.timeouts.body_rate.0,
            grace: server.timeouts.body_grace.0,
            total: server.timeouts.body_total.0,
        },
        write_stall: server.timeouts.write_stall.0,
        underscores: server.headers_with_underscores,
        sites: sites(server),
    })
}

/// The bound holds against floods: a rate that no flood would reach is a slip of the pen.
fn resets_fit(rate: Rate, server: &Spanned<Server>, build: &mut Build) {
    const MOST: u32 = 100_000;
    const LONGEST: Duration = Duration::from_secs(3600);
    if rate.count > MOST || rate.per > LONGEST {
        build.errors.push(
            &server.site,
            "server.limits.http2_resets",
            format!("{rate} bounds nothing"),
            format!("write at most `{MOST}/1h`; the default is `200/10s`"),
        );
    }
}

fn sites(server: &Spanned<Server>) -> SettingSites {
    let or_server = |site: &Site| if site.line == 0 { server.site.clone() } else { site.clone() };
    SettingSites {
        workers: or_server(&server.workers.site),
        state: or_server(&server.state.site),
        status: match &server.status {
            OrNone::None => server.site.clone(),
            OrNone::Some(written) => or_server(&written.site),
        },
        user: match &server.user {
            OrNone::None => server.site.clone(),
            OrNone::Some(written) => or_server(&written.site),
        },
    }
}

fn status_address(written: &Spanned<String>, server: &Server, build: &mut Build) -> Option<ListenAddress> {
    let address = listen_address(written, build)?;
    if let ListenAddress::Tcp(socket) = &address
        && !socket.ip().to_canonical().is_loopback()
        && !server.status_public
    {
        build.errors.push(
            &written.site,
            "server.status",
            format!("the status address {socket} can be reached from other machines"),
            "use a loopback address or `unix:/path`, or say `status_public: true`",
        );
        return None;
    }
    Some(address)
}

fn shelf(document: &Document, egress: &Arc<egress::Policy>, live: &Live, build: &mut Build) -> Shelf {
    let mut shelf = Shelf::default();
    let policies = &document.policies;
    for (name, config) in &policies.auth {
        name_is_sound(&config.path, name, &config.site, build);
        let mut context = auth::Context { live, egress, build };
        shelf.auth.extend(Auth::compile(name, config, &mut context).map(|p| (name.clone(), Arc::new(p))));
    }
    for (name, config) in &policies.access {
        name_is_sound(&config.path, name, &config.site, build);
        shelf.access.extend(Access::compile(name, config, build).map(|p| (name.clone(), Arc::new(p))));
    }
    for (name, config) in &policies.cors {
        name_is_sound(&config.path, name, &config.site, build);
        shelf.cors.extend(Cors::compile(name, config, build).map(|p| (name.clone(), Arc::new(p))));
    }
    for (name, config) in &policies.headers {
        name_is_sound(&config.path, name, &config.site, build);
        shelf.headers.extend(HeaderRules::compile(name, config, build).map(|p| (name.clone(), Arc::new(p))));
    }
    if let Some(config) = &document.server.identity_tokens {
        shelf.identity_tokens = IdentityTokens::compile(config, live, build).map(Arc::new);
    }
    if let Some(config) = &document.server.fleet {
        shelf.fleet = Fleet::compile(config, live, build).map(Arc::new);
    }
    let joins = shelf.fleet.is_some() || document.server.fleet.is_none();
    for (name, config) in &policies.rate_limits {
        name_is_sound(&config.path, name, &config.site, build);
        let limit = RateLimit::compile(name, config, live, build);
        // A store that is named and not sound has been complained about.
        let limit = limit.filter(|_| joins);
        let limit = limit.and_then(|limit| limit.join(name, config, shelf.fleet.as_ref(), live, build));
        shelf.rate_limits.extend(limit.map(|p| (name.clone(), Arc::new(p))));
    }
    for (name, config) in &document.upstreams {
        name_is_sound(&config.path, name, &config.site, build);
        shelf.upstreams.extend(Upstream::compile(name, config, live, build).map(|u| (name.clone(), u)));
    }
    shelf
}

/// Names become metric labels and parts of `KIND.NAME`: letters, digits, `_` and `-`.
pub(super) fn name_is_sound(path: &str, name: &str, site: &Site, build: &mut Build) {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    const CURE: &str = "use 1 to 64 letters, digits, `_` and `-`";
    if name.is_empty() {
        build.errors.push(site, path, "the name is empty", CURE);
    } else if matches!(name, "none" | "inherit") {
        build.errors.push(
            site,
            path,
            format!("`{name}` is a word of the configuration, not a name"),
            "choose another name",
        );
    } else if name.len() > 64 || !name.chars().all(sound) {
        build.errors.push(site, path, format!("`{name}` cannot be a name"), CURE);
    }
}

fn edge(edge: &Edge, document: &Document, shelf: &Shelf, build: &mut Build) -> Option<Arc<Access>> {
    let name = edge.access.as_option()?;
    find(name, &shelf.access, document.policies.access.keys(), "policies.access", build)
}

/// Names in `defaults` mean something, also where no route takes them over.
fn defaults(document: &Document, shelf: &Shelf, build: &mut Build) {
    let (defaults, policies) = (&document.defaults, &document.policies);
    if let Some(written) = &defaults.auth {
        super::authentication::compile(written, document, shelf, build);
    }
    if let Some(written) = defaults.forward_identity.as_option() {
        identity::compile(written, document, shelf, build);
    }
    if let Some(name) = defaults.access.as_option() {
        find(name, &shelf.access, policies.access.keys(), "policies.access", build);
    }
    if let Some(name) = defaults.cors.as_option() {
        find(name, &shelf.cors, policies.cors.keys(), "policies.cors", build);
    }
    for name in &defaults.headers {
        if name.value == "inherit" {
            let cause = "`inherit` stands for the defaults, and these are they";
            build.errors.push(
                &name.site,
                &*name.path,
                cause,
                "remove it; it belongs into a route's `headers`",
            );
        } else {
            find(name, &shelf.headers, policies.headers.keys(), "policies.headers", build);
        }
    }
    limits::of_defaults(document, shelf, build);
}

/// A policy by its name; an error that names the nearest where there is none.
pub(super) fn find<'a, T>(
    name: &Spanned<String>,
    shelf: &BTreeMap<String, Arc<T>>,
    written: impl Iterator<Item = &'a String>,
    kind: &str,
    build: &mut Build,
) -> Option<Arc<T>> {
    if let Some(found) = shelf.get(&name.value) {
        return Some(Arc::clone(found));
    }
    let names: BTreeSet<_> = written.map(String::as_str).collect();
    if names.contains(name.as_str()) {
        return None; // It was written, and its own errors say what is wrong with it.
    }
    let nearest = names.iter().min_by_key(|other| strsim::damerau_levenshtein(other, name)).copied();
    let cure = match nearest {
        Some(nearest) if strsim::damerau_levenshtein(nearest, name) <= 3 => {
            format!("did you mean `{nearest}`?")
        }
        _ if names.is_empty() => format!("define it under `{kind}`"),
        _ => format!(
            "define it under `{kind}`, or use one of: {}",
            names.into_iter().collect::<Vec<_>>().join(", ")
        ),
    };
    build.errors.push(&name.site, &*name.path, format!("there is no `{}` under `{kind}`", name.value), cure);
    None
}

fn routes(
    document: &Document,
    edge_limits: &[Arc<RateLimit>],
    shelf: &Shelf,
    build: &mut Build,
) -> Vec<Route> {
    if document.routes.is_empty() {
        let cure = "write `routes:` with at least one route";
        build.errors.push(
            &Site::default_value(),
            "routes",
            "there is no route: every request would be answered 404",
            cure,
        );
    }
    let mut seen: BTreeMap<&str, &Site> = BTreeMap::new();
    let mut routes = Vec::with_capacity(document.routes.len());
    for (index, config) in document.routes.iter().enumerate() {
        name_is_sound(&config.name.path, &config.name, &config.name.site, build);
        if let Some(first) = seen.insert(&config.name.value, &config.site) {
            let cause = format!("the name `{}` is given twice; first at {first}", config.name.value);
            build.errors.push(
                &config.name.site,
                &*config.name.path,
                cause,
                "give each route a name of its own",
            );
        }
        routes.push(Route::compile(index, config, document, edge_limits, shelf, build));
    }
    routes
}

/// What a route is called, in log, metrics and explain.
pub(super) fn facts(index: usize, config: &Spanned<super::document::Route>) -> Arc<RouteFacts> {
    let path = path_of(config);
    Arc::new(RouteFacts {
        index,
        name: config.name.value.as_str().into(),
        resource_path: path.into(),
        labels: config.labels.iter().map(|(k, v)| (k.as_str().into(), v.value.as_str().into())).collect(),
        site: config.site.clone(),
    })
}

/// The path of the state directory, before anything else is compiled.
pub fn state_directory(document: &Document, build: &Build) -> PathBuf {
    build.files.resolve(&document.server.state.site, &document.server.state)
}
