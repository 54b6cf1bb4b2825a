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
    _private: (),
}

impl Admitted {
    /// Whether the route lets a client switch to this protocol (lower case), such as `websocket`.
    pub fn permits_upgrade(&self, _protocol: &str) -> bool {
        false
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
        let _ = arrival;
        Admission::Echo(Admitted { _private: () })
    }

    /// The answer of an `echo` route.
    pub fn echo(&mut self, _admitted: &Admitted, _arrival: &Arrival<'_>, _body_bytes: u64) -> Reply {
        Reply { status: StatusCode::OK, headers: http::HeaderMap::new(), body: bytes::Bytes::new() }
    }

    /// Prepares the head that the upstream will see: removes hop-by-hop fields, sets forwarding fields, Via, request id and
    /// Host (`server_name` is the chosen server's own `host:port`), applies header rules. Returns the path and query.
    pub fn upstream_head(
        &mut self,
        _admitted: &Admitted,
        _server_name: &str,
        _fields: &mut impl Fields,
    ) -> String {
        String::new()
    }

    /// Finishes the head of an upstream's response: hop-by-hop fields, header rules, CORS, request id.
    pub fn finish(&mut self, status: StatusCode, _fields: &mut impl Fields) {
        self.record.status = status.as_u16();
    }

    /// Turns a refusal into the reply to send, and notes it in the record.
    pub fn refuse(&mut self, refusal: Refusal) -> Reply {
        self.record.error = Some(refusal.facts());
        Reply { status: refusal.kind.status(), headers: http::HeaderMap::new(), body: bytes::Bytes::new() }
    }

    /// The logging phase, once for every request: access log and metrics.
    pub fn settle(&mut self) {}
}
