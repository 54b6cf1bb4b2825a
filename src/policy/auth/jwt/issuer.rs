//! The keys of an issuer, as they are now. They outlive snapshots: whoever names the same source and rules of fetching has the same keys,
//! and whoever does not shares nothing. Of several schedules for one source the shorter times hold.
//!
//! Requests read them and may ask for a fetch; fetching is the [`Keeper`]'s alone, so that there is never more than one.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwapOption, Guard};
use tokio::sync::{Notify, watch};

use super::copy::{self, Kept};
use super::fetch::{DOCUMENT_BYTES_MAX, Fetcher, Outcome};
use super::jwks::KeySet;
use super::keeper::{Keeper, Known};
use crate::policy::auth::{Context, Figure, fetching};

/// How long a request waits for keys that are being fetched.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many requests may wait at once for an issuer's keys; more are answered without waiting.
const WAITERS_MAX: usize = 1024;
/// Where copies of keys are.
const FOLDER: &str = "issuers";

/// Where an issuer's keys are fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The issuer's document names them (OpenID Connect Discovery 1.0 §4).
    Discovery {
        /// The issuer, a URL.
        issuer: String,
    },
    /// A JWKS.
    Url(String),
}

impl Source {
    /// Equal for equal sources alone.
    pub(super) fn definition(&self) -> String {
        match self {
            Self::Discovery { issuer } => format!("discovery {issuer}"),
            Self::Url(url) => format!("url {url}"),
        }
    }
}

/// For the log: without a query, in which there may be what is no log's business.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Discovery { issuer: url } | Self::Url(url)) = self;
        f.write_str(url.split(['?', '#']).next().unwrap_or_default())
    }
}

/// When they are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// At the latest after this time.
    pub(super) refresh: Duration,
    /// For this time after a fetch that an unknown key caused, another causes none.
    pub(super) cooldown: Duration,
    /// Keys that should have been fetched anew this long ago are not used.
    pub(super) stale_keys_max: Duration,
}

impl Schedule {
    /// The shorter of each.
    fn shorter(self, other: Self) -> Self {
        Self {
            refresh: self.refresh.min(other.refresh),
            cooldown: self.cooldown.min(other.cooldown),
            stale_keys_max: self.stale_keys_max.min(other.stale_keys_max),
        }
    }
}

/// A key is unknown, and the issuer cannot be asked whether it is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unasked;

/// The keys of an issuer, as they are now; outlives snapshots.
#[derive(Debug)]
pub(super) struct Issuer {
    current: ArcSwapOption<KeySet>,
    /// Of those who want the keys; behind it the one that holds.
    schedules: Mutex<(Vec<Weak<Schedule>>, Schedule)>,
    /// Whether the last fetch brought nothing.
    failing: AtomicBool,
    /// Whether somebody fetches.
    fetched: bool,
    gate: Mutex<Gate>,
    /// The last fetch that has ended, counted from 1.
    ended: watch::Sender<u64>,
    waiting: AtomicUsize,
    wake: Arc<Notify>,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    left_out: AtomicUsize,
    /// When the keys were last known to be the issuer's, in seconds since 1970; 0: never.
    confirmed: AtomicU64,
}

/// Which fetches have begun, and which are asked for.
#[derive(Debug, Default)]
struct Gate {
    begun: u64,
    wanted: u64,
    provoked: Option<Instant>,
    /// A key was unknown within the cool-down, and no fetch has begun since: one is owed when it is over.
    owed: bool,
}

impl Gate {
    /// When a fetch is owed; none where none is.
    fn owed_at(&self, cooldown: Duration) -> Option<Instant> {
        self.provoked.filter(|_| self.owed).map(|provoked| provoked + cooldown)
    }
}

