//! The one place that knows Pingora's session and `ProxyHttp`.

mod attempt;
mod body;
mod ctx;
mod departure;
mod failures;
mod fence;
mod hop;
mod pace;
mod peer;
mod respond;
mod stream;
mod view;
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, Version};
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, Session, http_proxy};

pub use ctx::Ctx;
pub use departure::{Left, Watch};
pub use pace::watch;
pub use stream::stream;

use crate::framing;
use crate::gateway::{Admission, Snapshots};
use crate::record::Integration;
use crate::reply::{Kind, Refusal, Reply};
use ctx::{CLIENT_CLOSED, Course};
use failures::{Failure, Fault};
use hop::Framing;

/// How long a client may go on sending a body that its upstream did not want, before its connection is closed.
const DRAIN: Duration = Duration::from_secs(5);

/// The gateway as Pingora calls it; one for each worker.
#[derive(Debug)]
pub struct Gate {
    snapshots: Snapshots,
    worker: usize,
    /// None where no connection can be watched.
    watch: Option<Watch>,
}

impl Gate {
    /// For this worker.
    pub fn new(snapshots: Snapshots, worker: usize) -> Self {
        Self { snapshots, worker, watch: None }
    }

    /// The application of one worker, as the rim runs it; `watch` is how that sees a client leave.
    pub fn app(snapshots: Snapshots, worker: usize, watch: Watch) -> HttpProxy<Self> {
        let conf = Arc::new(ServerConf::default());
        http_proxy(&conf, Self { watch: Some(watch), ..Self::new(snapshots, worker) })
    }

    /// Answers from here, whole.
    async fn reply(&self, session: &mut Session, ctx: &mut Ctx, reply: Reply) -> Result<bool> {
        if let Some(stage) = &mut ctx.stage {
            // A connection on which something could not be understood is not understood any further.
            if stage.connection.is_leaving() || stage.passage.is_ambiguous() {
                session.as_downstream_mut().set_keepalive(None);
            }
            stage.passage.record.status = reply.status.as_u16();
            stage.note_own(ctx.started, Instant::now());
            if stage.passage.record.error.is_some() {
                stream::hurry(session.as_downstream_mut(), reply.body.len());
            }
        }
        let answered = || {
            if let Some(stage) = &mut ctx.stage {
                stage.passage.effects.limits.give_back();
            }
        };
        respond::send(session, reply, answered).await.map_err(Error::into_down)?;
        Ok(true)
    }

    /// Tells the client why it is not served, if it can still be told. Returns the status sent, 0 for none.
    async fn refuse(&self, session: &mut Session, ctx: &mut Ctx, refusal: Refusal) -> u16 {
        let Some(stage) = &mut ctx.stage else { return 0 };
        if is_answered(session) {
            stage.passage.record.error = Some(refusal.facts());
            return 0;
        }
        // Pingora lets go of the client's connection after an error: the answer must say so, or the client's next request is lost.
        session.as_downstream_mut().set_keepalive(None);
        let reply = stage.passage.refuse(refusal);
        let status = reply.status.as_u16();
        match self.reply(session, ctx, reply).await {
            Ok(_) => status,
            Err(error) => {
                log::debug!("a refusal could not be sent: {error}");
                0
            }
        }
    }
}

/// Whether a final head has been sent, so that nothing can be answered any more.
fn is_answered(session: &Session) -> bool {
    session
        .response_written()
        .is_some_and(|head| !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS)
}

