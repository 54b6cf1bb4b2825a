//! Origins of our own: plain threads and blocking sockets, so that a test says byte by byte what an upstream does.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use openssl::ssl::{SslAcceptor, SslMethod};

use super::Pair;

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    heads: Mutex<Vec<String>>,
    open: Mutex<Vec<TcpStream>>,
    stopping: AtomicBool,
}

/// An upstream server. Stops, and closes its connections, when dropped.
#[derive(Debug)]
pub(crate) struct Origin {
    address: SocketAddr,
    seen: Arc<Seen>,
    acceptor: Option<JoinHandle<()>>,
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// The origin's side of a connection.
pub(crate) struct Peer {
    wire: Box<dyn Wire>,
    tcp: TcpStream,
    buffer: Vec<u8>,
    seen: Arc<Seen>,
}

impl Origin {
    /// `serve` has each connection to itself.
    pub(crate) fn serve(serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        Self::begin("127.0.0.1:0".parse().unwrap(), None, Arc::new(serve))
    }

    /// The same, on a given address: a server that comes back.
    pub(crate) fn serve_at(address: SocketAddr, serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        Self::begin(address, None, Arc::new(serve))
    }

    /// The same, over TLS.
    pub(crate) fn serve_tls(pair: &Pair, serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_certificate(&pair.certificate).unwrap();
        acceptor.set_private_key(&pair.key).unwrap();
        Self::begin("127.0.0.1:0".parse().unwrap(), Some(acceptor.build()), Arc::new(serve))
    }

    /// The same, over TLS that begins behind `length` bytes, which are told.
    pub(crate) fn serve_tls_after(
        pair: &Pair,
        length: usize,
        told: Sender<Vec<u8>>,
        serve: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_certificate(&pair.certificate).unwrap();
        acceptor.set_private_key(&pair.key).unwrap();
        let acceptor = acceptor.build();
        Self::serve(move |peer| {
            let Some(first) = peer.read_bytes(length) else { return };
            told.send(first).ok();
            let Ok(tls) = acceptor.accept(peer.tcp.try_clone().unwrap()) else { return };
            peer.wire = Box::new(tls);
            serve(peer);
        })
    }

    /// Answers every request of a keep-alive connection: `answer` gets the head and writes what it likes; a `false`
    /// closes the connection.
    pub(crate) fn each(answer: impl Fn(&str, &mut Peer) -> bool + Send + Sync + 'static) -> Self {
        Self::serve(loop_of(answer))
    }

    /// Answers `late`, each request once it is told to; and how to tell it.
    pub(crate) fn waiting() -> (Self, Sender<()>) {
        let (go, gone) = std::sync::mpsc::channel();
        let gone = Mutex::new(gone);
        let origin = Self::each(move |head, peer| {
            peer.drain_body(head);
            gone.lock().unwrap().recv().ok();
            peer.answer(200, "late")
        });
        (origin, go)
    }

    /// Answers with the exact head it received as the body.
    pub(crate) fn echo() -> Self {
        Self::serve(Self::echoing())
    }

    pub(crate) fn echoing() -> impl Fn(&mut Peer) + Send + Sync + 'static {
        loop_of(|head, peer| {
            peer.drain_body(head);
            peer.answer(200, head)
        })
    }

    /// Answers with this text.
    pub(crate) fn named(name: &'static str) -> Self {
        Self::each(move |head, peer| {
            peer.drain_body(head);
            peer.answer(200, name)
        })
    }

    /// Answers the first request of each connection with these bytes, as they are, and closes.
    pub(crate) fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::serve(move |peer| {
            if peer.read_head().is_some() {
                peer.write(&bytes);
            }
        })
    }

    fn begin(
        address: SocketAddr,
        tls: Option<SslAcceptor>,
        serve: Arc<dyn Fn(&mut Peer) + Send + Sync>,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("origin at {address}: {e}"));
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let ours = Arc::clone(&seen);
        let acceptor = std::thread::spawn(move || accept(&listener, &ours, tls.as_ref(), &serve));
        Self { address, seen, acceptor: Some(acceptor) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Heads received so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap().clone()
    }

    /// How many of them ask for this path (with or without query).
    pub(crate) fn requests_of(&self, path: &str) -> usize {
        let of = |head: &String| head.split(' ').nth(1).is_some_and(|t| t.split('?').next() == Some(path));
        self.heads().iter().filter(|head| of(head)).count()
    }

    /// Dies as a killed process does: the port refuses, connections are cut.
    pub(crate) fn kill(mut self) -> SocketAddr {
        self.end();
        self.address
    }

    fn end(&mut self) {
        self.seen.stopping.store(true, Ordering::SeqCst);
        // Wakes `accept`, which then sees that it is to stop.
        TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).ok();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().ok();
        }
        for stream in self.seen.open.lock().unwrap().drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.end();
    }
}

