//! How many at once: connections in all and of each client, requests in flight. What is taken here is given back when it is dropped.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::counts::{Counts, ListenerCounts, Unserved};
use super::worker::Worker;

/// Locks of the table of clients: workers rarely meet at one.
const SHARDS: usize = 64;
/// Refused connections that are closed with patience at a time, so that their answer arrives.
const PATIENT: usize = 128;
/// Refused connections that have a line of their own in the access log, in a second.
const TOLD: u32 = 100;

/// A number that all workers write, alone on its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shared(AtomicUsize);

impl Shared {
    /// One more, unless there are `most` already.
    fn take(&self, most: usize) -> bool {
        let taken = self.0.fetch_add(1, Ordering::AcqRel) < most;
        if !taken {
            self.give_back();
        }
        taken
    }

    fn give_back(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is taken at the moment.
#[derive(Debug, Default)]
pub(super) struct Taken {
    connections: Shared,
    requests: Shared,
    patient: Shared,
    clients: Clients,
    told: Mutex<Told>,
}

impl Taken {
    /// Requests in flight.
    pub(super) fn requests(&self) -> usize {
        self.requests.taken()
    }
}

/// Whose connections are counted together: an address, or an IPv6 network of 64 bits, which is what one subscriber has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Client {
    V4(u32),
    V6(u64),
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments().map(u64::from);
                Self::V6(a << 48 | b << 32 | c << 16 | d)
            }
        }
    }
}

/// Open connections by client. There is no entry without a connection, so their number bounds the table.
#[derive(Debug)]
struct Clients {
    shards: Box<[Mutex<HashMap<Client, usize>>]>,
    /// Random, so that no client can choose addresses that fall into one shard.
    hasher: std::hash::RandomState,
}

impl Default for Clients {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: Default::default() }
    }
}

impl Clients {
    fn with<R>(&self, client: Client, act: impl FnOnce(&mut HashMap<Client, usize>) -> R) -> R {
        let hash = self.hasher.hash_one(client);
        #[expect(
            clippy::indexing_slicing,
            reason = "there are SHARDS of them, and the index is taken modulo"
        )]
        let shard = &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or_default()];
        act(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, client: Client, most: usize) -> bool {
        self.with(client, |counts| {
            let count = counts.entry(client).or_insert(0);
            let taken = *count < most;
            *count += usize::from(taken);
            if *count == 0 {
                counts.remove(&client);
            }
            taken
        })
    }

    fn give_back(&self, client: Client) {
        self.with(client, |counts| {
            if let Some(count) = counts.get_mut(&client) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&client);
                    // What a flood has left is given back.
                    if counts.capacity() > 64 && counts.len() < counts.capacity() / 8 {
                        counts.shrink_to_fit();
                    }
                }
            }
        });
    }
}

/// How many refusals have been told in this second, and how many have not since the last line.
#[derive(Debug, Default)]
struct Told {
    second: Option<Instant>,
    lines: u32,
    untold: u64,
}

