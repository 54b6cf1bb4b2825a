//! One limit for all nodes of a fleet.
//!
//! # How it works
//! The bucket is in the store (`server.fleet`): one point in time by the store's own clock, as in `gcra.rs`, changed by one script
//! (`lease.lua`) that runs as one step. A node leases tokens of a key in batches and decides by what it holds; what is not used
//! goes back. How much is leased, and what is known without asking, stands in `account.rs`.
//!
//! # What it promises
//! Only what the store has charged is spent, so over any time `t` all nodes together let pass at most `burst + rate · t` and what
//! they held in leases at its beginning. And a request is refused only where the store has too few tokens left, which is at most what other
//! nodes hold in leases fewer than a perfect limiter has. Either way the error is at most one lease a node, all leases together at
//! most `server.fleet.lease` (a tenth) of the limit's count and burst, `strict` none at all. This holds while the store answers, and
//! where the burst is at least what the rate refills in a way to the store and back: a smaller bucket is full, and loses what
//! comes, before it can be asked again.
//!
//! # Without the store
//! What is leased is spent. Then each node holds a key to its share, the limit divided by the number of nodes that the store last
//! counted, in a bucket of its own, which at each decision owes at least the part that the fleet's owes by what the store said last. What
//! has passed so is charged when the store is back, or late, a burst of it at the most. A request waits [`PATIENCE`](leases::PATIENCE) for the store at the most,
//! whatever its limits are, and not at all once the store is late or lost.
//!
//! # Quotas
//! A plan's quota is a count instead of a time (`quota.lua`), leased by the same rules. The store remembers which period of a key was its
//! first, for the sake of `offset`, and is reminded by nodes that know better. With `durable: strict` the store counts each request before it
//! passes, and who gets no answer refuses.
//!
//! A store that comes back with less than it knew hears from each node what that was told; see `account.rs`. What nodes know outlives them and
//! follows to another store (`claims.rs`), and of a quota each node says what it has let pass in all, of which the store knows what is
//! counted (`quota.lua`). A store that loses its memory without its connections is found out by `life.lua`.
//!
//! # Another limit
//! `lease.lua` keeps with a bucket the limit by which it counts, `account.rs` knows by which terms it does: under others a bucket owes as large a
//! part. A quota's count stays what it is.

mod account;
mod claims;
mod leases;
mod limit;
mod node;
mod terms;
#[cfg(test)]
mod tests;
mod wire;

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use openssl::sha::Sha256;
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

pub use claims::{Claims, SavedClaim};
pub use leases::LeaseFigures;
pub(super) use leases::{Leases, Reserved, Wanted};
pub(super) use limit::{FleetLimit, Granted, NO_FLEET, is_strict};
use node::{Node, Whoever};
pub(super) use terms::{Terms, Turn};

use super::{Gcra, HashKey, Nanos};
use crate::config::{Build, Spanned};
use crate::state::Live;
use crate::state::redis::{self, Config, Endpoint, Question, Redis, Script, Status};

/// How often a node is heard of, and after what time it has gone.
const HEARTBEAT: Duration = Duration::from_secs(1);
const GONE: Duration = Duration::from_secs(5);
/// After what time a process has that another of the same node has taken the place of.
const REPLACED: Duration = Duration::from_millis(2_500);
/// How often leases are looked through for what is idle.
const SWEEP: Duration = Duration::from_millis(250);
/// What leases of all nodes may be of a limit, in hundredths of a per cent.
const LEASE: u32 = 1_000;
const LEASE_MAX: u32 = 5_000;
/// More nodes than this share as so many.
const NODES_MAX: u32 = 10_000;
/// How long leases are given back at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// The fleet that this node belongs to.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    /// In hundredths of a per cent.
    lease: u32,
}

/// What outlives a snapshot.
#[derive(Debug)]
struct Shared {
    redis: Arc<Redis>,
    /// This process's name among those that are there.
    process: String,
    /// Who it is from one process to the next; none where nothing is served, or the state directory cannot be used.
    node: Arc<Whoever>,
    /// How many there are.
    nodes: AtomicU32,
    /// Since when the store has its memory; nought before it has said so.
    life: AtomicI64,
    /// The leases of all limits.
    leases: Mutex<Vec<Weak<Leases>>>,
    task: OnceLock<AbortHandle>,
}

/// What there is to tell of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetFigures {
    /// Nodes, as the store last counted them.
    pub nodes: u32,
    /// How it stands with the store.
    pub store: redis::Figures,
}

