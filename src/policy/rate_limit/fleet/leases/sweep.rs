//! What is idle is given back, and forgotten when it says nothing any more.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Leases, lock};
use crate::policy::rate_limit::Nanos;
use crate::policy::rate_limit::fleet::wire::question;
use crate::policy::rate_limit::quota::second;
use crate::state::redis::{Lost, Question, Status};

/// So many accounts of a shard at once tell a store that was lost what they know.
const CLAIMS_MAX: usize = 64;

impl Leases {
    /// Gives back what is idle, and forgets what says nothing any more.
    pub(in super::super) fn sweep(self: &Arc<Self>, now: Nanos) {
        let (is_lost, losses) = (self.redis.status() == Status::Lost, self.redis.lapses());
        let today = second(SystemTime::now());
        for shard in &self.shards {
            let mut orders = Vec::new();
            let mut shard = lock(shard);
            // The store knows what an idle account knows, unless it forgets; without the account it is asked once more. While the store is
            // lost only the account knows what this node may let pass of a quota.
            let is_tight = shard.len() * 2 > self.keys_max();
            shard.retain(|_, entry| {
                let is_over = match entry.terms.turn {
                    Some(turn) => {
                        !is_lost && (is_tight || turn.ends < today) && entry.account.is_idle_and_settled(now)
                    }
                    None if is_tight => entry.account.is_idle_and_settled(now),
                    None => entry.account.is_over(now),
                };
                !entry.waiting.is_empty() || !is_over
            });
            if !is_lost {
                let mut claims = 0;
                for (key, entry) in &mut *shard {
                    let mut order = entry.account.give_back(false, now);
                    if order.is_none() && claims < CLAIMS_MAX {
                        order = entry.account.claim(losses, now);
                        claims += usize::from(order.is_some());
                    }
                    orders.extend(order.map(|order| (*key, entry.shared, entry.terms, order)));
                }
            }
            drop(shard);
            for (key, shared, terms, order) in orders {
                self.ask(key, shared, terms, Some(order));
            }
        }
    }

    /// All that is leased, to be given back before the process ends, or the limit goes.
    pub(in super::super) fn give_all_back(&self, now: Nanos) -> Vec<Question> {
        let node = self.node.get().and_then(Option::as_deref);
        let (mut questions, losses) = (Vec::new(), self.redis.lapses());
        for shard in &self.shards {
            for entry in lock(shard).values_mut() {
                if let Some(order) = entry.account.give_back(true, now) {
                    let answer = Box::new(|_: Result<Vec<i64>, Lost>| {});
                    questions.push(question(node, entry.shared, &entry.terms, &order, losses, answer));
                }
            }
        }
        questions
    }
}

impl Drop for Leases {
    /// A limit that is gone from the configuration holds nothing of the others'.
    fn drop(&mut self) {
        if self.redis.status() != Status::Lost {
            for question in self.give_all_back(Nanos::now()) {
                self.redis.ask(question);
            }
        }
    }
}
