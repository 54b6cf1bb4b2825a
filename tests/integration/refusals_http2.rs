//! What HTTP/2 refuses before there is a request: everything has a record with its reason, and is counted.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Ending, Frame, Frames, GOAWAY, HEADERS, PING, RST_STREAM,
    SETTINGS, WINDOW_UPDATE,
};
use crate::harness::{Authority, Connection, Origin, Place, Running, curl, eventually};

type Field<'a> = (&'a [u8], &'a [u8]);

const HELLO: &str = "routes:\n  - {name: hello, match: {path: /hello}, respond: {body: hello}}\n";
const GET: [Field<'static>; 4] =
    [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/hello"), (b":authority", b"gate.example")];

/// A gateway whose second listener speaks TLS.
fn start(server: &str, rest: &str) -> (Authority, Running) {
    Place::start_beside_tls(server, rest)
}

fn open(authority: &Authority, gateway: &Running) -> Frames {
    Frames::connect(gateway.listener(1), authority, &[])
}

/// Lines of the log with this reason, once there are so many.
fn told(gateway: &Running, reason: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} lines with {reason}"), || {
        let text = gateway.place.read("access.log");
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<_> = lines.filter(|line| line["error"]["reason"] == reason).collect();
        (lines.len() >= count).then_some(lines)
    })
}

fn counted(gateway: &Running, reason: &str, count: u32) {
    let labels = [("policy", "gateway"), ("reason", reason)];
    gateway.await_metric("portcullis_refusals_total", &labels, count.into());
}

fn closed(gateway: &Running, reason: &str, count: u32) {
    gateway.await_metric("portcullis_connections_closed_total", &[("reason", reason)], count.into());
}

/// A pseudo-header of another value, or without it.
fn but<'a>(name: &[u8], value: Option<&'a [u8]>) -> Vec<Field<'a>> {
    let others = GET.into_iter().filter(|(own, _)| *own != name);
    let own = GET.into_iter().find(|(own, _)| *own == name).unwrap().0;
    value.map(|value| (own, value)).into_iter().chain(others).collect()
}

#[test]
fn a_head_that_h2_refuses_has_a_record() {
    let (authority, gateway) = start("", HELLO);
    let with = |field: Field<'static>| [&GET[..], &[field]].concat();
    let rows: [Vec<Field<'_>>; 7] = [
        with((b"connection", b"close")),
        with((b"transfer-encoding", b"chunked")),
        with((b"te", b"gzip")),
        with((b":path", b"/other")),
        but(b":path", None),
        but(b":method", None),
        // Extended CONNECT (RFC 8441) is not offered.
        [&[(&b":protocol"[..], &b"websocket"[..])], &but(b":method", Some(b"CONNECT"))[..]].concat(),
    ];
    for (n, fields) in rows.iter().enumerate() {
        let mut peer = open(&authority, &gateway);
        peer.send(&Frame::head(1, fields, true)).unwrap();
        assert_eq!(peer.ending(1), Ending::Reset(1), "{n}: PROTOCOL_ERROR");
        let lines = told(&gateway, "http2_malformed", n + 1);
        assert_eq!(lines.len(), n + 1, "one line each");
        let line = &lines[n];
        assert_eq!((&line["status"], &line["protocol"]), (&Value::Null, &"HTTP/2.0".into()), "{line}");
        assert_eq!(line["error"]["responseType"], "AMBIGUOUS_REQUEST");
        // The connection serves on.
        peer.send(&Frame::get(3, "/hello")).unwrap();
        assert_eq!(peer.await_frame(DATA).payload, b"hello");
    }
    counted(&gateway, "http2_malformed", 7);
}

#[test]
fn a_long_life_with_many_malformed_requests_in_it_ends_by_their_rate_alone() {
    let (authority, gateway) = start("limits: {http2_resets: 4000/1s}", HELLO);
    let mut peer = open(&authority, &gateway);
    let bad = [&GET[..], &[(b"connection", b"close")]].concat();
    for n in 0..1_100 {
        peer.send(&Frame::head(2 * n + 1, &bad, true)).unwrap();
        assert_eq!(peer.ending(2 * n + 1), Ending::Reset(1), "{n}");
    }
    counted(&gateway, "http2_malformed", 1_100);
    peer.send(&Frame::get(2_201, "/hello")).unwrap();
    assert_eq!(peer.await_frame(DATA).payload, b"hello");
    // As many at such a rate, and no more.
    let (authority, gateway) = start("limits: {http2_resets: 20/1h}", HELLO);
    let mut peer = open(&authority, &gateway);
    for n in 0..60 {
        if peer.send(&Frame::head(2 * n + 1, &bad, true)).is_err() {
            break;
        }
    }
    counted(&gateway, "http2_resets", 1);
}

