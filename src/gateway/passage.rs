//! The way of one request, read top to bottom: from the door to its record.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, ORIGIN, USER_AGENT, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::document::RedirectToHttps;
use super::route::{Action, Route, UpstreamPath, redirect_reply};
use super::{Gateway, Listener};
use crate::canonical::{self, Denial, Fault, Oddities, Target};
use crate::client::{self, Client, Trusted, Upgrade};
use crate::framing;
use crate::policy::cors::{self, Preflight};
use crate::policy::{Effects, Step};
use crate::record::Record;
use crate::reply::{Kind, Refusal, Reply, Wants};
use crate::request::{Arrival, Connection, Fields, Protocol, Request};
use crate::route::Found;
use crate::upstream::{Host, Upstream};

/// The request id's field, to the client and to the upstream.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// One request on its way; owns what the phases share.
#[derive(Debug)]
pub struct Passage {
    /// The snapshot the request holds from start to end.
    pub gateway: Arc<Gateway>,
    /// The facts so far.
    pub record: Record,
    /// What the way leaves behind.
    pub effects: Effects,
    client: Option<Client>,
    route: Option<usize>,
    origin: Option<HeaderValue>,
    wants: Wants,
    listener: Arc<str>,
    peer: Option<SocketAddr>,
    preflight: bool,
    settled: bool,
}

/// What became of a request at the door.
#[derive(Debug)]
pub enum Admission {
    /// Answered here, whole: a refusal, a preflight, `respond`, `redirect`.
    Reply(Reply),
    /// To be answered with what was received ([`Passage::echo`] makes the reply once the body has been counted).
    Echo(Admitted),
    /// To be forwarded.
    Forward(Admitted),
}

/// Evidence that a request's head has passed every check; [`admit_body`] makes it an [`Admitted`].
#[derive(Debug)]
struct HeadAdmitted {
    route: usize,
}

/// Evidence that a request has passed every check. It cannot be made elsewhere, and serving takes it: skipping a check
/// does not compile.
#[derive(Debug)]
pub struct Admitted {
    gateway: Arc<Gateway>,
    route: usize,
}

impl Admitted {
    fn route(&self) -> Option<&Route> {
        self.gateway.entries.get(self.route).map(|route| &**route)
    }

    /// Where the request is to be forwarded; none on a route with another action.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        match &self.route()?.action {
            Action::Forward { upstream, .. } => Some(upstream),
            Action::Respond(_) | Action::Redirect { .. } | Action::Echo | Action::Missing => None,
        }
    }

    /// Whether the route lets a client switch to this protocol (lower case), such as `websocket`.
    pub fn permits_upgrade(&self, protocol: &str) -> bool {
        self.route().is_some_and(|route| route.permits_upgrade(protocol))
    }
}

impl Passage {
    /// A request that begins.
    pub fn new(
        gateway: Arc<Gateway>,
        connection: &Connection,
        started: Instant,
        started_at: SystemTime,
    ) -> Self {
        let mut record = Record::new(connection.worker, gateway.generation, started, started_at);
        record.tls.clone_from(&connection.tls);
        record.client = connection.peer.map(|peer| peer.ip().to_canonical());
        gateway.telling.metrics().begin(connection.worker);
        Self {
            gateway,
            record,
            effects: Effects::default(),
            client: None,
            route: None,
            origin: None,
            wants: Wants::Problem,
            listener: Arc::clone(&connection.listener),
            peer: connection.peer,
            preflight: false,
            settled: false,
        }
    }

    /// canonical → client → edge → route → policies. The answer, or the evidence that the request may be served.
    pub async fn admit(&mut self, arrival: &Arrival<'_>) -> Admission {
        let admitted = match self.judge(arrival).await {
            Ok(admitted) => admitted,
            Err(Stop::Refused(refusal)) => return Admission::Reply(self.refuse(*refusal)),
            Err(Stop::Answered(reply)) => return Admission::Reply(self.finish_reply(*reply)),
        };
        let gateway = Arc::clone(&self.gateway);
        match gateway.entries.get(admitted.route).map(|route| &route.action) {
            Some(Action::Forward { .. }) => Admission::Forward(admitted),
            Some(Action::Echo) => Admission::Echo(admitted),
            Some(Action::Respond(reply)) => Admission::Reply(self.finish_reply(reply.clone())),
            // A request of HTTP/1.0 need name no host, and `https:///x` would lead to the host `x`.
            Some(Action::Redirect { to, .. }) if self.is_hostless() && to.names_host() => {
                let message = "no host to redirect to";
                Admission::Reply(self.refuse(Refusal::new(Kind::AmbiguousRequest, "host_missing", message)))
            }
            Some(Action::Redirect { to, status }) => match redirect_reply(to, *status, &self.record) {
                Some(reply) => Admission::Reply(self.finish_reply(reply)),
                None => Admission::Reply(self.refuse(Refusal::new(
                    Kind::InternalError,
                    "redirect_invalid",
                    "the redirect's target came out as no header value",
                ))),
            },
            Some(Action::Missing) | None => Admission::Reply(self.refuse(Refusal::new(
                Kind::InternalError,
                "no_action",
                "the route has no action",
            ))),
        }
    }