fn loop_of(
    answer: impl Fn(&str, &mut Peer) -> bool + Send + Sync + 'static,
) -> impl Fn(&mut Peer) + Send + Sync + 'static {
    move |peer| {
        while let Some(head) = peer.read_head() {
            if !answer(&head, peer) {
                return;
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    seen: &Arc<Seen>,
    tls: Option<&SslAcceptor>,
    serve: &Arc<dyn Fn(&mut Peer) + Send + Sync>,
) {
    for stream in listener.incoming().map_while(Result::ok) {
        if seen.stopping.load(Ordering::SeqCst) {
            return;
        }
        stream.set_nodelay(true).ok();
        seen.connections.fetch_add(1, Ordering::SeqCst);
        let (Ok(kept), Ok(tcp)) = (stream.try_clone(), stream.try_clone()) else { return };
        seen.open.lock().unwrap().push(kept);
        let (tls, serve, seen) = (tls.cloned(), Arc::clone(serve), Arc::clone(seen));
        std::thread::spawn(move || {
            let wire: Box<dyn Wire> = match tls {
                None => Box::new(stream),
                // A client that does not like the certificate leaves here.
                Some(acceptor) => match acceptor.accept(stream) {
                    Ok(stream) => Box::new(stream),
                    Err(_) => return,
                },
            };
            let mut peer = Peer { wire, tcp, buffer: Vec::new(), seen };
            serve(&mut peer);
            peer.tcp.shutdown(Shutdown::Both).ok();
        });
    }
}

impl Peer {
    /// The next request's head with its final blank line; none when the connection ends.
    pub(crate) fn read_head(&mut self) -> Option<String> {
        let head = self.read_until(b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&head).into_owned();
        self.seen.heads.lock().unwrap().push(head.clone());
        Some(head)
    }

    /// A line with its end.
    pub(crate) fn read_line(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(&self.read_until(b"\r\n")?).into_owned())
    }

    /// So many bytes; nothing behind them is taken from the socket.
    pub(crate) fn read_bytes(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.wire.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    fn read_until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                return Some(self.buffer.drain(..at + mark.len()).collect());
            }
            if self.read_some().is_empty() {
                return None;
            }
        }
    }

    /// What there is in the buffer after one more read; empty at the end of the stream.
    fn read_some(&mut self) -> &[u8] {
        let mut piece = [0; 64 << 10];
        let read = self.wire.read(&mut piece).unwrap_or(0);
        self.buffer.extend_from_slice(&piece[..read]);
        if read == 0 { &[] } else { &self.buffer }
    }

    /// Some bytes, as they come; none at the end of the stream.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        if self.buffer.is_empty() && self.read_some().is_empty() {
            return None;
        }
        Some(std::mem::take(&mut self.buffer))
    }

    /// Reads a body to its end as its head says; gives how many bytes of content it had.
    pub(crate) fn drain_body(&mut self, head: &str) -> u64 {
        if field(head, "transfer-encoding").is_some() {
            return self.drain_chunks();
        }
        let length = field(head, "content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        self.drain(length)
    }

    /// Reads a body by the letter of RFC 9112 §6.3 and §7.1: none where it is cut short or malformed.
    pub(crate) fn whole_body(&mut self, head: &str) -> Option<Vec<u8>> {
        if field(head, "transfer-encoding").is_none() {
            let length = field(head, "content-length").map_or(Some(0), |v| v.parse().ok())?;
            return self.exactly(length);
        }
        self.chunks().map(|chunks| chunks.concat())
    }

    /// The content of each chunk of a chunked body, read as strictly.
    pub(crate) fn chunks(&mut self) -> Option<Vec<Vec<u8>>> {
        let mut chunks = Vec::new();
        loop {
            let line = self.read_until(b"\r\n")?;
            let size =
                usize::from_str_radix(std::str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?, 16).ok()?;
            let chunk = self.exactly(size)?;
            if self.exactly(2)? != b"\r\n" {
                return None;
            }
            if size == 0 {
                return Some(chunks);
            }
            chunks.push(chunk);
        }
    }

    fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if self.read_some().is_empty() {
                return None;
            }
        }
        Some(self.buffer.drain(..length).collect())
    }

    fn drain(&mut self, length: u64) -> u64 {
        let mut left = length;
        loop {
            let used = left.min(self.buffer.len() as u64);
            self.buffer.drain(..usize::try_from(used).unwrap());
            left -= used;
            if left == 0 || self.read_some().is_empty() {
                return length - left;
            }
        }
    }

    fn drain_chunks(&mut self) -> u64 {
        let mut total = 0;
        while let Some(line) = self.read_until(b"\r\n") {
            let size = u64::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap_or(0);
            if size == 0 {
                self.read_until(b"\r\n");
                break;
            }
            total += self.drain(size);
            self.drain(2);
        }
        total
    }

    /// Whether it could be written.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.write_all(bytes.as_ref()).and_then(|()| self.wire.flush()).is_ok()
    }

    /// A response with a length; the connection stays.
    pub(crate) fn answer(&mut self, status: u16, body: &str) -> bool {
        self.answer_with(status, "", body)
    }

    /// The same with more fields, each ended by CRLF.
    pub(crate) fn answer_with(&mut self, status: u16, fields: &str, body: &str) -> bool {
        let length = body.len();
        self.write(format!(
            "HTTP/1.1 {status} Said\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
        ))
    }

    /// Cuts the connection with a reset rather than an end.
    pub(crate) fn reset(&mut self) {
        rustix::net::sockopt::set_socket_linger(&self.tcp, Some(Duration::ZERO)).unwrap();
        // With a linger of zero seconds closing sends RST; every clone must go for that.
        self.seen.open.lock().unwrap().clear();
    }
}

/// A field of a head as text.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.trim())
}

/// A port that is taken and refuses connections: bound, never listening.
#[derive(Debug)]
pub(crate) struct Refusing {
    _socket: OwnedFd,
    address: SocketAddr,
}

impl Refusing {
    pub(crate) fn new() -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        let address = getsockname(&socket).unwrap().try_into().unwrap();
        Self { _socket: socket, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A listener whose queue is full: a connection to it is neither made nor refused. Keep what it gives.
pub(crate) fn unanswering() -> (OwnedFd, Vec<OwnedFd>, SocketAddr) {
    use rustix::net::{
        AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen, socket, socket_with,
    };
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    let address: SocketAddr = getsockname(&listener).unwrap().try_into().unwrap();
    let fill = || {
        let one = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        // EINPROGRESS is what a connection that waits looks like.
        connect(&one, &address).ok();
        one
    };
    let fillers = (0..4).map(|_| fill()).collect();
    (listener, fillers, address)
}
