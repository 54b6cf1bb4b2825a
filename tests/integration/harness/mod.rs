//! What the tests stand on: a real gateway process, real clients, real origins.

mod access;
mod certificates;
mod exchange;
pub(crate) mod frames;
mod gateway;
mod http2;
mod issuer;
mod ledger;
mod metrics;
mod nginx;
mod origin;
mod place;
mod provider;
mod redis;
pub(crate) mod tokens;
mod tools;
pub(crate) mod wire;

pub(crate) use certificates::{Authority, Pair, try_handshake};
pub(crate) use exchange::{Connection, Response, connect_from, get};
pub(crate) use gateway::Running;
pub(crate) use http2::Http2;
pub(crate) use issuer::{Issuer, Page, bearing};
pub(crate) use ledger::Ledger;
pub(crate) use metrics::Metrics;
pub(crate) use nginx::Nginx;
pub(crate) use origin::{Origin, Peer, Refusing, unanswering};
pub(crate) use place::Place;
pub(crate) use provider::Provider;
pub(crate) use redis::Redis;
pub(crate) use tools::{curl, eventually, find_tool, run};
