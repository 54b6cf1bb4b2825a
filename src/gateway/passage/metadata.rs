//! Metadata of protected resources (RFC 9728): where a client gets the token that a route wants.
//!
//! Nothing is configured for it. The address in a challenge is made of the request's own path, and what is answered there is what
//! the route of that path asks: `resource` is the address that the client was refused at, as RFC 9728 §3.3 has it compared.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CACHE_CONTROL,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::json;

use super::{Passage, Stop, step};
use crate::canonical::{self, Target};
use crate::client::Client;
use crate::gateway::Gateway;
use crate::gateway::route::Route;
use crate::policy::auth::{Requirement, WELL_KNOWN, proof_algorithms};
use crate::policy::{Mode, Outcome};
use crate::reply::Reply;
use crate::request::{Arrival, Protocol};
use crate::route::{Found, Routes};

/// How many kinds of tokens are told of a host as a whole.
const KINDS_MAX: usize = 256;

/// How many routes are looked at that no request of their path comes to: those that others stand before.
const IN_VAIN_MAX: usize = 1024;

/// What tokens hosts take as a whole: found when it is asked for first, once for all hosts of a pattern, as it takes a look at each of their
/// routes.
#[derive(Debug)]
pub(in crate::gateway) struct Resources {
    /// By the class of hosts: routes that take tokens, one for each kind.
    kinds: HashMap<usize, OnceLock<Box<[usize]>>>,
}

impl Resources {
    pub(in crate::gateway) fn new(routes: &Routes) -> Self {
        Self { kinds: routes.classes().map(|class| (class, OnceLock::new())).collect() }
    }

    /// For the host of this target.
    fn of_host(&self, gateway: &Gateway, target: &Target) -> &[usize] {
        let cell = gateway.routes.class_of(target.host()).and_then(|class| self.kinds.get(&class));
        cell.map(|cell| &**cell.get_or_init(|| kinds_of(gateway, target))).unwrap_or_default()
    }
}

/// One route for each kind of tokens, where a request of its path may come to it at all. Two routes with other lists of addresses are of
/// two kinds: who is told of the one may not be told of the other.
fn kinds_of(gateway: &Gateway, target: &Target) -> Box<[usize]> {
    let mut seen = HashSet::new();
    let (mut kinds, mut in_vain) = (Vec::new(), 0);
    for index in gateway.routes.routes_of(target.host()) {
        let Some(route) = gateway.entries.get(index) else { continue };
        let Some(tokens) = route.auth.as_ref().and_then(Requirement::tokens) else { continue };
        let kind = (tokens, route.access.as_ref().map(Arc::as_ptr));
        if seen.contains(&kind) {
            continue;
        }
        let example = route.facts.resource_path.replace(['{', '}', '*'], "");
        if routes_at(gateway, target, &example).contains(&index) {
            seen.insert(kind);
            kinds.push(index);
        } else {
            in_vain += 1;
        }
        if kinds.len() == KINDS_MAX || in_vain == IN_VAIN_MAX {
            break;
        }
    }
    kinds.into()
}

