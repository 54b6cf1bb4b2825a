//! The compiled configuration, and the one way of every request through it.

pub mod certificates;
mod compile;
pub mod document;
pub mod explain;
mod listener;
mod passage;
mod route;
mod snapshots;
#[cfg(test)]
pub(crate) mod testing;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use certificates::Certificate;
pub use compile::state_directory;
pub use listener::{ListenAddress, Listener, ListenerTls};
pub use passage::{Admission, Admitted, Passage, X_REQUEST_ID};
pub use snapshots::Snapshots;

use crate::config::Build;
use crate::observe::Telling;
use crate::policy::access::Access;
use crate::reply::Replies;
use crate::route::Routes;
use crate::state::Live;
use crate::upstream::Upstream;
use document::Document;

/// What the process itself is told; compiled from `server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Worker threads.
    pub workers: usize,
    /// The directory for what outlives the process.
    pub state: PathBuf,
    /// The status address.
    pub status: Option<ListenAddress>,
    /// The most that draining may take.
    pub drain: Duration,
    /// A TLS handshake, as a whole.
    pub handshake: Duration,
    /// A whole request head.
    pub head: Duration,
    /// An idle keep-alive connection.
    pub keep_alive: Duration,
    /// Header fields in a request.
    pub header_fields: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Bytes of one header field.
    pub field_bytes: usize,
    /// Bytes of a request target.
    pub uri_bytes: usize,
}

/// A configuration, compiled: immutable, shared by all workers, held by a request from its start to its end.
#[derive(Debug)]
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
    edge_access: Option<Arc<Access>>,
    replies: Replies,
    routes: Routes,
    entries: Vec<Arc<route::Route>>,
    telling: Telling,
    /// Where tests hear what is settled.
    #[cfg(test)]
    pub(crate) settled: Option<tokio::sync::mpsc::UnboundedSender<crate::record::Record>>,
}

impl Gateway {
    /// Compiles a document. None when `build.errors` says why.
    pub fn compile(document: &Document, live: &Live, generation: u64, build: &mut Build) -> Option<Self> {
        compile::compile(document, live, generation, build)
    }

    /// The access log and the metrics, as this snapshot has them told.
    pub fn telling(&self) -> &Telling {
        &self.telling
    }

    /// The listener at this address, as this snapshot knows it.
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| *listener.name == *name)
    }
}
