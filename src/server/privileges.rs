//! What the process gives up before it serves: new privileges, core dumps, root.
//!
//! Addresses are bound and keys are read as root; everything that is made afterwards (the state directory, logs, generated
//! certificates) is made by the user the process has become. While it is root it writes only where nobody else could have put a
//! trap in its way: see [`prepare`].

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, fchown, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{self, Gid, Uid, getgrouplist, getresgid, getresuid};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, chownat, fstat, openat};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{no_new_privs, set_no_new_privs};

use crate::gateway::Account;

/// Where the kernel tells of every thread.
const TASKS: &str = "/proc/self/task";

/// Takes from the whole process what it never needs: privileges by `execve`, core dumps (keys are in memory), and the soft limit
/// of open files, which is raised to the hard one. Called first, while there is one thread.
///
/// `no_new_privs` belongs to a thread and is inherited from the one that starts another; the allocator's own thread is there
/// before `main`. Where one lacks it, the program is executed again, in the same process: what is executed has it from the start.
///
/// # Errors
/// The system refuses; nothing should be served then.
pub fn harden() -> io::Result<()> {
    let had = no_new_privs()?;
    set_no_new_privs(true)?;
    if !had && tasks("NoNewPrivs").is_ok_and(|values| values.iter().any(|value| value != "1")) {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        let error = Command::new("/proc/self/exe").arg0(name).args(arguments).exec();
        // All threads of ours have it, and the allocator's executes nothing.
        log::warn!(
            "no_new_privs does not hold for every thread: the program cannot be executed again: {error}"
        );
    }
    // What was executed by that path is called `exe` by ps, top and killall.
    if let Err(error) = rustix::thread::set_name(c"portcullis") {
        log::debug!("the process cannot be given its name: {error}");
    }
    limit(Resource::Core, "core dumps", Rlimit { current: Some(0), maximum: Some(0) });
    // A limit of 0 does not keep a dump from a program that the kernel pipes it to (core(5)).
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let most = getrlimit(Resource::Nofile).maximum;
    limit(Resource::Nofile, "open files", Rlimit { current: most, maximum: most });
    Ok(())
}

/// A service manager may have set the limit and forbidden the call.
fn limit(resource: Resource, name: &str, wanted: Rlimit) {
    let same = getrlimit(resource) == wanted;
    if let Some(error) = (!same).then(|| setrlimit(resource, wanted).err()).flatten() {
        log::warn!("the limit of {name} cannot be set: {error}");
    }
}

/// Whether any of the process's user ids is root's.
pub fn is_root() -> bool {
    getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved].iter().any(|id| id.is_root()))
}

/// Whether the process is this user already, in every sense, and nothing has to change.
pub fn is(account: &Account) -> bool {
    let uid = Uid::from_raw(account.uid);
    getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved].iter().all(|id| *id == uid))
}

/// As root, for the user to come: makes the state directory and the log's file where they are missing, and gives it the files of
/// the sockets that were bound.
///
/// Directories and files are made only where every directory on their way is root's and writable for nobody else (or sticky, as
/// /tmp is): elsewhere a link could lead root astray (CVE-2016-1247), and the user makes them itself. What is there already keeps
/// its owner. A failure is not told: the user meets it again, with the path and the cause.
pub fn prepare<'a>(
    account: &Account,
    state: Option<&Path>,
    log: Option<&Path>,
    sockets: impl Iterator<Item = &'a Path>,
) {
    if let Some(state) = state.filter(|path| is_roots(path)) {
        let made = fs::DirBuilder::new().mode(0o700).create(state);
        let _ = made.and_then(|()| lchown(state, Some(account.uid), Some(account.gid)));
    }
    if let Some(log) = log.filter(|path| is_roots(path)) {
        let made = OpenOptions::new().append(true).create_new(true).mode(0o640).open(log);
        let _ = made.and_then(|file| fchown(file, Some(account.uid), Some(account.gid)));
    }
    for socket in sockets {
        if let Err(error) = give_socket(socket, account) {
            log::warn!("the socket {} cannot be given to `{}`: {error}", socket.display(), account.name);
        }
    }
}

/// Whether all directories that lead to this path are root's alone.
fn is_roots(path: &Path) -> bool {
    const STICKY: u32 = 0o1000;
    let Ok(absolute) = std::path::absolute(path) else { return false };
    let Some(Ok(parent)) = absolute.parent().map(Path::canonicalize) else { return false };
    parent.ancestors().all(|directory| {
        fs::symlink_metadata(directory)
            .is_ok_and(|found| found.uid() == 0 && (found.mode() & 0o022 == 0 || found.mode() & STICKY != 0))
    })
}

