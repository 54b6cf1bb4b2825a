//! One shard a worker: what workers write all the time is never shared by two cores.

use std::sync::OnceLock;
use std::thread::available_parallelism;

/// One value a worker, made when it is first used: ten thousand routes without traffic cost a pointer each. Where there are
/// more workers than cores some share one, so what it holds must be safe to share.
#[derive(Debug)]
pub(super) struct Shards<T>(Box<[OnceLock<Box<Padded<T>>>]>);

/// A value alone on its cache lines. 128 bytes: cores fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T> Default for Shards<T> {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, usize::from).clamp(1, 256);
        Self((0..cores).map(|_| OnceLock::new()).collect())
    }
}

impl<T: Default> Shards<T> {
    /// All made at once.
    pub(super) fn made() -> Self {
        let own = Self::default();
        for worker in 0..own.0.len() {
            own.of(worker);
        }
        own
    }

    /// The worker's own.
    pub(super) fn of(&self, worker: usize) -> &T {
        #[expect(
            clippy::indexing_slicing,
            reason = "there is at least one shard, and the index is taken modulo"
        )]
        let shard = &self.0[worker % self.0.len()];
        &shard.get_or_init(Box::default).0
    }
}

impl<T> Shards<T> {
    /// Those that have been used.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|shard| shard.get().map(|padded| &padded.0))
    }
}
