//! A stream of HTTP/2 as Pingora's proxy sees it. Pingora has a session of its own for it, which answers what it does not like with a
//! bare 400 before anybody is asked, takes `Content-Length: 0` for the end of a body, and cannot be told apart from outside. This
//! one judges nothing: the rim has, and the gateway will.
//!
//! A body counts as whole only once its stream has ended well (RFC 9113 §8.1). Its last piece is kept back until then where the
//! head says how long it is: an origin of HTTP/1.1 would take the request for complete before the client has said so.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream as Messages;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::{sleep, timeout};

use super::pace;

/// A request that h2 has accepted, for [`pingora_core::apps::HttpServerApp::process_new_http`]. `stall` is how long a client may
/// take over each piece that is written to it; `patience` is how long a refusal may wait for a window, and `refused` becomes true where it
/// is answered by a small one.
pub fn stream(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    digest: Arc<Digest>,
    stall: Duration,
    patience: Duration,
    refused: Arc<AtomicBool>,
) -> ServerSession {
    let (head, body) = request.into_parts();
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let mut own = Stream {
        head: head.into(),
        body: Body { stream: body, length, read: 0, kept: None, failed: None, broken: false, ended: false },
        respond,
        written: None,
        writer: None,
        ended: false,
        sent: 0,
        stall: Some(stall),
        patience,
        refused,
        drain: None,
        digest,
    };
    own.body.look_ahead();
    ServerSession::new_custom(Box::new(own))
}

/// The content of a refusal up to which it may lie ready without being counted, in bytes.
const SMALL: usize = 4 << 10;

/// What is written next is a refusal with so much content: a client that opens no window for it has its stream reset soon, since whoever is
/// refused must not take the place of others for it.
pub(super) fn hurry(session: &mut ServerSession, content: usize) {
    if session.is_custom() {
        // The only way to tell a session of ours from here; which time it is is its own business.
        session.set_write_timeout((content > SMALL).then_some(Duration::ZERO));
    }
}

/// How long the reset of a body that nobody needs comes after the end of the answer (RFC 9113 §8.1). Where both are in one TLS record some
/// clients (curl 7.88) see the reset alone.
const APART: Duration = Duration::from_millis(20);

struct Stream {
    head: RequestHeader,
    body: Body,
    respond: SendResponse<Bytes>,
    written: Option<Box<ResponseHeader>>,
    writer: Option<SendStream<Bytes>>,
    /// Whether END_STREAM has been said.
    ended: bool,
    sent: usize,
    stall: Option<Duration>,
    patience: Duration,
    refused: Arc<AtomicBool>,
    drain: Option<Duration>,
    digest: Arc<Digest>,
}

/// What the client sends.
struct Body {
    stream: RecvStream,
    /// As its head says it.
    length: Option<usize>,
    read: usize,
    /// The last piece, until the end is known to be one.
    kept: Option<Bytes>,
    /// Why it broke off, until that is told.
    failed: Option<h2::Error>,
    broken: bool,
    /// Whether it ended well.
    ended: bool,
}

impl Body {
    /// What comes next, in the order in which it came; nothing at the end. Whoever stops waiting loses nothing.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(error) = self.failed.take() {
                return Err(Error::because(ErrorType::ReadError, "the body has broken off", error));
            }
            if self.broken {
                return Error::e_explain(ErrorType::ReadError, "the body has broken off");
            }
            if self.ended {
                return Ok(self.kept.take());
            }
            match poll_fn(|cx| self.stream.poll_data(cx)).await {
                None => self.ended = true,
                Some(Err(error)) => self.break_off(error),
                Some(Ok(data)) => {
                    self.read += data.len();
                    // A window that cannot be given back is one of a stream that is gone: the next read says so.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.look_ahead();
                    if data.is_empty() {
                        continue;
                    }
                    if self.ended || self.length.is_none_or(|length| self.read < length) {
                        return Ok(Some(data));
                    }
                    self.kept = Some(data);
                }
            }
        }
    }

    fn break_off(&mut self, error: h2::Error) {
        self.failed = Some(error);
        self.broken = true;
    }

    /// Finds out whether the end has come already, so that it can be told with the last piece.
    fn look_ahead(&mut self) {
        if self.stream.is_end_stream() {
            // Nothing more will come, so nobody has to be woken.
            match self.stream.poll_data(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(None) => self.ended = true,
                Poll::Ready(Some(Err(error))) => self.break_off(error),
                Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
            }
        }
    }

    fn is_done(&self) -> bool {
        self.ended && self.kept.is_none()
    }
}

impl Stream {
    fn send_head(&mut self, mut head: Box<ResponseHeader>, end: bool) -> Result<()> {
        // Only the first final answer is one, and interim ones end here, but for our own word that the body may come.
        if self.ended || self.written.is_some() {
            return Ok(());
        }
        if head.status.is_informational() {
            return self.send_interim(head.status);
        }
        head.insert_header(DATE, get_cached_date())?;
        for name in [TRANSFER_ENCODING, CONNECTION, UPGRADE] {
            head.remove_header(&name);
        }
        for name in ["keep-alive", "proxy-connection"] {
            head.remove_header(name);
        }
        let response = Response::from_parts(head.as_owned_parts(), ());
        let writer = self.respond.send_response(response, end);
        self.writer = Some(writer.or_err(ErrorType::WriteError, "writing the head of an answer")?);
        self.written = Some(head);
        self.ended = end;
        Ok(())
    }

