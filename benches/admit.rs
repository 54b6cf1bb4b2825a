//! What the way from the door to the upstream costs a request: `Passage::new` and `admit`, with and without policies; and what
//! of it is understanding: the judge of the head's bytes, the canonical form, the checks of its fields.
//!
//! `cargo bench --bench admit`; `cargo test --benches` runs each once. Either checks first how often `admit` allocates.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench may stop, and tells its figures")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use divan::Bencher;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis::canonical;
use portcullis::config::{Build, load_text};
use portcullis::framing::{self, Limits};
use portcullis::gateway::{Admission, Gateway, Passage};
use portcullis::request::{Arrival, Connection, Protocol};
use portcullis::state::Live;

/// What `admit` may allocate without policies: the canonical target, and its count of holders.
const ALLOCATIONS_MAX: usize = 2;

/// Counts what a thread allocates.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator is made no other way; this one only counts")]
// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn main() {
    let door = Door::new(ROUTE);
    door.pass(); // What is made once a worker is made now.
    let plain = allocations(|| door.pass());
    let policies = Door::new(POLICIES);
    policies.pass();
    understanding();
    let limited = Door::new(LIMITED);
    limited.pass();
    let limits = allocations(|| limited.pass());
    println!(
        "allocations: {plain} without policies, {} with, {limits} with limits",
        allocations(|| policies.pass())
    );
    assert_eq!(limits, plain, "limits allocate");
    assert!(plain <= ALLOCATIONS_MAX, "admit allocated {plain} times, more than {ALLOCATIONS_MAX}");
    divan::main();
}

fn allocations(run: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

/// An ordinary request, as it stands on the wire.
const HEAD: &[u8] = b"GET /v1/orders/7/items?page=2&per_page=50 HTTP/1.1\r\nHost: api.example.com\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
Accept: application/json\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n\
Origin: https://app.example.com\r\nCookie: session=0123456789abcdef\r\nConnection: keep-alive\r\n\r\n";

const LIMITS: Limits =
    Limits { header_fields: 100, header_bytes: 32 << 10, field_bytes: 8 << 10, uri_bytes: 8 << 10 };

/// What understanding a request costs beside routing and policies; 1 µs is the bound that it is to keep.
fn understanding() {
    let headers = fields_of(HEAD);
    let mut best = [f64::INFINITY; 3];
    let mut judge = || {
        let _ = black_box(framing::judge(black_box(HEAD), &LIMITS));
    };
    let mut canon = || {
        let target = black_box(&b"/v1/orders/7/items?page=2&per_page=50"[..]);
        drop(black_box(canonical::target(&Method::GET, target, None, &headers, Protocol::Http11, 8 << 10)));
    };
    let mut fields = || {
        let _ = black_box(framing::judge_fields(black_box(&headers), Protocol::Http11));
    };
    for _ in 0..40 {
        let runs: [&mut dyn FnMut(); 3] = [&mut judge, &mut canon, &mut fields];
        for (best, run) in best.iter_mut().zip(runs) {
            *best = best.min(nanoseconds(run));
        }
    }
    let [judge, canon, fields] = best;
    println!(
        "understanding an ordinary request: {:.0} ns (head {judge:.0}, canonical form {canon:.0}, fields {fields:.0})",
        judge + canon + fields
    );
}

/// What a run takes, of a thousand.
fn nanoseconds(run: &mut dyn FnMut()) -> f64 {
    let began = Instant::now();
    for _ in 0..1000 {
        run();
    }
    began.elapsed().as_secs_f64() * 1e6
}

fn fields_of(head: &[u8]) -> HeaderMap {
    let lines = std::str::from_utf8(head).unwrap().lines().skip(1);
    let fields = lines.filter_map(|line| line.split_once(": "));
    fields
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
        .collect()
}

#[divan::bench(sample_size = 256)]
fn judge_of_the_head(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| framing::judge(black_box(HEAD), &LIMITS).is_ok());
}

