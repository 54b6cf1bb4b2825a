//! What each policy costs a request.
//!
//! `cargo bench --bench policies`; `cargo test --benches` runs each once.

#![expect(clippy::unwrap_used, reason = "a bench may stop")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime};

use divan::Bencher;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use portcullis::client::{self, Trusted, Upgrade};
use portcullis::config::units::Time;
use portcullis::config::{Build, OrNone, Spanned};
use portcullis::policy::access::{self, Access};
use portcullis::policy::cors::{self, Cors, Preflight};
use portcullis::policy::headers::{self, HeaderRules};
use portcullis::policy::{Mode, Outcome};
use portcullis::record::Record;

fn main() {
    divan::main();
}

fn text(text: &str) -> Spanned<String> {
    Spanned::unwritten(text.to_owned())
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

/// A repeatable sequence without a pattern a cache could learn (a 64-bit linear congruential generator).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 32).unwrap()
    }
}

fn v6(a: u32, b: u32) -> IpAddr {
    IpAddr::V6(((0x2001_u128 << 112) | (u128::from(a) << 64) | u128::from(b)).into())
}

/// A list of `count` single addresses and networks, half IPv4.
fn list(count: usize) -> Access {
    let mut numbers = Numbers(1);
    let mut content = String::new();
    for index in 0..count {
        let number = numbers.next();
        match index % 4 {
            0 => writeln!(content, "{}", IpAddr::V4(number.into())).unwrap(),
            1 => writeln!(content, "{}/24", IpAddr::V4((number & 0xffff_ff00).into())).unwrap(),
            2 => writeln!(content, "{}/64", v6(number, 0)).unwrap(),
            _ => writeln!(content, "{}", v6(number, number)).unwrap(),
        }
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    let config = access::Config {
        file: OrNone::Some(text(file.path().to_str().unwrap())),
        deny: vec![text("192.0.2.0/24")],
        ..access::Config::default()
    };
    Access::compile("feed", &Spanned::unwritten(config), &mut Build::default()).unwrap()
}

fn check(bencher: Bencher<'_, '_>, count: usize, address: impl Fn(u32) -> IpAddr) {
    let list = list(count);
    // Half of them listed: the list's own sequence, and another.
    let (mut own, mut other) = (Numbers(1), Numbers(7));
    let addresses: Vec<_> =
        (0..4096).map(|i| address(if i % 2 == 0 { own.next() } else { other.next() })).collect();
    let mut next = addresses.iter().cycle();
    bencher.bench_local(|| {
        let passes = list.check(*next.next().unwrap()).outcome == Outcome::Pass;
        black_box(passes)
    });
}

#[divan::bench(args = [10, 100_000], sample_size = 4096)]
fn access_v4(bencher: Bencher<'_, '_>, count: usize) {
    check(bencher, count, |number| IpAddr::V4(number.into()));
}

#[divan::bench(args = [10, 100_000], sample_size = 4096)]
fn access_v6(bencher: Bencher<'_, '_>, count: usize) {
    check(bencher, count, |number| v6(number, number));
}

fn cors() -> Cors {
    let config = cors::Config {
        origins: vec![
            Spanned::unwritten(cors::Origin::Text("https://app.example.com".into())),
            Spanned::unwritten(cors::Origin::Text("https://*.example.org".into())),
        ],
        methods: vec![text("GET"), text("POST")],
        headers: vec![text("content-type"), text("authorization")],
        expose: Vec::new(),
        credentials: true,
        max_age: Time(std::time::Duration::from_secs(600)),
        enforce_origin: true,
        mode: Mode::Enforce,
    };
    Cors::compile("web", &Spanned::unwritten(config), &mut Build::default()).unwrap()
}

#[divan::bench(sample_size = 64)]
fn cors_preflight(bencher: Bencher<'_, '_>) {
    let cors = cors();
    let request = fields(&[
        ("origin", "https://app.example.com"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ]);
    bencher
        .bench_local(|| matches!(black_box(cors.preflight(&request, &[Method::GET])), Preflight::Allow(_)));
}

#[divan::bench(args = ["https://app.example.com", "https://a.example.org", "https://elsewhere.example"], sample_size = 64)]
fn cors_actual(bencher: Bencher<'_, '_>, origin: &'static str) {
    let cors = cors();
    let request = fields(&[("origin", origin)]);
    bencher.with_inputs(HeaderMap::new).bench_local_values(|mut response| {
        let passes = cors.check_origin(&request).outcome == Outcome::Pass;
        cors.apply(cors::origin_of(&request), false, &mut response);
        black_box((passes, response))
    });
}

#[divan::bench(sample_size = 64)]
fn header_rules(bencher: Bencher<'_, '_>) {
    let rules = headers::Rules {
        set: [("x-frame-options".to_owned(), text("DENY"))].into(),
        remove: vec![text("server"), text("x-powered-by")],
        ..headers::Rules::default()
    };
    let config = headers::Config { response: rules, ..headers::Config::default() };
    let rules = HeaderRules::compile("x", &Spanned::unwritten(config), &mut Build::default()).unwrap();
    let record = Record::new(0, 1, Instant::now(), SystemTime::now());
    let response = fields(&[("server", "nginx"), ("content-type", "text/html"), ("etag", "x")]);
    bencher.with_inputs(|| response.clone()).bench_local_values(|mut response| {
        rules.response(&record, &mut response);
        response
    });
}

fn request() -> HeaderMap {
    fields(&[
        ("host", "api.example.com"),
        ("user-agent", "curl/8.14.1"),
        ("accept", "*/*"),
        ("x-forwarded-for", "203.0.113.9, 10.0.0.7"),
        ("connection", "keep-alive"),
    ])
}

#[divan::bench(args = [true, false], sample_size = 256)]
fn client_of(bencher: Bencher<'_, '_>, trusted: bool) {
    let network = if trusted { "10.0.0.0/8" } else { "172.16.0.0/12" };
    let trusted = Trusted::compile(&[text(network)], &mut Build::default()).unwrap();
    let (peer, request) = (Some(SocketAddr::from(([10, 0, 0, 1], 4711))), request());
    bencher.bench_local(|| client::determine(black_box(peer), true, &request, &trusted));
}

#[divan::bench(sample_size = 64)]
fn forwarding_fields(bencher: Bencher<'_, '_>) {
    let trusted = Trusted::default();
    let peer = Some(SocketAddr::from(([203, 0, 113, 9], 4711)));
    let request = request();
    let client = client::determine(peer, true, &request, &trusted);
    bencher.with_inputs(|| request.clone()).bench_local_values(|mut fields| {
        client::strip_hop_by_hop(&mut fields, Upgrade::Drop, |_| false);
        client::forward(&mut fields, peer, &client, &trusted, "api.example.com");
        fields.contains_key(header::FORWARDED)
    });
}
