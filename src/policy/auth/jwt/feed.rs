//! A list of revoked tokens that is fetched: again and again, by one task, as long as somebody wants it. While it cannot be fetched the
//! last one holds, for a bounded time. It is copied to `server.state`, so that a restart in that time knows it too.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwapOption, Guard};
use bytes::Bytes;
use tokio::sync::watch;

use super::copy::{self, Kept};
use super::issuer::now;
use super::key::sha256;
use super::revoked::Lists;
use crate::egress::Egress;
use crate::policy::auth::{Context, fetching};

/// After a fetch that failed, the next comes no later than this.
const AGAIN: Duration = Duration::from_secs(10);
/// A copy that differs in its age alone is written no more often.
const COPY_EVERY: Duration = Duration::from_secs(60);
/// Where copies are.
const FOLDER: &str = "revoked";
/// The most that `server.egress.bytes` allows.
const DOCUMENT_BYTES_MAX: u64 = 64 << 20;

/// When it is fetched, and until when it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) refresh: Duration,
    /// A list that should have been fetched anew this long ago is not used.
    pub(super) stale_max: Duration,
}

impl Times {
    /// How long a list still holds at this time that was fetched then, in seconds since 1970; none where it is too old. One from the
    /// future, by a clock that was wrong, is one of now.
    fn left(self, fetched: u64, now: u64) -> Option<Duration> {
        let age = Duration::from_secs(now.saturating_sub(fetched));
        (self.refresh + self.stale_max).checked_sub(age).filter(|left| !left.is_zero())
    }

    /// Of a large list a copy is much to write: its age may be wrong by a part of the time that it holds, and never makes it younger.
    fn copy_every(self) -> Duration {
        (self.stale_max / 20).max(COPY_EVERY).min(self.stale_max / 2)
    }
}

/// A list that is fetched; outlives snapshots.
#[derive(Debug, Default)]
pub(super) struct Feed {
    lists: ArcSwapOption<Lists>,
    /// When it was fetched, in seconds since 1970; 0: never.
    fetched: AtomicU64,
}

impl Feed {
    /// Finds the list of this URL, or begins to fetch it. Where nothing is fetched (`check`, `explain`) it is that of the copy, if there is
    /// one.
    pub(super) fn find(url: &str, times: Times, context: &Context<'_>) -> Arc<Self> {
        // A query may have in it what is no log's business.
        let shown = url.split(['?', '#']).next().unwrap_or_default();
        let source = format!("revoked {url}");
        let directory = context.live.directory();
        let path = (!directory.as_os_str().is_empty()).then(|| copy::path(directory, FOLDER, &source));
        let definition = format!("{url} {times:?} {:?}", context.egress);
        let mut made = None;
        let feed = context.live.find_or("auth.jwt.revoked", &definition, || {
            let feed = Self::default();
            made = Some(path.as_deref().and_then(|path| feed.recall(path, &source, shown, times)));
            feed
        });
        if let (Some(left), Some(runtime)) = (made, context.live.runtime()) {
            let follower = Follower {
                url: url.to_owned(),
                shown: shown.to_owned(),
                source,
                times,
                client: context.fetcher(),
                feed: Arc::downgrade(&feed),
                path,
                settled: fetching::settled(context, &format!("{shown}: the list of revoked tokens")),
                expires: left.map(|left| Instant::now() + left),
                copied: None,
            };
            runtime.spawn(follower.follow());
        }
        feed
    }

    /// The list, if there is one that may be used. No allocation.
    pub(super) fn current(&self) -> Guard<Option<Arc<Lists>>> {
        self.lists.load()
    }

    /// How long ago it was fetched, in seconds; none where it never was.
    pub(super) fn age(&self) -> Option<u64> {
        let fetched = self.fetched.load(Ordering::Relaxed);
        (fetched > 0).then(|| now().saturating_sub(fetched))
    }

