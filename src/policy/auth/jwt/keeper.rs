//! Who fetches an issuer's keys: one task for each, in the background. Keys are fetched before they are too old, kept while the issuer
//! cannot be asked, and copied to `server.state`. It ends when nobody wants the keys any more.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::sync::{Notify, watch};

use super::copy::{self, Kept};
use super::fetch::{Fetcher, Got, Outcome, Trouble};
use super::issuer::{Issuer, Schedule, now};
use super::jwks::KeySet;

/// After the first failure; each further one doubles it.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest time between failures while there are keys.
const SELDOM: Duration = Duration::from_secs(60);
/// The same while there are none, and every request is refused.
const SOON: Duration = Duration::from_secs(5);
/// Keys are fetched anew after this many per cent of the time for which they are good.
const SOONEST: u32 = 75;
/// A copy that differs in its age alone is written this often.
const COPY_EVERY: Duration = Duration::from_secs(60);

/// Keys that are known, and since when.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) kept: Kept,
    pub(super) set: Arc<KeySet>,
}

impl Known {
    /// How long they may still be used at this time, in seconds since 1970; none where they are too old. A copy from the future, by a
    /// clock that was wrong, is one of now.
    pub(super) fn left(&self, schedule: Schedule, now: u64) -> Option<Duration> {
        let fresh = Duration::from_secs(self.kept.fresh).min(schedule.refresh);
        let age = Duration::from_secs(now.saturating_sub(self.kept.confirmed));
        (fresh + schedule.stale_keys_max).checked_sub(age).filter(|left| !left.is_zero())
    }
}

impl Schedule {
    /// How long keys are good whose answer says this of its own: no longer than `refresh`, and for so long that fetches are not closer to
    /// each other than a cool-down, whatever an answer says (`no-store`, as many issuers have it).
    fn fresh(self, lifetime: Option<Duration>) -> Duration {
        let least = (self.cooldown * 100 / SOONEST + Duration::from_millis(1)).min(self.refresh);
        lifetime.unwrap_or(self.refresh).clamp(least, self.refresh)
    }
}

/// One issuer's.
#[derive(Debug)]
pub(super) struct Keeper {
    /// For the log.
    pub(super) name: String,
    /// The source, as the copy has it.
    pub(super) source: String,
    /// As it was when it was looked at last.
    pub(super) schedule: Schedule,
    pub(super) fetcher: Fetcher,
    pub(super) issuer: Weak<Issuer>,
    pub(super) wake: Arc<Notify>,
    /// Where the copy is.
    pub(super) path: Option<PathBuf>,
    /// Whether root has been left, so that files have the right owner.
    pub(super) settled: watch::Receiver<bool>,
}

/// What a keeper remembers.
#[derive(Debug, Default)]
struct Memory {
    known: Option<Known>,
    etag: Option<HeaderValue>,
    /// Until when they may be used.
    expires: Option<Instant>,
    failures: u32,
    /// What of failures and of keys the log has been told.
    trouble: Option<String>,
    complaints: BTreeSet<String>,
    /// The copy: of which document, and when it was written.
    copied: Option<Instant>,
}

impl Keeper {
    /// Keeps them, beginning with those of the copy and with a fetch at once.
    pub(super) async fn keep(mut self, known: Option<Known>) {
        let mut memory = Memory::default();
        if let Some(known) = known {
            memory.expires = known.left(self.schedule, now()).map(|left| Instant::now() + left);
            memory.etag = known.kept.etag.as_deref().and_then(|etag| HeaderValue::from_str(etag).ok());
            self.tell_complaints(&mut memory, &known.set);
            log::info!("{}: {} from the copy", self.name, keys(&known.set));
            memory.known = Some(known);
        }
        let mut due = Instant::now();
        loop {
            let Some(issuer) = self.issuer.upgrade() else { return };
            let schedule = issuer.schedule();
            if schedule != self.schedule {
                self.schedule = schedule;
                due = due.min(self.adapt(&mut memory, &issuer));
            }
            let present = Instant::now();
            if memory.expires.is_some_and(|expires| expires <= present) {
                self.give_up(&mut memory, &issuer);
            }
            let is_due = present >= due;
            let begins = issuer.begin(is_due);
            let owed = issuer.owed_at();
            // While it waits, the keys are nobody's but those who want them.
            drop(issuer);
            if !begins {
                let until = [memory.expires, owed].into_iter().flatten().fold(due, Instant::min);
                tokio::select! {
                    () = tokio::time::sleep_until(until.into()) => {}
                    () = self.wake.notified() => {}
                }
                continue;
            }
            let fetched = self.fetcher.fetch(memory.etag.as_ref(), self.schedule.refresh).await;
            let Some(issuer) = self.issuer.upgrade() else { return };
            let (outcome, wait) = match fetched {
                Ok(got) => {
                    let (outcome, wait) = self.take(got, &mut memory, &issuer);
                    (outcome, Some(wait))
                }
                Err(trouble) => self.endure(trouble, is_due, &mut memory),
            };
            due = wait.map_or(due, |wait| Instant::now() + wait);
            issuer.end(outcome);
            drop(issuer);
            self.copy(&mut memory).await;
        }
    }

