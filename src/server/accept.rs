//! The loop that accepts, and a connection's way from there to its protocol.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pingora_core::apps::HttpServerApp;
use rustix::io::Errno;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::conn::Conn;
use super::counts::{OpenConnection, Unserved};
use super::endpoint::Endpoint;
use super::io::Io;
use super::listen::{Listener, Socket};
use super::sock::{Sock, Transport};
use super::worker::Worker;
use super::{http1, http2};
use crate::gateway::ListenAddress;
use crate::request::{Connection, TlsFacts};

/// How long accepting pauses when the process has no file descriptor left.
const BREATH: Duration = Duration::from_millis(50);

/// Accepts one connection at a time and lets others run in between, until told to stop; then until the queue is empty.
pub(super) async fn accept<A>(
    worker: Arc<Worker<A>>,
    endpoint: Arc<Endpoint>,
    socket: Socket,
    mut stop: oneshot::Receiver<()>,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let listener = match Listener::register(socket) {
        Ok(listener) => listener,
        Err(error) => return log::error!("{}: cannot accept connections: {error}", endpoint.name),
    };
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => worker.place(&endpoint, stream, peer),
            Err(error) if exhausted(&error) => {
                worker.counts.note(Unserved::Descriptors);
                if told.is_none_or(|told| told.elapsed() > Duration::from_secs(1)) {
                    log::error!("{}: connections wait: {error}; raise LimitNOFILE", endpoint.name);
                    told = Some(Instant::now());
                }
                tokio::time::sleep(BREATH).await;
            }
            // A client that has gone again.
            Err(_) => {}
        }
        tokio::task::yield_now().await;
    }
    // What the kernel has accepted is ours: dropping the socket would reset it.
    while let Some((stream, peer)) = listener.accept_queued() {
        worker.place(&endpoint, stream, peer);
    }
}

fn exhausted(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// Carries a connection from its start to its end.
pub(super) async fn carry<A>(
    worker: Arc<Worker<A>>,
    endpoint: Arc<Endpoint>,
    stream: Transport,
    peer: Option<SocketAddr>,
    open: OpenConnection,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let sock = Sock::new(stream, peer);
    let plan = endpoint.plan();
    let Some(terminator) = &plan.tls else {
        let conn = Conn::new(Io::Plain(sock), facts(&worker, &endpoint, peer, None), open);
        return http1::serve(&worker, &endpoint, Box::new(conn)).await;
    };
    let patience = worker.snapshots.load().settings.handshake;
    let settled = match timeout(patience, terminator.accept(sock)).await {
        Ok(Ok(settled)) => settled,
        Ok(Err(error)) => {
            worker.counts.note(Unserved::Handshake);
            return log::debug!("{}: {error}", endpoint.name);
        }
        Err(_) => return worker.counts.note(Unserved::HandshakeTimeout),
    };
    drop(plan);
    let facts = facts(&worker, &endpoint, peer, Some(Arc::new(settled.facts)));
    let conn = Box::new(Conn::new(Io::Tls(settled.stream), facts, open));
    if settled.http2 {
        http2::serve(&worker, &endpoint, conn).await;
    } else {
        http1::serve(&worker, &endpoint, conn).await;
    }
}

fn facts<A>(
    worker: &Worker<A>,
    endpoint: &Endpoint,
    peer: Option<SocketAddr>,
    tls: Option<Arc<TlsFacts>>,
) -> Arc<Connection> {
    Arc::new(Connection {
        listener: Arc::clone(&endpoint.name),
        peer,
        local_port: match &endpoint.local {
            ListenAddress::Tcp(address) => Some(address.port()),
            ListenAddress::Unix(_) => None,
        },
        tls,
        redirect: endpoint.redirect(),
        leaving: endpoint.leaving(),
        worker: worker.index,
        tunnel: false.into(),
        head_began: Mutex::new(None),
    })
}
