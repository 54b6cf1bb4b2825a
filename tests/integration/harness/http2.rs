//! An HTTP/2 client on the `h2` crate.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use openssl::ssl::SslConnector;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::exchange::Response;

/// One connection.
pub(crate) struct Http2 {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    connection: JoinHandle<()>,
    authority: String,
}

impl Http2 {
    /// TLS with ALPN `h2`, asking for `name`.
    pub(crate) fn connect(address: SocketAddr, connector: &SslConnector, name: &str) -> Self {
        Self::connect_after(address, b"", connector, name)
    }

    /// The same after these bytes.
    pub(crate) fn connect_after(
        address: SocketAddr,
        first: &[u8],
        connector: &SslConnector,
        name: &str,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ssl = connector.configure().unwrap().into_ssl(name).unwrap();
        let (sender, connection) = runtime.block_on(async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(first).await.unwrap();
            let mut tls = tokio_openssl::SslStream::new(ssl, stream).unwrap();
            Pin::new(&mut tls).connect().await.unwrap();
            assert_eq!(tls.ssl().selected_alpn_protocol(), Some(&b"h2"[..]), "ALPN");
            let (sender, connection) = h2::client::handshake(tls).await.unwrap();
            let connection = tokio::spawn(async move {
                // How the connection ends is told to each stream as well.
                connection.await.ok();
            });
            (sender, connection)
        });
        Self { runtime, sender, connection, authority: name.to_owned() }
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.try_request(method, path, headers, body).unwrap()
    }

    /// GET for another host than the connection's: what a client that coalesces connections does (RFC 9113 §9.1.1).
    pub(crate) fn get_of(&mut self, authority: &str, path: &str) -> Response {
        let own = std::mem::replace(&mut self.authority, authority.to_owned());
        let response = self.get(path);
        self.authority = own;
        response
    }

    /// The same where the stream may be reset.
    pub(crate) fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, h2::Error> {
        let head = head(&self.authority, method, path, headers);
        let exchange = exchange(self.sender.clone(), head, Bytes::copy_from_slice(body));
        self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("no answer in 20 s")
        })
    }

    /// CONNECT to an authority (RFC 9113 §8.5).
    pub(crate) fn connect_to(&mut self, authority: &str) -> Response {
        let head = http::Request::builder().method("CONNECT").uri(authority).body(()).unwrap();
        let exchange = exchange(self.sender.clone(), head, Bytes::new());
        self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("no answer in 20 s").unwrap()
        })
    }

    /// Whether the gateway ends the connection within this time.
    pub(crate) fn is_closed_within(&mut self, limit: Duration) -> bool {
        let connection = &mut self.connection;
        self.runtime.block_on(async { tokio::time::timeout(limit, connection).await.is_ok() })
    }

    /// This many GETs at once.
    pub(crate) fn at_once(&mut self, count: usize, path: &str) -> Vec<Response> {
        let one = || exchange(self.sender.clone(), head(&self.authority, "GET", path, &[]), Bytes::new());
        let all: Vec<_> = (0..count).map(|_| one()).collect();
        self.runtime.block_on(async {
            let tasks: Vec<_> = all.into_iter().map(tokio::spawn).collect();
            let mut responses = Vec::new();
            for task in tasks {
                responses.push(task.await.unwrap().unwrap());
            }
            responses
        })
    }
}

fn head(authority: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> http::Request<()> {
    let mut request = http::Request::builder().method(method).uri(format!("https://{authority}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

async fn exchange(
    sender: SendRequest<Bytes>,
    head: http::Request<()>,
    mut body: Bytes,
) -> Result<Response, h2::Error> {
    let mut sender = sender.ready().await?;
    let (response, mut stream) = sender.send_request(head, body.is_empty())?;
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.transpose()?.unwrap_or(0);
        let piece = body.split_to(room.min(body.len()));
        stream.send_data(piece, body.is_empty())?;
    }
    let (parts, mut incoming) = response.await?.into_parts();
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let mut own = Response { status: parts.status.as_u16(), ..Response::default() };
    own.headers = parts.headers.iter().map(text).collect();
    while let Some(piece) = incoming.data().await {
        let piece = piece?;
        own.body.extend_from_slice(&piece);
        incoming.flow_control().release_capacity(piece.len())?;
    }
    Ok(own)
}
