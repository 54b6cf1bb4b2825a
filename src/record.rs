//! The facts of one request, gathered on its way: what the access log, metrics and templates speak of.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderValue, Method};

use crate::canonical::Target;
use crate::config::Site;
use crate::identity::Identity;
use crate::request::{Protocol, RequestId, TlsFacts};

/// What a route is called, in log, metrics and explain; made once a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFacts {
    /// The route's place in its snapshot: the index of its metrics.
    pub index: usize,
    /// Its name.
    pub name: Box<str>,
    /// Its path as configured: `/orders/{*rest}`; `/{*rest}` where it has none.
    pub resource_path: Box<str>,
    /// Free labels from the configuration.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Where it was written.
    pub site: Site,
}

/// A refusal as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFacts {
    /// The kind's name: `ACCESS_DENIED`.
    pub response_type: &'static str,
    /// A word for metrics: `not_allowed`. Bounded: written in the code.
    pub reason: &'static str,
    /// What happened, for the log only; never with secrets.
    pub message: Cow<'static, str>,
    /// `KIND.NAME`, such as `access.office`.
    pub policy: Option<Arc<str>>,
    /// The line that decided.
    pub site: Option<Site>,
}

/// What an upstream was asked and said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Integration {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The server last tried, as configured.
    pub server: Option<Arc<str>>,
    /// Its status.
    pub status: Option<u16>,
    /// From the first attempt to the response's head.
    pub latency: Option<Duration>,
    /// Establishing the connection used; zero when it was reused.
    pub connect_latency: Option<Duration>,
    /// Attempts made.
    pub attempts: u32,
    /// Why it failed, for the log.
    pub error: Option<Cow<'static, str>>,
}

/// The facts of one request. Absent means not known.
#[derive(Clone, Debug)]
pub struct Record {
    /// When the request's first byte came.
    pub started: Instant,
    /// The same by the wall clock.
    pub started_at: SystemTime,
    /// Which worker carried it.
    pub worker: usize,
    /// The snapshot's generation.
    pub generation: u64,
    /// From a trusted peer, else our own.
    pub request_id: RequestId,
    /// Always our own, unique.
    pub extended_request_id: RequestId,
    /// The route that won.
    pub route: Option<Arc<RouteFacts>>,
    /// What the route's `{name}`s matched.
    pub parameters: Vec<(Arc<str>, Box<str>)>,
    /// The client's address.
    pub client: Option<std::net::IpAddr>,
    /// As sent.
    pub user_agent: Option<HeaderValue>,
    /// Who, once authenticated.
    pub identity: Option<Arc<Identity>>,
    /// The method.
    pub method: Option<Method>,
    /// Host, path, query.
    pub target: Option<Arc<Target>>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// TLS facts.
    pub tls: Option<Arc<TlsFacts>>,
    /// What was answered; 0 when nothing could be.
    pub status: u16,
    /// Bytes of the request's body.
    pub request_length: u64,
    /// Bytes of the response's body.
    pub response_length: u64,
    /// From the first byte in to the last byte out.
    pub response_latency: Option<Duration>,
    /// Of that, neither waiting for the client nor for the upstream.
    pub own_latency: Option<Duration>,
    /// The upstream's part.
    pub integration: Option<Integration>,
    /// Why we refused or failed.
    pub error: Option<ErrorFacts>,
    /// What shadowed policies would have refused.
    pub would: Vec<ErrorFacts>,
}

impl Record {
    /// A record of a request that begins now.
    pub fn new(worker: usize, generation: u64, started: Instant, started_at: SystemTime) -> Self {
        let id = RequestId::generate();
        Self {
            started,
            started_at,
            worker,
            generation,
            request_id: id,
            extended_request_id: id,
            route: None,
            parameters: Vec::new(),
            client: None,
            user_agent: None,
            identity: None,
            method: None,
            target: None,
            protocol: None,
            tls: None,
            status: 0,
            request_length: 0,
            response_length: 0,
            response_latency: None,
            own_latency: None,
            integration: None,
            error: None,
            would: Vec::new(),
        }
    }
}