    /// Keeps the keys by another schedule, and says when they are due by it. Those that were too old may be good by this one.
    fn adapt(&self, memory: &mut Memory, issuer: &Issuer) -> Instant {
        let (present, seconds) = (Instant::now(), now());
        let Some(known) = &memory.known else { return present };
        match (known.left(self.schedule, seconds), memory.expires) {
            (Some(left), held) => {
                if held.is_none() {
                    issuer.put(Arc::clone(&known.set), known.kept.confirmed);
                }
                memory.expires = Some(present + left);
            }
            (None, Some(_)) => memory.expires = Some(present),
            (None, None) => {}
        }
        let fresh = Duration::from_secs(known.kept.fresh).min(self.schedule.refresh);
        let age = Duration::from_secs(seconds.saturating_sub(known.kept.confirmed));
        present + part(fresh, 75, 95).saturating_sub(age)
    }

    /// Takes over what came, and says when to ask again.
    fn take(&self, got: Got, memory: &mut Memory, issuer: &Issuer) -> (Outcome, Duration) {
        let fresh = self.schedule.fresh(got.lifetime);
        let confirmed = now();
        let outcome = match (got.changed, &mut memory.known) {
            (Some(changed), _) => {
                let etag = changed.etag.as_ref().and_then(|etag| etag.to_str().ok()).map(str::to_owned);
                let set = Arc::new(changed.set);
                let is_other =
                    memory.known.as_ref().is_none_or(|known| known.set.generation() != set.generation());
                if is_other {
                    let level = if set.is_empty() { log::Level::Warn } else { log::Level::Info };
                    log::log!(level, "{}: {}", self.name, keys(&set));
                }
                self.tell_complaints(memory, &set);
                issuer.put(Arc::clone(&set), confirmed);
                if memory.known.as_ref().is_none_or(|known| known.kept.document != changed.document) {
                    memory.copied = None;
                }
                let source = self.source.clone();
                let kept =
                    Kept { source, confirmed, fresh: fresh.as_secs(), etag, document: changed.document };
                memory.etag = changed.etag;
                memory.known = Some(Known { kept, set });
                Outcome::Fetched
            }
            (None, Some(known)) => {
                (known.kept.confirmed, known.kept.fresh) = (confirmed, fresh.as_secs());
                // They may have been given up meanwhile.
                issuer.put(Arc::clone(&known.set), confirmed);
                Outcome::Unchanged
            }
            (None, None) => Outcome::Unchanged,
        };
        if memory.trouble.take().is_some() {
            log::info!("{}: its keys can be fetched again", self.name);
        }
        memory.failures = 0;
        memory.expires = Some(Instant::now() + fresh + self.schedule.stale_keys_max);
        // Before they are too old, and not all gateways of a fleet at once.
        (outcome, part(fresh, SOONEST, 95))
    }

    /// Goes on with what there is. A fetch that was not due, and that an unknown key asked for, is not tried again before its cool-down ends
    /// (`Issuer::after_unknown`): anybody can name such keys.
    fn endure(&self, trouble: Trouble, is_due: bool, memory: &mut Memory) -> (Outcome, Option<Duration>) {
        if memory.trouble.as_ref() != Some(&trouble.message) {
            let rest = if memory.expires.is_some() { "those known are used" } else { "there are none" };
            log::warn!("{}: its keys cannot be fetched, {rest}: {}", self.name, trouble.message);
            memory.trouble = Some(trouble.message);
        }
        if !is_due {
            return (trouble.outcome, None);
        }
        let most = if memory.expires.is_some() { SELDOM } else { SOON };
        let wait = AGAIN * 2_u32.saturating_pow(memory.failures.min(10));
        memory.failures = memory.failures.saturating_add(1);
        (trouble.outcome, Some(part(wait.min(most).min(self.schedule.refresh), 75, 100)))
    }

