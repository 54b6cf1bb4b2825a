//! Request bodies: told to come, and counted.

use std::task::{Context, Poll, Waker};

use http::Version;
use http::header::EXPECT;
use pingora_core::protocols::http::ServerSession;
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
    if continues && head.version == Version::HTTP_11 && !session.as_downstream_mut().is_body_done() {
        // Pingora lets its own 100 through to those only who said exactly this.
        session.req_header_mut().insert_header(EXPECT, "100-continue")?;
        session.as_downstream_mut().write_continue_response().await?;
    }
    session.req_header_mut().remove_header(&EXPECT);
    Ok(())
}

/// Fails where a body that Pingora takes for ended has broken off. Of HTTP/2: a stream that was reset, by its client or for a fault of
/// its client's, counts as ended there (RFC 9113 §8.1.1), and the origin would get a whole request that nobody has sent.
pub(super) fn is_whole(session: &mut Session) -> Result<()> {
    let ServerSession::H2(stream) = session.as_downstream_mut() else { return Ok(()) };
    if !stream.is_body_done() {
        return Ok(());
    }
    // Nothing more will come, so nobody has to be woken.
    match stream.poll_read_body_bytes(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Err(error))) => {
            Err(Error::because(ErrorType::ReadError, "the body has broken off", error).into_down())
        }
        // Pingora takes `Content-Length: 0` for the end, whatever comes.
        Poll::Ready(Some(Ok(data))) if !data.is_empty() => {
            let message = "content where the head said that there is none";
            Err(Error::explain(ErrorType::InvalidHTTPHeader, message).into_down())
        }
        Poll::Ready(Some(Ok(_)) | None) | Poll::Pending => Ok(()),
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