    /// Takes over the copy, if there is one that is not too old: how long it holds.
    fn recall(&self, path: &Path, source: &str, shown: &str, times: Times) -> Option<Duration> {
        let kept = copy::read(path, source, DOCUMENT_BYTES_MAX)?;
        let Some(left) = times.left(kept.confirmed, now()) else {
            log::warn!("revoked tokens: {shown}: the copy is older than `stale_max`, and is not used");
            return None;
        };
        match self.take(kept.document.as_bytes(), kept.confirmed) {
            Ok(length) => {
                let age = self.age().unwrap_or_default();
                log::info!("revoked tokens: {shown}: {length} entries from the copy, fetched {age} s ago");
                Some(left)
            }
            Err(error) => {
                log::warn!("`{}` is not used: {error}", path.display());
                None
            }
        }
    }

    /// What was fetched at this time. An empty answer is more often a fault of who gives it than a list of nobody.
    pub(super) fn take(&self, document: &[u8], fetched: u64) -> Result<usize, String> {
        if document.trim_ascii().is_empty() {
            return Err("it is empty; a list of nobody is `{\"jti\": []}`".to_owned());
        }
        let lists = Lists::parse(document).map_err(str::to_owned)?;
        let length = lists.len();
        self.lists.store(Some(Arc::new(lists)));
        self.fetched.store(fetched, Ordering::Relaxed);
        Ok(length)
    }
}

/// Who fetches a list.
struct Follower {
    url: String,
    /// For the log.
    shown: String,
    /// As the copy has it.
    source: String,
    times: Times,
    client: Arc<Result<Egress, String>>,
    feed: Weak<Feed>,
    /// Where the copy is.
    path: Option<PathBuf>,
    /// Whether root has been left, so that files have the right owner.
    settled: watch::Receiver<bool>,
    /// Until when the list holds; none where there is none.
    expires: Option<Instant>,
    /// The copy: the hash of which document, and when it was written.
    copied: Option<([u8; 32], Instant)>,
}

impl Follower {
    /// Fetches again and again, as long as somebody wants the list.
    async fn follow(mut self) {
        let mut was_good = None;
        loop {
            let fetched = self.fetch().await;
            let Some(feed) = self.feed.upgrade() else { return };
            let taken = fetched.and_then(|body| feed.take(&body, now()).map(|length| (body, length)));
            let is_good = taken.is_ok();
            match taken {
                Ok((body, length)) => {
                    drop(feed);
                    if was_good != Some(true) {
                        log::info!("revoked tokens: {}: {length} entries", self.shown);
                    }
                    self.expires = Some(Instant::now() + self.times.refresh + self.times.stale_max);
                    self.copy(&body).await;
                }
                Err(error) => {
                    self.endure(&error, &feed, was_good == Some(false));
                    drop(feed);
                }
            }
            was_good = Some(is_good);
            let Times { refresh, .. } = self.times;
            tokio::time::sleep(if is_good { refresh } else { refresh.min(AGAIN) }).await;
        }
    }

    async fn fetch(&self) -> Result<Bytes, String> {
        let client = self.client.as_ref().as_ref().map_err(|error| format!("no client: {error}"))?;
        match client.get(&self.url).await {
            Ok(answer) if answer.status.is_success() => Ok(answer.body),
            Ok(answer) => Err(format!("status {}", answer.status.as_u16())),
            Err(failure) => Err(failure.to_string()),
        }
    }

    /// Goes on with what there is, until that is too old.
    fn endure(&mut self, error: &str, feed: &Feed, was_told: bool) {
        let shown = &self.shown;
        if self.expires.is_some_and(|expires| expires <= Instant::now()) {
            self.expires = None;
            feed.lists.store(None);
            log::error!(
                "revoked tokens: {shown}: the list is older than `stale_max`, and is used no more: no token passes ({error})"
            );
        } else if !was_told {
            let rest = match self.expires {
                Some(_) => "the list stays as it was",
                None => "there is none, so no token passes",
            };
            log::error!("revoked tokens: {shown}: {error}; {rest}");
        }
    }

