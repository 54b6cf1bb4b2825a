//! What a credential costs: a token verified for the first time, beside what the crypto library alone takes, and remembered; an API
//! key, an introspected token, and all that `authenticate` does with either.
//!
//! `cargo bench --bench auth`; `cargo test --benches` runs each once. First stands what was promised, measured side by side
//! (`cargo bench --bench auth -- promised` tells that alone), then each by itself. Allocations are counted: a remembered token has none,
//! which `tests/allocations.rs` holds it to.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench may stop, and tells its figures"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self as sign, ParsedPublicKey, RsaPublicKeyComponents, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use divan::{AllocProfiler, Bencher};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use portcullis::canonical::Target;
use portcullis::client::Client;
use portcullis::config::{Build, Site, Spanned, load_text};
use portcullis::egress;
use portcullis::policy::Effects;
use portcullis::policy::auth::api_key::{self, Description, Foreign};
use portcullis::policy::auth::{Asked, Auth, Config, Context, Judgement, Kept, Quantity, Requirement, Rules};
use portcullis::record::RouteFacts;
use portcullis::request::{Connection, Protocol, Request};
use portcullis::state::{Access, Live, Store};
use serde_json::json;
use tokens::{SigningKey, claims};

#[path = "../tests/integration/harness/tokens.rs"]
#[expect(dead_code, reason = "integration tests use the rest")]
mod tokens;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const ALGORITHMS: [&str; 6] = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "HS256"];
const SECRET: &[u8] = b"a secret of more than thirty-two bytes";

/// A gateway's word for who it is: signed each time, and kept.
mod identity_token {
    use std::path::Path;

    use portcullis::identity::{Identity, Method};
    use portcullis::policy::auth::identity_token::{Config, ForwardConfig, Forwarding, IdentityTokens};

    use super::*;

    fn forwarding(directory: &Path, more: &str) -> Forwarding {
        let mut build = Build::default();
        let text = format!("{{issuer: 'https://gw.example.com', {more}}}");
        let config: Config = load_text("bench.yaml", &text, &|_| None, &mut build).unwrap();
        let live = Live::new(directory);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        live.set_runtime(runtime.handle().clone());
        let tokens = IdentityTokens::compile(&Spanned::unwritten(config), &live, &mut build).unwrap();
        live.settle().unwrap();
        let text = "{header: x-identity-token, audience: orders, claims: [tenant]}";
        let written: ForwardConfig = load_text("bench.yaml", text, &|_| None, &mut build).unwrap();
        Forwarding::compile(&Spanned::unwritten(written), Some(&Arc::new(tokens)), &mut build).unwrap()
    }

    fn alice() -> Identity {
        let mut identity = Identity::new("alice", Method::Jwt, "auth.staff".into());
        identity.issuer = Some(tokens::ISSUER.into());
        identity.scopes = ["orders:read", "orders:write"].map(Into::into).into();
        identity.claims = json!({"tenant": "acme"}).as_object().unwrap().clone().into();
        identity
    }

    #[divan::bench(args = ["ES256", "EdDSA"])]
    fn signed(bencher: Bencher<'_, '_>, algorithm: &str) {
        let directory = tempfile::tempdir().unwrap();
        let by = forwarding(directory.path(), &format!("cache: 0B, algorithm: {algorithm}"));
        let identity = alice();
        bencher.bench_local(|| by.token(black_box(&identity), SystemTime::now(), 0).unwrap().unwrap());
    }

    /// No allocation, but for what it takes to sign anew every half minute.
    #[divan::bench]
    fn kept(bencher: Bencher<'_, '_>) {
        let directory = tempfile::tempdir().unwrap();
        let (by, identity) = (forwarding(directory.path(), ""), alice());
        bencher.bench_local(|| by.token(black_box(&identity), SystemTime::now(), 0).unwrap().unwrap());
    }
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--bench") {
        promised();
    }
    if !arguments.iter().any(|argument| argument == "promised") {
        divan::main();
    }
}

