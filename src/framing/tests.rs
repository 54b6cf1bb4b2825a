//! Heads and chunked bodies, in tables.

use super::*;

const LIMITS: Limits = Limits { header_fields: 10, header_bytes: 2048, field_bytes: 512, uri_bytes: 256 };

fn judged(head: &str) -> Result<(Body, bool), (Cause, &'static str)> {
    judge(head.as_bytes(), &LIMITS)
        .map(|framing| (framing.body, framing.keep_alive))
        .map_err(|denial| (denial.cause, denial.reason))
}

#[test]
fn accepted_heads() {
    let long = "9".repeat(18);
    let rows: &[(String, Body, bool)] = &[
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Body::None, true),
        ("GET / HTTP/1.1\r\nHost:a\r\n\r\n".into(), Body::None, true),
        ("GET / HTTP/1.1\r\nhost: \t a \t\r\n\r\n".into(), Body::None, true),
        ("GET / HTTP/1.1\r\nHost: \r\n\r\n".into(), Body::None, true),
        ("GET / HTTP/1.0\r\n\r\n".into(), Body::None, false),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".into(), Body::None, true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n".into(), Body::None, false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(), Body::None, false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, ClOsE\r\n\r\n".into(), Body::None, false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n".into(), Body::None, true),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".into(), Body::Length(0), true),
        ("POST / HTTP/1.1\r\nHost: a\r\ncontent-length:12\r\n\r\n".into(), Body::Length(12), true),
        (
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {long}\r\n\r\n"),
            Body::Length(999_999_999_999_999_999),
            true,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0012\r\n\r\n".into(), Body::Length(12), true),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(), Body::Chunked, true),
        ("POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: CHUNKED\r\n\r\n".into(), Body::Chunked, true),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".into(), Body::None, true),
        ("GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n".into(), Body::None, true),
        ("M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Body::None, true),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n".into(), Body::None, true),
        // UTF-8 in a target is for the route to take or not; other bytes are for none.
        ("GET /\"?` HTTP/1.1\r\nHost: a\r\n\r\n".into(), Body::None, true),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".into(), Body::None, true),
        ("GET / HTTP/1.1\r\nHost: a\r\nX_y.z~: \"q\"\r\n\r\n".into(), Body::None, true),
        ("GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n".into(), Body::None, true),
        ("GET / HTTP/1.1\r\nHost: a\r\nX-Content-Length: 3\r\n\r\n".into(), Body::None, true),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Lengths: 3\r\n\r\n".into(), Body::None, true),
    ];
    for (head, body, keep_alive) in rows {
        assert_eq!(judged(head), Ok((*body, *keep_alive)), "{head:?}");
    }
}

#[test]
fn parsed_fields_are_judged_alike() {
    let judged = |fields: &[(&'static str, &'static str)]| {
        // As h2 makes names, which is not as `parse` does: a quotation mark passes.
        let name = |name: &str| http::HeaderName::from_lowercase(name.as_bytes()).unwrap();
        let fields = fields.iter().map(|(own, value)| (name(own), value.parse().unwrap()));
        let map: http::HeaderMap =
            fields.collect::<Vec<(http::HeaderName, http::HeaderValue)>>().into_iter().collect();
        judge_fields(&map, Protocol::Http11).map_err(|denial| (denial.cause, denial.reason))
    };
    assert_eq!(judged(&[("host", "a"), ("content-length", "3")]), Ok(Body::Length(3)));
    assert_eq!(judged(&[("transfer-encoding", "chunked")]), Ok(Body::Chunked));
    let rows = [
        (
            &[("transfer-encoding", "chunked"), ("content-length", "3")][..],
            Cause::Ambiguous,
            "transfer_encoding",
        ),
        (&[("transfer-encoding", "gzip, chunked")], Cause::UnknownCoding, "transfer_coding"),
        (&[("content_length", "3")], Cause::Ambiguous, "field_look_alike"),
        (&[("\"x\"", "3")], Cause::Ambiguous, "field_name"),
        (&[("content-length", "+3")], Cause::Ambiguous, "content_length"),
    ];
    for (fields, cause, reason) in rows {
        assert_eq!(judged(fields), Err((cause, reason)), "{fields:?}");
    }
}

