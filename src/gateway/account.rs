//! The user that the gateway becomes when it is started as root.

use nix::unistd::User;

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

/// Looks `server.user` up. None for `none`, and when `build.errors` says why.
pub(super) fn compile(written: &OrNone<Spanned<String>>, build: &mut Build) -> Option<Account> {
    let written = written.as_option()?;
    let mut refuse = |cause: String, cure: &str| {
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
