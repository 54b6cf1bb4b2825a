//! Where a request stands with its usage plan, and how clients are told.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::config::Headers;
use super::headers::{Binding, push_item, push_number, seconds};
use super::plan::Plan;
use super::quota::{Period, Usage};
use super::standing::Rank;
use super::{Gcra, Taken};

/// What a plan has made of one request so far.
#[derive(Clone, Debug)]
pub(super) struct PlanStanding {
    plan: Arc<Plan>,
    /// The throttle that holds on the route, and the quota's requests and seconds: what the plan says, whether it has been asked or not.
    pub(super) says: (Option<Gcra>, Option<(u64, u64)>),
    pub(super) throttle: Option<Taken>,
    pub(super) quota: Option<QuotaTold>,
}

/// Where a request stands with a quota.
#[derive(Clone, Copy, Debug)]
pub(super) struct QuotaTold {
    pub(super) usage: Usage,
    pub(super) period: Period,
    /// Seconds until the next period.
    pub(super) resets: u64,
    pub(super) refused: bool,
}

impl PlanStanding {
    pub(super) fn new(plan: &Arc<Plan>, says: (Option<Gcra>, Option<(u64, u64)>)) -> Self {
        Self { plan: Arc::clone(plan), says, throttle: None, quota: None }
    }

    /// Whether clients are told of it in this way.
    pub(super) fn is_told(&self, headers: Headers) -> bool {
        self.plan.is_visible() && self.plan.headers() == headers
    }

    /// Whether clients are told of it at all.
    pub(super) fn is_visible(&self) -> bool {
        self.plan.is_visible()
    }

    /// `"free";q=10;w=2, "free-quota";q=1000;w=86400`: both, whichever has refused, and also where something else did before them.
    pub(super) fn push_policy(&self, text: &mut Vec<u8>) {
        let (throttle, quota) = &self.says;
        let throttle = throttle.map(|gcra| (self.plan.label(), gcra.burst(), seconds(gcra.fill()).max(1)));
        // In a key's first period it has less, once that is known.
        let known = self.quota.as_ref().map(|told| (told.usage.allowed, told.period.seconds()));
        let quota = known.or(*quota).map(|(allowed, time)| (self.plan.quota_label(), allowed, time));
        for (name, size, window) in throttle.into_iter().chain(quota) {
            push_item(text, name);
            text.extend_from_slice(b";q=");
            push_number(text, size);
            text.extend_from_slice(b";w=");
            push_number(text, window);
        }
    }

    /// Of throttle and quota, what has refused, else what has less left.
    pub(super) fn binding(&self) -> Option<Binding<'_>> {
        let rank = |refused: bool| if refused { Rank::Refused } else { Rank::Tokens };
        let throttle = self.throttle.as_ref().map(|taken| {
            let (remaining, next) = (taken.remaining(), taken.next_token());
            Binding {
                name: self.plan.label(),
                size: taken.gcra().burst(),
                remaining,
                times: Some((if remaining > 0 { 0 } else { seconds(next) }, seconds(taken.full()))),
                order: (rank(!taken.passed()), remaining, Reverse(next)),
            }
        });
        let quota = self.quota.as_ref().map(|told| Binding {
            name: self.plan.quota_label(),
            size: told.usage.allowed,
            remaining: told.usage.left(),
            times: Some((told.resets, told.resets)),
            order: (rank(told.refused), told.usage.left(), Reverse(Duration::from_secs(told.resets))),
        });
        throttle.into_iter().chain(quota).min_by_key(|binding| binding.order)
    }
}
