//! A request as policies see it: a borrowed, plain view over `http` types, and what is known of its connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::canonical::Target;
use crate::client::Client;
use crate::identity::ClientCertificate;

/// The protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// As a log says it: `HTTP/1.1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
        }
    }

    /// As `Via` says it: `1.1`.
    pub fn version(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2",
        }
    }
}

/// What the handshake settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.3`
    pub version: &'static str,
    /// `TLS_AES_256_GCM_SHA384`
    pub cipher: &'static str,
    /// The key exchange, such as `X25519MLKEM768`; absent on a resumed session that made none.
    pub group: Option<Box<str>>,
    /// The name the client asked for, lower case.
    pub sni: Option<Box<str>>,
    /// Whether a session was resumed.
    pub resumed: bool,
    /// The rule about client certificates that the handshake was made under; none where none is asked for.
    pub client_rule: Option<[u8; 32]>,
    /// The client's certificate, verified by that rule.
    pub client_certificate: Option<Arc<ClientCertificate>>,
}

/// What is known of a connection, the same for all its requests: made by `server/`, read by `proxy/`.
#[derive(Debug)]
pub struct Connection {
    /// The listener's address as configured: its name in metrics, and its key in a snapshot.
    pub listener: Arc<str>,
    /// Who connected, or for whom by the word of a PROXY header; none on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Where to, from the same source; none on a Unix socket.
    pub local: Option<SocketAddr>,
    /// What the handshake settled; none on a plain listener.
    pub tls: Option<Arc<TlsFacts>>,
    /// The https port that its listener redirected to when it was accepted: holds where the listener is no more.
    pub redirect: Option<u16>,
    /// Which worker carries the connection: the shard of metrics and logs.
    pub worker: usize,
    /// Set by `proxy/` once a 101 goes out: from then on the stream is no longer HTTP.
    pub tunnel: AtomicBool,
    /// Set when its listener drains: the next head that goes out says `Connection: close`.
    pub leaving: Arc<AtomicBool>,
    /// When the first byte of the head now served came; HTTP/1 only, see [`Connection::request_started`].
    pub head_began: Mutex<Option<Instant>>,
    /// What was found about it on its way.
    pub fate: Fate,
}

impl Connection {
    /// A plain one to a listener, of which nothing is known yet: carried by the first worker, from nowhere in particular.
    pub fn to(listener: impl Into<Arc<str>>) -> Self {
        Self {
            listener: listener.into(),
            peer: None,
            local: None,
            tls: None,
            redirect: None,
            worker: 0,
            tunnel: AtomicBool::new(false),
            leaving: Arc::default(),
            head_began: Mutex::default(),
            fate: Fate::default(),
        }
    }
}

/// What the rim and the phases tell each other about a connection's end, and what was found about its certificate since.
#[derive(Debug, Default)]
pub struct Fate {
    stalled: AtomicBool,
    late_head: AtomicBool,
    cut: AtomicBool,
    ends: AtomicBool,
    answered: Mutex<Option<Instant>>,
    shut: Mutex<Shut>,
    rejudged: Mutex<Option<([u8; 32], bool)>>,
}

/// For how long a connection of HTTP/2 has had no window for content.
#[derive(Debug, Default)]
struct Shut {
    since: Option<Instant>,
    before: Duration,
}

impl Fate {
    /// Whether the client may send content on this connection at all (RFC 9113 §5.2): other streams may have used up its window.
    pub fn note_window(&self, is_shut: bool) {
        let now = Instant::now();
        let mut shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        match is_shut {
            true => _ = shut.since.get_or_insert(now),
            false => {
                let ended =
                    shut.since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
                shut.before += ended;
            }
        }
    }

