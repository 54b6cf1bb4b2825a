//! What the phases of one request share.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;

use super::attempt::Attempt;
use super::failures::too_slow;
use super::pace;
use crate::gateway::{Admitted, Passage};
use crate::proxy_protocol::Header;
use crate::record::{ErrorFacts, Integration};
use crate::request::Connection;
use crate::upstream::{Tried, Upstream};

/// nginx's number for a client that went away before it was answered; it never leaves the log.
pub(super) const CLIENT_CLOSED: u16 = 499;

/// What the log says of a client that takes nothing.
pub(super) const NOT_READ: &str = "the client did not read for `server.timeouts.write_stall`";

/// One request. Its record is settled once: by the logging phase, or when the request is dropped on its way.
#[derive(Debug)]
pub struct Ctx {
    pub(super) started: Instant,
    started_at: SystemTime,
    /// Boxed: Pingora moves the context through several futures, and each move would copy a kilobyte.
    pub(super) stage: Option<Box<Stage>>,
}

/// What exists from the door on.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) passage: Passage,
    pub(super) connection: Arc<Connection>,
    pub(super) admitted: Option<Admitted>,
    pub(super) course: Option<Course>,
    /// Time spent waiting for the client's body in a phase of ours.
    pub(super) client_wait: Duration,
    own: Option<Duration>,
    /// An answer is on its way whose end only the connection's will tell (to HTTP/1.0, without a length).
    pub(super) ends_unsaid: bool,
}

/// The way to an upstream.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) upstream: Arc<Upstream>,
    pub(super) began: Instant,
    pub(super) until: Instant,
    pub(super) tried: Tried,
    pub(super) attempts: u32,
    pub(super) attempt: Option<Arc<Attempt>>,
    /// What earlier attempts waited.
    waited: Duration,
    /// The protocol the client asks for and may have.
    pub(super) upgrade: Option<http::HeaderValue>,
    /// Whether a kept connection may be used: not after one was found closed.
    pub(super) kept_may_do: bool,
    pub(super) has_body: bool,
    /// Whether the request's body may be taken for a request by a server that does not expect one.
    pub(super) spends: bool,
    /// The PROXY header that its connections begin with, where the upstream wants one.
    pub(super) header: Option<Header>,
    /// Whether the request is a HEAD.
    pub(super) head: bool,
}

impl Ctx {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), started_at: SystemTime::now(), stage: None }
    }

    /// Takes the snapshot: from here on there is a record.
    pub(super) fn enter(
        &mut self,
        gateway: Arc<crate::gateway::Gateway>,
        connection: Arc<Connection>,
    ) -> &mut Stage {
        let passage = Passage::new(gateway, &connection, self.started, self.started_at);
        self.stage.insert(Box::new(Stage {
            passage,
            connection,
            admitted: None,
            course: None,
            client_wait: Duration::ZERO,
            own: None,
            ends_unsaid: false,
        }))
    }

    pub(super) fn course(&mut self) -> Option<&mut Course> {
        self.stage.as_mut()?.course.as_mut()
    }

    pub(super) fn attempt(&self) -> Option<&Arc<Attempt>> {
        self.stage.as_ref()?.course.as_ref()?.attempt.as_ref()
    }

    /// The end: lengths, times and the log. Later calls do nothing.
    pub(super) fn settle(&mut self, lengths: Option<(u64, u64)>) {
        let Some(mut stage) = self.stage.take() else { return };
        let now = Instant::now();
        stage.note_own(self.started, now);
        stage.note_course();
        if stage.connection.fate.is_stalled() && stage.passage.record.error.is_none() {
            stage.note_silence("write_stall", NOT_READ);
        }
        let record = &mut stage.passage.record;
        if let Some((request, response)) = lengths {
            record.request_length = request;
            record.response_length = response;
        }
        record.response_latency = Some(now.saturating_duration_since(self.started));
        record.own_latency = stage.own;
        stage.passage.settle();
    }
}

