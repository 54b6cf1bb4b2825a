//! Upstreams that are broken or taken over: whatever bytes they answer, a client gets one response to its request or none, and
//! never another client's.
//!
//! Every row is asked for over HTTP/1.1 and over HTTP/2, of a plain server and of one behind TLS. Twice on each way: a second
//! request that met what the first left on the connection would get the wrong answer.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{Authority, Connection, Http2, Origin, Peer, Place, Response, Running, eventually};

const SPLIT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Split: yes\r\n\r\nwrong";

/// The two upstreams of a scene.
const WAYS: [&str; 2] = ["/plain", "/secure"];

/// A gateway, plain and with TLS, in front of two origins that do the same, one of them behind TLS too.
struct Scene {
    _origins: [Origin; 2],
    authority: Authority,
    gateway: Running,
}

impl Scene {
    fn new(serve: impl Fn(&mut Peer) + Clone + Send + Sync + 'static) -> Self {
        Self::with(serve, "read: 5s, total: 10s")
    }

    fn with(serve: impl Fn(&mut Peer) + Clone + Send + Sync + 'static, timeouts: &str) -> Self {
        let (place, authority) = (Place::new(), Authority::new());
        authority.issue(&["gate.example"]).write(&place, "gate");
        authority.write(&place, "ca.crt");
        let plain = Origin::serve(serve.clone());
        let secure = Origin::serve_tls(&authority.issue(&["inner.example"]), serve);
        let rest = format!(
            "upstreams:
  plain: {{servers: ['{}'], retries: {{attempts: 1}}, timeouts: {{{timeouts}}}}}
  secure:
    servers: ['{}']
    tls: {{server_name: inner.example, ca: ./ca.crt}}
    retries: {{attempts: 1}}
    timeouts: {{{timeouts}}}
routes:
  - {{name: secure, match: {{path: '/secure/{{*rest}}'}}, upstream: secure, upgrade: [websocket]}}
  - {{name: plain, upstream: plain, upgrade: [websocket]}}
",
            plain.address(),
            secure.address()
        );
        let text = Place::with_base(&rest).replace(
            "  - address: 127.0.0.1:0\n",
            "  - address: 127.0.0.1:0
  - address: 127.0.0.2:0
    tls: {certificates: [{cert: gate.crt, key: gate.key}]}
",
        );
        let gateway = place.start_whole(&text);
        Self { _origins: [plain, secure], authority, gateway }
    }

    fn http2(&self) -> Http2 {
        let connector = self.authority.connector(|builder| builder.set_alpn_protos(b"\x02h2").unwrap());
        Http2::connect(self.gateway.listener(1), &connector, "gate.example")
    }

    /// What went wrong with the upstream, by the line of this path. A connection that is kept is kept by then.
    fn reason(&self, path: &str) -> String {
        self.gateway.access_of(path)["integration"]["error"].as_str().unwrap_or_default().to_owned()
    }
}

/// How often a connection was used again after it had served the row of this name.
#[derive(Clone, Debug, Default)]
struct Reused(Arc<Mutex<BTreeMap<String, usize>>>);

impl Reused {
    fn after(&self, row: &str) -> usize {
        self.0.lock().unwrap().get(row).copied().unwrap_or_default()
    }

    fn count(&self, row: String) {
        *self.0.lock().unwrap().entry(row).or_default() += 1;
    }
}

/// `/plain/3` of `/plain/3/http2`: an upstream and the number of a row.
fn row_of(path: &str) -> String {
    path.split('/').take(3).collect::<Vec<_>>().join("/")
}

/// A scene whose origins answer `/plain/3/…` with the bytes of row 3, as they are, and keep the connection.
fn scene_of(rows: Vec<Vec<u8>>) -> (Scene, Reused) {
    let reused = Reused::default();
    let (counts, rows) = (reused.clone(), Arc::new(rows));
    let scene = Scene::new(move |peer: &mut Peer| {
        let mut last = None;
        while let Some(head) = peer.read_head() {
            peer.drain_body(&head);
            let row = row_of(head.split(' ').nth(1).unwrap_or_default());
            let number = row.rsplit('/').next().and_then(|number| number.parse::<usize>().ok());
            if let Some(last) = last.replace(row) {
                counts.count(last);
            }
            if !number.and_then(|number| rows.get(number)).is_some_and(|answer| peer.write(answer)) {
                return;
            }
        }
    });
    (scene, reused)
}

