//! HTTP/2: a connection. Its streams are accepted here, and whatever h2 refuses of them, or of the connection, is told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::{Digest, GetProxyDigest, GetSocketDigest, Ssl};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::conn::Conn;
use super::counts::Closed;
use super::endpoint::Endpoint;
use super::frames::{Counted, Findings};
use super::ledger::Flood;
use super::streams::{self, Flight, InFlight, refused};
use super::unheard::Refused;
use super::worker::Worker;
use super::{answer, http1};
use crate::gateway::Gateway;
use crate::reply::{Kind, Refusal};
use crate::request::{Connection, Protocol};

/// DATA frames with little in them that may wait to be read, a connection, at about 256 bytes each. h2 by itself ends a connection after
/// a hundred, which streams of small messages reach in one burst. A window (64 KiB) full of frames of 29 bytes or more stays within it,
/// so that a call whose server is slow ends no connection.
const SMALL_DATA: usize = 2048;
/// Refused streams that have a line of their own, a connection; more are counted only.
const TOLD: usize = 32;
/// How long an idle connection may take to end after GOAWAY: a dead peer never answers.
const FAREWELL: Duration = Duration::from_secs(5);

/// What h2 may hold of a stream's answer while the connection takes no more, in bytes: as much as a client's window is at first. By itself
/// it would be 400 KiB.
const SEND_BUFFER: usize = 64 << 10;

/// Serves a connection to its end.
pub(super) async fn serve<A>(worker: &Arc<Worker<A>>, endpoint: &Arc<Endpoint>, mut conn: Box<Conn>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let gateway = worker.snapshots.load();
    let settings = &gateway.settings;
    conn.follow_frames(settings.head);
    let connection = Arc::clone(conn.connection());
    let digest = Arc::new(Digest {
        ssl_digest: conn.get_ssl_digest(),
        timing_digest: vec![None],
        proxy_digest: conn.get_proxy_digest(),
        socket_digest: conn.get_socket_digest(),
    });
    let mut options = h2::server::Builder::new();
    options.max_header_list_size(u32::try_from(settings.header_bytes).unwrap_or(u32::MAX).min(64 << 10));
    options.max_send_buffer_size(SEND_BUFFER);
    options.data_frame_budget(256 * SMALL_DATA);
    options.max_concurrent_streams(settings.http2_streams);
    // What we reset for a fault of the client's is counted by its rate ([`Counted`]), not over the life of a connection, which may be long.
    options.max_local_error_reset_streams(None);
    let counted = Counted::new(conn, settings.http2_resets);
    let findings = counted.findings();
    let mut h2 = match timeout(settings.head, options.handshake::<_, Bytes>(counted)).await {
        Ok(Ok(h2)) => h2,
        Ok(Err(error)) => return not_greeted(&gateway, &connection, &error),
        Err(_) if findings.is_begun() => return refused(&gateway, &connection, http1::late_head()),
        Err(_) => return,
    };

    let flight = Arc::new(Flight::default());
    let mut draining = endpoint.draining();
    // A connection that comes while draining must still be told.
    if *draining.borrow() {
        draining.mark_changed();
    }
    // HTTP/2 says that a connection ends by GOAWAY, not in its answers.
    let (_, calm) = watch::channel(false);
    let mut leaving = false;
    let mut unheard = Tally::default();
    let mut requests: u64 = 0;
    let mut idle_until = Instant::now() + settings.keep_alive;
    drop(gateway);
    loop {
        let idle = flight.is_idle();
        let accepted = tokio::select! {
            biased;
            flood = findings.flood() => {
                h2.abrupt_shutdown(match flood {
                    Flood::Unsettled => h2::Reason::PROTOCOL_ERROR,
                    _ => h2::Reason::ENHANCE_YOUR_CALM,
                });
                flooded(&worker.snapshots.load(), &connection, flood);
                // GOAWAY leaves, and nothing is accepted any more.
                let _ = timeout(FAREWELL, async { while let Some(Ok(_)) = h2.accept().await {} }).await;
                return;
            }
            _ = draining.changed(), if !leaving => {
                leaving = true;
                h2.graceful_shutdown();
                continue;
            }
            accepted = h2.accept() => accepted,
            how = findings.refused() => {
                unheard.tell(worker, &connection, how);
                continue;
            }
            () = flight.landed.notified(), if !idle => {
                idle_until = Instant::now() + match leaving {
                    true => FAREWELL,
                    false => worker.snapshots.load().settings.keep_alive,
                };
                continue;
            }
            () = sleep_until(idle_until), if idle => {
                if leaving {
                    return;
                }
                worker.counts.note_closed(Closed::KeepAlive);
                leaving = true;
                h2.graceful_shutdown();
                idle_until = Instant::now() + FAREWELL;
                continue;
            }
        };
        let Some(Ok(mut incoming)) = accepted else {
            while let Some(how) = findings.next_refused() {
                unheard.tell(worker, &connection, how);
            }
            return has_ended(worker.snapshots.load(), &connection, &findings);
        };
        findings.accepted(incoming.0.body().stream_id().as_u32());
        let settings = &worker.snapshots.load().settings;
        requests += 1;
        let (most, streams) = (settings.requests_per_connection, settings.http2_streams.into());
        if requests >= farewell(most, streams) && !leaving {
            worker.counts.note_closed(Closed::RequestsPerConnection);
            leaving = true;
            h2.graceful_shutdown();
        }
        if requests > most {
            // A client that goes on all the same keeps nothing open by it. What it had under way it may send again (RFC 9113 §8.7).
            incoming.1.send_reset(h2::Reason::REFUSED_STREAM);
            unheard.tell_surplus(worker, &connection, most);
            if requests - most >= streams {
                h2.abrupt_shutdown(h2::Reason::NO_ERROR);
            }
            continue;
        }
        // Whatever comes now is not idleness.
        idle_until = Instant::now() + settings.keep_alive;
        streams::serve(
            worker,
            (&connection, &findings),
            &digest,
            incoming,
            calm.clone(),
            InFlight::new(&flight),
        );
    }
}

