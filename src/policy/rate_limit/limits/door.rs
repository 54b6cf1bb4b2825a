//! The limits of one place, as they ask about one request: whether it is let in, what it takes, and what is told if not.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::RETRY_AFTER;

use super::super::concurrency::{NoSlot, Slot};
use super::super::fleet::Granted;
use super::super::headers::seconds;
use super::super::key::Facts;
use super::super::limit::{
    AUTH_FAILURES, Asked, CONCURRENT, Concurrent, QUEUE_LEFT, QUEUE_WAIT, RateLimit, SPENT,
};
use super::super::penalty::PENALTY;
use super::super::short::Short;
use super::super::standing::{Of, Rank, Ticket, Told};
use super::super::{LIMITS_MAX, Nanos, Taken};
use crate::config::Site;
use crate::config::units::Time;
use crate::policy::{Effects, Mode, Outcome, Step, Verdict};
use crate::record::ErrorFacts;
use crate::reply::{Kind, Refusal, Violated};

/// The limits of one place, as they ask about one request.
pub(super) struct Door<'a> {
    limits: &'a [Arc<RateLimit>],
    /// The place of the first among all that the request has.
    first: usize,
    asked: [Option<Asked>; LIMITS_MAX],
    now: Nanos,
    /// Whether looking has taken already: one limit alone need not be asked twice.
    taken: bool,
    /// What limits of the fleet's have decided; empty where none was asked. What is not spent is given back.
    granted: Vec<Option<Granted<'a>>>,
    /// Those of a place with limits of the fleet's that have cooled the key off, and what they say; empty where there are none. It was
    /// looked for before the store was asked, and holds also where the cool-off has ended meanwhile.
    cooled_off: Vec<Option<Short>>,
}

/// A refusal that is not told yet: another limit may take longer.
pub(super) struct Refused<'a> {
    limit: &'a RateLimit,
    site: &'a Site,
    kind: Kind,
    reason: &'static str,
    pub(super) wait: Option<Duration>,
}

impl<'a> Door<'a> {
    pub(super) fn new(limits: &'a [Arc<RateLimit>], first: usize, facts: &Facts<'_>) -> Self {
        let mut asked = [None; LIMITS_MAX];
        let made =
            facts.ahead.map(|ahead| ahead.0).unwrap_or_default().into_iter().chain(std::iter::repeat(None));
        let limits_and_keys = limits.iter().zip(made);
        asked
            .iter_mut()
            .zip(limits_and_keys)
            .for_each(|(asked, (limit, made))| *asked = Some(limit.ask(made, facts)));
        let taken = matches!(limits, [only] if only.concurrent.is_none() && !only.counts_ends());
        Self { limits, first, asked, now: Nanos::now(), taken, granted: Vec::new(), cooled_off: Vec::new() }
    }

    /// Whether all of them have tokens.
    pub(super) fn look(&mut self, effects: &mut Effects) -> Result<(), Refusal> {
        let mut worst: Option<Refused<'a>> = None;
        let mut violated = Vec::new();
        for index in 0..self.limits.len() {
            let Some((limit, asked)) = self.pair(index) else { continue };
            let known = self.cooled_off.get(index).copied().flatten();
            let short = match known.or_else(|| limit.cooled_off(&asked, self.now)) {
                Some(short) => short,
                None => {
                    let granted = self.granted.get(index).and_then(Option::as_ref);
                    let seen = match granted {
                        Some(granted) => Some(*granted.taken()),
                        // Another has cooled the key off: nobody was asked.
                        None if limit.is_of_fleet() => continue,
                        None if self.taken => limit.take(&asked, self.now),
                        None => limit.look(&asked, self.now),
                    };
                    let Some(seen) = seen else { continue };
                    if seen.passed() || asked.cost == 0 {
                        self.note(index, limit, &asked, Rank::Tokens, &seen, effects);
                        continue;
                    }
                    limit.short(&asked, &seen, self.now)
                }
            };
            self.forget(index);
            let Some(refused) = self.refused(index, limit, &asked, &short, effects)? else { continue };
            if limit.is_visible() {
                violated.push(Arc::clone(&limit.label));
            }
            if worst.as_ref().is_none_or(|worst| worst.wait < refused.wait) {
                worst = Some(refused);
            }
        }
        worst.map_or(Ok(()), |worst| worst.tell(violated, effects))
    }

    /// A slot of each that counts what is under way.
    pub(super) fn hold(&mut self, effects: &mut Effects) -> Result<(), Refusal> {
        for index in 0..self.limits.len() {
            let Some((limit, asked)) = self.pair(index) else { continue };
            let Some(concurrent) = &limit.concurrent else { continue };
            let held = concurrent.slots.take(asked.key, concurrent.room(limit.mode));
            self.held(index, (limit, concurrent), held, effects)?;
        }
        Ok(())
    }

