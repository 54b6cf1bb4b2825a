//! What the chapters of conformance share: an origin that takes down all it is sent, and what a client got for its bytes.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::{Connection, Origin, Response, Running};

/// A request as the origin has read it, by the letter of RFC 9112 §6.3.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) head: String,
    /// None where the body was cut short or malformed: the request never became whole.
    pub(crate) body: Option<Vec<u8>>,
}

impl Received {
    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()).collect()
    }

    /// Whether no two readers could end it at two places.
    pub(crate) fn has_one_framing(&self) -> bool {
        let (lengths, codings) = (self.all("content-length"), self.all("transfer-encoding"));
        let lines = self.head.strip_suffix("\r\n\r\n").unwrap_or_default();
        lengths.len() + codings.len() <= 1
            && codings.iter().all(|coding| *coding == "chunked")
            && lengths.iter().all(|length| length.bytes().all(|b| b.is_ascii_digit()))
            && self.all("host").len() == 1
            && !lines.split("\r\n").any(|line| line.contains(['\r', '\n', '\0']))
            && lines.split("\r\n").skip(1).all(|line| {
                line.split_once(':').is_some_and(|(name, _)| !name.is_empty() && !name.contains([' ', '\t']))
            })
    }
}

/// An origin that answers 200 with the number of bytes it was sent, and remembers everything.
#[derive(Debug)]
pub(crate) struct Recorder {
    origin: Origin,
    seen: Arc<Mutex<Vec<Received>>>,
}

impl Recorder {
    pub(crate) fn start() -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let ours = Arc::clone(&seen);
        let origin = Origin::each(move |head, peer| {
            let body = peer.whole_body(head);
            let answer = body.as_ref().map(|body| body.len().to_string());
            ours.lock().unwrap().push(Received { head: head.to_owned(), body });
            answer.is_some_and(|text| peer.answer(200, if head.starts_with("HEAD ") { "" } else { &text }))
        });
        Self { origin, seen }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.origin.address()
    }

    /// What has come since the last call.
    pub(crate) fn take(&self) -> Vec<Received> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// One route for everything, to this origin; the upstream has one connection to be used again.
    pub(crate) fn routes(&self) -> String {
        format!(
            "upstreams: {{origin: {{servers: ['{}']}}}}\nroutes:\n  - {{name: all, upstream: origin}}\n",
            self.address()
        )
    }
}

/// What came of some bytes.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) answers: Vec<Response>,
    /// What the origin has received of them.
    pub(crate) received: Vec<Received>,
}

impl Outcome {
    pub(crate) fn statuses(&self) -> Vec<u16> {
        self.answers.iter().map(|answer| answer.status).collect()
    }

    /// One answer of our own that says the connection ends, and no request at the origin.
    pub(crate) fn is_refused(&self, statuses: &[u16]) -> bool {
        let [answer] = &*self.answers else { return false };
        statuses.contains(&answer.status) && is_own_farewell(answer) && self.received.is_empty()
    }

    /// The same, for a body: its head may have been forwarded, but never became a whole request. (What an earlier row has cut
    /// short may be among what came.)
    pub(crate) fn is_refused_in_its_body(&self, statuses: &[u16]) -> bool {
        let [answer] = &*self.answers else { return false };
        statuses.contains(&answer.status)
            && is_own_farewell(answer)
            && self.received.iter().all(|received| received.body.is_none())
    }
}

/// Whether an answer is a problem document after which the connection ends.
fn is_own_farewell(answer: &Response) -> bool {
    answer.closes()
        && (answer.body.is_empty() || answer.header("content-type") == Some("application/problem+json"))
}

/// Sends `bytes` on a connection of its own, ends the client's side, and reads all answers there are.
pub(crate) fn exchange(gateway: &Running, recorder: &Recorder, bytes: &[u8]) -> Outcome {
    recorder.take();
    let stream = TcpStream::connect_timeout(&gateway.address(), Duration::from_secs(5)).unwrap();
    let mut writing = stream.try_clone().unwrap();
    let mut client = Connection::over_tcp(stream);
    // A gateway that refuses early may close before all is written: its answer counts.
    writing.write_all(bytes).ok();
    writing.shutdown(Shutdown::Write).ok();
    let mut answers = Vec::new();
    // What a HEAD is answered has no body; cases put it first, and alone.
    while let Ok(answer) = client.try_response(bytes.starts_with(b"HEAD ")) {
        answers.push(answer);
    }
    Outcome { answers, received: recorder.take() }
}
