//! What an API key and a remembered password cost a request: `Auth::judge`, from the field to the identity.
//!
//! `cargo bench --bench keys`: among a million keys, which are made first (half a minute). `cargo test --benches` runs each once,
//! among a thousand. Either tells what the keys take of memory, and how long the whole of them takes to be read. What was promised of a
//! look-up stands before the rest (`cargo bench --bench keys -- promised` tells that alone).

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench may stop, and tells its figures")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use base64::Engine as _;
use divan::Bencher;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method};
use portcullis::canonical::{self, Target};
use portcullis::client::Client;
use portcullis::config::{Build, Site, Spanned, load_text};
use portcullis::policy::auth::api_key::{self, Description, Foreign, Keys};
use portcullis::policy::auth::{Asked, Auth, Config, Context, Judgement, Kept};
use portcullis::record::RouteFacts;
use portcullis::request::{Connection, Protocol, Request};
use portcullis::state::{Access, Live, Store};

static STATE: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();

fn main() {
    let state = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut store = Store::open(state.path(), Access::Change).unwrap().unwrap();
    let keys = (0..count()).map(|number| {
        let description = Description {
            name: format!("key {number}"),
            owner: format!("owner {}", number % 1000),
            plan: Some("gold".into()),
            scopes: vec!["orders:read".into(), "orders:write".into()],
            ..Description::default()
        };
        Ok::<_, ()>(Foreign::by_key(&key(number), description).unwrap())
    });
    assert_eq!(api_key::import(&mut store, keys, 0).unwrap(), count());
    drop(store);
    let imported = began.elapsed();
    STATE.set(state).unwrap();
    let (live, began) = (live(), Instant::now());
    auth("api_key: {header: x-api-key}", &live);
    let read = began.elapsed();
    let figures = Keys::figures(&live).unwrap();
    assert_eq!(figures.keys, count());
    let each = figures.bytes / figures.keys;
    println!("{} keys: imported in {imported:.2?}, read in {read:.2?}, {each} bytes each", figures.keys);
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--bench") {
        promised();
    }
    if !arguments.iter().any(|argument| argument == "promised") {
        divan::main();
    }
}

/// What was promised: a look-up takes a microsecond at most. Beside it the whole judgement, from the field to the identity; and what the
/// bench itself has to do, to fetch the next request from memory and to hash its key, which is in both figures.
fn promised() {
    println!(
        "\n| keys in turn | looked up | judged | of that request and hash | promised of a look-up |\n|---|---|---|---|---|"
    );
    let cases = [
        ("1,000, remembered", Turn::new(1000, key)),
        ("5,000, remembered", Turn::new(5000, key)),
        ("100,000, mostly made anew", Turn::new(100_000, key)),
        ("1,000 unknown", Turn::new(1000, unknown)),
    ];
    for (name, mut turn) in cases {
        let [found, judged, own] = turn.medians();
        let kept = if found <= 1.0 { "met" } else { "MISSED" };
        println!("| {name} | {found:.2} µs | {judged:.2} µs | {own:.2} µs | ≤ 1 µs: {kept} |");
    }
    println!();
}

/// A million, where somebody measures.
fn count() -> usize {
    if std::env::args().any(|argument| argument == "--bench") { 1_000_000 } else { 1_000 }
}

fn key(number: usize) -> String {
    format!("pk_{number:012}_0123456789012345678901234567890123456789012")
}

fn live() -> Live {
    Live::new(STATE.get().unwrap().path())
}

fn auth(policy: &str, live: &Live) -> Auth {
    let mut build = Build::default();
    let config: Config = load_text("bench", policy, &|_| None, &mut build).unwrap();
    let egress = Arc::default();
    let config = Spanned::unwritten(config);
    let mut context = Context { live, egress: &egress, build: &mut build };
    Auth::compile("bench", &config, &mut context).unwrap()
}

/// What a request is made of.
struct Room {
    target: Target,
    client: Client,
    connection: Connection,
    route: RouteFacts,
}

impl Room {
    fn new() -> Self {
        let headers = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("a.test"))]);
        let target =
            canonical::target(&Method::GET, b"/orders/1", None, &headers, Protocol::Http11, 8192).unwrap();
        let connection = Connection::to("bench");
        let client = Client { address: [192, 0, 2, 1].into(), peer_trusted: false, https: false };
        let route = RouteFacts {
            index: 0,
            name: "orders".into(),
            resource_path: "/orders/{id}".into(),
            labels: BTreeMap::new(),
            site: Site::new("bench", 1, 1),
        };
        Self { target, client, connection, route }
    }

    fn request<'a>(&'a self, headers: &'a HeaderMap) -> Request<'a> {
        Request {
            method: &Method::GET,
            target: &self.target,
            headers,
            client: &self.client,
            protocol: Protocol::Http11,
            connection: &self.connection,
        }
    }

    /// What a route asks of it.
    fn asked<'a>(&'a self, request: &'a Request<'a>, now: SystemTime) -> Asked<'a> {
        Asked { request, route: &self.route, parameters: &[], query: None, kept: Kept::default(), now }
    }

    fn judge(&self, auth: &Auth, headers: &HeaderMap) -> Judgement {
        let request = self.request(headers);
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
        let asked = self.asked(&request, now);
        auth.judge(&asked).now_or_never().unwrap()
    }
}

