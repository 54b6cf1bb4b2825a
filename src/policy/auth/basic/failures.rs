//! How often somebody may be wrong: two tables of fixed size, asked before any password is hashed.
//!
//! An attempt is counted when it begins and given back when it was right: guesses sent side by side count like guesses sent one
//! after the other. Tables have no entries to be driven out: a client or a user has the cell that a keyed hash gives it, and may
//! share it with another (one in 8192). Names that no user has count like those of users, so that neither tells them apart.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::units::Rate;

const CELLS: usize = 8192;

/// Failures by client and by user.
#[derive(Debug)]
pub(super) struct Failures {
    clients: Cells,
    users: Cells,
    hash: RandomState,
    began: Instant,
}

/// Whose attempt it is: the cells that were charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charged {
    client: usize,
    user: usize,
}

/// Cells that fill with attempts and drain with time (GCRA): each is the moment, in milliseconds, at which it would be empty.
#[derive(Debug)]
struct Cells {
    full_at: Box<[AtomicU64]>,
    /// What one attempt adds.
    cost: u64,
    /// How far ahead of now a cell may be.
    most: u64,
}

impl Failures {
    pub(super) fn new(per_client: Rate, per_user: Rate) -> Self {
        Self {
            clients: Cells::new(per_client),
            users: Cells::new(per_user),
            hash: RandomState::new(),
            began: Instant::now(),
        }
    }

    /// Counts an attempt.
    ///
    /// # Errors
    /// There have been too many: how long until there may be one more. Nothing was counted then.
    pub(super) fn begin(&self, client: IpAddr, user: &str) -> Result<Charged, Duration> {
        self.begin_at(client, user, self.now())
    }

    /// It was right, or was not looked at after all.
    pub(super) fn give_back(&self, charged: Charged) {
        self.clients.give_back(charged.client);
        self.users.give_back(charged.user);
    }

    fn begin_at(&self, client: IpAddr, user: &str, now: u64) -> Result<Charged, Duration> {
        let cell = |hash: u64| usize::try_from(hash).unwrap_or(0) % CELLS;
        let client = self.hash.hash_one(client_bits(client));
        let charged = Charged { client: cell(client), user: cell(self.hash.hash_one(user)) };
        self.clients.charge(charged.client, now)?;
        self.users.charge(charged.user, now).inspect_err(|_| self.clients.give_back(charged.client))?;
        Ok(charged)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What of an address tells clients apart: who has an IPv6 address mostly has 2^64 of them.
pub(super) fn client_bits(client: IpAddr) -> u128 {
    match client.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

impl Cells {
    fn new(rate: Rate) -> Self {
        let most = u64::try_from(rate.per.as_millis()).unwrap_or(u64::MAX);
        // Rounded up: rather a little slower than one attempt too many.
        let cost = most.div_ceil(u64::from(rate.count)).max(1);
        Self {
            full_at: (0..CELLS).map(|_| AtomicU64::new(0)).collect(),
            cost,
            most: cost * u64::from(rate.count),
        }
    }

    fn charge(&self, cell: usize, now: u64) -> Result<(), Duration> {
        let Some(cell) = self.full_at.get(cell) else { return Err(Duration::from_millis(self.most)) };
        let charged = cell.fetch_update(Ordering::AcqRel, Ordering::Acquire, |empty_at| {
            let next = empty_at.max(now).saturating_add(self.cost);
            (next <= now.saturating_add(self.most)).then_some(next)
        });
        charged.map(drop).map_err(|empty_at| {
            let wait = empty_at.saturating_add(self.cost).saturating_sub(now.saturating_add(self.most));
            Duration::from_millis(wait.max(1))
        })
    }

    fn give_back(&self, cell: usize) {
        if let Some(cell) = self.full_at.get(cell) {
            let _ = cell
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| Some(at.saturating_sub(self.cost)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        Rate::parse(text).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_is_wrong_so_often_and_then_waits() {
        let failures = Failures::new(rate("5/1m"), rate("100/1m"));
        let client = ip("192.0.2.1");
        let begin = |user: &str, now| failures.begin_at(client, user, now);
        for number in 0..5 {
            begin(&format!("user{number}"), 1000).unwrap();
        }
        assert_eq!(begin("another", 1000), Err(Duration::from_secs(12)));
        assert_eq!(begin("another", 12_000), Err(Duration::from_secs(1)));
        let charged = begin("another", 13_000).unwrap();
        assert!(begin("another", 13_000).is_err());
        failures.give_back(charged);
        assert!(begin("another", 13_000).is_ok(), "what was right does not count");
        assert!(failures.begin_at(ip("192.0.2.2"), "another", 13_000).is_ok(), "another client");
        // After a minute all is forgotten.
        for _ in 0..5 {
            begin("user0", 200_000).unwrap();
        }
        assert!(begin("user0", 200_000).is_err());
    }

    #[test]
    fn a_user_is_guarded_from_many_clients() {
        let failures = Failures::new(rate("5/1m"), rate("3/1m"));
        let client = |number: u8| IpAddr::from([192, 0, 2, number]);
        for number in 0..3 {
            failures.begin_at(client(number), "alice", 0).unwrap();
        }
        assert_eq!(failures.begin_at(client(9), "alice", 0), Err(Duration::from_secs(20)));
        // What was refused for the user's sake is not counted against the client.
        for number in 0..5 {
            failures.begin_at(client(9), &format!("bob{number}"), 0).unwrap();
        }
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let failures = Failures::new(rate("1/1m"), rate("100/1m"));
        failures.begin_at(ip("2001:db8::1"), "a", 0).unwrap();
        assert!(failures.begin_at(ip("2001:db8::ffff:2"), "b", 0).is_err());
        assert!(failures.begin_at(ip("2001:db8:0:1::1"), "c", 0).is_ok());
        failures.begin_at(ip("192.0.2.9"), "d", 0).unwrap();
        assert!(failures.begin_at(ip("::ffff:192.0.2.9"), "e", 0).is_err());
    }

    #[test]
    fn guesses_side_by_side_are_counted_one_by_one() {
        let failures = Failures::new(rate("5/1m"), rate("100/1m"));
        let begun = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let passed = failures.begin_at(ip("::1"), "a", 5).is_ok();
                        begun.fetch_add(u64::from(passed), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(begun.into_inner(), 5);
    }
}
