//! The door: whose request it is, in which form, and for which route.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, LOCATION, ORIGIN, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::head::{default_host, header_limits, unmistakable, without_underscores};
use super::{Passage, Stop, step};
use crate::canonical::{self, Denial, Fault, Oddities, Oddity, Target};
use crate::client::{self, Client, Trusted};
use crate::gateway::document::RedirectToHttps;
use crate::gateway::{Gateway, Listener};
use crate::identity::Identity;
use crate::policy::Step;
use crate::policy::cors;
use crate::policy::rate_limit::{Facts, Place};
use crate::reply::{Kind, Preference, Refusal, Reply};
use crate::request::{Arrival, Connection, Request};
use crate::route::Found;

impl Passage {
    pub(super) fn note_arrival(&mut self, arrival: &Arrival<'_>) {
        self.record.method = Some(arrival.method.clone());
        self.record.protocol = Some(arrival.protocol);
        self.record.user_agent = arrival.headers.get(USER_AGENT).cloned();
        // Two origins are none: an answer to the first would be readable by it.
        let mut origins = arrival.headers.get_all(ORIGIN).iter();
        self.origin = origins.next().filter(|_| origins.next().is_none()).cloned();
        self.wants = Preference::of(arrival.headers);
    }

    /// What is known of a request before anybody is asked whether it may pass.
    ///
    /// # Errors
    /// It has no one meaning, or comes by a connection that may not bring it.
    pub(super) fn read(
        &mut self,
        arrival: &Arrival<'_>,
        gateway: &Gateway,
        listener: Option<&Arc<Listener>>,
    ) -> Result<Read, Box<Refusal>> {
        let client = determine(arrival, listener);
        self.ahead = gateway.edge_limits.as_ref().map(|limits| limits.ahead(client.address));
        let target = Arc::new(self.canonical(arrival, listener)?);
        self.record.target = Some(Arc::clone(&target));
        let kept = without_underscores(arrival.headers, gateway.settings.underscores)?;
        let arrival = &Arrival { headers: kept.as_ref().unwrap_or(arrival.headers), ..*arrival };
        let client = self.known(client, arrival);
        self.client_certificate(arrival.connection, listener, &target)?;
        Ok(Read { target, kept, client })
    }

    /// The edge's limits hold for what the door refuses, too: whoever sends nothing else is slowed as well. Nothing that such a request
    /// says is a key's value; its client takes the place of each. It needs no slot.
    pub(super) async fn at_door(&mut self, gateway: &Gateway, client: IpAddr, refusal: Refusal) -> Refusal {
        let Some(limits) = &gateway.edge_limits else { return refusal };
        let (headers, method) = (HeaderMap::new(), self.record.method.clone().unwrap_or_default());
        let facts = Facts {
            client,
            method: &method,
            host: "",
            headers: &headers,
            route: None,
            identity: None,
            api_key: None,
            ahead: None,
        };
        match limits.check_refused(Place::Edge, &facts, &mut self.effects).await {
            Ok(()) => refusal,
            Err(limited) => {
                self.ambiguous = refusal.kind == Kind::AmbiguousRequest;
                limited
            }
        }
    }

    /// As [`Passage::refuse`], for a request that goes no further than the rim: `headers` are there where it was one that could be
    /// read. Where the peer speaks for others and they are not, nobody knows whose it is, and no limit is asked.
    pub async fn refuse_at_door(
        &mut self,
        connection: &Connection,
        headers: Option<&HeaderMap>,
        mut refusal: Refusal,
    ) -> Reply {
        let gateway = Arc::clone(&self.gateway);
        if gateway.edge_limits.is_some() {
            let (nobody, none) = (Trusted::default(), HeaderMap::new());
            let trusted =
                gateway.listener(&connection.listener).map_or(&nobody, |listener| &listener.trusted);
            let fields = headers.unwrap_or(&none);
            let client = client::determine(connection.peer, connection.tls.is_some(), fields, trusted);
            if headers.is_some() || !client.peer_trusted {
                self.record.client = Some(client.address);
                refusal = self.at_door(&gateway, client.address, refusal).await;
            }
        }
        self.refuse(refusal)
    }

