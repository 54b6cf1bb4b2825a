//! How clients are told where they stand: draft-ietf-httpapi-ratelimit-headers-10, or the older fields that many clients know.
//!
//! For a bucket `q` is the burst, `w` the seconds in which it is refilled, `r` the whole tokens that are left (a lower bound: some
//! more may have come since), `t` the seconds until there is one, 0 where there is. What is text is made at the load; a request
//! writes numbers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::config::Headers;
use super::limit::RateLimit;
use super::standing::{Rank, Standing, Told};
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

    /// Writes the fields of a response. What an upstream has written of its own limits goes: it knows less.
    pub(super) fn apply<'a>(
        &self,
        limits: impl Iterator<Item = &'a RateLimit> + Clone,
        standing: &Standing,
        fields: &mut impl Fields,
    ) {
        if self.policy.is_none() && !self.legacy {
            return;
        }
        for name in [RATELIMIT, RATELIMIT_POLICY, LEGACY_LIMIT, LEGACY_REMAINING, LEGACY_RESET] {
            if fields.fields().contains_key(&name) {
                fields.remove(&name);
            }
        }
        let limit = |told: &Told| limits.clone().nth(usize::from(told.index));
        if let Some(common) = &self.policy {
            let own = standing.is_overridden().then(|| policy(limits.clone().zip(standing.tiers())));
            if let Some(policy) = own.flatten().or_else(|| Some(common.clone())) {
                fields.set(RATELIMIT_POLICY, policy);
            }
            let value =
                standing.ietf().and_then(|told| value(|text| push_standing(text, limit(told)?, told)));
            if let Some(value) = value {
                fields.set(RATELIMIT, value);
            }
        }
        if let Some(told) = standing.legacy().filter(|_| self.legacy)
            && let Some(limit) = limit(told)
        {
            fields.set(LEGACY_LIMIT, HeaderValue::from(limit.size(told.tier)));
            fields.set(LEGACY_REMAINING, HeaderValue::from(told.remaining));
            if told.rank != Rank::Slots {
                fields.set(LEGACY_RESET, HeaderValue::from(seconds(told.full)));
            }
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
            if !text.is_empty() {
                text.extend_from_slice(b", ");
            }
            push_name(text, limit);
            text.extend_from_slice(b";q=");
            push_number(text, limit.size(tier));
            match limit.tier(tier) {
                Some(tier) => {
                    text.extend_from_slice(b";w=");
                    push_number(text, seconds(tier.gcra.fill()).max(1));
                }
                None => text.extend_from_slice(b";qu=\"concurrent-requests\""),
            }
        }
        Some(())
    })
}

/// `"per_user";r=50;t=30`
fn push_standing(text: &mut Vec<u8>, limit: &RateLimit, told: &Told) -> Option<()> {
    push_name(text, limit);
    text.extend_from_slice(b";r=");
    push_number(text, told.remaining);
    if told.rank != Rank::Slots {
        text.extend_from_slice(b";t=");
        push_number(text, if told.remaining > 0 { 0 } else { seconds(told.next) });
    }
    Some(())
}

/// Names of policies are letters, digits, `_` and `-`: nothing in them needs to be escaped in a string (RFC 9651 §3.3.3).
fn push_name(text: &mut Vec<u8>, limit: &RateLimit) {
    text.push(b'"');
    text.extend_from_slice(limit.label.as_bytes());
    text.push(b'"');
}

fn push_number(text: &mut Vec<u8>, number: u64) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn value(write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<HeaderValue> {
    let mut text = Vec::with_capacity(96);
    write(&mut text)?;
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok().filter(|value| !value.is_empty())
}
