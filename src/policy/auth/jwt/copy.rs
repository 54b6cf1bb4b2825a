//! Copies in `server.state` of what was fetched, an issuer's keys and lists of revoked tokens, so that a restart verifies while nobody
//! can be asked.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::key::sha256;

/// How much larger a file is read than its document may be: as a JSON text that may be twice as long, and what stands beside it is short.
const LARGER: u64 = 3;

/// What is kept of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Whose: the whole definition of the source. A file that says another is not used.
    pub(super) source: String,
    /// When it was last known to be the source's, in seconds since 1970.
    pub(super) confirmed: u64,
    /// For how many seconds it was good then.
    pub(super) fresh: u64,
    /// What the source calls this state of it.
    pub(super) etag: Option<String>,
    /// The document as it came: it is judged again when it is read.
    pub(super) document: String,
}

/// The file of one source: named by its hash, so that no source's name leads anywhere.
pub(super) fn path(state: &Path, folder: &str, source: &str) -> PathBuf {
    let name: String = sha256(source.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    state.join(folder).join(format!("{name}.json"))
}

/// The copy, of a document of at most so many bytes; none where there is none. One that is not of this source, or no copy at all, is told
/// and not used.
pub(super) fn read(path: &Path, source: &str, bytes_max: u64) -> Option<Kept> {
    let found = open(path, LARGER * bytes_max).and_then(|text| {
        let kept: Kept = serde_json::from_slice(&text).map_err(|_| io::Error::other("it is damaged"))?;
        if kept.source != source || kept.document.len() as u64 > bytes_max {
            return Err(io::Error::other("it is not a copy of this source"));
        }
        Ok(kept)
    });
    match found {
        Ok(kept) => Some(kept),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            log::warn!("`{}` is not used: {error}", path.display());
            None
        }
    }
}

fn open(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut text)?;
    if text.len() as u64 > bytes_max { Err(ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

/// Writes it beside and renames it: a reader never sees half a copy, nor does a crash leave one.
///
/// # Errors
/// The directory cannot be written.
pub(super) fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const BYTES_MAX: u64 = 1 << 20;

    fn kept() -> Kept {
        Kept {
            source: "discovery https://a.example".into(),
            confirmed: 1_795_550_400,
            fresh: 900,
            etag: Some("\"1\"".into()),
            document: "{\"keys\": []}".into(),
        }
    }

    #[test]
    fn a_copy_is_read_as_it_was_written_and_by_nobody_else() {
        let state = tempfile::tempdir().unwrap();
        let path = path(state.path(), "issuers", &kept().source);
        assert_eq!(read(&path, &kept().source, BYTES_MAX), None);
        write(&path, &kept()).unwrap();
        write(&path, &kept()).unwrap();
        assert_eq!(read(&path, &kept().source, BYTES_MAX), Some(kept()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing is left beside it: {names:?}");
    }

    #[test]
    fn what_is_no_copy_of_this_source_is_not_used() {
        let state = tempfile::tempdir().unwrap();
        let path = path(state.path(), "issuers", "discovery https://b.example");
        write(&path, &kept()).unwrap();
        assert_eq!(read(&path, "discovery https://b.example", BYTES_MAX), None, "another's");
        for text in ["", "{", "[]", "{\"source\": 1}"] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path, &kept().source, BYTES_MAX), None, "{text}");
        }
        fs::write(&path, vec![b' '; usize::try_from(LARGER * BYTES_MAX).unwrap() + 1]).unwrap();
        assert_eq!(read(&path, &kept().source, BYTES_MAX), None, "too long");
    }
}
