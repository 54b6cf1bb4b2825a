//! HTTP/1: head → judge → Pingora → next head.

use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use bytes::BytesMut;
use http::{HeaderValue, header};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::admission::RequestInFlight;
use super::answer;
use super::clocks::Bounds;
use super::conn::Conn;
use super::counts::Closed;
use super::endpoint::Endpoint;
use super::fence::Fence;
use super::worker::Worker;
use crate::canonical;
use crate::framing::{self, Body, Denial, Framing, Limits, Pace, Progress};
use crate::gateway::{Gateway, Passage, Settings};
use crate::reply::{Kind, Refusal, Reply};
use crate::request::Protocol;
use crate::{proxy, proxy_protocol};

/// Empty lines before a request line that are ignored (RFC 9112 §2.2), in bytes.
const EMPTY_LINES: usize = 16;
/// A body up to this size is read to its end after an early answer, so that the connection lives on.
const DRAINED: u64 = 64 * 1024;
/// How long that may take.
const DRAINING: Duration = Duration::from_secs(5);
/// How long an answer of the rim may take to be written.
const WRITING: Duration = Duration::from_secs(10);

/// What came instead of nothing.
enum Head {
    /// The client has closed, or the connection broke, before a head began.
    Silence,
    /// The client had nothing to say until the deadline.
    Idle,
    /// A complete head.
    Complete(BytesMut),
    /// A head that is refused before it is complete.
    Refused(Refusal),
}

/// Serves a connection to its end.
pub(super) async fn serve<A>(worker: &Arc<Worker<A>>, endpoint: &Arc<Endpoint>, mut conn: Box<Conn>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let draining = endpoint.draining();
    let mut requests = 0;
    loop {
        // For how long it may be silent; the request's own snapshot is taken when its head begins.
        let mut gateway = worker.snapshots.load();
        let mut began = None;
        let head = read_head(worker, &mut conn, &mut gateway, &mut began).await;
        let began = began.unwrap_or_else(Clock::now);
        let head = match head {
            Head::Silence => return,
            Head::Idle => return worker.counts.note_closed(Closed::KeepAlive),
            Head::Refused(refusal) => return refuse(conn, gateway, began, refusal).await,
            Head::Complete(head) => head,
        };
        conn.connection().request_begins(began);
        let limits = limits(&gateway.settings);
        let framing = match framing::judge(&head, &limits) {
            Ok(framing) => framing,
            Err(denial) => return deny(conn, gateway, began, &head, denial).await,
        };
        let (body, waits) = (framing.body, framing.expects_continue);
        // Pingora looks at the first `Connection` only; a `close` in any of them counts (RFC 9112 §9.6).
        let last = !framing.keep_alive
            || body != Body::None
                && body != Body::Length(0)
                && framing::is_content_unexpected(framing.method);
        let head = match origin_form(&framing, &head, limits.uri_bytes) {
            Ok(None) => head,
            Ok(Some(rewritten)) => rewritten,
            Err(denial) => return refuse(conn, gateway, began, denial).await,
        };
        let Some(_flight) = RequestInFlight::begin(worker, gateway.settings.requests_in_flight) else {
            return overloaded(conn, gateway, began, &head).await;
        };
        requests += 1;
        let enough = requests >= gateway.settings.requests_per_connection;
        if enough && !last {
            worker.counts.note_closed(Closed::RequestsPerConnection);
        }
        let last = last || enough;
        conn.expect(body, Bounds::of(&gateway.settings));
        let mut session = ServerSession::new_http1(conn);
        prepare(&mut session, body, waits);
        if last || *draining.borrow() {
            session.set_keepalive_reuses_remaining(Some(0));
        }
        session.set_pipelined_prefix(head);
        let mut reused = None;
        let served = async { reused = worker.app.process_new_http(session, &draining).await };
        match body {
            Body::None | Body::Length(0) => served.await,
            Body::Length(_) | Body::Chunked => {
                proxy::watch(in_all(gateway.settings.pace), None, served).await
            }
        }
        let Some(reused) = reused else { return };
        let Ok(same) = reused.consume().0.into_any().downcast::<Conn>() else { return };
        conn = same;
        // Our reading of the body and Pingora's have ended at the same byte, or the connection ends here.
        if conn.fence() != Fence::Closed {
            log::error!("a request's body was not read to its end: closing the connection");
            return;
        }
    }
}

/// How long a body may take in all, whoever is waited for. While the upstream does not take it nobody reads, so the connection's own clock
/// stands; that one sees to the pace.
fn in_all(pace: Pace) -> Pace {
    Pace { rate: 1, grace: pace.total, total: pace.total }
}

