//! Watching the files a configuration was made of: editors that replace them, links that are swapped.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};
use openssl::sha::sha256;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::control::Command;

/// Quiet after an event before the files are looked at: an editor writes in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// How long contents must stay the same.
const REST: Duration = Duration::from_millis(50);
/// How often the files are looked at without an event: not every file system tells.
const POLL: Duration = Duration::from_secs(5);
/// What a load may take before the same change is reported again.
const LOADING: Duration = Duration::from_secs(60);
/// Links followed in one path.
const LINKS: usize = 40;

/// Contents of files, told apart; none for a file that cannot be read.
pub(super) type Fingerprint = BTreeMap<PathBuf, Option<[u8; 32]>>;

/// What is watched, and what was in it when it was last loaded.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) files: Vec<PathBuf>,
    baseline: Fingerprint,
}

impl Watched {
    /// `before` was taken before the load; files that it did not know are looked at now.
    pub(super) fn new(files: Vec<PathBuf>, before: Fingerprint) -> Self {
        let known = |file: &PathBuf| before.get(file).copied();
        let baseline =
            files.iter().map(|file| (file.clone(), known(file).unwrap_or_else(|| content(file)))).collect();
        Self { files, baseline }
    }
}

/// The contents of these files now. Reads all of them.
pub(super) fn fingerprint(files: &[PathBuf]) -> Fingerprint {
    files.iter().map(|file| (file.clone(), content(file))).collect()
}

/// A file's bytes, or a directory's names.
fn content(path: &Path) -> Option<[u8; 32]> {
    if !path.is_dir() {
        // Keys are among them.
        return std::fs::read(path).ok().map(|bytes| sha256(&Zeroizing::new(bytes)));
    }
    let entries = std::fs::read_dir(path).ok()?;
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().into_encoded_bytes()).collect();
    names.sort();
    Some(sha256(&names.join(&0)))
}

/// Watches in the background; a change is a reload. Must be called within the back office.
pub(super) fn start(mut watched: watch::Receiver<Watched>, commands: mpsc::UnboundedSender<Command>) {
    tokio::spawn(async move {
        while !commands.is_closed() {
            let files = watched.borrow_and_update().files.clone();
            let (sender, mut events) = mpsc::unbounded_channel();
            // Armed anew after every event: a swapped link leads elsewhere. Dropped, it is disarmed.
            let armed = tokio::task::spawn_blocking(move || arm(&files, sender)).await;
            let _armed = match armed {
                Ok(Ok(watcher)) => Some(watcher),
                Ok(Err(error)) => {
                    log::debug!("changes of files are only polled for: {error}");
                    None
                }
                Err(_) => return,
            };
            // Whatever happened while nothing was armed is seen here too.
            if changed(&watched).await {
                if commands.send(Command::Reload(None)).is_err() {
                    return;
                }
                // The load replaces the baseline, whether it succeeds or not; a server that drains loads no more.
                let _ = timeout(LOADING, watched.changed()).await;
                continue;
            }
            tokio::select! {
                replaced = watched.changed() => if replaced.is_err() { return },
                _ = timeout(POLL, events.recv()) => sleep(QUIET).await,
            }
        }
    });
}

/// Whether the files differ from what was last loaded, once they have come to rest: a file that is written in place is empty
/// for a moment.
async fn changed(watched: &watch::Receiver<Watched>) -> bool {
    let mut seen = look(watched).await;
    loop {
        if seen.is_none() || seen.as_ref() == Some(&watched.borrow().baseline) {
            return false;
        }
        sleep(REST).await;
        let again = look(watched).await;
        if again == seen {
            return true;
        }
        seen = again;
    }
}

async fn look(watched: &watch::Receiver<Watched>) -> Option<Fingerprint> {
    let files = watched.borrow().files.clone();
    tokio::task::spawn_blocking(move || fingerprint(&files)).await.ok()
}

fn arm(files: &[PathBuf], events: mpsc::UnboundedSender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let Ways { directories, whole, names } = ways(files);
    // An access log beside the configuration is written to a hundred times a second: that is nobody's news.
    let concerns = move |path: &PathBuf| {
        path.file_name().is_none_or(|name| names.contains(name))
            || path.parent().is_some_and(|parent| whole.contains(parent))
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let told = event.is_ok_and(|event| {
            tells(event.kind) && (event.paths.is_empty() || event.paths.iter().any(&concerns))
        });
        if told {
            let _ = events.send(());
        }
    })?;
    for directory in directories {
        // One that is missing appears in its parent.
        let _ = watcher.watch(&directory, RecursiveMode::NonRecursive);
    }
    Ok(watcher)
}

/// Reading a file is an event too, and ours to look whether it has changed.
fn tells(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// Where a change can change what a path leads to.
#[derive(Debug, Default)]
struct Ways {
    /// Every directory that is looked into.
    directories: BTreeSet<PathBuf>,
    /// Those of which every entry counts.
    whole: BTreeSet<PathBuf>,
    /// The names that are looked for in the others.
    names: BTreeSet<OsString>,
}

fn ways(files: &[PathBuf]) -> Ways {
    let mut found = Ways::default();
    for file in files {
        let Ok(absolute) = std::path::absolute(file) else { continue };
        if file.is_dir() {
            found.directories.insert(absolute.clone());
            found.whole.insert(absolute.clone());
        }
        follow(&absolute, &mut found, LINKS);
    }
    found
}

/// The parents of a path and of every link on its way, and the names in it.
fn follow(path: &Path, found: &mut Ways, links: usize) {
    if let Some(parent) = path.parent() {
        found.directories.insert(parent.to_path_buf());
    }
    found.names.extend(path.iter().map(OsString::from));
    let mut walked = PathBuf::new();
    let mut rest = path.components();
    while let Some(component) = rest.next() {
        if component == Component::ParentDir {
            walked.pop();
            continue;
        }
        walked.push(component);
        let Ok(target) = std::fs::read_link(&walked) else { continue };
        let Some(parent) = walked.parent() else { return };
        found.directories.insert(parent.to_path_buf());
        if links > 0 {
            follow(&parent.join(target).join(rest.as_path()), found, links - 1);
        }
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_watched_is_told() {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str| place.path().join(name);
        std::fs::write(file("config.yaml"), "a").unwrap();
        std::fs::create_dir(file("conf.d")).unwrap();
        let (sender, mut events) = mpsc::unbounded_channel();
        let _watcher = arm(&[file("config.yaml"), file("conf.d")], sender).unwrap();
        std::fs::write(file("access.log"), "a line\n").unwrap();
        assert!(timeout(Duration::from_millis(200), events.recv()).await.is_err(), "a neighbour was told");
        for name in ["config.yaml", "conf.d/new.yaml"] {
            std::fs::write(file(name), "b").unwrap();
            assert!(timeout(Duration::from_secs(5), events.recv()).await.is_ok(), "{name}");
            while timeout(Duration::from_millis(100), events.recv()).await.is_ok() {}
        }
    }
}