/// Held open while its owner changes, so that it is the file that was looked at.
fn give_socket(path: &Path, account: &Account) -> io::Result<()> {
    let file = openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = fs::File::from(file.try_clone()?).metadata()?;
    if !found.file_type().is_socket() || found.uid() != 0 || fstat(&file)?.st_nlink != 1 {
        return Err(io::Error::other("it is not the file that was made"));
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(account.uid), rustix::fs::Gid::from_raw(account.gid));
    Ok(chownat(&file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
}

/// Becomes this user, in every thread and for good, and makes sure of it. Only root can; see [`is`].
///
/// # Errors
/// Says what is not as asked; nothing must be served then.
pub fn become_user(account: &Account) -> Result<(), String> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let failed = |what: &str, error: nix::errno::Errno| format!("{what}: {}", error.desc());
    let name = CString::new(&*account.name).map_err(|error| error.to_string())?;
    let groups = getgrouplist(&name, gid).map_err(|error| failed("its groups cannot be found", error))?;
    // Groups first: a user who is not root cannot change them. These calls act on all threads (nptl(7)).
    unistd::setgroups(&groups).map_err(|error| failed("setgroups", error))?;
    unistd::setresgid(gid, gid, gid).map_err(|error| failed("setresgid", error))?;
    unistd::setresuid(uid, uid, uid).map_err(|error| failed("setresuid", error))?;
    verify(uid, gid, &groups)?;
    // A change of user has reset it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| format!("PR_SET_DUMPABLE: {error}"))
}

fn verify(uid: Uid, gid: Gid, groups: &[Gid]) -> Result<(), String> {
    let users = getresuid().map_err(|error| error.desc().to_owned())?;
    if [users.real, users.effective, users.saved] != [uid; 3] {
        return Err(format!("the user ids are {users:?}"));
    }
    let own = getresgid().map_err(|error| error.desc().to_owned())?;
    if [own.real, own.effective, own.saved] != [gid; 3] {
        return Err(format!("the group ids are {own:?}"));
    }
    let ids = |groups: &[Gid]| groups.iter().map(|group| group.as_raw()).collect::<BTreeSet<_>>();
    let held = unistd::getgroups().map_err(|error| error.desc().to_owned())?;
    if ids(&held) != ids(groups) {
        return Err(format!("the supplementary groups are {:?}", ids(&held)));
    }
    if unistd::setuid(Uid::from_raw(0)).is_ok()
        || unistd::setgid(Gid::from_raw(0)).is_ok() && gid.as_raw() != 0
    {
        return Err("root can be had again".to_owned());
    }
    let four = |id: u32| format!("{id}\t{id}\t{id}\t{id}");
    for (field, wanted) in [
        ("Uid", four(uid.as_raw())),
        ("Gid", four(gid.as_raw())),
        ("CapEff", "0".repeat(16)),
        ("CapPrm", "0".repeat(16)),
    ] {
        let found = tasks(field).map_err(|error| format!("{TASKS} cannot be read: {error}"))?;
        if let Some(other) = found.iter().find(|value| **value != wanted) {
            return Err(format!("{field} of a thread is {other}"));
        }
    }
    Ok(())
}

/// A field of every thread's status (proc_pid_status(5)). Threads that end meanwhile are left out.
fn tasks(field: &str) -> io::Result<Vec<String>> {
    let mut values = Vec::new();
    for task in fs::read_dir(TASKS)? {
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let of = |line: &str| line.strip_prefix(field)?.strip_prefix(":\t").map(ToOwned::to_owned);
        values.extend(status.lines().find_map(of));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_all_seen() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || stopped.recv().ok());
        assert!(tasks("Uid").unwrap().len() >= 2);
        assert!(tasks("NoSuchField").unwrap().is_empty());
        drop(stop);
        other.join().unwrap();
    }

    #[test]
    fn root_makes_nothing_where_another_could_set_a_trap() {
        if !is_root() {
            println!("skipped: not root");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let account = Account { name: "nobody".into(), uid: 65_534, gid: 65_534 };
        let path = |name: &str| place.path().join(name);
        let owner = |name: &str| fs::symlink_metadata(path(name)).map(|found| found.uid()).ok();
        prepare(&account, Some(&path("state")), Some(&path("log")), std::iter::empty());
        assert_eq!((owner("state"), owner("log")), (Some(65_534), Some(65_534)));
        // The directory is the user's now: what it links to is its own affair.
        std::os::unix::fs::symlink(place.path(), path("state/link")).unwrap();
        for trap in ["state/a", "state/link/../state/a"] {
            prepare(&account, Some(&path(trap)), Some(&path(trap)), std::iter::empty());
            assert_eq!(owner(trap), None, "{trap}");
        }
        // What is there keeps its owner.
        fs::write(path("old"), "").unwrap();
        prepare(&account, None, Some(&path("old")), [&*path("old")].into_iter());
        assert_eq!(owner("old"), Some(0));
        drop(std::os::unix::net::UnixListener::bind(path("sock")).unwrap());
        prepare(&account, None, None, [&*path("sock")].into_iter());
        assert_eq!(owner("sock"), Some(65_534));
    }
}
