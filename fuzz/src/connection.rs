//! A whole connection. The bytes are all that a client sends before it half-closes: through a real listener, the rim, Pingora and
//! the gateway to an origin that records what comes.

use std::collections::{HashSet, VecDeque};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis::canonical::Target;
use portcullis::framing::{self, Body, Progress};
use portcullis::request::Protocol;
use socket2::{Domain, Socket, Type};

use super::agreement::{self, LIMITS};
use super::chunked::{self, Scanned};
use super::origin::{self, Seen};
use super::{path, rig};

/// Longer than anything may take; what takes longer is a stall, and a finding.
const PATIENCE: Duration = Duration::from_secs(20);
/// Finished connections whose requests may still arrive at the origin: on a busy machine a head that was forwarded just before its
/// client left is read long after.
const HISTORY: usize = 2048;
/// Of these, those that are judged again after each.
const RECENT: usize = 16;
/// Empty lines before a request that are ignored.
const EMPTY_LINES: usize = 8;

/// A request that the bytes hold, as the framing judge reads them.
#[derive(Debug)]
struct Expected {
    method: Vec<u8>,
    /// Path and query in canonical form.
    target: String,
    authority: String,
    content: Vec<u8>,
    /// Whether all of its content is there; else `content` is where it begins.
    whole: bool,
    /// Whether the origin has to see it: not where the gateway may answer itself.
    forwarded: bool,
    /// What follows its head, for a tunnel.
    rest: Vec<u8>,
}

/// The last connections, each with what its bytes hold; the newest at the end.
static PAST: Mutex<VecDeque<(Ipv4Addr, Arc<Vec<Expected>>)>> = Mutex::new(VecDeque::new());
static CLIENTS: AtomicU32 = AtomicU32::new(0);

/// The origin sees exactly the requests that the judge accepts, in their order, each once, with its own content and in its one
/// form: nothing in a body becomes a request, and nothing is made of what was refused. The client gets an answer for each.
pub fn run(data: &[u8]) {
    let expected = Arc::new(read(data));
    let client = next_client();
    let mut past = PAST.lock().unwrap_or_else(PoisonError::into_inner);
    past.push_back((client, Arc::clone(&expected)));
    let answers = send(client, data);

    let mut seen = rig::seen();
    let faults = std::mem::take(&mut seen.faults);
    assert!(faults.is_empty(), "the origin could not understand: {faults:?}");
    let known: HashSet<_> = past.iter().map(|(client, _)| *client).collect();
    let strangers: Vec<_> = seen.requests.extract_if(|client, _| !known.contains(client)).collect();
    assert!(strangers.is_empty(), "requests of nobody: {strangers:?}");
    // Those that have been judged before are judged again, for what has arrived late.
    for (client, expected) in past.iter().rev().take(RECENT) {
        compare(expected, seen.requests.get(client).map_or(&[][..], Vec::as_slice));
    }
    if past.len() > HISTORY
        && let Some((gone, expected)) = past.pop_front()
        && let Some(late) = seen.requests.remove(&gone)
    {
        compare(&expected, &late);
    }

    let own = seen.requests.get(&client).map_or(&[][..], Vec::as_slice);
    let met = compare(&expected, own);
    let missing = expected[met..].iter().find(|expected| expected.forwarded && expected.whole);
    if !own.iter().any(|seen| seen.tunnel.is_some()) {
        assert!(missing.is_none(), "never forwarded: {missing:?}; answers: {}", answers.escape_ascii());
    }
    let finals = finals(&answers, &expected);
    let origins = finals.iter().filter(|from_origin| **from_origin).count();
    let whole = own.iter().filter(|seen| seen.is_whole()).count();
    assert_eq!(origins, whole, "answers of the origin: {}", answers.escape_ascii());
    assert!(finals.len() <= expected.len() + 1, "more answers than requests: {}", answers.escape_ascii());
}

/// An address of the loopback for each connection: by it the origin tells whose a request is.
fn next_client() -> Ipv4Addr {
    let number = CLIENTS.fetch_add(1, Ordering::Relaxed) % (250 << 16);
    let [_, high, middle, low] = number.to_be_bytes();
    Ipv4Addr::new(127, high + 2, middle, low)
}

/// Sends everything, half-closes, and reads what comes to its end.
fn send(client: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    let mut stream = connect(client);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // A gateway that has refused the first request may have closed already.
    let _ = stream.write_all(data).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answers = Vec::new();
    match stream.read_to_end(&mut answers) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection does not end: {error}; so far: {}", answers.escape_ascii()),
    }
    answers
}

/// A connection from this address. The fuzzer's clock is a signal, which may come in between; nothing is sent on what it broke off.
fn connect(client: Ipv4Addr) -> TcpStream {
    loop {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((client, 0)).into()).unwrap();
        match socket.connect(&rig::address().into()) {
            Ok(()) => return TcpStream::from(socket),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("the gateway takes no connection: {error}"),
        }
    }
}

