//! Connections that are refused before anything is read from them: an answer where they are plain, and a line in the access log.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use rustix::net::{SendFlags, send};

use super::accept::{Ends, facts};
use super::counts::Unserved;
use super::endpoint::Endpoint;
use super::io::Io;
use super::sock::Sock;
use super::tls::Failed;
use super::worker::Worker;
use super::{answer, linger};
use crate::gateway::{Gateway, Settings};
use crate::reply::{Kind, Refusal};
use crate::request::{Connection, Protocol};

/// What those are told who have no line of their own in the log, and so no request id to ask about.
const BARE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncache-control: no-store\r\n\
                      content-length: 0\r\nconnection: close\r\n\r\n";

/// Refuses a connection. TLS is closed before its handshake: an answer would cost what is to be saved. `ends` are those of the
/// socket, or those that a proxy in front names.
pub(super) fn connection<A>(worker: &Worker<A>, endpoint: &Endpoint, sock: Sock, ends: Ends, why: Unserved) {
    worker.counts.note(why);
    let plain = endpoint.plan().tls.is_none();
    let gateway = worker.snapshots.load();
    let told = worker.counts.may_tell_refusal().map(|untold| {
        let facts = facts(worker, endpoint, ends, None);
        let (reason, message) = words(&gateway.settings, why);
        tell(Arc::clone(&gateway), &facts, plain, Refusal::new(Kind::Overloaded, reason, message), untold)
    });
    if told.is_none() {
        gateway.telling().refused_untold(worker.index, why.as_str());
    }
    if !plain {
        return;
    }
    match worker.counts.be_patient() {
        Some(patience) => {
            let rest = BytesMut::from(told.as_deref().unwrap_or(BARE));
            tokio::spawn(async move {
                linger::close(Io::Plain(sock), rest, None).await;
                drop(patience);
            });
        }
        None => {
            // A socket that was just accepted has room for it. What the client has sent already may turn the close into a reset.
            let _ = send(&sock, told.as_deref().unwrap_or(BARE), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

/// Tells of a handshake that failed; where the client speaks TLS its alert has left.
pub(super) fn handshake<A>(worker: &Worker<A>, endpoint: &Endpoint, ends: Ends, failed: Failed) {
    let (why, kind, message) = match failed {
        Failed::Handshake(why) => {
            (Unserved::Handshake, Kind::AmbiguousRequest, format!("the TLS handshake failed: {why}"))
        }
        Failed::Late => (
            Unserved::HandshakeTimeout,
            Kind::RequestTimeout,
            "the TLS handshake was not complete within `server.timeouts.handshake`".to_owned(),
        ),
        Failed::CertificateInvalid(why) => (
            Unserved::CertificateInvalid,
            Kind::Unauthorized,
            format!("the client's certificate does not verify: {why}"),
        ),
        Failed::CertificateMissing => (
            Unserved::CertificateMissing,
            Kind::MissingAuthenticationToken,
            "the client showed no certificate".to_owned(),
        ),
    };
    worker.counts.note(why);
    let gateway = worker.snapshots.load();
    match worker.counts.may_tell_refusal() {
        Some(untold) => {
            let facts = facts(worker, endpoint, ends, None);
            let refusal = Refusal::new(kind, why.as_str(), message);
            tell(Arc::clone(&gateway), &facts, false, refusal, untold);
        }
        None => gateway.telling().refused_untold(worker.index, why.as_str()),
    }
}

/// Writes the line, and returns the answer that it speaks of.
fn tell(
    gateway: Arc<Gateway>,
    connection: &Connection,
    plain: bool,
    mut refusal: Refusal,
    untold: u64,
) -> Vec<u8> {
    if untold > 0 {
        refusal
            .message
            .to_mut()
            .push_str(&format!("; so were {untold} connections since the last line like this"));
    }
    let mut passage = answer::passage(gateway, connection, Protocol::Http11, Instant::now());
    let reply = passage.refuse(refusal);
    if !plain {
        // Nothing was said, and in which protocol nobody knows.
        passage.record.protocol = None;
        answer::settle_unanswered(passage);
        return Vec::new();
    }
    let (bytes, body) = answer::http1(&reply, false);
    answer::settle(passage, &reply, body);
    bytes
}

fn words(settings: &Settings, why: Unserved) -> (&'static str, String) {
    let (key, most) = match why {
        Unserved::ConnectionsPerClient => ("connections_per_client", settings.connections_per_client),
        _ => ("connections", settings.connections),
    };
    (why.as_str(), format!("as many connections are open as `server.limits.{key}` allows: {most}"))
}
