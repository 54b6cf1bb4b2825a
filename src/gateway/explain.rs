//! What would become of a request, without a network: the same [`Passage`] as in traffic, with a recorder.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{AUTHORIZATION, COOKIE, HOST, PROXY_AUTHORIZATION, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Serialize;

use super::{Admission, ClientTrust, Gateway, ListenAddress, Listener, Passage};
use crate::config::is_secret_name;
use crate::policy::auth::identity_token;
use crate::policy::{Effects, Step, cors};
use crate::record::ErrorFacts;
use crate::reply::Reply;
use crate::request::{Arrival, Connection, Protocol, TlsFacts};

/// A request that might be sent.
#[derive(Clone, Debug)]
pub struct Question {
    /// The method.
    pub method: Method,
    /// `https://host/path?query`; the path is taken as typed, so that its canonical form can be told.
    pub url: String,
    /// More fields, in order; `Host` replaces the URL's.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Who asks. Default: 127.0.0.1.
    pub client: Option<IpAddr>,
}

/// What would become of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `forward`, `answer` or `refuse`.
    pub outcome: &'static str,
    /// The status of our own answer; none where the upstream decides.
    pub status: Option<u16>,
    /// What was asked for, without credentials that stand in its query.
    pub url: String,
    /// The listener the request was taken to come in by.
    pub listener: Box<str>,
    /// The way, step by step.
    pub steps: Vec<Told>,
    /// The route that won.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Box<str>>,
    /// Routes that it won over, best first: all their conditions hold too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub over: Vec<ToldRoute>,
    /// Why it would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ToldError>,
    /// What shadowed policies would refuse.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub would: Vec<ToldError>,
    /// What the upstream would be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<ToldUpstream>,
    /// The policies that would change the head of the upstream's answer, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_rules: Vec<Arc<str>>,
    /// Fields of our own answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<(String, String)>,
    /// The configuration's hash.
    pub hash: Box<str>,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// Which.
    pub step: Arc<str>,
    /// What was decided.
    pub outcome: String,
    /// Why, or what exactly.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// `file:line`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

/// A refusal.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ToldError {
    /// The kind's name.
    pub response_type: &'static str,
    /// The word for metrics.
    pub reason: &'static str,
    /// What happened.
    pub message: String,
    /// `KIND.NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<str>>,
    /// `file:line`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

/// A route.
#[derive(Clone, Debug, Serialize)]
pub struct ToldRoute {
    /// Its name.
    pub name: Box<str>,
    /// `file:line`.
    pub site: String,
}

/// What the upstream would be asked.
#[derive(Clone, Debug, Serialize)]
pub struct ToldUpstream {
    /// Its name.
    pub name: Box<str>,
    /// Its servers, one of which would be asked.
    pub servers: Vec<Box<str>>,
    /// Path and query.
    pub target: String,
    /// `+ name: value` for a field set or changed, `- name` for one removed.
    pub headers: Vec<String>,
}

impl From<&ErrorFacts> for ToldError {
    fn from(facts: &ErrorFacts) -> Self {
        Self {
            response_type: facts.response_type,
            reason: facts.reason,
            message: facts.message.clone().into_owned(),
            policy: facts.policy.clone(),
            site: facts.site.as_ref().map(ToString::to_string),
        }
    }
}

impl From<Step> for Told {
    fn from(step: Step) -> Self {
        Self {
            step: step.name,
            outcome: step.outcome.into_owned(),
            detail: step.detail.into_owned(),
            site: step.site.map(|site| site.to_string()),
        }
    }
}

