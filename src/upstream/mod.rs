//! Upstreams: pools of servers, their health, names, timeouts and retries.

mod config;

pub use config::{
    Balance, Config, Health, Host, KeepAlive, Retries, RetryOn, Server, Timeouts, Tls, UpstreamProtocol,
};