/// What the judge reads in the bytes, up to what ends the connection.
fn read(data: &[u8]) -> Vec<Expected> {
    let mut expected = Vec::new();
    let mut rest = data;
    // HTTP/1.0 is kept by whoever understands `keep-alive`: Pingora does only where it stands alone.
    let mut may_end = false;
    loop {
        let mut empty = 0;
        while let Some(after) = rest.strip_prefix(b"\r\n") {
            rest = after;
            empty += 1;
        }
        if empty > EMPTY_LINES {
            return expected;
        }
        let Ok(Progress::Complete(length)) = framing::find_end(rest, 0, &LIMITS) else { return expected };
        let (head, behind) = rest.split_at(length);
        let Ok(framing) = framing::judge(head, &LIMITS) else { return expected };
        let Some(target) = agreement::canonical_target(&framing) else { return expected };
        let route = rig::route(target.path());
        if !rig::takes_odd_paths(route)
            && (!target.oddities().is_empty() || parameters_matter(&target, route))
        {
            return expected;
        }
        let (content, length, whole) = content(framing.body, behind);
        expected.push(Expected {
            method: framing.method.to_vec(),
            target: target.path_and_query().to_owned(),
            authority: target.authority().to_owned(),
            content,
            whole,
            forwarded: target.path().starts_with('/') && !rig::is_answered_here(route) && !may_end,
            rest: behind.to_vec(),
        });
        let has_body = !matches!(framing.body, Body::None | Body::Length(0));
        // Content where none is expected is read by some and not by others: such a request is the last.
        let last = has_body && framing::is_content_unexpected(framing.method);
        if !whole || last || !framing.keep_alive {
            return expected;
        }
        may_end |= framing.protocol == Protocol::Http10;
        rest = &behind[length..];
    }
}

/// Whether a server that cuts path parameters off would be asked for another route's path, or for none.
fn parameters_matter(target: &Target, route: &str) -> bool {
    let Some(cut) = path::cut(target.path()) else { return false };
    path::canonical_path(&cut).is_none_or(|cut| rig::route(&cut) != route)
}

/// The content, how many bytes it takes, and whether all of it is there.
fn content(body: Body, rest: &[u8]) -> (Vec<u8>, usize, bool) {
    match body {
        Body::None => (Vec::new(), 0, true),
        Body::Length(length) => match usize::try_from(length).ok().filter(|length| *length <= rest.len()) {
            Some(length) => (rest[..length].to_vec(), length, true),
            None => (rest.to_vec(), rest.len(), false),
        },
        Body::Chunked => match (chunked::scan(&[rest]), chunked::oracle(rest)) {
            (Scanned::Done(length), Some((content, _))) => (content, length, true),
            _ => (chunked::beginning(rest), rest.len(), false),
        },
    }
}

/// Goes through both, and returns how many of the expected requests have been met or passed over.
fn compare(expected: &[Expected], seen: &[Seen]) -> usize {
    let mut at = 0;
    for (index, seen) in seen.iter().enumerate() {
        loop {
            let Some(expected) = expected.get(at) else {
                panic!("request {index} at the origin is none of the client's: {seen:?}; of {expected:?}");
            };
            at += 1;
            let same = seen.method == expected.method
                && seen.target.as_bytes() == expected.target.as_bytes()
                && seen.authority == expected.authority;
            if same {
                match &seen.tunnel {
                    Some(tunnel) => assert!(expected.rest.starts_with(tunnel), "another tunnel: {seen:?}"),
                    None if seen.is_whole() => {
                        assert!(expected.whole, "a part was passed off as the whole: {seen:?}");
                        assert_eq!(seen.content, expected.content, "another content: {seen:?}");
                    }
                    None => assert!(expected.content.starts_with(&seen.content), "another content: {seen:?}"),
                }
                break;
            }
            assert!(!expected.forwarded, "request {index} is {seen:?}, not {expected:?}");
        }
    }
    at
}

/// The final answers in what a client has read, in their order: whether each is the origin's.
fn finals(answers: &[u8], expected: &[Expected]) -> Vec<bool> {
    let mut finals = Vec::new();
    let mut rest = answers;
    while !rest.is_empty() {
        let asked = expected.get(finals.len());
        let to_head = asked.is_some_and(|expected| expected.method == b"HEAD");
        // A head that was refused may have been a HEAD.
        let bare = || asked.is_none().then(|| origin::read_answer(rest, true)).flatten();
        let Some(answer) = origin::read_answer(rest, to_head).or_else(bare) else {
            panic!("no answer: {}; in {}", rest.escape_ascii(), answers.escape_ascii())
        };
        match answer.status {
            101 => {
                finals.push(false);
                return finals;
            }
            100..=199 => {}
            _ => finals.push(answer.from_origin),
        }
        rest = &rest[answer.length..];
    }
    finals
}