/// At which request of a connection GOAWAY is said, where it may bring `most`: early enough that what a client sends until it hears of it
/// is served too, as long as that is a tenth of them at the most. Behind GOAWAY no more can be under way than there may be streams.
fn farewell(most: u64, streams: u64) -> u64 {
    most - streams.min(most / 10)
}

/// What was refused on a connection before it was a request: by h2, which says nothing to us, or above the bound on requests.
#[derive(Debug, Default)]
struct Tally {
    told: usize,
}

impl Tally {
    fn tell<A>(&mut self, worker: &Worker<A>, connection: &Connection, how: Refused) {
        let gateway = worker.snapshots.load();
        let refusal = match how {
            Refused::HeadTooLong => {
                let message = "the head is longer than `server.limits.header_bytes` allows; h2 has answered";
                Refusal::new(Kind::HeadersTooLarge, "header_bytes", message)
            }
            Refused::Reset(code) if h2::Reason::from(code) == h2::Reason::REFUSED_STREAM => {
                let message = "more streams at once than `server.limits.http2_streams` allows";
                Refusal::new(Kind::Overloaded, "http2_streams", message)
            }
            Refused::Reset(code) => {
                let message = format!("a malformed HTTP/2 request: {}", h2::Reason::from(code).description());
                Refusal::new(Kind::AmbiguousRequest, "http2_malformed", message)
            }
        };
        if !self.may_tell() {
            return gateway.telling().refused_untold(worker.index, refusal.reason);
        }
        match how {
            Refused::HeadTooLong => answered(gateway, connection, refusal),
            Refused::Reset(_) => refused(&gateway, connection, refusal),
        }
    }

    /// One request more than the `most` that a connection may bring.
    fn tell_surplus<A>(&mut self, worker: &Worker<A>, connection: &Connection, most: u64) {
        let gateway = worker.snapshots.load();
        let reason = Closed::RequestsPerConnection.as_str();
        if !self.may_tell() {
            return gateway.telling().refused_untold(worker.index, reason);
        }
        let message = format!("more requests than `server.limits.requests_per_connection` allows: {most}");
        refused(&gateway, connection, Refusal::new(Kind::Overloaded, reason, message));
    }

    /// A flood of refusals must not become one of lines.
    fn may_tell(&mut self) -> bool {
        let may = self.told < TOLD;
        self.told += usize::from(may);
        may
    }
}

