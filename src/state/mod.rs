//! What outlives a snapshot, and later a process.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::runtime::Handle;

/// A kind, and how the thing was defined.
type Definition = (&'static str, String);
/// Whatever it is, its kind's finder knows the type.
type Thing = Arc<dyn Any + Send + Sync>;

/// Live things by kind and definition: a reload that finds an equal definition finds the same thing again.
///
/// Entries nobody else holds are dropped by [`Live::sweep`], some time after a reload.
#[derive(Default)]
pub struct Live {
    directory: PathBuf,
    things: Mutex<HashMap<Definition, Thing>>,
    runtime: OnceLock<Handle>,
}

impl Live {
    /// With the directory for what outlives the process.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), things: Mutex::default(), runtime: OnceLock::new() }
    }

    /// The directory for what outlives the process (`server.state`).
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives background work (names, health checks) the runtime to live on. Said once, before the first snapshot is
    /// compiled; a second word is ignored.
    pub fn set_runtime(&self, runtime: Handle) {
        let _ = self.runtime.set(runtime);
    }

    /// Where background work lives; none in `check` and `explain`, which start none.
    pub fn runtime(&self) -> Option<&Handle> {
        self.runtime.get()
    }

    /// The thing of this kind and definition; made if there is none yet.
    pub fn find_or<T: Any + Send + Sync>(
        &self,
        kind: &'static str,
        key: &str,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        let found = things.get(&(kind, key.to_owned())).cloned();
        if let Some(found) = found.and_then(|thing| thing.downcast::<T>().ok()) {
            return found;
        }
        let made = Arc::new(make());
        things.insert((kind, key.to_owned()), Arc::<T>::clone(&made));
        made
    }

    /// Drops what nobody else holds.
    pub fn sweep(&self) {
        self.things
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, thing| Arc::strong_count(thing) > 1);
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("directory", &self.directory).finish_non_exhaustive()
    }
}