impl Fleet {
    /// Compiles `server.fleet`. None when `build.errors` says why.
    pub fn compile(config: &Spanned<Config>, live: &Live, build: &mut Build) -> Option<Self> {
        let errors_before = build.errors.errors().len();
        let endpoint = Endpoint::compile(config, build);
        let lease = config.lease.as_ref().map_or(LEASE, |lease| lease.value.0);
        if let Some(written) = config.lease.as_ref().filter(|_| !(1..=LEASE_MAX).contains(&lease)) {
            let cause = format!("`{}` is no share to lease", written.value);
            build.errors.push(
                &written.site,
                &*written.path,
                cause,
                "write from `0.01%` to `50%`; `strict: true` leases nothing",
            );
        }
        let endpoint = endpoint.filter(|_| build.errors.errors().len() == errors_before)?;
        let Ok(process) = node::name() else {
            let cause = "this machine has no randomness to name the node by";
            build.errors.push(&config.site, &*config.path, cause, "look at its random device");
            return None;
        };
        let definition = endpoint.definition().to_owned();
        let redis = Redis::of(endpoint, live);
        let shared = live.find_or("fleet", &definition, || Shared {
            redis,
            process,
            node: Arc::default(),
            nodes: AtomicU32::new(0),
            life: AtomicI64::new(0),
            leases: Mutex::default(),
            task: OnceLock::new(),
        });
        let assumed = config.nodes.as_ref().map_or(1, |nodes| nodes.value);
        let _ = shared.nodes.compare_exchange(0, assumed, Ordering::Relaxed, Ordering::Relaxed);
        if let Some(runtime) = live.runtime() {
            shared.task.get_or_init(|| runtime.spawn(attend(Arc::downgrade(&shared))).abort_handle());
            let (own, directory) = (Arc::clone(&shared), live.directory().to_owned());
            let settled = live.open_settled(move || {
                own.remember(&directory);
                Ok(())
            });
            debug_assert!(settled.is_ok(), "it is told in the log");
        }
        Some(Self { shared, lease })
    }

    /// What there is to tell.
    pub fn figures(&self) -> FleetFigures {
        FleetFigures { nodes: self.nodes(), store: self.shared.redis.figures() }
    }

    /// Gives back what is leased and leaves the fleet, before the process ends; a second at the most. The runtime has gone by then. Gives what
    /// this node knows, to be kept for the process after it.
    pub fn leave(&self) -> Vec<Claims> {
        // What is being noted in the background may not come to its end.
        if let Some(node) = self.shared.node.get().and_then(Option::as_ref)
            && node.nodes() <= self.nodes()
            && let Err(error) = node.note(self.nodes())
        {
            log::warn!("fleet: how many nodes there are cannot be noted: {error}");
        }
        let claims = self.claims();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if self.shared.redis.status() != Status::Lost
            && let Ok(runtime) = runtime
        {
            let leases = self.shared.leases();
            let questions = leases.iter().flat_map(|leases| leases.give_all_back(Nanos::now()));
            let last = self.shared.heard_of("leave", |_| {});
            let questions = questions.chain(std::iter::once(last)).collect();
            runtime.block_on(self.shared.redis.ask_at_last(questions, FAREWELL));
        }
        claims
    }

    /// The leases of a limit, known to all nodes by its name and its key; found again after a reload, also of another memory.
    fn leases(&self, name: &str, key: &str, bytes: usize, live: &Live) -> (Arc<Leases>, HashKey) {
        let redis = &self.shared.redis;
        let named = format!("{name} {key}");
        let definition = format!("{:p} {named}", Arc::as_ptr(redis));
        let make = || Leases::new(&named, Arc::clone(redis), Arc::clone(&self.shared.node), bytes);
        let leases = live.find_or("leases", &definition, make);
        leases.follow(live);
        let mut all = self.shared.leases.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|own| own.strong_count() > 0);
        if !all.iter().any(|own| Weak::as_ptr(own) == Arc::as_ptr(&leases)) {
            all.push(Arc::downgrade(&leases));
        }
        drop(all);
        // The same on every node, and so no secret: two keys that are taken for one share a bucket, which harms who has made them up.
        let mut hash = Sha256::new();
        for part in ["portcullis fleet 2", name, key] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut bytes = Zeroizing::new([0; 16]);
        bytes.iter_mut().zip(hash.finish()).for_each(|(byte, hashed)| *byte = hashed);
        (leases, HashKey::from_bytes(bytes))
    }

    /// What the store knows this node by, once that is known.
    pub(super) fn node(&self) -> Option<String> {
        Some(self.shared.node.get()?.as_ref()?.name().to_owned())
    }

    /// How many nodes there are, at least one.
    fn nodes(&self) -> u32 {
        self.shared.nodes.load(Ordering::Relaxed).clamp(1, NODES_MAX)
    }

    /// The most that this node may hold of a limit.
    fn lease_of(&self, count: u32, gcra: &Gcra) -> u32 {
        let all = (u64::from(count) + gcra.burst()).saturating_mul(self.lease.into()) / 10_000;
        u32::try_from(all / u64::from(self.nodes())).unwrap_or(u32::MAX)
    }

    /// Whether the store is lost.
    fn is_alone(&self) -> bool {
        self.shared.redis.status() == Status::Lost
    }

    /// Whether no store will ever be asked: in `check` and `explain`.
    fn is_asleep(&self) -> bool {
        self.shared.redis.is_asleep()
    }
}

