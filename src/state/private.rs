//! Files of the state directory that are for the gateway's eyes alone: keys, and what keys are hashed with.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Opens one to be read. Follows no link, and waits for nobody at the other end of a pipe.
///
/// # Errors
/// It cannot be opened, is no plain file, may be read or written by others than its owner, or is larger than `bytes_max`.
pub fn open(path: &Path, bytes_max: u64) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    if found.mode() & 0o077 != 0 {
        return Err(io::Error::other("others than its owner may read or write it"));
    }
    if found.len() > bytes_max {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(file)
}

/// Writes one beside, under this name, and renames it: a reader never sees half of it, nor does a crash leave that. What a crash left
/// beside goes first.
///
/// # Errors
/// Those of `write`, or it cannot be made; nothing is left beside then.
pub fn replace<T>(
    path: &Path,
    beside: &Path,
    write: impl FnOnce(&mut File) -> io::Result<T>,
) -> io::Result<T> {
    let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
    match fs::remove_file(beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    let written = write(&mut file).and_then(|given| {
        file.sync_all()?;
        fs::rename(beside, path)?;
        File::open(directory)?.sync_all()?;
        Ok(given)
    });
    if written.is_err() {
        // A disk that is full shall not stay so by what is of no use.
        let _ = fs::remove_file(beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn one_is_read_where_it_is_plain_small_and_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own");
        let write = |text: &str| {
            replace(&path, &directory.path().join("own.new"), |file| file.write_all(text.as_bytes()))
        };
        write("first").unwrap();
        write("second").unwrap();
        let mut text = String::new();
        open(&path, 6).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "second");
        assert_eq!(open(&path, 5).unwrap_err().kind(), ErrorKind::FileTooLarge);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(open(&path, 6).is_err());
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(open(&link, 6).is_err() && open(directory.path(), 6).is_err());
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        assert!(open(&pipe, 6).is_err());
    }

    #[test]
    fn what_fails_changes_nothing_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (path, beside) = (directory.path().join("own"), directory.path().join("own.new"));
        fs::write(&beside, "left by a crash").unwrap();
        replace(&path, &beside, |file| file.write_all(b"whole")).unwrap();
        let failed: io::Result<()> = replace(&path, &beside, |file| {
            file.write_all(b"half")?;
            Err(ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(!beside.exists());
    }
}
