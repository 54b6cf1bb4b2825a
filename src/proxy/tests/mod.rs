//! The gate between real sockets: a client over TCP, a gateway, and origins that misbehave on purpose.

mod failing;
mod forwarding;
mod support;
mod switching;
