//! An origin that records what comes, and takes for a fault what RFC 9112 gives two readings.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// What has come.
#[derive(Debug, Default)]
pub struct Recorded {
    /// By the client that the gateway names.
    pub requests: HashMap<Ipv4Addr, Vec<Seen>>,
    /// What the gateway must never send.
    pub faults: Vec<String>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As it stood on the wire.
    pub method: Vec<u8>,
    /// As it stood on the wire.
    pub target: String,
    /// The value of Host, empty where there is none.
    pub authority: String,
    /// What came of its content.
    pub content: Vec<u8>,
    /// Whether all of it came.
    pub complete: bool,
    /// What came through the tunnel that it became.
    pub tunnel: Option<Vec<u8>>,
}

impl Seen {
    /// Whether it came to its end, and was answered.
    pub fn is_whole(&self) -> bool {
        self.complete && self.tunnel.is_none()
    }
}

/// Serves until the process ends: every request is answered once it has been read to its end.
pub fn start(listener: TcpListener, recorded: Arc<Mutex<Recorded>>) {
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let recorded = Arc::clone(&recorded);
            std::thread::spawn(move || serve(stream, &recorded));
        }
    });
}

fn serve(stream: TcpStream, recorded: &Mutex<Recorded>) {
    stream.set_nodelay(true).unwrap();
    let mut wire = Wire { stream, read: Vec::new() };
    while let Some(head) = wire.line_block() {
        let text = String::from_utf8_lossy(&head).into_owned();
        match one(&text, &mut wire, recorded) {
            Ok(true) => {}
            Ok(false) => return,
            Err(fault) => {
                recorded
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .faults
                    .push(format!("{fault}: {text:?}"));
                return;
            }
        }
    }
}

/// One request; false where the connection is of no further use.
fn one(head: &str, wire: &mut Wire, recorded: &Mutex<Recorded>) -> Result<bool, String> {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let line = lines.next().unwrap_or_default();
    let [method, target, "HTTP/1.1"] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err("request line".into());
    };
    let fields: Vec<(String, &str)> = lines
        .map(|line| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value)))
        .collect::<Option<_>>()
        .ok_or("a field")?;
    let all = |name: &str| fields.iter().filter(|(n, _)| n == name).map(|(_, v)| *v).collect::<Vec<_>>();
    let at_most_one = |name: &str| match all(name)[..] {
        [] => Ok(None),
        [value] => Ok(Some(value)),
        _ => Err(format!("several {name}")),
    };
    let client = at_most_one("x-forwarded-for")?.and_then(|client| client.parse().ok()).ok_or("whose?")?;
    let host = at_most_one("host")?.unwrap_or_default();
    let length = at_most_one("content-length")?;
    let coding = at_most_one("transfer-encoding")?;
    let upgrade = at_most_one("upgrade")?;
    if fields.iter().any(|(name, _)| name.contains('_')) {
        return Err("an underscore".into());
    }
    if upgrade.is_none() && all("connection").iter().any(|value| !value.eq_ignore_ascii_case("keep-alive")) {
        return Err("Connection".into());
    }
    let seen = Seen {
        method: method.as_bytes().to_vec(),
        target: target.to_owned(),
        authority: host.to_owned(),
        content: Vec::new(),
        complete: false,
        tunnel: None,
    };
    let number = record(recorded, client, seen);
    let edit = |edit: &dyn Fn(&mut Seen)| {
        let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = recorded.requests.get_mut(&client).and_then(|seen| seen.get_mut(number)) {
            edit(seen);
        }
    };
    if upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket")) {
        if length.is_some_and(|length| length != "0") || coding.is_some() {
            return Err("an upgrade with content".into());
        }
        edit(&|seen| seen.tunnel = Some(Vec::new()));
        wire.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        loop {
            edit(&|seen| seen.tunnel = Some(wire.read.clone()));
            if !wire.more() {
                return Ok(false);
            }
        }
    }
    let mut content = Vec::new();
    let complete = match (length, coding) {
        (None, None) => true,
        (Some(length), None) => {
            let length: usize = length.parse().map_err(|_| "Content-Length")?;
            wire.exactly(length, &mut content)
        }
        (None, Some("chunked")) => wire.chunks(&mut content)?,
        _ => return Err("framing".into()),
    };
    edit(&|seen| {
        seen.content.clone_from(&content);
        seen.complete = complete;
    });
    if complete {
        wire.write(b"HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: 2\r\n\r\n");
        if method != "HEAD" {
            wire.write(b"ok");
        }
    }
    Ok(complete)
}

fn record(recorded: &Mutex<Recorded>, client: Ipv4Addr, seen: Seen) -> usize {
    let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
    let requests = recorded.requests.entry(client).or_default();
    requests.push(seen);
    requests.len() - 1
}

struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    fn more(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(length @ 1..) => {
                self.read.extend_from_slice(&buffer[..length]);
                true
            }
            _ => false,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        // The gateway may have gone: then nobody waits for an answer.
        let _ = self.stream.write_all(bytes);
    }

    /// A head, its empty line included.
    fn line_block(&mut self) -> Option<Vec<u8>> {
        self.until(b"\r\n\r\n")
    }

    fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                return Some(self.read.drain(..at + end.len()).collect());
            }
            if !self.more() {
                return None;
            }
        }
    }

    fn exactly(&mut self, length: usize, content: &mut Vec<u8>) -> bool {
        while self.read.len() < length {
            if !self.more() {
                content.append(&mut self.read);
                return false;
            }
        }
        content.extend(self.read.drain(..length));
        true
    }

    fn chunks(&mut self, content: &mut Vec<u8>) -> Result<bool, String> {
        loop {
            let Some(line) = self.until(b"\r\n") else { return Ok(false) };
            let line = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
            let size = usize::from_str_radix(&line, 16).map_err(|_| format!("a chunk of {line:?}"))?;
            if !self.exactly(size, content) {
                return Ok(false);
            }
            let mut end = Vec::new();
            if !self.exactly(2, &mut end) {
                return Ok(false);
            }
            if end != b"\r\n" {
                return Err("a chunk without its end".into());
            }
            if size == 0 {
                return Ok(true);
            }
        }
    }
}

/// An answer as a client reads it.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Whether it is the origin's.
    pub from_origin: bool,
    /// Bytes in all.
    pub length: usize,
}

/// The first answer in these bytes. None where they are no whole answer that says its length.
pub fn read_answer(bytes: &[u8], to_head: bool) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?.to_ascii_lowercase();
    let status: u16 = head.strip_prefix("http/1.1 ")?.get(..3)?.parse().ok()?;
    let length = head.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let length = match status {
        100..=199 | 204 | 304 => 0,
        _ if to_head => 0,
        _ => length?.parse().ok()?,
    };
    let whole = end + length;
    let from_origin = head.contains("\r\nx-origin: ");
    (whole <= bytes.len()).then_some(Answer { status, from_origin, length: whole })
}
