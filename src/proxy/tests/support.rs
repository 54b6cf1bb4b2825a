//! A gateway on a port of its own, raw clients, and raw origins.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pingora_core::apps::{HttpServerApp, ServerApp};
use pingora_core::protocols::http::{ServerSession, v2};
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{Digest, Stream as Boxed};
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_http::ResponseHeader;
use pingora_proxy::HttpProxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::gateway::{Snapshots, testing};
use crate::proxy::Gate;
use crate::record::Record;
use crate::request::Connection;
use crate::state::Live;
use crate::upstream::Upstream;

const PATIENCE: Duration = Duration::from_secs(20);

/// All to one upstream, but for `/echo` and `/reply`; `/plain` lets nobody switch protocols; refusals say their kind.
fn configuration(mut upstream: serde_json::Value) -> String {
    upstream["host"] = "server".into();
    format!(
        r"
server: {{status: none}}
log: {{access: {{to: none}}}}
listeners: [{{address: '127.0.0.1:0'}}]
upstreams: {{origin: {upstream}}}
policies: {{headers: {{marked: {{request: {{set: {{x-gateway: 'yes'}}}}}}}}}}
defaults: {{auth: none, headers: [marked]}}
routes:
  - {{name: echo, match: {{path: /echo}}, echo: true}}
  - {{name: reply, match: {{path: /reply}}, respond: {{body: hello}}}}
  - {{name: plain, match: {{path: /plain}}, upstream: origin}}
  - {{name: all, upstream: origin, upgrade: [websocket]}}
replies:
  DEFAULT_4XX: {{body: '{{error.responseType}}'}}
  DEFAULT_5XX: {{body: '{{error.responseType}}'}}
"
    )
}

/// A gateway that forwards everything to one upstream.
pub(super) struct Front {
    pub(super) address: SocketAddr,
    pub(super) upstream: Arc<Upstream>,
    records: UnboundedReceiver<Record>,
    tasks: tokio::task::JoinSet<()>,
}

impl Front {
    /// With this upstream, written as JSON.
    pub(super) async fn new(upstream: serde_json::Value) -> Self {
        let live = Live::default();
        live.set_runtime(tokio::runtime::Handle::current());
        let (settled, records) = unbounded_channel();
        let mut gateway = testing::gateway(&configuration(upstream), &live, 1);
        gateway.settled = Some(settled);
        let gateway = Arc::new(gateway);
        let upstream = gateway.upstreams.first().cloned().expect("the one of the configuration");
        let proxy = Arc::new(pingora_proxy::http_proxy(
            &Arc::new(ServerConf::default()),
            Gate::new(Snapshots::new(gateway), 0),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let (_stop, watch) = tokio::sync::watch::channel(false);
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (tcp, peer) = listener.accept().await.unwrap();
                let (proxy, watch) = (Arc::clone(&proxy), watch.clone());
                tcp.set_nodelay(true).unwrap();
                connections.spawn(async move {
                    let mut first = [0; 3];
                    let is_http2 = tcp.peek(&mut first).await.is_ok() && &first == b"PRI";
                    let mut stream: Boxed = Box::new(Stream::from(tcp));
                    let head = Box::new(ResponseHeader::build(200, None).unwrap());
                    let facts: Arc<Connection> =
                        Arc::new(Connection { peer: Some(peer), ..Connection::to("test") });
                    stream.set_proxy_digest(ProxyDigest::new(head, Some(Box::new(facts))));
                    if is_http2 {
                        serve_http2(proxy, stream, watch).await;
                    } else {
                        ServerApp::process_new(&proxy, stream, &watch).await;
                    }
                });
            }
        });
        Self { address, upstream, records, tasks }
    }

    /// With one server and what else is given.
    pub(super) async fn to(server: SocketAddr, mut rest: serde_json::Value) -> Self {
        rest["servers"] = serde_json::json!([server.to_string()]);
        Self::new(rest).await
    }

    pub(super) async fn client(&self) -> Client {
        Client { tcp: TcpStream::connect(self.address).await.unwrap(), buffer: Vec::new() }
    }

    /// The next record.
    pub(super) async fn record(&mut self) -> Record {
        timeout(PATIENCE, self.records.recv()).await.expect("a record").unwrap()
    }

    /// Cuts everything off.
    pub(super) fn abort(&mut self) {
        self.tasks.abort_all();
    }
}

