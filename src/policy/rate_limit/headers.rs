//! How clients are told where they stand: draft-ietf-httpapi-ratelimit-headers-10, or the older fields that many clients know.
//!
//! For a bucket `q` is the burst, `w` the seconds in which it is refilled, `r` the whole tokens that are left (a lower bound: some
//! more may have come since), `t` the seconds until there is one, 0 where there is. What is text is made at the load; a request
//! writes numbers.
//!
//! Of what is under way at once `q` are the slots, in the draft's unit `qu="concurrent-requests"`, and `r` those that are left. No time
//! brings them back, so there is neither `w` nor `t`. A limit that has both is two policies for its clients, as an item has one `q`:
//! `"heavy"` and `"heavy.concurrent"`. `RateLimit` tells the most binding of those with tokens, and beside it the most binding of those with
//! slots; the older fields, which know one, tell what has refused, else tokens before slots.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::config::Headers;
use super::limit::RateLimit;
use super::plan_standing::PlanStanding;
use super::standing::{Of, Order, Standing, Told};
use crate::request::Fields;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEGACY_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const LEGACY_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const LEGACY_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// What the responses of a route say of its limits.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// `RateLimit-Policy` for keys without limits of their own; none where no limit is told so.
    policy: Option<HeaderValue>,
    legacy: bool,
}

impl Telling {
    pub(super) fn of<'a>(limits: impl Iterator<Item = &'a RateLimit> + Clone) -> Self {
        let is = |headers: Headers| limits.clone().any(|limit| limit.is_told(headers));
        let policy = is(Headers::Ietf).then(|| policy(limits.clone().map(|limit| (limit, 0)))).flatten();
        Self { policy, legacy: is(Headers::Legacy) }
    }

    /// Writes the fields of a response. What an upstream has written of its own limits goes: it knows less. False where no limit
    /// is told.
    pub(super) fn apply<'a>(
        &self,
        limits: impl Iterator<Item = &'a RateLimit> + Clone,
        standing: &Standing,
        fields: &mut impl Fields,
    ) -> bool {
        let plan = standing.plan.as_deref().filter(|plan| plan.is_visible());
        if self.policy.is_none() && !self.legacy && plan.is_none() {
            return false;
        }
        for name in [RATELIMIT, RATELIMIT_POLICY, LEGACY_LIMIT, LEGACY_REMAINING, LEGACY_RESET] {
            if fields.fields().contains_key(&name) {
                fields.remove(&name);
            }
        }
        let of_plan = |headers: Headers| plan.filter(|plan| plan.is_told(headers));
        let binding = |told: Option<&Told>, headers: Headers| {
            let of_limits =
                told.and_then(|told| Some(Binding::of(limits.clone().nth(usize::from(told.index))?, told)));
            let of_plan = of_plan(headers).and_then(PlanStanding::binding);
            of_limits.into_iter().chain(of_plan).min_by_key(|binding| binding.order)
        };
        if let Some(policies) = self.policies(limits.clone(), standing, of_plan(Headers::Ietf)) {
            fields.set(RATELIMIT_POLICY, policies);
        }
        let slots = standing.ietf_slots();
        let slots = slots
            .as_ref()
            .and_then(|told| Some(Binding::of(limits.clone().nth(usize::from(told.index))?, told)));
        let mut binds = [binding(standing.ietf(), Headers::Ietf), slots];
        binds.sort_by_key(|binding| binding.map(|binding| binding.order.0));
        let binds = binds.into_iter().flatten();
        if let Some(value) = value(|text| binds.for_each(|binding| binding.push(text))) {
            fields.set(RATELIMIT, value);
        }
        if let Some(binding) = binding(standing.legacy(), Headers::Legacy) {
            fields.set(LEGACY_LIMIT, HeaderValue::from(binding.size));
            fields.set(LEGACY_REMAINING, HeaderValue::from(binding.remaining));
            if let Some((_, full)) = binding.times {
                fields.set(LEGACY_RESET, HeaderValue::from(full));
            }
        }
        true
    }

    /// `RateLimit-Policy`: what is made at the load, but for keys with limits of their own, or in a plan.
    fn policies<'a>(
        &self,
        limits: impl Iterator<Item = &'a RateLimit>,
        standing: &Standing,
        plan: Option<&PlanStanding>,
    ) -> Option<HeaderValue> {
        let of_limits = match &self.policy {
            Some(_) if standing.is_overridden() => policy(limits.zip(standing.tiers())),
            common => common.clone(),
        };
        let Some(plan) = plan else { return of_limits };
        value(|text| {
            text.extend_from_slice(of_limits.as_ref().map_or(&[], HeaderValue::as_bytes));
            plan.push_policy(text);
        })
    }
}

/// What binds a request most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Binding<'a> {
    pub(super) name: &'a str,
    pub(super) size: u64,
    pub(super) remaining: u64,
    /// Seconds until there is more, 0 where some is left in a bucket; and until there is all. None of what is no matter of time.
    pub(super) times: Option<(u64, u64)>,
    pub(super) order: Order,
}

impl<'a> Binding<'a> {
    fn of(limit: &'a RateLimit, told: &Told) -> Self {
        let next = if told.remaining > 0 { 0 } else { seconds(told.next) };
        let (name, size, times) = match (told.of, &limit.concurrent) {
            (Of::Slots, Some(concurrent)) => (&concurrent.label, concurrent.most.into(), None),
            _ => (&limit.label, limit.size(told.tier), Some((next, seconds(told.full)))),
        };
        Self { name, size, remaining: told.remaining, times, order: told.order() }
    }

    /// `"per_user";r=50;t=30`, behind what is there already.
    fn push(&self, text: &mut Vec<u8>) {
        push_item(text, self.name);
        text.extend_from_slice(b";r=");
        push_number(text, self.remaining);
        if let Some((next, _)) = self.times {
            text.extend_from_slice(b";t=");
            push_number(text, next);
        }
    }
}

/// The whole seconds in which something has passed.
pub(super) fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

/// `"per_user";q=100;w=60, "heavy";q=8;qu="concurrent-requests"`
fn policy<'a>(limits: impl Iterator<Item = (&'a RateLimit, u8)>) -> Option<HeaderValue> {
    value(|text| {
        for (limit, tier) in limits.filter(|(limit, _)| limit.is_told(Headers::Ietf)) {
            if let Some(tier) = limit.tier(tier) {
                push_item(text, &limit.label);
                text.extend_from_slice(b";q=");
                push_number(text, tier.gcra.burst());
                text.extend_from_slice(b";w=");
                push_number(text, seconds(tier.gcra.fill()).max(1));
            }
            if let Some(concurrent) = &limit.concurrent {
                push_item(text, &concurrent.label);
                text.extend_from_slice(b";q=");
                push_number(text, concurrent.most.into());
                text.extend_from_slice(b";qu=\"concurrent-requests\"");
            }
        }
    })
}

/// Begins an item of a list (RFC 9651 §3.1). Names of policies are letters, digits, `_` and `-`, and a `.` of ours: nothing in them
/// needs to be escaped in a string (§3.3.3).
pub(super) fn push_item(text: &mut Vec<u8>, name: &str) {
    if !text.is_empty() {
        text.extend_from_slice(b", ");
    }
    text.push(b'"');
    text.extend_from_slice(name.as_bytes());
    text.push(b'"');
}

pub(super) fn push_number(text: &mut Vec<u8>, number: u64) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn value(write: impl FnOnce(&mut Vec<u8>)) -> Option<HeaderValue> {
    let mut text = Vec::with_capacity(96);
    write(&mut text);
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok().filter(|value| !value.is_empty())
}
