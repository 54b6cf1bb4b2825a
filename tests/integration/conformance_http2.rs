//! HTTP/2 by the letter, and its way to an origin of HTTP/1.1: frames written byte by byte, an origin that remembers what it was sent.
//! A malformed request (RFC 9113 §8.1.1) is reset or answered with an error, and never becomes a whole request for the origin,
//! whose connections are used again throughout.

use std::fmt::Write as _;

use crate::conformance::{Received, Recorder};
use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Ending, Frame, Frames, HEADERS, RST_STREAM, block,
};
use crate::harness::{Authority, Place, Running, eventually};

type Field = (&'static [u8], &'static [u8]);

/// What it is about, the fields, the pieces of body, and the body that the origin gets (empty: the pieces together).
type Row = (&'static str, Vec<Field>, &'static [&'static [u8]], &'static [u8]);

const GET: [Field; 4] =
    [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/row"), (b":authority", b"gate.example")];
const POST: [Field; 4] =
    [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/row"), (b":authority", b"gate.example")];
const HIDDEN: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: gate.example\r\n\r\n";

struct Stage {
    recorder: Recorder,
    gateway: Running,
    authority: Authority,
}

impl Stage {
    fn set() -> Self {
        let recorder = Recorder::start();
        let (place, authority) = (Place::new(), Authority::new());
        authority.issue(&["gate.example"]).write(&place, "gate");
        let text = Place::with_base(&recorder.routes()).replace(
            "  - address: 127.0.0.1:0\n",
            "  - address: 127.0.0.1:0\n    tls: {certificates: [{cert: gate.crt, key: gate.key}]}\n",
        );
        Self { recorder, gateway: place.start_whole(&text), authority }
    }

    fn open(&self) -> Frames {
        Frames::connect(self.gateway.address(), &self.authority, &[])
    }

    /// Fields and, if any, pieces of body on a connection of their own; the last piece ends the stream.
    fn request(&self, fields: &[(&[u8], &[u8])], body: &[&[u8]]) -> (Ending, Vec<Received>) {
        self.recorder.take();
        let mut client = self.open();
        say(&mut client, &[Frame::head(1, fields, body.is_empty())]);
        for (n, piece) in body.iter().enumerate() {
            say(&mut client, &[Frame::data(1, piece, n + 1 == body.len())]);
        }
        (client.ending(1), self.recorder.take())
    }
}

/// A gateway that has ended the connection is found out by reading.
fn say(client: &mut Frames, frames: &[Frame]) {
    client.send_all(frames).ok();
}

fn with(base: &[Field], more: &[Field]) -> Vec<Field> {
    [base, more].concat()
}

/// The base with one pseudo-header of another value, or without it.
fn but(name: &'static [u8], value: Option<&'static [u8]>) -> Vec<Field> {
    let others = GET.iter().filter(|(n, _)| *n != name).copied();
    value.map(|value| (name, value)).into_iter().chain(others).collect()
}

#[test]
fn malformed_requests_never_reach_an_origin() {
    let stage = Stage::set();
    let mut rows: Vec<(&str, Vec<Field>)> = Vec::new();
    let names: &[&[u8]] = &[
        b"",
        b"X-Upper",
        b"x y",
        b"x\ty",
        b" x",
        b"x ",
        b"x\r\ny",
        b"x\ny",
        b"x\ry",
        b"x\0",
        b"x:y",
        b"x: y\r\nz",
        b":x",
        b":",
        b"x\x7f",
        b"x\x80",
        b"x\xff",
        b"(x)",
        b"x,y",
        b"\"x\"",
        b"x/y",
        b"x@y",
        b"transfer-encoding: chunked\r\nx",
        b"content-length:0\r\n\r\nGET /smuggled HTTP/1.1\r\nx",
    ];
    rows.extend(names.iter().map(|name| ("9113 §8.2.1 name", with(&GET, &[(name, b"y")]))));
    let values: &[&[u8]] = &[
        b"a\r\nb: c",
        b"a\nb: c",
        b"a\rb",
        b"a\0b",
        b"\r\n\r\nGET /smuggled HTTP/1.1",
        b"\n",
        b"\r",
        b"\0",
        b" a",
        b"a ",
        b"\ta",
        b"a\t",
        b" ",
        b"a\x01",
        b"a\x1b",
        b"a\x7f",
    ];
    rows.extend(values.iter().map(|value| ("9113 §8.2.1 value", with(&GET, &[(b"x", value)]))));
    let own: &[Field] = &[
        (b"connection", b"close"),
        (b"connection", b"x"),
        (b"connection", b""),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"transfer-encoding", b""),
        (b"upgrade", b"h2c"),
        (b"upgrade", b"websocket"),
        (b"te", b"gzip"),
        (b"te", b"trailers, deflate"),
        (b"te", b"chunked"),
    ];
    rows.extend(own.iter().map(|field| ("9113 §8.2.2 connection-specific", with(&GET, &[*field]))));
    let pseudo: &[Field] = &[
        (b":method", b"POST"),
        (b":path", b"/other"),
        (b":scheme", b"https"),
        (b":authority", b"gate.example"),
        (b":authority", b"other.example"),
    ];
    for twice in pseudo {
        rows.push(("9113 §8.3 doubled", [&[*twice], &GET[..]].concat()));
    }
    rows.extend([
        ("9113 §8.3 unknown", [&[(&b":x"[..], &b"y"[..])], &GET[..]].concat()),
        ("9113 §8.3.2 of a response", [&[(&b":status"[..], &b"200"[..])], &GET[..]].concat()),
        (
            "9113 §8.3 in capitals",
            but(b":path", None).into_iter().chain([(&b":Path"[..], &b"/"[..])]).collect(),
        ),
        ("9113 §8.3 after a field", [&[(&b"x"[..], &b"y"[..])], &GET[..]].concat()),
        ("9113 §8.3.1 :protocol", [&[(&b":protocol"[..], &b"websocket"[..])], &GET[..]].concat()),
        ("9113 §8.3.1 no method", but(b":method", None)),
        ("9113 §8.3.1 no scheme", but(b":scheme", None)),
        ("9113 §8.3.1 no path", but(b":path", None)),
        ("9113 §8.3.1 no host at all", but(b":authority", None)),
    ]);
    let texts: &[(&[u8], &[&[u8]])] = &[
        (
            b":method",
            &[
                b"",
                b"G ET",
                b"GET ",
                b" GET",
                b"GET\r\n",
                b"GET\0",
                b"GET /smuggled HTTP/1.1\r\nx: ",
                b"GET:",
                b"G(T",
                b"GET\x80",
                b"G\tET",
                b"TRACE",
            ],
        ),
        (
            b":scheme",
            &[
                b"",
                b"ftp",
                b"https://x",
                b"ht tp",
                b"https\r\nx: y",
                b"http:",
                b"https\0",
                b"://",
                b"1",
                b"javascript",
            ],
        ),
        (
            b":path",
            &[
                b"",
                b"row",
                b"*",
                b"?x",
                b" /row",
                b"/row ",
                b"/a b",
                b"/a\tb",
                b"/a\r\nb: c",
                b"/a\nb",
                b"/a\0b",
                b"/a\x7f",
                b"http://gate.example/row",
                b"https://other.example/row",
                b"\\row",
                b"/row HTTP/1.1\r\nx: y",
                b"/\xff",
                b"/\xc0\xaf",
                b"/a%00b",
                b"/a%",
                b"/../x",
            ],
        ),
        (
            b":authority",
            &[
                b"",
                b" ",
                b"me@gate.example",
                b"gate.example/x",
                b"gate.example, x",
                b"gate example",
                b"gate.example:x",
                b"gate.example:99999",
                b"gate.example\r\nx: y",
                b"gate.example\0",
                b"gate.example?x",
                b"gate.example#x",
                b"[::1",
                b"gate.example:80:80",
                b"https://gate.example",
                b"gate.example\\x",
                b"gate.example ",
            ],
        ),
    ];
    for (name, values) in texts {
        rows.extend(values.iter().map(|value| ("9113 §8.3.1 pseudo", but(name, Some(value)))));
    }
    rows.extend([
        ("9113 §8.3.1 another Host", with(&GET, &[(b"host", b"other.example")])),
        ("9113 §8.3.1 another port", with(&GET, &[(b"host", b"gate.example:8443")])),
        ("9112 §3.2 two Hosts", with(&GET, &[(b"host", b"gate.example"), (b"host", b"gate.example")])),
        ("9110 §7.2 bad Host", with(&but(b":authority", None), &[(b"host", b"a b")])),
        ("9110 §7.2 empty Host", with(&but(b":authority", None), &[(b"host", b"")])),
        ("9110 §7.2 Host with a user", with(&but(b":authority", None), &[(b"host", b"a@b")])),
        ("9110 §8.6 length", with(&GET, &[(b"content-length", b"+0")])),
        ("9110 §8.6 length", with(&GET, &[(b"content-length", b"-1")])),
        ("9110 §8.6 length", with(&GET, &[(b"content-length", b"x")])),
        ("9110 §8.6 length", with(&GET, &[(b"content-length", b"")])),
        ("9110 §8.6 length", with(&GET, &[(b"content-length", b"0, 0")])),
        ("9110 §8.6 length", with(&GET, &[(b"content-length", b"0"), (b"content-length", b"0")])),
        ("9113 §8.1.1 length of nothing", with(&GET, &[(b"content-length", b"5")])),
        ("9113 §8.1.1 length of nothing", with(&POST, &[(b"content-length", b"5")])),
        ("9110 §8.6 huge length", with(&POST, &[(b"content-length", b"18446744073709551617")])),
        ("8.2.1 look-alikes", with(&POST, &[(b"transfer_encoding", b"chunked")])),
        ("8.2.1 look-alikes", with(&POST, &[(b"content_length", b"5")])),
    ]);
    let mut wrong = String::new();
    for (section, fields) in &rows {
        let (ending, received) = stage.request(fields, &[]);
        let refused = match &ending {
            // By our own answer.
            Ending::Answer { status, body } => {
                matches!(status, 400 | 405 | 501) && body.contains(&format!("\"status\":{status}"))
            }
            // PROTOCOL_ERROR and no other.
            Ending::Reset(code) | Ending::Gone(code) => *code == 1,
        };
        if !refused || !received.is_empty() {
            let shown: Vec<_> =
                fields.iter().map(|(n, v)| format!("{}={}", n.escape_ascii(), v.escape_ascii())).collect();
            writeln!(wrong, "{section}: {shown:?}: {ending:?} {received:?}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let (ending, received) = stage.request(&GET, &[]);
    assert_eq!((ending.status(), received.len()), (200, 1), "the probe");
    // Each has its record, whoever refused it.
    let lines = stage.gateway.access(rows.len() + 1);
    let refused = lines.iter().filter(|line| line["error"]["reason"].is_string()).count();
    assert_eq!((lines.len(), refused), (rows.len() + 1, rows.len()));
}

#[test]
fn what_gateway_refuses_itself_is_told_in_full() {
    let stage = Stage::set();
    for fields in [
        but(b":path", Some(b"/a%00b")),
        but(b":scheme", Some(b"ftp")),
        with(&GET, &[(b"x", b" y")]),
        with(&GET, &[(b"transfer_encoding", b"chunked")]),
    ] {
        let (ending, _) = stage.request(&fields, &[]);
        let Ending::Answer { status: 400, body } = ending else { panic!("{fields:?}: {ending:?}") };
        assert!(body.contains("\"status\":400"), "{body}");
    }
    assert!(stage.gateway.access(4).iter().all(|line| line["error"]["message"].is_string()));
}

#[test]
fn a_body_that_is_not_as_long_as_it_says_is_never_whole() {
    let stage = Stage::set();
    let length = |text: &'static [u8]| with(&POST, &[(b"content-length", text)]);
    let rows: &[(Vec<Field>, &[&[u8]])] = &[
        (length(b"5"), &[b"hel"]),
        (length(b"5"), &[b"hel", b""]),
        (length(b"5"), &[b""]),
        (length(b"5"), &[b"hello, more"]),
        (length(b"5"), &[b"hello", b"more"]),
        (length(b"5"), &[b"hello", HIDDEN]),
        (length(b"0"), &[HIDDEN]),
        (length(b"0"), &[b"", HIDDEN]),
        (length(b"1"), &[b"x", HIDDEN]),
        (length(b"100000"), &[b"hello"]),
        (with(&GET, &[(b"content-length", b"0")]), &[HIDDEN]),
        (with(&GET, &[(b"content-length", b"5")]), &[b"x"]),
    ];
    for (fields, body) in rows {
        let (ending, received) = stage.request(fields, body);
        let what = format!("{:?} {body:?}: {ending:?} {received:?}", fields.last());
        assert!(received.iter().all(|r| r.body.is_none()), "{what}");
        assert!(received.iter().all(|r| r.head.split(' ').nth(1) == Some("/row")), "{what}");
        assert_ne!(ending.status(), 200, "{what}");
        // The same connections to the origin serve what follows.
        for _ in 0..2 {
            let (ending, received) = stage.request(&with(&GET, &[(b"x-probe", b"1")]), &[]);
            assert_eq!(ending, Ending::Answer { status: 200, body: "0".into() }, "{what}");
            let probes = received.iter().filter(|r| !r.all("x-probe").is_empty()).count();
            assert!(
                probes == 1 && received.iter().all(|r| !r.head.contains("smuggled")),
                "{what}: {received:?}"
            );
        }
    }
    let told = "the body is not what its head said";
    eventually("a record of a body that is not what its head said", || {
        stage.gateway.place.read("access.log").contains(told).then_some(())
    });
}

/// h2 has the whole stream before anybody looks at it, and then a stream that was reset looks like one that was finished.
#[test]
fn a_body_that_breaks_off_at_once_is_never_whole() {
    const CANCEL: &[u8] = &8_u32.to_be_bytes();
    let stage = Stage::set();
    let (chunked, long) = (block(&POST), block(&with(&POST, &[(b"content-length", b"5")])));
    let rows: &[&[(u8, u8, &[u8])]] = &[
        &[(HEADERS, END_HEADERS, &chunked), (RST_STREAM, 0, CANCEL)],
        &[(HEADERS, END_HEADERS, &chunked), (DATA, 0, b"hello"), (RST_STREAM, 0, CANCEL)],
        &[(HEADERS, END_HEADERS, &long), (RST_STREAM, 0, CANCEL)],
        &[(HEADERS, END_HEADERS, &long), (DATA, 0, b"hel"), (RST_STREAM, 0, CANCEL)],
        &[(HEADERS, END_HEADERS, &long), (DATA, END_STREAM, b"")],
        &[(HEADERS, END_HEADERS, &long), (DATA, END_STREAM, b"hel")],
        &[(HEADERS, END_HEADERS, &long), (DATA, END_STREAM, b"hello, more")],
    ];
    for frames in rows {
        stage.recorder.take();
        let mut client = stage.open();
        let together = frames.iter().map(|(kind, flags, payload)| Frame::new(*kind, *flags, 1, *payload));
        say(&mut client, &together.collect::<Vec<_>>());
        // The answer to the next request shows that the first is over.
        say(&mut client, &[Frame::head(3, &with(&GET, &[(b"x-probe", b"1")]), true)]);
        client.ending(3);
        let mut received = stage.recorder.take();
        let (ending, after) = stage.request(&with(&GET, &[(b"x-probe", b"1")]), &[]);
        assert_eq!(ending.status(), 200, "{frames:?}");
        received.extend(after);
        let whole = |r: &Received| r.body.is_some() && r.all("x-probe").is_empty();
        assert!(!received.iter().any(whole), "{frames:?}: {received:?}");
    }
}

#[test]
fn what_is_well_formed_reaches_the_origin_in_one_framing() {
    let stage = Stage::set();
    let rows: &[Row] = &[
        ("9113 §8.1 no body", with(&GET, &[]), &[], b""),
        (
            "9113 §8.3.1 Host for :authority",
            with(&but(b":authority", None), &[(b"host", b"gate.example")]),
            &[],
            b"",
        ),
        ("9113 §8.3.1 both alike", with(&GET, &[(b"host", b"gate.example")]), &[], b""),
        ("9113 §8.3.1 scheme http", but(b":scheme", Some(b"http")), &[], b""),
        ("9113 §8.2.2 te", with(&GET, &[(b"te", b"trailers")]), &[], b""),
        ("9113 §8.1 body without length", with(&POST, &[]), &[b"hel", b"lo"], b"hello"),
        ("9113 §8.1 body with length", with(&POST, &[(b"content-length", b"5")]), &[b"hel", b"lo"], b"hello"),
        ("9113 §8.1 empty body", with(&POST, &[]), &[b""], b""),
        // An empty last frame must not become a last chunk of its own.
        ("9113 §8.1 empty last frame", with(&POST, &[]), &[b"hello", b""], b"hello"),
        ("9113 §8.1 empty frames", with(&POST, &[]), &[b"", b"hel", b"", b"lo", b""], b"hello"),
        ("9113 §8.1 empty frames, a hidden request", with(&POST, &[]), &[b"", HIDDEN, b""], HIDDEN),
        ("9113 §8.1 empty body with length", with(&POST, &[(b"content-length", b"0")]), &[b""], b""),
        ("9113 §8.1 length of nothing", with(&POST, &[(b"content-length", b"0")]), &[], b""),
        ("9113 §8.1 a body that looks like requests", with(&POST, &[]), &[HIDDEN, HIDDEN], &[]),
        ("9113 §8.1 a body that looks like the last chunk", with(&POST, &[]), &[b"0\r\n\r\n", HIDDEN], &[]),
        ("9110 §9.3.1 GET with content", with(&GET, &[]), &[b"hello"], b"hello"),
        ("9110 §10.1.1 Expect", with(&POST, &[(b"expect", b"100-continue")]), &[b"hello"], b"hello"),
        ("9110 §7.6.1 settings of an upgrade", with(&GET, &[(b"http2-settings", b"AAMAAABk")]), &[], b""),
        ("9110 §11.7.1 for a proxy", with(&GET, &[(b"proxy-authorization", b"Basic x")]), &[], b""),
        ("9110 §6.6.2 Trailer", with(&GET, &[(b"trailer", b"x")]), &[], b""),
    ];
    for (section, fields, body, expected) in rows {
        let (ending, received) = stage.request(fields, body);
        let what = format!("{section}: {ending:?} {received:?}");
        let [one] = &*received else { panic!("{what}") };
        let expected = if expected.is_empty() { body.concat() } else { expected.to_vec() };
        assert_eq!(ending.status(), 200, "{what}");
        assert_eq!(one.body.as_deref(), Some(&*expected), "{what}");
        assert!(one.has_one_framing(), "{what}");
        assert_eq!(one.all("host"), ["gate.example"], "{what}");
        for name in
            ["te", "expect", "http2-settings", "proxy-authorization", "trailer", "connection", "upgrade"]
        {
            assert!(one.all(name).is_empty(), "{name}: {what}");
        }
    }
    let (_, received) =
        stage.request(&with(&GET, &[(b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")]), &[]);
    assert_eq!(received[0].all("cookie"), ["a=1; b=2"]);
}

#[test]
fn trailers_never_become_fields_or_requests() {
    let stage = Stage::set();
    let trailers: &[(&[Field], bool)] = &[
        (&[(b"x", b"y")], true),
        (&[(b"content-length", b"0")], true),
        (&[(b"host", b"other.example")], true),
        // h2 reads over pseudo-headers here (RFC 9113 §8.1 wants the request malformed); no trailer goes any further.
        (&[(b":path", b"/other")], true),
        (&[(b"X", b"y")], false),
        (&[(b"x", b"y\r\nz: z")], false),
        (&[(b"transfer-encoding", b"chunked")], false),
        (&[(b"connection", b"close")], false),
    ];
    for (fields, may_pass) in trailers {
        stage.recorder.take();
        let mut client = stage.open();
        say(&mut client, &[Frame::head(1, &POST, false)]);
        say(&mut client, &[Frame::data(1, b"hello", false)]);
        say(&mut client, &[Frame::head(1, fields, true)]);
        let (ending, received) = (client.ending(1), stage.recorder.take());
        let what = format!("{fields:?}: {ending:?} {received:?}");
        assert!(received.iter().all(|r| r.has_one_framing() && r.all("x").is_empty()), "{what}");
        if *may_pass {
            assert_eq!(received[0].body.as_deref(), Some(&b"hello"[..]), "{what}");
            assert_eq!(ending.status(), 200, "{what}");
        } else {
            assert!(ending.status() != 200 && received.iter().all(|r| r.body.is_none()), "{what}");
        }
    }
}

#[test]
fn a_head_in_many_frames_is_bounded_like_any_other() {
    let stage = Stage::set();
    // Two frames, the second a CONTINUATION: one head.
    let mut client = stage.open();
    let whole = block(&GET);
    let (first, rest) = whole.split_at(10);
    say(&mut client, &[Frame::new(HEADERS, END_STREAM, 1, first)]);
    say(&mut client, &[Frame::new(CONTINUATION, END_HEADERS, 1, rest)]);
    assert_eq!(client.ending(1).status(), 200);
    // More fields, one longer, and all together longer than is allowed.
    let many: Vec<Field> = [&GET[..], &vec![(&b"x"[..], &b"y"[..]); 101]].concat();
    let long = vec![b'y'; 9000];
    let one: Vec<(&[u8], &[u8])> = [&GET[..], &[(b"x", &long)]].concat();
    let half = vec![b'y'; 4000];
    let all: Vec<(&[u8], &[u8])> = [&GET[..], &vec![(&b"x"[..], &half[..]); 12]].concat();
    stage.recorder.take();
    for fields in [&many[..], &one, &all] {
        let mut client = stage.open();
        let bytes = block(fields);
        let mut pieces = bytes.chunks(16_000).peekable();
        let mut kind = HEADERS;
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            say(
                &mut client,
                &[Frame::new(kind, if kind == HEADERS { last | END_STREAM } else { last }, 1, piece)],
            );
            kind = CONTINUATION;
        }
        assert_eq!(client.ending(1).status(), 431);
    }
    assert!(stage.recorder.take().is_empty());
}
