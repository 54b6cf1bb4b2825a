//! The next attempt: which server, and how Pingora gets there.

use std::sync::Arc;
use std::time::Instant;

use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_error::{Error, ErrorSource, ErrorType, Result};

use super::attempt::{Attempt, Start};
use super::ctx::Course;
use super::failures::Failure;
use super::wire::Dialer;
use crate::upstream::RetryOn;

/// What Pingora says when no server could be chosen; `failures` never sees it, `Gate` does.
pub(super) const NO_HEALTHY_SERVER: ErrorType = ErrorType::new("NoHealthyServer");

/// Chooses a server and makes the attempt.
pub(super) async fn next(course: &mut Course, worker: usize) -> Result<Box<HttpPeer>> {
    let Some(server) = course.upstream.choose(worker, &mut course.tried).cloned() else {
        return Err(Error::explain(NO_HEALTHY_SERVER, "no server of the upstream is healthy"));
    };
    course.attempts += 1;
    let now = Instant::now();
    let patience = course.until.saturating_duration_since(now);
    let address = server.address(patience.min(course.upstream.timeouts().connect)).await;
    let start = Start {
        upstream: Arc::clone(&course.upstream),
        address: address.unwrap_or_else(|| ([0, 0, 0, 0], 0).into()),
        server,
        worker,
        until: course.until,
        upgrade: course.upgrade.is_some(),
        head: course.head,
        kept_may_do: course.kept_may_do,
        header: course.header,
    };
    let attempt = Attempt::new(start, now);
    if course.spends {
        attempt.spend();
    }
    course.begin(Arc::clone(&attempt));
    let Some(address) = address else {
        attempt.fail(Failure::Unresolved, format!("{} has no address yet", attempt.server.name()));
        let mut error = Error::explain(ErrorType::ConnectError, "unresolved");
        error.esource = ErrorSource::Upstream;
        error.set_retry(may_connect_again(course));
        return Err(error);
    };
    // TLS, deadlines and keeping are the wire's; to Pingora every connection is new and plain.
    let mut peer = HttpPeer::new(address, false, String::new());
    peer.options.custom_l4 = Some(Arc::new(Dialer(attempt)));
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    Ok(Box::new(peer))
}

/// Whether to try another server after no connection could be made: the request has reached nobody, so any may be sent again.
pub(super) fn may_connect_again(course: &Course) -> bool {
    let now = Instant::now();
    let failure = course.attempt.as_ref().and_then(|attempt| attempt.failure()).map(|(failure, _)| *failure);
    failure.is_some_and(Failure::is_connect)
        && now < course.until
        && course.upstream.permits_retry(RetryOn::Connect, course.attempts, now)
}

/// Whether to try again after a connection broke before any byte of an answer, for a request that may be repeated.
pub(super) fn may_send_again(course: &mut Course) -> bool {
    let now = Instant::now();
    let Some(attempt) = &course.attempt else { return false };
    let broke = attempt.failure().is_none_or(|(failure, _)| failure.is_reset());
    if attempt.has_received() || !broke || now >= course.until || course.upgrade.is_some() {
        return false;
    }
    if attempt.is_reused() && course.kept_may_do {
        // The server closed a kept connection while the request was on its way: it has not failed, its idle time was over.
        course.kept_may_do = false;
        course.upstream.note_stale();
        return true;
    }
    course.upstream.permits_retry(RetryOn::Reset, course.attempts, now)
}
