//! One stream of HTTP/2: judged and bounded before anything is spent on it, then served like any request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as Clock};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderValue, Method, Request, Response, header};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::date::get_cached_date;
use tokio::sync::{Notify, watch};

use super::admission::RequestInFlight;
use super::frames::Findings;
use super::worker::Worker;
use super::{answer, http1};
use crate::framing::{Cause, Denial};
use crate::gateway::Gateway;
use crate::proxy;
use crate::reply::{Kind, Refusal, Reply};
use crate::request::{Connection, Protocol};

/// What a stream may cost on average where a connection has as many as it may: a request with a small head. One with a larger head
/// counts for more, since the table of HPACK lets a client have kilobytes of fields for a byte each. With 128 streams on each of 20
/// connections this is 45 MiB by our own account, and less than 64 by the system's, whatever the heads (`load-tests/abuse/header-bomb`).
const SHARE: usize = 18 << 10;
/// What a request costs beside its head, about.
const REQUEST: usize = 16 << 10;
/// What a field costs beside its bytes: two entries in maps of fields, ours and the one for the server, and what the heap rounds up for
/// each name and value.
const FIELD: usize = 350;
/// How long a refusal may wait for a window: none where half of all requests that may be in flight are, so that whoever is refused and
/// opens none leaves the other half to others.
const PATIENCE: Duration = Duration::from_secs(1);

/// Requests in flight on a connection.
#[derive(Debug, Default)]
pub(super) struct Flight {
    count: AtomicUsize,
    /// What they cost together, in bytes.
    weight: AtomicUsize,
    /// Told when the last one has landed.
    pub(super) landed: Notify,
}

/// One of them, and what it costs.
pub(super) struct InFlight(Arc<Flight>, usize);