    fn is_hostless(&self) -> bool {
        self.record.target.as_ref().is_none_or(|target| target.host().is_empty())
    }

    async fn judge(&mut self, arrival: &Arrival<'_>) -> Result<Admitted, Stop> {
        self.note_arrival(arrival);
        let gateway = Arc::clone(&self.gateway);
        let target = Arc::new(self.canonical(arrival)?);
        self.record.target = Some(Arc::clone(&target));
        let listener = gateway.listener(&arrival.connection.listener);
        let client = self.client(arrival, listener);
        self.edge(&gateway, &client)?;
        self.redirect_to_https(redirect_port(listener, arrival.connection), &client, &target)?;
        let route = self.route(&gateway, arrival, &target)?;
        tolerated(&target)?;
        let request = Request {
            method: arrival.method,
            target: &target,
            headers: arrival.headers,
            client: &client,
            protocol: arrival.protocol,
            connection: arrival.connection,
        };
        let head = self.admit_head(route, &request).await?;
        Ok(admit_body(gateway, head))
    }

    fn note_arrival(&mut self, arrival: &Arrival<'_>) {
        self.record.method = Some(arrival.method.clone());
        self.record.protocol = Some(arrival.protocol);
        self.record.user_agent = arrival.headers.get(USER_AGENT).cloned();
        // Two origins are none: an answer to the first would be readable by it.
        let mut origins = arrival.headers.get_all(ORIGIN).iter();
        self.origin = origins.next().filter(|_| origins.next().is_none()).cloned();
        self.wants = Wants::from_headers(arrival.headers);
    }

    fn canonical(&mut self, arrival: &Arrival<'_>) -> Result<Target, Stop> {
        let limits = &self.gateway.settings;
        header_limits(arrival.headers, limits)?;
        unmistakable(arrival)?;
        if matches!(*arrival.method, Method::TRACE | Method::CONNECT) {
            let message = format!("{} is not served", arrival.method);
            let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            return Err(Refusal::new(Kind::MethodNotAllowed, "method_never_allowed", message)
                .with_header(http::header::ALLOW, allow)
                .into());
        }
        let Arrival { method, target, authority, headers, protocol, .. } = *arrival;
        let target = canonical::target(method, target, authority, headers, protocol, limits.uri_bytes)
            .map_err(denied)?;
        self.effects.note(|| {
            let query = target.query().map(|query| format!("?{query}")).unwrap_or_default();
            step("canonical", "pass", format!("{} {}{query}", target.host(), target.path()))
        });
        Ok(target)
    }

    fn client(&mut self, arrival: &Arrival<'_>, listener: Option<&Arc<Listener>>) -> Client {
        let connection = arrival.connection;
        let nobody = Trusted::default();
        let trusted = listener.map_or(&nobody, |listener| &listener.trusted);
        let client = client::determine(connection.peer, connection.tls.is_some(), arrival.headers, trusted);
        self.record.client = Some(client.address);
        if client.peer_trusted {
            self.record.request_id = client::request_id(arrival.headers, true);
        }
        self.effects.note(|| {
            let word = if client.peer_trusted { "named by a trusted proxy" } else { "the peer itself" };
            step("client", "pass", format!("{} ({word})", client.address))
        });
        self.client = Some(client.clone());
        client
    }

    fn edge(&mut self, gateway: &Gateway, client: &Client) -> Result<(), Stop> {
        if let Some(access) = &gateway.edge_access {
            self.effects.judge(access.name(), access.mode(), access.check(client.address))?;
        }
        Ok(())
    }

