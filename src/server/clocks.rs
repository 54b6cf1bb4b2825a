//! The clocks of a connection: how long a head, a body, a frame and a write may be waited for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::begun::Begun;
use crate::framing::{BodyClock, Pace};
use crate::gateway::Settings;

/// How long a client may go on with a body once its answer is complete: an upstream may answer early.
const LEFTOVERS: Duration = Duration::from_secs(5);

/// What a snapshot asks of a client's speed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How fast request bodies must come.
    pub(super) pace: Pace,
    /// How long the client may leave what is written to it unread.
    pub(super) write_stall: Duration,
}

impl Bounds {
    pub(super) fn of(settings: &Settings) -> Self {
        Self { pace: settings.pace, write_stall: settings.write_stall }
    }
}

/// The clocks of one connection. Whoever waits says what for, and is ready when it has waited too long.
#[derive(Debug)]
pub(super) struct Clocks {
    bounds: Bounds,
    /// Until when a head may be waited for.
    head: Option<Instant>,
    /// Runs from the first time that a body has to be waited for.
    body: Option<BodyClock>,
    /// What a client of HTTP/2 has begun, and how long it may take.
    begun: Option<(Begun, Duration)>,
    /// Since when a write has been waiting for the client to read.
    stalled: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clocks {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, head: None, body: None, begun: None, stalled: None, timer: None }
    }

    /// A request begins, and with it a body.
    pub(super) fn expect(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        self.body = None;
    }

    /// What a client of HTTP/2 begins must be finished within `head`.
    pub(super) fn follow_frames(&mut self, head: Duration) {
        self.begun = Some((Begun::new(), head));
    }

    /// Notes what has arrived of frames.
    pub(super) fn note_frames(&mut self, arrived: &[u8]) {
        if let Some((begun, _)) = &mut self.begun {
            begun.note(arrived, Instant::now);
        }
    }

    /// Until when [`Clocks::poll_head`] waits.
    pub(super) fn set_head(&mut self, deadline: Option<Instant>) {
        self.head = deadline;
    }

    /// Ready once the client is too late with its head.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.head {
            Some(deadline) => self.poll_timer(cx, deadline),
            None => Poll::Pending,
        }
    }

    /// Ready once the client is too late with its body, of which so many bytes have come; its answer may be complete already.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        carried: u64,
        answered: Option<std::time::Instant>,
    ) -> Poll<()> {
        let now = Instant::now().into_std();
        let pace = self.bounds.pace;
        let clock = self.body.get_or_insert_with(|| BodyClock::start(pace, now));
        clock.wait(now);
        clock.set_bytes(carried);
        if let Some(answered) = answered {
            clock.end_by(answered + LEFTOVERS);
        }
        let deadline = clock.deadline().into();
        self.poll_timer(cx, deadline)
    }

    /// From here on it is not the client's body that is waited for.
    pub(super) fn pause_body(&mut self) {
        if let Some(clock) = &mut self.body {
            clock.pause(Instant::now().into_std());
        }
    }

    /// Ready once a client of HTTP/2 has taken too long over what it has begun.
    pub(super) fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((begun, head)) = &self.begun else { return Poll::Pending };
        let Some(since) = begun.since() else { return Poll::Pending };
        let deadline = since + *head;
        self.poll_timer(cx, deadline)
    }

    /// A write waits: ready once it has waited too long.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.pause_body();
        let since = *self.stalled.get_or_insert_with(Instant::now);
        self.poll_timer(cx, since + self.bounds.write_stall)
    }

    /// A write has come to an end, or further.
    pub(super) fn note_written(&mut self) {
        self.stalled = None;
    }

    /// One timer a connection, put off lazily: most deadlines are met, and then nothing has been registered. A read and a
    /// write may share it: it rings at the earlier deadline, and who wakes asks again.
    fn poll_timer(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}