/// One of those who wait.
struct Seat<'a>(&'a AtomicUsize);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Issuer {
    /// Finds the issuer of this source, or begins to fetch; the schedule holds as long as what is given back with it. Where nothing is fetched (`check`, `explain`) it has the
    /// keys of the copy, if there is one.
    pub(super) fn find(
        source: &Source,
        schedule: Schedule,
        context: &Context<'_>,
    ) -> (Arc<Self>, Arc<Schedule>) {
        let definition = source.definition();
        let runtime = context.live.runtime();
        let directory = context.live.directory();
        let path = (!directory.as_os_str().is_empty()).then(|| copy::path(directory, FOLDER, &definition));
        let mut known = None;
        let key = format!("{definition} {:?}", context.egress);
        let issuer = context.live.find_or("auth.issuer", &key, || {
            let found = kept(&definition, path.as_ref(), schedule);
            let issuer = Self::new(schedule, runtime.is_some());
            if let Some(found) = &found {
                issuer.put(Arc::clone(&found.set), found.kept.confirmed);
            }
            known = Some(found);
            issuer
        });
        let own = issuer.join(schedule);
        if let (Some(known), Some(runtime)) = (known, runtime) {
            let settled = fetching::settled(context, &format!("{source}: its keys"));
            let fetcher = Fetcher::new(source.clone(), context.fetcher());
            let keeper = Keeper {
                name: source.to_string(),
                source: definition,
                schedule,
                fetcher,
                issuer: Arc::downgrade(&issuer),
                wake: Arc::clone(&issuer.wake),
                path,
                settled,
            };
            runtime.spawn(keeper.keep(known));
        }
        (issuer, own)
    }

    /// Another who wants the keys, by this schedule.
    fn join(&self, schedule: Schedule) -> Arc<Schedule> {
        let own = Arc::new(schedule);
        self.schedules.lock().unwrap_or_else(PoisonError::into_inner).0.push(Arc::downgrade(&own));
        self.wake.notify_one();
        own
    }

    /// The schedule of all who want the keys now; where nobody does any more, as it was.
    pub(super) fn schedule(&self) -> Schedule {
        let mut schedules = self.schedules.lock().unwrap_or_else(PoisonError::into_inner);
        let (wanted, held) = &mut *schedules;
        wanted.retain(|one| one.strong_count() > 0);
        if let Some(all) = wanted.iter().filter_map(Weak::upgrade).map(|one| *one).reduce(Schedule::shorter) {
            *held = all;
        }
        *held
    }

    fn new(schedule: Schedule, fetched: bool) -> Self {
        Self {
            current: ArcSwapOption::empty(),
            schedules: Mutex::new((Vec::new(), schedule)),
            failing: AtomicBool::new(false),
            fetched,
            gate: Mutex::default(),
            ended: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
            wake: Arc::default(),
            outcomes: Default::default(),
            left_out: AtomicUsize::new(0),
            confirmed: AtomicU64::new(0),
        }
    }

    /// The keys, if there are any that may be used. Costs no allocation and no shared count.
    pub(super) fn current(&self) -> Guard<Option<Arc<KeySet>>> {
        self.current.load()
    }

    /// The keys, to hold on to. Where there are none because the first fetch is still under way, waits for it, for a bounded time.
    pub(super) async fn first(&self) -> Option<Arc<KeySet>> {
        if let Some(set) = self.current.load_full() {
            return Some(set);
        }
        if self.fetched {
            self.wait_for(1).await;
        }
        self.current.load_full()
    }

    /// A token names a key that is not in the set of generation `seen`. Causes at most one fetch a cool-down, whoever asks; waits for
    /// it, for a bounded time, and gives another set if one has come. None at once within the cool-down, at whose end one fetch follows:
    /// an issuer that changes its keys twice in a row is unknown for no longer.
    ///
    /// # Errors
    /// The fetch has not ended in time, or the last one has failed: the key may be the issuer's.
    pub(super) async fn after_unknown(&self, seen: u64) -> Result<Option<Arc<KeySet>>, Unasked> {
        let newer = || self.current.load_full().filter(|set| set.generation() != seen);
        if let Some(set) = newer() {
            return Ok(Some(set));
        }
        // Where there is no fetch to wait for, one may have ended between the look above and here.
        let fetch = self.provoke(seen);
        if let Some(fetch) = fetch {
            self.wait_for(fetch).await;
        }
        let is_late = fetch.is_some_and(|fetch| *self.ended.borrow() < fetch);
        match newer() {
            None if is_late || self.failing.load(Ordering::Relaxed) => Err(Unasked),
            newer => Ok(newer),
        }
    }

