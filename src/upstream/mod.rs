//! Upstreams: pools of servers, their health, names, timeouts and retries. Knows nothing of Pingora.

mod address;
mod backlog;
mod balance;
mod compile;
mod config;
mod health;
mod link;
mod names;
mod pool;
mod retry;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use backlog::{Backlog, Waiting};
pub use config::{
    Balance, Config, Health, Host, KeepAlive, Retries, RetryOn, SendProxy, Server, Timeouts, Tls,
    UpstreamProtocol,
};
pub use link::{DialError, Link};
pub use tls::TlsClient;

use crate::config::Site;
use crate::proxy_protocol::{self, Header, Version};

/// A pool of servers, as used.
#[derive(Debug)]
pub struct Upstream {
    name: Arc<str>,
    site: Site,
    servers: Box<[Arc<Member>]>,
    turns: balance::Turns,
    host: Host,
    tls: Option<Arc<TlsClient>>,
    proxy: Option<Version>,
    timeouts: Deadlines,
    keep_alive: KeepAlive,
    retrying: retry::Retrying,
    pool: Arc<pool::Pool>,
    waiting: Arc<Waiting>,
}

/// How long things may take, none of them zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Establishing a connection, TLS included.
    pub connect: Duration,
    /// To the response's first byte, and between its bytes.
    pub read: Duration,
    /// To the response's head, all attempts together.
    pub total: Duration,
}

/// One server of an upstream.
#[derive(Debug)]
pub struct Member {
    name: Arc<str>,
    host: Box<str>,
    addresses: Arc<names::Addresses>,
    vitality: Option<Arc<health::Vitality>>,
}

impl Member {
    /// As configured: `host:port`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its verdict; without health checks always true.
    pub fn is_healthy(&self) -> bool {
        self.vitality.as_ref().is_none_or(|vitality| vitality.is_healthy())
    }

    /// Where it is. Waits for at most `patience` when its name has never been resolved; else at once.
    pub async fn address(&self, patience: Duration) -> Option<SocketAddr> {
        self.addresses.next(patience).await
    }
}

/// Which servers a request has tried: the first 64 of an upstream are told apart, later ones may be tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    fn bit(index: usize) -> u64 {
        u32::try_from(index).ok().and_then(|shift| 1_u64.checked_shl(shift)).unwrap_or(0)
    }

    fn add(&mut self, index: usize) {
        self.0 |= Self::bit(index);
    }

    fn has(self, index: usize) -> bool {
        self.0 & Self::bit(index) != 0
    }
}

impl Upstream {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where it was written.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Which Host its servers see.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// How long things may take.
    pub fn timeouts(&self) -> Deadlines {
        self.timeouts
    }

    /// Whether its connections begin with a PROXY header.
    pub fn wants_proxy_header(&self) -> bool {
        self.proxy.is_some()
    }

    /// Its servers by name, and whether each is healthy.
    pub fn servers(&self) -> impl Iterator<Item = (&str, bool)> {
        self.servers.iter().map(|server| (&*server.name, server.is_healthy()))
    }

    /// Retries since the process began, by their cause.
    pub fn retries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RetryOn::ALL.into_iter().map(|on| (on.as_str(), self.retrying.ledger().count(on)))
    }

    /// Connections kept idle at the moment, in the whole process.
    pub fn idle(&self) -> usize {
        self.pool.count()
    }

    /// What will wait of an answer.
    pub fn backlog(&self) -> Backlog {
        Backlog::new(&self.waiting)
    }

    /// Chooses a healthy server by turns: one not yet tried, if there is one. None when none is healthy.
    pub fn choose(&self, worker: usize, tried: &mut Tried) -> Option<&Arc<Member>> {
        let healthy = |index: usize| self.servers.get(index).is_some_and(|server| server.is_healthy());
        let index = if *tried == Tried::default() {
            self.turns.next(worker, healthy)
        } else {
            let fresh = self.turns.other(worker, |index| healthy(index) && !tried.has(index));
            fresh.or_else(|| self.turns.other(worker, healthy))
        }?;
        tried.add(index);
        self.servers.get(index)
    }

    /// Counts a request towards the budget of retries.
    pub fn note_request(&self, worker: usize, now: Instant) {
        self.retrying.note_request(worker, now);
    }

    /// Whether a request is to be tried again after `attempts` so far. A yes takes from the budget and is counted.
    pub fn permits_retry(&self, on: RetryOn, attempts: u32, now: Instant) -> bool {
        self.retrying.permits(on, attempts, now)
    }

    /// Counts a retry on a fresh connection after a kept one turned out to be closed: no fault of the server's, so it takes
    /// nothing from the budget.
    pub fn note_stale(&self) {
        self.retrying.note(RetryOn::Reset);
    }

    /// An idle connection of this worker that began with this PROXY header, or with none, if there is one that still stands.
    pub fn take_idle(
        &self,
        worker: usize,
        address: SocketAddr,
        header: Option<Header>,
        now: Instant,
    ) -> Option<Link> {
        self.pool.take(worker, (address, header), now)
    }

    /// Keeps a connection for the next request, within `keep_alive` and what the server says it will do itself (`hint`), less a
    /// second: a request that meets the server's closing is lost.
    /// `began` is what [`Self::dial`] was given.
    pub fn keep(
        &self,
        worker: usize,
        began: (SocketAddr, Option<Header>),
        link: Link,
        now: Instant,
        hint: Option<Duration>,
    ) {
        let hint = hint.map_or(Duration::MAX, |hint| hint.saturating_sub(Duration::from_secs(1)));
        let idle = self.keep_alive.idle.0.min(hint);
        if !idle.is_zero() {
            self.pool.put(worker, began, link, now + idle, self.keep_alive.connections);
        }
    }

    /// Makes a new connection that begins with this PROXY header, where the upstream wants one. Without a bound of its own: put it under a timeout.
    ///
    /// # Errors
    /// As [`DialError`].
    pub async fn dial(
        &self,
        server: &Member,
        address: SocketAddr,
        header: Option<Header>,
    ) -> Result<Link, DialError> {
        let first = self.proxy.map(|version| proxy_protocol::write(version, header.unwrap_or(Header::Own)));
        let tls = self.tls.as_deref().map(|tls| (tls, &*server.host));
        Link::dial(address, first.as_deref().unwrap_or_default(), tls).await
    }
}

#[cfg(test)]
pub(crate) mod tests;
