//! A worker: one thread, one runtime, its share of every listener's connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pingora_core::apps::HttpServerApp;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::accept::{Ends, accept, carry};
use super::admission::OpenConnection;
use super::counts::{Counts, Unserved};
use super::endpoint::Endpoint;
use super::listen::Socket;
use super::refuse;
use super::sock::{Sock, Transport};
use crate::gateway::Snapshots;

/// What a worker is told.
pub(super) enum Order {
    /// Accept from this socket too.
    Listen(Arc<Endpoint>, Socket),
    /// Empty this endpoint's queue, stop accepting from it, and say so.
    Stop(Arc<Endpoint>, oneshot::Sender<()>),
    /// Carry this connection, which another worker has accepted.
    Carry(Accepted),
    /// Leave, whatever is still open.
    Leave,
}

/// A connection on its way to its worker; counted as open from here on, so that draining waits for it.
pub(super) struct Accepted {
    endpoint: Arc<Endpoint>,
    socket: OwnedFd,
    peer: Option<SocketAddr>,
    open: OpenConnection,
}

/// What a worker's tasks share.
pub(super) struct Worker<A> {
    pub(super) index: usize,
    pub(super) app: Arc<A>,
    pub(super) snapshots: Snapshots,
    pub(super) counts: Arc<Counts>,
    /// Connections carried, by worker.
    pub(super) loads: Arc<[AtomicU64]>,
    /// The ways to all workers.
    pub(super) orders: Arc<[mpsc::UnboundedSender<Order>]>,
}

impl<A> Worker<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    /// Runs on its own thread until it is told to leave.
    pub(super) fn run(self, runtime: tokio::runtime::Runtime, mut inbox: mpsc::UnboundedReceiver<Order>) {
        let worker = Arc::new(self);
        runtime.block_on(async {
            let mut accepting: HashMap<*const Endpoint, (oneshot::Sender<()>, JoinHandle<()>)> =
                HashMap::new();
            while let Some(order) = inbox.recv().await {
                match order {
                    Order::Leave => break,
                    Order::Listen(endpoint, socket) => {
                        let (stop, stopped) = oneshot::channel();
                        let key = Arc::as_ptr(&endpoint);
                        let task = tokio::spawn(accept(Arc::clone(&worker), endpoint, socket, stopped));
                        accepting.insert(key, (stop, task));
                    }
                    Order::Stop(endpoint, done) => {
                        if let Some((stop, task)) = accepting.remove(&Arc::as_ptr(&endpoint)) {
                            drop(stop);
                            // Ends as soon as the queue is empty; a panic in it has been told already.
                            let _ = task.await;
                        }
                        let _ = done.send(());
                    }
                    Order::Carry(Accepted { endpoint, socket, peer, open }) => {
                        if let Ok(stream) = Transport::adopt(socket, peer) {
                            tokio::spawn(carry(Arc::clone(&worker), endpoint, stream, peer, open));
                        }
                    }
                }
            }
        });
        runtime.shutdown_background();
    }

    /// Gives an accepted connection to the worker that has carried the fewest, if this one is ahead of it.
    ///
    /// The kernel wakes whoever it likes, and on a quiet machine always the same one. Handing over costs a wake-up, so a
    /// lead of 1/16 is left alone.
    pub(super) fn place(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        stream: Transport,
        peer: Option<SocketAddr>,
    ) {
        let most = self.snapshots.load().settings.connections;
        let Some(open) = self.counts.admit(&endpoint.counts, most) else {
            let sock = Sock::new(stream, peer);
            let ends = Ends::of(endpoint, &sock, peer);
            return refuse::connection(self, endpoint, sock, ends, Unserved::Connections);
        };
        let load = |index: usize| self.loads.get(index).map_or(0, |load| load.load(Ordering::Relaxed));
        let own = load(self.index);
        let (least, fewest) =
            (0..self.loads.len()).map(|i| (i, load(i))).min_by_key(|(_, n)| *n).unwrap_or((self.index, own));
        let chosen = if own > fewest + (own / 16).max(1) { least } else { self.index };
        if let Some(load) = self.loads.get(chosen) {
            load.fetch_add(1, Ordering::Relaxed);
        }
        let endpoint = Arc::clone(endpoint);
        let Some(other) = self.orders.get(chosen).filter(|_| chosen != self.index) else {
            tokio::spawn(carry(Arc::clone(self), endpoint, stream, peer, open));
            return;
        };
        if let Ok(socket) = stream.release() {
            // A worker that has left means that the process is leaving.
            let _ = other.send(Order::Carry(Accepted { endpoint, socket, peer, open }));
        }
    }
}
