//! The clock of an HTTP/2 stream's body. On HTTP/1 the connection itself sees its client being waited for, and only how long the body may take in
//! all is seen to here; a stream is read by h2 and Pingora, so the phases, the connection to the server and whatever writes the answer say when it is the client's turn.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use crate::framing::{BodyClock, Pace};
use crate::request::Connection;

/// How long a client may go on with a body once its answer is complete, and how long a stream that is too late may take to be
/// answered before it is reset.
const LEFTOVERS: Duration = Duration::from_secs(5);

/// How often it is seen whether a window that was shut still is.
const LOOK: Duration = Duration::from_millis(100);

tokio::task_local! {
    /// The body of the request that this task serves; unset where there is none.
    static STREAM: RefCell<Body>;
}

#[derive(Debug)]
struct Body {
    clock: BodyClock,
    /// Whether the client is waited for, as far as the server is concerned.
    wanted: bool,
    /// Whether a piece of the answer waits for a window: until it has gone nobody reads the body.
    writing: bool,
    ended: bool,
    late: bool,
    /// Whose window it shares with other streams, on HTTP/2.
    connection: Option<Arc<Connection>>,
    /// For how long that window had been shut when this was last looked at.
    shut: Duration,
}

impl Body {
    fn new(clock: BodyClock, connection: Option<Arc<Connection>>) -> Self {
        let mut own = Self {
            clock,
            wanted: false,
            writing: false,
            ended: false,
            late: false,
            connection,
            shut: Duration::ZERO,
        };
        own.excuse();
        own
    }

    /// Takes from the clock the time in which the connection's window was shut since this was last asked; whether there was any.
    fn excuse(&mut self) -> bool {
        let shut = self.connection.as_ref().map_or(Duration::ZERO, |connection| connection.fate.shut_for());
        let more = shut.saturating_sub(std::mem::replace(&mut self.shut, shut));
        self.clock.excuse(more);
        !more.is_zero()
    }

    fn run(&mut self) {
        self.excuse();
        match self.wanted && !self.writing && !self.late {
            true => self.clock.wait(Instant::now()),
            false => self.clock.pause(Instant::now()),
        }
    }
}

/// Serves a request that has a body. One that comes too slowly is told 408 if it can be, and its stream is reset, or its connection closed, in
/// any case: what is left of `request` is dropped. While other streams of `connection` have used up its window, the client is not slow.
pub async fn watch(pace: Pace, connection: Option<Arc<Connection>>, request: impl Future<Output = ()>) {
    let now = Instant::now();
    let mut clock = BodyClock::start(pace, now);
    clock.pause(now);
    STREAM.scope(RefCell::new(Body::new(clock, connection)), until_late(request)).await;
}

async fn until_late(request: impl Future<Output = ()>) {
    let mut request = pin!(request);
    let mut timer = pin!(sleep_until(Instant::now().into()));
    // While the window is shut the deadline moves on: it is not run after.
    let mut looked = None;
    poll_fn(|cx| {
        loop {
            if request.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let due = STREAM.with(|body| (!body.borrow().ended).then(|| body.borrow().clock.deadline()));
            let due = due.map(|due| looked.map_or(due, |looked| due.max(looked)));
            let Some(due) = due.map(tokio::time::Instant::from) else { return Poll::Pending };
            if timer.is_elapsed() || timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            while tokio::time::Instant::now() < due {
                ready!(timer.as_mut().poll(cx));
                timer.as_mut().reset(due);
            }
            // Only where that moves the deadline: what must end by a moment ends by it, whoever is waited for.
            if on(|body| body.excuse() && body.clock.deadline() > Instant::now()) == Some(true) {
                looked = Some(Instant::now() + LOOK);
                continue;
            }
            let known = STREAM.with(|body| std::mem::replace(&mut body.borrow_mut().late, true));
            if known {
                return Poll::Ready(());
            }
            // Those who wait are asked once more, and may answer.
            on(|body| {
                let now = Instant::now();
                body.clock = BodyClock::start(Pace { total: LEFTOVERS, ..Pace::default() }, now);
                body.clock.pause(now);
            });
        }
    })
    .await;
}

fn on<T>(tell: impl FnOnce(&mut Body) -> T) -> Option<T> {
    STREAM.try_with(|body| body.try_borrow_mut().ok().map(|mut body| tell(&mut body))).ok().flatten()
}

/// From now on the client is waited for.
pub(super) fn wait() {
    on(|body| {
        body.wanted = true;
        body.run();
    });
}

/// From now on somebody else is.
pub(super) fn hold() {
    on(|body| {
        body.wanted = false;
        body.run();
    });
}

