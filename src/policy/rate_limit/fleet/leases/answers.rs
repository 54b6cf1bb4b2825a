//! Questions to the store, and what their answers do.

use std::sync::Arc;

use super::figures::add;
use super::{KeyHash, Leases, Nanos, Wanted};
use crate::policy::rate_limit::fleet::account::{Order, Said};
use crate::policy::rate_limit::fleet::terms::Terms;
use crate::policy::rate_limit::fleet::wire::{question, said};
use crate::state::redis::Lost;

impl Leases {
    pub(super) fn ask(self: &Arc<Self>, key: KeyHash, shared: KeyHash, terms: Terms, order: Option<Order>) {
        let Some(order) = order else { return };
        add(&self.counters.asked);
        let (leases, losses) = (Arc::downgrade(self), self.redis.lapses());
        let answer = move |answer: Result<Vec<i64>, Lost>| {
            if let Some(leases) = leases.upgrade() {
                let answer = answer.map(|numbers| said(&numbers, &terms, &order, losses));
                leases.answered(key, &terms, &order, &answer);
            }
        };
        let node = self.node.get().and_then(Option::as_deref);
        self.redis.ask(question(node, shared, &terms, &order, losses, Box::new(answer)));
    }

    /// Serves those who wait, in the order in which they came.
    fn answered(
        self: &Arc<Self>,
        key: KeyHash,
        terms: &Terms,
        order: &Order,
        answer: &Result<Option<Said>, Lost>,
    ) {
        let now = Nanos::now();
        let mut told = Vec::new();
        let mut shard = self.shard(key);
        let Some(entry) = shard.get_mut(&key) else { return };
        // It is said by the terms by which it was asked.
        let in_force = entry.terms;
        entry.carry(*terms, now);
        let lost = match &answer {
            Ok(Some(said)) => {
                entry.account.fill(order, said);
                let passed = terms.turn.and_then(|turn| turn.passed);
                entry.account.note_passed(passed.unwrap_or(0));
                None
            }
            // Not what the script gives: whoever says so is not believed.
            Ok(None) => Some(true),
            Err(Lost { sent }) => Some(*sent),
        };
        if let Some(sent) = lost {
            entry.account.lose(terms, order, sent);
            // Who waits hears that nobody will answer.
            entry.waiting.clear();
        }
        entry.carry(in_force, now);
        let (shared, terms) = (entry.shared, in_force);
        let waiting = std::mem::take(&mut entry.waiting);
        for one in waiting {
            let wanted = Wanted { key, account: key, shared, cost: one.cost, terms: one.terms };
            if one.tell.is_closed() {
                continue;
            }
            if !one.is_counted && (one.terms.strict || entry.account.tokens < one.cost) {
                entry.waiting.push(one);
                continue;
            }
            let taken = entry.account.serve(&one.terms, one.cost, now);
            told.push((one.tell, self.reserved(taken, wanted)));
        }
        let mut next = None;
        if lost.is_none() {
            next = entry.order(&terms, now).or_else(|| entry.account.give_back_surplus(&terms, now));
        }
        drop(shard);
        for (tell, reserved) in told {
            // Who has gone meanwhile gives back what it got.
            let _ = tell.send(reserved);
        }
        self.ask(key, shared, terms, next);
    }
}
