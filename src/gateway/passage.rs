//! The way of one request, read top to bottom: from the door to its record.

mod certificate;
mod door;
mod forward;
mod head;
mod hops;
mod identity;
mod metadata;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::Gateway;
use super::answers::redirect_reply;
use super::route::{Action, Route};
use crate::canonical::Target;
use crate::client::{self, Client, Upgrade};
use crate::policy::auth::{Asked, Kept, Refused, Requirement};
use crate::policy::cors::Preflight;
use crate::policy::rate_limit::{Ahead, Facts, Limits, Place, UnknownPlan};
use crate::policy::{Effects, Step};
use crate::record::{Phase, Record, RouteFacts};
use crate::reply::{Kind, Preference, Refusal, Reply, Wants};
use crate::request::{Arrival, Connection, Fields, Request};
use crate::upstream::Upstream;
use door::{Read, facts, redirect_port};
pub(super) use metadata::Resources;

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
    /// Keys of the edge's limits that were made ahead.
    ahead: Option<Ahead>,
    route: Option<usize>,
    /// What a template made of the path.
    rewritten: String,
    /// The gateway's signed word for who it is.
    identity_token: Option<HeaderValue>,
    origin: Option<HeaderValue>,
    wants: Preference,
    listener: Arc<str>,
    peer: Option<SocketAddr>,
    preflight: bool,
    /// The status that goes with our refusal's kind, whatever the client was told: gRPC has another, and so may `replies`.
    refused: Option<StatusCode>,
    /// Whether it could not be understood, whatever the client was told.
    ambiguous: bool,
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

    /// Whether the route was chosen by this field: then it stays, whatever `Connection` says.
    pub fn relies_on(&self, name: &HeaderName) -> bool {
        self.gateway.routes.asks_for(self.route, name)
    }

    /// Whether the route lets a client switch to this protocol (lower case), such as `websocket`.
    pub fn permits_upgrade(&self, protocol: &str) -> bool {
        self.route().is_some_and(|route| route.permits_upgrade(protocol))
    }
}

