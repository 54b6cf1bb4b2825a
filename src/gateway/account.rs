//! The user that the gateway becomes when it is started as root.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Uid, User};

use super::document::Document;
use crate::config::{Build, OrNone, Spanned};

/// A user of this machine, found at load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// As written.
    pub name: Box<str>,
    /// Its user id; never 0.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

impl Account {
    /// That of `server.user`. None for `none`, and when `build.errors` says why.
    pub fn of(document: &Document, build: &mut Build) -> Option<Self> {
        compile(&document.server.user, build)
    }

    /// Whose a file or directory is. None for root's, for one that is not there, and for a user without a name.
    pub fn owner_of(path: &Path) -> Option<Self> {
        let uid = std::fs::metadata(path).ok()?.uid();
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten().filter(|user| !user.uid.is_root())?;
        Some(Self { name: user.name.into(), uid: user.uid.as_raw(), gid: user.gid.as_raw() })
    }
}

/// Looks `server.user` up. None for `none`, and when `build.errors` says why.
pub(super) fn compile(written: &OrNone<Spanned<String>>, build: &mut Build) -> Option<Account> {
    let written = written.as_option()?;
    let mut refuse = |cause: String, cure: &'static str| {
        build.errors.push(&written.site, "server.user", cause, cure);
        None
    };
    let name = written.value.as_str();
    if name.is_empty() || name.contains('\0') {
        return refuse("the user has no name".to_owned(), "name a user of this machine, or write `none`");
    }
    let user = match User::from_name(name) {
        Ok(Some(user)) => user,
        Ok(None) => {
            return refuse(
                format!("there is no user `{name}` on this machine"),
                "make it (`useradd --system NAME`), or name another; `none` stays what it is started as",
            );
        }
        Err(error) => {
            return refuse(
                format!("the user `{name}` cannot be looked up: {}", error.desc()),
                "check /etc/passwd and /etc/nsswitch.conf, or write `none`",
            );
        }
    };
    if user.uid.is_root() {
        return refuse(
            format!("`{name}` is root: nothing would be given up"),
            "name a user without rights of its own, or write `none` to stay root",
        );
    }
    Some(Account { name: name.into(), uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}
