//! HTTP/1 by the letter: tables of heads, bodies and connections, each through the gateway to an origin that remembers what it was
//! sent. A row that is refused gets one problem document, closes, is recorded, and nothing behind it is served; a row that is
//! served is one request for the origin, with one framing.

use std::fmt::Write as _;

use crate::conformance::{Outcome, Recorder, exchange};
use crate::harness::Running;

/// What follows every row on its connection: served, or not, as the row says.
const PROBE: &str = "GET /probe HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
/// What no row may ever make a request of.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";

fn start() -> (Recorder, Running) {
    let recorder = Recorder::start();
    let early = "  - {name: early, match: {path: /early, methods: [GET, POST]}, respond: {body: early}}\n";
    let gateway = Running::with(&(recorder.routes() + early));
    (recorder, gateway)
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /row HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked", body)
}

/// Runs rows that must be refused, gives those that were not, and sees to it that each has its record with a reason.
fn refused(rows: &[(&str, Vec<u8>, &[u16])], is_right: impl Fn(&Outcome, &[u16]) -> bool) {
    let (recorder, gateway) = start();
    let mut wrong = String::new();
    for (section, bytes, statuses) in rows {
        let outcome = exchange(&gateway, &recorder, &[bytes, PROBE.as_bytes()].concat());
        if !is_right(&outcome, statuses) {
            let shown = bytes.get(..160).unwrap_or(bytes).escape_ascii();
            writeln!(wrong, "{section}: {shown}: {:?}, {:?}", outcome.statuses(), outcome.received).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let lines = gateway.access(rows.len());
    assert_eq!(lines.len(), rows.len());
    for line in lines {
        assert!(line["error"]["message"].is_string(), "no reason: {line}");
    }
}

#[test]
fn malformed_request_lines_are_refused() {
    let line = |line: &str| format!("{line}\r\nHost: a.example\r\n\r\n").into_bytes();
    let raw = |line: &[u8]| [line, b"\r\nHost: a.example\r\n\r\n"].concat();
    const BAD: &[u16] = &[400];
    const VERSION: &[u16] = &[400, 505];
    let rows: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("9112 §3 no version", line("GET /row"), BAD),
        ("9112 §3 HTTP/0.9", b"GET /row\r\n".to_vec(), BAD),
        ("9112 §3 no target", line("GET  HTTP/1.1"), BAD),
        ("9112 §3 no target", line("GET HTTP/1.1"), BAD),
        ("9112 §3 two spaces", line("GET  /row HTTP/1.1"), BAD),
        ("9112 §3 two spaces", line("GET /row  HTTP/1.1"), BAD),
        ("9112 §3 trailing space", line("GET /row HTTP/1.1 "), BAD),
        ("9112 §3 trailing tab", line("GET /row HTTP/1.1\t"), BAD),
        ("9112 §3 trailing word", line("GET /row HTTP/1.1 x"), BAD),
        ("9112 §3 tab", line("GET\t/row HTTP/1.1"), BAD),
        ("9112 §3 tab", line("GET /row\tHTTP/1.1"), BAD),
        ("9112 §3 VT", line("GET\x0b/row HTTP/1.1"), BAD),
        ("9112 §3 FF", line("GET /row\x0cHTTP/1.1"), BAD),
        ("9112 §2.2 leading space", line(" GET /row HTTP/1.1"), BAD),
        ("9112 §2.2 leading tab", line("\tGET /row HTTP/1.1"), BAD),
        ("9112 §2.2 leading LF", line("\nGET /row HTTP/1.1"), BAD),
        ("9112 §2.2 leading CR", line("\rGET /row HTTP/1.1"), BAD),
        ("9112 §2.2 leading NUL", line("\0GET /row HTTP/1.1"), BAD),
        ("9112 §2.2 many empty lines", line(&("\r\n".repeat(40) + "GET /row HTTP/1.1")), BAD),
        ("9112 §2.2 bare CR", line("GET /row\r HTTP/1.1"), BAD),
        ("9112 §2.2 bare CR", line("GET /row HTTP/1.1\r"), BAD),
        ("9112 §2.2 bare CR", line("GET /a\rX: b HTTP/1.1"), BAD),
        ("9112 §2.2 bare LF", b"GET /row HTTP/1.1\nHost: a.example\n\n".to_vec(), BAD),
        ("9112 §2.2 bare LF", b"GET /row HTTP/1.1\nHost: a.example\r\n\r\n".to_vec(), BAD),
        ("9112 §2.2 bare LF", b"GET /row HTTP/1.1\r\nHost: a.example\n\r\n".to_vec(), BAD),
        ("9112 §2.2 bare LF at the end", b"GET /row HTTP/1.1\r\nHost: a.example\r\n\n".to_vec(), BAD),
        ("9110 §9.1 method", line("G(T /row HTTP/1.1"), BAD),
        ("9110 §9.1 method", line("GET: /row HTTP/1.1"), BAD),
        ("9110 §9.1 method", line("\"GET\" /row HTTP/1.1"), BAD),
        ("9110 §9.1 method", line("G\u{c9}T /row HTTP/1.1"), BAD),
        ("9110 §9.1 method", raw(b"G\xffT /row HTTP/1.1"), BAD),
        ("9110 §9.1 method", line("G\0T /row HTTP/1.1"), BAD),
        ("9110 §9.1 long method", line(&("M".repeat(4000) + " /row HTTP/1.1")), &[400, 501]),
        ("9110 §9.3.8 TRACE", line("TRACE /row HTTP/1.1"), &[405]),
        ("9110 §9.3.6 CONNECT", line("CONNECT a.example:443 HTTP/1.1"), &[405]),
        ("9110 §9.3.6 CONNECT to a path", line("CONNECT /row HTTP/1.1"), &[400, 405]),
        ("9112 §3.2.3 authority-form", line("GET a.example:80 HTTP/1.1"), BAD),
        ("9112 §3.2.3 authority-form", line("GET a.example HTTP/1.1"), BAD),
        ("9112 §3.2.4 asterisk-form", line("GET * HTTP/1.1"), BAD),
        ("9112 §3.2.4 asterisk-form", line("OPTIONS *x HTTP/1.1"), BAD),
        ("9112 §3.2.4 asterisk-form", line("OPTIONS *?x HTTP/1.1"), BAD),
        ("9112 §3.2 fragment", line("GET /row#x HTTP/1.1"), BAD),
        ("9112 §3.2 fragment", line("GET /row?a=b#c HTTP/1.1"), BAD),
        ("9112 §3.2 relative", line("GET row HTTP/1.1"), BAD),
        ("9112 §3.2 relative", line("GET ../row HTTP/1.1"), BAD),
        ("9112 §3.2 backslash", line("GET \\row HTTP/1.1"), BAD),
        ("9112 §3.2.2 scheme", line("GET ftp://a.example/row HTTP/1.1"), BAD),
        ("9112 §3.2.2 scheme", line("GET file:///row HTTP/1.1"), BAD),
        ("9112 §3.2.2 scheme", line("GET javascript:alert(1) HTTP/1.1"), BAD),
        ("9112 §3.2.2 no host", line("GET http:///row HTTP/1.1"), BAD),
        ("9112 §3.2.2 no host", line("GET http:/row HTTP/1.1"), BAD),
        ("9110 §4.2.4 user", line("GET http://me@a.example/row HTTP/1.1"), BAD),
        ("9110 §4.2.4 user", line("GET http://b.example@a.example/row HTTP/1.1"), BAD),
        ("9112 §3.2.2 another host", line("GET http://b.example/row HTTP/1.1"), BAD),
        ("9112 §3.2.2 another port", line("GET http://a.example:81/row HTTP/1.1"), BAD),
        ("9112 §3.2 space in the target", line("GET /a b HTTP/1.1"), BAD),
        ("9112 §3.2 raw UTF-8", line("GET /\u{e9} HTTP/1.1"), BAD),
        ("9112 §3.2 overlong UTF-8", raw(b"GET /\xc0\xaf HTTP/1.1"), BAD),
        ("9112 §3.2 DEL", line("GET /\x7f HTTP/1.1"), BAD),
        ("9112 §3.2 NUL", line("GET /\0 HTTP/1.1"), BAD),
        ("9112 §3.2 control", line("GET /?\x01 HTTP/1.1"), BAD),
        ("9112 §2.3 case", line("GET /row http/1.1"), BAD),
        ("9112 §2.3 case", line("GET /row Http/1.1"), BAD),
        ("9112 §2.3 form", line("GET /row HTTP/1"), BAD),
        ("9112 §2.3 form", line("GET /row HTTP/1."), BAD),
        ("9112 §2.3 form", line("GET /row HTTP/.1"), BAD),
        ("9112 §2.3 form", line("GET /row HTTP/11"), BAD),
        ("9112 §2.3 form", line("GET /row HTTP/01.1"), BAD),
        ("9112 §2.3 form", line("GET /row HTTP/1.01"), BAD),
        ("9112 §2.3 form", line("GET /row HTTP/1,1"), BAD),
        ("9112 §2.3 form", line("GET /row HTTP/1.1.1"), BAD),
        ("9112 §2.3 form", line("GET /row HTTP/-1.1"), BAD),
        ("9112 §2.3 form", line("GET /row HTTP /1.1"), BAD),
        ("9112 §2.3 form", line("GET /row HTTP/1. 1"), BAD),
        ("9112 §2.3 form", line("GET /row HTTPS/1.1"), BAD),
        ("9112 §2.3 form", line("GET /row XHTTP/1.1"), BAD),
        ("9110 §2.5 version", line("GET /row HTTP/1.2"), VERSION),
        ("9110 §2.5 version", line("GET /row HTTP/0.9"), VERSION),
        ("9110 §2.5 version", line("GET /row HTTP/2.0"), VERSION),
        ("9110 §2.5 version", line("GET /row HTTP/9.9"), VERSION),
        ("9113 §3.4 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), VERSION),
        ("8446 TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), BAD),
    ];
    refused(&rows, Outcome::is_refused);
}

#[test]
fn malformed_fields_are_refused() {
    let one = |field: &str| format!("GET /row HTTP/1.1\r\nHost: a.example\r\n{field}\r\n\r\n").into_bytes();
    let head = |head: &str| format!("{head}\r\n\r\n").into_bytes();
    const BAD: &[u16] = &[400];
    let mut rows: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("9112 §3.2 no Host", head("GET /row HTTP/1.1"), BAD),
        ("9112 §3.2 two Hosts", one("Host: b.example"), BAD),
        ("9112 §3.2 the same Host twice", one("hOsT: a.example"), BAD),
        ("9112 §3.2 Host list", head("GET /row HTTP/1.1\r\nHost: a.example, b.example"), BAD),
        ("9112 §3.2 Host with a path", head("GET /row HTTP/1.1\r\nHost: a.example/x"), BAD),
        ("9110 §7.2 Host with a user", head("GET /row HTTP/1.1\r\nHost: a@b.example"), BAD),
        ("9110 §7.2 Host with a space", head("GET /row HTTP/1.1\r\nHost: a b"), BAD),
        ("9110 §7.2 Host port", head("GET /row HTTP/1.1\r\nHost: a.example:x"), BAD),
        ("9110 §7.2 Host port", head("GET /row HTTP/1.1\r\nHost: a.example:80:80"), BAD),
        ("9110 §7.2 Host port", head("GET /row HTTP/1.1\r\nHost: a.example:65536"), BAD),
        ("9110 §7.2 Host empty", head("GET /row HTTP/1.1\r\nHost:"), BAD),
        ("9110 §7.2 Host bracket", head("GET /row HTTP/1.1\r\nHost: [::1"), BAD),
        ("9112 §5.1 space before the colon", head("GET /row HTTP/1.1\r\nHost : a.example"), BAD),
        ("9112 §2.2 space before the first field", head("GET /row HTTP/1.1\r\n Host: a.example"), BAD),
        ("9112 §5.1 space before the colon", one("X : y"), BAD),
        ("9112 §5.1 tab before the colon", one("X\t: y"), BAD),
        ("9112 §5.2 folding", one("X: y\r\n z"), BAD),
        ("9112 §5.2 folding", one("X: y\r\n\tz"), BAD),
        ("9112 §5.2 folding of nothing", one("X: y\r\n \r\nZ: z"), BAD),
        ("9112 §5.2 folding, hiding a field", one("X: y\r\n Content-Length: 5"), BAD),
        ("9112 §5 no colon", one("X"), BAD),
        ("9112 §5 no colon", one("Content-Length 5"), BAD),
        ("9110 §5.1 empty name", one(": y"), BAD),
        ("9110 §5.1 pseudo", one(":path: /x"), BAD),
        ("9110 §5.1 name", one("X\u{e9}: y"), BAD),
        ("9110 §5.1 name", one("X(y): z"), BAD),
        ("9110 §5.1 name", one("X y: z"), BAD),
        ("9110 §5.1 name", one("\"X\": z"), BAD),
        ("9110 §5.1 name", one("X\0: z"), BAD),
        ("9110 §5.1 name", one("X\x7f: z"), BAD),
        ("9110 §5.5 NUL", one("X: a\0b"), BAD),
        ("9110 §5.5 bare CR", one("X: a\rb"), BAD),
        ("9110 §5.5 bare CR", one("X: a\r"), BAD),
        ("9110 §5.5 bare LF", one("X: a\nY: b"), BAD),
        ("9112 §2.2 two LF", one("X: a\n\nGET /smuggled HTTP/1.1"), BAD),
        ("9112 §2.2 LF CR", one("X: a\n\rY: b"), BAD),
        ("9110 §5.4 many fields", one(&vec!["X: y"; 100].join("\r\n")), &[431]),
        ("9110 §5.4 long field", one(&format!("X: {}", "y".repeat(9000))), &[431]),
        ("9110 §5.4 long name", one(&format!("{}: y", "X".repeat(9000))), &[431]),
        ("9110 §5.4 long head", one(&vec![format!("X: {}", "y".repeat(4000)); 10].join("\r\n")), &[431]),
        ("9110 §4.1 long target", head(&format!("GET /{} HTTP/1.1\r\nHost: a", "x".repeat(9000))), &[414]),
        (
            "9112 §2.3 HTTP/1.0 with coding",
            head("POST /row HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked"),
            BAD,
        ),
        (
            "9112 §6.1 HTTP/1.0 keep-alive with coding",
            head(
                "POST /row HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked",
            ),
            BAD,
        ),
    ];
    for control in (0x01..0x20).chain([0x7f]).filter(|b| !matches!(b, b'\t' | b'\n' | b'\r')) {
        let value = [b"GET /row HTTP/1.1\r\nHost: a.example\r\nX: a", &[control][..], b"b\r\n\r\n"].concat();
        rows.push(("9110 §5.5 control", value, BAD));
    }
    refused(&rows, Outcome::is_refused);
}

#[test]
fn lengths_that_are_no_plain_number_are_refused() {
    const BAD: &[u16] = &[400];
    let values = [
        "",
        " ",
        "+5",
        "-5",
        "-0",
        "5.0",
        "5e0",
        "0x5",
        "0b1",
        "0o5",
        "5 5",
        "5;",
        "5,",
        ",5",
        "5, 5",
        "5,5",
        "5, 6",
        "5\t5",
        "5x",
        "x5",
        "\"5\"",
        "(5)",
        "five",
        "NaN",
        "\u{665}",
        "5\u{a0}",
        "5_0",
        "1'000",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551621",
        "9223372036854775808",
        "99999999999999999999999999999999",
        "4294967301999999999999",
    ];
    let mut rows: Vec<(&str, Vec<u8>, &[u16])> = values
        .iter()
        .map(|v| ("9112 §6.3", post(&format!("Content-Length: {v}"), "hello").into_bytes(), BAD))
        .collect();
    let twice = [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 0\r\nContent-Length: 5",
        "Content-Length: 5\r\ncontent-length: 05",
        "Content-Length: 5\r\nContent-Length:",
        "Content-Length:\r\nContent-Length: 5",
        "Content-Length : 5",
        "Content-Length\t: 5",
        " Content-Length: 5",
        "Content-Length: 5\r\n 0",
        "Content-Length: \r\n 5",
        "Content-Length\0: 5",
        "Content_Length: 5",
        "Content-Length: 5\r\nContent_Length: 0",
        "Content Length: 5",
    ];
    rows.extend(twice.iter().map(|f| ("9112 §6.3", post(f, "hello").into_bytes(), BAD)));
    refused(&rows, Outcome::is_refused);
}

#[test]
fn codings_other_than_chunked_are_refused() {
    const BAD: &[u16] = &[400];
    // RFC 9112 §6.1: what is not understood is 501; where the end cannot be known, 400 (§6.3, rule 4).
    const EITHER: &[u16] = &[400, 501];
    let values: &[(&str, &[u16])] = &[
        ("", EITHER),
        ("identity", BAD),
        ("chunked, identity", BAD),
        ("identity, chunked", EITHER),
        ("gzip", EITHER),
        ("gzip, chunked", EITHER),
        ("chunked, gzip", BAD),
        ("chunked, chunked", BAD),
        ("chunked,", EITHER),
        (",chunked", EITHER),
        ("chunked ,", EITHER),
        (", chunked", EITHER),
        ("chunked,,chunked", BAD),
        ("xchunked", EITHER),
        ("chunkedx", EITHER),
        ("chunk", EITHER),
        ("cow", EITHER),
        ("\"chunked\"", EITHER),
        ("'chunked'", EITHER),
        ("chunked;q=1", EITHER),
        ("chunked; q=0", EITHER),
        ("chunked x", EITHER),
        ("x chunked", EITHER),
        ("chunked;", EITHER),
        ("(chunked)", EITHER),
        ("chunked(x)", EITHER),
        ("\u{212a}", EITHER),
        ("chun\u{212a}ed", EITHER),
        ("chunked\u{a0}", EITHER),
        ("\u{a0}chunked", EITHER),
        ("\u{feff}chunked", EITHER),
        ("chun ked", EITHER),
        ("chunked\\", EITHER),
        ("trailers", EITHER),
        ("br", EITHER),
        ("%63hunked", EITHER),
    ];
    let mut rows: Vec<(&str, Vec<u8>, &[u16])> = values
        .iter()
        .map(|(v, s)| ("9112 §6.1", post(&format!("Transfer-Encoding: {v}"), "0\r\n\r\n").into_bytes(), *s))
        .collect();
    let fields: &[(&str, &[u16])] = &[
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", BAD),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: cow", BAD),
        ("Transfer-Encoding: cow\r\nTransfer-Encoding: chunked", BAD),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", BAD),
        ("transfer-encoding: chunked\r\nTRANSFER-ENCODING: identity", BAD),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", BAD),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", BAD),
        ("Content-Length: 5\r\nTransfer-Encoding: identity", BAD),
        ("Content-Length: 5\r\nTransfer-Encoding:", BAD),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked", BAD),
        ("Transfer-Encoding:\r\n chunked", BAD),
        ("Transfer-Encoding: chunked\r\n , identity", BAD),
        ("Transfer-Encoding\r\n : chunked", BAD),
        ("Transfer_Encoding: chunked", BAD),
        ("Transfer Encoding: chunked", BAD),
        ("Transfer-Encoding\u{a0}: chunked", BAD),
        ("Transf\u{435}r-Encoding: chunked", BAD),
    ];
    rows.extend(fields.iter().map(|(f, s)| ("9112 §6.3", post(f, "0\r\n\r\n").into_bytes(), *s)));
    refused(&rows, Outcome::is_refused);
}

