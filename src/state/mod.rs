//! What outlives a snapshot, and what outlives the process.

pub mod private;
pub mod redis;
mod store;

pub use store::{Access, Store, Unusable};

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
    /// What waits for the process to be the user that it will be; none once it is.
    waiting: Mutex<Waiting>,
}

/// Something to be opened: what is wrong with it comes back as an operator reads it.
type Opening = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// Openings that wait, until nothing waits any more.
#[derive(Default)]
enum Waiting {
    #[default]
    Nothing,
    For(Vec<Opening>),
    Over,
}

impl Live {
    /// With the directory for what outlives the process.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), ..Self::default() }
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

    /// Opens something in the state directory: at once on a reload, else when the process has become the user who owns it
    /// ([`Live::settle`]). Nothing is opened in `check` and `explain`.
    ///
    /// # Errors
    /// What `open` says, where it was called at once.
    pub fn open_settled(
        &self,
        open: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *waiting {
            Waiting::Nothing => *waiting = Waiting::For(vec![Box::new(open)]),
            Waiting::For(openings) => openings.push(Box::new(open)),
            Waiting::Over => {
                drop(waiting);
                return open();
            }
        }
        Ok(())
    }

    /// Opens what waits: the process is the user that it will be, and the state directory is there.
    ///
    /// # Errors
    /// What could not be opened, as an operator reads it.
    pub fn settle(&self) -> Result<(), String> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let was = std::mem::replace(&mut *waiting, Waiting::Over);
        drop(waiting);
        match was {
            Waiting::For(openings) => openings.into_iter().try_for_each(|open| open()),
            Waiting::Nothing | Waiting::Over => Ok(()),
        }
    }

    /// The thing of this kind and definition, if there is one.
    pub fn find<T: Any + Send + Sync>(&self, kind: &'static str, key: &str) -> Option<Arc<T>> {
        let things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        things.get(&(kind, key.to_owned())).cloned().and_then(|thing| thing.downcast::<T>().ok())
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

    /// Drops this one thing where nobody else holds it.
    pub fn release(&self, kind: &'static str, key: &str) {
        let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
        let definition = (kind, key.to_owned());
        if things.get(&definition).is_some_and(|thing| Arc::strong_count(thing) == 1) {
            things.remove(&definition);
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn what_is_opened_waits_until_the_process_has_settled() {
        let live = Live::default();
        let opened = Arc::new(AtomicUsize::new(0));
        let open = |result: Result<(), String>| {
            let opened = Arc::clone(&opened);
            live.open_settled(move || {
                opened.fetch_add(1, Ordering::Relaxed);
                result
            })
        };
        assert_eq!(open(Ok(())), Ok(()));
        assert_eq!(open(Err("shut".into())), Ok(()));
        assert_eq!(open(Ok(())), Ok(()));
        assert_eq!(opened.load(Ordering::Relaxed), 0);
        assert_eq!(live.settle(), Err("shut".to_owned()));
        assert_eq!(opened.load(Ordering::Relaxed), 2, "the first that fails is the end");
        assert_eq!(open(Err("shut".into())), Err("shut".to_owned()), "at once from now on");
        assert_eq!(live.settle(), Ok(()));
    }
}