#[test]
fn a_head_that_is_too_long_for_h2_has_a_record() {
    let (authority, gateway) = start("limits: {header_bytes: 4KiB, field_bytes: 4KiB}", HELLO);
    let long = [b'y'; 3000];
    let fields = [&GET[..], &[(b"x", &long), (b"x", &long)]].concat();
    let mut peer = open(&authority, &gateway);
    peer.send(&Frame::head(1, &fields, true)).unwrap();
    assert_eq!(peer.ending(1).status(), 431);
    let line = &told(&gateway, "header_bytes", 1)[0];
    assert_eq!((&line["status"], &line["error"]["responseType"]), (&431.into(), &"HEADERS_TOO_LARGE".into()));
    counted(&gateway, "header_bytes", 1);
}

#[test]
fn a_connection_that_breaks_the_protocol_has_a_record_with_its_reason() {
    let (authority, gateway) = start("limits: {header_bytes: 4KiB, field_bytes: 4KiB}", HELLO);
    let with = |field: Field<'static>| Frame::head(1, &[&GET[..], &[field]].concat(), true);
    // A head that is too long, and then the beginning of a field that would be longer still.
    let long = [&Frame::head(1, &[(b"x", &[b'y'; 5000])], true).payload[..], &[0, 1, b'x', 0x7f, 0xff, 0x7f]]
        .concat();
    let rows: [(&str, u32, Vec<Frame>); 9] = [
        // An index that no table has; and what no field may be, which h2 takes for the same.
        ("http2_malformed", 1, vec![Frame::new(HEADERS, END_HEADERS | END_STREAM, 1, [0xff, 0xff, 0x7f])]),
        ("http2_malformed", 1, vec![with((b"X-Upper", b"y"))]),
        ("http2_malformed", 1, vec![with((b"x", b"a\r\nb: c"))]),
        (
            "header_bytes",
            9,
            vec![Frame::new(HEADERS, END_STREAM, 1, long), Frame::new(CONTINUATION, 0, 1, [b'y'; 5000])],
        ),
        ("http2_malformed", 1, vec![Frame::new(SETTINGS, 0, 0, [0; 5])]),
        ("http2_frame_size", 6, vec![Frame::new(HEADERS, END_HEADERS, 1, [0; 16_385])]),
        ("http2_flow_control", 3, vec![Frame::new(WINDOW_UPDATE, 0, 0, [0x7f, 0xff, 0xff, 0xff])]),
        ("http2_malformed", 1, vec![Frame::new(CONTINUATION, END_HEADERS, 1, [])]),
        ("http2_malformed", 1, vec![Frame::new(DATA, 0, 1, [7])]),
    ];
    for (n, (reason, code, frames)) in rows.iter().enumerate() {
        let mut peer = open(&authority, &gateway);
        peer.send_all(frames).unwrap();
        assert_eq!(peer.end(Duration::from_secs(10)), Some(*code), "{reason}");
        let count = rows[..=n].iter().filter(|row| row.0 == *reason).count();
        let lines = told(&gateway, reason, count);
        assert_eq!(lines.len(), count);
        assert!(lines.iter().all(|line| line["status"] == Value::Null), "{lines:?}");
        counted(&gateway, reason, u32::try_from(count).unwrap());
    }
}

#[test]
fn what_is_no_preface_has_a_record_and_half_of_one_too() {
    let (authority, gateway) = start("timeouts: {head: 600ms}", HELLO);
    for (n, preface) in
        [&b"GET /hello HTTP/1.1\r\nHost: gate.example\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n"]
            .into_iter()
            .enumerate()
    {
        let mut peer = Frames::connect_with(gateway.listener(1), &authority, preface);
        peer.end(Duration::from_secs(10));
        let lines = told(&gateway, "http2_preface", n + 1);
        assert_eq!((lines.len(), &lines[n]["status"]), (n + 1, &Value::Null));
    }
    counted(&gateway, "http2_preface", 2);
    let mut half = Frames::connect_with(gateway.listener(1), &authority, b"PRI * HT");
    half.end(Duration::from_secs(10));
    assert_eq!(told(&gateway, "head_timeout", 1)[0]["status"], Value::Null);
    counted(&gateway, "head_timeout", 1);
    // Who leaves without a word, or within the preface, is no news.
    drop(Frames::connect_with(gateway.listener(1), &authority, b""));
    drop(Frames::connect_with(gateway.listener(1), &authority, b"PRI"));
    gateway.await_metric("portcullis_connections", &[("listener", "127.0.0.2:0")], 0.0);
    assert_eq!(gateway.place.read("access.log").lines().count(), 3);
}