/// Bytes put in ten places around a Transfer-Encoding, beside a length and without: whatever they mean, the gateway refuses, or
/// makes one request of it that has one framing; what the body hides never becomes a request.
#[test]
fn no_obfuscated_coding_makes_two_requests_of_one() {
    let (recorder, gateway) = start();
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let mut wrong = String::new();
    let mut served = 0;
    for byte in (0..=0x21).chain([b'"', b',', b';', b'_', b':', 0x7f, 0x80, 0x85, 0xa0, 0xff]) {
        let forms: [(&[u8], &[u8]); 12] = [
            (b"Transfer-Encoding:", b"chunked"),
            (b"Transfer-Encoding", b": chunked"),
            (b"", b"Transfer-Encoding: chunked"),
            (b"Transfer-Encoding: chunked", b""),
            (b"X: X", b"Transfer-Encoding: chunked"),
            (b"Transfer-Encoding: chunked", b"X: X"),
            (b"X: X\r", b"Transfer-Encoding: chunked"),
            (b"X: X", b"\nTransfer-Encoding: chunked"),
            (b"Transfer-Encoding: chunked\r", b"X: X"),
            (b"Transfer-Encoding: chunked", b"\nX: X"),
            (b"Transfer-", b"Encoding: chunked"),
            (b"Transfer-Encoding: chu", b"nked"),
        ];
        for (before, after) in forms {
            let field = [before, &[byte], after].concat();
            let with_length = [
                format!("POST /row HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n", body.len())
                    .as_bytes(),
                &field,
                b"\r\n\r\n",
                body.as_bytes(),
            ]
            .concat();
            let alone =
                [b"POST /row HTTP/1.1\r\nHost: a.example\r\n", &field[..], b"\r\n\r\n1\r\na\r\n0\r\n\r\n"]
                    .concat();
            for (bytes, lone) in [(with_length, false), (alone, true)] {
                let outcome = exchange(&gateway, &recorder, &[&bytes, PROBE.as_bytes()].concat());
                let hidden = outcome.received.iter().any(|r| r.head.starts_with("GET /smuggled"));
                let whole = |(n, path): (usize, &str)| {
                    outcome.received.get(n).is_some_and(|r| r.head.contains(path) && r.body.is_some())
                };
                let both = outcome.statuses() == [200, 200] && whole((0, " /row ")) && whole((1, " /probe "));
                // An ordinary field, and so no body: what follows is no request.
                let first = lone && outcome.statuses() == [200, 400] && outcome.received.len() == 1;
                let framed = outcome.received.iter().all(|received| received.has_one_framing());
                served += usize::from(both);
                if hidden || !framed || !(outcome.is_refused(&[400, 501]) || both || first) {
                    writeln!(wrong, "{}: {:?}", field.escape_ascii(), outcome).unwrap();
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    // A tab or space before the coding is no obfuscation (RFC 9110 §5.5).
    assert!(served > 4, "{served}");
}

#[test]
fn malformed_chunks_never_become_a_whole_request() {
    const BAD: &[u16] = &[400];
    let long = "x".repeat(2000);
    let bodies = [
        // Sizes (RFC 9112 §7.1).
        "\r\n",
        ";x\r\n",
        "x\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\t5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5 ;x\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "5h\r\nhello\r\n0\r\n\r\n",
        "\"5\"\r\nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "\u{665}\r\nhello\r\n0\r\n\r\n",
        "5\u{a0}\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffb\r\nhello\r\n0\r\n\r\n",
        "80000000000000000\r\nhello\r\n0\r\n\r\n",
        "00000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
        // Line ends (§2.2, §7.1).
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\n\nhello\r\n0\r\n\r\n",
        "5\n\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\n 0\r\n\r\n",
        "5\r\nhello, more\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        // Extensions (§7.1.1).
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "5;\n\r\nhello\r\n0\r\n\r\n",
        "5;\x7f\r\nhello\r\n0\r\n\r\n",
        "5;x=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "0;\n\r\n\r\n",
        "0;a\rb\r\n\r\n",
        // Trailers (§7.1.2, §5).
        "0\r\nX\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\n x: y\r\n\r\n",
        "0\r\nX: y\r\n z\r\n\r\n",
        "0\r\nX: a\nY: b\r\n\r\n",
        "0\r\nX: a\n\r\n",
        "0\r\nX: a\rb\r\n\r\n",
        "0\r\nX: \0\r\n\r\n",
        "0\r\nX\u{e9}: y\r\n\r\n",
        "0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ];
    let mut rows: Vec<(&str, Vec<u8>, &[u16])> =
        bodies.iter().map(|body| ("9112 §7.1", chunked(body).into_bytes(), BAD)).collect();
    for body in [
        format!("5;{long}\r\nhello\r\n0\r\n\r\n"),
        format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(20)),
        format!("0\r\n{}\r\n", format!("X: {long}\r\n").repeat(5)),
        format!("0\r\n{}\r\n", "X: y\r\n".repeat(2000)),
        format!("0\r\nX: {}\r\n\r\n", "y".repeat(20_000)),
    ] {
        rows.push(("9112 §7.1 bounds", chunked(&body).into_bytes(), &[400, 413, 431]));
    }
    for body in ["5\r\nhel", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "5", "", "0\r\nX: y\r\n"] {
        // Without the probe behind it, which would be read as body: the client has gone (§8).
        let (recorder, gateway) = start();
        let outcome = exchange(&gateway, &recorder, chunked(body).as_bytes());
        assert!(outcome.statuses().iter().all(|status| *status >= 400), "{body:?}: {outcome:?}");
        assert!(outcome.received.iter().all(|received| received.body.is_none()), "{body:?}: {outcome:?}");
    }
    refused(&rows, Outcome::is_refused_in_its_body);
}
