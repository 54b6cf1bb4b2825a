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

type Kept = HashMap<SocketAddr, Vec<Parked>>;

#[derive(Debug)]
struct Parked {
    link: Link,
    until: Instant,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self { shelves: (0..SHELVES).map(|_| Shelf::default()).collect(), count: AtomicUsize::new(0) }
    }

    /// An idle connection to this server that still stands.
    pub(super) fn take(&self, worker: usize, address: SocketAddr, now: Instant) -> Option<Link> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut shelf = self.shelf(worker)?;
        let parked = shelf.get_mut(&address)?;
        while let Some(Parked { mut link, until }) = parked.pop() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            if until > now && link.is_idle() {
                return Some(link);
            }
        }
        shelf.remove(&address);
        None
    }

    /// Keeps a connection until `until`, unless `most` are kept already.
    pub(super) fn put(&self, worker: usize, address: SocketAddr, link: Link, until: Instant, most: usize) {
        let reserve = |count: usize| (count < most).then_some(count + 1);
        if self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_err() {
            return;
        }
        match self.shelf(worker) {
            Some(mut shelf) => shelf.entry(address).or_default().push(Parked { link, until }),
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
        let link = Link::dial(address, None).await.unwrap();
        (link, listener.accept().await.unwrap().0, address)
    }

    #[tokio::test]
    async fn keeps_what_still_stands() {
        let pool = Pool::new();
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let (link, _server, address) = pair().await;
        pool.put(1, address, link, later, 8);
        assert!(pool.take(0, address, now).is_none(), "a worker takes its own only");
        let link = pool.take(1, address, now).unwrap();
        assert!(pool.take(1, address, now).is_none());
        pool.put(1, address, link, later, 8);
        assert!(pool.take(1, address, later).is_none(), "too old");
        assert_eq!(pool.count(), 0);
    }

    #[tokio::test]
    async fn drops_the_closed_and_the_talkative() {
        let pool = Pool::new();
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        for talk in [false, true] {
            let (link, mut server, address) = pair().await;
            pool.put(0, address, link, later, 8);
            if talk {
                server.write_all(b"HTTP/1.1 408 Too Late\r\n\r\n").await.unwrap();
            } else {
                drop(server);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(pool.take(0, address, now).is_none());
        }
        let (link, server, address) = pair().await;
        pool.put(0, address, link, later, 8);
        drop(server);
        tokio::time::sleep(Duration::from_millis(20)).await;
        pool.sweep(now);
        assert_eq!(pool.count(), 0);
    }

    #[tokio::test]
    async fn the_bound_holds_for_all_workers() {
        let pool = Pool::new();
        let later = Instant::now() + Duration::from_secs(60);
        let mut servers = Vec::new();
        for worker in 0..4 {
            let (link, server, address) = pair().await;
            servers.push(server);
            pool.put(worker, address, link, later, 3);
        }
        assert_eq!(pool.count(), 3);
    }
}