impl Passage {
    /// Answers a request for metadata, unless a route is for exactly that address. Only reads are answered, and what may be asked.
    pub(super) fn resource_metadata(
        &mut self,
        gateway: &Gateway,
        arrival: &Arrival<'_>,
        client: &Client,
        target: &Target,
    ) -> Result<(), Stop> {
        let Some(path) = target.path().strip_prefix(WELL_KNOWN) else { return Ok(()) };
        let is_told = matches!(*arrival.method, Method::GET | Method::HEAD | Method::OPTIONS);
        if !is_told || !(path.is_empty() || path.starts_with('/')) || is_claimed(gateway, arrival, target) {
            return Ok(());
        }
        let mut routes = routes_of(gateway, target, path);
        // What some are not told is no shared cache's.
        let is_listed = routes.iter().any(|route| route.access.is_some());
        // Who may not come at all by the route's address list learns nothing of it.
        routes.retain(|route| {
            let list = route.access.as_ref().filter(|list| list.mode() == Mode::Enforce);
            list.is_none_or(|list| list.check(client.address).outcome == Outcome::Pass)
        });
        let told: Vec<_> = routes.iter().filter_map(|route| route.auth.as_ref()?.tokens()).collect();
        if told.is_empty() {
            return Ok(());
        }
        if *arrival.method == Method::OPTIONS {
            self.effects
                .note(|| step("resource_metadata", "answer", format!("what may be asked for {path}")));
            return Err(Stop::Answered(Box::new(options(arrival))));
        }
        let servers: BTreeSet<_> = told.iter().flat_map(|tokens| tokens.issuers.iter().copied()).collect();
        let scopes: BTreeSet<_> = told.iter().flat_map(|tokens| tokens.scopes.iter().map(|s| &**s)).collect();
        let methods: BTreeSet<_> = told.iter().flat_map(|tokens| tokens.methods.iter().copied()).collect();
        let scheme = if client.https { "https" } else { "http" };
        let mut body = json!({
            "resource": format!("{scheme}://{}{path}", target.authority()),
            "bearer_methods_supported": methods,
        });
        if let Some(body) = body.as_object_mut() {
            // Who issues tokens that a server is asked about need not be known.
            if !servers.is_empty() {
                body.insert("authorization_servers".to_owned(), json!(servers));
            }
            if !scopes.is_empty() {
                body.insert("scopes_supported".to_owned(), json!(scopes));
            }
            if told.iter().any(|tokens| tokens.proofs) {
                let algorithms = proof_algorithms();
                let algorithms: Vec<_> = algorithms.split(' ').collect();
                body.insert("dpop_signing_alg_values_supported".to_owned(), json!(algorithms));
                let required = told.iter().all(|tokens| tokens.proofs_required);
                body.insert("dpop_bound_access_tokens_required".to_owned(), json!(required));
            }
        }
        self.effects.note(|| step("resource_metadata", "answer", format!("for {path}")));
        let json = HeaderValue::from_static("application/json");
        let mut reply = Reply::new(StatusCode::OK, json, format!("{body}\n"));
        let caching = if is_listed { "private, max-age=3600" } else { "max-age=3600" };
        reply.headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
        // Public, and for clients in browsers too.
        reply.headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        Err(Stop::Answered(Box::new(reply)))
    }
}

/// What may be asked (RFC 9110 §9.3.7), and a page's browser that it may ask it: clients there send fields of their own.
fn options(arrival: &Arrival<'_>) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    if arrival.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    }
    Reply { status: StatusCode::NO_CONTENT, headers, body: bytes::Bytes::new() }
}

/// Whether a route names the well-known path itself; one for every path does not.
fn is_claimed(gateway: &Gateway, arrival: &Arrival<'_>, target: &Target) -> bool {
    let is_found = |method: &Method| match gateway.routes.find(method, target, arrival.headers) {
        Found::Route { index, .. } => gateway
            .entries
            .get(index)
            .is_some_and(|route| route.facts.resource_path.starts_with("/.well-known/")),
        Found::MethodNotAllowed { .. } | Found::NotFound => false,
    };
    // Whoever answers a read says what else may be asked.
    is_found(arrival.method) || is_found(&Method::GET)
}

/// The routes of a resource: those of its path; for a host as a whole, where its root has none, those that stand for what the host takes.
fn routes_of<'g>(gateway: &'g Gateway, target: &Target, path: &str) -> Vec<&'g Route> {
    let found = routes_at(gateway, target, if path.is_empty() { "/" } else { path });
    let indexes = match (found.is_empty(), path.is_empty()) {
        (true, true) => gateway.resources.of_host(gateway, target).to_vec(),
        _ => found,
    };
    indexes.into_iter().filter_map(|index| gateway.entries.get(index)).map(|route| &**route).collect()
}

/// Whoever is refused at a path is sent here with the path alone: what else his route wants of a request is not asked.
fn routes_at(gateway: &Gateway, target: &Target, path: &str) -> Vec<usize> {
    let none = HeaderMap::new();
    let host = Some(target.authority());
    let asked = canonical::target(&Method::GET, path.as_bytes(), host, &none, Protocol::Http2, usize::MAX);
    asked.map(|asked| gateway.routes.routes_at(&asked)).unwrap_or_default()
}
