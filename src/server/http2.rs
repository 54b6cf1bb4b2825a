//! HTTP/2: streams are accepted, judged and bounded here, then served like any request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant as Clock};

use http::{HeaderValue, Method, header};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::error_resp::gen_error_response;
use pingora_core::protocols::http::v2::server::{self as h2_server, H2Accept, HttpSession};
use pingora_core::protocols::{Digest, GetProxyDigest, GetSocketDigest, Ssl};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::admission::RequestInFlight;
use super::conn::Conn;
use super::endpoint::Endpoint;
use super::frames::{Counted, Findings};
use super::worker::Worker;
use super::{answer, http1};
use crate::framing::{Cause, Denial};
use crate::gateway::Gateway;
use crate::proxy::watch;
use crate::reply::{Kind, Refusal, Reply};
use crate::request::{Connection, Protocol};

/// What a stream may cost on average where a connection has as many as it may: a request with a small head. One with a larger head
/// counts for more, since the table of HPACK lets a client have kilobytes of fields for a byte each. With 128 streams on each of 20
/// connections this is 45 MiB by our own account, and less than 64 by the system's, whatever the heads (`load-tests/abuse/header-bomb`).
const SHARE: usize = 18 << 10;
/// What a request costs beside its head, about.
const REQUEST: usize = 16 << 10;
/// What a field costs beside its bytes: two entries in maps of fields, ours and the one for the server.
const FIELD: usize = 250;
/// DATA frames with little in them that may wait to be read, a connection, at about 256 bytes each. h2 by itself ends a connection after
/// a hundred, which streams of small messages reach in one burst. A window (64 KiB) full of frames of 29 bytes or more stays within it,
/// so that a call whose server is slow ends no connection.
const SMALL_DATA: usize = 2048;
/// Malformed requests on a connection before it is closed.
const MALFORMED: usize = 32;
/// How long an idle connection may take to end after GOAWAY: a dead peer never answers.
const FAREWELL: Duration = Duration::from_secs(5);

/// Requests in flight on a connection.
#[derive(Debug, Default)]
struct Flight {
    count: AtomicUsize,
    /// What they cost together, in bytes.
    weight: AtomicUsize,
    landed: Notify,
}

/// One of them, and what it costs.
struct InFlight(Arc<Flight>, usize);

impl InFlight {
    fn new(flight: &Arc<Flight>) -> Self {
        flight.count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(flight), 0)
    }

    /// Whether the connection can bear what this one costs beside the others.
    fn bears(&mut self, weight: usize, most: usize) -> bool {
        self.1 = weight;
        self.0.weight.fetch_add(weight, Ordering::AcqRel) + weight <= most
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.weight.fetch_sub(self.1, Ordering::AcqRel);
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.landed.notify_one();
        }
    }
}

/// Serves a connection to its end.
pub(super) async fn serve<A>(worker: &Arc<Worker<A>>, endpoint: &Arc<Endpoint>, mut conn: Box<Conn>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let gateway = worker.snapshots.load();
    conn.follow_frames(gateway.settings.head);
    let connection = Arc::clone(conn.connection());
    let digest = Arc::new(Digest {
        ssl_digest: conn.get_ssl_digest(),
        timing_digest: vec![None],
        proxy_digest: conn.get_proxy_digest(),
        socket_digest: conn.get_socket_digest(),
    });
    let mut options = h2_server::default_h2_options();
    options
        .max_header_list_size(u32::try_from(gateway.settings.header_bytes).unwrap_or(u32::MAX).min(64 << 10));
    options.data_frame_budget(256 * SMALL_DATA);
    options.max_concurrent_streams(gateway.settings.http2_streams);
    let counted = Box::new(Counted::new(conn, gateway.settings.http2_resets));
    let findings = counted.findings();
    let handshake = timeout(gateway.settings.head, h2_server::handshake(counted, Some(options)));
    let Ok(Ok(mut h2)) = handshake.await else { return };

    let flight = Arc::new(Flight::default());
    let mut draining = endpoint.draining();
    // A connection that comes while draining must still be told.
    if *draining.borrow() {
        draining.mark_changed();
    }
    // HTTP/2 says that a connection ends by GOAWAY, not in its answers.
    let (_, calm) = watch::channel(false);
    let mut leaving = false;
    let mut malformed = 0;
    let mut requests: u64 = 0;
    let mut idle_until = Instant::now() + gateway.settings.keep_alive;
    drop(gateway);
    loop {
        let idle = flight.count.load(Ordering::Acquire) == 0;
        let accepted = tokio::select! {
            biased;
            flood = findings.flood() => {
                h2.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                flooded(&worker.snapshots.load(), &connection, flood.reason());
                // GOAWAY leaves, and nothing is accepted any more.
                let farewell = async { while let Ok(Some(_)) = HttpSession::from_h2_conn(&mut h2, Arc::clone(&digest)).await {} };
                let _ = timeout(FAREWELL, farewell).await;
                return;
            }
            _ = draining.changed(), if !leaving => {
                leaving = true;
                h2.graceful_shutdown();
                continue;
            }
            accepted = HttpSession::from_h2_conn(&mut h2, Arc::clone(&digest)) => accepted,
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
                leaving = true;
                h2.graceful_shutdown();
                idle_until = Instant::now() + FAREWELL;
                continue;
            }
        };
        match accepted {
            Err(_) | Ok(None) => {
                let gateway = worker.snapshots.load();
                return match connection.fate.is_late_head() {
                    true => late_head(gateway, &connection),
                    false => h2_has_ended(&gateway, &connection, &findings),
                };
            }
            Ok(Some(H2Accept::Session(session))) => {
                // Whatever comes now is not idleness.
                let settings = &worker.snapshots.load().settings;
                idle_until = Instant::now() + settings.keep_alive;
                requests += 1;
                if requests >= settings.requests_per_connection && !leaving {
                    leaving = true;
                    h2.graceful_shutdown();
                }
                // A client that goes on all the same: what is in flight when GOAWAY arrives is no more than this.
                if requests >= settings.requests_per_connection.saturating_add(settings.http2_streams.into())
                {
                    h2.abrupt_shutdown(h2::Reason::NO_ERROR);
                }
                stream(worker, &connection, session, calm.clone(), InFlight::new(&flight));
            }
            Ok(Some(H2Accept::Rejected)) => {
                malformed += 1;
                rejected(worker.snapshots.load(), &connection);
                if malformed >= MALFORMED {
                    h2.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                }
            }
        }
    }
}