#[test]
fn a_client_that_does_not_begin_with_settings_is_ended_and_has_a_record() {
    let (authority, gateway) = start("", HELLO);
    let firsts = [
        Frame::get(1, "/hello"),
        Frame::new(PING, 0, 0, [0; 8]),
        Frame::new(SETTINGS, 1, 0, []),
        Frame::new(0xb7, 0, 0, [1, 2, 3]),
    ];
    for (n, first) in firsts.iter().enumerate() {
        let mut peer =
            Frames::connect_with(gateway.listener(1), &authority, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let after = [Frame::new(SETTINGS, 0, 0, []), Frame::get(3, "/hello")];
        peer.send_all(&[std::slice::from_ref(first), &after].concat()).unwrap();
        assert_eq!(peer.end(Duration::from_secs(10)), Some(1), "PROTOCOL_ERROR");
        let lines = told(&gateway, "http2_preface", n + 1);
        assert_eq!((lines.len(), &lines[n]["status"]), (n + 1, &Value::Null));
    }
    counted(&gateway, "http2_preface", 4);
    assert_eq!(gateway.place.read("access.log").lines().count(), 4, "nothing was served");
}

#[test]
fn a_head_that_ends_with_its_connection_has_a_record() {
    let (authority, gateway) = start("", HELLO);
    let cut = |bytes: &[u8]| {
        let mut peer = open(&authority, &gateway);
        peer.finish(bytes);
        peer.end(Duration::from_secs(10));
    };
    let head = Frame::get(1, "/hello").bytes();
    // Within HEADERS; behind one that is to be continued; within what continues it.
    cut(&head[..12]);
    let mut pieces = Frame::new(HEADERS, END_STREAM, 1, &head[9..12]).bytes();
    cut(&pieces);
    pieces.extend(&Frame::new(CONTINUATION, END_HEADERS, 1, &head[12..]).bytes()[..11]);
    cut(&pieces);
    let lines = told(&gateway, "head_unfinished", 3);
    assert!(lines.iter().all(|line| line["status"] == Value::Null), "{lines:?}");
    counted(&gateway, "head_unfinished", 3);
    // Nothing is begun, or no head is: who leaves so is no news.
    cut(&[]);
    cut(&head[..5]);
    cut(&Frame::new(PING, 0, 0, [0; 8]).bytes()[..12]);
    gateway.await_metric("portcullis_connections", &[("listener", "127.0.0.2:0")], 0.0);
    assert_eq!(gateway.place.read("access.log").lines().count(), 3);
}

#[test]
fn streams_above_the_bound_have_a_record_some_and_are_counted_all() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        std::thread::park_timeout(Duration::from_secs(20));
        peer.answer(200, "late")
    });
    let rest = format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: o, match: {{path: /slow}}, upstream: o}}\n",
        origin.address()
    );
    let (authority, gateway) = start("limits: {http2_streams: 1}", &rest);
    let mut peer = open(&authority, &gateway);
    let frames: Vec<_> = (0..101).map(|n| Frame::get(2 * n + 1, "/slow")).collect();
    peer.send_all(&frames).unwrap();
    for n in 1..101 {
        let reset = peer.await_frame(RST_STREAM);
        assert_eq!((reset.stream, reset.number(0)), (2 * n + 1, 7), "REFUSED_STREAM");
    }
    counted(&gateway, "http2_streams", 100);
    let lines = told(&gateway, "http2_streams", 32);
    assert_eq!((lines.len(), &lines[0]["status"]), (32, &Value::Null));
    assert_eq!(lines[0]["error"]["responseType"], "OVERLOADED");
}