    /// Nobody has said for too long that these are still the issuer's keys.
    fn give_up(&self, memory: &mut Memory, issuer: &Issuer) {
        log::error!("{}: its keys are older than `stale_keys_max`, and are used no more", self.name);
        memory.expires = None;
        issuer.drop_keys();
    }

    /// Each key that was left out is told once, and again when it was good in between.
    fn tell_complaints(&self, memory: &mut Memory, set: &KeySet) {
        let complaints: BTreeSet<_> = set.complaints().iter().map(ToString::to_string).collect();
        for complaint in complaints.difference(&memory.complaints) {
            log::warn!("{}: {complaint}", self.name);
        }
        memory.complaints = complaints;
    }

    async fn copy(&mut self, memory: &mut Memory) {
        let Memory { known: Some(known), copied, failures: 0, .. } = memory else { return };
        let every = COPY_EVERY.min(self.schedule.stale_keys_max / 2);
        let Some(path) = self.path.clone() else { return };
        if copied.is_some_and(|copied| copied.elapsed() < every) {
            return;
        }
        if self.settled.wait_for(|settled| *settled).await.is_err() {
            return;
        }
        let kept = known.kept.clone();
        *copied = Some(Instant::now());
        let shown = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || copy::write(&path, &kept)).await;
        if let Ok(Err(error)) = written {
            log::warn!("{}: its keys cannot be copied to `{shown}`: {error}", self.name);
        }
    }
}

fn keys(set: &KeySet) -> String {
    match set.len() {
        0 => "no key that verifies, so every token is refused".to_owned(),
        1 => "1 key".to_owned(),
        many => format!("{many} keys"),
    }
}

/// By chance, from so many per cent of a time to so many.
fn part(time: Duration, from: u32, to: u32) -> Duration {
    let chance = RandomState::new().hash_one(0_u8) % u64::from((to - from) * 10 + 1);
    time * (from * 10 + u32::try_from(chance).unwrap_or(0)) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_stays_within_its_bounds() {
        for _ in 0..200 {
            let wait = part(Duration::from_secs(100), 75, 95);
            assert!((75_000..=95_000).contains(&wait.as_millis()), "{wait:?}");
        }
    }

    #[test]
    fn fetches_are_a_cool_down_apart_whatever_an_answer_says() {
        let schedule = |refresh, cooldown| Schedule {
            refresh: Duration::from_secs(refresh),
            cooldown: Duration::from_secs(cooldown),
            stale_keys_max: Duration::ZERO,
        };
        for (schedule, lifetime, least, most) in [
            (schedule(900, 30), Some(0), 30, 41),
            (schedule(900, 30), Some(29), 30, 41),
            (schedule(900, 30), Some(300), 225, 300),
            (schedule(900, 30), Some(u64::from(u32::MAX)), 675, 900),
            (schedule(900, 30), None, 675, 900),
            (schedule(900, 5), Some(0), 5, 7),
            // `refresh` is the operator's own word.
            (schedule(1, 30), Some(0), 0, 1),
        ] {
            let fresh = schedule.fresh(lifetime.map(Duration::from_secs));
            assert!(fresh <= Duration::from_secs(most), "{lifetime:?}: {fresh:?}");
            for _ in 0..100 {
                let wait = part(fresh, SOONEST, 95);
                assert!(wait >= Duration::from_secs(least) && wait < fresh, "{lifetime:?}: {wait:?}");
            }
        }
    }

    #[test]
    fn a_copy_is_used_until_it_is_too_old() {
        let schedule = Schedule {
            refresh: Duration::from_secs(900),
            cooldown: Duration::from_secs(30),
            stale_keys_max: Duration::from_secs(3600),
        };
        for (fresh, now, left) in [
            (900, 10_000, Some(4500)),
            (60, 10_000, Some(3660)),
            (86_400, 10_000, Some(4500)),
            (900, 14_499, Some(1)),
            (900, 14_500, None),
            (900, 99_999, None),
            (900, 1, Some(4500)),
        ] {
            let kept =
                Kept { source: String::new(), confirmed: 10_000, fresh, etag: None, document: String::new() };
            let known = Known { kept, set: Arc::new(KeySet::parse(b"{\"keys\": []}").unwrap()) };
            assert_eq!(known.left(schedule, now), left.map(Duration::from_secs), "{fresh} {now}");
        }
    }
}
