//! What is judged of a head before anybody is asked whose it is: plain functions over its fields.

use std::sync::Arc;

use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderName};

use crate::framing;
use crate::gateway::document::Underscores;
use crate::gateway::{Listener, Settings};
use crate::reply::{Kind, Refusal};
use crate::request::{Arrival, Protocol};

/// What is between the pieces of a cookie that came in several fields (RFC 9113 §8.2.3).
const SEAM: usize = "; ".len();

/// Counts and sizes of fields. The rim has judged them by the same numbers; here each is taken for the shortest line that says
/// it, so that nothing is refused that the rim let pass.
pub(super) fn header_limits(headers: &HeaderMap, limits: &Settings) -> Result<(), Refusal> {
    let (mut bytes, mut crumbs) = (0, 0);
    for (name, value) in headers {
        let field = name.as_str().len() + value.len() + 1;
        bytes += field + 2;
        if field > limits.field_bytes {
            let message =
                format!("a field has {field} bytes; `server.limits.field_bytes` is {}", limits.field_bytes);
            return Err(Refusal::new(Kind::HeadersTooLarge, "field_bytes", message));
        }
        if *name == COOKIE {
            crumbs += value.len() + SEAM;
        }
    }
    // They go on as one field.
    let cookie = COOKIE.as_str().len() + 1 + crumbs.saturating_sub(SEAM);
    if cookie > limits.field_bytes {
        let message = format!(
            "the pieces of `cookie` make a field of {cookie} bytes; `server.limits.field_bytes` is {}",
            limits.field_bytes
        );
        return Err(Refusal::new(Kind::HeadersTooLarge, "field_bytes", message));
    }
    if headers.len() > limits.header_fields {
        let message =
            format!("{} fields; `server.limits.header_fields` is {}", headers.len(), limits.header_fields);
        return Err(Refusal::new(Kind::HeadersTooLarge, "header_fields", message));
    }
    if bytes > limits.header_bytes {
        let message =
            format!("{bytes} bytes of fields; `server.limits.header_bytes` is {}", limits.header_bytes);
        return Err(Refusal::new(Kind::HeadersTooLarge, "header_bytes", message));
    }
    Ok(())
}

/// The host that a listener has for a request of HTTP/1.0 that says none.
pub(super) fn default_host<'a>(
    arrival: &Arrival<'_>,
    listener: Option<&'a Arc<Listener>>,
) -> Option<&'a str> {
    let silent = arrival.protocol == Protocol::Http10 && !arrival.headers.contains_key(HOST);
    listener.filter(|_| silent)?.default_host.as_deref()
}

/// The fields without those whose name has a `_`, which are not there for routes and policies either; none where all may stay.
///
/// # Errors
/// The operator has them refused.
pub(super) fn without_underscores(
    headers: &HeaderMap,
    choice: Underscores,
) -> Result<Option<HeaderMap>, Refusal> {
    let has = |name: &HeaderName| memchr::memchr(b'_', name.as_str().as_bytes()).is_some();
    let Some(odd) = headers.keys().find(|name| has(name)) else { return Ok(None) };
    if choice == Underscores::Refuse {
        let message = format!("the field `{odd}` has a `_` in its name");
        return Err(Refusal::new(Kind::AmbiguousRequest, "underscore", message));
    }
    let kept = headers.iter().filter(|(name, _)| !has(name));
    Ok(Some(kept.map(|(name, value)| (name.clone(), value.clone())).collect()))
}

/// What the rim refuses of a raw head of HTTP/1 and h2 lets pass; said here too, so that HTTP/2 and `explain` hear the same.
pub(super) fn unmistakable(arrival: &Arrival<'_>) -> Result<(), Refusal> {
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
        framing::Cause::Expectation => Err(Refusal::new(Kind::ExpectationFailed, reason, message)),
        _ => refuse(reason, message),
    }
}