/// The record of a connection that does not begin as HTTP/2 does. One that was given up within the preface has said nothing.
fn not_greeted(gateway: &Arc<Gateway>, connection: &Connection, error: &h2::Error) {
    if error.is_library() && !error.is_io() {
        let message = "the connection does not begin with the preface of HTTP/2";
        refused(gateway, connection, Refusal::new(Kind::AmbiguousRequest, "http2_preface", message));
    }
}

/// The record of what was answered without our problem document, or whose answer cannot be known to have arrived.
fn answered(gateway: Arc<Gateway>, connection: &Connection, refusal: Refusal) {
    let mut passage = answer::passage(gateway, connection, Protocol::Http2, std::time::Instant::now());
    let reply = passage.refuse(refusal);
    answer::settle(passage, &reply, 0);
}

/// The record of a connection that was ended for a fault of the client's: h2 sees floods too, of CONTINUATION and empty DATA.
fn has_ended(gateway: Arc<Gateway>, connection: &Connection, findings: &Findings) {
    // What follows a head that was not finished in time could not be understood.
    if connection.fate.is_late_head() {
        return refused(&gateway, connection, http1::late_head());
    }
    let undelivered = findings.undelivered();
    if connection.fate.is_stalled() && undelivered > 0 {
        let message = format!(
            "the client did not take the answers to {undelivered} requests, which lay ready, within `write_stall`"
        );
        return refused(&gateway, connection, Refusal::new(Kind::RequestTimeout, "write_stall", message));
    }
    let code = findings.goaway().map_or(h2::Reason::NO_ERROR, h2::Reason::from);
    let (reason, kind, message) = match code {
        h2::Reason::NO_ERROR if findings.is_within_head() => {
            return refused(&gateway, connection, http1::unfinished_head());
        }
        h2::Reason::NO_ERROR => return,
        h2::Reason::ENHANCE_YOUR_CALM => (
            // h2 counts by itself, which no key moves.
            "http2_flood",
            Kind::Throttled,
            "the connection was ended by GOAWAY: a flood of frames, or of pieces of a head",
        ),
        // What HPACK does not allow is a PROTOCOL_ERROR for h2, which has this one for a head that it will not even skip.
        h2::Reason::COMPRESSION_ERROR => (
            "header_bytes",
            Kind::HeadersTooLarge,
            "the connection was ended by GOAWAY: a head in pieces, far longer than `server.limits.header_bytes` allows",
        ),
        h2::Reason::FRAME_SIZE_ERROR => (
            "http2_frame_size",
            Kind::AmbiguousRequest,
            "the connection was ended by GOAWAY: a frame of a length that it may not have",
        ),
        h2::Reason::FLOW_CONTROL_ERROR => (
            "http2_flow_control",
            Kind::AmbiguousRequest,
            "the connection was ended by GOAWAY: more than a window allows, or a window beyond its bound",
        ),
        _ => (
            "http2_malformed",
            Kind::AmbiguousRequest,
            "the connection was ended by GOAWAY: it broke a rule of HTTP/2",
        ),
    };
    refused(&gateway, connection, Refusal::new(kind, reason, message));
}

/// The record of a connection that was ended: no request of it is known to be at fault, and none was answered.
fn flooded(gateway: &Arc<Gateway>, connection: &Connection, flood: Flood) {
    let message = match flood {
        Flood::Unsettled => {
            let message = "the connection was ended by GOAWAY: its first frame is not SETTINGS";
            return refused(
                gateway,
                connection,
                Refusal::new(Kind::AmbiguousRequest, flood.reason(), message),
            );
        }
        Flood::RefusedStreams => {
            "the connection was ended by GOAWAY: streams above `server.limits.http2_streams` at ten times the rate of \
             `server.limits.http2_resets`"
        }
        _ => "the connection was ended by GOAWAY: more such frames than `server.limits.http2_resets` allows",
    };
    refused(gateway, connection, Refusal::new(Kind::Throttled, flood.reason(), message));
}

#[cfg(test)]
mod tests {
    use super::farewell;

    #[test]
    fn goaway_is_said_ahead_of_what_may_be_under_way() {
        for (most, streams, at) in
            [(1, 128, 1), (5, 128, 5), (20, 128, 18), (20, 1, 19), (10_000, 128, 9_872)]
        {
            assert_eq!(farewell(most, streams), at, "{most} requests, {streams} streams");
        }
    }
}
