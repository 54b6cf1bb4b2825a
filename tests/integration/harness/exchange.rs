//! A client that says exactly what a test tells it to, and reads one response after the other.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use openssl::ssl::SslStream;

/// A response, read to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Informational responses before it.
    pub(crate) informational: Vec<u16>,
}

impl Response {
    /// The first field of this name (lower case).
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All fields of this name, joined as a list.
    pub(crate) fn all(&self, name: &str) -> String {
        let values: Vec<_> =
            self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
        values.join(", ")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}) in {self:?}"))
    }

    /// Whether the connection closes after it.
    pub(crate) fn closes(&self) -> bool {
        self.all("connection").to_ascii_lowercase().contains("close")
    }

    /// Fails, showing the whole response, unless the status is this.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> &Self {
        let body = self.text();
        assert_eq!(
            self.status,
            status,
            "headers {:?}, body {}",
            self.headers,
            body.get(..400).unwrap_or(&body)
        );
        self
    }
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A connection, plain or not.
pub(crate) struct Connection {
    wire: Box<dyn Wire>,
    /// Read and not yet used.
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::try_open(address).unwrap_or_else(|| panic!("cannot connect to {address}"))
    }

    pub(crate) fn try_open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
        Some(Self::over_tcp(stream))
    }

    pub(crate) fn over_tcp(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { wire: Box::new(stream), buffer: Vec::new() }
    }

    pub(crate) fn over_tls(stream: SslStream<TcpStream>) -> Self {
        Self { wire: Box::new(stream), buffer: Vec::new() }
    }

    pub(crate) fn over_unix(path: &std::path::Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { wire: Box::new(stream), buffer: Vec::new() }
    }

    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).unwrap();
    }

    pub(crate) fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.write_all(bytes.as_ref())?;
        self.wire.flush()
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.try_get(path).expect("no response")
    }

    pub(crate) fn try_get(&mut self, path: &str) -> Option<Response> {
        self.try_get_of("example.com", path)
    }

    pub(crate) fn try_get_of(&mut self, host: &str, path: &str) -> Option<Response> {
        self.try_write(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).ok()?;
        self.try_response(false).ok()
    }

    /// The next response; `head` is that of an answer to HEAD, which has no body.
    pub(crate) fn response(&mut self) -> Response {
        self.try_response(false).unwrap_or_else(|e| panic!("no response: {e}"))
    }

    /// Asks, and opens another connection to `address` where this was the last request of its own.
    pub(crate) fn ask_on(&mut self, address: SocketAddr, request: impl AsRef<[u8]>) -> Response {
        self.write(request);
        let response = self.response();
        if response.closes() {
            *self = Self::open(address);
        }
        response
    }

    pub(crate) fn try_response(&mut self, to_head: bool) -> io::Result<Response> {
        let mut informational = Vec::new();
        loop {
            let mut response = self.read_head()?;
            if response.status < 200 && response.status != 101 {
                informational.push(response.status);
                continue;
            }
            response.informational = informational;
            let bodiless = to_head || matches!(response.status, 101 | 204 | 304);
            if !bodiless {
                response.body = self.read_body(&response)?;
            }
            return Ok(response);
        }
    }

    /// A response's head alone; what follows is left for `read_some`.
    pub(crate) fn read_head(&mut self) -> io::Result<Response> {
        let head = self.read_until(b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| io::Error::other(format!("no status line: {status_line:?}")))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Response { status, headers, ..Response::default() })
    }

    fn read_body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        if response.all("transfer-encoding").to_ascii_lowercase().contains("chunked") {
            return self.read_chunks();
        }
        if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| io::Error::other("content-length is no number"))?;
            return self.read_exactly(length);
        }
        while self.fill()? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.read_until(b"\r\n")?;
            let line = String::from_utf8_lossy(&line);
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16)
                .map_err(|_| io::Error::other(format!("no chunk size: {line:?}")))?;
            if size == 0 {
                while self.read_until(b"\r\n")? != b"\r\n" {}
                return Ok(body);
            }
            body.extend(self.read_exactly(size)?);
            self.read_exactly(2)?;
        }
    }

    /// Up to and with the mark.
    pub(crate) fn read_until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                return Ok(self.buffer.drain(..at + mark.len()).collect());
            }
            if !self.fill()? {
                let so_far = String::from_utf8_lossy(&self.buffer).into_owned();
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the connection was closed after {so_far:?}"),
                ));
            }
        }
    }

    pub(crate) fn read_exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Reads `length` bytes without keeping them.
    pub(crate) fn discard(&mut self, length: u64) -> io::Result<()> {
        let mut left = length;
        loop {
            left = left.saturating_sub(self.buffer.len() as u64);
            self.buffer.clear();
            if left == 0 {
                return Ok(());
            }
            if !self.fill()? {
                return Err(io::Error::other(format!("closed with {left} of {length} bytes missing")));
            }
        }
    }

    /// Whether the other side has closed: end of stream or reset, not mere silence.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.fill() {
            Ok(more) => !more,
            Err(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut piece = [0; 64 << 10];
        loop {
            match self.wire.read(&mut piece) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.buffer.extend_from_slice(&piece[..n]);
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// GET on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    Connection::open(address).get(path)
}

/// These bytes on a connection of their own, and one response.
pub(crate) fn send(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Response {
    let bytes = bytes.as_ref();
    let mut connection = Connection::open(address);
    // A gateway that refuses early may close before all is written: its answer counts.
    connection.try_write(bytes).ok();
    connection
        .try_response(bytes.starts_with(b"HEAD "))
        .unwrap_or_else(|e| panic!("no response ({e}) to {:?}", String::from_utf8_lossy(bytes)))
}

/// A connection from another loopback address.
pub(crate) fn connect_from(source: &str, to: SocketAddr) -> Connection {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let source: IpAddr = source.parse().unwrap();
    let descriptor = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&descriptor, &SocketAddr::new(source, 0)).unwrap();
    connect(&descriptor, &to).unwrap();
    Connection::over_tcp(TcpStream::from(descriptor))
}
