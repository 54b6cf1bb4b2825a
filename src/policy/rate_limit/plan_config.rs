//! What is written under `policies.plans`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::{Headers, Scope};
use super::plan_quota::LEASES_MIN;
use super::quota::Per;
use crate::config::units::{Rate, Size, Time};
use crate::config::{OrNone, Spanned};
use crate::policy::Mode;

/// What API keys of a plan may do, each for itself, on every route that they open: `portcullis keys create --plan NAME`.
///
/// `portcullis keys set --id ID --plan NAME` moves a key. What a token names as its plan (`plan_claim`) is a word for conditions and limits
/// alone: no throttle and no quota bounds it.
///
/// A key whose plan is not here is refused (403). A plan that is only a word for conditions and limits is `{throttle: none}`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How fast requests may come: 429 above it. `none`: as fast as they like.
    #[serde(default)]
    pub throttle: Option<OrNone<Spanned<ThrottleConfig>>>,
    /// How many requests may come a day, week or month: 429 above it. `none`: any number. What is refused, by the plan or by anything
    /// before it, is not counted.
    #[serde(default)]
    pub quota: Option<OrNone<Spanned<QuotaConfig>>>,
    /// Routes with a throttle of their own, by name: requests there count for it and not for the plan's. The quota is one for all.
    #[serde(default)]
    pub routes: BTreeMap<String, Spanned<RouteConfig>>,
    /// How clients are told: as `NAME` and `NAME-quota` in `RateLimit` and `RateLimit-Policy` (`ietf`), by the more binding of both in
    /// `X-RateLimit-Limit`, `-Remaining`, `-Reset` (`legacy`), or not at all (`hidden`).
    #[serde(default)]
    pub headers: Headers,
    /// The memory of the table of throttled keys, taken whole at the load; a key takes about 18 bytes, and only while it has spent
    /// tokens.
    #[serde(default = "memory")]
    pub memory: Spanned<Size>,
    /// Whether a refusal is carried out (`enforce`) or only noted (`shadow`); in shadow, requests above the quota are counted too.
    #[serde(default)]
    pub mode: Mode,
}

impl Config {
    /// Whether all nodes count together for some of it.
    pub fn is_of_fleet(&self) -> bool {
        let own = self.throttle.iter().chain(self.routes.values().map(|route| &route.throttle));
        let quota = self.quota.as_ref().and_then(OrNone::as_option);
        own.filter_map(OrNone::as_option).any(|throttle| throttle.scope == Scope::Fleet)
            || quota.is_some_and(|quota| quota.scope == Scope::Fleet)
    }
}

fn memory() -> Spanned<Size> {
    Spanned::unwritten(Size(1 << 20))
}

impl Config {
    /// Whether it throttles somebody somewhere: then it has a table.
    pub fn throttles(&self) -> bool {
        let is_some = |throttle: &OrNone<_>| throttle.as_option().is_some();
        self.throttle.as_ref().is_some_and(is_some)
            || self.routes.values().any(|route| is_some(&route.throttle))
    }

    /// The memory that it takes at the most, in bytes: the table of throttled keys, and leases of each throttle and of the quota that is the
    /// fleet's.
    pub fn bytes_most(&self) -> u64 {
        let throttles = self.throttle.iter().chain(self.routes.values().map(|route| &route.throttle));
        let throttles = throttles.filter_map(OrNone::as_option);
        let leased = throttles.filter(|throttle| throttle.scope == Scope::Fleet).count() as u64;
        let quota = self.quota.as_ref().and_then(OrNone::as_option);
        let quota = quota.filter(|quota| quota.scope == Scope::Fleet);
        let quota = quota.map_or(0, |_| self.memory.value.0.max(LEASES_MIN as u64));
        let tables = u64::from(self.throttles()).saturating_add(leased);
        self.memory.value.0.saturating_mul(tables).saturating_add(quota)
    }

    /// What clients know the plan `name` by.
    pub fn labels(&self, name: &str) -> Vec<String> {
        let throttle = self.throttles().then(|| name.to_owned());
        let quota = self.quota.as_ref().and_then(OrNone::as_option);
        throttle.into_iter().chain(quota.map(|_| format!("{name}-quota"))).collect()
    }
}

/// How fast requests of a key may come.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThrottleConfig {
    /// How fast spent tokens come back: `5/1s`. A request takes one.
    pub rate: Spanned<Rate>,
    /// How many tokens there are at the most, to be spent at once. Default: the rate's count.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<Spanned<u32>>,
    /// Who counts: each `node` by itself, or the `fleet` (`server.fleet`). While its store does not answer, each node has its share.
    #[serde(default)]
    pub scope: Scope,
    /// With `scope: fleet`: whether the store is asked for every request.
    #[serde(default)]
    pub strict: Option<Spanned<bool>>,
}

/// What holds on one route.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// How fast requests may come there. `none`: as fast as they like.
    pub throttle: OrNone<Spanned<ThrottleConfig>>,
}

/// How many requests of a key may come.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaConfig {
    /// How many.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64))]
    pub limit: Spanned<u64>,
    /// In what: `DAY`, `WEEK` (from Monday) or `MONTH`, by the clocks of `time_zone`. What was used is counted by the moment at which a
    /// period begins: another `per` or `time_zone` is, from the reload on, a new period with a whole quota.
    pub per: Per,
    /// So many less in the first period in which a key is used in the plan: for one that begins late in it.
    #[serde(default)]
    #[schemars(range(max = 1_000_000_000_000_u64))]
    pub offset: Option<Spanned<u64>>,
    /// Whose midnight it is: `UTC`, or an IANA name such as `Europe/Berlin`.
    #[serde(default)]
    pub time_zone: Option<Spanned<String>>,
    /// What a power cut may cost. `batched`: what `flush` and `flush_requests` say. `strict`: nothing, and not one request more passes
    /// than `limit` says in however many processes; each request waits for the disk, all that come meanwhile together. With `scope: fleet`
    /// each waits for the fleet's store, up to `wait`, and passes only once that has counted it: nothing is lost that the store does not lose.
    #[serde(default)]
    pub durable: Durable,
    /// Who counts: each `node`, with the processes on its state directory, or the `fleet` (`server.fleet`). While its store does not answer,
    /// each node has its part of what was left, but for `durable: strict`. What a node let pass is in its own store, too: for `portcullis usage`.
    #[serde(default)]
    pub scope: Scope,
    /// With `scope: fleet`: whether the store is asked for every request.
    #[serde(default)]
    pub strict: Option<Spanned<bool>>,
    /// `batched`: what was counted is written within this time, `10ms` to `60s`. Default: 1s.
    #[serde(default)]
    pub flush: Option<Spanned<Time>>,
    /// `batched`: and as soon as it is so many requests of the plan. Default: 1000.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub flush_requests: Option<Spanned<u32>>,
    /// How long a request waits for the store, `1ms` to `10s`. Without an answer until then it is refused where `durable` is `strict`
    /// (503), and counted in memory alone where it is `batched`. A `batched` request waits for the fleet's store 5 ms at the most. Default: 1s.
    #[serde(default)]
    pub wait: Option<Spanned<Time>>,
}

/// What a power cut may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durable {
    /// What was counted within the last second, by default.
    #[default]
    Batched,
    /// Nothing.
    Strict,
}
