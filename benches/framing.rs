//! What judging an HTTP/1 head costs, of a request and of an answer: everything that is checked of its bytes.
//!
//! `cargo bench --bench framing`; `cargo test --benches` runs each once.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench may stop")]

use std::hint::black_box;

use divan::Bencher;
use divan::counter::BytesCount;
use portcullis::framing::response::{self, Asked};
use portcullis::framing::{self, Limits, Progress};

fn main() {
    divan::main();
}

const LIMITS: Limits =
    Limits { header_fields: 100, header_bytes: 32 << 10, field_bytes: 8 << 10, uri_bytes: 8 << 10 };

/// 5 fields, of an API.
const SHORT: &str = "HTTP/1.1 200 OK\r
Server: nginx/1.26.3\r
Date: Tue, 21 Jul 2026 08:00:00 GMT\r
Content-Type: application/json\r
Content-Length: 1024\r
Connection: keep-alive\r
\r
";

/// 14 fields, of a web application.
const LONG: &str = "HTTP/1.1 200 OK\r
Server: nginx/1.26.3\r
Date: Tue, 21 Jul 2026 08:00:00 GMT\r
Content-Type: text/html; charset=utf-8\r
Content-Length: 48213\r
Connection: keep-alive\r
Vary: Accept-Encoding, Cookie\r
Cache-Control: private, no-store, max-age=0\r
ETag: \"5f2c1d8e-bc55-4f0a\"\r
X-Request-Id: 01981d2a-7c3e-7b11-9f0e-5a4d3c2b1a09\r
Set-Cookie: session=0123456789abcdef0123456789abcdef; Path=/; Secure; HttpOnly; SameSite=Lax\r
Strict-Transport-Security: max-age=31536000; includeSubDomains\r
Content-Security-Policy: default-src 'self'; img-src 'self' data:; frame-ancestors 'none'\r
X-Content-Type-Options: nosniff\r
Referrer-Policy: same-origin\r
\r
";

/// 14 fields, as a browser asks for a page.
const BROWSER: &str = "GET /v1/customers/1234/orders?page=2&size=50 HTTP/1.1\r
Host: api.example.com\r
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r
Accept-Language: en-GB,en;q=0.7,de;q=0.3\r
Accept-Encoding: gzip, deflate, br, zstd\r
Referer: https://app.example.com/customers/1234\r
Connection: keep-alive\r
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r
Upgrade-Insecure-Requests: 1\r
Sec-Fetch-Dest: document\r
Sec-Fetch-Mode: navigate\r
Sec-Fetch-Site: same-origin\r
Priority: u=0, i\r
Pragma: no-cache\r
\r
";

fn response(bencher: Bencher<'_, '_>, head: &'static str) {
    bencher.counter(BytesCount::of_str(head)).bench_local(|| {
        let head = black_box(head.as_bytes());
        response::judge(head, Asked::default()).unwrap().unwrap()
    });
}

#[divan::bench(sample_size = 512)]
fn response_of_5_fields(bencher: Bencher<'_, '_>) {
    response(bencher, SHORT);
}

#[divan::bench(sample_size = 512)]
fn response_of_14_fields(bencher: Bencher<'_, '_>) {
    response(bencher, LONG);
}

/// What the judge is held against: a look-up in a table for each byte of each line, and nothing understood of any.
#[divan::bench(sample_size = 512)]
fn response_of_14_fields_by_look_ups(bencher: Bencher<'_, '_>) {
    bencher.counter(BytesCount::of_str(LONG)).bench_local(|| {
        let mut rest = black_box(LONG.as_bytes());
        let mut fields = 0;
        while let Some(line) = memchr::memchr(b'\n', rest).and_then(|at| rest.get(..at)?.strip_suffix(b"\r"))
        {
            rest = rest.get(line.len() + 2..).unwrap();
            let name = line.iter().take_while(|byte| is(**byte, NAME)).count();
            assert!(line.iter().skip(name).all(|byte| is(*byte, VALUE)));
            fields += usize::from(line.get(name) == Some(&b':'));
        }
        assert!(rest.is_empty() && fields == 14);
        fields
    });
}

const NAME: u8 = 1;
const VALUE: u8 = 2;
const CLASSES: [u8; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < table.len() {
        let byte = at.to_le_bytes()[0];
        let name = byte.is_ascii_alphanumeric() || byte == b'-';
        let value = byte == b'\t' || byte >= b' ' && byte != 0x7f;
        table[at] = (name as u8 * NAME) | (value as u8 * VALUE);
        at += 1;
    }
    table
};

fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// As it is read: its end is looked for first.
#[divan::bench(sample_size = 512)]
fn request_of_14_fields(bencher: Bencher<'_, '_>) {
    bencher.counter(BytesCount::of_str(BROWSER)).bench_local(|| {
        let head = black_box(BROWSER.as_bytes());
        assert_eq!(framing::find_end(head, 0, &LIMITS), Ok(Progress::Complete(head.len())));
        framing::judge(head, &LIMITS).unwrap()
    });
}