/// The head as Pingora can read it; none where it can as it is. An absolute target that names the same host as `Host` gets origin
/// form, and what `http::Uri` cannot hold is percent-encoded, as in the canonical form.
/// Pingora compares target and `Host` byte for byte, `Host` with itself too where it holds an `@`, and answers what it refuses or
/// cannot hold without a word to anyone; so it sees none of that.
fn origin_form(framing: &Framing<'_>, head: &[u8], uri_bytes: usize) -> Result<Option<BytesMut>, Refusal> {
    let Framing { method, target, host, protocol, .. } = *framing;
    let is_path = matches!(target, [b'/', ..] | b"*");
    let named_oddly = host.is_some_and(|host| host.contains(&b'@'));
    if is_path && !named_oddly && !target.iter().any(|byte| is_unspeakable(*byte)) {
        return Ok(None);
    }
    let malformed = |_| Refusal::new(Kind::AmbiguousRequest, "request_line", "the head makes no request");
    let verb = http::Method::from_bytes(method).map_err(|_| malformed(()))?;
    let mut fields = http::HeaderMap::new();
    if let Some(host) = host {
        fields.insert(header::HOST, HeaderValue::from_bytes(host).map_err(|_| malformed(()))?);
    }
    // Only the target is judged here: HTTP/1.0 may leave its host to the listener.
    let unsaid = (protocol == Protocol::Http10 && host.is_none()).then_some("unsaid");
    canonical::target(&verb, target, unsaid, &fields, protocol, uri_bytes)
        .map_err(|denial| Refusal::new(Kind::AmbiguousRequest, denial.reason, denial.message))?;
    let rest = match is_path || host.is_none() {
        // Where only the target names the host (HTTP/1.0) it must go on naming it.
        true => [&b""[..], target],
        false => canonical::path_of_absolute(&verb, target),
    };
    let after = head.get(method.len() + 1 + target.len()..).unwrap_or_default();
    let mut own = BytesMut::with_capacity(head.len() + 1);
    own.extend_from_slice(method);
    own.extend_from_slice(b" ");
    push_speakable(&rest.concat(), &mut own);
    own.extend_from_slice(after);
    Ok(Some(own))
}

/// Bytes of a path or query that `http::Uri` takes for a mistake. A query that has them is refused by the canonical form, but for
/// the grave accent, which a query may have.
fn is_unspeakable(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`')
}

/// Appends a target that is sound, its path as `http::Uri` can hold it.
fn push_speakable(target: &[u8], out: &mut BytesMut) {
    let (path, query) = match target.iter().position(|byte| *byte == b'?') {
        Some(at) => target.split_at(at),
        None => (target, &b""[..]),
    };
    for byte in path {
        match byte {
            b'"' => out.extend_from_slice(b"%22"),
            b'<' => out.extend_from_slice(b"%3C"),
            b'>' => out.extend_from_slice(b"%3E"),
            b'`' => out.extend_from_slice(b"%60"),
            _ => out.extend_from_slice(&[*byte]),
        }
    }
    out.extend_from_slice(query);
}

/// What becomes of a head that drips.
pub(super) fn late_head() -> Refusal {
    Refusal::new(
        Kind::RequestTimeout,
        "head_timeout",
        "the head was not complete within `server.timeouts.head`",
    )
}

/// How Pingora shall treat this request.
fn prepare(session: &mut ServerSession, body: Body, expects_continue: bool) {
    let ServerSession::H1(session) = session else { return };
    // A client that half-closes still gets its answer; one that is gone is found out by the write.
    session.set_abort_on_close(false);
    // After an early answer a small body is read and the connection kept; behind a large one it is closed, and behind
    // one that waits for `100 Continue` too: whether it will still come cannot be known (RFC 9110 §10.1.1).
    let small = matches!(body, Body::Length(length) if length <= DRAINED) && !expects_continue;
    session.set_close_on_response_before_downstream_finish(!small);
    session.set_total_drain_timeout(Some(DRAINING));
    // The connection's own clock sees to the body, whole and not read by read.
    session.set_read_timeout(None);
}

/// What a snapshot allows.
pub(super) fn limits(settings: &Settings) -> Limits {
    Limits {
        header_fields: settings.header_fields,
        header_bytes: settings.header_bytes,
        field_bytes: settings.field_bytes,
        uri_bytes: settings.uri_bytes,
    }
}

