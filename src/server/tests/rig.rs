//! A server in process, a tiny application behind it, an origin behind that, and a raw client in front.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::ResponseHeader;
use pingora_proxy::{HttpProxy, ProxyHttp, Session, http_proxy};

use crate::config::Site;
use crate::framing::Pace;
use crate::gateway::document::{MinVersion, RedirectToHttps};
use crate::gateway::testing;
use crate::gateway::{Gateway, ListenAddress, Listener, ListenerTls, SettingSites, Settings};
use crate::request::Connection;
use crate::server::{BackOffice, Counts, Error, Handle, Loaded, Options, Refused, Server};
use crate::state::Live;

/// Answers by path: `/hello`, `/read` (reads the body), `/early` (does not), `/slow`, `/facts`; the rest goes to the origin.
pub(super) struct App {
    origin: SocketAddr,
}

#[async_trait]
impl ProxyHttp for App {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, _: &mut ()) -> pingora_core::Result<bool> {
        let facts = session.digest().and_then(|d| d.proxy_digest.clone()).unwrap();
        let connection = facts.user_data.as_ref().unwrap().downcast_ref::<Arc<Connection>>().unwrap().clone();
        let path = session.req_header().uri.path().to_owned();
        let (status, body) = match path.as_str() {
            "/hello" => (200, "hello".to_owned()),
            "/read" => {
                let mut count = 0;
                while let Some(data) = session.read_request_body().await? {
                    count += data.len();
                }
                (200, format!("read {count}"))
            }
            "/early" => (413, "too large".to_owned()),
            "/slow" => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                (200, "slow".to_owned())
            }
            "/panic" => panic!("a fault of the test's own"),
            "/big" => (200, "x".repeat(3 << 20)),
            "/facts" => (
                200,
                format!(
                    "{} {} {:?} {}",
                    connection.listener,
                    connection.worker,
                    connection.tls,
                    connection.request_started().is_some()
                ),
            ),
            _ => return Ok(false),
        };
        let mut head = ResponseHeader::build(status, Some(4)).unwrap();
        head.insert_header("content-length", body.len().to_string()).unwrap();
        session.write_response_header(Box::new(head), false).await?;
        session.write_response_body(Some(Bytes::from(body)), true).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> pingora_core::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _: &mut (),
    ) -> pingora_core::Result<()> {
        if response.status == 101 {
            let facts = session.digest().and_then(|d| d.proxy_digest.clone()).unwrap();
            facts.user_data.as_ref().unwrap().downcast_ref::<Arc<Connection>>().unwrap().open_tunnel();
        }
        Ok(())
    }
}

/// An origin: answers with what it read; `/upgrade` switches and echoes.
pub(super) fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || serve_origin(stream));
        }
    });
    address
}

fn serve_origin(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut read = Vec::new();
    loop {
        let Some(head) = until(&mut stream, &mut read, b"\r\n\r\n") else { return };
        let text = String::from_utf8(head).unwrap();
        if text.starts_with("GET /upgrade") {
            let answer =
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            stream.write_all(&read).unwrap();
            let mut buffer = [0; 1024];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                stream.write_all(&buffer[..n]).unwrap();
            }
            return;
        }
        let lower = text.to_ascii_lowercase();
        let body = if lower.contains("transfer-encoding: chunked") {
            until(&mut stream, &mut read, b"0\r\n\r\n").unwrap().len()
        } else {
            let length = lower.split("content-length: ").nth(1).and_then(|t| t.split("\r\n").next());
            let length = length.map_or(0, |l| l.parse().unwrap());
            while read.len() < length {
                if !more(&mut stream, &mut read) {
                    return;
                }
            }
            read.drain(..length).count()
        };
        let line = text.lines().next().unwrap();
        let answer = format!("{line} with {body}");
        // Head and body apart, as slow origins do.
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len()).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
    }
}

fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 16384];
    match stream.read(&mut buffer) {
        Ok(n @ 1..) => {
            read.extend_from_slice(&buffer[..n]);
            true
        }
        _ => false,
    }
}

