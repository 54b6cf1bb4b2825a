//! Idle connections, kept for the next request.
//!
//! A connection belongs to the reactor of the worker that opened it, so every worker has a shelf of its own; the bound holds
//! for the process: one count over all shelves. The newest connection is used first, so that those a falling load leaves
//! over grow old and go.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::link::Link;
use crate::proxy_protocol::Header;

/// Shelves of their own for this many workers; more share.
const SHELVES: usize = 64;

/// The idle connections of one upstream.
#[derive(Debug)]
pub(super) struct Pool {
    shelves: Box<[Shelf]>,
    count: AtomicUsize,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Shelf(Mutex<Kept>);

/// Looked into twice for each request. A client can choose a part of a key, its port in a PROXY header, but not how many are kept.
type Kept = HashMap<Key, Vec<Parked>, foldhash::fast::RandomState>;

/// Where a connection leads, and the PROXY header that it began with: it speaks for that client, and for no other.
pub(super) type Key = (SocketAddr, Option<Header>);

#[derive(Debug)]
struct Parked {
    link: Link,
    until: Instant,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self { shelves: (0..SHELVES).map(|_| Shelf::default()).collect(), count: AtomicUsize::new(0) }
    }

    /// An idle connection of this kind that still stands.
    pub(super) fn take(&self, worker: usize, key: Key, now: Instant) -> Option<Link> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut shelf = self.shelf(worker)?;
        let parked = shelf.get_mut(&key)?;
        let mut found = None;
        while let Some(Parked { mut link, until }) = parked.pop() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            if until > now && link.is_idle() {
                found = Some(link);
                break;
            }
        }
        // A server's own place stays for the next; clients are without number.
        if parked.is_empty() && (found.is_none() || key.1.is_some()) {
            shelf.remove(&key);
        }
        found
    }

    /// Keeps a connection until `until`, unless `most` are kept already.
    pub(super) fn put(&self, worker: usize, key: Key, link: Link, until: Instant, most: usize) {
        let reserve = |count: usize| (count < most).then_some(count + 1);
        if self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_err() {
            return;
        }
        match self.shelf(worker) {
            Some(mut shelf) => shelf.entry(key).or_default().push(Parked { link, until }),
            None => {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// How many are kept.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Drops what is too old or has been closed by its server.
    fn sweep(&self, now: Instant) {
        for shelf in &self.shelves {
            let mut shelf = shelf.0.lock().unwrap_or_else(PoisonError::into_inner);
            let before: usize = shelf.values().map(Vec::len).sum();
            shelf.retain(|_, parked| {
                parked.retain_mut(|parked| parked.until > now && parked.link.is_idle());
                !parked.is_empty()
            });
            let after: usize = shelf.values().map(Vec::len).sum();
            self.count.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    fn shelf(&self, worker: usize) -> Option<MutexGuard<'_, Kept>> {
        let shelf = self.shelves.get(worker % SHELVES)?;
        Some(shelf.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sweeps every second, as long as the pool is wanted: an idle connection that its server has closed must not stand half-open
/// until the next request finds it.
pub(super) async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(pool): Option<Arc<Pool>> = pool.upgrade() else { return };
        if pool.count() > 0 {
            pool.sweep(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (Link, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let link = Link::dial(address, b"", None).await.unwrap();
        (link, listener.accept().await.unwrap().0, address)
    }

    #[tokio::test]
    async fn keeps_what_still_stands() {
        let pool = Pool::new();
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let (link, _server, address) = pair().await;
        pool.put(1, (address, None), link, later, 8);
        assert!(pool.take(0, (address, None), now).is_none(), "a worker takes its own only");
        let link = pool.take(1, (address, None), now).unwrap();
        assert!(pool.take(1, (address, None), now).is_none());
        pool.put(1, (address, None), link, later, 8);
        assert!(pool.take(1, (address, None), later).is_none(), "too old");
        assert_eq!(pool.count(), 0);
    }

    #[tokio::test]
    async fn drops_the_closed_and_the_talkative() {
        let pool = Pool::new();
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        for talk in [false, true] {
            let (link, mut server, address) = pair().await;
            pool.put(0, (address, None), link, later, 8);
            if talk {
                server.write_all(b"HTTP/1.1 408 Too Late\r\n\r\n").await.unwrap();
            } else {
                drop(server);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(pool.take(0, (address, None), now).is_none());
        }
        let (link, server, address) = pair().await;
        pool.put(0, (address, None), link, later, 8);
        drop(server);
        tokio::time::sleep(Duration::from_millis(20)).await;
        pool.sweep(now);
        assert_eq!(pool.count(), 0);
    }

    #[tokio::test]
    async fn a_connection_serves_the_client_it_was_made_for() {
        let pool = Pool::new();
        let now = Instant::now();
        let client = |port: u16| {
            let (source, destination) = (([192, 0, 2, 1], port).into(), ([192, 0, 2, 9], 443).into());
            Some(Header::Client { source, destination })
        };
        let (link, _server, address) = pair().await;
        pool.put(0, (address, client(1)), link, now + Duration::from_secs(60), 8);
        for other in [client(2), Some(Header::Own), None] {
            assert!(pool.take(0, (address, other), now).is_none(), "{other:?}");
        }
        assert!(pool.take(0, (address, client(1)), now).is_some());
        assert_eq!(pool.count(), 0);
        assert!(pool.shelf(0).unwrap().is_empty(), "clients that have left take no room");
    }

    #[tokio::test]
    async fn the_bound_holds_for_all_workers() {
        let pool = Pool::new();
        let later = Instant::now() + Duration::from_secs(60);
        let mut servers = Vec::new();
        for worker in 0..4 {
            let (link, server, address) = pair().await;
            servers.push(server);
            pool.put(worker, (address, None), link, later, 3);
        }
        assert_eq!(pool.count(), 3);
    }
}
