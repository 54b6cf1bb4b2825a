//! The rim, in process: real sockets, raw clients that never retry.

mod conn;
mod http1;
mod http2;
mod life;
mod rig;
mod tls;
