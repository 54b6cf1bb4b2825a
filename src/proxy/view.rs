//! Pingora's session and messages in the gateway's words.

use std::sync::Arc;

use http::{HeaderMap, Version};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::request::{Arrival, Connection, Protocol};

/// The facts of the connection, which the rim has put into the stream's digest.
pub(super) fn connection(session: &Session) -> Option<Arc<Connection>> {
    let data = session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?;
    data.downcast_ref::<Arc<Connection>>().cloned()
}

/// A request at the door.
pub(super) fn arrival<'a>(head: &'a RequestHeader, connection: &'a Connection) -> Arrival<'a> {
    Arrival {
        method: &head.method,
        target: head.raw_path(),
        authority: match head.version {
            Version::HTTP_2 => head.uri.authority().map(|authority| authority.as_str()),
            _ => None,
        },
        headers: &head.headers,
        protocol: protocol(head.version),
        connection,
    }
}

pub(super) fn protocol(version: Version) -> Protocol {
    match version {
        Version::HTTP_2 => Protocol::Http2,
        Version::HTTP_10 | Version::HTTP_09 => Protocol::Http10,
        _ => Protocol::Http11,
    }
}

/// Edits a request's fields as a plain map.
///
/// Pingora's own edits keep the spelling of every name in a second map: each costs two look-ups, a copy of the name and parsing it.
/// Without that map all edits towards an upstream cost a third. Names then leave in lower case, as in HTTP/2, except common ones
/// that Pingora writes `Like-This`; they mean the same (RFC 9110 §5.1). A target that its URI does not hold is lost: set it after.
pub(super) fn edit_request<R>(head: &mut RequestHeader, edit: impl FnOnce(&mut HeaderMap) -> R) -> R {
    let end_stream = head.send_end_stream();
    let blank = RequestHeader::from(http::Request::new(()).into_parts().0);
    let mut parts = http::request::Parts::from(std::mem::replace(head, blank));
    let result = edit(&mut parts.headers);
    *head = RequestHeader::from(parts);
    if let Some(end_stream) = end_stream {
        head.set_send_end_stream(end_stream);
    }
    result
}

/// Edits a response's fields likewise. Keeps a reason phrase that is not the usual one.
pub(super) fn edit_response<R>(head: &mut ResponseHeader, edit: impl FnOnce(&mut HeaderMap) -> R) -> R {
    let usual = head.status.canonical_reason();
    let phrase = head.get_reason_phrase().filter(|phrase| Some(*phrase) != usual).map(str::to_owned);
    let blank = ResponseHeader::from(http::Response::new(()).into_parts().0);
    let mut parts = http::response::Parts::from(std::mem::replace(head, blank));
    let result = edit(&mut parts.headers);
    *head = ResponseHeader::from(parts);
    if let Some(phrase) = phrase {
        let _ = head.set_reason_phrase(Some(&phrase));
    }
    result
}