    /// 100, to who waits for it; `proxy::body` takes the expectation out of the head once it is met, so that no upstream can say it.
    fn send_interim(&mut self, status: StatusCode) -> Result<()> {
        let is_awaited = status == StatusCode::CONTINUE && self.head.headers.contains_key(EXPECT);
        // h2 would queue it for a stream that the client has reset.
        if !is_awaited || self.respond.poll_reset(&mut Context::from_waker(Waker::noop())).is_ready() {
            return Ok(());
        }
        let mut interim = Response::new(());
        *interim.status_mut() = status;
        self.respond.send_informational(interim).or_err(ErrorType::WriteError, "writing an interim answer")
    }

    async fn send(&mut self, data: Bytes, end: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else {
            return Error::e_explain(ErrorType::H2Error, "a body before its head");
        };
        let length = data.len();
        // Whoever waits here waits for a window, and does not read the client's body.
        let written = pace::writing(send(writer, data, end));
        match self.stall {
            Some(stall) => match timeout(stall, written).await {
                Ok(written) => written?,
                Err(_) => return Error::e_explain(ErrorType::WriteTimedout, "the client does not read"),
            },
            None => written.await?,
        }
        self.sent += length;
        self.ended = end;
        Ok(())
    }

    fn send_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else {
            return Error::e_explain(ErrorType::H2Error, "trailers before their head");
        };
        writer.send_trailers(trailers).or_err(ErrorType::WriteError, "writing trailers")?;
        self.ended = true;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.as_mut().filter(|_| !self.ended) {
            writer.send_data(Bytes::new(), true).or_err(ErrorType::WriteError, "ending an answer")?;
            self.ended = true;
        }
        Ok(())
    }

    fn reset(&mut self) {
        if !self.ended {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// Sends this much, as the client's windows let it.
async fn send(writer: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<()> {
    while !data.is_empty() {
        writer.reserve_capacity(data.len());
        let Some(room) = poll_fn(|cx| writer.poll_capacity(cx)).await else {
            return Error::e_explain(ErrorType::H2Error, "the stream is gone");
        };
        let room = room.or_err(ErrorType::H2Error, "waiting for a window")?;
        let piece = data.split_to(room.min(data.len()));
        let last = end && data.is_empty();
        writer.send_data(piece, last).or_err(ErrorType::WriteError, "writing an answer")?;
        if last {
            return Ok(());
        }
    }
    match end {
        true => writer.send_data(data, true).or_err(ErrorType::WriteError, "ending an answer"),
        false => Ok(()),
    }
}

#[async_trait]
impl Session for Stream {
    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.body.next().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let drained = async {
            while !self.body.is_done() && self.body.next().await?.is_some() {}
            Ok(())
        };
        match self.drain {
            Some(drain) => match timeout(drain, drained).await {
                Ok(drained) => drained,
                Err(_) => Error::e_explain(ErrorType::ReadTimedout, "what is left of the body does not come"),
            },
            None => drained.await,
        }
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.send_head(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.send_head(Box::new(head.clone()), end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.send(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.send_trailers(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut ended = false;
        for task in tasks {
            ended |= match task {
                HttpTask::Header(head, end) => {
                    self.send_head(head, end).map_err(Error::into_down)?;
                    end
                }
                HttpTask::Body(data, end) => {
                    if let Some(data) = data.filter(|data| !data.is_empty()) {
                        self.send(data, end).await.map_err(Error::into_down)?;
                    }
                    end
                }
                HttpTask::UpgradedBody(..) => {
                    return Error::e_explain(ErrorType::InternalError, "a tunnel in a stream");
                }
                HttpTask::Trailer(trailers) => {
                    if let Some(trailers) = trailers {
                        self.send_trailers(*trailers).map_err(Error::into_down)?;
                    }
                    true
                }
                HttpTask::Done => true,
                HttpTask::Failed(error) => return Err(error),
            };
        }
        if ended {
            self.end().map_err(Error::into_down)?;
        }
        Ok(ended)
    }

    fn set_read_timeout(&mut self, _: Option<Duration>) {
        // The stream's clock sees to it: `pace`.
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    /// Only [`hurry`] does: however long others may take, a refusal has its own patience. None tells that it is small.
    fn set_write_timeout(&mut self, large: Option<Duration>) {
        self.stall = Some(self.patience);
        self.refused.store(large.is_none(), Ordering::Relaxed);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.stall
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.drain = timeout;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.head.method, self.head.uri)
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        self.reset();
    }

    fn is_body_done(&mut self) -> bool {
        self.body.is_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.end()?;
        if self.ended && !self.body.is_done() {
            sleep(APART).await;
        }
        Ok(())
    }

    fn is_body_empty(&mut self) -> bool {
        self.body.read == 0 && self.body.is_done()
    }

    /// After the end waits for the client to leave, which is an error.
    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if !no_body_expected && !self.body.is_done() {
            return self.body.next().await;
        }
        let left = match &mut self.writer {
            Some(writer) => poll_fn(|cx| writer.poll_reset(cx)).await,
            None => poll_fn(|cx| self.respond.poll_reset(cx)).await,
        };
        let code = left.or_err(ErrorType::H2Error, "the client has left")?;
        Error::e_explain(ErrorType::H2Error, format!("the client has reset the stream: {code}"))
    }

    fn body_bytes_sent(&self) -> usize {
        self.sent
    }

    fn body_bytes_read(&self) -> usize {
        self.body.read
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Arc::get_mut(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref().and_then(|digest| digest.peer_addr())
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref().and_then(|digest| digest.local_addr())
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        // For subrequests, of which there are none.
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {
        // A request whose body was begun is never sent again.
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.body.read > 0
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        None
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Messages<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _: Box<dyn Messages<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