    /// The fetch that tells whether a key is unknown to the set of generation `seen`, counted from 1: one that is yet to begin. None
    /// within the cool-down of the last.
    fn provoke(&self, seen: u64) -> Option<u64> {
        if !self.fetched {
            return None;
        }
        let cooldown = self.schedule().cooldown;
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if gate.wanted > *self.ended.borrow() {
            return Some(gate.wanted);
        }
        if gate.provoked.is_some_and(|provoked| provoked.elapsed() < cooldown) {
            // Whoever looked before that fetch ended is told by what it brought: nothing is owed for him.
            let is_newer = self.current.load().as_ref().is_some_and(|set| set.generation() != seen);
            if !is_newer && !std::mem::replace(&mut gate.owed, true) {
                // The keeper sleeps no longer than until then.
                self.wake.notify_one();
            }
            return None;
        }
        gate.provoked = Some(Instant::now());
        // One that is under way may have begun before the key was there.
        gate.wanted = gate.begun + 1;
        self.wake.notify_one();
        Some(gate.wanted)
    }

    /// Waits until this fetch has ended; not where too many wait already, and not for ever.
    async fn wait_for(&self, fetch: u64) {
        if *self.ended.borrow() >= fetch {
            return;
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _seat = Seat(&self.waiting);
        if before < WAITERS_MAX {
            let mut ended = self.ended.subscribe();
            // Too late, or over: what is there then is what there is.
            let _ = tokio::time::timeout(PATIENCE, ended.wait_for(|ended| *ended >= fetch)).await;
        }
    }

    /// Begins a fetch, if one is due, asked for or owed.
    pub(super) fn begin(&self, due: bool) -> bool {
        let cooldown = self.schedule().cooldown;
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_owed = gate.owed_at(cooldown).is_some_and(|at| at <= now);
        let begins = due || is_owed || gate.wanted > gate.begun;
        if begins {
            gate.begun += 1;
            gate.owed = false;
        }
        if is_owed {
            // Whoever meets an unknown key meanwhile waits for this one.
            gate.wanted = gate.wanted.max(gate.begun);
            gate.provoked = Some(now);
        }
        begins
    }

    /// When a fetch is owed for a key that was unknown within the cool-down.
    pub(super) fn owed_at(&self) -> Option<Instant> {
        let cooldown = self.schedule().cooldown;
        self.gate.lock().unwrap_or_else(PoisonError::into_inner).owed_at(cooldown)
    }

    /// Ends the fetch that has begun.
    pub(super) fn end(&self, outcome: Outcome) {
        let count = Outcome::ALL.iter().position(|one| *one == outcome).and_then(|at| self.outcomes.get(at));
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.failing.store(!matches!(outcome, Outcome::Fetched | Outcome::Unchanged), Ordering::Relaxed);
        let begun = self.gate.lock().unwrap_or_else(PoisonError::into_inner).begun;
        self.ended.send_replace(begun);
    }

    /// These are its keys, known to be so at this time.
    pub(super) fn put(&self, set: Arc<KeySet>, confirmed: u64) {
        self.left_out.store(set.left_out(), Ordering::Relaxed);
        self.current.store(Some(set));
        self.confirm(confirmed);
    }

    /// They still are.
    pub(super) fn confirm(&self, confirmed: u64) {
        self.confirmed.store(confirmed, Ordering::Relaxed);
    }

    /// They are too old to be used.
    pub(super) fn drop_keys(&self) {
        self.current.store(None);
    }

    /// For metrics.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let counts = Outcome::ALL.iter().zip(&self.outcomes);
        let mut figures: Vec<_> = counts
            .map(|(outcome, count)| Figure::IssuerFetches {
                result: outcome.as_str(),
                count: count.load(Ordering::Relaxed),
            })
            .collect();
        figures.push(Figure::IssuerKeys(self.current.load().as_ref().map_or(0, |set| set.len())));
        figures.push(Figure::IssuerKeysLeftOut(self.left_out.load(Ordering::Relaxed)));
        let confirmed = self.confirmed.load(Ordering::Relaxed);
        if confirmed > 0 {
            figures.push(Figure::IssuerKeysAge(now().saturating_sub(confirmed)));
        }
        figures
    }
}