impl Passage {
    /// A request that begins.
    // Made where it shall lie: it is large, and would be copied there.
    #[inline(always)]
    pub fn new(
        gateway: Arc<Gateway>,
        connection: &Connection,
        started: Instant,
        started_at: SystemTime,
    ) -> Self {
        let mut record = Record::new(connection.worker, gateway.generation, started, started_at);
        record.tls.clone_from(&connection.tls);
        record.client_certificate = connection.tls.as_ref().and_then(|tls| tls.client_certificate.clone());
        record.client = connection.peer.map(|peer| peer.ip().to_canonical());
        gateway.telling.metrics().begin(connection.worker);
        Self {
            gateway,
            record,
            effects: Effects::default(),
            client: None,
            ahead: None,
            route: None,
            rewritten: String::new(),
            identity_token: None,
            origin: None,
            wants: Preference::Settled(Wants::Problem),
            listener: Arc::clone(&connection.listener),
            peer: connection.peer,
            preflight: false,
            refused: None,
            ambiguous: false,
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
        if let Some(route) = gateway.entries.get(admitted.route)
            && let Err(refusal) = self.rewrite(route).and_then(|()| self.vouch(route))
        {
            return Admission::Reply(self.refuse(refusal));
        }
        match gateway.entries.get(admitted.route).map(|route| &route.action) {
            Some(Action::Forward { .. }) if hops::ends_here(arrival.method, arrival.headers) => {
                let reply = hops::options(gateway.routes.methods_of_path(admitted.route));
                Admission::Reply(self.finish_reply(reply))
            }
            Some(Action::Forward { .. }) => Admission::Forward(admitted),
            Some(Action::Echo) => Admission::Echo(admitted),
            Some(Action::Respond(reply)) => Admission::Reply(self.finish_reply(reply.clone())),
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

    async fn judge(&mut self, arrival: &Arrival<'_>) -> Result<Admitted, Stop> {
        self.note_arrival(arrival);
        let gateway = Arc::clone(&self.gateway);
        let listener = gateway.listener(&arrival.connection.listener);
        let Read { target, kept, client } = match self.read(arrival, &gateway, listener) {
            Ok(read) => read,
            Err(refusal) => {
                let client = match &self.client {
                    Some(client) => client.address,
                    None => self.client(arrival, listener).address,
                };
                return Err(self.at_door(&gateway, client, *refusal).await.into());
            }
        };
        let arrival = &Arrival { headers: kept.as_ref().unwrap_or(arrival.headers), ..*arrival };
        let request = Request {
            method: arrival.method,
            target: &target,
            headers: arrival.headers,
            client: &client,
            protocol: arrival.protocol,
            connection: arrival.connection,
        };
        self.edge(&gateway, &request).await?;
        self.redirect_to_https(redirect_port(listener, arrival.connection), &client, &target)?;
        self.identity_keys(&gateway, arrival, &target)?;
        self.resource_metadata(&gateway, arrival, &client, &target)?;
        let route = self.route(&gateway, arrival, &target)?;
        self.tolerated(&gateway, arrival, &target, route)?;
        let head = self.admit_head(route, &request).await?;
        Ok(admit_body(gateway, head))
    }

    /// The order of the policies on a request's head, and why: lists cost least, so they come first; then limits by client, which
    /// preflights and guesses at credentials count for; a preflight bears no credentials, so it is answered before anything would
    /// ask for them; limits by identity come when there is one; the plan of an API key is the last, so that what anything else refuses
    /// takes nothing from a quota.
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
        if let Some(limits) = &entry.limits {
            let facts = facts(request, Some(&entry.facts.name), None);
            limits.check(Place::Route, &facts, &mut self.effects).await?;
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
                // A shadowed refusal: the request goes on as though there were no policy, and is asked who it is like any other.
            } else {
                self.effects.judge(cors.name(), cors.mode(), cors.check_origin(request.headers))?;
            }
        }
        let authenticated = match &entry.auth {
            Some(auth) => self.authenticate(auth, entry, request).await,
            None => Ok(()),
        };
        if authenticated.is_ok() {
            self.announce_plan(&gateway, &entry.facts);
        }
        let is_spent = authenticated.is_ok() && self.is_plan_spent(&gateway, &entry.facts);
        self.late_limits(entry, request, authenticated.is_ok() && !is_spent).await?;
        authenticated?;
        self.plan(&gateway, &entry.facts, is_spent).await?;
        if is_spent {
            // It had another token by then.
            self.late_limits(entry, request, true).await?;
        }
        Ok(HeadAdmitted { route })
    }

    /// Asks the limits behind authentication; of a request that is refused all the same, those that count such.
    async fn late_limits(
        &mut self,
        entry: &Route,
        request: &Request<'_>,
        passes: bool,
    ) -> Result<(), Refusal> {
        let Some(limits) = &entry.limits else { return Ok(()) };
        let (identity, key) = (self.record.identity.clone(), self.effects.key.clone());
        let facts = facts(request, Some(&entry.facts.name), identity.as_deref());
        let facts = Facts { api_key: key.as_deref(), ..facts };
        if passes {
            limits.check(Place::Identity, &facts, &mut self.effects).await
        } else if identity.is_some() {
            limits.check_refused(Place::Identity, &facts, &mut self.effects).await
        } else {
            Ok(())
        }
    }

    /// The plan of the key is told, whatever refuses the request from here on.
    fn announce_plan(&mut self, gateway: &Gateway, route: &RouteFacts) {
        let Some(key) = self.effects.key.clone() else { return };
        if let (Some(id), Ok(Some(plan))) = (key.key_id.as_deref(), gateway.plans.of(&key)) {
            plan.announce(id, &route.name, self.record.started_at, &mut self.effects);
        }
    }

    /// Whether the plan will refuse the request: then no limit is asked that it would spend, which may be one that others share.
    fn is_plan_spent(&self, gateway: &Gateway, route: &RouteFacts) -> bool {
        let Some(key) = &self.effects.key else { return false };
        let id = key.key_id.as_deref().unwrap_or_default();
        let plan = gateway.plans.of(key).ok().flatten();
        plan.is_some_and(|plan| plan.is_spent(id, &route.name, self.record.started_at))
    }

    /// The plan of the key that has opened the route.
    async fn plan(&mut self, gateway: &Gateway, route: &RouteFacts, is_spent: bool) -> Result<(), Refusal> {
        let Some(key) = self.effects.key.clone() else { return Ok(()) };
        let id = key.key_id.as_deref().unwrap_or_default();
        match gateway.plans.of(&key) {
            Ok(None) => Ok(()),
            Ok(Some(plan)) => {
                plan.check(id, &route.name, self.record.started_at, is_spent, &mut self.effects).await
            }
            Err(UnknownPlan) => {
                let plan = key.plan.as_deref().unwrap_or_default();
                let message = format!("the key `{id}` is in the plan `{plan}`, and there is no such plan");
                Err(Refusal::new(Kind::AccessDenied, "plan_unknown", message))
            }
        }
    }

    /// Who it is, and whether they may; into the record, with what it took. Where a limit by `auth_failures` refuses its client by now, all
    /// is as though nobody had been asked.
    async fn authenticate(
        &mut self,
        auth: &Requirement,
        entry: &Route,
        request: &Request<'_>,
    ) -> Result<(), Refusal> {
        let began = Instant::now();
        let parameters = &self.record.parameters;
        let places = &self.gateway.key_places;
        let query = request.target.query().map(|query| places.scrub_query(auth.hide_in_query(query)));
        let kept = Kept { requirement: Some(auth), places: Some(places) };
        let now = self.record.started_at;
        let route = &*entry.facts;
        let asked = Asked { request, route, parameters, query: query.as_deref(), kept, now };
        let decided = auth.decide(&asked, &mut self.effects).await;
        if let Some(limits) = &entry.limits {
            let has_failed = decided.as_ref().is_err_and(|refused| refused.has_failed);
            limits.authenticated(has_failed, &mut self.effects).inspect_err(|_| {
                self.effects.answers.clear();
                self.effects.key = None;
            })?;
        }
        let mut phase = Phase { status: Some(200), latency: Some(began.elapsed()), error: None };
        let (identity, refusal) = match decided {
            Ok(decision) => (decision.identity().cloned(), None),
            Err(Refused { refusal, identity, .. }) => {
                phase.status = Some(refusal.kind.status().as_u16());
                phase.error = Some(refusal.message.clone());
                (identity, Some(refusal))
            }
        };
        self.record.authorize = Some(phase);
        if let Some(identity) = identity {
            let key = self.effects.key.as_ref().unwrap_or(&identity);
            self.record.api_key_id.clone_from(&key.key_id);
            self.record.caller.clone_from(&identity.caller);
            self.record.identity = Some(identity);
        }
        refusal.map_or(Ok(()), Err)
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
            "query": admitted.route().zip(target).and_then(|(route, target)| self.query(route, target)).unwrap_or_default(),
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

    /// Finishes the head of an upstream's response: hop-by-hop fields, header rules, CORS, request id.
    ///
    /// Limits that count by status count it here, before the client can know it: so whatever keeps the rest of the answer from
    /// coming, or the request from ending, keeps nothing from being counted.
    pub fn finish(&mut self, status: StatusCode, fields: &mut impl Fields) {
        self.record.status = status.as_u16();
        self.settle_limits();
        let switching = status == StatusCode::SWITCHING_PROTOCOLS;
        let upgrade = if switching { Upgrade::Keep } else { Upgrade::Drop };
        // Before anything of ours is set: no `Connection` of an upstream takes it away again.
        client::strip_hop_by_hop(fields, upgrade, |_| false);
        let told = match limits_of(&self.gateway, self.route) {
            Some(limits) => limits.tell(&self.effects.limits, fields),
            None => self.effects.limits.tell(fields),
        };
        let told = told || (self.refused.is_some() && fields.fields().contains_key(RETRY_AFTER));
        if let Some(route) = self.route.and_then(|index| self.gateway.entries.get(index)) {
            for rules in &route.headers {
                rules.response(&self.record, fields);
            }
            match &route.cors {
                Some(cors) if !self.preflight => cors.apply(self.origin.as_ref(), told, fields),
                Some(cors) if self.refused.is_some() => cors.apply_to_refused_preflight(fields),
                _ => {}
            }
        }
        for (name, value) in &self.effects.answers {
            fields.set(name.clone(), value.clone());
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
        self.refused = refusal.status.is_none().then(|| refusal.kind.status());
        let gateway = Arc::clone(&self.gateway);
        let reply = gateway.replies.render(&refusal, &self.record, &self.wants.settle());
        self.finish_reply(reply)
    }

    /// Whether it was taken for a preflight, and routed by the method that it asks about.
    pub(super) fn is_preflight(&self) -> bool {
        self.preflight
    }

    /// Whether the request was refused because it could not be understood.
    pub fn is_ambiguous(&self) -> bool {
        self.ambiguous
            || self
                .record
                .error
                .as_ref()
                .is_some_and(|error| error.response_type == Kind::AmbiguousRequest.name())
    }

    /// Counts the request for limits by status, as what is known of its status says.
    fn settle_limits(&mut self) {
        if let Some(limits) = limits_of(&self.gateway, self.route) {
            let own = self.refused.map_or(self.record.status, |status| status.as_u16());
            limits.settle(&[self.record.status, own], &mut self.effects.limits);
        }
    }

    /// The logging phase, once for every request: access log and metrics. Later calls do nothing.
    pub fn settle(&mut self) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        self.settle_limits();
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

/// The limits that a request comes to: its route's, else the edge's.
fn limits_of(gateway: &Gateway, route: Option<usize>) -> Option<&Limits> {
    match route.and_then(|index| gateway.entries.get(index)) {
        Some(route) => route.limits.as_ref(),
        None => gateway.edge_limits.as_deref(),
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