    /// Asks those that are of the fleet's; none where some limit of this place has cooled the key off, so that a client which hammers costs
    /// the store nothing.
    async fn reserve(&mut self, effects: &mut Effects) {
        if !self.limits.iter().any(|limit| limit.is_of_fleet()) {
            return;
        }
        if self.is_cooled_off() {
            return;
        }
        for index in 0..self.limits.len() {
            let granted = match self.pair(index) {
                Some((limit, asked)) if !self.cooled_off.get(index).is_some_and(Option::is_some) => {
                    limit.reserve(&asked, &mut effects.limits.waited).await
                }
                _ => None,
            };
            self.granted.push(granted);
        }
        self.now = Nanos::now();
    }

    /// Whether an enforced limit of this place refuses whatever the key sends. What shadowed ones say is kept too: they need not be asked
    /// any more.
    fn is_cooled_off(&mut self) -> bool {
        let rest = |own: &Self, index: usize| {
            let (limit, asked) = own.pair(index)?;
            Some((limit, limit.cooled_off(&asked, own.now)?))
        };
        let found: [_; LIMITS_MAX] = std::array::from_fn(|index| rest(&*self, index));
        if found.iter().any(Option::is_some) {
            self.cooled_off = found.iter().map(|found| found.as_ref().map(|(_, short)| *short)).collect();
        }
        found.iter().flatten().any(|(limit, _)| limit.mode == Mode::Enforce)
    }

    /// As [`Door::check_waiting`], for requests that go no further: they need no slot.
    pub(super) async fn check_refused(&mut self, effects: &mut Effects) -> Result<(), Refusal> {
        self.reserve(effects).await;
        self.look(effects)?;
        self.take(effects)
    }

    /// Waits for the store and for slots, where the limits of this place have those.
    pub(super) async fn check_waiting(&mut self, effects: &mut Effects) -> Result<(), Refusal> {
        self.reserve(effects).await;
        self.look(effects)?;
        for index in 0..self.limits.len() {
            let Some((limit, asked)) = self.pair(index) else { continue };
            let Some(concurrent) = &limit.concurrent else { continue };
            let mut held = concurrent.slots.take(asked.key, concurrent.room(limit.mode));
            if let (Err(_), Some(queue), true) = (&held, concurrent.queue, limit.waits()) {
                let _waiting = effects.turn.as_ref().map(|turn| turn.waits(has_left(limit)));
                let waited =
                    concurrent.slots.wait(asked.key, concurrent.most, queue.length, queue.wait).await;
                held = waited.map(|slot| (slot, 0));
                self.now = Nanos::now();
            }
            self.held(index, (limit, concurrent), held, effects)?;
        }
        self.take(effects)
    }

    /// Those that count by status wait for it: also for that of a refusal by another limit of this place, but not of their own.
    pub(super) fn wait_for_status(&self, effects: &mut Effects) {
        for index in 0..self.limits.len() {
            if let Some((_, asked)) = self.pair(index).filter(|(limit, _)| limit.counts_ends()) {
                effects.limits.tickets.push(Ticket { index: self.place(index), asked });
            }
        }
    }

    /// Takes what was looked at.
    pub(super) fn take(&mut self, effects: &mut Effects) -> Result<(), Refusal> {
        for index in 0..self.limits.len() {
            let Some((limit, asked)) = self.pair(index) else { continue };
            if limit.counts_ends() {
                continue;
            }
            let granted = self.granted.get_mut(index).and_then(Option::take);
            let taken = match granted {
                Some(granted) => Some(granted.spend(self.now)),
                None if self.taken || asked.cost == 0 => None,
                None => limit.take(&asked, self.now),
            };
            let Some(taken) = taken else { continue };
            if taken.passed() {
                effects.limits.note(limit, self.told(index, &asked, Rank::Tokens, &taken));
                continue;
            }
            let short = limit.short(&asked, &taken, self.now);
            if let Some(refused) = self.refused(index, limit, &asked, &short, effects)? {
                let violated = limit.is_visible().then(|| Arc::clone(&limit.label));
                refused.tell(violated.into_iter().collect(), effects)?;
            }
        }
        Ok(())
    }

