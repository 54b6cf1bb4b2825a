//! What a compile step is given: a place for its errors, and the way to files.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::{Errors, Site};

/// The files a configuration stands on. Each one read is watched: when it changes, the gateway reloads.
#[derive(Debug, Default)]
pub struct Files {
    read: BTreeSet<PathBuf>,
}

impl Files {
    /// A relative path starts at the directory of the file that names it.
    pub fn resolve(&self, site: &Site, path: &str) -> PathBuf {
        let path = Path::new(path);
        if path.is_absolute() { path.to_path_buf() } else { site.directory().join(path) }
    }

    /// Reads a file and remembers that the configuration depends on it, whether or not it could be read.
    ///
    /// # Errors
    /// As [`std::fs::read`].
    pub fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        self.read.insert(path.to_path_buf());
        std::fs::read(path)
    }

    /// Remembers a file or directory without reading it.
    pub fn watch(&mut self, path: &Path) {
        self.read.insert(path.to_path_buf());
    }

    /// Every path read so far.
    pub fn watched(&self) -> &BTreeSet<PathBuf> {
        &self.read
    }
}

/// What a compile step is given beside its configuration.
#[derive(Debug, Default)]
pub struct Build {
    /// What is wrong so far.
    pub errors: Errors,
    /// The way to files.
    pub files: Files,
}
