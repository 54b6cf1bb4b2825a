//! The snapshot in force.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Gateway;

/// The snapshot in force, shared by whoever reads it and whoever replaces it.
#[derive(Clone, Debug)]
pub struct Snapshots(Arc<ArcSwap<Gateway>>);

impl Snapshots {
    /// Begins with this one.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self(Arc::new(ArcSwap::new(gateway)))
    }

    /// The one in force now.
    pub fn load(&self) -> Arc<Gateway> {
        self.0.load_full()
    }
}
