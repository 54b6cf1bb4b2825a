//! What is told: the access log, metrics, the operational log.

mod config;

pub use config::{Access, AccessTarget, Config, Format};