/// A fault behind a whole head: the request has a record of its own, and no other.
#[test]
fn a_stream_that_was_heard_of_has_one_record() {
    let (authority, gateway) = start("", "routes:\n  - {name: echo, match: {path: /hello}, echo: true}\n");
    let post = [&[(&b":method"[..], &b"POST"[..])], &GET[1..]].concat();
    let trailers = Frame::head(1, &[(b"connection", b"close")], true);
    for (n, together) in [true, false].into_iter().enumerate() {
        let mut peer = open(&authority, &gateway);
        match together {
            true => peer.send_all(&[Frame::head(1, &post, false), trailers.clone()]).unwrap(),
            false => {
                peer.send(&Frame::head(1, &post, false)).unwrap();
                // Its answer shows that the head before it has been read.
                peer.send(&Frame::new(6, 0, 0, [7; 8])).unwrap();
                peer.await_frame(6);
                peer.send(&trailers).unwrap();
            }
        }
        assert_eq!(peer.ending(1), Ending::Reset(1), "{together}");
        let line = &told(&gateway, "bad_body", n + 1)[n];
        assert_eq!(line["path"], "/hello", "{line}");
        drop(peer);
        gateway.await_metric("portcullis_connections", &[("listener", "127.0.0.2:0")], 0.0);
        assert_eq!(gateway.place.read("access.log").lines().count(), n + 1);
    }
}

#[test]
fn hosts_that_disagree_are_told_so_in_full() {
    let (authority, gateway) = start("", HELLO);
    let user = but(b":authority", Some(b"me@gate.example"));
    let nobody = but(b":authority", None);
    let rows: [(&str, Vec<Field<'_>>); 6] = [
        ("hosts_differ", [&GET[..], &[(b"host", b"other.example")]].concat()),
        ("hosts_differ", [&GET[..], &[(b"host", b"gate.example:8443")]].concat()),
        ("several_hosts", [&GET[..], &[(b"host", b"gate.example"), (b"host", b"gate.example")]].concat()),
        ("bad_host", user),
        ("no_host", nobody),
        ("content_length", [&GET[..], &[(b"content-length", b"0"), (b"content-length", b"0")]].concat()),
    ];
    for (n, (reason, fields)) in rows.iter().enumerate() {
        let mut peer = open(&authority, &gateway);
        peer.send(&Frame::head(1, fields, true)).unwrap();
        let Ending::Answer { status: 400, body } = peer.ending(1) else { panic!("{reason}") };
        assert!(body.contains("urn:portcullis:problem:"), "{body}");
        let count = rows[..=n].iter().filter(|row| row.0 == *reason).count();
        let lines = told(&gateway, reason, count);
        assert_eq!((lines.len(), &lines[count - 1]["status"]), (count, &400.into()));
    }
    // The same host in another spelling is the same host.
    let mut peer = open(&authority, &gateway);
    peer.send(&Frame::head(1, &[&GET[..], &[(b"host", b"GATE.example")]].concat(), true)).unwrap();
    assert_eq!(peer.ending(1).status(), 200);
}

/// A client that never answers the PING behind the first GOAWAY, and goes on.
#[test]
fn requests_above_the_bound_are_refused_and_keep_nothing_open() {
    let (authority, gateway) = start("limits: {requests_per_connection: 5}", HELLO);
    let mut peer = open(&authority, &gateway);
    let crowd: Vec<_> = (0..8).map(|n| Frame::get(2 * n + 1, "/hello")).collect();
    peer.send_all(&crowd).unwrap();
    let (mut served, mut refused, mut farewells) = (Vec::new(), Vec::new(), Vec::new());
    while served.len() + refused.len() < 8 {
        let frame = peer.next().expect("the connection ended early");
        match frame.kind {
            DATA => served.push(frame.stream),
            RST_STREAM => refused.push((frame.stream, frame.number(0))),
            GOAWAY => farewells.push((frame.number(0), frame.number(4))),
            _ => {}
        }
    }
    served.sort_unstable();
    assert_eq!(served, [1, 3, 5, 7, 9]);
    assert_eq!(refused, [(11, 7), (13, 7), (15, 7)], "REFUSED_STREAM: nothing of it was done");
    assert_eq!(farewells, [(0x7fff_ffff, 0)]);
    let began = Instant::now();
    let mut stream = 17;
    while peer.send(&Frame::get(stream, "/hello")).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(15), "it may go on for ever");
        stream += 2;
        std::thread::sleep(Duration::from_millis(200));
    }
    while let Some(frame) = peer.next() {
        assert!(!matches!(frame.kind, HEADERS | DATA), "served above the bound: {frame:?}");
    }
    let lines = told(&gateway, "requests_per_connection", 3);
    assert_eq!(
        (&lines[0]["status"], &lines[0]["error"]["responseType"]),
        (&Value::Null, &"OVERLOADED".into())
    );
    closed(&gateway, "requests_per_connection", 1);
    let labels = [("policy", "gateway"), ("reason", "requests_per_connection")];
    assert!(gateway.metrics().of("portcullis_refusals_total", &labels) >= 3.0);
}