/// Judges a stream before anything is spent on it, and serves it.
fn stream<A>(
    worker: &Arc<Worker<A>>,
    connection: &Arc<Connection>,
    mut session: HttpSession,
    calm: watch::Receiver<bool>,
    mut guard: InFlight,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let began = Clock::now();
    let gateway = worker.snapshots.load();
    session.set_write_timeout(Some(gateway.settings.write_stall));
    if let Err(denial) = judge(&session, &gateway) {
        let connection = Arc::clone(connection);
        tokio::spawn(refuse(gateway, connection, session, began, denial, guard));
        return;
    }
    let most = usize::try_from(gateway.settings.http2_streams).unwrap_or(usize::MAX).saturating_mul(SHARE);
    if !guard.bears(weight(&session), most) {
        // Not begun: the client may send it again (RFC 9113 §8.7).
        session.shutdown_with_reason(h2::Reason::REFUSED_STREAM);
        let message = "its head is too large beside those of the connection's other streams; \
                       `server.limits.http2_streams` allows more";
        return refused(&gateway, connection, "http2_heads", Kind::Overloaded, message);
    }
    let Some(flight) = RequestInFlight::begin(worker, gateway.settings.requests_in_flight) else {
        return overloaded(gateway, connection, &mut session, began);
    };
    let pace = gateway.settings.pace;
    drop(gateway);
    let body = !session.is_body_done();
    let served = async move {
        let _guard = guard;
        flight.worker().app.process_new_http(ServerSession::new_http2(session), &calm).await;
    };
    if body {
        tokio::spawn(watch(pace, served));
    } else {
        tokio::spawn(served);
    }
}

/// What a request will cost while it is in flight, in bytes, about; each byte of its head is there three times: in the map of
/// fields, in what is sent to the server, and in buffers.
fn weight(session: &HttpSession) -> usize {
    let head = session.req_header();
    let field = |name: &http::HeaderName, value: &HeaderValue| 3 * (name.as_str().len() + value.len());
    let fields: usize = head.headers.iter().map(|(name, value)| FIELD + field(name, value)).sum();
    REQUEST + fields + 3 * head.raw_path().len()
}

/// Answers by a head that ends the stream: no window and no client can make it wait.
fn overloaded(gateway: Arc<Gateway>, connection: &Connection, session: &mut HttpSession, began: Clock) {
    let refusal = answer::overloaded(&gateway);
    let mut passage = answer::passage(gateway, connection, Protocol::Http2, began);
    passage.record.method = Some(session.req_header().method.clone());
    let mut reply = passage.refuse(refusal);
    for of_body in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        reply.headers.remove(of_body);
    }
    write_head(session, &reply, true);
    answer::settle(passage, &reply, 0);
}

/// The bounds of `framing::judge`, for what h2 has parsed; its list size bounds the bytes of the whole head.
fn judge(session: &HttpSession, gateway: &Gateway) -> Result<(), Denial> {
    let limits = http1::limits(&gateway.settings);
    let head = session.req_header();
    let deny = |cause, reason, message| Err(Denial { cause, reason, message });
    if head.headers.len() > limits.header_fields {
        return deny(
            Cause::HeadersTooLarge,
            "header_fields",
            "more fields than `server.limits.header_fields` allows",
        );
    }
    if head.headers.iter().any(|(name, value)| name.as_str().len() + value.len() + 2 > limits.field_bytes) {
        return deny(
            Cause::HeadersTooLarge,
            "field_bytes",
            "a field is longer than `server.limits.field_bytes` allows",
        );
    }
    if head.raw_path().len() > limits.uri_bytes {
        return deny(
            Cause::UriTooLong,
            "uri_bytes",
            "the target is longer than `server.limits.uri_bytes` allows",
        );
    }
    if matches!(head.method, Method::TRACE | Method::CONNECT) {
        return deny(Cause::Method, "method", "TRACE and CONNECT are not served");
    }
    // h2 has seen to the rest of RFC 9113 §8.2.1.
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if head.headers.values().map(HeaderValue::as_bytes).any(|v| is_space(v.first()) || is_space(v.last())) {
        return deny(Cause::Ambiguous, "field_value", "a field's value begins or ends with white space");
    }
    if !matches!(head.uri.scheme_str(), None | Some("http" | "https")) {
        return deny(Cause::Ambiguous, "bad_scheme", "`:scheme` is neither http nor https");
    }
    Ok(())
}

