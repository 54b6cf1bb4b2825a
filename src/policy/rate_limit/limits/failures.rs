//! What limits make of authentication: a credential that it refuses is a failure of its client's.

use super::Limits;
use super::door::Refused;
use crate::policy::Effects;
use crate::policy::rate_limit::Nanos;
use crate::policy::rate_limit::limit::{Asked, RateLimit};
use crate::policy::rate_limit::short::Short;
use crate::policy::rate_limit::standing::{Rank, Ticket, Told};
use crate::reply::Refusal;

impl Limits {
    /// Authentication has judged a request: where it has refused its credential, the limits by `auth_failures` count that now.
    ///
    /// Each of them is asked a second time, too. Guesses that are sent side by side are all let in before the first of them is
    /// judged; of those that are judged after the last token is gone the client is told nothing, right or wrong. So side by side he learns
    /// of as many credentials as one after the other. A limit of the fleet's is asked once: the second question would be another
    /// round trip.
    ///
    /// # Errors
    /// That of the limit which takes longest, to be told in place of whatever authentication has said.
    pub fn authenticated(&self, has_failed: bool, effects: &mut Effects) -> Result<(), Refusal> {
        let mut worst: Option<Refused<'_>> = None;
        let mut violated = Vec::new();
        let now = Nanos::now();
        for at in 0..effects.limits.tickets.len() {
            let Some(&Ticket { index, asked }) = effects.limits.tickets.get(at) else { break };
            let Some(limit) = self.all.get(usize::from(index)).filter(|limit| limit.counts_auth_failures())
            else {
                continue;
            };
            let short = if has_failed {
                let Some(left) = limit.charge(&asked, now) else { continue };
                effects.limits.note(limit, Told::tokens(index, asked.tier, Rank::Tokens, &left));
                if left.is_owing() { limit.is_short(&asked, now) } else { None }
            } else {
                limit.is_short(&asked, now)
            };
            let Some(short) = short else { continue };
            let Some(refused) = Refused::note(index, limit, &asked, &short, effects)? else { continue };
            violated.extend(refused.label());
            if worst.as_ref().is_none_or(|worst| worst.wait < refused.wait) {
                worst = Some(refused);
            }
        }
        worst.map_or(Ok(()), |worst| worst.tell(violated, effects))
    }
}

impl RateLimit {
    /// Whether no token is left by now. No conduct is noted: the request was sent before its client could know.
    fn is_short(&self, asked: &Asked, now: Nanos) -> Option<Short> {
        let seen = self.look(asked, now).filter(|_| !self.is_of_fleet())?;
        (!seen.passed()).then(|| self.lacking(&seen))
    }
}
