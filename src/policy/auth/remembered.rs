//! What is remembered by what a client has sent: within so many bytes, and found by a hash that nobody outside can aim at.

use std::hash::Hash;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

/// A table that forgets what is used least. Its hash has a secret of the process; keys are compared in full.
pub(super) type Remembered<K, V, W> = Cache<K, V, W, SeedableRandomState>;

/// A table of at most so many bytes, as `weigher` counts them; `usual_bytes` is what an entry mostly takes, for a first guess at how
/// many there are.
pub(super) fn within<K, V, W>(bytes: u64, usual_bytes: u64, weigher: W) -> Remembered<K, V, W>
where
    K: Eq + Hash,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    let mut seed = [0; 8];
    // Where the system has no randomness there is still the table's shared seed.
    let _ = aws_lc_rs::rand::fill(&mut seed);
    let hasher = SeedableRandomState::with_seed(u64::from_ne_bytes(seed), SharedSeed::global_random());
    let items = usize::try_from(bytes / usual_bytes.max(1)).unwrap_or(usize::MAX).max(16);
    // A shard takes nothing that is larger than itself: few shards where there is little room.
    let shards = (bytes >> 18).clamp(1, 64).next_power_of_two();
    let mut options = OptionsBuilder::new();
    options.estimated_items_capacity(items).weight_capacity(bytes);
    options.shards(usize::try_from(shards).unwrap_or(1));
    match options.build() {
        Ok(options) => Cache::with_options(options, weigher, hasher, DefaultLifecycle::default()),
        Err(_) => Cache::with(items, bytes, weigher, hasher, DefaultLifecycle::default()),
    }
}