/// Reads one head: `keep_alive` until its first byte, `head` from there to its end, however it drips in. From its first byte on
/// `gateway` is what is in force then.
async fn read_head<A>(
    worker: &Worker<A>,
    conn: &mut Conn,
    gateway: &mut Arc<Gateway>,
    began: &mut Option<Clock>,
) -> Head {
    let mut bounds = limits(&gateway.settings);
    let mut searched = 0;
    let mut skipped = 0;
    conn.set_deadline(Some(Instant::now() + gateway.settings.keep_alive));
    loop {
        while searched == 0 && conn.input().starts_with(b"\r\n") {
            skipped += 2;
            if skipped > EMPTY_LINES {
                began.get_or_insert_with(Clock::now);
                let message = "more empty lines than a request may have before it";
                return Head::Refused(Refusal::new(Kind::AmbiguousRequest, "request_line", message));
            }
            conn.take(2);
        }
        if !conn.input().is_empty() {
            if began.is_none() {
                let now = Instant::now();
                *began = Some(now.into_std());
                *gateway = worker.snapshots.load();
                bounds = limits(&gateway.settings);
                conn.set_deadline(Some(now + gateway.settings.head));
            }
            // A lone CR may still become an empty line.
            if **conn.input() != *b"\r" {
                match framing::find_end(conn.input(), searched, &bounds) {
                    Ok(Progress::Complete(length)) => return Head::Complete(conn.take(length)),
                    Ok(Progress::Partial) => searched = conn.input().len(),
                    Err(denial) => {
                        let refusal = unexpected(conn.input()).unwrap_or_else(|| answer::refusal(denial));
                        return Head::Refused(refusal);
                    }
                }
            }
        }
        match conn.fill().await {
            Ok(1..) => {}
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                return match began {
                    Some(_) => Head::Refused(unexpected(conn.input()).unwrap_or_else(late_head)),
                    None => Head::Idle,
                };
            }
            // Who has closed its side alone may still read why.
            Ok(0) | Err(_) => {
                return match began {
                    Some(_) => Head::Refused(unexpected(conn.input()).unwrap_or_else(unfinished_head)),
                    None => Head::Silence,
                };
            }
        }
    }
}

/// The connection was ended by the client before its request was whole.
pub(super) fn unfinished_head() -> Refusal {
    let message = "the connection was ended within a request's head";
    Refusal::new(Kind::AmbiguousRequest, "head_unfinished", message)
}

/// What is refused as a head may be a PROXY header; saying so saves an operator the search.
fn unexpected(head: &[u8]) -> Option<Refusal> {
    let message = "a PROXY header of a peer that the listener's `proxy_protocol.from` does not list";
    let refusal = || Refusal::new(Kind::AmbiguousRequest, "proxy_protocol_unexpected", message);
    proxy_protocol::is_header(head).then(refusal)
}

async fn deny(conn: Box<Conn>, gateway: Arc<Gateway>, began: Clock, head: &[u8], denial: Denial) {
    let refusal = unexpected(head).unwrap_or_else(|| answer::refusal(denial));
    let mut passage = known(&conn, gateway, began, head);
    let reply = passage.refuse_at_door(conn.connection(), None, refusal).await;
    answer_known(conn, passage, &reply).await;
}

async fn overloaded(conn: Box<Conn>, gateway: Arc<Gateway>, began: Clock, head: &[u8]) {
    let refusal = answer::overloaded(&gateway);
    let mut passage = known(&conn, gateway, began, head);
    let reply = passage.refuse(refusal);
    answer_known(conn, passage, &reply).await;
}

/// A request whose head is complete: its method at least can be told.
fn known(conn: &Conn, gateway: Arc<Gateway>, began: Clock, head: &[u8]) -> Passage {
    let mut passage = answer::passage(gateway, conn.connection(), Protocol::Http11, began);
    let method = head.split(|b| *b == b' ').next().unwrap_or_default();
    passage.record.method = http::Method::from_bytes(method).ok();
    passage
}

async fn answer_known(conn: Box<Conn>, passage: Passage, reply: &Reply) {
    let to_head = passage.record.method == Some(http::Method::HEAD);
    let sent = write(conn, reply, to_head).await;
    answer::settle(passage, reply, sent);
}

/// Refuses what makes no request, or none that can be told.
async fn refuse(conn: Box<Conn>, gateway: Arc<Gateway>, began: Clock, refusal: Refusal) {
    let mut passage = answer::passage(gateway, conn.connection(), Protocol::Http11, began);
    let reply = passage.refuse_at_door(conn.connection(), None, refusal).await;
    let sent = write(conn, &reply, false).await;
    answer::settle(passage, &reply, sent);
}

/// Refuses a connection for what it begins with: whose it is has not been said, so that no limit is asked.
pub(super) async fn refuse_connection(
    conn: Box<Conn>,
    gateway: Arc<Gateway>,
    began: Clock,
    refusal: Refusal,
) {
    let mut passage = answer::passage(gateway, conn.connection(), Protocol::Http11, began);
    let reply = passage.refuse(refusal);
    let sent = write(conn, &reply, false).await;
    answer::settle(passage, &reply, sent);
}

/// Writes an answer and half-closes; dropping the connection does the rest. Returns the bytes of body sent.
async fn write(mut conn: Box<Conn>, reply: &Reply, to_head: bool) -> usize {
    let (bytes, body) = answer::http1(reply, to_head);
    let written = timeout(WRITING, async {
        conn.write_all(&bytes).await?;
        conn.shutdown().await
    });
    match written.await {
        Ok(Ok(())) => body,
        Ok(Err(_)) | Err(_) => 0,
    }
}