/// Runs a request through the compiled configuration.
///
/// # Errors
/// Says what of the question could not be sent at all.
pub async fn explain(gateway: &Arc<Gateway>, question: &Question) -> Result<Explanation, String> {
    let (scheme, authority, target) = split(&question.url)?;
    let mut headers = HeaderMap::new();
    if !question.headers.iter().any(|(name, _)| name == HOST) {
        if authority.is_empty() {
            return Err(format!("`{}` names no host", question.url));
        }
        let host = HeaderValue::from_str(authority).map_err(|_| format!("`{authority}` is not a host"))?;
        headers.insert(HOST, host);
    }
    for (name, value) in &question.headers {
        headers.append(name.clone(), value.clone());
    }
    let listener = listener_for(gateway, scheme, authority).ok_or("the configuration has no listener")?;
    let connection = connection(listener, scheme, authority, question.client);
    let arrival = Arrival {
        method: &question.method,
        target: target.as_bytes(),
        authority: None,
        headers: &headers,
        protocol: Protocol::Http11,
        connection: &connection,
    };
    let mut passage = Passage::new(Arc::clone(gateway), &connection, Instant::now(), SystemTime::now());
    passage.effects = Effects::recording();
    let admission = passage.admit(&arrival).await;
    let mut explanation = tell(gateway, passage, &admission, &arrival, listener);
    explanation.url.clone_from(&question.url);
    hide_credentials(gateway, &mut explanation);
    Ok(explanation)
}

/// What is explained is passed around: a credential in the query, where the route that won asks for one there, is not shown, nor is an API
/// key where another does.
fn hide_credentials(gateway: &Gateway, explanation: &mut Explanation) {
    let entry = gateway.entries.iter().find(|entry| Some(&entry.facts.name) == explanation.route.as_ref());
    let auth = entry.and_then(|entry| entry.auth.as_ref());
    let hide = |text: &mut String| {
        let Some((front, query)) = text.split_once('?') else { return };
        let scrubbed = auth.map_or(Cow::Borrowed(query), |auth| auth.hide_in_query(query));
        if let Cow::Owned(rest) = gateway.key_places.scrub_query(scrubbed) {
            *text = if rest.is_empty() { front.to_owned() } else { format!("{front}?{rest}") };
        }
    };
    hide(&mut explanation.url);
    if let Some(upstream) = &mut explanation.upstream {
        hide(&mut upstream.target);
    }
    explanation
        .steps
        .iter_mut()
        .filter(|told| &*told.step == "canonical")
        .for_each(|told| hide(&mut told.detail));
}

fn tell(
    gateway: &Gateway,
    mut passage: Passage,
    admission: &Admission,
    arrival: &Arrival<'_>,
    listener: &Listener,
) -> Explanation {
    let mut reply = None;
    let mut upstream = None;
    match admission {
        Admission::Reply(own) => reply = Some(own.clone()),
        Admission::Echo(admitted) => reply = Some(passage.echo(admitted, arrival, 0)),
        Admission::Forward(admitted) => {
            upstream = admitted.upstream().map(|pool| {
                let servers: Vec<Box<str>> = pool.servers().map(|(name, _)| name.into()).collect();
                let first = servers.first().cloned().unwrap_or_default();
                let mut seen = arrival.headers.clone();
                let target = passage.upstream_head(admitted, &first, &mut seen);
                ToldUpstream {
                    name: (**pool.name()).into(),
                    servers,
                    target,
                    headers: changes(arrival.headers, &seen),
                }
            });
        }
    }
    let error = passage.record.error.as_ref().map(ToldError::from);
    let over = over(gateway, &passage, arrival);
    let response_rules = match upstream {
        Some(_) => response_rules(gateway, &passage),
        None => Vec::new(),
    };
    Explanation {
        outcome: match (&reply, &error) {
            (_, Some(_)) => "refuse",
            (Some(_), None) => "answer",
            (None, None) => "forward",
        },
        status: reply.as_ref().map(|reply| reply.status.as_u16()),
        url: String::new(),
        listener: (*listener.name).into(),
        steps: passage.effects.steps.take().unwrap_or_default().into_iter().map(Told::from).collect(),
        route: passage.record.route.as_ref().map(|route| route.name.clone()),
        over,
        response_rules,
        error,
        would: passage.effects.would.iter().map(ToldError::from).collect(),
        upstream,
        response_headers: reply.as_ref().map(fields).unwrap_or_default(),
        hash: gateway.hash.clone(),
    }
}

/// The routes that lost.
fn over(gateway: &Gateway, passage: &Passage, arrival: &Arrival<'_>) -> Vec<ToldRoute> {
    let (Some(won), Some(target)) = (&passage.record.route, &passage.record.target) else {
        return Vec::new();
    };
    let asked = cors::requested_method(arrival.headers).filter(|_| passage.is_preflight());
    let candidates = match asked {
        Some(asked) => gateway.routes.preflight_candidates(&asked, target),
        None => gateway.routes.candidates(arrival.method, target, arrival.headers),
    };
    candidates
        .into_iter()
        .filter(|index| *index != won.index)
        .filter_map(|index| gateway.entries.get(index))
        .map(|route| ToldRoute { name: route.facts.name.clone(), site: route.facts.site.to_string() })
        .collect()
}