fn until(stream: &mut TcpStream, read: &mut Vec<u8>, end: &[u8]) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = memchr::memmem::find(read, end) {
            return Some(read.drain(..at + end.len()).collect());
        }
        if !more(stream, read) {
            return None;
        }
    }
}

pub(super) fn settings(state: &Path) -> Settings {
    Settings {
        workers: 2,
        state: state.to_path_buf(),
        status: None,
        user: None,
        drain: Duration::from_secs(20),
        handshake: Duration::from_secs(5),
        head: Duration::from_millis(600),
        keep_alive: Duration::from_secs(5),
        connections: 20_000,
        connections_per_client: 1_000,
        requests_in_flight: 10_000,
        http2_streams: 128,
        http2_resets: crate::config::units::Rate { count: 200, per: Duration::from_secs(10) },
        requests_per_connection: 10_000,
        pace: Pace::default(),
        write_stall: Duration::from_secs(30),
        header_fields: 50,
        header_bytes: 8 << 10,
        field_bytes: 2 << 10,
        uri_bytes: 1 << 10,
        underscores: crate::gateway::document::Underscores::Drop,
        sites: SettingSites {
            workers: Site::new("test.yaml", 2, 1),
            state: Site::new("test.yaml", 3, 1),
            status: Site::new("test.yaml", 4, 1),
            user: Site::new("test.yaml", 5, 1),
        },
    }
}

pub(super) fn plain(name: &str) -> Listener {
    Listener {
        name: name.into(),
        address: ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()),
        http2: true,
        tls: None,
        trusted: crate::client::Trusted::default(),
        proxied: None,
        default_host: None,
        redirect: RedirectToHttps::No,
        site: Site::new("test.yaml", 7, 1),
    }
}

pub(super) fn with_tls(name: &str, min_version: MinVersion) -> Listener {
    Listener { tls: Some(ListenerTls { certificates: None, min_version, clients: None }), ..plain(name) }
}

type Next = Arc<Mutex<Option<Result<Vec<Listener>, String>>>>;

/// A running server; stopped when dropped.
pub(super) struct Rig {
    pub(super) handle: Handle,
    next: Next,
    adopted: Arc<Mutex<Option<Arc<Gateway>>>>,
    first: Weak<Gateway>,
    thread: Option<JoinHandle<Result<(), Error>>>,
    _state: tempfile::TempDir,
}

impl Rig {
    pub(super) fn start(listeners: Vec<Listener>) -> Self {
        Self::with(listeners, |_| {}).unwrap()
    }

    pub(super) fn with(listeners: Vec<Listener>, tweak: impl Fn(&mut Settings)) -> Result<Self, Error> {
        Self::watching(listeners, tweak, vec![])
    }

    pub(super) fn watching(
        listeners: Vec<Listener>,
        tweak: impl Fn(&mut Settings),
        files: Vec<PathBuf>,
    ) -> Result<Self, Error> {
        let state = tempfile::tempdir().unwrap();
        let mut settings = settings(state.path());
        tweak(&mut settings);
        let make = |generation, settings, listeners: Vec<Listener>| {
            let mut gateway = testing::gateway(testing::PLAIN, &Live::default(), generation);
            gateway.hash = "abc".into();
            gateway.settings = settings;
            gateway.listeners = listeners.into_iter().map(Arc::new).collect();
            Arc::new(gateway)
        };
        let gateway = make(1, settings.clone(), listeners);
        let first = Arc::downgrade(&gateway);
        let next: Next = Arc::default();
        let adopted = Arc::<Mutex<Option<Arc<Gateway>>>>::default();
        let source = Arc::clone(&next);
        let attended = !files.is_empty();
        let known = files.clone();
        let options = Options {
            gateway,
            files,
            reload: Box::new(move |generation| match source.lock().unwrap().take() {
                Some(Ok(listeners)) => Ok(Loaded {
                    gateway: make(generation, settings.clone(), listeners),
                    files: known.clone(),
                    warnings: vec![],
                }),
                Some(Err(error)) => Err(Refused { errors: vec![error], files: known.clone() }),
                None => Err(Refused { errors: vec!["nothing new".into()], files: known.clone() }),
            }),
            adopted: {
                let adopted = Arc::clone(&adopted);
                Box::new(move |gateway| *adopted.lock().unwrap() = Some(Arc::clone(gateway)))
            },
            reopen_logs: Box::new(|| {}),
            settle: Box::new(|| Ok(())),
            metrics: Arc::new(|| "portcullis_up 1\n".into()),
            counts: Arc::new(Counts::default()),
            attended,
        };
        let server = Server::bind(BackOffice::new().unwrap(), options)?;
        let handle = server.handle();
        let origin = origin();
        let thread = std::thread::spawn(move || {
            let conf = Arc::new(ServerConf::default());
            server.run(|_, _| -> HttpProxy<App> { http_proxy(&conf, App { origin }) })
        });
        Ok(Self { handle, next, adopted, first, thread: Some(thread), _state: state })
    }

