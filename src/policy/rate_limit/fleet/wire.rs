//! What the store is asked about a key, and what its answer says: the arguments and results of `lease.lua` and `quota.lua`.

use std::sync::OnceLock;
use std::time::Duration;

use super::super::KeyHash;
use super::account::{Claim, Count, Order, Said};
use super::node::Node;
use super::terms::{Terms, Turn};
use crate::state::redis::{Answer, Question, Script};

/// A quota's period is forgotten a day after it, in seconds: clocks differ.
const KEPT: i64 = 86_400;
/// Where first periods are shorter a key is remembered for so long after it was asked about last, in seconds: 400 days.
const FIRST_KEPT: i64 = 400 * 86_400;

/// What the store has answered when it had been lost so often: none where it cannot be so.
pub(super) fn said(numbers: &[i64], terms: &Terms, order: &Order, losses: u64) -> Option<Said> {
    let (leased, said, life, is_first) = match (numbers, terms.turn) {
        (&[leased, said, life], None) => (leased, said, life, false),
        (&[leased, said, life, is_first @ 0..=1], Some(_)) => (leased, said, life, is_first == 1),
        _ => return None,
    };
    let leased = u32::try_from(leased).ok().filter(|leased| *leased <= order.want)?;
    let said = u64::try_from(said).ok()?;
    let (debt, counted) = match terms.turn {
        None => (Duration::from_micros(said), None),
        Some(Turn { offset, .. }) => {
            let counted = Count { used: said, is_first };
            (Duration::from_nanos(terms.gcra.spent(counted.spent(offset))), Some(counted))
        }
    };
    Some(Said { leased, debt, counted, life, losses })
}

/// A question about a key, for the script of its limit or quota.
pub(super) fn question(
    node: Option<&Node>,
    shared: KeyHash,
    terms: &Terms,
    order: &Order,
    losses: u64,
    answer: Answer,
) -> Question {
    let key = format!("{:016x}{:016x}", shared.fingerprint, shared.place);
    match terms.turn {
        None => about_limit(&key, terms, order, losses, answer),
        Some(turn) => {
            // A request that was let pass alone is charged, and told once.
            let charged = u64::try_from(order.charge).unwrap_or(0);
            let passed = turn.passed.map(|passed| passed.saturating_sub(charged));
            about_quota(&key, terms, (&turn, node, passed), order, losses, answer)
        }
    }
}

fn about_limit(key: &str, terms: &Terms, order: &Order, losses: u64, answer: Answer) -> Question {
    static LEASE: OnceLock<Script> = OnceLock::new();
    let known = order.claim.map_or(0, |claim| claim.debt / 1_000);
    let first = [terms.gcra.microseconds().to_string(), terms.gcra.burst().to_string()];
    Question {
        script: LEASE.get_or_init(|| Script::new(include_str!("lease.lua"))),
        key: format!("l:{key}"),
        arguments: first.into_iter().chain(asked(order, known, losses)).collect(),
        answer,
    }
}

fn about_quota(
    key: &str,
    terms: &Terms,
    (turn, node, passed): (&Turn, Option<&Node>, Option<u64>),
    order: &Order,
    losses: u64,
    answer: Answer,
) -> Question {
    static QUOTA: OnceLock<Script> = OnceLock::new();
    let counted = order.claim.and_then(|claim| claim.counted);
    let is_first = match counted {
        _ if turn.is_later => "0",
        Some(Count { is_first: false, .. }) => "0",
        Some(_) | None => "",
    };
    let name = node.map_or("", Node::name);
    let passed = passed.map(|passed| passed.to_string()).unwrap_or_default();
    let lives = if turn.offset > 0 { FIRST_KEPT } else { 0 };
    let rest = [turn.begins, turn.ends.saturating_add(KEPT), lives].map(|number| number.to_string());
    Question {
        script: QUOTA.get_or_init(|| Script::new(include_str!("quota.lua"))),
        key: format!("q:{key}"),
        arguments: std::iter::once(terms.gcra.burst().to_string())
            .chain(asked(order, counted.map_or(0, |counted| counted.used), losses))
            .chain(rest)
            .chain([turn.offset.to_string(), is_first.to_owned()])
            .chain([name.to_owned(), passed])
            .collect(),
        answer,
    }
}

/// To charge, wanted, known, the life in which it was told so, and whether the store was lost since.
fn asked(order: &Order, known: u64, losses: u64) -> [String; 5] {
    let (life, is_lost_since) = match &order.claim {
        None => (0, false),
        Some(Claim { life, losses: then, .. }) => (*life, *then != losses),
    };
    let (charge, want) = (order.charge.to_string(), order.want.to_string());
    [charge, want, known.to_string(), life.to_string(), u8::from(is_lost_since).to_string()]
}

#[cfg(test)]
mod tests {
    use super::super::super::{Gcra, Nanos};
    use super::*;

    #[test]
    fn what_cannot_be_an_answer_is_none() {
        let gcra = Gcra::new(0, Duration::from_secs(1), 100);
        let turn = Turn { begins: 0, ends: 10, offset: 30, is_later: false, passed: None };
        let of_limit = Terms { gcra, most: 5, strict: false, turn: None };
        let of_quota = Terms { turn: Some(turn), ..of_limit };
        let order = Order { charge: 0, want: 5, at: Nanos::from_nanos(0), claim: None };
        for (terms, answer, is_one) in [
            (of_limit, &[5, 0, 7][..], true),
            (of_limit, &[6, 0, 7], false),
            (of_limit, &[-1, 0, 7], false),
            (of_limit, &[5, -1, 7], false),
            (of_limit, &[5, 0], false),
            (of_limit, &[5, 0, 7, 1], false),
            (of_limit, &[], false),
            (of_quota, &[5, 0, 7], false),
            (of_quota, &[5, 0, 7, 0], true),
            (of_quota, &[5, 0, 7, 1], true),
            (of_quota, &[5, 0, 7, 2], false),
            (of_quota, &[5, i64::MAX, 7, 1], true),
        ] {
            assert_eq!(said(answer, &terms, &order, 0).is_some(), is_one, "{answer:?}");
        }
    }

    #[test]
    fn what_a_first_period_has_less_is_spent_and_not_counted() {
        let gcra = Gcra::new(0, Duration::from_secs(1), 100);
        let turn = Turn { begins: 0, ends: 10, offset: 30, is_later: false, passed: None };
        let terms = Terms { gcra, most: 5, strict: false, turn: Some(turn) };
        let order = Order { charge: 0, want: 5, at: Nanos::from_nanos(0), claim: None };
        for (is_first, left) in [(1, 60), (0, 90)] {
            let said = said(&[0, 10, 7, is_first], &terms, &order, 0).unwrap();
            let debt = u64::try_from(said.debt.as_nanos()).unwrap();
            assert_eq!(gcra.look(debt, 1).remaining(), left);
            assert_eq!(said.counted.map(|counted| counted.used), Some(10));
        }
    }
}