impl Stage {
    /// Our own part: everything until the answer's head is on its way, less what client and upstream were waited for. Passing a
    /// body on is left out: there both are waited for all the time.
    pub(super) fn note_own(&mut self, started: Instant, now: Instant) {
        let waited = self.client_wait + self.course.as_ref().map_or(Duration::ZERO, Course::waited);
        let whole = now.saturating_duration_since(started);
        self.own.get_or_insert_with(|| whole.saturating_sub(waited));
    }

    /// The upstream's part of the record.
    pub(super) fn note_course(&mut self) {
        let Some(course) = &self.course else { return };
        let integration = self.passage.record.integration.get_or_insert_with(Integration::default);
        integration.upstream = Arc::clone(course.upstream.name());
        integration.attempts = course.attempts;
        if let Some(attempt) = &course.attempt {
            integration.server = Some(Arc::clone(attempt.server.name()));
            integration.connect_latency = attempt.connect_latency();
        }
    }

    /// Notes why the upstream failed, for the log.
    pub(super) fn note_error(&mut self, error: impl Into<Cow<'static, str>>) {
        let integration = self.passage.record.integration.get_or_insert_with(Integration::default);
        integration.error = Some(error.into());
    }

    /// Notes that the answer is complete, before its last piece is written. What is still to come of the request's body nobody needs, and
    /// it is under way no more.
    pub(super) fn note_answered(&mut self) {
        self.ends_unsaid = false;
        self.passage.effects.limits.give_back();
        let open = self.course.as_ref().is_some_and(|course| {
            course.has_body && course.attempt.as_ref().is_some_and(|attempt| attempt.sent().is_none())
        });
        if open {
            pace::note_answered();
            self.connection.fate.set_answered(Some(Instant::now()));
        }
    }

    /// Notes that the answer is not whole, where nothing but the connection's end would tell.
    pub(super) fn note_cut(&self) {
        if self.ends_unsaid {
            self.connection.fate.note_cut();
        }
    }

    /// Notes what happened where nothing can be answered.
    pub(super) fn note_silence(&mut self, reason: &'static str, message: impl Into<Cow<'static, str>>) {
        // Whatever a stream is told when its connection goes: this is why it went.
        let (reason, message) = match self.connection.fate.is_stalled() {
            true => ("write_stall", NOT_READ.into()),
            false => (reason, message.into()),
        };
        self.passage.record.error.get_or_insert(ErrorFacts {
            response_type: "CLIENT_CLOSED",
            reason,
            message,
            policy: None,
            site: None,
        });
        if self.passage.record.status == 0 {
            self.passage.record.status = CLIENT_CLOSED;
        }
    }
}

impl Course {
    pub(super) fn new(upstream: Arc<Upstream>, started: Instant, now: Instant) -> Self {
        Self {
            until: started + upstream.timeouts().total,
            upstream,
            began: now,
            tried: Tried::default(),
            attempts: 0,
            attempt: None,
            waited: Duration::ZERO,
            upgrade: None,
            kept_may_do: true,
            has_body: false,
            spends: false,
            header: None,
            head: false,
        }
    }

    /// The next attempt begins.
    pub(super) fn begin(&mut self, attempt: Arc<Attempt>) {
        self.waited = self.waited();
        self.attempt = Some(attempt);
    }

    fn waited(&self) -> Duration {
        self.waited + self.attempt.as_ref().map_or(Duration::ZERO, |attempt| attempt.waited())
    }
}

impl Drop for Ctx {
    /// A request dropped on its way (its stream was reset, its total time is over) is recorded all the same.
    fn drop(&mut self) {
        if let Some(stage) = &mut self.stage {
            if pace::is_late() {
                let refusal = too_slow();
                stage.passage.record.error.get_or_insert_with(|| refusal.facts());
                if stage.passage.record.status == 0 {
                    stage.passage.record.status = StatusCode::REQUEST_TIMEOUT.as_u16();
                }
            }
            stage.note_cut();
            stage.note_silence("abandoned", "the request was dropped before it was finished");
            self.settle(None);
        }
    }
}