/// Its keeper learns at once that nobody wants the keys any more.
impl Drop for Issuer {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The keys of the copy, judged anew, if they are not too old.
fn kept(source: &str, path: Option<&PathBuf>, schedule: Schedule) -> Option<Known> {
    let path = path?;
    let kept: Kept = copy::read(path, source, DOCUMENT_BYTES_MAX)?;
    let set = match KeySet::parse(kept.document.as_bytes()) {
        Ok(set) => Arc::new(set),
        Err(cause) => {
            log::warn!("`{}` is not used: {cause}", path.display());
            return None;
        }
    };
    let known = Known { kept, set };
    known.left(schedule, now()).map(|_| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(cooldown: Duration, fetched: bool) -> Issuer {
        let day = Duration::from_secs(24 * 60 * 60);
        Issuer::new(Schedule { refresh: day, cooldown, stale_keys_max: day }, fetched)
    }

    fn issuer() -> Issuer {
        with(Duration::from_secs(600), true)
    }

    #[test]
    fn of_several_schedules_the_shorter_times_hold_while_somebody_wants_them() {
        let issuer = issuer();
        let times = |refresh, cooldown, stale| Schedule {
            refresh: Duration::from_secs(refresh),
            cooldown: Duration::from_secs(cooldown),
            stale_keys_max: Duration::from_secs(stale),
        };
        let one = issuer.join(times(900, 30, 86_400));
        assert_eq!(issuer.schedule(), *one);
        let other = issuer.join(times(600, 60, 3600));
        assert_eq!(issuer.schedule(), times(600, 30, 3600));
        drop(one);
        assert_eq!(issuer.schedule(), *other);
        drop(other);
        assert_eq!(issuer.schedule(), times(600, 60, 3600), "as it was");
    }

    #[tokio::test]
    async fn while_the_issuer_ails_nobody_knows_whether_a_key_is_its_own() {
        let issuer = Arc::new(issuer());
        issuer.put(Arc::new(KeySet::of_secret(&[1; 32])), 1);
        let seen = issuer.current.load().as_ref().unwrap().generation();
        let own = Arc::clone(&issuer);
        let waiting = tokio::spawn(async move { own.after_unknown(seen).await.map(|set| set.is_some()) });
        while !issuer.begin(false) {
            tokio::task::yield_now().await;
        }
        issuer.end(Outcome::Failed);
        assert_eq!(waiting.await.unwrap(), Err(Unasked));
        assert!(issuer.after_unknown(seen).await.is_err(), "within the cool-down too");
        assert!(issuer.begin(true));
        issuer.end(Outcome::Unchanged);
        assert!(issuer.after_unknown(seen).await.unwrap().is_none(), "it has said so");
    }

    #[test]
    fn unknown_keys_provoke_one_fetch_a_cool_down() {
        let issuer = issuer();
        assert!(issuer.begin(true), "the first is due");
        // It is under way: what is asked for now is the one after it, once.
        assert_eq!((issuer.provoke(0), issuer.provoke(0)), (Some(2), Some(2)));
        issuer.end(Outcome::Fetched);
        assert_eq!(issuer.provoke(0), Some(2), "still to come");
        assert!(issuer.begin(false));
        assert!(!issuer.begin(false), "nobody asks for a third");
        assert_eq!(issuer.provoke(0), Some(2), "under way");
        issuer.end(Outcome::Failed);
        assert_eq!((issuer.provoke(0), issuer.begin(false)), (None, false), "within the cool-down");
        assert!(issuer.owed_at().is_some_and(|at| at > Instant::now()), "one is owed at its end");
        // Any that begins later will do.
        assert!(issuer.begin(true));
        issuer.end(Outcome::Fetched);
        assert_eq!(issuer.owed_at(), None);
        let short = with(Duration::ZERO, true);
        for round in 1..4 {
            assert_eq!(short.provoke(0), Some(round));
            assert!(short.begin(false));
            short.end(Outcome::Unchanged);
        }
        assert_eq!(with(Duration::ZERO, false).provoke(0), None, "nobody fetches");
    }

    #[test]
    fn what_is_owed_is_fetched_once_when_the_cool_down_ends() {
        let issuer = with(Duration::from_millis(80), true);
        assert_eq!(issuer.provoke(0), Some(1));
        assert!(issuer.begin(false));
        issuer.end(Outcome::Fetched);
        assert_eq!((issuer.provoke(0), issuer.provoke(0), issuer.begin(false)), (None, None, false));
        let at = issuer.owed_at().unwrap();
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        assert!(issuer.begin(false), "nobody has asked again");
        assert_eq!((issuer.owed_at(), issuer.begin(false)), (None, false));
        assert_eq!(issuer.provoke(0), Some(2), "it is waited for, and not followed by a third");
        issuer.end(Outcome::Fetched);
        assert_eq!(issuer.provoke(0), None, "its cool-down has begun with it");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_waits_for_a_bounded_time_and_among_few() {
        let issuer = issuer();
        let began = tokio::time::Instant::now();
        assert!(issuer.first().await.is_none());
        assert_eq!(began.elapsed(), PATIENCE);
        assert_eq!(issuer.waiting.load(Ordering::Relaxed), 0);
        issuer.waiting.store(WAITERS_MAX, Ordering::Relaxed);
        assert!(issuer.first().await.is_none());
        assert_eq!(began.elapsed(), PATIENCE, "at once");
        assert_eq!(issuer.waiting.load(Ordering::Relaxed), WAITERS_MAX);
    }

    #[tokio::test]
    async fn a_fetch_that_ends_lets_those_go_on_who_wait() {
        let issuer = Arc::new(issuer());
        let own = Arc::clone(&issuer);
        let waiting = tokio::spawn(async move { own.after_unknown(0).await.unwrap() });
        while !issuer.begin(false) {
            tokio::task::yield_now().await;
        }
        let document = br#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        issuer.put(Arc::new(KeySet::parse(document).unwrap()), 1);
        issuer.end(Outcome::Fetched);
        let set = waiting.await.unwrap().unwrap();
        assert_eq!(set.len(), 1);
        assert!(
            issuer.after_unknown(set.generation()).await.unwrap().is_none(),
            "at once: within the cool-down"
        );
        assert!(issuer.owed_at().is_some());
        assert!(issuer.after_unknown(0).await.unwrap().is_some(), "there is another set than that one");
    }

    #[test]
    fn nothing_is_owed_to_who_looked_before_the_fetch_ended() {
        let issuer = issuer();
        assert_eq!(issuer.provoke(0), Some(1));
        assert!(issuer.begin(false));
        issuer.put(Arc::new(KeySet::of_secret(&[1; 32])), 1);
        issuer.end(Outcome::Fetched);
        assert_eq!((issuer.provoke(0), issuer.owed_at()), (None, None), "what he has not seen is there");
        let seen = issuer.current.load().as_ref().unwrap().generation();
        assert_eq!(issuer.provoke(seen), None);
        assert!(issuer.owed_at().is_some());
    }

    #[test]
    fn a_log_is_told_no_query() {
        let source = Source::Url("https://a.example/keys?token=hunter2".to_owned());
        assert_eq!(source.to_string(), "https://a.example/keys");
    }
}
