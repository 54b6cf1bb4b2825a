//! The compiled configuration, and the one way of every request through it.

mod account;
mod answers;
mod authentication;
mod bounds;
pub mod certificates;
pub mod client_trust;
mod compile;
pub mod document;
pub mod explain;
mod identity;
mod limits;
mod listener;
mod names;
mod passage;
mod plans;
pub(crate) mod reasons;
mod route;
mod snapshots;
#[cfg(test)]
pub(crate) mod testing;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use account::Account;
pub use certificates::Certificate;
pub use client_trust::ClientTrust;
pub use compile::state_directory;
pub use listener::{ListenAddress, Listener, ListenerTls};
pub use passage::{Admission, Admitted, Passage, X_REQUEST_ID};
pub use snapshots::Snapshots;

use http::HeaderName;

use crate::config::units::Rate;
use crate::config::{Build, Site};
use crate::egress;
use crate::framing::Pace;
use crate::observe::Telling;
use crate::policy::access::Access;
use crate::policy::auth::identity_token::IdentityTokens;
use crate::policy::auth::{self, Auth, expression_words};
use crate::policy::rate_limit::{Fleet, Kept, Limits, Plans, RateLimit};
use crate::reply::Replies;
use crate::route::Routes;
use crate::state::Live;
use crate::template::Fact;
use crate::upstream::Upstream;
use document::{Document, Underscores};

/// What the process itself is told; compiled from `server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Worker threads.
    pub workers: usize,
    /// The directory for what outlives the process.
    pub state: PathBuf,
    /// The status address.
    pub status: Option<ListenAddress>,
    /// The user to become when started as root.
    pub user: Option<Account>,
    /// The most that draining may take.
    pub drain: Duration,
    /// A TLS handshake, as a whole.
    pub handshake: Duration,
    /// A whole request head.
    pub head: Duration,
    /// An idle keep-alive connection.
    pub keep_alive: Duration,
    /// Connections open at once.
    pub connections: usize,
    /// Of these, by one client.
    pub connections_per_client: usize,
    /// Requests being served at once.
    pub requests_in_flight: usize,
    /// Streams at once on a connection of HTTP/2.
    pub http2_streams: u32,
    /// Resets of streams, and control frames of each kind, on a connection of HTTP/2.
    pub http2_resets: Rate,
    /// Header fields in a request.
    pub header_fields: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Bytes of one header field.
    pub field_bytes: usize,
    /// Bytes of a request target.
    pub uri_bytes: usize,
    /// Requests that a connection may bring.
    pub requests_per_connection: u64,
    /// How fast request bodies must come.
    pub pace: Pace,
    /// How long a client may leave a piece of an answer untaken.
    pub write_stall: Duration,
    /// What becomes of request fields with a `_` in their name.
    pub underscores: Underscores,
    /// Where what only a restart changes was written.
    pub sites: SettingSites,
}

/// Where what only a restart changes was written; the place of `server` for what was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingSites {
    /// `server.workers`.
    pub workers: Site,
    /// `server.state`.
    pub state: Site,
    /// `server.status`.
    pub status: Site,
    /// `server.user`.
    pub user: Site,
}

/// A configuration, compiled: immutable, shared by all workers, held by a request from its start to its end.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Counts the configurations this process has served, from 1.
    pub generation: u64,
    /// SHA-256 of everything the configuration was made of, in hex.
    pub hash: Box<str>,
    /// What the process itself is told.
    pub settings: Settings,
    /// Where clients connect.
    pub listeners: Vec<Arc<Listener>>,
    /// The pools that routes forward to.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The policies of `policies.auth`.
    pub auth: Vec<Arc<Auth>>,
    /// What the gateway may fetch itself.
    pub egress: Arc<egress::Policy>,
    /// What upstreams are told by who a request is from; none where nothing is written of it.
    pub identity_tokens: Option<Arc<IdentityTokens>>,
    /// The fields that only the gateway may tell in who it is: on every route they are taken from what clients send.
    identity_fields: Arc<[HeaderName]>,
    /// The fields in which upstreams are told who it is otherwise: they are taken from what clients send, on every route too.
    told_fields: Arc<[HeaderName]>,
    /// Where API keys are read: they go no further from there.
    key_places: auth::KeyPlaces,
    /// The policies of `policies.rate_limits`.
    pub limits: Vec<Arc<RateLimit>>,
    /// Those of `policies.plans`.
    pub plans: Arc<Plans>,
    /// The nodes that count together with this one.
    pub fleet: Option<Arc<Fleet>>,
    /// Whether some limit lets requests wait for their turn: then it is looked whether their clients leave meanwhile.
    pub has_queues: bool,
    edge_access: Option<Arc<Access>>,
    edge_limits: Option<Arc<Limits>>,
    replies: Arc<Replies>,
    routes: Arc<Routes>,
    entries: Vec<Arc<route::Route>>,
    resources: Arc<passage::Resources>,
    telling: Arc<Telling>,
    /// Listeners of earlier snapshots that still have connections.
    former: OnceLock<Vec<Arc<Listener>>>,
    /// Where tests hear what is settled.
    #[cfg(test)]
    pub(crate) settled: Option<tokio::sync::mpsc::UnboundedSender<crate::record::Record>>,
}

impl Gateway {
    /// Compiles a document. None when `build.errors` says why.
    pub fn compile(document: &Document, live: &Live, generation: u64, build: &mut Build) -> Option<Self> {
        build.sources.know_more(expression_words());
        build.sources.know_more(Fact::ALL.iter().map(|fact| fact.name()));
        build.sources.know_more(["labels", "authorizer", "claims"]);
        compile::compile(document, live, generation, build)
    }

    /// A copy for one worker: what is large is shared, but each worker counts references to a snapshot of its own. Requests take
    /// and leave a snapshot several times; with one count for all, each of these would travel between the cores.
    #[must_use]
    pub fn for_a_worker(&self) -> Arc<Self> {
        Arc::new(self.clone())
    }

    /// The access log and the metrics, as this snapshot has them told.
    pub fn telling(&self) -> &Telling {
        &self.telling
    }

    /// The listener at this address, as this snapshot knows it; one that is no more but still has connections as it last was:
    /// whose word on the client they believe must not change under them.
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.known_listeners().find(|listener| *listener.name == *name)
    }

    /// Those of this snapshot, then those that are no more.
    pub fn known_listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.iter().chain(self.former.get().into_iter().flatten())
    }

    /// Brings what limits have counted so far under this snapshot's; called before it is put in force.
    pub fn put_limits_in_force(&self) {
        self.limits.iter().for_each(|limit| limit.put_in_force());
        self.plans.iter().for_each(|plan| plan.put_in_force());
    }

    /// The tables of limits and of plans' throttles, which outlive the process.
    pub fn kept_limits(&self) -> Vec<Kept> {
        let limits = self.limits.iter().map(|limit| limit.kept());
        limits.chain(self.plans.iter().map(|plan| plan.kept())).collect()
    }

    /// What there is to say of keys whose plan is not in this configuration, once keys have been read.
    pub fn keys_without_their_plan(&self, live: &Live) -> Vec<String> {
        plans::strangers(&self.plans, live)
    }

    /// Tells of listeners that are no more; said once, before this snapshot is put in force. A second word is ignored.
    pub fn remember(&self, former: Vec<Arc<Listener>>) {
        let _ = self.former.set(former);
    }
}
