//! The gate between real sockets: a client over TCP, a gateway, and origins that misbehave on purpose.

mod failing;
mod forwarding;
mod multiplexed;
mod secure;
mod soak;
mod support;
mod switching;