async fn serve_http2(proxy: Arc<HttpProxy<Gate>>, stream: Boxed, watch: ShutdownWatch) {
    let digest = Arc::new(Digest {
        ssl_digest: None,
        timing_digest: vec![None],
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: None,
    });
    let mut connection = v2::server::handshake(stream, None).await.unwrap();
    let mut streams = tokio::task::JoinSet::new();
    while let Ok(Some(accepted)) =
        v2::server::HttpSession::from_h2_conn(&mut connection, Arc::clone(&digest)).await
    {
        if let v2::server::H2Accept::Session(session) = accepted {
            let (proxy, watch) = (Arc::clone(&proxy), watch.clone());
            streams.spawn(async move {
                proxy.process_new_http(ServerSession::new_http2(session), &watch).await;
            });
        }
    }
}

/// A client that sends what it is told.
pub(super) struct Client {
    pub(super) tcp: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, as it stood on the wire.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.tcp.write_all(text.as_ref()).await.unwrap();
    }

    /// One head.
    pub(super) async fn head(&mut self) -> String {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert!(self.more().await > 0, "closed in a head: {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    /// What has been read and not yet been taken.
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    async fn more(&mut self) -> usize {
        timeout(PATIENCE, self.tcp.read_buf(&mut self.buffer)).await.expect("an answer").unwrap_or(0)
    }

    /// As many bytes.
    pub(super) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.more().await > 0, "closed after {:?}", String::from_utf8_lossy(&self.buffer));
        }
        self.buffer.drain(..count).collect()
    }

    /// Everything until the connection is closed.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        std::mem::take(&mut self.buffer)
    }

    /// A whole answer.
    pub(super) async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let status = head.split(' ').nth(1).unwrap().trim().parse().unwrap();
        let low = head.to_lowercase();
        let body = if let Some(length) = low.split("content-length: ").nth(1) {
            let length = length.split("\r\n").next().unwrap().parse().unwrap();
            self.exactly(length).await
        } else if low.contains("transfer-encoding: chunked") {
            self.chunks().await
        } else {
            self.rest().await
        };
        Answer { status, head, body }
    }

    pub(super) async fn chunk(&mut self) -> Vec<u8> {
        let line = loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                break self.buffer.drain(..end + 2).collect::<Vec<_>>();
            }
            assert!(self.more().await > 0, "closed in a chunk");
        };
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        let mut chunk = self.exactly(size + 2).await;
        chunk.truncate(size);
        chunk
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk().await;
            if chunk.is_empty() {
                return body;
            }
            body.extend(chunk);
        }
    }

    pub(super) async fn get(&mut self, target: &str) -> Answer {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        self.answer().await
    }
}

/// An origin: `serve` has each connection and its number.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    pub(super) connections: Arc<AtomicUsize>,
    _tasks: tokio::task::JoinSet<()>,
}

impl Origin {
    pub(super) async fn new<F, S>(serve: F) -> Self
    where
        F: Fn(TcpStream, usize) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let mut served = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                served.spawn(serve(tcp, count.fetch_add(1, Ordering::SeqCst)));
            }
        });
        Self { address, connections, _tasks: tasks }
    }

    /// Answers each request of each connection with these bytes; then `after`: keeps the connection, or closes it.
    pub(super) async fn fixed(answer: &'static [u8], keep: bool) -> Self {
        Self::new(move |mut tcp, _| async move {
            while read_head(&mut tcp).await.is_some() {
                if tcp.write_all(answer).await.is_err() || !keep {
                    return;
                }
            }
        })
        .await
    }

    pub(super) fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A request's head, byte by byte so that nothing behind it is taken.
pub(super) async fn read_head(tcp: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if tcp.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// An address where nobody listens.
pub(super) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