    async fn copy(&mut self, document: &[u8]) {
        let Some(path) = self.path.clone() else { return };
        let hash = sha256(document);
        let every = self.times.copy_every();
        if self.copied.is_some_and(|(of, written)| of == hash && written.elapsed() < every) {
            return;
        }
        let Ok(document) = String::from_utf8(document.to_vec()) else { return };
        let (source, fresh) = (self.source.clone(), self.times.refresh.as_secs());
        let kept = Kept { source, confirmed: now(), fresh, etag: None, document };
        if self.settled.wait_for(|settled| *settled).await.is_err() {
            return;
        }
        self.copied = Some((hash, Instant::now()));
        let to = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || copy::write(&path, &kept)).await;
        if let Ok(Err(error)) = written {
            log::warn!("revoked tokens: {}: the list cannot be copied to `{to}`: {error}", self.shown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { refresh: Duration::from_secs(60), stale_max: Duration::from_secs(3600) };

    #[test]
    fn a_list_holds_until_it_is_too_old() {
        for (fetched, now, left) in [
            (10_000, 10_000, Some(3660)),
            (10_000, 13_659, Some(1)),
            (10_000, 13_660, None),
            (10_000, 1, Some(3660)),
            (0, u64::MAX, None),
        ] {
            assert_eq!(TIMES.left(fetched, now), left.map(Duration::from_secs), "{fetched} {now}");
        }
        let short = Times { stale_max: Duration::ZERO, ..TIMES };
        assert_eq!((TIMES.copy_every().as_secs(), short.copy_every().as_secs()), (180, 0));
    }

    #[test]
    fn the_copy_of_this_list_is_taken_while_it_is_young_enough() {
        let state = tempfile::tempdir().unwrap();
        let source = "revoked https://a.example/revoked";
        let path = copy::path(state.path(), FOLDER, source);
        let kept = |age: u64, document: &str| Kept {
            source: source.to_owned(),
            confirmed: now() - age,
            fresh: 60,
            etag: None,
            document: document.to_owned(),
        };
        let recalled = |source: &str| {
            let feed = Feed::default();
            let left = feed.recall(&path, source, "https://a.example/revoked", TIMES);
            assert_eq!(left.is_some(), feed.current().is_some());
            left.and_then(|_| feed.current().as_ref().map(|lists| lists.len()))
        };
        assert_eq!(recalled(source), None, "there is none");
        copy::write(&path, &kept(600, "one\ntwo\n")).unwrap();
        assert_eq!(recalled(source), Some(2));
        assert_eq!(recalled("revoked https://b.example/revoked"), None, "another's");
        copy::write(&path, &kept(3700, "one\n")).unwrap();
        assert_eq!(recalled(source), None, "too old");
        for damaged in ["", "<html>", "{\"jti\": [1]}"] {
            copy::write(&path, &kept(1, damaged)).unwrap();
            assert_eq!(recalled(source), None, "{damaged}");
        }
    }

    #[test]
    fn a_list_that_is_too_old_is_used_no_more() {
        let feed = Arc::new(Feed::default());
        feed.take(b"one\n", now()).unwrap();
        let mut follower = Follower {
            url: String::new(),
            shown: String::new(),
            source: String::new(),
            times: TIMES,
            client: Arc::new(Err(String::new())),
            feed: Arc::downgrade(&feed),
            path: None,
            settled: watch::channel(true).1,
            expires: Some(Instant::now() + Duration::from_secs(60)),
            copied: None,
        };
        follower.endure("status 500", &feed, false);
        assert!(feed.current().is_some() && follower.expires.is_some());
        follower.expires = Some(Instant::now());
        follower.endure("status 500", &feed, true);
        assert!(feed.current().is_none() && follower.expires.is_none());
    }
}