#[test]
fn expectations_are_met_or_refused() {
    let judged = |field: &str| {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
        judge(head.as_bytes(), &LIMITS)
            .map(|framing| framing.expects_continue)
            .map_err(|denial| denial.reason)
    };
    let rows = [
        ("Expect: 100-continue", Ok(true)),
        ("expect:100-Continue", Ok(true)),
        ("Expect: , 100-continue ,", Ok(true)),
        ("Expect: 100-continue\r\nExpect: 100-continue", Ok(true)),
        ("Expect:", Ok(false)),
        ("Expect: 100-continue, x", Err("expectation")),
        ("Expect: x\r\nExpect: 100-continue", Err("expectation")),
        ("Expect: 200-ok", Err("expectation")),
        ("Expect: 100-continue;q=1", Err("expectation")),
    ];
    for (field, expected) in rows {
        assert_eq!(judged(field), expected, "{field}");
    }
    let map = |value: &'static str| {
        http::HeaderMap::from_iter([(http::header::EXPECT, http::HeaderValue::from_static(value))])
    };
    assert!(expects_continue(&map("100-CONTINUE")) && !expects_continue(&map("")));
    let denial = judge_fields(&map("later"), Protocol::Http2).unwrap_err();
    assert_eq!((denial.cause, denial.reason), (Cause::Expectation, "expectation"));
}

