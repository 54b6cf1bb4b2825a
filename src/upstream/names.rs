//! Where a server is: its name resolved in the background, and again when its TTL ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::address::Address;
use crate::egress::lookup;
use crate::state::Live;

/// A TTL of 0 must not become a flood.
const SHORTEST: Duration = Duration::from_secs(1);
/// A name of /etc/hosts has no TTL, and files change; so do the minds of those who write a TTL of a day.
const LONGEST: Duration = Duration::from_secs(300);
/// After a failure, while the last good answer is used.
const AGAIN: Duration = Duration::from_secs(5);
/// After a failure, while there is none.
const SOON: Duration = Duration::from_secs(1);

/// The socket addresses of one server.
#[derive(Debug)]
pub(super) struct Addresses {
    known: ArcSwapOption<Box<[SocketAddr]>>,
    turn: AtomicUsize,
    found: Notify,
}

impl Addresses {
    /// Finds the addresses of this name in `live`, or starts to look for them.
    pub(super) fn of(address: &Address, live: &Live) -> Arc<Self> {
        let key = format!("{}:{}", address.host, address.port);
        let mut fresh = false;
        let addresses = live.find_or("upstream.addresses", &key, || {
            fresh = true;
            let known = address.socket().map(|socket| Arc::new([socket].into()));
            Self { known: ArcSwapOption::new(known), turn: AtomicUsize::new(0), found: Notify::new() }
        });
        if let (true, None, Some(runtime)) = (fresh, address.literal, live.runtime()) {
            runtime.spawn(follow(address.clone(), Arc::downgrade(&addresses)));
        }
        addresses
    }

    /// One of them, by turns. While nothing is known yet (the first moments of a process), waits for at most `patience`.
    pub(super) async fn next(&self, patience: Duration) -> Option<SocketAddr> {
        if let Some(address) = self.known() {
            return Some(address);
        }
        let found = self.found.notified();
        tokio::pin!(found);
        found.as_mut().enable();
        if let Some(address) = self.known() {
            return Some(address);
        }
        tokio::time::timeout(patience, found).await.ok()?;
        self.known()
    }

    fn known(&self) -> Option<SocketAddr> {
        let known = self.known.load();
        let list = known.as_deref()?;
        match &**list {
            [only] => Some(*only),
            list => list.get(self.turn.fetch_add(1, Ordering::Relaxed) % list.len().max(1)).copied(),
        }
    }

    fn set(&self, mut list: Vec<SocketAddr>) {
        list.sort_unstable();
        list.dedup();
        self.known.store(Some(Arc::new(list.into())));
        self.found.notify_waiters();
    }
}

/// Looks a name up again and again, as long as somebody wants it. A failure leaves the last good answer in force.
async fn follow(address: Address, addresses: Weak<Addresses>) {
    let mut failed = false;
    loop {
        let wait = match resolve(&address.host, address.port).await {
            Ok((list, wait)) => {
                let Some(addresses) = addresses.upgrade() else { return };
                if failed {
                    log::info!("{} is found again: {list:?}", address.host);
                }
                failed = false;
                addresses.set(list);
                wait
            }
            Err(error) => {
                let Some(addresses) = addresses.upgrade() else { return };
                if !failed {
                    log::warn!("{} cannot be resolved: {error}", address.host);
                }
                failed = true;
                if addresses.known().is_some() { AGAIN } else { SOON }
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// The addresses of a name, and for how long they hold.
async fn resolve(host: &str, port: u16) -> Result<(Vec<SocketAddr>, Duration), String> {
    let (addresses, until) = lookup(host).await?;
    let wait = until.saturating_duration_since(Instant::now());
    let list = addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    Ok((list, wait.clamp(SHORTEST, LONGEST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn literals_need_no_resolver() {
        let live = Live::default();
        let addresses = Addresses::of(&Address::parse("127.0.0.1:9").unwrap(), &live);
        assert_eq!(addresses.next(Duration::ZERO).await, Some("127.0.0.1:9".parse().unwrap()));
    }

    #[tokio::test]
    async fn localhost_stands_in_the_hosts_file() {
        let live = Live::default();
        live.set_runtime(tokio::runtime::Handle::current());
        let addresses = Addresses::of(&Address::parse("localhost:9").unwrap(), &live);
        let found = addresses.next(Duration::from_secs(5)).await.unwrap();
        assert!(found.ip().is_loopback() && found.port() == 9, "{found}");
    }

    #[tokio::test]
    async fn the_unknown_is_waited_for_but_not_for_ever() {
        let live = Live::default();
        let addresses = Addresses::of(&Address::parse("nowhere.invalid:9").unwrap(), &live);
        let began = Instant::now();
        assert_eq!(addresses.next(Duration::from_millis(20)).await, None);
        assert!(began.elapsed() < Duration::from_secs(2));
        let (own, later) = (Arc::clone(&addresses), "127.0.0.2:9".parse().unwrap());
        let waiting = tokio::spawn(async move { own.next(Duration::from_secs(5)).await });
        tokio::task::yield_now().await;
        addresses.set(vec![later]);
        assert_eq!(waiting.await.unwrap(), Some(later));
    }

    #[tokio::test]
    async fn takes_turns() {
        let live = Live::default();
        let addresses = Addresses::of(&Address::parse("two.invalid:9").unwrap(), &live);
        addresses.set(vec!["127.0.0.2:9".parse().unwrap(), "127.0.0.1:9".parse().unwrap()]);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(addresses.next(Duration::ZERO).await.unwrap().ip().to_string());
        }
        assert_eq!(seen, ["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2"]);
    }
}
