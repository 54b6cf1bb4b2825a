//! Portcullis: an edge gateway on Pingora, one binary between the internet and a company's APIs.
//!
//! The modules stand in the order in which a request meets them; imports run one way only, from the
//! top of this list to its end (`tests/layering.rs` holds them to it).
//!
//! ```text
//!  cli         what was typed
//!  server      the rim: sockets, TLS, accepting, heads, draining, reloading, the status address
//!  proxy       the one place that knows Pingora's session
//!  gateway     the compiled configuration, and the one way of every request through it
//!  ── route, policy, upstream, observe: rooms that do not know each other
//!  ── state, egress: what outlives a snapshot; the one client for fetches of our own
//!  reply       everything the gateway may answer itself
//!  template    text with {variables}, rendered from a record
//!  record      the facts of one request
//!  ── canonical, client, framing, proxy_protocol: the one form of a request, whose it is, and where it ends
//!  ── identity, request: plain views
//!  config      machinery: loading, places, units, errors
//!  descriptors which file descriptors may be taken for what
//! ```

pub mod canonical;
pub mod cli;
pub mod client;
pub mod config;
pub mod descriptors;
pub mod egress;
pub mod framing;
pub mod gateway;
pub mod identity;
pub mod observe;
pub mod policy;
pub mod proxy;
pub mod proxy_protocol;
pub mod record;
pub mod reply;
pub mod request;
pub mod route;
pub mod server;
pub mod state;
pub mod template;
pub mod upstream;
