//! HTTP/1 connections by the letter: what is served and how often, what is kept, and what a body answered early leaves behind.

use std::fmt::Write as _;

use crate::conformance::{Recorder, exchange};
use crate::harness::{Connection, Running};

const PROBE: &str = "GET /probe HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
/// A request's worth of body, which nobody may take for one.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";

fn start() -> (Recorder, Running) {
    let recorder = Recorder::start();
    let early = "  - {name: early, match: {path: /early, methods: [GET, POST]}, respond: {body: early}}\n";
    let gateway = Running::with(&(recorder.routes() + early));
    (recorder, gateway)
}

/// What is sent, the statuses of all answers, and what the origin is sent: `METHOD target body`.
type Row = (&'static str, String, &'static [u16], &'static [&'static str]);

#[test]
fn what_has_one_meaning_is_served_once() {
    let (recorder, gateway) = start();
    let get = |line: &str| format!("{line}\r\nHost: a.example\r\n\r\n{PROBE}");
    let post = |fields: &str, body: &str| {
        format!("POST /row HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n\r\n{body}{PROBE}")
    };
    let chunked = |body: &str| post("Transfer-Encoding: chunked", body);
    const TWO: &[u16] = &[200, 200];
    const ROW: &[&str] = &["GET /row ", "GET /probe "];
    const HELLO: &[&str] = &["POST /row hello", "GET /probe "];
    const EMPTY: &[&str] = &["POST /row ", "GET /probe "];
    let rows: Vec<Row> = vec![
        ("9112 §2.2 empty line before", format!("\r\n{}", get("GET /row HTTP/1.1")), TWO, ROW),
        ("9112 §2.2 two empty lines before", format!("\r\n\r\n{}", get("GET /row HTTP/1.1")), TWO, ROW),
        ("9112 §3.2.2 absolute-form", get("GET http://a.example/row HTTP/1.1"), TWO, ROW),
        ("9112 §3.2.2 scheme in capitals", get("GET HTTP://a.example/row HTTP/1.1"), TWO, ROW),
        ("9112 §3.2.2 host in capitals", get("GET http://A.EXAMPLE/row HTTP/1.1"), TWO, ROW),
        ("9112 §3.2.4 asterisk", get("OPTIONS * HTTP/1.1"), TWO, &["OPTIONS * ", "GET /probe "]),
        ("9110 §9.1 unknown method", get("PURGE /row HTTP/1.1"), TWO, &["PURGE /row ", "GET /probe "]),
        ("9110 §9.1 case of methods", get("get /row HTTP/1.1"), TWO, &["get /row ", "GET /probe "]),
        ("9110 §5.1 case of names", format!("GET /row HTTP/1.1\r\nhOST: a.example\r\n\r\n{PROBE}"), TWO, ROW),
        ("9110 §5.5 no space", format!("GET /row HTTP/1.1\r\nHost:a.example\r\n\r\n{PROBE}"), TWO, ROW),
        (
            "9110 §5.5 white space",
            format!("GET /row HTTP/1.1\r\nHost: \t a.example \t\r\n\r\n{PROBE}"),
            TWO,
            ROW,
        ),
        (
            "9110 §5.5 empty value",
            format!("GET /row HTTP/1.1\r\nHost: a.example\r\nX:\r\n\r\n{PROBE}"),
            TWO,
            ROW,
        ),
        ("9112 §6.3 no body", post("X: y", ""), TWO, EMPTY),
        ("9112 §6.3 length of nothing", post("Content-Length: 0", ""), TWO, EMPTY),
        ("9112 §6.3 length", post("Content-Length: 5", "hello"), TWO, HELLO),
        ("9110 §8.6 leading zeros are digits", post("Content-Length: 0005", "hello"), TWO, HELLO),
        ("9110 §5.5 white space around", post("Content-Length:\t 5 \t", "hello"), TWO, HELLO),
        ("9112 §7.1 chunks", chunked("5\r\nhello\r\n0\r\n\r\n"), TWO, HELLO),
        ("9112 §7.1 chunks", chunked("1\r\nh\r\n4\r\nello\r\n0\r\n\r\n"), TWO, HELLO),
        ("9112 §7.1 no chunk", chunked("0\r\n\r\n"), TWO, EMPTY),
        ("9112 §7.1 zeros", chunked("0005\r\nhello\r\n000\r\n\r\n"), TWO, HELLO),
        ("9112 §7 case", post("Transfer-Encoding: ChUnKeD", "5\r\nhello\r\n0\r\n\r\n"), TWO, HELLO),
        ("9112 §7.1.1 extensions", chunked("5;a=b;c=\"d e\"\r\nhello\r\n0;x\r\n\r\n"), TWO, HELLO),
        (
            "9112 §7.1.2 trailers are dropped",
            chunked("5\r\nhello\r\n0\r\nHost: b\r\nContent-Length: 9\r\nAuthorization: x\r\n\r\n"),
            TWO,
            HELLO,
        ),
        (
            "9112 §7.1 a chunk that looks like an end",
            chunked("5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
            TWO,
            &["POST /row 0\r\n\r\n", "GET /probe "],
        ),
        (
            "9110 §10.1.1 Expect with its body",
            post("Expect: 100-continue\r\nContent-Length: 5", "hello"),
            // Whether more follows cannot be known before the body has come: kept or closed, never confused.
            TWO,
            HELLO,
        ),
        (
            "9112 §6.3 a body that hides a request",
            post(&format!("Content-Length: {}", HIDDEN.len()), HIDDEN),
            TWO,
            &["POST /row GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET /probe "],
        ),
        // Content with GET is the last of its connection (RFC 9110 §9.3.1).
        (
            "9110 §9.3.1 GET with content",
            format!("GET /row HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello{PROBE}"),
            &[200],
            &["GET /row hello"],
        ),
        (
            "9110 §9.3.1 GET with chunks",
            format!(
                "GET /row HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{PROBE}"
            ),
            &[200],
            &["GET /row hello"],
        ),
        (
            "9112 §9.3 HTTP/1.0 closes",
            format!("GET /row HTTP/1.0\r\nHost: a.example\r\n\r\n{PROBE}"),
            &[200],
            &["GET /row "],
        ),
        (
            "9112 §9.3 HTTP/1.0 keep-alive",
            format!("GET /row HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n{PROBE}"),
            TWO,
            ROW,
        ),
        (
            "9112 §9.3 HTTP/1.0 keep-alive and close",
            format!("GET /row HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive, close\r\n\r\n{PROBE}"),
            &[200],
            &["GET /row "],
        ),
        (
            "9112 §9.6 close",
            format!("GET /row HTTP/1.1\r\nHost: a.example\r\nConnection: x , CLOSE\r\n\r\n{PROBE}"),
            &[200],
            &["GET /row "],
        ),
        (
            "9112 §9.6 close beats keep-alive",
            format!("GET /row HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, close\r\n\r\n{PROBE}"),
            &[200],
            &["GET /row "],
        ),
        (
            "9112 §9.6 close in a second field",
            format!(
                "GET /row HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n{PROBE}"
            ),
            &[200],
            &["GET /row "],
        ),
        (
            "9112 §9.3.2 garbage behind a request",
            format!("GET /row HTTP/1.1\r\nHost: a.example\r\n\r\n\x01\x02{PROBE}"),
            &[200, 400],
            &["GET /row "],
        ),
        (
            "9110 §7.8 an upgrade nobody grants",
            format!(
                "GET /row HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n{PROBE}"
            ),
            TWO,
            ROW,
        ),
        (
            "9110 §7.8 an upgrade with a body",
            post("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5", "hello"),
            TWO,
            HELLO,
        ),
        (
            "9113 §3.1 a preface behind an upgrade",
            format!(
                "GET /row HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{PROBE}"
            ),
            // Not a preface: a head of a version not spoken here.
            &[200, 0],
            &["GET /row "],
        ),
    ];
    let mut wrong = String::new();
    for (section, bytes, statuses, requests) in &rows {
        let outcome = exchange(&gateway, &recorder, bytes.as_bytes());
        let told: Vec<_> = outcome
            .received
            .iter()
            .map(|r| {
                let mut words = r.head.split(' ');
                let body = r.body.as_deref().map_or_else(|| "(cut)".into(), String::from_utf8_lossy);
                format!("{} {} {body}", words.next().unwrap_or_default(), words.next().unwrap_or_default())
            })
            .collect();
        let got = outcome.statuses();
        // 0 stands for 400 or 505.
        let same = got.len() == statuses.len()
            && got.iter().zip(*statuses).all(|(g, s)| g == s || *s == 0 && matches!(g, 400 | 505));
        let clean = outcome.received.iter().all(|r| {
            r.has_one_framing()
                && ["upgrade", "http2-settings", "expect", "trailer", "te", "keep-alive"]
                    .iter()
                    .all(|name| r.all(name).is_empty())
        });
        if !same || told != *requests || !clean {
            writeln!(wrong, "{section}: {got:?} {told:?} {:?}", outcome.received).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn a_hundred_pipelined_requests_are_answered_in_order() {
    let (recorder, gateway) = start();
    let mut bytes = String::new();
    for n in 0..100 {
        match n % 4 {
            0 => write!(bytes, "GET /{n} HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap(),
            1 => write!(bytes, "POST /{n} HTTP/1.1\r\nHost: a.example\r\nContent-Length: {n}\r\n\r\n{}", "x".repeat(n)).unwrap(),
            2 => write!(bytes, "POST /{n} HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n{n:x}\r\n{}\r\n0\r\n\r\n", "y".repeat(n)).unwrap(),
            _ => write!(bytes, "\r\nPOST /early HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len()).unwrap(),
        }
    }
    let outcome = exchange(&gateway, &recorder, bytes.as_bytes());
    let texts: Vec<_> = outcome.answers.iter().map(crate::harness::Response::text).collect();
    let expected: Vec<_> = (0..100)
        .map(|n| match n % 4 {
            0 => "0".to_owned(),
            1 | 2 => n.to_string(),
            _ => "early".to_owned(),
        })
        .collect();
    assert_eq!(texts, expected);
    let paths: Vec<_> =
        outcome.received.iter().map(|r| r.head.split(' ').nth(1).unwrap().to_owned()).collect();
    let forwarded: Vec<_> = (0..100).filter(|n| n % 4 != 3).map(|n| format!("/{n}")).collect();
    assert_eq!(paths, forwarded);
}

#[test]
fn a_refusal_in_a_pipeline_is_its_last_answer() {
    let (recorder, gateway) = start();
    let good = "GET /row HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for bad in [
        "GET /bad HTTP/1.1\r\n\r\n",
        "GET /bad HTTP/1.1\r\nHost: a.example\r\nX : y\r\n\r\n",
        "POST /bad HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n",
        "GET /a%00b HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET /../bad HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ] {
        let outcome = exchange(&gateway, &recorder, format!("{good}{bad}{good}{PROBE}").as_bytes());
        let statuses = outcome.statuses();
        assert!(matches!(*statuses, [200, 400 | 501]), "{bad:?}: {statuses:?}");
        assert!(outcome.answers.last().unwrap().closes());
        assert_eq!(outcome.received.len(), 1, "{bad:?}");
    }
}

#[test]
fn a_body_that_was_answered_early_is_never_a_request() {
    let (recorder, gateway) = start();
    let hidden = HIDDEN.repeat(3);
    for (path, method) in [("/early", "POST"), ("/a%2fb", "PUT"), ("/a%00b", "POST"), ("/early", "GET")] {
        for fields in ["", "Expect: 100-continue\r\n", "Connection: close\r\n", "Connection: keep-alive\r\n"]
        {
            let with_length = format!(
                "{method} {path} HTTP/1.1\r\nHost: a.example\r\n{fields}Content-Length: {}\r\n\r\n{hidden}{PROBE}",
                hidden.len()
            );
            let in_chunks = format!(
                "{method} {path} HTTP/1.1\r\nHost: a.example\r\n{fields}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n{PROBE}",
                hidden.len()
            );
            let huge = "x".repeat(300_000);
            let long = format!(
                "{method} {path} HTTP/1.1\r\nHost: a.example\r\n{fields}Content-Length: {}\r\n\r\n{huge}{hidden}{PROBE}",
                huge.len() + hidden.len()
            );
            for bytes in [with_length, in_chunks, long] {
                let outcome = exchange(&gateway, &recorder, bytes.as_bytes());
                let requests: Vec<_> =
                    outcome.received.iter().map(|r| r.head.split(' ').nth(1).unwrap()).collect();
                let what = bytes.get(..120).unwrap();
                match *outcome.statuses() {
                    [_] => {
                        assert!(outcome.answers[0].closes(), "{what}");
                        assert!(requests.is_empty(), "{what}: {requests:?}");
                    }
                    [_, 200] => assert_eq!(requests, ["/probe"], "{what}"),
                    ref other => panic!("{what}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn answers_without_a_body_have_none() {
    let (recorder, gateway) = start();
    for (path, status) in [("/row", 200), ("/early", 200), ("/a%2fb", 400), ("/a%00b", 400)] {
        let bytes = format!("HEAD {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n");
        let mut client = Connection::open(gateway.address());
        client.write(&bytes);
        let head = client.read_head().unwrap();
        assert_eq!(head.status, status, "{path}");
        assert!(client.read_exactly(1).is_err(), "{path}: HEAD was answered with a body");
    }
    let outcome = exchange(&gateway, &recorder, b"HEAD /x HTTP/1.1\r\nHost: a.example\r\nX : y\r\n\r\n");
    assert_eq!(outcome.statuses(), [400]);
}

#[test]
fn expectations_are_met_or_refused() {
    let (recorder, gateway) = start();
    // A client that waits is told to continue, once, and only where its body is wanted (RFC 9110 §10.1.1).
    let mut client = Connection::open(gateway.address());
    client
        .write("POST /row HTTP/1.1\r\nHost: a.example\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.read_head().unwrap().status, 100);
    client.write("hello");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str(), response.informational.len()), (200, "5", 0));
    let received = recorder.take();
    assert!(received.len() == 1 && received[0].all("expect").is_empty(), "{received:?}");

    let mut client = Connection::open(gateway.address());
    client
        .write("PUT /a%2fb HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.informational.len()), (400, 0));
    assert!(response.closes() && client.is_closed());

    // HTTP/1.0 knows no interim answers.
    let outcome = exchange(
        &gateway,
        &recorder,
        b"POST /row HTTP/1.0\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert!(outcome.answers.iter().all(|answer| answer.informational.is_empty()), "{outcome:?}");
    assert_eq!(outcome.statuses(), [200]);
}