/// What was promised of each, and whether it is so. What is compared takes turns, so that a machine with other work slows both.
fn promised() {
    println!("| first verification | raw | whole | ratio | promised |\n|---|---|---|---|---|");
    for algorithm in ALGORITHMS {
        let (mut raw, first) = (raw_of(algorithm), Case::first(algorithm));
        let [raw, whole] = side_by_side(&mut raw, &mut || drop(black_box(first.judge())));
        let ratio = whole / raw;
        let kept = met(ratio <= 1.2);
        println!("| {algorithm} | {raw:.2} µs | {whole:.2} µs | {ratio:.2} | ≤ 1.2: {kept} |");
    }
    println!("\n| remembered | policy | `authenticate` | promised of the policy |\n|---|---|---|---|");
    let (cached, introspected, key) = (Case::cached(400), Case::introspected(), Case::api_key());
    for (name, case) in [("JWT", cached), ("introspection", introspected), ("API key", key)] {
        let (requirement, mut effects) = (case.requirement(), Effects::default());
        let mut decide =
            || drop(black_box(case.asking(|asked| now(requirement.decide(asked, &mut effects)).unwrap())));
        let [policy, whole] = side_by_side(&mut || drop(black_box(case.judge())), &mut decide);
        println!("| {name} | {policy:.2} µs | {whole:.2} µs | ≤ 1 µs: {} |", met(policy <= 1.0));
    }
    println!();
}

fn met(is_so: bool) -> &'static str {
    if is_so { "met" } else { "MISSED" }
}

/// Medians of what each takes, in microseconds.
fn side_by_side(first: &mut dyn FnMut(), second: &mut dyn FnMut()) -> [f64; 2] {
    const TURNS: usize = 201;
    const TURN: Duration = Duration::from_micros(500);
    let begun = Instant::now();
    (0..20).for_each(|_| first());
    let once = (begun.elapsed() / 20).max(Duration::from_nanos(1));
    let number = (TURN.as_nanos() / once.as_nanos()).clamp(1, 10_000);
    let turn = |of: &mut dyn FnMut()| {
        let begun = Instant::now();
        (0..number).for_each(|_| of());
        begun.elapsed().as_secs_f64() * 1e6 / number as f64
    };
    let mut taken: [Vec<f64>; 2] = Default::default();
    for _ in 0..TURNS {
        taken[0].push(turn(first));
        taken[1].push(turn(second));
    }
    taken.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[TURNS / 2]
    })
}

/// Nothing is waited for where the keys are there.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

fn policy(name: &str, keys: &[&SigningKey], more: &str) -> Auth {
    policy_of(tokens::ISSUER, name, keys, more)
}

fn policy_of(issuer: &str, name: &str, keys: &[&SigningKey], more: &str) -> Auth {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, tokens::jwks(keys)).unwrap();
    policy_with(issuer, name, &format!("{{file: {}}}, {more}", file.display()))
}

/// With `keys`, and whatever stands behind it.
fn policy_with(issuer: &str, name: &str, keys: &str) -> Auth {
    let text = format!("jwt: {{issuer: '{issuer}', audiences: [orders], keys: {keys}}}");
    let mut build = Build::default();
    let environment = |_: &str| String::from_utf8(SECRET.to_vec()).ok();
    let config: Config = load_text("bench.yaml", &text, &environment, &mut build).unwrap();
    let (live, egress) = (Live::default(), Arc::new(egress::Policy::default()));
    let mut context = Context { live: &live, egress: &egress, build: &mut build };
    Auth::compile(name, &Spanned::unwritten(config), &mut context).unwrap()
}

/// A request with a token, owned.
struct Bearing {
    headers: HeaderMap,
    target: Target,
    client: Client,
    connection: Connection,
    route: RouteFacts,
}

impl Bearing {
    fn new(token: &str) -> Self {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        Self {
            headers: HeaderMap::from_iter([(AUTHORIZATION, value)]),
            target: Target::of_canonical_parts("api.example.com", "/orders", None),
            client: Client { address: [192, 0, 2, 7].into(), peer_trusted: false, https: true },
            connection: Connection::to("bench"),
            route: RouteFacts {
                index: 0,
                name: "orders".into(),
                resource_path: "/orders".into(),
                labels: BTreeMap::new(),
                site: Site::default_value(),
            },
        }
    }

    fn request(&self) -> Request<'_> {
        Request {
            method: &Method::GET,
            target: &self.target,
            headers: &self.headers,
            client: &self.client,
            protocol: Protocol::Http11,
            connection: &self.connection,
        }
    }

    /// What a route asks of it.
    fn asked<'a>(&'a self, request: &'a Request<'a>, now: SystemTime) -> Asked<'a> {
        Asked { request, route: &self.route, parameters: &[], query: None, kept: Kept::default(), now }
    }
}

fn key_of(algorithm: &str) -> SigningKey {
    match algorithm {
        "HS256" => SigningKey::secret(algorithm, SECRET),
        pair => SigningKey::new(pair, "2026-01"),
    }
}

/// A policy, and a request that it judges.
struct Case {
    auth: Arc<Auth>,
    bearing: Bearing,
    now: SystemTime,
}