async fn refuse(
    gateway: Arc<Gateway>,
    connection: Arc<Connection>,
    mut session: HttpSession,
    began: Clock,
    denial: Denial,
    _guard: InFlight,
) {
    let mut passage = answer::passage(gateway, &connection, Protocol::Http2, began);
    let method = session.req_header().method.clone();
    let to_head = method == Method::HEAD;
    passage.record.method = Some(method);
    let reply = passage.refuse(answer::refusal(denial));
    let sent = write(&mut session, &reply, to_head).await;
    answer::settle(passage, &reply, sent);
}

/// Writes an answer and ends the stream. Returns the bytes of body sent.
async fn write(session: &mut HttpSession, reply: &Reply, to_head: bool) -> usize {
    let bare = to_head || reply.body.is_empty();
    if !write_head(session, reply, bare) || bare {
        return 0;
    }
    // Once, without waiting: a client that opens no window would have us keep its head, which may be the very thing that is refused.
    match timeout(Duration::ZERO, session.write_body(reply.body.clone(), true)).await {
        Ok(Ok(())) => reply.body.len(),
        Ok(Err(_)) | Err(_) => 0,
    }
}

/// The record of a head that was begun and not finished in time. Its connection ends: what follows could not be understood.
fn late_head(gateway: Arc<Gateway>, connection: &Connection) {
    let mut passage = answer::passage(gateway, connection, Protocol::Http2, Clock::now());
    let reply = passage.refuse(http1::late_head());
    answer::settle(passage, &reply, 0);
}

/// The record of a request that Pingora has answered or reset itself: nothing of it is known but that it came.
fn rejected(gateway: Arc<Gateway>, connection: &Connection) {
    let mut passage = answer::passage(gateway, connection, Protocol::Http2, Clock::now());
    let message = "a malformed HTTP/2 request";
    let reply = passage.refuse(Refusal::new(Kind::AmbiguousRequest, "http2_malformed", message));
    answer::settle(passage, &reply, 0);
}

/// Whether the head could be written; it ends the stream where it is `bare`.
fn write_head(session: &mut HttpSession, reply: &Reply, bare: bool) -> bool {
    let mut head = gen_error_response(reply.status.as_u16());
    for name in [header::CONTENT_LENGTH, header::SERVER, header::CACHE_CONTROL] {
        head.remove_header(&name);
    }
    for (name, value) in &reply.headers {
        // Only a map that is full refuses.
        let _ = head.append_header(name.clone(), value.clone());
    }
    session.write_response_header(Box::new(head), bare).is_ok()
}

/// The record of a connection that h2 has ended for a fault of the client's: it sees floods too, of CONTINUATION and empty DATA.
fn h2_has_ended(gateway: &Arc<Gateway>, connection: &Connection, findings: &Findings) {
    let Some(code) = findings.goaway() else { return };
    match h2::Reason::from(code) {
        h2::Reason::NO_ERROR => {}
        h2::Reason::ENHANCE_YOUR_CALM => flooded(gateway, connection, "http2_flood"),
        _ => {
            let message = "the connection was ended by GOAWAY: it broke a rule of HTTP/2";
            refused(gateway, connection, "http2_malformed", Kind::AmbiguousRequest, message);
        }
    }
}

/// The record of a connection that was ended: no request of it is known to be at fault, and none was answered.
fn flooded(gateway: &Arc<Gateway>, connection: &Connection, reason: &'static str) {
    // h2 counts by itself, which no key moves.
    let message = match reason {
        "http2_flood" => "the connection was ended by GOAWAY: a flood of frames, or of pieces of a head",
        "http2_refused_streams" => {
            "the connection was ended by GOAWAY: streams above `server.limits.http2_streams` at ten times the rate of \
             `server.limits.http2_resets`"
        }
        _ => "the connection was ended by GOAWAY: more such frames than `server.limits.http2_resets` allows",
    };
    refused(gateway, connection, reason, Kind::Throttled, message);
}

/// The record of what was refused without an answer.
fn refused(
    gateway: &Arc<Gateway>,
    connection: &Connection,
    reason: &'static str,
    kind: Kind,
    message: &'static str,
) {
    let mut passage = answer::passage(Arc::clone(gateway), connection, Protocol::Http2, Clock::now());
    passage.refuse(Refusal::new(kind, reason, message));
    answer::settle_unanswered(passage);
}