const ROUTE: &str = "
log: {access: {to: none}}
listeners: [{address: '127.0.0.1:8080'}]
upstreams: {orders: {servers: ['127.0.0.1:9000']}}
defaults: {auth: none}
routes:
  - {name: other, match: {path: /v1/customers}, upstream: orders}
  - {name: orders, match: {path: /v1/orders}, upstream: orders}
";

const POLICIES: &str = "
log: {access: {to: none}}
listeners: [{address: '127.0.0.1:8080'}]
upstreams: {orders: {servers: ['127.0.0.1:9000']}}
defaults: {auth: none}
policies:
  access: {office: {allow: [127.0.0.0/8, 192.0.2.0/24], deny: [192.0.2.7]}}
  cors: {web: {origins: ['https://app.example.com']}}
  headers: {own: {response: {set: {x-served-by: '{route}'}}}}
routes:
  - {name: orders, match: {path: '/v1/{kind}'}, upstream: orders, access: office, cors: web, headers: [own]}
";

/// Limits on the edge and on the route, which are never reached.
const LIMITED: &str = "
log: {access: {to: none}}
listeners: [{address: '127.0.0.1:8080'}]
upstreams: {orders: {servers: ['127.0.0.1:9000']}}
defaults: {auth: none}
policies:
  rate_limits:
    edge: {key: client, limit: 1000000/1s, burst: 1000000000}
    session: {key: [{cookie: session}, route], limit: 1000000/1s, burst: 1000000000}
    host: {key: host, limit: 1000000/1s, burst: 1000000000, overrides: {other.example.com: 5/1s}}
edge: {rate_limits: [edge]}
routes:
  - {name: other, match: {path: /v1/customers}, upstream: orders}
  - {name: orders, match: {path: /v1/orders}, upstream: orders, rate_limits: [session, host]}
";

/// A gateway, and a request before it.
struct Door {
    gateway: Arc<Gateway>,
    connection: Connection,
    headers: HeaderMap,
}

impl Door {
    fn new(text: &str) -> Self {
        let mut build = Build::default();
        let gateway = load_text("bench.yaml", text, &|_| None, &mut build)
            .and_then(|document| Gateway::compile(&document, &Live::default(), 1, &mut build));
        let Some(gateway) = gateway else {
            println!("{}", build.errors.render(&build.sources));
            std::process::exit(1);
        };
        gateway.put_limits_in_force();
        let fields = [
            ("host", "api.example.com"),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
            ("accept", "application/json"),
            ("accept-encoding", "gzip, deflate, br"),
            ("origin", "https://app.example.com"),
            ("cookie", "session=0123456789abcdef"),
        ];
        Self {
            gateway: Arc::new(gateway),
            connection: Connection {
                peer: Some(([127, 0, 0, 1], 40_000).into()),
                local: Some(([127, 0, 0, 1], 8080).into()),
                ..Connection::to("127.0.0.1:8080")
            },
            headers: fields
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect(),
        }
    }

    /// From the door to the evidence that the request may be forwarded; dropped unsettled.
    fn pass(&self) {
        let arrival = Arrival {
            method: &Method::GET,
            target: black_box(b"/v1/orders?page=2"),
            authority: None,
            headers: &self.headers,
            protocol: Protocol::Http11,
            connection: &self.connection,
        };
        let gateway = Arc::clone(&self.gateway);
        let mut passage = Passage::new(gateway, &self.connection, Instant::now(), SystemTime::now());
        let admission = passage.admit(&arrival).now_or_never().unwrap();
        assert!(matches!(black_box(admission), Admission::Forward(_)), "not admitted");
    }
}

#[divan::bench(sample_size = 256)]
fn without_policies(bencher: Bencher<'_, '_>) {
    let door = Door::new(ROUTE);
    bencher.bench_local(|| door.pass());
}

/// Three limits.
#[divan::bench(sample_size = 256)]
fn with_limits(bencher: Bencher<'_, '_>) {
    let door = Door::new(LIMITED);
    bencher.bench_local(|| door.pass());
}

#[divan::bench(sample_size = 256)]
fn with_access_cors_and_headers(bencher: Bencher<'_, '_>) {
    let door = Door::new(POLICIES);
    bencher.bench_local(|| door.pass());
}