impl Case {
    /// Of a request that bears what is good.
    fn new(auth: Auth, bearing: Bearing) -> Self {
        let case = Self { auth: Arc::new(auth), bearing, now: SystemTime::now() };
        assert!(matches!(case.judge(), Judgement::Known(..)));
        case
    }

    /// Whatever is new about a token: form, signature, claims. Nothing is remembered.
    fn first(algorithm: &str) -> Self {
        let key = key_of(algorithm);
        let more = format!("algorithms: [{algorithm}], cache: 0B");
        let auth = match algorithm {
            "HS256" => {
                policy_with(tokens::ISSUER, "staff", &format!("{{secret: '${{env:SECRET}}'}}, {more}"))
            }
            _ => policy("staff", &[&key], &more),
        };
        Self::new(auth, Bearing::new(&key.token(&claims(&json!({})))))
    }

    /// A token of about so many bytes that was verified before.
    fn cached(bytes: usize) -> Self {
        let key = key_of("ES256");
        let padding = "x".repeat(bytes.saturating_sub(400) * 3 / 4);
        let token = key.token(&claims(&json!({"padding": padding})));
        Self::new(policy("staff", &[&key], "algorithms: [ES256]"), Bearing::new(&token))
    }

    /// A key that was used before, one of a thousand; `cargo bench --bench keys` has a million.
    fn api_key() -> Self {
        let state = tempfile::tempdir().unwrap();
        let key = |number: u32| format!("pk_{number:012}_0123456789012345678901234567890123456789012");
        let mut store = Store::open(state.path(), Access::Change).unwrap().unwrap();
        let keys = (0..1000).map(|number| {
            let description = Description {
                name: "orders".into(),
                owner: format!("owner {number}"),
                ..Description::default()
            };
            Ok::<_, ()>(Foreign::by_key(&key(number), description).unwrap())
        });
        api_key::import(&mut store, keys, 0).unwrap();
        drop(store);
        let mut build = Build::default();
        let config: Config =
            load_text("bench.yaml", "api_key: {header: x-api-key}", &|_| None, &mut build).unwrap();
        let (live, egress) = (Live::new(state.path()), Arc::default());
        let mut context = Context { live: &live, egress: &egress, build: &mut build };
        let auth = Auth::compile("partners", &Spanned::unwritten(config), &mut context).unwrap();
        let value = HeaderValue::from_str(&key(7)).unwrap();
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static("x-api-key"), value)]);
        Self::new(auth, Bearing { headers, ..Bearing::new("") })
    }

    fn asking<T>(&self, ask: impl FnOnce(&Asked<'_>) -> T) -> T {
        let request = self.bearing.request();
        ask(black_box(&self.bearing.asked(&request, self.now)))
    }

    fn judge(&self) -> Judgement {
        self.asking(|asked| now(self.auth.judge(asked)))
    }

    /// A route that asks for this policy alone.
    fn requirement(&self) -> Requirement {
        let rules = Spanned::unwritten(Rules::default());
        let policies = vec![Arc::clone(&self.auth)];
        Requirement::compile(policies, Quantity::One, &rules, &mut Build::default()).unwrap()
    }
}

#[divan::bench(args = ALGORITHMS)]
fn first(bencher: Bencher<'_, '_>, algorithm: &str) {
    let case = Case::first(algorithm);
    bencher.bench_local(|| case.judge());
}

/// The signature alone, by the crypto library, with the key parsed before. An HMAC takes about a microsecond, so what is around it is
/// seen.
#[divan::bench(args = ALGORITHMS)]
fn raw(bencher: Bencher<'_, '_>, algorithm: &str) {
    bencher.bench_local(raw_of(algorithm));
}

fn raw_of(algorithm: &str) -> Box<dyn FnMut()> {
    let key = key_of(algorithm);
    let token = key.token(&claims(&json!({})));
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (message, signature) = (message.to_owned(), URL_SAFE_NO_PAD.decode(signature).unwrap());
    if algorithm == "HS256" {
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
        return Box::new(move || {
            hmac::verify(&key, black_box(message.as_bytes()), black_box(&signature)).unwrap();
        });
    }
    let public = key.public();
    let member = |name: &str| URL_SAFE_NO_PAD.decode(public[name].as_str().unwrap()).unwrap();
    let parsed = match algorithm {
        "RS256" | "PS256" => {
            let parameters = if algorithm == "RS256" {
                &sign::RSA_PKCS1_2048_8192_SHA256
            } else {
                &sign::RSA_PSS_2048_8192_SHA256
            };
            RsaPublicKeyComponents { n: member("n"), e: member("e") }.to_parsed_public_key(parameters)
        }
        "EdDSA" => ParsedPublicKey::new(&sign::ED25519, member("x")),
        curve => {
            let parameters: &'static dyn VerificationAlgorithm = if curve == "ES256" {
                &sign::ECDSA_P256_SHA256_FIXED
            } else {
                &sign::ECDSA_P384_SHA384_FIXED
            };
            ParsedPublicKey::new(parameters, [vec![4], member("x"), member("y")].concat())
        }
    };
    let parsed = parsed.unwrap();
    Box::new(move || parsed.verify_sig(black_box(message.as_bytes()), black_box(&signature)).unwrap())
}

