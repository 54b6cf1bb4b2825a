//! One attempt at an upstream: its clocks, and why it failed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::failures::Failure;
use crate::framing::response::Asked;
use crate::proxy_protocol::Header;
use crate::upstream::{Backlog, DialError, Link, Member, Upstream};

/// One attempt to have a request answered: what the phases and the connection tell each other.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) upstream: Arc<Upstream>,
    pub(super) server: Arc<Member>,
    address: std::net::SocketAddr,
    worker: usize,
    began: Instant,
    /// Whether the client asked by HEAD, or for another protocol and may have it.
    asked: Asked,
    /// Whether a kept connection may be used.
    kept_may_do: bool,
    /// The PROXY header that the connection begins with.
    header: Option<Header>,
    /// By when the response's head must have come, in nanoseconds since `began`.
    until: AtomicU64,
    /// When the request had been read in full, likewise; 0 before.
    sent: AtomicU64,
    head: AtomicBool,
    tunnel: AtomicBool,
    received: AtomicBool,
    reused: AtomicBool,
    /// Whether the connection must not serve another request.
    spent: AtomicBool,
    /// What waits of the answer.
    pub(super) backlog: Backlog,
    /// Nanoseconds spent waiting for the server's answer.
    waited: AtomicU64,
    /// For how long the server says it will keep the connection.
    idle: OnceLock<Duration>,
    connect: OnceLock<Duration>,
    failure: OnceLock<(Failure, String)>,
}

/// What an attempt starts from.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) upstream: Arc<Upstream>,
    pub(super) server: Arc<Member>,
    pub(super) address: std::net::SocketAddr,
    pub(super) worker: usize,
    pub(super) until: Instant,
    pub(super) upgrade: bool,
    pub(super) head: bool,
    pub(super) kept_may_do: bool,
    pub(super) header: Option<Header>,
}

impl Attempt {
    pub(super) fn new(start: Start, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            backlog: start.upstream.backlog(),
            upstream: start.upstream,
            server: start.server,
            address: start.address,
            worker: start.worker,
            began: now,
            asked: Asked { head: start.head, upgrade: start.upgrade },
            kept_may_do: start.kept_may_do,
            header: start.header,
            until: AtomicU64::new(nanoseconds(start.until.saturating_duration_since(now))),
            sent: AtomicU64::new(0),
            head: AtomicBool::new(false),
            tunnel: AtomicBool::new(false),
            received: AtomicBool::new(false),
            reused: AtomicBool::new(false),
            spent: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            idle: OnceLock::new(),
            connect: OnceLock::new(),
            failure: OnceLock::new(),
        })
    }

    /// The request has been read in full. From now on the server is waited for: `read` begins, and so does `total` where a body
    /// had to be waited for, since a client's slow upload is not the server's fault.
    pub(super) fn request_read(&self, now: Instant, total_anew: Option<Duration>) {
        let since = nanoseconds(now.saturating_duration_since(self.began)).max(1);
        if self.sent.compare_exchange(0, since, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && let Some(total) = total_anew
        {
            self.until.store(since.saturating_add(nanoseconds(total)), Ordering::Relaxed);
        }
    }

    /// The final head has come.
    pub(super) fn head_read(&self, tunnel: bool) {
        self.tunnel.store(tunnel, Ordering::Relaxed);
        self.head.store(true, Ordering::Relaxed);
    }

    /// Notes why the attempt failed; the first reason stays.
    pub(super) fn fail(&self, failure: Failure, detail: String) {
        let _ = self.failure.set((failure, detail));
    }

    /// Why the attempt failed, if the connection knows.
    pub(super) fn failure(&self) -> Option<&(Failure, String)> {
        self.failure.get()
    }

    /// The connection serves no other request: its server may not agree with us where this one, or its answer, ends.
    pub(super) fn spend(&self) {
        self.spent.store(true, Ordering::Relaxed);
    }

    /// Whether the connection must not serve another request.
    pub(super) fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Relaxed)
    }

    /// Whether any byte of an answer has come.
    pub(super) fn has_received(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether the connection had served before.
    pub(super) fn is_reused(&self) -> bool {
        self.reused.load(Ordering::Relaxed)
    }

    /// What connecting took; zero for a kept connection, none while there is none.
    pub(super) fn connect_latency(&self) -> Option<Duration> {
        self.connect.get().copied()
    }

    /// Time spent on the server so far: connecting, and waiting for its answer.
    pub(super) fn waited(&self) -> Duration {
        let connect = self.connect.get().copied().unwrap_or_default();
        connect + Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn until(&self) -> Instant {
        self.began + Duration::from_nanos(self.until.load(Ordering::Relaxed))
    }

    pub(super) fn sent(&self) -> Option<Instant> {
        let sent = self.sent.load(Ordering::Relaxed);
        (sent > 0).then(|| self.began + Duration::from_nanos(sent))
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    /// Whether the final head has come.
    pub(super) fn has_head(&self) -> bool {
        self.head.load(Ordering::Relaxed)
    }

    /// Whether another protocol is asked for.
    pub(super) fn is_upgrade(&self) -> bool {
        self.asked.upgrade
    }

    /// What was asked, as far as it says how the answer ends.
    pub(super) fn asked(&self) -> Asked {
        self.asked
    }

    /// Where the server is.
    pub(super) fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// Some of an answer has come.
    pub(super) fn note_received(&self) {
        self.received.store(true, Ordering::Relaxed);
    }

    /// The server has been waited for so long.
    pub(super) fn note_wait(&self, waited: Duration) {
        self.waited.fetch_add(nanoseconds(waited), Ordering::Relaxed);
    }

    /// The server says for how long it will keep the connection.
    pub(super) fn note_idle_hint(&self, idle: Duration) {
        let _ = self.idle.set(idle);
    }

    /// Keeps the connection for the next request.
    pub(super) fn keep(&self, link: Link) {
        let began = (self.address, self.header);
        self.upstream.keep(self.worker, began, link, Instant::now(), self.idle.get().copied());
    }

    /// Takes a kept connection, or makes one within `connect` and what is left of `total`.
    pub(super) async fn open(&self) -> Result<Link, Failure> {
        let now = Instant::now();
        if self.kept_may_do
            && !self.asked.upgrade
            && let Some(link) = self.upstream.take_idle(self.worker, self.address, self.header, now)
        {
            self.reused.store(true, Ordering::Relaxed);
            let _ = self.connect.set(Duration::ZERO);
            return Ok(link);
        }
        let connect = self.upstream.timeouts().connect;
        let left = self.until().saturating_duration_since(now);
        let dialled = tokio::time::timeout(
            connect.min(left),
            self.upstream.dial(&self.server, self.address, self.header),
        );
        let failure = match dialled.await {
            Ok(Ok(link)) => {
                let _ = self.connect.set(now.elapsed());
                return Ok(link);
            }
            Err(_) if left < connect => (Failure::TotalTimeout, format!("connecting to {}", self.address)),
            Err(_) => (Failure::ConnectTimeout, format!("connecting to {}", self.address)),
            Ok(Err(error)) => (Failure::from(&error), error.to_string()),
        };
        let _ = self.connect.set(now.elapsed());
        self.fail(failure.0, failure.1);
        Err(failure.0)
    }
}

impl From<&DialError> for Failure {
    fn from(error: &DialError) -> Self {
        match error {
            DialError::Connect { .. } => Self::ConnectRefused,
            DialError::Tls { .. } => Self::TlsFailed,
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}