    /// 308 keeps the method (RFC 9110 §15.4.9).
    fn redirect_to_https(&mut self, port: Option<u16>, client: &Client, target: &Target) -> Result<(), Stop> {
        let Some(port) = port else { return Ok(()) };
        if client.https {
            return Ok(()); // A trusted proxy in front has ended TLS already: redirecting would go in circles.
        }
        if target.host().is_empty() || target.path() == "*" {
            return Err(Refusal::new(Kind::AmbiguousRequest, "host_missing", "no host to redirect to").into());
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

    fn route(&mut self, gateway: &Gateway, arrival: &Arrival<'_>, target: &Target) -> Result<usize, Stop> {
        let preflight = cors::is_preflight(arrival.method, arrival.headers);
        if let (true, Some(asked)) = (preflight, cors::requested_method(arrival.headers)) {
            let found = gateway.routes.find_preflight(&asked, target);
            let policy = |index: usize| gateway.entries.get(index).is_some_and(|route| route.cors.is_some());
            match found {
                // A route without a policy leaves preflights to its upstream: the request is an ordinary OPTIONS there.
                Found::Route { index, .. } if !policy(index) => {}
                found => {
                    self.preflight = true;
                    return self.take(gateway, found, target);
                }
            }
        }
        let found = gateway.routes.find(arrival.method, target, arrival.headers);
        self.take(gateway, found, target)
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
                tolerated(target)?; // A path with two readings has none that a 405 or 404 could speak of.
                let message = format!("{} has no route for this method; it has {allow}", target.path());
                let mut refusal = Refusal::new(Kind::MethodNotAllowed, "method_not_allowed", message);
                if let Ok(value) = HeaderValue::from_str(&allow) {
                    refusal = refusal.with_header(http::header::ALLOW, value);
                }
                Err(refusal.into())
            }
            Found::NotFound => {
                tolerated(target)?;
                let message = format!("no route for {}{}", target.host(), target.path());
                Err(Refusal::new(Kind::RouteNotFound, "no_route", message).into())
            }
        }
    }