/// A token that was verified before: what a policy takes.
#[divan::bench(args = [400, 1000, 4000])]
fn cached(bencher: Bencher<'_, '_>, bytes: usize) {
    let case = Case::cached(bytes);
    bencher.bench_local(|| case.judge());
}

/// A key that was used before.
#[divan::bench]
fn api_key_used_before(bencher: Bencher<'_, '_>) {
    let case = Case::api_key();
    bencher.bench_local(|| case.judge());
}

/// All of `authenticate` with a remembered credential of each kind: what a route asks, from the field to the identity.
#[divan::bench(args = ["JWT", "introspection", "API key"])]
fn authenticate(bencher: Bencher<'_, '_>, kind: &str) {
    let case = match kind {
        "JWT" => Case::cached(400),
        "introspection" => Case::introspected(),
        _ => Case::api_key(),
    };
    let (requirement, mut effects) = (case.requirement(), Effects::default());
    bencher.bench_local(|| case.asking(|asked| now(requirement.decide(asked, &mut effects)).unwrap()));
}

/// The same with all that a route asks: one issuer, or the right one of three, and a scope.
#[divan::bench(args = [1, 3])]
fn decide_cached(bencher: Bencher<'_, '_>, issuers: usize) {
    let key = key_of("ES256");
    // The issuer that is meant comes last.
    let others =
        (1..issuers).map(|number| policy_of(&format!("https://{number}.example"), "other", &[&key], ""));
    let policies = others.chain([policy("staff", &[&key], "")]).map(Arc::new).collect();
    let mut rules = Rules::default();
    rules.scopes.push(Spanned::unwritten("orders:read".to_owned()));
    let mut build = Build::default();
    let requirement =
        Requirement::compile(policies, Quantity::One, &Spanned::unwritten(rules), &mut build).unwrap();
    let bearing = Bearing::new(&key.token(&claims(&json!({}))));
    let request = bearing.request();
    let asked = bearing.asked(&request, SystemTime::now());
    let mut effects = Effects::default();
    assert!(now(requirement.decide(&asked, &mut effects)).unwrap().identity().is_some());
    bencher.bench_local(|| now(requirement.decide(black_box(&asked), &mut effects)).unwrap());
}

/// A token that the introspection server was asked about before.
#[divan::bench]
fn introspection_cached(bencher: Bencher<'_, '_>) {
    let case = Case::introspected();
    bencher.bench_local(|| case.judge());
}

impl Case {
    /// A token that a server on the loopback was asked about.
    fn introspected() -> Self {
        const BODY: &str = r#"{"active": true, "sub": "alice", "scope": "orders:read", "exp": 4000000000}"#;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let (mut stream, _) = listener.accept().unwrap();
            // The question is a few hundred bytes, and ends with its form.
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"=access_token") {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).unwrap();
                bytes.extend_from_slice(&piece[..read]);
            }
            let length = BODY.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{BODY}")
                .unwrap();
        });
        let text = format!(
            "introspection: {{url: 'http://{address}/', client_id: a, client_secret: '${{env:SECRET}}', cache: 1h, timeout: 10s}}"
        );
        let mut build = Build::default();
        let environment = |_: &str| Some("b".to_owned());
        let config: Config = load_text("bench.yaml", &text, &environment, &mut build).unwrap();
        let rules: egress::Config =
            load_text("egress.yaml", "allow: [127.0.0.1]", &|_| None, &mut build).unwrap();
        let egress = Arc::new(egress::Policy::compile(&rules, &Site::default_value(), &mut build).unwrap());
        let office =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let live = Live::default();
        live.set_runtime(office.handle().clone());
        let mut context = Context { live: &live, egress: &egress, build: &mut build };
        let auth = Auth::compile("opaque", &Spanned::unwritten(config), &mut context).unwrap();
        let bearing = Bearing::new("mF_9.B5f-4.1JqM");
        let request = bearing.request();
        let asked = bearing.asked(&request, SystemTime::now());
        assert!(matches!(office.block_on(auth.judge(&asked)), Judgement::Known(..)));
        server.join().unwrap();
        Self::new(auth, bearing)
    }
}
