//! What is told: the access log, metrics, the operational log.

mod access_log;
mod config;
mod metrics;
mod operational;
mod shard;
mod sink;
mod telling;

pub use config::{Access, AccessTarget, Config, Format};
pub use metrics::{Counter, Gauge, Metrics, Polled, Sample};
pub use operational::{Settings, flush, let_a_thread_write};
pub use telling::{GATEWAY, Retry, Telling};
