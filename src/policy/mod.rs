//! The policies. Each answers yes or no from plain data; none knows another.

pub mod access;
pub mod auth;
pub mod cors;
pub mod headers;
pub mod rate_limit;
mod turn;
mod verdict;

pub use turn::{Turn, Waiting};
pub use verdict::{Effects, Mode, Outcome, Step, Verdict};