impl Shared {
    fn leases(&self) -> Vec<Arc<Leases>> {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.iter().filter_map(Weak::upgrade).collect()
    }

    /// Becomes the node of this state directory, where it has not yet.
    fn remember(&self, directory: &Path) {
        let node = self.node.get_or_init(|| match Node::of(directory) {
            Ok(node) => Some(Arc::new(node)),
            Err(error) => {
                log::warn!(
                    "fleet: `{}` cannot be used: {error}; a node that begins without the store takes itself for one of \
                     `server.fleet.nodes`, and quotas that move to another store begin anew there",
                    directory.join(node::FILE).display()
                );
                None
            }
        });
        // Until the store says so.
        let _ = self.nodes.fetch_max(node.as_ref().map_or(0, |node| node.nodes()), Ordering::Relaxed);
    }

    /// The question since when the store has its memory. One that has lost it though the connection lives (FLUSHALL, a failover that nobody noticed) is
    /// told all, like one that was lost.
    fn since_when(self: &Arc<Self>) -> Question {
        static SCRIPT: OnceLock<Script> = OnceLock::new();
        let own = Arc::downgrade(self);
        Question {
            script: SCRIPT.get_or_init(|| Script::new(include_str!("life.lua"))),
            key: "life".to_owned(),
            arguments: vec![(2 * GONE).as_millis().to_string()],
            answer: Box::new(move |answer| {
                let life = answer.ok().and_then(|numbers| numbers.first().copied());
                if let (Some(own), Some(life)) = (own.upgrade(), life) {
                    let before = own.life.swap(life, Ordering::Relaxed);
                    if before != 0 && before != life {
                        own.redis.has_forgotten();
                    }
                }
            }),
        }
    }

    /// This process of this node, as the others hear of it.
    fn member(&self) -> String {
        let node = self.node.get().and_then(Option::as_ref).map_or(&*self.process, |node| node.name());
        format!("{node}:{}", self.process)
    }

    /// Notes how many nodes there are, where that is news.
    fn note(&self, nodes: u32) {
        let Some(node) = self.node.get().cloned().flatten() else { return };
        if node.is_news(nodes, Instant::now()) {
            let noting = move || {
                if let Err(error) = node.note(nodes) {
                    log::warn!("fleet: that there are {nodes} nodes cannot be noted: {error}");
                }
            };
            drop(tokio::task::spawn_blocking(noting));
        }
    }

    /// The question how many nodes there are; `told` hears it.
    fn heard_of(&self, word: &str, told: impl FnOnce(u32) + Send + 'static) -> Question {
        static SCRIPT: OnceLock<Script> = OnceLock::new();
        Question {
            script: SCRIPT.get_or_init(|| Script::new(include_str!("nodes.lua"))),
            key: "nodes".to_owned(),
            arguments: vec![
                self.member(),
                GONE.as_millis().to_string(),
                word.to_owned(),
                REPLACED.as_millis().to_string(),
            ],
            answer: Box::new(move |answer| {
                if let Some(nodes) = answer.ok().and_then(|numbers| u32::try_from(*numbers.first()?).ok()) {
                    told(nodes);
                }
            }),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// Lets the others hear of this node, and gives back what is idle, for as long as the fleet is configured.
async fn attend(shared: Weak<Shared>) {
    let mut turn = 0_u32;
    let turns = u32::try_from(HEARTBEAT.as_millis() / SWEEP.as_millis()).unwrap_or(1);
    let mut was = Status::Lost;
    loop {
        {
            let Some(own) = shared.upgrade() else { return };
            let is = own.redis.status();
            // Who it is stands before the first word of it.
            let is_known = own.node.get().is_some();
            if is_known && is != Status::Lost && (was == Status::Lost || turn.is_multiple_of(turns)) {
                let weak = Weak::clone(&shared);
                own.redis.ask(own.since_when());
                own.redis.ask(own.heard_of("stay", move |nodes| {
                    if let Some(own) = weak.upgrade() {
                        own.nodes.store(nodes.max(1), Ordering::Relaxed);
                        own.note(nodes.clamp(1, NODES_MAX));
                    }
                }));
            }
            was = is;
            let now = Nanos::now();
            own.leases().iter().for_each(|leases| leases.sweep(now));
        }
        turn = turn.wrapping_add(1);
        tokio::time::sleep(SWEEP).await;
    }
}
