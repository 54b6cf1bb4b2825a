//! The snapshot now in force, as one worker sees it.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Gateway;

/// A handle on the snapshot in force. Each worker has its own, so that workers do not share the cell that is read for every
/// request; clones of a handle are the same cell. A reload stores into all of them.
#[derive(Clone)]
pub struct Snapshots {
    current: Arc<ArcSwap<Gateway>>,
}

impl Snapshots {
    /// A cell that holds `gateway`.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { current: Arc::new(ArcSwap::new(gateway)) }
    }

    /// The snapshot in force: a request takes it once and holds it to its end. Never blocks.
    pub fn load(&self) -> Arc<Gateway> {
        self.current.load_full()
    }

    /// Puts another snapshot in force; requests under way keep theirs.
    pub fn store(&self, gateway: Arc<Gateway>) {
        self.current.store(gateway);
    }
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshots").field("generation", &self.current.load().generation).finish()
    }
}
