//! A request that is asked about, and a decision by the fleet that is not final yet.

use std::sync::Arc;

use super::{Leases, Terms};
use crate::policy::rate_limit::{KeyHash, Nanos, Taken};
use crate::state::redis::Status;

/// A request, as leases are asked about it.
#[derive(Clone, Copy, Debug)]
pub(in super::super::super) struct Wanted {
    /// In the node's own table.
    pub(in super::super::super) key: KeyHash,
    /// Among the leases: of whatever class the key is.
    pub(in super::super::super) account: KeyHash,
    pub(in super::super::super) shared: KeyHash,
    pub(in super::super::super) cost: u32,
    pub(in super::super::super) terms: Terms,
}

/// A decision by the fleet. Tokens that it took are given back when it is dropped, unless they are spent.
#[derive(Debug)]
pub(in super::super::super) struct Reserved {
    taken: Taken,
    wanted: Wanted,
    /// None once there is nothing to give back.
    leases: Option<Arc<Leases>>,
}

impl Leases {
    pub(super) fn reserved(self: &Arc<Self>, taken: Taken, wanted: Wanted) -> Reserved {
        let leases = taken.passed().then(|| Arc::clone(self));
        Reserved { taken, wanted, leases }
    }

    fn take_back(self: &Arc<Self>, wanted: &Wanted) {
        let mut shard = self.shard(wanted.account);
        let Some(entry) = shard.get_mut(&wanted.account) else { return };
        let (terms, now) = (entry.terms, Nanos::now());
        // They were taken by the terms of the request.
        entry.carry(wanted.terms, now);
        entry.account.take_back(wanted.cost);
        entry.carry(terms, now);
        let order = match self.redis.status() {
            Status::Lost => None,
            Status::Late | Status::Ready => entry.account.give_back_surplus(&terms, now),
        };
        drop(shard);
        self.ask(wanted.account, wanted.shared, terms, order);
    }
}

impl Reserved {
    /// Whether the tokens were there.
    pub(in super::super::super) fn taken(&self) -> &Taken {
        &self.taken
    }

    /// They are spent.
    pub(in super::super::super) fn spend(mut self) -> Taken {
        self.leases = None;
        self.taken
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(leases) = self.leases.take() {
            leases.take_back(&self.wanted);
        }
    }
}
