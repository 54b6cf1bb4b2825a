//! What telling costs a request: metrics alone, and with its line in the access log. Goal: 1 µs, no allocation.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use divan::Bencher;
use divan::counter::ItemsCount;
use http::{HeaderValue, Method};
use portcullis::canonical::Target;
use portcullis::config::{Build, OrNone, Site, Spanned};
use portcullis::observe::{Access, Config, Telling};
use portcullis::record::{Integration, Record, RouteFacts};
use portcullis::request::{Protocol, TlsFacts};
use portcullis::state::Live;

#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

fn route() -> Arc<RouteFacts> {
    Arc::new(RouteFacts {
        index: 0,
        name: "orders".into(),
        resource_path: "/orders/{*rest}".into(),
        labels: BTreeMap::from([("api".into(), "orders".into()), ("stage".into(), "prod".into())]),
        site: Site::default_value(),
    })
}

fn record() -> Record {
    let mut record = Record::new(0, 1, Instant::now(), SystemTime::now());
    record.route = Some(route());
    record.client = Some(Ipv4Addr::new(192, 0, 2, 7).into());
    record.user_agent = Some(HeaderValue::from_static(
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    ));
    record.method = Some(Method::GET);
    record.target = Some(Arc::new(Target::of_canonical_parts("api.example.com", "/orders/7/items", None)));
    record.protocol = Some(Protocol::Http2);
    record.tls = Some(Arc::new(TlsFacts {
        version: "TLSv1.3",
        cipher: "TLS_AES_256_GCM_SHA384",
        group: Some("X25519MLKEM768".into()),
        sni: Some("api.example.com".into()),
        resumed: false,
        client_rule: None,
        client_certificate: None,
    }));
    record.status = 200;
    record.response_length = 1_234;
    record.response_latency = Some(Duration::from_micros(1_234));
    record.own_latency = Some(Duration::from_micros(56));
    record.integration = Some(Integration {
        upstream: "orders".into(),
        server: Some("127.0.0.1:9001".into()),
        status: Some(200),
        latency: Some(Duration::from_micros(1_100)),
        connect_latency: Some(Duration::ZERO),
        attempts: 1,
        error: None,
    });
    record
}

/// With an access log in this format at this place.
fn telling(to: OrNone<String>, format: &str) -> Telling {
    let to = match to {
        OrNone::None => OrNone::None,
        OrNone::Some(path) => OrNone::Some(Spanned::unwritten(path)),
    };
    let access = Access { to, format: Spanned::unwritten(format.to_owned()) };
    let config = Spanned::unwritten(Config { access, ..Config::default() });
    let upstreams = [("orders".into(), vec!["127.0.0.1:9001".into()])];
    let mut build = Build::default();
    let telling = Telling::compile(&[route()], &upstreams, &[], &config, &Live::default(), &mut build);
    match telling {
        Some(telling) => telling,
        None => unreachable!("{:?}", build.errors),
    }
}

#[divan::bench]
fn metrics_alone(bencher: Bencher<'_, '_>) {
    let (telling, record) = (telling(OrNone::None, "json"), record());
    telling.settle(&record);
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| telling.settle(&record));
}

#[divan::bench(args = [
    "json",
    "{identity.sourceIp} [{requestTime}] \"{httpMethod} {path} {protocol}\" {status} {responseLength} \"{identity.userAgent}\"",
])]
fn with_a_line_in_a_file(bencher: Bencher<'_, '_>, format: &str) {
    let path = std::env::temp_dir().join(format!("portcullis-bench-{}.log", std::process::id()));
    let telling = telling(OrNone::Some(path.display().to_string()), format);
    let record = record();
    telling.settle(&record);
    // In rounds that the writer is waited for between: what is measured is writing lines, not dropping them.
    bencher
        .counter(ItemsCount::new(1_000_u32))
        .with_inputs(|| telling.flush(Duration::from_secs(10)))
        .bench_local_values(|_| {
            for _ in 0..1_000 {
                telling.settle(divan::black_box(&record));
            }
        });
    let _ = std::fs::remove_file(path);
}
