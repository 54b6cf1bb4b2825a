//! Request bodies: told to come, and counted.

use http::Version;
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::pace;
use crate::framing;

/// Tells a client that waits for it to send its body (RFC 9110 §10.1.1). Once: `Expect` goes no further, since the upstream would
/// send a second 100.
pub(super) async fn call_for(session: &mut Session) -> Result<()> {
    let head = session.req_header();
    if !head.headers.contains_key(EXPECT) {
        return Ok(());
    }
    let continues = framing::expects_continue(&head.headers);
    if continues && head.version >= Version::HTTP_11 && !session.as_downstream_mut().is_body_done() {
        // Pingora's session and ours of HTTP/2 let a 100 through to those only who said exactly this.
        session.req_header_mut().insert_header(EXPECT, "100-continue")?;
        session.as_downstream_mut().write_continue_response().await?;
    }
    session.req_header_mut().remove_header(&EXPECT);
    Ok(())
}

/// Waits for the end of an HTTP/2 stream whose head says that there is no content: its origin would take the head alone for the
/// whole request, before anybody knows whether it is (RFC 9113 §8.1.1).
pub(super) async fn end_if_empty(session: &mut Session) -> Result<()> {
    let head = session.req_header();
    if head.version != Version::HTTP_2 {
        return Ok(());
    }
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length != Some(0_u64) || session.as_downstream_mut().is_body_done() {
        return Ok(());
    }
    match count(session).await? {
        0 => Ok(()),
        _ => {
            let message = "content where the head said that there is none";
            Err(Error::explain(ErrorType::InvalidHTTPHeader, message).into_down())
        }
    }
}

/// Reads a body to its end and counts it. Nothing is kept, so its length needs no bound; its time is bounded by the rim, on HTTP/2 by
/// the stream's clock.
pub(super) async fn count(session: &mut Session) -> Result<u64> {
    let mut bytes = 0_u64;
    pace::wait();
    loop {
        let read = pace::in_time(session.as_downstream_mut().read_request_body()).await;
        let Some(read) = read else {
            return Error::e_explain(ErrorType::ReadTimedout, "the body came too slowly");
        };
        let chunk = read.map_err(Error::into_down)?;
        pace::note(chunk.as_ref().map_or(0, bytes::Bytes::len), chunk.is_none());
        match chunk {
            Some(chunk) => bytes += chunk.len() as u64,
            None => return Ok(bytes),
        }
    }
}