    fn canonical(
        &mut self,
        arrival: &Arrival<'_>,
        listener: Option<&Arc<Listener>>,
    ) -> Result<Target, Refusal> {
        let limits = &self.gateway.settings;
        header_limits(arrival.headers, limits)?;
        unmistakable(arrival)?;
        if matches!(*arrival.method, Method::TRACE | Method::CONNECT) {
            let message = format!("{} is not served", arrival.method);
            let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            return Err(Refusal::new(Kind::MethodNotAllowed, "method_never_allowed", message)
                .with_header(http::header::ALLOW, allow));
        }
        let Arrival { method, target, headers, protocol, .. } = *arrival;
        let authority = arrival.authority.or_else(|| default_host(arrival, listener));
        let target = canonical::target(method, target, authority, headers, protocol, limits.uri_bytes)
            .map_err(denied)?;
        self.effects.note(|| {
            let query = target.query().map(|query| format!("?{query}")).unwrap_or_default();
            step("canonical", "pass", format!("{} {}{query}", target.host(), target.path()))
        });
        Ok(target)
    }

    pub(super) fn client(&mut self, arrival: &Arrival<'_>, listener: Option<&Arc<Listener>>) -> Client {
        self.known(determine(arrival, listener), arrival)
    }

    fn known(&mut self, client: Client, arrival: &Arrival<'_>) -> Client {
        self.record.client = Some(client.address);
        if client.peer_trusted {
            self.record.request_id = client::request_id(arrival.headers, true);
        }
        self.effects.note(|| {
            let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let direct = arrival.connection.peer.map_or(local, |peer| peer.ip().to_canonical());
            let is_named = client.address != direct;
            let word = match (client.peer_trusted, is_named) {
                (true, true) => "named by a trusted proxy",
                (true, false) => "a trusted proxy itself, which names nobody",
                (false, _) => "the peer itself",
            };
            step("client", "pass", format!("{} ({word})", client.address))
        });
        self.client = Some(client.clone());
        client
    }

    pub(super) async fn edge(&mut self, gateway: &Gateway, request: &Request<'_>) -> Result<(), Stop> {
        if let Some(access) = &gateway.edge_access {
            self.effects.judge(access.name(), access.mode(), access.check(request.client_ip()))?;
        }
        if let Some(limits) = &gateway.edge_limits {
            let facts = Facts { ahead: self.ahead.as_ref(), ..facts(request, None, None) };
            limits.check(Place::Edge, &facts, &mut self.effects).await?;
        }
        Ok(())
    }

    /// 308 keeps the method (RFC 9110 §15.4.9).
    pub(super) fn redirect_to_https(
        &mut self,
        port: Option<u16>,
        client: &Client,
        target: &Target,
    ) -> Result<(), Stop> {
        let Some(port) = port else { return Ok(()) };
        if client.https {
            return Ok(()); // A trusted proxy in front has ended TLS already: redirecting would go in circles.
        }
        if target.path() == "*" {
            let message = "`*` names nothing that could be redirected to";
            return Err(Refusal::new(Kind::AmbiguousRequest, "host_missing", message).into());
        }
        let mut location = format!("https://{}", target.host());
        if port != 443 {
            location.push_str(&format!(":{port}"));
        }
        location.push_str(target.path());
        if let Some(query) = target.query() {
            location.push('?');
            location.push_str(query);
        }
        let mut headers = HeaderMap::new();
        match HeaderValue::from_str(&location) {
            Ok(value) => headers.insert(LOCATION, value),
            Err(_) => {
                return Err(Refusal::new(
                    Kind::AmbiguousRequest,
                    "target_invalid",
                    "the target fits no header",
                )
                .into());
            }
        };
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        self.effects.note(|| step("redirect_to_https", "answer", location));
        Err(Stop::Answered(Box::new(Reply {
            status: StatusCode::PERMANENT_REDIRECT,
            headers,
            body: bytes::Bytes::new(),
        })))
    }

    pub(super) fn route(
        &mut self,
        gateway: &Gateway,
        arrival: &Arrival<'_>,
        target: &Target,
    ) -> Result<usize, Stop> {
        let (found, preflight) = find(gateway, arrival, target);
        self.preflight = preflight;
        self.take(gateway, found, target)
    }

    /// Refuses what has two readings, unless the route takes it.
    pub(super) fn tolerated(
        &self,
        gateway: &Gateway,
        arrival: &Arrival<'_>,
        target: &Target,
        index: usize,
    ) -> Result<(), Refusal> {
        let Some(route) = gateway.entries.get(index) else { return Ok(()) };
        let mut seen = target.oddities();
        if !route.tolerated.contains(Oddity::PathParameters)
            && parameters_matter(gateway, arrival, target, index)
        {
            seen.insert(Oddity::PathParameters);
        }
        match seen.denial(route.tolerated, Some(&route.facts.name)) {
            Some(denial) => Err(Refusal { site: Some(route.facts.site.clone()), ..denied(denial) }),
            None => Ok(()),
        }
    }