#[async_trait]
impl ProxyHttp for Gate {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::new()
    }

    fn init_downstream_modules(&self, _: &mut pingora_core::modules::http::HttpModules) {
        // None: each costs every request something, and we compress nothing.
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        let Some(connection) = view::connection(session) else {
            return Err(Error::explain(ErrorType::InternalError, "a connection without its facts"));
        };
        let downstream = session.as_downstream_mut();
        downstream.set_close_on_response_before_downstream_finish(false);
        // Interim answers end here: clients of HTTP/1.0 must not get them, and HTTP/2 cannot carry them through Pingora.
        downstream.set_ignore_info_resp(true);
        downstream.set_total_drain_timeout(Some(DRAIN));
        let gateway = self.snapshots.load();
        let has_queues = gateway.has_queues;
        let started = ctx.started;
        let stage = ctx.enter(gateway, connection);
        let admission = if has_queues {
            // Boxed, so that requests of others are no larger for it.
            match Box::pin(departure::admit(stage, session, self.watch)).await {
                Ok(admission) => admission,
                Err(left) => {
                    stage.passage.record.error = Some(left);
                    let error = Error::explain(ErrorType::ConnectionClosed, "the client left a queue");
                    return Err(error.into_down());
                }
            }
        } else {
            let arrival = view::arrival(session.req_header(), &stage.connection);
            stage.passage.admit(&arrival).await
        };
        match admission {
            Admission::Reply(reply) => self.reply(session, ctx, reply).await,
            Admission::Echo(admitted) => {
                body::call_for(session).await.map_err(Error::into_down)?;
                let began = Instant::now();
                let bytes = body::count(session).await;
                stage.client_wait = began.elapsed();
                let bytes = bytes?;
                let arrival = view::arrival(session.req_header(), &stage.connection);
                let reply = stage.passage.echo(&admitted, &arrival, bytes);
                self.reply(session, ctx, reply).await
            }
            Admission::Forward(admitted) => {
                let Some(upstream) = admitted.upstream().cloned() else {
                    return Err(Error::explain(ErrorType::InternalError, "forwarded to nowhere"));
                };
                body::call_for(session).await.map_err(Error::into_down)?;
                let began = Instant::now();
                let empty = body::end_if_empty(session).await;
                let now = Instant::now();
                stage.client_wait = now.saturating_duration_since(began);
                empty?;
                upstream.note_request(self.worker, now);
                let mut course = Course::new(upstream, started, now);
                course.upgrade = hop::upgrade(session.req_header(), &admitted);
                course.has_body = !session.as_downstream_mut().is_body_empty();
                let method = session.req_header().method.as_str();
                course.spends = course.has_body && framing::is_content_unexpected(method.as_bytes());
                course.head = method == "HEAD";
                if course.upstream.wants_proxy_header() {
                    course.header = Some(stage.passage.proxy_header(&stage.connection));
                }
                stage.course = Some(course);
                stage.admitted = Some(admitted);
                Ok(false)
            }
        }
    }

    async fn upstream_peer(&self, _: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        pace::hold();
        match ctx.course() {
            Some(course) => peer::next(course, self.worker).await,
            None => Err(Error::explain(ErrorType::InternalError, "nowhere to go")),
        }
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        pace::wait();
        let Some(stage) = &mut ctx.stage else { return Ok(()) };
        let (Some(course), Some(admitted)) = (&stage.course, &stage.admitted) else { return Ok(()) };
        let Some(attempt) = &course.attempt else { return Ok(()) };
        let target = view::edit_request(head, |headers| {
            headers.reserve(hop::OWN_FIELDS);
            hop::clean_request(headers, |name| admitted.relies_on(name));
            stage.passage.upstream_head(admitted, attempt.server.name(), headers)
        });
        if head.raw_path() != target.as_bytes() {
            head.set_raw_path(target.as_bytes())?;
        }
        if let Some(protocol) = &course.upgrade {
            hop::ask_upgrade(head, protocol.clone());
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        // Pingora would write an empty last piece as the last chunk, and then the last chunk: the second would stand before the
        // upstream's next request. Many clients of HTTP/2 end a body with an empty frame.
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        pace::note(body.as_ref().map_or(0, Bytes::len), end);
        if end && let Some(course) = ctx.course() {
            let total = course.has_body.then(|| course.upstream.timeouts().total);
            if let Some(attempt) = &course.attempt
                && !session.was_upgraded()
            {
                attempt.request_read(Instant::now(), total);
            }
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let tunnel = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let Some(stage) = &mut ctx.stage else { return Ok(()) };
        let Some(course) = &mut stage.course else { return Ok(()) };
        if head.status.is_informational() && !tunnel {
            return Ok(()); // Counted by the fence.
        }
        if let Some(attempt) = &course.attempt {
            // An answer before the end of the request: its server may yet take the rest for a request of its own.
            if course.has_body && attempt.sent().is_none() {
                attempt.spend();
            }
            if tunnel && !hop::is_switch_to(head, course.upgrade.as_ref()) {
                attempt.fail(Failure::BadResponse, "101 to a protocol that was not asked for".to_owned());
                return Err(Error::explain(ErrorType::InvalidHTTPHeader, "unasked 101").into_up());
            }
            attempt.head_read(tunnel);
            if let Some(idle) = hop::idle_hint(&head.headers) {
                attempt.note_idle_hint(idle);
            }
        }
        let latency = course.began.elapsed();
        let integration = stage.passage.record.integration.get_or_insert_with(Integration::default);
        integration.status = Some(head.status.as_u16());
        integration.latency = Some(latency);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let tunnel = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let Some(stage) = &mut ctx.stage else { return Ok(()) };
        if head.status.is_informational() && !tunnel {
            return Ok(());
        }
        // Whatever the server speaks, this is our message (RFC 9112 §2.3); HTTP/2 has no version to tell.
        head.set_version(Version::HTTP_11);
        let framing = Framing::of(head);
        let status = head.status;
        let version = session.req_header().version;
        view::edit_response(head, |headers| {
            stage.passage.finish(status, headers);
            framing.restore(headers, version);
        });
        if version == Version::HTTP_10 && !head.headers.contains_key(http::header::CONTENT_LENGTH) {
            stage.ends_unsaid = true;
            session.as_downstream_mut().set_keepalive(None);
        }
        if stage.connection.is_leaving() && !tunnel {
            session.as_downstream_mut().set_keepalive(None);
        }
        if tunnel {
            // The wire counts idle time over both directions.
            session.as_downstream_mut().set_read_timeout(None);
            stage.connection.open_tunnel();
        }
        if hop::is_bodiless(head, &session.req_header().method) {
            stage.note_answered();
        }
        stage.note_own(ctx.started, Instant::now());
        Ok(())
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        if let Some(attempt) = ctx.attempt() {
            attempt.backlog.take();
        }
        if end && let Some(stage) = &mut ctx.stage {
            stage.note_answered();
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Ctx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        error.set_retry(ctx.course().is_some_and(|course| peer::may_connect_again(course)));
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Ctx,
        _: bool,
    ) -> Box<Error> {
        let again = *error.esource() == ErrorSource::Upstream
            && session.response_written().is_none()
            && hop::is_idempotent(&session.req_header().method)
            && session.as_downstream_mut().is_body_empty()
            && ctx.course().is_some_and(peer::may_send_again);
        error.set_retry(again);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        let fault = failures::read(error, ctx.attempt().map(|attempt| &**attempt));
        let Some(stage) = &mut ctx.stage else {
            let _ = session.respond_error(500).await;
            return FailToProxy { error_code: 500, can_reuse_downstream: false };
        };
        stage.note_cut();
        let status = if *error.etype() == peer::NO_HEALTHY_SERVER {
            stage.note_error("no_healthy_server");
            let message = "no server of the upstream is healthy";
            self.refuse(session, ctx, Refusal::new(Kind::NoHealthyServer, "no_healthy_server", message)).await
        } else {
            match fault {
                Fault::ClientStalled => {
                    stage.note_silence("write_stall", ctx::NOT_READ);
                    CLIENT_CLOSED
                }
                Fault::ClientClosed(message) => {
                    stage.note_silence("client_closed", message);
                    CLIENT_CLOSED
                }
                Fault::Client(refusal) => self.refuse(session, ctx, refusal).await,
                Fault::Upstream(failure, detail) => {
                    stage.note_error(format!("{}: {detail}", failure.reason()));
                    self.refuse(session, ctx, Refusal::new(failure.kind(), failure.reason(), detail)).await
                }
                Fault::Internal(message) => {
                    log::error!("{message}");
                    self.refuse(session, ctx, Refusal::new(Kind::InternalError, "internal", message)).await
                }
            }
        };
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, ctx: &mut Ctx) {
        let length = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let downstream = session.as_downstream();
        ctx.settle(Some((length(downstream.body_bytes_read()), length(downstream.body_bytes_sent()))));
    }

    fn suppress_error_log(&self, _: &Session, _: &Ctx, _: &Error) -> bool {
        true // The access log tells it.
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Ctx,
        _: &Error,
        _: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