fn response_rules(gateway: &Gateway, passage: &Passage) -> Vec<Arc<str>> {
    let route = passage.record.route.as_ref().and_then(|won| gateway.entries.get(won.index));
    let headers = route.iter().flat_map(|route| &route.headers).map(|rules| Arc::clone(rules.name()));
    let cors = route.iter().filter_map(|route| route.cors.as_ref()).map(|cors| Arc::clone(cors.name()));
    headers.chain(cors).collect()
}

fn fields(reply: &Reply) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    reply.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// `+ name: value` for what was set or changed, `- name` for what was removed; each by name. What a credential is by its name is
/// not shown.
fn changes(before: &HeaderMap, after: &HeaderMap) -> Vec<String> {
    let all = |map: &HeaderMap, name: &HeaderName| map.get_all(name).iter().cloned().collect::<Vec<_>>();
    let removed = before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("- {name}"));
    let mut changes: Vec<String> = removed.collect();
    let mut changed: Vec<_> = after.keys().filter(|name| all(before, name) != all(after, name)).collect();
    changes.sort_unstable();
    changed.sort_unstable_by_key(|name| name.as_str());
    for name in changed {
        let is_stand_in = after.get(name).is_some_and(|value| value == identity_token::SHOWN);
        if is_credential(name) && !is_stand_in {
            changes.push(format!("+ {name}: …"));
            continue;
        }
        for value in after.get_all(name) {
            changes.push(format!("+ {name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
    }
    changes
}

fn is_credential(name: &HeaderName) -> bool {
    [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, SET_COOKIE].contains(name) || is_secret_name(name.as_str())
}

/// Scheme, authority and the rest as typed.
fn split(url: &str) -> Result<(&str, &str, &str), String> {
    let (scheme, rest) =
        url.split_once("://").ok_or_else(|| format!("`{url}` is not a URL; write https://host/path"))?;
    if !matches!(scheme, "http" | "https") {
        return Err(format!("`{scheme}` is neither http nor https"));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at_checked(end).ok_or("an odd URL")?;
    // A fragment never leaves a client (RFC 9110 §7.1).
    let target = target.split_once('#').map_or(target, |(sent, _)| sent);
    Ok((scheme, authority, if target.is_empty() { "/" } else { target }))
}

/// The listener a client would have come in by: of the scheme, and of the port if there is such a one.
fn listener_for<'a>(gateway: &'a Gateway, scheme: &str, authority: &str) -> Option<&'a Arc<Listener>> {
    let tls = scheme == "https";
    let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    let of_scheme = || gateway.listeners.iter().filter(|listener| listener.tls.is_some() == tls);
    let of_port = |listener: &&Arc<Listener>| matches!(listener.address, ListenAddress::Tcp(address) if address.port() == port);
    of_scheme().find(of_port).or_else(|| of_scheme().next()).or_else(|| gateway.listeners.first())
}

fn connection(listener: &Listener, scheme: &str, authority: &str, client: Option<IpAddr>) -> Connection {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let tls = (scheme == "https").then(|| {
        Arc::new(TlsFacts {
            version: "TLSv1.3",
            cipher: "TLS_AES_256_GCM_SHA384",
            group: None,
            sni: Some(host.to_ascii_lowercase().into()),
            resumed: false,
            client_rule: listener.tls.as_ref().and_then(|tls| tls.clients.as_ref()).map(ClientTrust::rule),
            // A question bears no certificate.
            client_certificate: None,
        })
    });
    let peer = match (&listener.address, client) {
        (ListenAddress::Unix(_), None) => None,
        (_, client) => Some(SocketAddr::new(client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), 0)),
    };
    let local = match listener.address {
        ListenAddress::Tcp(address) => Some(address),
        ListenAddress::Unix(_) => None,
    };
    Connection { peer, local, tls, ..Connection::to(Arc::clone(&listener.name)) }
}