/// Writes to the client. While that waits, it is for a window and not for the body.
pub(super) async fn writing<T>(write: impl Future<Output = T>) -> T {
    let mut write = pin!(write);
    let mut waits = false;
    let written = poll_fn(|cx| {
        let polled = write.as_mut().poll(cx);
        if polled.is_pending() && !std::mem::replace(&mut waits, true) {
            set_writing(true);
        }
        polled
    })
    .await;
    if waits {
        set_writing(false);
    }
    written
}

fn set_writing(writing: bool) {
    on(|body| {
        body.writing = writing;
        body.run();
    });
}

/// So much of the body has come.
pub(super) fn note(bytes: usize, end: bool) {
    on(|body| {
        body.clock.add_bytes(bytes);
        body.ended |= end;
    });
}

/// The answer is complete: what is still to come of the body nobody needs.
pub(super) fn note_answered() {
    on(|body| body.clock.end_by(Instant::now() + LEFTOVERS));
}

/// Whether the client was too slow.
pub(super) fn is_late() -> bool {
    on(|body| body.late).unwrap_or(false)
}

/// Waits for the client; none if it is too slow.
pub(super) async fn in_time<T>(read: impl Future<Output = T>) -> Option<T> {
    let mut read = pin!(read);
    poll_fn(|cx| match read.as_mut().poll(cx) {
        Poll::Pending if is_late() => Poll::Ready(None),
        polled => polled.map(Some),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const PACE: Pace = Pace { rate: 1000, grace: Duration::from_secs(5), total: Duration::from_secs(3600) };

    #[tokio::test(start_paused = true)]
    async fn outside_of_a_stream_nothing_is_late() {
        wait();
        assert!(!is_late());
        assert_eq!(in_time(async { 1 }).await, Some(1));
    }

    #[tokio::test]
    async fn a_silent_stream_is_told_and_then_dropped() {
        let pace = Pace { grace: Duration::from_millis(30), ..PACE };
        let began = Instant::now();
        watch(pace, None, async {
            wait();
            assert_eq!(in_time(pending::<()>()).await, None);
            assert!(is_late());
        })
        .await;
        assert!(began.elapsed() >= Duration::from_millis(30) && began.elapsed() < LEFTOVERS);
    }

    #[tokio::test]
    async fn while_others_have_shut_the_window_the_client_is_not_late() {
        let pace = Pace { grace: Duration::from_millis(30), ..PACE };
        let connection = Arc::new(Connection::to("here"));
        connection.fate.note_window(true);
        let began = Instant::now();
        watch(pace, Some(Arc::clone(&connection)), async {
            wait();
            let window = async {
                tokio::time::sleep(Duration::from_millis(250)).await;
                connection.fate.note_window(false);
            };
            assert_eq!(in_time(window).await, Some(()), "late after {:?}", began.elapsed());
            assert_eq!(in_time(pending::<()>()).await, None, "and now the client is slow");
        })
        .await;
        assert!(began.elapsed() < LEFTOVERS);
    }

    #[tokio::test]
    async fn a_window_that_stays_shut_keeps_no_body_beyond_its_total() {
        let pace = Pace { total: Duration::from_millis(300), ..PACE };
        let connection = Arc::new(Connection::to("here"));
        connection.fate.note_window(true);
        for waited in [true, false] {
            let served = watch(pace, Some(Arc::clone(&connection)), async {
                if waited {
                    wait();
                }
                assert_eq!(in_time(pending::<()>()).await, None);
            });
            assert!(tokio::time::timeout(LEFTOVERS, served).await.is_ok(), "{waited}");
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_a_window_does_not_wait_for_the_body() {
        let pace = Pace { grace: Duration::from_millis(10), ..PACE };
        watch(pace, None, async {
            wait();
            let window = writing(async {
                tokio::time::sleep(Duration::from_millis(40)).await;
                // The server takes the body again meanwhile; it is still we who do not read.
                wait();
                tokio::time::sleep(Duration::from_millis(40)).await;
            });
            assert_eq!(in_time(window).await, Some(()));
            // From here on it is the client's turn.
            assert_eq!(in_time(pending::<()>()).await, None);
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_held_back_or_has_ended_is_not_late() {
        let pace = Pace { grace: Duration::from_millis(10), ..PACE };
        watch(pace, None, async {
            tokio::time::sleep(Duration::from_millis(40)).await;
            wait();
            note(5, true);
            tokio::time::sleep(Duration::from_millis(40)).await;
            assert!(!is_late());
        })
        .await;
    }
}
