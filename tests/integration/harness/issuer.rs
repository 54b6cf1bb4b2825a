//! An issuer of our own: pages that a test may change, every request counted, and a client that bears tokens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::exchange::{self, Response};
use super::origin::{Peer, field};
use super::{Origin, Place, Running};

/// What stands at a path.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    /// More fields, each ended by CRLF.
    pub(crate) fields: String,
    pub(crate) body: String,
    /// The answer comes after this time.
    pub(crate) after: Duration,
}

impl Page {
    /// 200, with an `ETag` made of the body.
    pub(crate) fn new(body: impl Into<String>) -> Self {
        let body = body.into();
        let hash = openssl::sha::sha256(body.as_bytes());
        let fields = format!("ETag: \"{:02x}{:02x}{:02x}\"\r\n", hash[0], hash[1], hash[2]);
        Self { status: 200, fields, body, after: Duration::ZERO }
    }

    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub(crate) fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }
}

type Pages = Arc<Mutex<BTreeMap<String, Page>>>;

/// A server of documents.
#[derive(Debug)]
pub(crate) struct Issuer {
    origin: Origin,
    pages: Pages,
}

impl Issuer {
    pub(crate) fn start() -> Self {
        let pages = Pages::default();
        Self { origin: Origin::each(answering(&pages)), pages }
    }

    /// It dies; what it has stays with it.
    pub(crate) fn kill(self) -> (SocketAddr, Pages) {
        (self.origin.kill(), self.pages)
    }

    /// It comes back.
    pub(crate) fn back((address, pages): (SocketAddr, Pages)) -> Self {
        Self { origin: Origin::serve_at(address, serving(&pages)), pages }
    }

    /// Puts a page there, or another in its place.
    pub(crate) fn put(&self, path: &str, page: Page) {
        self.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.origin.address())
    }

    /// How often this path was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.origin.requests_of(path)
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.origin.heads()
    }
}

fn answering(pages: &Pages) -> impl Fn(&str, &mut Peer) -> bool + Send + Sync + 'static {
    let pages = Arc::clone(pages);
    move |head, peer| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let page = pages.lock().unwrap().get(path).cloned();
        let page = page.unwrap_or_else(|| Page::new("none").status(404));
        std::thread::sleep(page.after);
        let etag = page.fields.lines().find_map(|line| line.strip_prefix("ETag: "));
        if page.status == 200 && etag.is_some() && field(head, "if-none-match") == etag {
            return peer.write(format!("HTTP/1.1 304 Not Modified\r\n{}\r\n", page.fields));
        }
        peer.answer_with(page.status, &page.fields, &page.body)
    }
}

fn serving(pages: &Pages) -> impl Fn(&mut Peer) + Send + Sync + 'static {
    let answer = answering(pages);
    move |peer| {
        while let Some(head) = peer.read_head() {
            if !answer(&head, peer) {
                return;
            }
        }
    }
}

impl Place {
    /// Starts a gateway that may fetch from 127.0.0.1, with the base configuration and `rest`.
    pub(crate) fn start_fetching(self, rest: &str) -> Running {
        self.start_whole(&Self::fetching("{allow: [127.0.0.1]}", rest))
    }

    /// The base configuration with these rules of fetching, and `rest`.
    pub(crate) fn fetching(egress: &str, rest: &str) -> String {
        Self::with_base(rest).replacen("server: {", &format!("server: {{egress: {egress}, "), 1)
    }
}

/// GET with a bearer token, on a connection of its own.
pub(crate) fn bearing(address: SocketAddr, path: &str, token: &str) -> Response {
    exchange::send(
        address,
        format!(
            "GET {path} HTTP/1.1\r\nHost: example.com\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        ),
    )
}

impl Running {
    /// Saves another configuration that may fetch from 127.0.0.1, and waits until it is in force.
    pub(crate) fn reload_fetching(&self, rest: &str) {
        let before = self.generation();
        self.place.write("portcullis.yaml", Place::fetching("{allow: [127.0.0.1]}", rest));
        self.signal(rustix::process::Signal::HUP);
        super::eventually(&format!("another generation; said:\n{}", self.said()), || {
            (self.generation() > before).then_some(())
        });
    }
}