fn headers(name: &'static str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
}

/// Requests with so many keys of all, one after the other, without an order that a cache could learn.
struct Turn {
    live: Live,
    auth: Auth,
    room: Room,
    requests: Vec<HeaderMap>,
    next: usize,
}

impl Turn {
    fn new(different: usize, key: impl Fn(usize) -> String) -> Self {
        let different = different.min(count());
        let stride = count() / different;
        let request = |at: usize| headers("x-api-key", &key((at * 7919) % different * stride));
        let requests = (0..different).map(request).collect();
        let live = live();
        Self { auth: auth("api_key: {header: x-api-key}", &live), live, room: Room::new(), requests, next: 0 }
    }

    fn headers(&mut self) -> &HeaderMap {
        self.next = if self.next + 1 < self.requests.len() { self.next + 1 } else { 0 };
        self.requests.get(self.next).unwrap()
    }

    fn judge(&mut self) -> Judgement {
        self.headers();
        self.room.judge(&self.auth, self.requests.get(self.next).unwrap())
    }

    /// What anybody has to do who looks a key up.
    fn hash(&mut self) -> aws_lc_rs::digest::Digest {
        let key = self.headers().get("x-api-key").unwrap().to_str().unwrap();
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes())
    }

    /// Whether there is such a key.
    fn look_up(&mut self) -> bool {
        self.headers();
        let key = self.requests.get(self.next).unwrap().get("x-api-key").unwrap().to_str().unwrap();
        Keys::know(&self.live, key)
    }

    /// Medians of a look-up, a judgement and the bench's own part, in microseconds.
    fn medians(&mut self) -> [f64; 3] {
        // Each comes twice before it counts.
        (0..2 * self.requests.len()).for_each(|_| drop(black_box(self.judge())));
        let mut taken: [Vec<f64>; 3] = Default::default();
        for _ in 0..TURNS {
            let times = [
                timed(|| {
                    black_box(self.look_up());
                }),
                timed(|| drop(black_box(self.judge()))),
                timed(|| {
                    let _hashed = black_box(self.hash());
                }),
            ];
            taken.iter_mut().zip(times).for_each(|(taken, time)| taken.push(time));
        }
        taken.map(|mut times| {
            times.sort_by(f64::total_cmp);
            *times.get(TURNS / 2).unwrap()
        })
    }
}

const TURNS: usize = 201;

/// What one of two thousand takes, in microseconds.
fn timed(mut one: impl FnMut()) -> f64 {
    const EACH: u32 = 2000;
    let began = Instant::now();
    (0..EACH).for_each(|_| one());
    began.elapsed().as_secs_f64() * 1e6 / f64::from(EACH)
}

fn unknown(number: usize) -> String {
    key(number).replace("pk_", "no_")
}

fn judge_keys(bencher: Bencher<'_, '_>, different: usize, key: impl Fn(usize) -> String) {
    let mut turn = Turn::new(different, key);
    bencher.bench_local(|| black_box(turn.judge()));
}

/// The identities of these are remembered.
#[divan::bench(sample_count = 200, sample_size = 500)]
fn a_thousand_keys_of_all(bencher: Bencher<'_, '_>) {
    judge_keys(bencher, 1000, key);
}

/// Of most of these, identities are made anew.
#[divan::bench(sample_count = 200, sample_size = 500)]
fn all_keys_in_turn(bencher: Bencher<'_, '_>) {
    judge_keys(bencher, 100_000, key);
}

#[divan::bench(sample_count = 200, sample_size = 500)]
fn unknown_keys(bencher: Bencher<'_, '_>) {
    judge_keys(bencher, 1000, unknown);
}

#[divan::bench(sample_count = 200, sample_size = 500)]
fn a_remembered_password(bencher: Bencher<'_, '_>) {
    let users = STATE.get().unwrap().path().join("users");
    std::fs::write(&users, "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n").unwrap();
    let auth = auth(&format!("basic: {{file: '{}'}}", users.display()), &live());
    let room = Room::new();
    let credential = base64::engine::general_purpose::STANDARD.encode("alice:U*U");
    let headers = headers("authorization", &format!("Basic {credential}"));
    // The first is hashed, on another thread.
    prove(&room, &auth, &headers);
    bencher.bench_local(|| {
        let judged = room.judge(&auth, &headers);
        assert!(matches!(judged, Judgement::Known(..)));
        judged
    });
}

fn prove(room: &Room, auth: &Auth, headers: &HeaderMap) {
    let request = room.request(headers);
    let asked = room.asked(&request, SystemTime::now());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(matches!(runtime.block_on(auth.judge(&asked)), Judgement::Known(..)));
}