#[test]
fn refused_heads() {
    use Cause::{Ambiguous, HeadersTooLarge, Method, UnknownCoding, UriTooLong, Version};
    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n));
    let one = |field: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    let rows: &[(String, Cause, &str)] = &[
        (line("GET /"), Ambiguous, "request_line"),
        (line("GET"), Ambiguous, "request_line"),
        (line(""), Ambiguous, "request_line"),
        (line("GET  / HTTP/1.1"), Ambiguous, "request_line"),
        (line("GET /  HTTP/1.1"), Ambiguous, "request_line"),
        (line("GET / HTTP/1.1 "), Ambiguous, "request_line"),
        (line(" GET / HTTP/1.1"), Ambiguous, "request_line"),
        (line("GET\t/ HTTP/1.1"), Ambiguous, "request_line"),
        (line("GET /a b HTTP/1.1"), Ambiguous, "request_line"),
        (line("GET / http/1.1"), Ambiguous, "request_line"),
        (line("GET / HTTP/1.10"), Ambiguous, "request_line"),
        (line("GET / HTTP/11"), Ambiguous, "request_line"),
        (line(&format!("{} / HTTP/1.1", "M".repeat(65))), Ambiguous, "method_bytes"),
        (one("Transfer_Encoding: chunked"), Ambiguous, "field_look_alike"),
        (one("transfer---encoding: chunked"), Ambiguous, "field_look_alike"),
        (one("TransferEncoding: chunked"), Ambiguous, "field_look_alike"),
        (one("-Transfer-Encoding: chunked"), Ambiguous, "field_look_alike"),
        (one("Content_Length: 3"), Ambiguous, "field_look_alike"),
        (one("Content-Length-: 3"), Ambiguous, "field_look_alike"),
        (line("GET / HTTP/1.2"), Version, "http_version"),
        (line("GET / HTTP/0.9"), Version, "http_version"),
        (line("GET / HTTP/3.0"), Version, "http_version"),
        ("PRI * HTTP/2.0\r\n\r\n".into(), Version, "http_version"),
        (line("G(T / HTTP/1.1"), Ambiguous, "request_line"),
        (line("GET /\u{1} HTTP/1.1"), Ambiguous, "target_bytes"),
        (line("GET /\u{7f} HTTP/1.1"), Ambiguous, "target_bytes"),
        (line("GET /\0 HTTP/1.1"), Ambiguous, "target_bytes"),
        (line("GET /a#b HTTP/1.1"), Ambiguous, "target_fragment"),
        (line("GET /\r HTTP/1.1"), Ambiguous, "bare_carriage_return"),
        (line(&format!("GET /{} HTTP/1.1", "a".repeat(256))), UriTooLong, "uri_bytes"),
        (line("TRACE / HTTP/1.1"), Method, "method"),
        (line("CONNECT a:443 HTTP/1.1"), Method, "method"),
        ("GET / HTTP/1.1\r\n\r\n".into(), Ambiguous, "host"),
        (one("Host: b"), Ambiguous, "host"),
        (one("hOST: a"), Ambiguous, "host"),
        (one("X y: z"), Ambiguous, "field_name"),
        (one("X : y"), Ambiguous, "field_name"),
        (one("X\t: y"), Ambiguous, "field_name"),
        (one(": y"), Ambiguous, "field_name"),
        (one("X"), Ambiguous, "field_name"),
        (one("X\u{e9}: y"), Ambiguous, "field_name"),
        (one("X: y\r\n z"), Ambiguous, "folded_field"),
        (one("X: y\r\n\tz"), Ambiguous, "folded_field"),
        (one(" Content-Length: 3"), Ambiguous, "folded_field"),
        (one("X: \0"), Ambiguous, "field_value"),
        (one("X: a\u{b}b"), Ambiguous, "field_value"),
        (one("X: a\u{7f}"), Ambiguous, "field_value"),
        (one("X: a\rb"), Ambiguous, "bare_carriage_return"),
        (one("X: a\nY: b"), Ambiguous, "bare_carriage_return"),
        (one("X: a\r\r"), Ambiguous, "bare_carriage_return"),
        (one("Content-Length: 1\r\nContent-Length: 1"), Ambiguous, "content_length"),
        (one("Content-Length: 1\r\nContent-Length: 2"), Ambiguous, "content_length"),
        (one("Content-Length: 1, 1"), Ambiguous, "content_length"),
        (one("Content-Length: +1"), Ambiguous, "content_length"),
        (one("Content-Length: -1"), Ambiguous, "content_length"),
        (one("Content-Length: 0x1"), Ambiguous, "content_length"),
        (one("Content-Length: 1 1"), Ambiguous, "content_length"),
        (one("Content-Length:"), Ambiguous, "content_length"),
        (one("Content-Length: 1234567890123456789"), Ambiguous, "content_length"),
        (one("Transfer-Encoding: chunked\r\nContent-Length: 1"), Ambiguous, "transfer_encoding"),
        (one("Content-Length: 1\r\nTransfer-Encoding: chunked"), Ambiguous, "transfer_encoding"),
        (one("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), Ambiguous, "transfer_encoding"),
        (one("Transfer-Encoding: chunked, chunked"), Ambiguous, "transfer_encoding"),
        (one("Transfer-Encoding: chunked, identity"), Ambiguous, "transfer_encoding"),
        (one("Transfer-Encoding: identity"), Ambiguous, "transfer_encoding"),
        (one("Transfer-Encoding: gzip"), Ambiguous, "transfer_encoding"),
        (one("Transfer-Encoding: , chunked"), Ambiguous, "transfer_encoding"),
        (one("Transfer-Encoding: gzip, chunked"), UnknownCoding, "transfer_coding"),
        (one("Transfer-Encoding: xchunked"), UnknownCoding, "transfer_coding"),
        (one("Transfer-Encoding: chunked;q=1"), UnknownCoding, "transfer_coding"),
        (one("Transfer-Encoding: \"chunked\""), UnknownCoding, "transfer_coding"),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), Ambiguous, "transfer_encoding"),
        (fields(10), HeadersTooLarge, "header_fields"),
        (one(&format!("X: {}", "a".repeat(512))), HeadersTooLarge, "field_bytes"),
    ];
    assert!(rows.len() >= 60);
    for bytes in [&b"\xff"[..], b"\xc0\xaf", b"\xc3", b"\xed\xa0\x80"] {
        let head = [b"GET /", bytes, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        assert_eq!(judge(&head, &LIMITS).unwrap_err().reason, "target_bytes", "{bytes:x?}");
    }
    for (head, cause, reason) in rows {
        assert_eq!(judged(head), Err((*cause, *reason)), "{head:?}");
    }
}

#[test]
fn nine_more_fields_beside_host_are_allowed() {
    assert!(judged(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(9))).is_ok());
}

#[test]
fn the_judge_tells_what_the_head_says() {
    let head = b"POST /a?b HTTP/1.1\r\nHost: A.b:8\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n";
    let framing = judge(head, &LIMITS).unwrap();
    assert_eq!(framing.method, b"POST");
    assert_eq!(framing.target, b"/a?b");
    assert_eq!(framing.host, Some(&b"A.b:8"[..]));
    assert!(framing.expects_continue);
}

#[test]
fn ends_are_found_however_the_head_is_split() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let all = [&head[..], b"GET /next"].concat();
    assert_eq!(find_end(&all, 0, &LIMITS), Ok(Progress::Complete(head.len())));
    for split in 0..head.len() {
        assert_eq!(find_end(&head[..split], 0, &LIMITS), Ok(Progress::Partial), "{split}");
        assert_eq!(find_end(&all, split, &LIMITS), Ok(Progress::Complete(head.len())), "{split}");
    }
}