/// GOAWAY comes early enough that what was sent before it could be read is served.
#[test]
fn what_is_under_way_at_the_bound_is_served() {
    let (authority, gateway) = start("limits: {requests_per_connection: 20}", HELLO);
    let mut peer = open(&authority, &gateway);
    peer.send_all(&(0..17).map(|n| Frame::get(2 * n + 1, "/hello")).collect::<Vec<_>>()).unwrap();
    for _ in 0..17 {
        peer.await_frame(DATA);
    }
    peer.send(&Frame::get(35, "/hello")).unwrap();
    assert_eq!(peer.await_frame(GOAWAY).number(0), 0x7fff_ffff);
    peer.send_all(&[Frame::get(37, "/hello"), Frame::get(39, "/hello")]).unwrap();
    let mut answered: Vec<_> = (0..3).map(|_| peer.await_frame(DATA).stream).collect();
    answered.sort_unstable();
    assert_eq!(answered, [35, 37, 39]);
}

#[test]
fn connections_that_a_bound_ends_are_counted() {
    let (authority, gateway) =
        start("timeouts: {keep_alive: 500ms}, limits: {requests_per_connection: 2}", HELLO);
    closed(&gateway, "keep_alive", 0);
    let mut idle = Connection::open(gateway.address());
    idle.get("/hello").expect(200);
    assert!(idle.is_closed());
    closed(&gateway, "keep_alive", 1);
    let mut peer = open(&authority, &gateway);
    peer.send(&Frame::get(1, "/hello")).unwrap();
    assert_eq!(peer.await_frame(GOAWAY).number(4), 0);
    closed(&gateway, "keep_alive", 2);
    closed(&gateway, "requests_per_connection", 0);
    let mut busy = Connection::open(gateway.address());
    busy.get("/hello").expect(200);
    assert!(busy.get("/hello").expect(200).closes());
    closed(&gateway, "requests_per_connection", 1);
    let mut peer = open(&authority, &gateway);
    peer.send_all(&[Frame::get(1, "/hello"), Frame::get(3, "/hello")]).unwrap();
    assert_eq!(peer.await_frame(GOAWAY).number(4), 0);
    closed(&gateway, "requests_per_connection", 2);
    // Who leaves by himself is not counted.
    drop(Connection::open(gateway.address()));
    gateway.await_metric("portcullis_connections", &[("listener", "127.0.0.1:0")], 0.0);
    closed(&gateway, "keep_alive", 2);
}

/// "Trailers-Only" of gRPC over HTTP/2: an answer without messages is one HEADERS frame, and its clients take another for none.
#[test]
fn a_refusal_in_grpc_is_all_head() {
    let (authority, gateway) = start("", HELLO);
    for path in [&b"/nowhere"[..], b"/%00"] {
        let mut client = open(&authority, &gateway);
        let fields: [Field<'_>; 6] = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":path", path),
            (b":authority", b"gate.example"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        ];
        client.send(&Frame::head(1, &fields, false)).unwrap();
        client.send(&Frame::data(1, b"\0\0\0\0\x05hello", true)).unwrap();
        let answer = client.await_frame(HEADERS);
        assert_eq!((answer.stream, answer.status()), (1, 200));
        assert_ne!(answer.flags & END_STREAM, 0, "{}", String::from_utf8_lossy(path));
    }
}

/// Larger than its window, so that curl still has to send when it is answered.
#[test]
fn curl_sees_why_its_upload_is_refused() {
    let (_authority, gateway) = start("", HELLO);
    gateway.place.write("body", vec![b'x'; 300_000]);
    let (body, url) = (gateway.place.path("body"), format!("https://{}/nowhere", gateway.listener(1)));
    let data = format!("@{}", body.display());
    for _ in 0..3 {
        let told = curl(&["--insecure", "--http2", "-H", "Expect:", "--data-binary", &data, &url]);
        assert!(told.contains("\"status\":404"), "{told}");
    }
}
