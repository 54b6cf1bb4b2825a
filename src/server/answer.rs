//! Answers of the rim itself: to requests that never reach Pingora, and their records.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderValue, header};

use crate::framing::{Cause, Denial};
use crate::gateway::{Gateway, Passage};
use crate::reply::{Kind, Refusal, Reply};
use crate::request::{Connection, Protocol};

/// What may be asked for where TRACE and CONNECT were.
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// The refusal that a judge's denial means.
pub(super) fn refusal(denial: Denial) -> Refusal {
    let kind = match denial.cause {
        Cause::Ambiguous => Kind::AmbiguousRequest,
        Cause::Version => Kind::VersionNotSupported,
        Cause::Expectation => Kind::ExpectationFailed,
        Cause::Method => Kind::MethodNotAllowed,
        Cause::UriTooLong => Kind::UriTooLong,
        Cause::HeadersTooLarge => Kind::HeadersTooLarge,
        Cause::UnknownCoding => Kind::UnknownCoding,
    };
    let refusal = Refusal::new(kind, denial.reason, denial.message);
    match denial.cause {
        Cause::Method => refusal.with_header(header::ALLOW, ALLOW),
        _ => refusal,
    }
}

/// The refusal of a request when as many as may be are in flight.
pub(super) fn overloaded(gateway: &Gateway) -> Refusal {
    let most = gateway.settings.requests_in_flight;
    let message =
        format!("as many requests are in flight as `server.limits.requests_in_flight` allows: {most}");
    Refusal::new(Kind::Overloaded, "requests_in_flight", message)
}

/// The way of a request that ends in the rim.
pub(super) fn passage(
    gateway: Arc<Gateway>,
    connection: &Connection,
    protocol: Protocol,
    started: Instant,
) -> Passage {
    let started_at = SystemTime::now().checked_sub(started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut passage = Passage::new(gateway, connection, started, started_at);
    let record = &mut passage.record;
    record.protocol = Some(protocol);
    record.tls.clone_from(&connection.tls);
    // Whom a trusted proxy speaks for is not known here: nothing of this head was believed.
    record.client =
        Some(connection.peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip().to_canonical()));
    passage
}

/// Settles the record of a connection that is closed without an answer.
pub(super) fn unanswered(gateway: Arc<Gateway>, connection: &Connection, began: Instant, refusal: &Refusal) {
    let mut passage = passage(gateway, connection, Protocol::Http11, began);
    let record = &mut passage.record;
    record.protocol = None;
    record.error = Some(refusal.facts());
    passage.settle();
}

/// Settles a request's record.
pub(super) fn settle(mut passage: Passage, reply: &Reply, body_sent: usize) {
    let record = &mut passage.record;
    record.status = reply.status.as_u16();
    record.response_length = u64::try_from(body_sent).unwrap_or(u64::MAX);
    record.response_latency = Some(record.started.elapsed());
    passage.settle();
}

/// Settles the record of something that was not answered: the log shows no status.
pub(super) fn settle_unanswered(mut passage: Passage) {
    passage.record.status = 0;
    passage.record.response_latency = Some(passage.record.started.elapsed());
    passage.settle();
}

/// A reply on the wire; the connection ends after it. The second value is how much of it is body.
pub(super) fn http1(reply: &Reply, to_head: bool) -> (Vec<u8>, usize) {
    let mut out = Vec::with_capacity(512 + reply.body.len());
    let reason = reply.status.canonical_reason().unwrap_or("");
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", reply.status.as_u16()).as_bytes());
    for (name, value) in &reply.headers {
        if matches!(*name, header::CONNECTION | header::DATE | header::CONTENT_LENGTH) {
            continue;
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    let length = reply.body.len();
    out.extend_from_slice(
        format!("content-length: {length}\r\ndate: {date}\r\nconnection: close\r\n\r\n").as_bytes(),
    );
    if to_head {
        return (out, 0);
    }
    out.extend_from_slice(&reply.body);
    (out, length)
}