impl Flight {
    /// Whether nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}

impl InFlight {
    pub(super) fn new(flight: &Arc<Flight>) -> Self {
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

/// A request as h2 hands it over.
pub(super) type Incoming = (Request<RecvStream>, SendResponse<Bytes>);

/// Judges a stream before anything is spent on it, and serves it.
pub(super) fn serve<A>(
    worker: &Arc<Worker<A>>,
    (connection, findings): (&Arc<Connection>, &Arc<Findings>),
    digest: &Arc<Digest>,
    incoming: Incoming,
    calm: watch::Receiver<bool>,
    mut guard: InFlight,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let began = Clock::now();
    let gateway = worker.snapshots.load();
    let (request, mut respond) = incoming;
    if let Err(denial) = judge(&request, &gateway) {
        return refuse(gateway, Arc::clone(connection), began, (request, respond), denial, guard);
    }
    let most = usize::try_from(gateway.settings.http2_streams).unwrap_or(usize::MAX).saturating_mul(SHARE);
    if !guard.bears(weight(&request), most) {
        // Not begun: the client may send it again (RFC 9113 §8.7).
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        let message = "its head is too large beside those of the connection's other streams; \
                       `server.limits.http2_streams` allows more";
        return refused(&gateway, connection, Refusal::new(Kind::Overloaded, "http2_heads", message));
    }
    let Some(flight) = RequestInFlight::begin(worker, gateway.settings.requests_in_flight) else {
        return overloaded(gateway, connection, began, &request, &mut respond);
    };
    let pace = gateway.settings.pace;
    let stall = gateway.settings.write_stall;
    let patience = match flight.is_crowded(gateway.settings.requests_in_flight) {
        true => Duration::ZERO,
        false => PATIENCE.min(stall),
    };
    drop(gateway);
    let body = !request.body().is_end_stream();
    let (stream, findings) = (request.body().stream_id().as_u32(), Arc::clone(findings));
    let refused = Arc::new(AtomicBool::new(false));
    let session = proxy::stream(request, respond, Arc::clone(digest), stall, patience, Arc::clone(&refused));
    let served = async move {
        let held = (guard, flight);
        held.1.worker().app.process_new_http(session, &calm).await;
        // The answer may lie in h2 for as long as the client reads nothing. A small refusal that were held against the bound of all would
        // let whoever is refused have the others refused too.
        if !refused.load(Ordering::Relaxed) {
            findings.answered(stream, Box::new(held));
        }
    };
    if body {
        tokio::spawn(proxy::watch(pace, Some(Arc::clone(connection)), served));
    } else {
        tokio::spawn(served);
    }
}

/// What a request will cost while it is in flight, in bytes, about; each byte of its head is there three times: in the map of
/// fields, in what is sent to the server, and in buffers.
fn weight(request: &Request<RecvStream>) -> usize {
    let field = |name: &http::HeaderName, value: &HeaderValue| 3 * (name.as_str().len() + value.len());
    let fields: usize = request.headers().iter().map(|(name, value)| FIELD + field(name, value)).sum();
    REQUEST + fields + 3 * target(request).len()
}

/// `:path`, as far as h2 gives it.
fn target(request: &Request<RecvStream>) -> &str {
    request.uri().path_and_query().map_or("", |target| target.as_str())
}

/// Answers by a head that ends the stream: no window and no client can make it wait.
fn overloaded(
    gateway: Arc<Gateway>,
    connection: &Connection,
    began: Clock,
    request: &Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
) {
    let refusal = answer::overloaded(&gateway);
    let mut passage = answer::passage(gateway, connection, Protocol::Http2, began);
    passage.record.method = Some(request.method().clone());
    let mut reply = passage.refuse(refusal);
    for of_body in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        reply.headers.remove(of_body);
    }
    write(respond, &reply, true);
    answer::settle(passage, &reply, 0);
}

/// The bounds of `framing::judge`, for what h2 has parsed; its list size bounds the bytes of the whole head.
fn judge(head: &Request<RecvStream>, gateway: &Gateway) -> Result<(), Denial> {
    let limits = http1::limits(&gateway.settings);
    let deny = |cause, reason, message| Err(Denial { cause, reason, message });
    if head.headers().len() > limits.header_fields {
        return deny(
            Cause::HeadersTooLarge,
            "header_fields",
            "more fields than `server.limits.header_fields` allows",
        );
    }
    if head.headers().iter().any(|(name, value)| name.as_str().len() + value.len() + 2 > limits.field_bytes) {
        return deny(
            Cause::HeadersTooLarge,
            "field_bytes",
            "a field is longer than `server.limits.field_bytes` allows",
        );
    }
    if target(head).len() > limits.uri_bytes {
        return deny(
            Cause::UriTooLong,
            "uri_bytes",
            "the target is longer than `server.limits.uri_bytes` allows",
        );
    }
    if matches!(*head.method(), Method::TRACE | Method::CONNECT) {
        return deny(Cause::Method, "method", "TRACE and CONNECT are not served");
    }
    // h2 has seen to the rest of RFC 9113 §8.2.1.
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if head.headers().values().map(HeaderValue::as_bytes).any(|v| is_space(v.first()) || is_space(v.last())) {
        return deny(Cause::Ambiguous, "field_value", "a field's value begins or ends with white space");
    }
    // h2 takes several that agree, and some that are no number (RFC 9110 §8.6).
    let mut lengths = head.headers().get_all(header::CONTENT_LENGTH).iter();
    let is_number =
        |length: &HeaderValue| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    if lengths.next().is_some_and(|length| !is_number(length)) || lengths.next().is_some() {
        return deny(Cause::Ambiguous, "content_length", "Content-Length is not one number");
    }
    if !matches!(head.uri().scheme_str(), None | Some("http" | "https")) {
        return deny(Cause::Ambiguous, "bad_scheme", "`:scheme` is neither http nor https");
    }
    Ok(())
}

/// Answers at once, unless a limit of the fleet's is to be asked.
fn refuse(
    gateway: Arc<Gateway>,
    connection: Arc<Connection>,
    began: Clock,
    (request, mut respond): Incoming,
    denial: Denial,
    guard: InFlight,
) {
    let mut refused = Box::pin(async move {
        let _guard = guard;
        let mut passage = answer::passage(gateway, &connection, Protocol::Http2, began);
        passage.record.method = Some(request.method().clone());
        let refusal = answer::refusal(denial);
        let reply = passage.refuse_at_door(&connection, Some(request.headers()), refusal).await;
        let sent = write(&mut respond, &reply, request.method() == Method::HEAD);
        answer::settle(passage, &reply, sent);
    });
    if refused.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
        tokio::spawn(refused);
    }
}

/// Writes an answer and ends the stream; returns the bytes of body sent. Nothing waits: a client that opens no window would have us
/// keep its head, which may be the very thing that is refused. Its stream is reset then.
fn write(respond: &mut SendResponse<Bytes>, reply: &Reply, bare: bool) -> usize {
    let bare = bare || reply.body.is_empty();
    let mut head = Response::new(());
    *head.status_mut() = reply.status;
    *head.headers_mut() = reply.headers.clone();
    head.headers_mut().remove(header::CONNECTION);
    head.headers_mut().insert(header::DATE, get_cached_date());
    let Ok(mut writer) = respond.send_response(head, bare) else { return 0 };
    let length = reply.body.len();
    if bare {
        return 0;
    }
    writer.reserve_capacity(length);
    match writer.poll_capacity(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(room))) if room >= length => {
            writer.send_data(reply.body.clone(), true).map_or(0, |()| length)
        }
        _ => 0,
    }
}

/// The record of what was refused without an answer.
pub(super) fn refused(gateway: &Arc<Gateway>, connection: &Connection, refusal: Refusal) {
    let mut passage = answer::passage(Arc::clone(gateway), connection, Protocol::Http2, Clock::now());
    passage.refuse(refusal);
    answer::settle_unanswered(passage);
}