#[test]
fn what_cannot_become_a_head_is_refused_at_once() {
    let reason = |bytes: &[u8]| find_end(bytes, 0, &LIMITS).map_err(|d| d.reason);
    assert_eq!(reason(b"\x16\x03\x01"), Err("request_line"));
    assert_eq!(reason(b"GET / HTTP/1.1\nHost: a\n\n"), Err("bare_line_feed"));
    assert_eq!(reason(b"GET / HTTP/1.1\r\nHost: a\n\r\n"), Err("bare_line_feed"));
    assert_eq!(reason(&[b'a'; 400]), Err("uri_bytes"));
    let many = [&b"GET / HTTP/1.1\r\n"[..], &b"A: b\r\n".repeat(400)].concat();
    assert_eq!(reason(&many), Err("header_bytes"));
}

fn scan(body: &[u8]) -> Result<(usize, bool), BadChunk> {
    let mut scanner = Chunked::default();
    let taken = scanner.scan(body)?;
    Ok((taken, scanner.is_done()))
}

#[test]
fn chunked_bodies_end_where_they_end() {
    let rows: &[(&[u8], usize)] = &[
        (b"0\r\n\r\n", 5),
        (b"3\r\nabc\r\n0\r\n\r\nGET", 13),
        (b"A;x=y;z=\"q\"\r\n0123456789\r\n0;x\r\n\r\nx", 32),
        (b"000a\r\n0123456789\r\n000\r\n\r\n", 25),
        (b"1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\nrest", 21),
        (b"2\r\n\r\n\r\n0\r\n\r\n", 12),
        (b"1;a = \"\\\";\xff\" ;\tb\r\na\r\n0\r\n\r\n", 26),
    ];
    for (body, end) in rows {
        assert_eq!(scan(body), Ok((*end, true)), "{}", body.escape_ascii());
        for split in 0..*end {
            let mut scanner = Chunked::default();
            assert_eq!(scanner.scan(&body[..split]), Ok(split), "{} at {split}", body.escape_ascii());
            assert!(!scanner.is_done());
            assert_eq!(scanner.scan(&body[split..]), Ok(end - split), "{}", body.escape_ascii());
            assert!(scanner.is_done());
        }
    }
}

#[test]
fn malformed_chunks_are_refused() {
    let long = [b"1;".to_vec(), vec![b'x'; 1100], b"\r\na\r\n".to_vec()].concat();
    let many = [b"1;".to_vec(), vec![b'x'; 1000], b"\r\na\r\n".to_vec()].concat().repeat(17);
    let trailers = [b"0\r\n".to_vec(), b"X: y\r\n".repeat(2000)].concat();
    let rows: &[&[u8]] = &[
        b"\r\n",
        b";x\r\n",
        b"g\r\n",
        b"0x1\r\n",
        b"-1\r\n",
        b" 1\r\na\r\n",
        b"1 \r\na\r\n",
        b"1\na\n",
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1\r\na\r\r",
        b"1\r\r",
        b"1;\x00\r\n",
        b"1;a\nb\r\n",
        b"1;\r\na\r\n",
        b"1; \r\na\r\n",
        b"1;;a\r\na\r\n",
        b"1;\xff\r\na\r\n",
        b"1;a=\r\na\r\n",
        b"1;a b\r\na\r\n",
        b"1;a=b c\r\na\r\n",
        b"1;=a\r\na\r\n",
        b"1;\"a\"\r\na\r\n",
        b"1;a=\"b\r\na\r\n",
        b"1;a=\"b\\\"\r\na\r\n",
        b"1;a=\"b\"c\r\na\r\n",
        b"1;a=b\"c\"\r\na\r\n",
        b"0\r\n\n",
        b"0\r\n\r\r",
        b"0\r\nX\r\n",
        b"0\r\nX : y\r\n",
        b"0\r\n: y\r\n",
        b"0\r\n folded\r\n",
        b"0\r\nX: a\nb\r\n",
        b"1234567890123456\r\n",
        b"0000000000000001\r\n",
        &long,
        &many,
        &trailers,
    ];
    for body in rows {
        assert!(scan(body).is_err(), "{}", body.get(..40).unwrap_or(body).escape_ascii());
    }
}
