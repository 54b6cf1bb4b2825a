//! A reply of our own, on the wire.

use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::reply::Reply;

/// An unread body up to this length is read to keep the connection; a longer one costs less by closing.
const DRAIN_BYTES_MAX: u64 = 64 << 10;
/// For how long.
const DRAIN: Duration = Duration::from_secs(2);
/// What is written at once, in bytes.
const PIECE: usize = 64 << 10;

/// Sends a reply whole; `answered` is told before its last piece is written. Date and Connection are Pingora's: it knows whether the connection goes on.
pub(super) async fn send(session: &mut Session, reply: Reply, answered: impl FnOnce()) -> Result<()> {
    let Reply { status, headers, body } = reply;
    let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    let mut head = ResponseHeader::build(status, Some(headers.len() + 3))?;
    let mut last: Option<HeaderName> = None;
    for (name, value) in headers {
        last = name.or(last);
        if let Some(name) = &last
            && name != CONNECTION
            && name != TRANSFER_ENCODING
            && name != CONTENT_LENGTH
        {
            head.append_header(name.clone(), value)?;
        }
    }
    // RFC 9110 §8.6: none with 204; with HEAD the length the body would have.
    if !bodiless {
        head.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    }
    settle_unread_body(session);
    let end = bodiless || body.is_empty() || session.req_header().method == Method::HEAD;
    if end {
        answered();
        // Pingora would end the stream by an empty DATA frame, which clients of gRPC take for a broken answer: one that is all head ends
        // by its head (gRPC over HTTP/2, "Trailers-Only").
        if let ServerSession::Custom(stream) = session.as_downstream_mut() {
            return stream.write_response_header(Box::new(head), true).await;
        }
        return session.write_response_header(Box::new(head), true).await;
    }
    session.write_response_header(Box::new(head), false).await?;
    let mut rest = body;
    // Each piece has the whole of `write_stall`: at once, a long body would ask a client for more speed than a short one.
    while rest.len() > PIECE {
        session.write_response_body(Some(rest.split_to(PIECE)), false).await?;
    }
    answered();
    session.write_response_body(Some(rest), true).await
}

/// What the client has not sent yet is read after the reply, or the connection is closed after it.
fn settle_unread_body(session: &mut Session) {
    if session.as_downstream_mut().is_body_done() {
        return;
    }
    let headers = &session.req_header().headers;
    // RFC 9110 §10.1.1: a client that was not told to continue may leave its body out, or not.
    let waiting = headers.contains_key(EXPECT);
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if waiting || length.is_none_or(|length| length > DRAIN_BYTES_MAX) {
        session.as_downstream_mut().set_keepalive(None);
    } else {
        session.as_downstream_mut().set_close_on_response_before_downstream_finish(false);
        session.as_downstream_mut().set_total_drain_timeout(Some(DRAIN));
    }
}