    fn take(&mut self, gateway: &Gateway, found: Found<'_>, target: &Target) -> Result<usize, Stop> {
        match found {
            Found::Route { index, parameters } => {
                self.route = Some(index);
                if let Some(route) = gateway.entries.get(index) {
                    self.record.route = Some(Arc::clone(&route.facts));
                    self.effects.note(|| Step {
                        site: Some(route.facts.site.clone()),
                        ..step(
                            "route",
                            "pass",
                            format!("{} ({})", route.facts.name, route.facts.resource_path),
                        )
                    });
                }
                let parameters = parameters.iter(target.path());
                self.record
                    .parameters
                    .extend(parameters.map(|(name, value)| (Arc::clone(name), value.into())));
                Ok(index)
            }
            Found::MethodNotAllowed { allow } => {
                unmistaken(target)?;
                let message = format!("{} has no route for this method; it has {allow}", target.path());
                let mut refusal = Refusal::new(Kind::MethodNotAllowed, "method_not_allowed", message);
                if let Ok(value) = HeaderValue::from_str(&allow) {
                    refusal = refusal.with_header(http::header::ALLOW, value);
                }
                Err(refusal.into())
            }
            Found::NotFound => {
                unmistaken(target)?;
                let message = format!("no route for {}{}", target.host(), target.path());
                Err(Refusal::new(Kind::RouteNotFound, "no_route", message).into())
            }
        }
    }
}

/// A request that has one meaning, and whose it is.
pub(super) struct Read {
    pub(super) target: Arc<Target>,
    /// Its fields, where some of them are not to be seen.
    pub(super) kept: Option<HeaderMap>,
    pub(super) client: Client,
}

/// Whose request it is; its fields with `_` say nothing of that.
fn determine(arrival: &Arrival<'_>, listener: Option<&Arc<Listener>>) -> Client {
    let (connection, nobody) = (arrival.connection, Trusted::default());
    let trusted = listener.map_or(&nobody, |listener| &listener.trusted);
    client::determine(connection.peer, connection.tls.is_some(), arrival.headers, trusted)
}

/// What limits know of a request.
pub(super) fn facts<'a>(
    request: &Request<'a>,
    route: Option<&'a str>,
    identity: Option<&'a Identity>,
) -> Facts<'a> {
    Facts {
        client: request.client_ip(),
        method: request.method,
        host: request.target.host(),
        headers: request.headers,
        route,
        identity,
        api_key: None,
        ahead: None,
    }
}

/// The route that is meant, and whether the request was taken for a preflight.
fn find<'a>(gateway: &'a Gateway, arrival: &Arrival<'_>, target: &Target) -> (Found<'a>, bool) {
    let preflight = cors::is_preflight(arrival.method, arrival.headers);
    if let (true, Some(asked)) = (preflight, cors::requested_method(arrival.headers)) {
        let found = gateway.routes.find_preflight(&asked, target);
        let policy = |index: usize| gateway.entries.get(index).is_some_and(|route| route.cors.is_some());
        match found {
            // A route without a policy leaves preflights to its upstream: the request is an ordinary OPTIONS there.
            Found::Route { index, .. } if !policy(index) => {}
            found => return (found, true),
        }
    }
    (gateway.routes.find(arrival.method, target, arrival.headers), false)
}

/// Whether a server that cuts path parameters off would be asked for what another route, or none, is for. Routes are asked a
/// second time only where the path has any.
fn parameters_matter(gateway: &Gateway, arrival: &Arrival<'_>, target: &Target, index: usize) -> bool {
    match target.without_parameters() {
        None => false,
        Some(Err(_)) => true,
        Some(Ok(cut)) => match find(gateway, arrival, &cut).0 {
            Found::Route { index: other, .. } => other != index,
            Found::MethodNotAllowed { .. } | Found::NotFound => true,
        },
    }
}

/// A path with two readings has none that a 404 or 405 could speak of: it is 400 where no route has it.
fn unmistaken(target: &Target) -> Result<(), Refusal> {
    target.oddities().denial(Oddities::default(), None).map_or(Ok(()), |denial| Err(denied(denial)))
}

/// As the listener says now; as it said when the connection came, where it is no more.
pub(super) fn redirect_port(listener: Option<&Arc<Listener>>, connection: &Connection) -> Option<u16> {
    match listener.map(|listener| listener.redirect) {
        Some(RedirectToHttps::Port(port)) => Some(port),
        Some(RedirectToHttps::No) => None,
        None => connection.redirect,
    }
}

fn denied(denial: Denial) -> Refusal {
    let kind = match denial.fault {
        Fault::Ambiguous => Kind::AmbiguousRequest,
        Fault::UriTooLong => Kind::UriTooLong,
    };
    Refusal::new(kind, denial.reason, denial.message)
}