    /// A limit does not let the request pass: noted, and given back where it is enforced.
    fn refused(
        &self,
        index: usize,
        limit: &'a RateLimit,
        asked: &Asked,
        short: &Short,
        effects: &mut Effects,
    ) -> Result<Option<Refused<'a>>, Refusal> {
        Refused::note(self.place(index), limit, asked, short, effects)
    }

    fn held(
        &mut self,
        index: usize,
        (limit, concurrent): (&'a RateLimit, &Concurrent),
        held: Result<(Slot, u32), NoSlot>,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let index = self.place(index);
        let reason = match held {
            Ok((slot, left)) => {
                effects.limits.slots.push(slot);
                effects.limits.note(limit, Told::slots(index, false, left));
                effects.note(|| {
                    let queue = concurrent.queue.map_or_else(String::new, |queue| {
                        format!("; {} more wait, {} at most", queue.length, Time(queue.wait))
                    });
                    step(limit, &limit.site, format!("{left} more at once, by {}{queue}", limit.key()))
                });
                return Ok(());
            }
            Err(NoSlot::Full) => CONCURRENT,
            Err(NoSlot::Late) => QUEUE_WAIT,
        };
        effects.limits.note(limit, Told::slots(index, true, 0));
        let violated = limit.is_visible().then(|| Arc::clone(&concurrent.label)).into_iter().collect();
        let refused = Refused { limit, site: &limit.site, kind: Kind::Overloaded, reason, wait: None };
        refused.tell(violated, effects)
    }

    fn note(
        &self,
        index: usize,
        limit: &RateLimit,
        asked: &Asked,
        rank: Rank,
        seen: &Taken,
        effects: &mut Effects,
    ) {
        let told = self.told(index, asked, rank, seen);
        effects.limits.note(limit, told);
        effects.note(|| {
            let left = if self.taken || limit.counts_ends() || limit.is_of_fleet() {
                told.remaining
            } else {
                told.remaining.saturating_sub(u64::from(asked.cost))
            };
            let site = limit.tier(asked.tier).map_or(&limit.site, |tier| &tier.site);
            let fleet = if limit.is_of_fleet() { ", over the fleet" } else { "" };
            let ended = match limit.counts_auth_failures() {
                true => "; counted if its credential is refused",
                false if limit.counts_ends() => "; counted by its status",
                false => "",
            };
            let detail =
                format!("{left} of {} left, by {}{fleet}{ended}", limit.size(asked.tier), limit.key());
            step(limit, site, detail + limit.penalty.map_or("", |_| "; who hammers is cooled off"))
        });
    }

    fn told(&self, index: usize, asked: &Asked, rank: Rank, seen: &Taken) -> Told {
        Told::tokens(self.place(index), asked.tier, rank, seen)
    }

    fn pair(&self, index: usize) -> Option<(&'a RateLimit, Asked)> {
        Some((self.limits.get(index)?, (*self.asked.get(index)?)?))
    }

    /// A shadowed limit that would have refused is not asked any more.
    pub(super) fn forget(&mut self, index: usize) {
        if let Some(asked) = self.asked.get_mut(index) {
            *asked = None;
        }
    }

    fn place(&self, index: usize) -> u8 {
        u8::try_from(self.first + index).unwrap_or(u8::MAX)
    }
}

impl<'a> Refused<'a> {
    /// The limit at this place among the request's does not let it pass: noted, and given back where it is enforced.
    pub(super) fn note(
        index: u8,
        limit: &'a RateLimit,
        asked: &Asked,
        short: &Short,
        effects: &mut Effects,
    ) -> Result<Option<Self>, Refusal> {
        let &Short { kind, reason, remaining, next, full, wait } = short;
        let tier = asked.tier;
        let told = Told { index, tier, rank: Rank::Refused, of: Of::Tokens, remaining, next, full };
        effects.limits.note(limit, told);
        let site = limit.tier(tier).map_or(&limit.site, |tier| &tier.site);
        let refused = Self { limit, site, kind, reason, wait };
        match limit.mode {
            Mode::Enforce => Ok(Some(refused)),
            Mode::Shadow => refused.tell(Vec::new(), effects).map(|()| None),
        }
    }

    /// What clients know the limit by; none where they may not know of it.
    pub(super) fn label(&self) -> Option<Arc<str>> {
        self.limit.is_visible().then(|| Arc::clone(&self.limit.label))
    }

    /// Carries it out, or notes it.
    pub(super) fn tell(self, violated: Vec<Arc<str>>, effects: &mut Effects) -> Result<(), Refusal> {
        let message = match self.reason {
            PENALTY => {
                "requests of this key came again and again before the time that it was told; it is cooled off"
            }
            SPENT => "too many requests of this key have ended in a status of `count`",
            AUTH_FAILURES => "authentication has refused too many credentials of this client",
            CONCURRENT => "as many requests of this key as `concurrent` says are under way",
            QUEUE_WAIT => "no request of this key ended within `queue.wait`",
            _ => "requests of this key come faster than `limit` and `burst` allow",
        };
        let outcome = Outcome::Refuse { kind: self.kind, reason: self.reason, message: message.into() };
        let verdict = Verdict { outcome, site: self.site };
        effects.judge(self.limit.name(), self.limit.mode, verdict).map_err(|mut refusal| {
            if let Some(wait) = self.wait {
                // A client that comes again at that second finds the tokens there.
                refusal.headers.push((RETRY_AFTER, HeaderValue::from(seconds(wait).max(1))));
            }
            refusal.violated = Some(Box::new(Violated(violated)));
            refusal
        })
    }
}

/// What is noted of a request whose client leaves while it waits in a queue.
fn has_left(limit: &RateLimit) -> ErrorFacts {
    ErrorFacts {
        response_type: "CLIENT_CLOSED",
        reason: QUEUE_LEFT,
        message: "the client left while its request waited in `queue` for its turn".into(),
        policy: Some(Arc::clone(limit.name())),
        site: Some(limit.site.clone()),
    }
}

fn step(limit: &RateLimit, site: &Site, detail: String) -> Step {
    let detail = if limit.mode == Mode::Shadow { detail + "; shadowed, it refuses nobody" } else { detail };
    Step {
        name: Arc::clone(limit.name()),
        outcome: "pass".into(),
        detail: detail.into(),
        site: Some(site.clone()),
    }
}
