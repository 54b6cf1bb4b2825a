//! Sockets: bound before anything is served, shared by all workers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind, getsockname, listen,
    socket_with,
};
use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, UnixListener};

use super::sock::Transport;
use crate::gateway::ListenAddress;

/// Connections that the kernel keeps until they are accepted; it takes `net.core.somaxconn` if that is less.
const BACKLOG: i32 = 4096;

/// What the kernel takes beyond what the client's window lets it send, in bytes. A write that waits goes on when half of it has
/// gone: without this, some megabytes later, which no slow client takes within `write_stall`.
const UNSENT: u32 = 128 * 1024;

/// A listening socket. Clones share the kernel's queue; the file of a Unix socket goes with the last of them.
#[derive(Debug)]
pub(super) struct Socket {
    socket: OwnedFd,
    file: Option<Arc<SocketFile>>,
}

impl Socket {
    /// Binds and listens.
    ///
    /// # Errors
    /// What the system says; a Unix socket that somebody listens on is `AddrInUse`.
    pub(super) fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => Self::bind_tcp(*address, false),
            ListenAddress::Unix(path) => Self::bind_unix(path),
        }
    }

    /// Binds and listens beside sockets of our own on the same port that are about to end: `0.0.0.0:443` becomes
    /// `127.0.0.1:443`, or the other way round. SO_REUSEPORT for this moment only: a second gateway is refused as ever (Linux
    /// remembers the port as shareable, but only for sockets of the same user that ask for it too).
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub(super) fn bind_beside(address: SocketAddr, leaving: &[&Self]) -> io::Result<Self> {
        let share = |on| leaving.iter().try_for_each(|own| set_socket_reuseport(&own.socket, on));
        let bound = share(true).map_err(io::Error::from).and_then(|()| Self::bind_tcp(address, true));
        share(false)?;
        bound
    }

    fn bind_tcp(address: SocketAddr, beside: bool) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = stream_socket(family)?;
        // A restart does not wait for connections of its predecessor to leave TIME_WAIT.
        set_socket_reuseaddr(&socket, true)?;
        if address.is_ipv6() {
            // `[::]` is IPv6 and nothing else: IPv4 is its own line in the configuration.
            set_ipv6_v6only(&socket, true)?;
        }
        if beside {
            set_socket_reuseport(&socket, true)?;
        }
        // Accepted connections inherit it.
        SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT)?;
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        if beside {
            set_socket_reuseport(&socket, false)?;
        }
        Ok(Self { socket, file: None })
    }

    fn bind_unix(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = stream_socket(AddressFamily::UNIX)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        let file = SocketFile::of(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(Mode::from_raw_mode(0o660).bits()))?;
        listen(&socket, BACKLOG)?;
        Ok(Self { socket, file: Some(Arc::new(file)) })
    }

    /// Another handle on the same socket, for another worker.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, file: self.file.clone() })
    }

    /// Lets no new connection begin, while those whose handshake is under way still arrive: the listener is about to end, and
    /// a connection that comes between the last accept and the close would be reset. Acts on all clones.
    pub(super) fn turn_away(&self) {
        match &self.file {
            Some(file) => file.remove(),
            None => {
                // Classic BPF over the TCP header: drop what has SYN set. A client sends its SYN again after a second and is
                // refused then, or taken by a successor. Accepted connections inherit the filter, harmlessly.
                const SYN: u32 = 0x02;
                let filter = [
                    SockFilter::new(0x30, 0, 0, 13),       // load the flags
                    SockFilter::new(0x45, 0, 1, SYN),      // SYN?
                    SockFilter::new(0x06, 0, 0, 0),        // drop
                    SockFilter::new(0x06, 0, 0, u32::MAX), // keep
                ];
                if let Err(error) = SockRef::from(&self.socket).attach_filter(&filter) {
                    log::debug!("cannot turn new connections away: {error}");
                }
            }
        }
    }

    /// Where it is bound: the port that was chosen for port 0.
    pub(super) fn local(&self, asked: &ListenAddress) -> ListenAddress {
        match (asked, getsockname(&self.socket).map(SocketAddr::try_from)) {
            (ListenAddress::Tcp(_), Ok(Ok(address))) => ListenAddress::Tcp(address),
            _ => asked.clone(),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

/// A worker's handle on a listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "the socket's file goes with it")] Option<Arc<SocketFile>>,
    ),
}

impl Listener {
    /// Registers a socket with the runtime.
    ///
    /// # Errors
    /// It cannot be registered.
    pub(super) fn register(Socket { socket, file }: Socket) -> io::Result<Self> {
        match file {
            None => TcpListener::from_std(socket.into()).map(Self::Tcp),
            Some(_) => UnixListener::from_std(socket.into()).map(|listener| Self::Unix(listener, file)),
        }
    }

    /// The next connection and its peer; no peer on a Unix socket.
    ///
    /// # Errors
    /// What accept(2) says.
    pub(super) async fn accept(&self) -> io::Result<(Transport, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Transport::Tcp(stream), Some(peer)))
            }
            Self::Unix(listener, _) => {
                listener.accept().await.map(|(stream, _)| (Transport::Unix(stream), None))
            }
        }
    }

    /// What is in the kernel's queue now. The runtime may not have heard of it yet, so the kernel itself is asked.
    pub(super) fn accept_queued(&self) -> Option<(Transport, Option<SocketAddr>)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        loop {
            let (socket, peer) = match acceptfrom_with(self, flags) {
                Ok(accepted) => accepted,
                // A client that has gone again; others may stand behind it.
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(_) => return None,
            };
            let peer = match self {
                Self::Tcp(_) => peer.and_then(|peer| SocketAddr::try_from(peer).ok()),
                Self::Unix(..) => None,
            };
            if let Ok(stream) = Transport::adopt(socket, peer) {
                return Some((stream, peer));
            }
        }
    }
}

fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

/// Removes a socket file that nobody listens on: a process that was killed leaves it behind.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it")),
        Err(error) => Err(error),
    }
}

/// The file of a Unix socket, removed with it, unless another socket has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let inode = std::fs::symlink_metadata(path)?.ino();
        Ok(Self { path: path.to_path_buf(), inode })
    }
}

impl SocketFile {
    fn remove(&self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|now| now.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}