impl Told {
    fn may_tell(&mut self, now: Instant) -> Option<u64> {
        if self.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.lines = 0;
        }
        if self.lines == TOLD {
            self.untold += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

impl Counts {
    /// Takes a connection in, unless `most` are open.
    pub(super) fn admit(
        self: &Arc<Self>,
        listener: &Arc<ListenerCounts>,
        most: usize,
    ) -> Option<OpenConnection> {
        self.taken.connections.take(most).then(|| {
            listener.open.fetch_add(1, Ordering::AcqRel);
            listener.accepted.fetch_add(1, Ordering::Relaxed);
            OpenConnection { listener: Arc::clone(listener), counts: Arc::clone(self), client: None }
        })
    }

    /// Whether a refused connection may have a line in the access log, and how many have had none since the last. A flood of
    /// refusals must not become one of lines.
    pub(super) fn may_tell_refusal(&self) -> Option<u64> {
        self.taken.told.lock().unwrap_or_else(PoisonError::into_inner).may_tell(Instant::now())
    }

    /// Leave to close a refused connection with patience; none when many are being closed.
    pub(super) fn be_patient(self: &Arc<Self>) -> Option<Patience> {
        self.taken.patient.take(PATIENT).then(|| Patience(Arc::clone(self)))
    }
}

/// Counts a connection as open for as long as it lives.
#[derive(Debug)]
pub(super) struct OpenConnection {
    listener: Arc<ListenerCounts>,
    counts: Arc<Counts>,
    client: Option<Client>,
}

impl OpenConnection {
    /// Counts it as this client's: of the peer, or of whom a proxy in front names. Once a connection; a second word is ignored.
    ///
    /// # Errors
    /// The client has `most` open.
    pub(super) fn count_client(&mut self, address: IpAddr, most: usize) -> Result<(), Unserved> {
        let client = Client::from(address);
        if self.client.is_none() {
            if !self.counts.taken.clients.take(client, most) {
                return Err(Unserved::ConnectionsPerClient);
            }
            self.client = Some(client);
        }
        Ok(())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.counts.taken.clients.give_back(client);
        }
        self.counts.taken.connections.give_back();
        self.listener.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Leave to close one refused connection with patience.
#[derive(Debug)]
pub(super) struct Patience(Arc<Counts>);

impl Drop for Patience {
    fn drop(&mut self) {
        self.0.taken.patient.give_back();
    }
}

/// A request in flight. Costs two atomic steps on a number that all workers share.
pub(super) struct RequestInFlight<A>(Arc<Worker<A>>);

impl<A> RequestInFlight<A> {
    /// Takes a request in, unless `most` are in flight.
    pub(super) fn begin(worker: &Arc<Worker<A>>, most: usize) -> Option<Self> {
        worker.counts.taken.requests.take(most).then(|| Self(Arc::clone(worker)))
    }

    /// Whether more than half of what may be is in flight.
    pub(super) fn is_crowded(&self, most: usize) -> bool {
        self.0.counts.taken.requests() > most / 2
    }

    /// Who serves it.
    pub(super) fn worker(&self) -> &Worker<A> {
        &self.0
    }
}

impl<A> Drop for RequestInFlight<A> {
    fn drop(&mut self) {
        self.0.counts.taken.requests.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        Client::from(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_its_ipv4_one() {
        assert_eq!(client("2001:db8:0:7::1"), client("2001:db8:0:7:ffff:ffff:ffff:ffff"));
        assert_ne!(client("2001:db8:0:7::1"), client("2001:db8:0:8::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        // `::c000:0201` is in no network of ours: IPv4-compatible addresses are not IPv4.
        assert_ne!(client("::192.0.2.1"), client("192.0.2.1"));
    }

    #[test]
    fn what_is_taken_is_given_back_and_nothing_stays_in_the_table() {
        let counts = Arc::new(Counts::default());
        let listener = Arc::new(ListenerCounts::default());
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        let mut open = Vec::new();
        for n in 0..3 {
            let mut one = counts.admit(&listener, 5).unwrap();
            assert_eq!(
                one.count_client(address(1), 2),
                if n < 2 { Ok(()) } else { Err(Unserved::ConnectionsPerClient) }
            );
            open.push(one);
        }
        let mut other = counts.admit(&listener, 5).unwrap();
        assert_eq!(other.count_client(address(2), 2), Ok(()));
        let _unix = counts.admit(&listener, 5).unwrap();
        assert!(counts.admit(&listener, 5).is_none());
        assert_eq!(listener.open(), 5);
        drop(open);
        let mut again = counts.admit(&listener, 5).unwrap();
        assert_eq!(again.count_client(address(1), 1), Ok(()));
        drop((again, other));
        assert!(counts.taken.clients.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
        assert_eq!(listener.open(), 1);
    }

    #[test]
    fn a_bound_of_a_client_that_is_lowered_leaves_no_entry_behind() {
        let clients = Clients::default();
        assert!(!clients.take(client("192.0.2.1"), 0));
        assert!(clients.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn a_flood_of_refusals_has_some_lines_and_the_rest_is_counted() {
        let mut told = Told::default();
        let now = Instant::now();
        let lines = (0..1000).filter(|_| told.may_tell(now).is_some()).count();
        assert_eq!(lines, 100);
        assert_eq!(told.may_tell(now + Duration::from_secs(1)), Some(900));
        assert_eq!(told.may_tell(now + Duration::from_secs(1)), Some(0));
    }
}
