//! The loop that accepts, and a connection's way from there to its protocol.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pingora_core::apps::HttpServerApp;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::admission::OpenConnection;
use super::clocks::Bounds;
use super::conn::Conn;
use super::counts::Unserved;
use super::endpoint::Endpoint;
use super::io::Io;
use super::listen::{Listener, Socket};
use super::preface::{self, Preface};
use super::sock::{Sock, Transport};
use super::tls::{Failed, Settled, Terminator};
use super::worker::Worker;
use super::{answer, http1, http2, linger, refuse};
use crate::descriptors;
use crate::gateway::ListenAddress;
use crate::proxy_protocol::Header;
use crate::reply::{Kind, Refusal};
use crate::request::{Connection, Fate, TlsFacts};

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
    // Whether the last descriptor that was taken here was one of the last there are.
    let mut scarce = false;
    loop {
        if scarce && !descriptors::are_left_for_clients(&listener) {
            out_of_descriptors(&worker, &endpoint, &mut told);
            tokio::select! {
                biased;
                _ = &mut stop => break,
                () = tokio::time::sleep(BREATH) => continue,
            }
        }
        let accepted = tokio::select! {
            biased;
            _ = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                scarce = descriptors::is_kept_from_clients(stream.raw());
                worker.place(&endpoint, stream, peer);
            }
            Err(error) if exhausted(&error) => {
                out_of_descriptors(&worker, &endpoint, &mut told);
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

/// Connections wait in the kernel's queue: said once a second at most.
fn out_of_descriptors<A>(worker: &Worker<A>, endpoint: &Endpoint, told: &mut Option<Instant>) {
    worker.counts.note(Unserved::Descriptors);
    if told.is_none_or(|told| told.elapsed() > Duration::from_secs(1)) {
        log::error!(
            "{}: connections wait: no file descriptor is left for clients; raise LimitNOFILE",
            endpoint.name
        );
        *told = Some(Instant::now());
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
    mut open: OpenConnection,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let mut sock = Sock::new(stream, peer);
    let plan = endpoint.plan();
    // One deadline for all that comes before the first request.
    let (until, bounds) = {
        let settings = &worker.snapshots.load().settings;
        (tokio::time::Instant::now() + settings.handshake, Bounds::of(settings))
    };
    let mut ends = Ends::of(&endpoint, &sock, peer);
    if plan.proxied.as_ref().is_some_and(|from| from.trusts_peer(peer)) {
        match preface::read(&mut sock, until).await {
            Preface::Header(Header::Client { source, destination }) => {
                ends = Ends { peer: Some(source), local: Some(destination) };
            }
            Preface::Header(Header::Own) => {}
            Preface::Silence => return,
            Preface::Refused(reason, message) => {
                return refuse(&worker, &endpoint, sock, ends, open, (reason, message)).await;
            }
        }
    }
    // Now it is known whose it is.
    if let Some(client) = ends.peer {
        let most = worker.snapshots.load().settings.connections_per_client;
        if let Err(why) = open.count_client(client.ip(), most) {
            drop(open);
            return refuse::connection(&worker, &endpoint, sock, ends, why);
        }
    }
    let Some(terminator) = &plan.tls else {
        let conn = Conn::new(Io::Plain(sock), facts(&worker, &endpoint, ends, None), bounds, open);
        return http1::serve(&worker, &endpoint, Box::new(conn)).await;
    };
    let second = terminator.asks().then(|| second_handle(&sock)).flatten();
    let settled = match timeout_at(until, handshake(terminator, sock)).await {
        Ok(Some(Ok(settled))) => settled,
        // Who looks whether the port is open, as balancers do, is refused nothing.
        Ok(None) => return,
        Err(_) => return refuse::handshake(&worker, &endpoint, ends, Failed::Late),
        Ok(Some(Err(failed @ (Failed::Handshake(_) | Failed::Late)))) => {
            return refuse::handshake(&worker, &endpoint, ends, failed);
        }
        Ok(Some(Err(failed))) => {
            refuse::handshake(&worker, &endpoint, ends, failed);
            // A client of TLS 1.3 may have sent a request by now: unread, it would turn the close into a reset that overtakes the alert.
            let stream = second.and_then(|socket| Transport::adopt(socket, peer).ok());
            if let (Some(stream), Some(_patience)) = (stream, worker.counts.be_patient()) {
                linger::close(Io::Plain(Sock::new(stream, peer)), BytesMut::new(), Some(open)).await;
            }
            return;
        }
    };
    drop(plan);
    let facts = facts(&worker, &endpoint, ends, Some(Arc::new(settled.facts)));
    let conn = Box::new(Conn::new(Io::Tls(settled.stream), facts, bounds, open));
    if settled.http2 {
        http2::serve(&worker, &endpoint, conn).await;
    } else {
        http1::serve(&worker, &endpoint, conn).await;
    }
}

/// Shakes hands with a client that says something; none with one that leaves without a word.
async fn handshake(terminator: &Terminator, sock: Sock) -> Option<Result<Settled, Failed>> {
    if !sock.begins().await {
        return None;
    }
    Some(terminator.accept(sock).await)
}

/// Another handle on a socket, for what is left to do when a handshake has taken the first one with it.
fn second_handle(sock: &Sock) -> Option<OwnedFd> {
    fcntl_dupfd_cloexec(sock, 0).ok().filter(|socket| !descriptors::is_kept_from_clients(socket.as_raw_fd()))
}

/// The two ends of a connection, as they count: those of a PROXY header once it has been read.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
}

impl Ends {
    /// Those of the socket itself.
    pub(super) fn of(endpoint: &Endpoint, sock: &Sock, peer: Option<SocketAddr>) -> Self {
        Self { peer, local: local(endpoint, sock) }
    }
}

/// Where a connection has come to. Asks the system only where the listener is bound to more than one address.
fn local(endpoint: &Endpoint, sock: &Sock) -> Option<SocketAddr> {
    match &endpoint.local {
        ListenAddress::Tcp(address) if address.ip().is_unspecified() => sock.local(),
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    }
}

/// Refuses a connection for what it begins with. Where TLS should follow, no answer could be read.
async fn refuse<A>(
    worker: &Worker<A>,
    endpoint: &Endpoint,
    sock: Sock,
    ends: Ends,
    open: OpenConnection,
    (reason, message): (Unserved, &'static str),
) {
    worker.counts.note(reason);
    let kind = match reason {
        Unserved::ProxyTimeout => Kind::RequestTimeout,
        _ => Kind::AmbiguousRequest,
    };
    let refusal = Refusal::new(kind, reason.as_str(), message);
    let (gateway, began) = (worker.snapshots.load(), Instant::now());
    let bounds = Bounds::of(&worker.snapshots.load().settings);
    let conn = Box::new(Conn::new(Io::Plain(sock), facts(worker, endpoint, ends, None), bounds, open));
    if endpoint.plan().tls.is_some() {
        return answer::unanswered(gateway, conn.connection(), began, &refusal);
    }
    http1::refuse_connection(conn, gateway, began, refusal).await;
}

pub(super) fn facts<A>(
    worker: &Worker<A>,
    endpoint: &Endpoint,
    ends: Ends,
    tls: Option<Arc<TlsFacts>>,
) -> Arc<Connection> {
    Arc::new(Connection {
        listener: Arc::clone(&endpoint.name),
        peer: ends.peer,
        local: ends.local,
        tls,
        redirect: endpoint.redirect(),
        leaving: endpoint.leaving(),
        worker: worker.index,
        tunnel: false.into(),
        head_began: Mutex::new(None),
        fate: Fate::default(),
    })
}
