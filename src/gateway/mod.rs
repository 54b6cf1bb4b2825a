//! The compiled configuration, and the one way of every request through it.

pub mod document;
mod listener;
mod passage;
mod snapshots;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use listener::{ListenAddress, Listener};
pub use passage::{Admission, Admitted, Passage};
pub use snapshots::Snapshots;

use crate::config::{Build, Spanned};
use crate::state::Live;
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
    /// Where requests are forwarded to.
    pub upstreams: Vec<Arc<crate::upstream::Upstream>>,
    /// Where the stub hands its records.
    pub settled: Option<tokio::sync::mpsc::UnboundedSender<crate::record::Record>>,
}

impl Gateway {
    /// Compiles a document. None when `build.errors` says why.
    pub fn compile(_document: &Document, _live: &Live, _generation: u64, _build: &mut Build) -> Option<Self> {
        None
    }

    /// The listener at this address, as this snapshot knows it.
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| *listener.name == *name)
    }
}

#[expect(dead_code, reason = "names the shape that compile works on")]
type Written<T> = Spanned<T>;