    /// The order of the policies on a request's head, and why: lists cost least, so they come first; a preflight bears no
    /// credentials, so it is answered before anything would ask for them.
    #[expect(
        clippy::unused_async,
        reason = "introspection, forward-auth and strict shared limits will wait here"
    )]
    async fn admit_head(&mut self, route: usize, request: &Request<'_>) -> Result<HeadAdmitted, Stop> {
        let gateway = Arc::clone(&self.gateway);
        let Some(entry) = gateway.entries.get(route) else {
            return Err(
                Refusal::new(Kind::InternalError, "no_route", "the route left its own snapshot").into()
            );
        };
        if let Some(access) = &entry.access {
            self.effects.judge(access.name(), access.mode(), access.check(request.client_ip()))?;
        }
        if let Some(cors) = &entry.cors {
            if self.preflight {
                match cors.preflight(request.headers, gateway.routes.methods_of_path(route)) {
                    Preflight::Allow(headers) => {
                        self.effects.note(|| Step {
                            site: Some(cors.site().clone()),
                            ..step(Arc::clone(cors.name()), "answer", "the preflight")
                        });
                        let reply =
                            Reply { status: StatusCode::NO_CONTENT, headers, body: bytes::Bytes::new() };
                        return Err(Stop::Answered(Box::new(reply)));
                    }
                    Preflight::Refuse { verdict, headers } => {
                        self.effects.judge(cors.name(), cors.mode(), verdict).map_err(|mut refusal| {
                            refusal.headers.extend(headers);
                            refusal
                        })?;
                    }
                }
                // A shadowed refusal: the request goes on as though there were no policy.
                return Ok(HeadAdmitted { route });
            }
            self.effects.judge(cors.name(), cors.mode(), cors.check_origin(request.headers))?;
        }
        Ok(HeadAdmitted { route })
    }

    /// The answer of an `echo` route: the request as an upstream would have seen it.
    pub fn echo(&mut self, admitted: &Admitted, arrival: &Arrival<'_>, body_bytes: u64) -> Reply {
        let mut seen = arrival.headers.clone();
        self.upstream_head(admitted, "", &mut seen);
        let mut fields = serde_json::Map::new();
        for name in seen.keys() {
            let values: Vec<_> =
                seen.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
            fields.insert(name.as_str().to_owned(), values.join(", ").into());
        }
        let target = self.record.target.as_deref();
        let body = serde_json::json!({
            "method": arrival.method.as_str(),
            "path": target.map_or("", Target::path),
            "query": target.and_then(Target::query).unwrap_or(""),
            "protocol": arrival.protocol.as_str(),
            "host": target.map_or("", Target::host),
            "client": self.record.client.map(|client| client.to_string()),
            "headers": fields,
            "body_bytes": body_bytes,
        });
        let body = format!("{body}\n");
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        self.finish_reply(Reply { status: StatusCode::OK, headers, body: body.into() })
    }

    /// Prepares the head that the upstream will see, and returns its path and query.
    ///
    /// Removes hop-by-hop fields and what only proxies may say, sets forwarding fields, Via and request id, applies the
    /// route's header rules, and last the Host (`server_name` is the chosen server's own `host:port`).
    pub fn upstream_head(
        &mut self,
        admitted: &Admitted,
        server_name: &str,
        fields: &mut impl Fields,
    ) -> String {
        let (Some(route), Some(target)) = (admitted.route(), self.record.target.clone()) else {
            return "/".to_owned();
        };
        client::strip_hop_by_hop(fields, upgrade(route, fields));
        if let Some(client) = &self.client {
            let nobody = Trusted::default();
            let trusted = self.gateway.listener(&self.listener).map_or(&nobody, |listener| &listener.trusted);
            client::forward(fields, self.peer, client, trusted, target.authority());
        }
        let protocol = self.record.protocol.unwrap_or(Protocol::Http11);
        set_via(protocol, fields);
        if let Ok(id) = HeaderValue::from_str(self.record.request_id.as_str()) {
            fields.set(X_REQUEST_ID, id);
        }
        for rules in &route.headers {
            rules.request(&self.record, fields);
        }
        let Action::Forward { upstream, path } = &route.action else {
            return path_and_query(target.path(), &target);
        };
        if let Ok(host) = host_for(upstream.host(), server_name, &target).parse::<HeaderValue>() {
            fields.set(HOST, host);
        }
        self.upstream_path(path, &target)
    }

    fn upstream_path(&self, path: &UpstreamPath, target: &Target) -> String {
        match path {
            UpstreamPath::Keep => path_and_query(target.path(), target),
            UpstreamPath::Replace { strip, prefix } => {
                let rest = match target.path().strip_prefix(&**strip) {
                    Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
                    Some(_) | None => target.path(),
                };
                let slash = if rest.is_empty() && prefix.is_empty() { "/" } else { "" };
                path_and_query(&format!("{prefix}{slash}{rest}"), target)
            }
            UpstreamPath::Template(template) => {
                let mut path = String::new();
                template.render_url(&self.record, &mut path);
                path_and_query(&path, target)
            }
        }
    }

    /// Finishes the head of an upstream's response: hop-by-hop fields, header rules, CORS, request id.
    pub fn finish(&mut self, status: StatusCode, fields: &mut impl Fields) {
        self.record.status = status.as_u16();
        let switching = status == StatusCode::SWITCHING_PROTOCOLS;
        client::strip_hop_by_hop(fields, if switching { Upgrade::Keep } else { Upgrade::Drop });
        if let Some(route) = self.route.and_then(|index| self.gateway.entries.get(index)) {
            for rules in &route.headers {
                rules.response(&self.record, fields);
            }
            if let (Some(cors), false) = (&route.cors, self.preflight) {
                cors.apply(self.origin.as_ref(), fields);
            }
        }
        if let Ok(id) = HeaderValue::from_str(self.record.request_id.as_str()) {
            fields.set(X_REQUEST_ID, id);
        }
    }

    /// Replies of our own never pass Pingora's response filter: they are finished here, by the same steps.
    fn finish_reply(&mut self, mut reply: Reply) -> Reply {
        self.finish(reply.status, &mut reply.headers);
        reply
    }

    /// Turns a refusal into the reply to send, and notes it in the record.
    pub fn refuse(&mut self, refusal: Refusal) -> Reply {
        if refusal.policy.is_none() {
            self.effects.note(|| Step {
                site: refusal.site.clone(),
                ..step("gateway", "refuse", format!("{} ({})", refusal.message, refusal.kind.name()))
            });
        }
        self.record.error = Some(refusal.facts());
        let gateway = Arc::clone(&self.gateway);
        let reply = gateway.replies.render(&refusal, &self.record, &self.wants);
        self.finish_reply(reply)
    }

    /// Whether the request was refused because it could not be understood.
    pub fn is_ambiguous(&self) -> bool {
        self.record.error.as_ref().is_some_and(|error| error.response_type == Kind::AmbiguousRequest.name())
    }

    /// The logging phase, once for every request: access log and metrics. Later calls do nothing.
    pub fn settle(&mut self) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        self.record.would = std::mem::take(&mut self.effects.would);
        self.gateway.telling.settle(&self.record);
        #[cfg(test)]
        if let Some(settled) = &self.gateway.settled {
            let _ = settled.send(self.record.clone());
        }
    }
}

