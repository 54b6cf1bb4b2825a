//! What the door and the routes cost: canonical form, and finding one of 10 routes or of 10,000.
//!
//! `cargo bench --bench routing`; `cargo test --benches` runs each once.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench may stop, and tells its figures")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use divan::Bencher;
use http::{HeaderMap, HeaderValue, Method, header};
use portcullis::canonical::{self, Oddities, Target};
use portcullis::config::{Build, Site, Spanned};
use portcullis::record::RouteFacts;
use portcullis::request::Protocol;
use portcullis::route::{Found, Match, RouteInput, Routes};

fn main() {
    if std::env::args().any(|argument| argument == "--bench") {
        compare();
    }
    divan::main();
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("api.example.com"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("curl/8.14.1"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers
}

fn target(raw: &str, headers: &HeaderMap) -> Target {
    canonical::target(&Method::GET, raw.as_bytes(), None, headers, Protocol::Http11, 8192).unwrap()
}

#[divan::bench(args = ["/v1/customers/1234/orders", "/v1/orders?page=2&size=50", "/a/%7Euser/./x/../b%2fc", "/caf%c3%a9"], sample_size = 256)]
fn canonical_form(bencher: Bencher<'_, '_>, raw: &str) {
    let headers = headers();
    bencher.bench(|| target(black_box(raw), &headers));
}

/// Services of five routes each, as a company's gateway has them; every second service has a parameter.
fn routes(count: usize) -> Routes {
    let shapes = [
        "/v1/s{}",
        "/v1/s{}/items",
        "/v1/s{}/items/{id}",
        "/v1/s{}/items/{id}/parts",
        "/v1/s{}/files/{*rest}",
    ];
    let matches: Vec<Spanned<Match>> = (0..count)
        .map(|index| {
            let shape = shapes.get(index % shapes.len()).unwrap();
            let path = shape.replacen("{}", &(index / shapes.len()).to_string(), 1);
            let methods = vec![Spanned::unwritten("GET".to_owned()), Spanned::unwritten("POST".to_owned())];
            Spanned::unwritten(Match { path: Some(Spanned::unwritten(path)), methods, ..Match::default() })
        })
        .collect();
    let inputs: Vec<RouteInput<'_>> = matches
        .iter()
        .enumerate()
        .map(|(index, matches)| RouteInput {
            facts: Arc::new(RouteFacts {
                index,
                name: format!("r{index}").into(),
                resource_path: "".into(),
                labels: BTreeMap::new(),
                site: Site::default_value(),
            }),
            matches,
            priority: None,
            tolerated: Oddities::default(),
        })
        .collect();
    Routes::compile(&inputs, &mut Build::default()).unwrap()
}

/// Requests to `services` services, spread over those there are.
fn requests(count: usize, services: usize) -> Vec<Target> {
    let headers = headers();
    let all = count / 5;
    (0..services)
        .flat_map(|index| {
            let service = index * all / services;
            [format!("/v1/s{service}/items/1234"), format!("/v1/s{service}/files/a/b.txt")]
        })
        .map(|raw| target(&raw, &headers))
        .collect()
}

fn find_all(routes: &Routes, requests: &[Target], headers: &HeaderMap) {
    for target in requests {
        let found = routes.find(&Method::GET, black_box(target), headers);
        assert!(matches!(black_box(found), Found::Route { .. }), "every request has a route");
    }
}

#[divan::bench(args = [10, 10_000], sample_size = 256)]
fn find_four(bencher: Bencher<'_, '_>, count: usize) {
    let (routes, requests, headers) = (routes(count), requests(count, 2), headers());
    bencher.bench_local(|| find_all(&routes, &requests, &headers));
}

#[divan::bench(args = [10, 10_000], sample_size = 256)]
fn not_found(bencher: Bencher<'_, '_>, count: usize) {
    let (routes, headers) = (routes(count), headers());
    let target = target("/nowhere/at/all", &headers);
    bencher
        .bench_local(|| matches!(routes.find(&Method::GET, black_box(&target), &headers), Found::NotFound));
}

/// The figures side by side: measured in turns, the best round of each.
fn compare() {
    let headers = headers();
    let ten = (routes(10), requests(10, 2));
    let many = (routes(10_000), requests(10_000, 2));
    let everywhere = requests(10_000, 2_000);
    let mut best = [Duration::MAX; 3];
    for _ in 0..200 {
        for (slot, (routes, requests)) in
            best.iter_mut().zip([(&ten.0, &ten.1), (&many.0, &many.1), (&many.0, &everywhere)])
        {
            let rounds = 8_000 / requests.len();
            let begin = Instant::now();
            for _ in 0..rounds {
                find_all(routes, requests, &headers);
            }
            *slot = (*slot).min(begin.elapsed() / 8_000);
        }
    }
    let [few, many, everywhere] = best.map(|best| best.as_nanos());
    let ratio = f64::from(u32::try_from(many).unwrap()) / f64::from(u32::try_from(few).unwrap());
    println!("find among 10 routes: {few} ns; among 10,000: {many} ns, {ratio:.2} times that");
    println!("find among 10,000 routes, 2,000 of their services in turn: {everywhere} ns");
}
