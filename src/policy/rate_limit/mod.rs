//! How often a key may ask.
//!
//! The engine is plain code without a configuration: [`Gcra`] is what one key may do, [`Buckets`] is one limit's bounded table,
//! [`Screen`] is the estimator that counts for keys which have no room there, [`HashKey`] makes of a key of any length the 128
//! bits by which it is found.

mod buckets;
mod gcra;
mod hash;
mod saved;
mod screen;

pub use buckets::{Buckets, Figures};
pub use gcra::{Gcra, Nanos, Taken};
pub use hash::{HashKey, KeyHash, KeyHasher};
pub use saved::Saved;
pub use screen::Screen;