/// Reads all that comes to one request over HTTP/1.1 until the connection ends: each response in it, and whether anything
/// that is no whole response came behind them.
fn all_of(gateway: &Running, method: &str, path: &str) -> (Vec<Response>, bool) {
    let mut client = Connection::open(gateway.address());
    client.write(format!("{method} {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"));
    let mut responses = Vec::new();
    loop {
        match client.try_response(method == "HEAD") {
            Ok(response) => responses.push(response),
            Err(error) => return (responses, !error.to_string().ends_with("after \"\"")),
        }
    }
}

/// What is refused before the client hears of it.
#[test]
fn an_answer_with_two_readings_is_502_and_the_last_of_its_connection() {
    let one = |field: &str| format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\nright{SPLIT}").into_bytes();
    let line = |line: &str| format!("{line}\r\nContent-Length: 5\r\n\r\nright{SPLIT}").into_bytes();
    let chunks = |chunks: &str| {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{SPLIT}").into_bytes()
    };
    let length = "Content-Length: 5\r\n";
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("both framings", one("Content-Length: 5\r\nTransfer-Encoding: chunked"), "both Transfer-Encoding"),
        ("lengths that differ", one("Content-Length: 5\r\nContent-Length: 50"), "several Content-Length"),
        ("equal lengths", one("Content-Length: 5\r\nContent-Length: 5"), "several Content-Length"),
        ("a list of lengths", one("Content-Length: 5, 5"), "not a number"),
        ("a signed length", one("Content-Length: +5"), "not a number"),
        ("a negative length", one("Content-Length: -5"), "not a number"),
        ("a length in two pieces", one("Content-Length: 5 0"), "not a number"),
        ("a hexadecimal length", one("Content-Length: 0x5"), "not a number"),
        ("an empty length", one("Content-Length:"), "not a number"),
        ("an endless length", one("Content-Length: 18446744073709551621"), "not a number"),
        (
            "chunked twice",
            one("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
            "several Transfer",
        ),
        ("chunked in chunked", one("Transfer-Encoding: chunked, chunked"), "malformed"),
        ("gzip", one("Transfer-Encoding: gzip"), "does not end in chunked"),
        ("chunked before gzip", one("Transfer-Encoding: chunked, gzip"), "malformed"),
        ("gzip before chunked", one("Transfer-Encoding: gzip, chunked"), "other than chunked"),
        ("no coding", one("Transfer-Encoding: xchunked"), "other than chunked"),
        ("a look-alike", one("Transfer_Encoding: chunked"), "all but Transfer-Encoding"),
        (
            "chunks in HTTP/1.0",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            "on HTTP/1.0",
        ),
        ("a bare CR", one(&format!("{length}X: a\rSet-Cookie: b=c")), "control characters"),
        ("a bare LF", one(&format!("{length}X: a\nSet-Cookie: b=c")), "bare line feed"),
        ("only LF", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nright".to_vec(), "bare line feed"),
        ("a CR in Set-Cookie", one(&format!("{length}Set-Cookie: a=b\r\rX: y")), "control characters"),
        ("a NUL", one(&format!("{length}X: a\0b")), "control characters"),
        ("DEL", one(&format!("{length}X: a\x7fb")), "control characters"),
        ("a folded field", one(&format!("{length}X: a\r\n b")), "folded"),
        ("a folded first line", line("HTTP/1.1 200 OK\r\n folded: x"), "folded"),
        ("space before the colon", one("Content-Length : 5"), "not a token"),
        ("an empty name", one(&format!("{length}: x")), "not a token"),
        ("no colon", one(&format!("{length}nothing")), "no colon"),
        ("HTTP/0.9", b"<html>right</html>".to_vec(), "no HTTP response"),
        ("HTTP/2.0", line("HTTP/2.0 200 OK"), "a version other"),
        ("HTTP/1.2", line("HTTP/1.2 200 OK"), "a version other"),
        ("an empty line first", line("\r\nHTTP/1.1 200 OK"), "no HTTP response"),
        ("two digits", line("HTTP/1.1 20 OK"), "the status line"),
        ("four digits", line("HTTP/1.1 2000 OK"), "the status line"),
        ("no status", line("HTTP/1.1 OK"), "the status line"),
        ("000", line("HTTP/1.1 000 None"), "from 100 to 599"),
        ("600", line("HTTP/1.1 600 None"), "from 100 to 599"),
        ("999", line("HTTP/1.1 999 None"), "from 100 to 599"),
        ("NUL in the reason", line("HTTP/1.1 200 O\0K"), "control characters"),
        (
            "an interim answer with content",
            format!("HTTP/1.1 103 Hints\r\nContent-Length: 5\r\n\r\nright{SPLIT}").into_bytes(),
            "an interim answer with content",
        ),
        ("an interim answer and garbage", b"HTTP/1.1 100 Continue\r\n\r\nright".to_vec(), "no HTTP response"),
        (
            "a flood of 100",
            format!("{}{SPLIT}", "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000)).into_bytes(),
            "more interim answers",
        ),
        (
            "a flood of 103",
            format!("{}{SPLIT}", "HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n".repeat(1000)).into_bytes(),
            "more interim answers",
        ),
        (
            "101 unasked",
            format!("HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n{SPLIT}")
                .into_bytes(),
            "101 that was not asked for",
        ),
        ("a head without end", one(&format!("X: {}", "a".repeat(64 << 10))), "longer than 64 KiB"),
        ("too many fields", one(&"X: y\r\n".repeat(257)), "more than 256 fields"),
        ("a bad chunk size", chunks("x\r\nright\r\n0\r\n\r\n"), "not hexadecimal"),
        ("a signed chunk size", chunks("+5\r\nright\r\n0\r\n\r\n"), "not hexadecimal"),
        ("a chunk size with 0x", chunks("0x5\r\nright\r\n0\r\n\r\n"), "not hexadecimal"),
        ("a space behind the chunk size", chunks("5 \r\nright\r\n0\r\n\r\n"), "not hexadecimal"),
        ("an empty chunk size", chunks("\r\nright\r\n0\r\n\r\n"), "not hexadecimal"),
        ("an endless chunk size", chunks("fffffffffffffffff\r\nright\r\n"), "too large"),
        ("a chunk line with a bare LF", chunks("5\nright\r\n0\r\n\r\n"), "not hexadecimal"),
        ("a chunk longer than said", chunks("4\r\nright\r\n0\r\n\r\n"), "longer than its size"),
        (
            "an endless chunk extension",
            chunks(&format!("5;{}\r\nright\r\n0\r\n\r\n", "e".repeat(2000))),
            "extensions are longer",
        ),
        ("a trailer that is none", chunks("5\r\nright\r\n0\r\nno colon\r\n\r\n"), "not a field"),
    ];
    let (scene, reused) = scene_of(table.iter().map(|(_, bytes, _)| bytes.clone()).collect());
    let mut client = scene.http2();
    let mut told = Vec::new();
    // A connection that was kept would serve a later row, if not the same one.
    for turn in 0..2 {
        for (number, (what, _, reason)) in table.iter().enumerate() {
            for way in WAYS {
                let mut check = |path: String, response: &Response| {
                    let seen = (response.status, response.header("x-split"));
                    assert_eq!(seen, (502, None), "{what}, {path}: {response:?}");
                    told.push((path, *what, *reason));
                };
                let path = format!("{way}/{number}/one/{turn}");
                let (responses, more) = all_of(&scene.gateway, "GET", &path);
                assert_eq!((responses.len(), more), (1, false), "{what}, {path}: {responses:?}");
                check(path, &responses[0]);
                let path = format!("{way}/{number}/two/{turn}");
                let response = client.get(&path);
                check(path, &response);
            }
        }
        // By the time a line is written its connection is kept or closed.
        scene.gateway.access(told.len());
    }
    let lines = scene.gateway.access(told.len());
    let lines: BTreeMap<_, _> =
        lines.iter().map(|line| (line["path"].as_str().unwrap_or_default(), line)).collect();
    for (path, what, reason) in &told {
        let line = lines[path.as_str()];
        let said = line["integration"]["error"].as_str().unwrap_or_default();
        let prefix = format!("{}: ", line["error"]["reason"].as_str().unwrap_or_default());
        assert!(said.starts_with(&prefix) && said.contains(reason), "{what}, {path}: {line}");
        assert!(
            ["bad_response: ", "response_"].iter().any(|word| prefix.starts_with(word)),
            "{path}: {line}"
        );
        assert_eq!(line["error"]["responseType"], "INTEGRATION_FAILURE", "{what}, {path}: {line}");
    }
    for (number, (what, ..)) in table.iter().enumerate() {
        for way in WAYS {
            assert_eq!(reused.after(&format!("{way}/{number}")), 0, "{what}, {way}: used again");
        }
    }
}

/// The bounds are constants; how often one is met can be counted all the same.
#[test]
fn what_is_beyond_a_bound_is_counted_under_its_own_word() {
    let ok = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    let chunks = ok("Transfer-Encoding: chunked\r\n");
    let table = [
        ("response_header_bytes", ok(&format!("X: {}\r\n", "x".repeat(64 << 10)))),
        ("response_header_fields", ok(&"X: y\r\n".repeat(257))),
        ("response_interim", "HTTP/1.1 103 Hints\r\n\r\n".repeat(33)),
        ("response_trailers", format!("{chunks}0\r\n{}\r\n", "X: y\r\n".repeat(2000))),
        ("response_chunk_extensions", format!("{chunks}1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(2000))),
    ];
    let (scene, _) = scene_of(table.iter().map(|(_, answer)| answer.clone().into_bytes()).collect());
    for (number, (word, _)) in table.iter().enumerate() {
        let labels = [("policy", "gateway"), ("reason", *word)];
        let counted = scene.gateway.metrics().of("portcullis_refusals_total", &labels);
        assert_eq!(counted, 0.0, "{word}: the series is there from the start");
        all_of(&scene.gateway, "GET", &format!("/plain/{number}/x"));
        scene.gateway.await_metric("portcullis_refusals_total", &labels, 1.0);
    }
}

/// What can be understood in one way, though it is odd: the client gets exactly that, and never what follows.
#[test]
fn an_odd_answer_is_passed_on_as_one_and_nothing_behind_it() {
    let ok = |fields: &str, content: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{content}");
    let chunked = |chunks: &str| ok("Transfer-Encoding: chunked\r\n", chunks);
    // What, by which method, the answer, its status and content, whether its connection may serve again.
    let table: Vec<(&str, &str, String, u16, &str, bool)> = vec![
        ("an ordinary answer", "GET", ok("Content-Length: 5\r\n", "right"), 200, "right", true),
        ("no reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nright".into(), 200, "right", true),
        (
            "no space either",
            "GET",
            "HTTP/1.1 404\r\nContent-Length: 5\r\n\r\nright".into(),
            404,
            "right",
            true,
        ),
        (
            "a second answer",
            "GET",
            ok("Content-Length: 5\r\n", &format!("right{SPLIT}")),
            200,
            "right",
            false,
        ),
        ("half of one", "GET", ok("Content-Length: 5\r\n", "rightHTTP/1.1 200 O"), 200, "right", false),
        ("one byte more", "GET", ok("Content-Length: 5\r\n", "right!"), 200, "right", false),
        ("an empty line more", "GET", ok("Content-Length: 5\r\n", "right\r\n"), 200, "right", false),
        ("chunks", "GET", chunked("5;a=b\r\nright\r\n0\r\n\r\n"), 200, "right", true),
        (
            "chunks and a second answer",
            "GET",
            chunked(&format!("5\r\nright\r\n0\r\n\r\n{SPLIT}")),
            200,
            "right",
            false,
        ),
        (
            "trailers that no trailer may be",
            "GET",
            chunked(
                "5\r\nright\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: gzip\r\nHost: b\r\nSet-Cookie: a=b\r\nX-Split: 1\r\n\r\n",
            ),
            200,
            "right",
            true,
        ),
        (
            "204 with content",
            "GET",
            format!("HTTP/1.1 204 None\r\nContent-Length: 72\r\n\r\n{SPLIT}"),
            204,
            "",
            false,
        ),
        (
            "204 with late content",
            "GET",
            "HTTP/1.1 204 None\r\nContent-Length: 72\r\n\r\n".into(),
            204,
            "",
            false,
        ),
        ("304 with content", "GET", format!("HTTP/1.1 304 Same\r\n\r\n{SPLIT}"), 304, "", false),
        (
            "304 with chunks",
            "GET",
            "HTTP/1.1 304 Same\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            304,
            "",
            false,
        ),
        ("304 with a length", "GET", "HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n".into(), 304, "", true),
        ("HEAD", "HEAD", ok("Content-Length: 5\r\n", ""), 200, "", true),
        ("HEAD with content", "HEAD", ok("Content-Length: 5\r\n", "right"), 200, "", false),
        ("HEAD with chunks", "HEAD", chunked("5\r\nright\r\n0\r\n\r\n"), 200, "", false),
        (
            "interim answers",
            "GET",
            format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nX-Split: yes\r\n\r\n{}",
                ok("Content-Length: 5\r\n", "right")
            ),
            200,
            "right",
            true,
        ),
        (
            "two places to go",
            "GET",
            "HTTP/1.1 302 Go\r\nLocation: /a\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n".into(),
            302,
            "",
            true,
        ),
        (
            "what Connection names",
            "GET",
            ok(
                "Connection: content-length, content-type, set-cookie, date, x-named, keep-alive\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nTrailer: X-Split\r\nContent-Type: text/x\r\nSet-Cookie: a=b\r\nContent-Length: 5\r\n",
                "right",
            ),
            200,
            "right",
            true,
        ),
        (
            "it says farewell",
            "GET",
            ok("Connection: close\r\nContent-Length: 5\r\n", "right"),
            200,
            "right",
            false,
        ),
        (
            "an old version",
            "GET",
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nright".into(),
            200,
            "right",
            false,
        ),
        (
            "a gift of 205",
            "GET",
            "HTTP/1.1 205 Reset\r\nContent-Length: 5\r\n\r\nright".into(),
            205,
            "right",
            true,
        ),
        (
            "a proxy's status",
            "GET",
            "HTTP/1.1 407 Who\r\nContent-Length: 5\r\n\r\nright".into(),
            407,
            "right",
            true,
        ),
        ("a length with zeros", "GET", ok("Content-Length: 0005\r\n", "right"), 200, "right", true),
    ];
    let (scene, reused) = scene_of(table.iter().map(|row| row.2.clone().into_bytes()).collect());
    let mut client = scene.http2();
    for (number, (what, method, _, status, content, again)) in table.iter().enumerate() {
        for way in WAYS {
            let row = format!("{way}/{number}");
            let check = |path: &str, response: &Response| {
                let seen = (response.status, response.text());
                assert_eq!(seen, (*status, (*content).to_owned()), "{what}, {path}");
                for name in GONE {
                    assert_eq!(response.header(name), None, "{what}, {path}: {response:?}");
                }
                assert!(response.header("date").is_some(), "{what}, {path}: no Date (RFC 9110 §6.6.1)");
                if *what == "what Connection names" {
                    let kept = (response.header("content-type"), response.header("set-cookie"));
                    assert_eq!(kept, (Some("text/x"), Some("a=b")), "{path}");
                }
                if *status == 204 {
                    let framing = (response.header("content-length"), response.header("transfer-encoding"));
                    assert_eq!(framing, (None, None), "{what}, {path}");
                }
                assert_eq!(scene.reason(path), "", "{what}, {path}");
            };
            for turn in 0..2 {
                let path = format!("{row}/one/{turn}");
                let (responses, more) = all_of(&scene.gateway, method, &path);
                assert_eq!((responses.len(), more), (1, false), "{what}, {path}: {responses:?}");
                check(&path, &responses[0]);
            }
            for turn in 0..2 {
                let path = format!("{row}/two/{turn}");
                check(&path, &client.request(method, &path, &[], b""));
            }
            // The second request over HTTP/2 meets the connection that the first has left, if it has.
            assert_eq!(reused.after(&row) > 0, *again, "{what}, {way}: {} used again", reused.after(&row));
        }
    }
}

/// Fields of one connection, and those that rows try to bring in by the back door.
const GONE: [&str; 7] =
    ["x-split", "x-named", "keep-alive", "proxy-authenticate", "proxy-connection", "upgrade", "trailer"];

/// What goes wrong when the head has left already: the client must see that the answer is not whole.
#[test]
fn an_answer_that_breaks_off_is_not_made_whole() {
    let trailers = format!("5\r\nright\r\n0\r\nX: {}\r\n\r\n", "t".repeat(9000));
    let extensions = "1;".to_owned() + &"e".repeat(1000) + "\r\nx\r\n";
    let extensions = extensions.repeat(20) + "0\r\n\r\n";
    let table = [
        ("Content-Length: 50\r\n", "right", "closed_early"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nrig", "closed_early"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nright\r\n", "closed_early"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nright\r\n0\r\n", "closed_early"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nright\r\nz\r\n", "bad_response"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nrightHTTP/1.1 200 OK\r\n", "bad_response"),
        ("Transfer-Encoding: chunked\r\n", &trailers, "response_trailers"),
        ("Transfer-Encoding: chunked\r\n", &extensions, "response_chunk_extensions"),
    ];
    let answers =
        table.map(|(fields, content, _)| (format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), content.to_owned()));
    let scene = Scene::new(move |peer: &mut Peer| {
        let Some(head) = peer.read_head() else { return };
        let row = row_of(head.split(' ').nth(1).unwrap_or_default());
        let number = row.rsplit('/').next().and_then(|number| number.parse::<usize>().ok());
        if let Some((head, content)) = number.and_then(|number| answers.get(number)) {
            peer.write(head);
            peer.write(content);
        }
    });
    for (number, (_, content, reason)) in table.iter().enumerate() {
        let content = content.get(..40).unwrap_or(content);
        for way in WAYS {
            // Where head and content arrive together the client hears nothing of the first.
            let path = format!("{way}/{number}/one");
            let (responses, _) = all_of(&scene.gateway, "GET", &path);
            let refused = responses.len() == 1 && responses[0].status == 502;
            assert!(refused || responses.is_empty(), "{content:?}, {path}: {responses:?}");
            let told = scene.reason(&path);
            assert!(told.starts_with(reason), "{content:?}, {path}: {told}");
            let path = format!("{way}/{number}/two");
            let answer = scene.http2().try_request("GET", &path, &[], b"");
            assert!(
                answer.is_err() || answer.is_ok_and(|answer| answer.status == 502),
                "{content:?}, {path}"
            );
        }
    }
}

#[test]
fn an_answer_that_breaks_off_is_not_made_whole_for_http_1_0() {
    let origin = Origin::each(|head, peer| {
        peer.drain_body(head);
        peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nright\r\n");
        std::thread::sleep(Duration::from_millis(300));
        if head.starts_with("GET /whole ") { peer.write("0\r\n\r\n") } else { false }
    });
    let rest = format!(
        "upstreams: {{o: {{servers: ['{}']}}}}\nroutes: [{{name: o, upstream: o}}]\n",
        origin.address()
    );
    let (authority, gateway) = Place::start_beside_tls("", &rest);
    let request = |path: &str| format!("GET {path} HTTP/1.0\r\nHost: gate.example\r\n\r\n");
    for (path, is_whole) in [("/whole", true), ("/cut", false)] {
        let mut answer = Vec::new();
        let mut plain = TcpStream::connect(gateway.address()).unwrap();
        plain.write_all(request(path).as_bytes()).unwrap();
        assert_eq!(plain.read_to_end(&mut answer).is_ok(), is_whole, "{path}");
        let mut answer = Vec::new();
        let mut tls = authority.connect(gateway.listener(1), "gate.example");
        tls.write_all(request(path).as_bytes()).unwrap();
        assert_eq!(tls.read_to_end(&mut answer).is_ok(), is_whole, "{path} over TLS");
        if is_whole {
            assert!(answer.ends_with(b"\r\n\r\nright"), "{}", String::from_utf8_lossy(&answer));
        }
    }
    let told = gateway.access_of("/cut").to_string();
    assert!(told.contains("closed_early"), "{told}");
}

/// TLS says when a stream is whole; without that, an end is a cut that anybody on the network can make.
#[test]
fn an_answer_over_tls_that_ends_without_a_good_bye_is_not_whole() {
    let scene = Scene::new(|peer: &mut Peer| {
        if peer.read_head().is_some() {
            peer.write("HTTP/1.1 200 OK\r\n\r\nuntil the end");
        }
    });
    let (responses, _) = all_of(&scene.gateway, "GET", "/plain/x");
    assert_eq!((responses[0].status, responses[0].text().as_str()), (200, "until the end"));
    // Whether or not the content arrives before the cut is seen: it is not passed off as whole.
    let (responses, _) = all_of(&scene.gateway, "GET", "/secure/x");
    assert!(responses.iter().all(|response| response.status == 502), "{responses:?}");
    assert!(scene.reason("/secure/x").starts_with("closed_early"), "{}", scene.reason("/secure/x"));
}

/// A server that speaks before it is asked: at first that is its answer, and the connection serves no other request; on a kept
/// connection it is nobody's.
#[test]
fn what_nobody_asked_for_is_nobodys_answer() {
    // At once when a connection is made, and then to each request as well.
    let (connections, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&connections), Arc::clone(&answered));
    let scene = Scene::new(move |peer: &mut Peer| {
        let number = counts.0.fetch_add(1, Ordering::SeqCst);
        peer.answer(200, &format!("early {number}"));
        while let Some(head) = peer.read_head() {
            peer.drain_body(&head);
            peer.answer(200, head.split(' ').nth(1).unwrap_or_default());
            counts.1.fetch_add(1, Ordering::SeqCst);
        }
    });
    let mut early = Vec::new();
    let mut asked = 0;
    for way in WAYS {
        for turn in 0..4 {
            let path = format!("{way}/{turn}");
            let text = scene.gateway.get(&path).expect(200).text();
            assert!(text == path || text.starts_with("early ") && !early.contains(&text), "{path}: {text}");
            early.push(text);
            asked += 1;
            eventually("the answer that comes too late", || {
                (answered.load(Ordering::SeqCst) >= asked).then_some(())
            });
        }
    }
    assert_eq!(connections.load(Ordering::SeqCst), asked, "a connection was used again");

    // On a connection that is kept, while nobody waits for anything.
    let (go, said) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let marks = (Arc::clone(&go), Arc::clone(&said));
    let scene = Scene::new(move |peer: &mut Peer| {
        while let Some(head) = peer.read_head() {
            peer.drain_body(&head);
            peer.answer(200, head.split(' ').nth(1).unwrap_or_default());
            let turn = marks.1.load(Ordering::SeqCst);
            eventually("the word to go on", || (marks.0.load(Ordering::SeqCst) > turn).then_some(()));
            peer.write(SPLIT);
            marks.1.fetch_add(1, Ordering::SeqCst);
        }
    });
    for way in WAYS {
        for turn in 0..4 {
            let path = format!("{way}/{turn}");
            assert_eq!(scene.gateway.get(&path).expect(200).text(), path);
            scene.gateway.access_of(&path);
            let now = go.fetch_add(1, Ordering::SeqCst) + 1;
            eventually("an answer to nobody", || (said.load(Ordering::SeqCst) >= now).then_some(()));
        }
    }
}

/// RFC 9110 §7.8: to the protocol that was asked for, and to no other.
#[test]
fn a_switch_is_to_what_was_asked_for() {
    let table = [
        ("HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello", 101),
        ("HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nhello", 502),
        ("HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\nhello", 502),
        ("HTTP/1.1 101 Go\r\nConnection: upgrade\r\n\r\nhello", 502),
        ("HTTP/1.1 101 Go\r\nUpgrade: websocket\r\n\r\nhello", 502),
        ("HTTP/1.0 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello", 502),
        (
            "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
            502,
        ),
    ];
    let (scene, _) = scene_of(table.iter().map(|(answer, _)| answer.as_bytes().to_vec()).collect());
    for (number, (answer, status)) in table.into_iter().enumerate() {
        let mut client = Connection::open(scene.gateway.address());
        client.write(format!(
            "GET /plain/{number} HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ));
        let head = client.read_head().unwrap();
        assert_eq!(head.status, status, "{answer}");
        if status == 101 {
            assert_eq!(client.read_exactly(5).unwrap(), b"hello");
        }
    }
}

/// Interim answers that never end: their number is bounded, and so is the time.
#[test]
fn interim_answers_that_drip_meet_the_total_deadline() {
    let scene = Scene::with(
        |peer: &mut Peer| {
            if peer.read_head().is_some() {
                while peer.write("HTTP/1.1 103 Hints\r\n\r\n") {
                    std::thread::sleep(Duration::from_millis(150));
                }
            }
        },
        "read: 1s, total: 2s",
    );
    let began = Instant::now();
    let (responses, _) = all_of(&scene.gateway, "GET", "/plain/x");
    assert_eq!(responses.iter().map(|response| response.status).collect::<Vec<_>>(), [504]);
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert!(scene.reason("/plain/x").starts_with("total_timeout"), "{}", scene.reason("/plain/x"));
}