    /// For how long it could not, so far.
    pub fn shut_for(&self) -> Duration {
        let shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        shut.before + shut.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The connection shall end after the answer on its way: its client needs another one.
    pub fn end(&self) {
        self.ends.store(true, Ordering::Release);
    }

    /// Whether the connection's certificate holds by a rule other than the one it was verified by. `judge` is asked once a rule.
    pub fn holds(&self, rule: [u8; 32], judge: impl FnOnce() -> bool) -> bool {
        let mut last = self.rejudged.lock().unwrap_or_else(PoisonError::into_inner);
        match *last {
            Some((judged, holds)) if judged == rule => holds,
            _ => {
                let holds = judge();
                *last = Some((rule, holds));
                holds
            }
        }
    }

    /// The client did not take what was written to it.
    pub fn note_stall(&self) {
        self.stalled.store(true, Ordering::Release);
    }

    /// Whether the connection ends because its client did not read.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// The answer on its way is not whole, and nothing but the connection's end would tell: it must not end as a whole one does.
    pub fn note_cut(&self) {
        self.cut.store(true, Ordering::Release);
    }

    /// Whether the connection ends so.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// The client has begun a head, or another frame of HTTP/2, and not finished it in time.
    pub fn note_late_head(&self) {
        self.late_head.store(true, Ordering::Release);
    }

    /// Whether the connection ends because of that.
    pub fn is_late_head(&self) -> bool {
        self.late_head.load(Ordering::Acquire)
    }

    /// The answer to the request now served has ended before the request's body; none when a request begins. HTTP/1 only.
    pub fn set_answered(&self, at: Option<Instant>) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// When it has.
    pub fn answered(&self) -> Option<Instant> {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// From now on bytes pass as they are (RFC 9110 §7.8).
    pub fn open_tunnel(&self) {
        self.tunnel.store(true, Ordering::Release);
    }

    /// Notes that the first byte of a request's head has come.
    pub fn request_begins(&self, at: Instant) {
        *self.head_began.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// When the first byte of the request now served came; none on HTTP/2, where requests overlap.
    pub fn request_started(&self) -> Option<Instant> {
        *self.head_began.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the connection shall end after the response on its way.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire) || self.fate.ends.load(Ordering::Acquire)
    }

    /// Whether a protocol switch has happened.
    pub fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Acquire)
    }
}

/// A request at the door, not yet understood: what both parsers hand over.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The method, a valid token.
    pub method: &'a Method,
    /// The request target as it stood on the wire: origin form, absolute form or `*`; for HTTP/2 the `:path`.
    pub target: &'a [u8],
    /// HTTP/2's `:authority`.
    pub authority: Option<&'a str>,
    /// All fields, in order.
    pub headers: &'a HeaderMap,
    /// The protocol.
    pub protocol: Protocol,
    /// The connection.
    pub connection: &'a Connection,
}

/// A request as policies see it. Borrowed: work that goes to another thread takes what it needs by value.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a Method,
    /// The canonical target: host, path and query.
    pub target: &'a Target,
    /// The fields as the client sent them.
    pub headers: &'a HeaderMap,
    /// Whose request it is.
    pub client: &'a Client,
    /// The protocol.
    pub protocol: Protocol,
    /// The connection.
    pub connection: &'a Connection,
}

impl Request<'_> {
    /// The client's address.
    pub fn client_ip(&self) -> IpAddr {
        self.client.address
    }
}

/// Header fields that can be edited: the one interface of header rules towards `http`'s maps and Pingora's messages.
pub trait Fields {
    /// All fields, to read.
    fn fields(&self) -> &HeaderMap;
    /// Replaces all fields of this name by one.
    fn set(&mut self, name: HeaderName, value: HeaderValue);
    /// Adds a field beside those of the same name.
    fn append(&mut self, name: HeaderName, value: HeaderValue);
    /// Removes all fields of this name.
    fn remove(&mut self, name: &HeaderName);
}

impl Fields for HeaderMap {
    fn fields(&self) -> &HeaderMap {
        self
    }

    fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.insert(name, value);
    }

    fn append(&mut self, name: HeaderName, value: HeaderValue) {
        Self::append(self, name, value);
    }

    fn remove(&mut self, name: &HeaderName) {
        Self::remove(self, name);
    }
}

/// A request's id: at most 64 characters of `[A-Za-z0-9._-]`, kept inline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    length: u8,
    text: [u8; 64],
}

impl RequestId {
    /// Takes over an id that a trusted peer gave, if it has the form of one.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let valid = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > 64 || !text.iter().all(valid) {
            return None;
        }
        let mut own = Self { length: u8::try_from(text.len()).ok()?, text: [0; 64] };
        own.text.get_mut(..text.len())?.copy_from_slice(text);
        Some(own)
    }

    /// A new UUIDv7 (RFC 9562 §5.7).
    pub fn generate() -> Self {
        let mut own = Self { length: 36, text: [0; 64] };
        let mut buffer = uuid::Uuid::encode_buffer();
        let text = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
        for (to, from) in own.text.iter_mut().zip(text.as_bytes()) {
            *to = *from;
        }
        own
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.text
            .get(..usize::from(self.length))
            .and_then(|b| std::str::from_utf8(b).ok())
            .unwrap_or_default()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
