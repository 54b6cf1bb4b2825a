//! What the store is asked about a key, and what its answer says: the arguments and results of `lease.lua` and `quota.lua`.

use std::sync::OnceLock;
use std::time::Duration;

use super::super::KeyHash;
use super::account::{Order, Said, Terms};
use crate::state::redis::{Answer, Question, Script};

/// A quota is forgotten a day after its period, in seconds: clocks differ.
const KEPT: i64 = 86_400;

/// What the store has answered when it had been lost so often: none where it cannot be so.
pub(super) fn said(numbers: &[i64], terms: &Terms, order: &Order, losses: u64) -> Option<Said> {
    let [leased, said, life] = *numbers else { return None };
    let leased = u32::try_from(leased).ok().filter(|leased| *leased <= order.want)?;
    let said = u64::try_from(said).ok()?;
    let debt = match terms.ends {
        None => Duration::from_micros(said),
        Some(_) => Duration::from_nanos(terms.gcra.spent(said)),
    };
    Some(Said { leased, debt, life, losses })
}

/// A question about a key, for the script of its limit or quota.
pub(super) fn question(
    shared: KeyHash,
    terms: &Terms,
    order: &Order,
    losses: u64,
    answer: Answer,
) -> Question {
    static LEASE: OnceLock<Script> = OnceLock::new();
    static QUOTA: OnceLock<Script> = OnceLock::new();
    let (charge, want) = (order.charge.to_string(), order.want.to_string());
    let burst = terms.gcra.burst().to_string();
    let (known, life, is_lost_since) = match &order.claim {
        None => (0, 0, false),
        Some(claim) => (claim.debt, claim.life, claim.losses != losses),
    };
    let known = match terms.ends {
        None => known / 1_000,
        Some(_) => terms.gcra.burst() - terms.gcra.look(known, 1).remaining(),
    };
    let claim = [known.to_string(), life.to_string(), u8::from(is_lost_since).to_string()];
    let key = format!("{:016x}{:016x}", shared.fingerprint, shared.place);
    match terms.ends {
        None => Question {
            script: LEASE.get_or_init(|| Script::new(include_str!("lease.lua"))),
            key: format!("l:{key}"),
            arguments: [terms.gcra.microseconds().to_string(), burst, charge, want]
                .into_iter()
                .chain(claim)
                .collect(),
            answer,
        },
        Some(ends) => Question {
            script: QUOTA.get_or_init(|| Script::new(include_str!("quota.lua"))),
            key: format!("q:{key}"),
            arguments: [burst, charge, want, (ends + KEPT).to_string()].into_iter().chain(claim).collect(),
            answer,
        },
    }
}
