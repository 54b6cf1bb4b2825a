//! Request bodies: told to come, and counted.

use http::Version;
use http::header::EXPECT;
use pingora_error::{Error, Result};
use pingora_proxy::Session;

/// Tells a client that waits for it to send its body (RFC 9110 §10.1.1). Once: `Expect` goes no further, since the upstream would
/// send a second 100.
pub(super) async fn call_for(session: &mut Session) -> Result<()> {
    let head = session.req_header();
    let Some(expect) = head.headers.get(EXPECT) else { return Ok(()) };
    let continues = expect.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if continues && head.version == Version::HTTP_11 && !session.as_downstream_mut().is_body_done() {
        session.as_downstream_mut().write_continue_response().await?;
    }
    session.req_header_mut().remove_header(&EXPECT);
    Ok(())
}

/// Reads a body to its end and counts it. Nothing is kept, so its length needs no bound; its time is bounded by the rim.
pub(super) async fn count(session: &mut Session) -> Result<u64> {
    let mut bytes = 0_u64;
    loop {
        match session.as_downstream_mut().read_request_body().await.map_err(Error::into_down)? {
            Some(chunk) => bytes += chunk.len() as u64,
            None => return Ok(bytes),
        }
    }
}
