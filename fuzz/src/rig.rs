//! A gateway and its origin, in this process, for as long as it lives.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use portcullis::canonical::Oddity;
use portcullis::config::{Build, load_text};
use portcullis::gateway::document::Document;
use portcullis::gateway::{Gateway, ListenAddress};
use portcullis::proxy::Gate;
use portcullis::server::{BackOffice, Counts, Options, Refused, Server, left};
use portcullis::state::Live;

use super::origin::{self, Recorded};

static RECORDED: LazyLock<Arc<Mutex<Recorded>>> = LazyLock::new(Arc::default);
static ADDRESS: LazyLock<SocketAddr> = LazyLock::new(start);

/// Where the gateway listens; it is started by the first who asks.
pub fn address() -> SocketAddr {
    *ADDRESS
}

/// What the origin has seen.
pub fn seen() -> MutexGuard<'static, Recorded> {
    RECORDED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The route of a canonical path.
pub fn route(path: &str) -> &'static str {
    match path {
        "/reply" => "reply",
        "/echo" => "echo",
        _ if path.starts_with("/odd/") => "odd",
        _ => "all",
    }
}

/// Whether a route needs no origin.
pub fn is_answered_here(route: &str) -> bool {
    matches!(route, "reply" | "echo")
}

/// Whether a route takes paths that have two readings.
pub fn takes_odd_paths(route: &str) -> bool {
    route == "odd"
}

fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "
server: {{status: none, workers: 1, state: '{}'}}
log: {{level: error, access: {{to: none}}}}
listeners: [{{address: '127.0.0.1:0'}}]
upstreams: {{origin: {{servers: ['{}'], retries: {{attempts: 1}}}}}}
defaults: {{auth: none}}
routes:
  - {{name: reply, match: {{path: /reply}}, respond: {{body: hello}}}}
  - {{name: echo, match: {{path: /echo}}, echo: true}}
  - name: odd
    match: {{path: '/odd/{{*rest}}'}}
    path_oddities: [{}]
    upstream: origin
    upgrade: [websocket]
  - {{name: all, upstream: origin, upgrade: [websocket]}}
",
        std::env::temp_dir().display(),
        listener.local_addr().unwrap(),
        Oddity::ALL.map(Oddity::name).join(", ")
    );
    origin::start(listener, Arc::clone(&RECORDED));
    let back_office = BackOffice::new().unwrap();
    let mut build = Build::default();
    let live = Live::new(std::env::temp_dir());
    live.set_runtime(back_office.handle().clone());
    let gateway = load_text::<Document>("fuzz.yaml", &text, &|_| None, &mut build)
        .and_then(|document| Gateway::compile(&document, &live, 1, &mut build));
    let gateway = gateway.unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)));
    gateway.telling().start();
    let options = Options {
        gateway: Arc::new(gateway),
        files: Vec::new(),
        reload: Box::new(|_| Err(Refused { errors: Vec::new(), files: Vec::new() })),
        adopted: Box::new(|_| {}),
        reopen_logs: Box::new(|| {}),
        metrics: Arc::new(String::new),
        settle: Box::new(|| Ok(())),
        counts: Arc::new(Counts::default()),
        attended: false,
    };
    let server = Server::bind(back_office, options).unwrap();
    let addresses = server.handle().addresses();
    let Some(ListenAddress::Tcp(address)) = addresses.values().next() else { panic!("no address") };
    let address = *address;
    std::thread::spawn(move || {
        let served = server.run(|snapshots, worker| Gate::app(snapshots, worker, left));
        panic!("the gateway has ended: {served:?}");
    });
    address
}