/// A request is in flight until its passage is gone, however it ended.
impl Drop for Passage {
    fn drop(&mut self) {
        self.gateway.telling.metrics().end(self.record.worker);
    }
}

/// No policy of this version reads a body: it passes as it comes, in bounded pieces.
fn admit_body(gateway: Arc<Gateway>, head: HeadAdmitted) -> Admitted {
    Admitted { gateway, route: head.route }
}

/// Why a request goes no further.
enum Stop {
    Refused(Box<Refusal>),
    Answered(Box<Reply>),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

fn step(
    name: impl Into<Arc<str>>,
    outcome: &'static str,
    detail: impl Into<std::borrow::Cow<'static, str>>,
) -> Step {
    Step { name: name.into(), outcome: outcome.into(), detail: detail.into(), site: None }
}

/// Counts and sizes of fields; the rim has judged HTTP/1's raw head by the same numbers already.
fn header_limits(headers: &HeaderMap, limits: &super::Settings) -> Result<(), Refusal> {
    let mut bytes = 0;
    for (name, value) in headers {
        let field = name.as_str().len() + value.len() + 4;
        bytes += field;
        if field > limits.field_bytes {
            let message =
                format!("a field has {field} bytes; `server.limits.field_bytes` is {}", limits.field_bytes);
            return Err(Refusal::new(Kind::HeadersTooLarge, "field_too_large", message));
        }
    }
    if headers.len() > limits.header_fields {
        let message =
            format!("{} fields; `server.limits.header_fields` is {}", headers.len(), limits.header_fields);
        return Err(Refusal::new(Kind::HeadersTooLarge, "too_many_fields", message));
    }
    if bytes > limits.header_bytes {
        let message =
            format!("{bytes} bytes of fields; `server.limits.header_bytes` is {}", limits.header_bytes);
        return Err(Refusal::new(Kind::HeadersTooLarge, "head_too_large", message));
    }
    Ok(())
}

/// What the rim refuses of a raw head of HTTP/1 and h2 lets pass; said here too, so that HTTP/2 and `explain` hear the same.
fn unmistakable(arrival: &Arrival<'_>) -> Result<(), Refusal> {
    let refuse = |reason, message| Err(Refusal::new(Kind::AmbiguousRequest, reason, message));
    if arrival.method.as_str().len() > framing::METHOD_BYTES {
        return refuse("method_bytes", "the method is longer than any that is known");
    }
    let Err(framing::Denial { cause, reason, message }) =
        framing::judge_fields(arrival.headers, arrival.protocol)
    else {
        return Ok(());
    };
    match cause {
        framing::Cause::UnknownCoding => Err(Refusal::new(Kind::UnknownCoding, reason, message)),
        _ => refuse(reason, message),
    }
}

/// No route of this version tolerates what has two readings.
fn tolerated(target: &Target) -> Result<(), Refusal> {
    target.oddities().denial(Oddities::default()).map_or(Ok(()), |denial| Err(denied(denial)))
}

/// As the listener says now; as it said when the connection came, where it is no more.
fn redirect_port(listener: Option<&Arc<Listener>>, connection: &Connection) -> Option<u16> {
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

/// Whether a request may go on asking for the protocol it names: one that the route lists.
fn upgrade(route: &Route, fields: &impl Fields) -> Upgrade {
    let asked = fields.fields().get(http::header::UPGRADE).and_then(|value| value.to_str().ok());
    match asked {
        Some(protocol) if route.permits_upgrade(&protocol.trim().to_ascii_lowercase()) => Upgrade::Keep,
        Some(_) | None => Upgrade::Drop,
    }
}

/// Adds this hop (RFC 9110 §7.6.3).
fn set_via(protocol: Protocol, fields: &mut impl Fields) {
    fields.append(
        VIA,
        match protocol {
            Protocol::Http10 => HeaderValue::from_static("1.0 portcullis"),
            Protocol::Http11 => HeaderValue::from_static("1.1 portcullis"),
            Protocol::Http2 => HeaderValue::from_static("2 portcullis"),
        },
    );
}

fn host_for(host: &Host, server_name: &str, target: &Target) -> String {
    match (host, target.port()) {
        (Host::Server, _) => server_name.to_owned(),
        (Host::Literal(literal), _) => literal.clone(),
        (Host::Keep, Some(port)) => format!("{}:{port}", target.host()),
        (Host::Keep, None) => target.host().to_owned(),
    }
}

fn path_and_query(path: &str, target: &Target) -> String {
    match target.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}
