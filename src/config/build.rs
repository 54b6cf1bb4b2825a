//! What a compile step is given: a place for its errors, and the way to files.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use openssl::sha::Sha256;

use super::{Errors, Site, Sources};

/// The largest file that is read: a configuration, a certificate, a list of addresses.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The files a configuration stands on. Each one read is watched: when it changes, the gateway reloads.
#[derive(Clone, Default)]
pub struct Files {
    read: BTreeSet<PathBuf>,
    hash: Sha256,
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
    /// As [`std::fs::read`]; and for a file of more than 16 MiB.
    pub fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        self.read.insert(path.to_path_buf());
        // Opening a pipe waits for whoever writes into it, for ever perhaps, and what is read is gone at the next reload. One that a shell
        // has opened for us (`/dev/fd/63`) is another matter.
        if std::fs::metadata(path)?.file_type().is_fifo()
            && !path.starts_with("/dev")
            && !path.starts_with("/proc")
        {
            return Err(io::Error::other("it is a pipe, which cannot be read again"));
        }
        let file = File::open(path)?;
        // Whole at once: a key that is read must not leave its beginning behind in smaller buffers.
        let length = file.metadata()?.len().min(FILE_BYTES_MAX);
        let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.note(&content);
        Ok(content)
    }

    /// Reads a text, and says in an operator's words what is wrong with it.
    pub(super) fn read_text(&mut self, path: &Path) -> Result<String, Problem> {
        let content = self.read(path).map_err(Problem::Io)?;
        String::from_utf8(content).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let good = error.as_bytes().get(..at).unwrap_or_default();
            let line = 1 + good.iter().filter(|&&byte| byte == b'\n').count();
            let start = good.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            let before = String::from_utf8_lossy(good.get(start..).unwrap_or_default());
            Problem::NotUtf8 { line, column: 1 + before.chars().count() }
        })
    }

    /// Remembers a file or directory without reading it.
    pub fn watch(&mut self, path: &Path) {
        self.read.insert(path.to_path_buf());
    }

    /// Every path read so far.
    pub fn watched(&self) -> &BTreeSet<PathBuf> {
        &self.read
    }

    /// Makes something that is no file part of the hash: the value of an environment variable.
    pub(super) fn note(&mut self, content: &[u8]) {
        // The length first: else two files could be cut elsewhere and hash alike.
        self.hash.update(&(content.len() as u64).to_be_bytes());
        self.hash.update(content);
    }

    /// SHA-256 of everything read so far, in hex; paths are no part of it, so equal configurations in two places are
    /// equal.
    pub fn hash(&self) -> Box<str> {
        let mut hex = String::with_capacity(64);
        for byte in self.hash.clone().finish() {
            let _ = write!(hex, "{byte:02x}");
        }
        hex.into()
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("read", &self.read).field("hash", &self.hash()).finish()
    }
}

/// Why a file could not be read, in an operator's words.
pub fn unreadable(error: &io::Error) -> Cow<'static, str> {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::IsADirectory => "it is a directory".into(),
        io::ErrorKind::FileTooLarge => "larger than 16 MiB".into(),
        _ => error.to_string().into(),
    }
}

/// Why a text could not be read.
#[derive(Debug)]
pub(super) enum Problem {
    Io(io::Error),
    /// Both from 1.
    NotUtf8 {
        line: usize,
        column: usize,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 { .. } => f.write_str("not UTF-8"),
            Self::Io(error) => f.write_str(&unreadable(error)),
        }
    }
}

/// What a compile step is given beside its configuration.
#[derive(Debug, Default)]
pub struct Build {
    /// What is wrong so far.
    pub errors: Errors,
    /// The way to files.
    pub files: Files,
    /// The text of the configuration's files: what errors quote.
    pub sources: Sources,
    /// The names of the usage plans that there are.
    pub plans: BTreeSet<String>,
}

#[cfg(test)]
mod tests {
    use super::Files;

    #[test]
    fn the_hash_tells_contents_apart_and_is_blind_to_paths() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (name, text) in [("a", "one"), ("b", "one"), ("c", "on"), ("d", "e")] {
            std::fs::write(path(name), text).unwrap();
        }
        let hash = |names: &[&str]| {
            let mut files = Files::default();
            names.iter().for_each(|name| assert!(files.read(&path(name)).is_ok()));
            files.hash()
        };
        assert_eq!(hash(&["a"]).len(), 64);
        assert_eq!(hash(&["a"]), hash(&["b"]));
        assert_ne!(hash(&["a"]), hash(&["c"]));
        assert_ne!(hash(&["a"]), hash(&["c", "d"]), "cut elsewhere");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_watched_all_the_same() {
        let mut files = Files::default();
        let path = std::path::Path::new("no/such/file");
        assert!(files.read(path).is_err());
        assert!(files.watched().contains(path));
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = Files::default().read(&path).unwrap_err();
        assert_eq!(error.to_string(), "it is a pipe, which cannot be read again");
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let error = Files::default().read(std::path::Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
    }
}
