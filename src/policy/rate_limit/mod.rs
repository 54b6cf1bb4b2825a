//! How often, and how many at once, requests of one key may come.
//!
//! The engine is plain code without a configuration: [`Gcra`] is what one key may do, [`Buckets`] is one limit's bounded table,
//! [`Screen`] is the estimator that counts for keys which have no room there, [`HashKey`] makes of a key of any length the 128
//! bits by which it is found.
//!
//! On it stands the policy: a [`RateLimit`] is one entry of `policies.rate_limits`; [`Limits`] are those of a route, asked at
//! three [`Place`]s; a [`Standing`] is what they have made of one request, from the door to its record.
//!
//! A [`Plan`] is one entry of `policies.plans`: a throttle of the same make for each API key in it, and a quota, whose counts
//! outlive the process ([`quota`]).

mod buckets;
mod class;
mod concurrency;
pub mod config;
mod cost;
pub mod fleet;
mod gcra;
mod hash;
mod headers;
mod key;
mod limit;
mod limits;
mod penalty;
mod plan;
pub mod plan_config;
mod plan_quota;
mod plan_standing;
#[cfg(test)]
mod plan_tests;
pub mod quota;
mod saved;
mod screen;
mod short;
mod standing;
mod table;
#[cfg(test)]
mod tests;

pub use buckets::{Buckets, Figures};
pub use config::Config;
pub use fleet::{Fleet, FleetFigures, LeaseFigures};
pub use gcra::{Gcra, Nanos, Taken};
pub use hash::{HashKey, KeyHash, KeyHasher};
pub use key::{Ahead, Facts, Reach};
pub use limit::RateLimit;
pub use limits::{Limits, Place};
pub use penalty::PenaltyFigures;
pub use plan::{Plan, Plans, UnknownPlan};
pub use plan_quota::Quota as PlanQuota;
pub use quota::{Quotas, Used, Uses};
pub use saved::{Kept, LimitsFile, Saved};
pub use screen::Screen;
pub use standing::Standing;

/// The most limits that are asked at one place: on the edge, on a route.
pub const LIMITS_MAX: usize = 8;
