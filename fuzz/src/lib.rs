//! What the fuzz targets do with their bytes. Each is a plain function that panics where a promise does not hold: `targets/` gives
//! it to libFuzzer, and `tests/fuzz_seeds.rs` of the gateway itself calls it with every seed, on stable Rust.
//!
//! Most promises are held against an oracle: the same question answered once more, as naively as can be, from the RFCs and not
//! from the code.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a panic is how a target tells what it has found"
)]

pub mod agreement;
pub mod chunked;
pub mod configuration;
pub mod connection;
pub mod fields;
pub mod forwarded;
pub mod frames;
pub mod host;
pub mod origin;
pub mod path;
pub mod proxy_header;
pub mod rig;
pub mod sanitiser;
pub mod script;
pub mod token;

/// A target: called with whatever bytes, panics where a promise is broken.
pub type Run = fn(&[u8]);

/// Every target by its name, which is also that of its file in `targets/` and of its folder in `seeds/`.
pub const TARGETS: &[(&str, Run)] = &[
    ("agreement", agreement::run),
    ("chunked", chunked::run),
    ("configuration", configuration::run),
    ("connection", connection::run),
    ("forwarded", forwarded::run),
    ("frames", frames::run),
    ("host", host::run),
    ("path", path::run),
    ("proxy_header", proxy_header::run),
    ("sanitiser", sanitiser::run),
    ("token", token::run),
];