    pub(super) fn address(&self, name: &str) -> SocketAddr {
        match self.handle.addresses().get(name) {
            Some(ListenAddress::Tcp(address)) => *address,
            other => panic!("{name}: {other:?}"),
        }
    }

    pub(super) fn client(&self, name: &str) -> Client {
        Client::connect(self.address(name))
    }

    pub(super) fn offer(&self, next: Result<Vec<Listener>, String>) {
        *self.next.lock().unwrap() = Some(next);
    }

    pub(super) fn reload(&self, next: Result<Vec<Listener>, String>) -> Result<u64, Vec<String>> {
        self.offer(next);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.handle.reload())
    }

    /// What was served first, if anybody still holds it.
    pub(super) fn first(&self) -> Weak<Gateway> {
        self.first.clone()
    }

    /// What the last reload has put in force.
    pub(super) fn gateway(&self) -> Arc<Gateway> {
        self.adopted.lock().unwrap().clone().unwrap()
    }

    /// Waits until the server has ended by itself, and well.
    pub(super) fn join(&mut self) {
        self.end().unwrap();
    }

    /// Waits until the server has ended by itself.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.thread.take().unwrap().join().unwrap()
    }

    pub(super) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

/// Waits for what another thread is about to do.
pub(super) fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let began = Instant::now();
    while !until() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn closes(&self) -> bool {
        self.headers.get("connection").is_some_and(|value| value == "close")
    }
}

/// A client that sends what it is told and never retries.
pub(super) struct Client<S = TcpStream> {
    pub(super) stream: S,
    read: Vec<u8>,
}

impl Client {
    pub(super) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self::over(stream)
    }
}

impl<S: Read + Write> Client<S> {
    pub(super) fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub(super) fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).unwrap();
        self.stream.flush().unwrap();
    }

    fn more(&mut self) -> bool {
        let mut buffer = vec![0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(n @ 1..) => {
                self.read.extend_from_slice(&buffer[..n]);
                true
            }
            Ok(_) => false,
            Err(error) => panic!("{error}: {}", self.read.escape_ascii()),
        }
    }

    /// The next answer to a request that was not HEAD; none when the connection has ended.
    pub(super) fn answer(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(at) = memchr::memmem::find(&self.read, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more() {
                assert!(self.read.is_empty(), "cut: {}", self.read.escape_ascii());
                return None;
            }
        };
        let head: Vec<u8> = self.read.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<_, _> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        while self.read.len() < length {
            assert!(self.more(), "cut after {} of {length}", self.read.len());
        }
        let body = self.read.drain(..length).collect();
        Some(Answer { status, headers, body: String::from_utf8(body).unwrap() })
    }

    pub(super) fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        self.answer().expect("an answer")
    }

    /// Whatever comes until the connection ends.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.read)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length {
            assert!(self.more());
        }
        self.read.drain(..length).collect()
    }
}
