//! `explain` and the running gateway agree: generated configurations × generated requests, each asked of both.
//!
//! The gateway is the real binary; its upstream answers with the head that it received. What is compared: the status,
//! the kind of a refusal, the route, the request target that the upstream saw, and the CORS fields of the answer.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may panic; clippy knows only functions marked as tests"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, Method};
use portcullis::config::{Build, load_text};
use portcullis::gateway::Gateway;
use portcullis::gateway::document::Document;
use portcullis::gateway::explain::{Explanation, Question, explain};
use portcullis::state::Live;

const CONFIGURATIONS: usize = 24;
const REQUESTS_EACH: usize = 100;

/// A small generator of our own, so that a failure's seed tells everything.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(below).unwrap()).unwrap()
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.roll(from.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }
}

const HOSTS: [&str; 7] =
    ["[]", "[]", "[]", "[api.example.com]", "['*.example.com']", "['*.com', shop.test]", "[a.b.example.com]"];
const PATHS: [&str; 9] = [
    "/{*rest}",
    "/orders",
    "/orders/{id}",
    "/orders/{*rest}",
    "/orders/{id}/items",
    "/a/b",
    "/a/{x}",
    "/a/{*rest}",
    "/caf%C3%A9/{x}",
];
const METHODS: [&str; 5] = ["[]", "[GET]", "[GET, POST]", "[DELETE, PUT]", "[POST, OPTIONS]"];
const CONDITIONS: [&str; 4] =
    ["", ", headers: {x-version: '2'}", ", headers: {x-version: {regex: '[0-9]+'}}", ", query: {beta: '1'}"];
const ACTIONS: [&str; 7] = [
    "upstream: origin",
    "upstream: origin, path: {strip: /orders, prefix: /v2}",
    "upstream: origin, path: {prefix: /p}",
    "respond: {status: 200, body: hello}",
    "respond: {status: 204}",
    "redirect: {to: 'https://{domainName}/new', status: 307}",
    "echo: true",
];

fn configuration(dice: &mut Dice, origin: SocketAddr) -> String {
    let mut text = format!(
        "server: {{status: none, state: ./state}}\n\
         log: {{level: info, access: {{to: none}}}}\n\
         listeners: [{{address: '127.0.0.1:0', trusted_proxies: [127.0.0.1]}}]\n\
         upstreams: {{origin: {{servers: ['{origin}']}}}}\n\
         policies:\n  \
           access:\n    inside: {{allow: [10.0.0.0/8, 127.0.0.1]}}\n    outside: {{deny: [10.1.0.0/16, '2001:db8::/32']}}\n    \
             watched: {{allow: [192.0.2.0/24], mode: shadow}}\n  \
           cors:\n    web: {{origins: ['https://app.example.com', 'https://*.example.org'], credentials: true, headers: [content-type, x-a]}}\n    \
             any: {{origins: ['*'], methods: [GET, PUT]}}\n    \
             strict: {{origins: ['null', {{regex: '^https://(a|b)\\.test$'}}], enforce_origin: true}}\n  \
           headers:\n    standard: {{request: {{set: {{x-client: '{{identity.sourceIp}}'}}}}, response: {{set: {{x-r: '{{route}}'}}}}}}\n\
         edge: {{access: {}}}\n\
         defaults: {{auth: none}}\n\
         routes:\n",
        dice.pick(&["none", "none", "outside"])
    );
    for index in 0..2 + dice.roll(7) {
        let cors = dice.pick(&["none", "none", "web", "any", "strict"]);
        let access = dice.pick(&["none", "none", "inside", "outside", "watched"]);
        let headers = dice.pick(&["[]", "[standard]"]);
        let _ = writeln!(
            text,
            "  - {{name: r{index}, match: {{hosts: {}, path: '{}', methods: {}{}}}, access: {access}, cors: {cors}, headers: {headers}, {}}}",
            dice.pick(&HOSTS),
            dice.pick(&PATHS),
            dice.pick(&METHODS),
            dice.pick(&CONDITIONS),
            dice.pick(&ACTIONS),
        );
    }
    if dice.chance(60) {
        text.push_str("  - {name: rest, priority: -1, upstream: origin}\n");
    }
    text
}

const ODD_PATHS: &[&str] = &[
    "/",
    "/orders",
    "/orders/",
    "/orders/7",
    "/orders/7/items",
    "/orders/%37",
    "//orders//7",
    "/orders/../a/b",
    "/orders/./7",
    "/a/b",
    "/a/c",
    "/a/",
    "/a/%62",
    "/a%2fb",
    "/a/..;/b",
    "/..",
    "/%2e%2e/orders",
    "/caf%c3%a9/1",
    "/caf%C3%A9/",
    "/%00",
    "/%zz",
    "/%ff",
    "/a/b%5cc",
    "/orders/a%20b",
    "/~u/x",
    "/a;b/c",
    "/orders/7/items/",
    "/ORDERS",
];

struct Sent {
    method: &'static str,
    host: &'static str,
    target: String,
    headers: Vec<(&'static str, &'static str)>,
}

fn request(dice: &mut Dice) -> Sent {
    let method =
        dice.pick(&["GET", "GET", "GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS", "OPTIONS", "PATCH"]);
    let host = dice.pick(&[
        "api.example.com",
        "API.example.com.",
        "a.b.example.com",
        "example.com",
        "shop.test",
        "x.com:8080",
        "[::1]",
        "localhost",
    ]);
    let ordinary = ["/orders", "/orders/7", "/orders/7/items", "/a/b", "/a/c", "/a/b/c", "/", "/elsewhere/x"];
    let odd = dice.chance(40);
    let path = dice.pick(if odd { ODD_PATHS } else { &ordinary[..] });
    let query = dice.pick(&["", "", "", "?beta=1", "?beta=2", "?", "?x=%2f&beta=1", "?a=b?c"]);
    let mut headers = Vec::new();
    if dice.chance(45) {
        let origin = dice.pick(&[
            "https://app.example.com",
            "https://x.example.org",
            "https://evil.test",
            "null",
            "https://a.test",
            "https://app.example.com.evil.test",
        ]);
        headers.push(("origin", origin));
    }
    if dice.chance(if method == "OPTIONS" { 70 } else { 4 }) {
        headers
            .push(("access-control-request-method", dice.pick(&["GET", "PUT", "POST", "DELETE", "PATCH"])));
    }
    if dice.chance(20) {
        headers.push((
            "access-control-request-headers",
            dice.pick(&["content-type", "X-A, content-type", "x-evil", ""]),
        ));
    }
    if dice.chance(30) {
        headers.push(("x-version", dice.pick(&["2", "31", "two"])));
    }
    if dice.chance(50) {
        headers.push((
            "x-forwarded-for",
            dice.pick(&[
                "10.0.0.9",
                "10.1.2.3",
                "192.0.2.7",
                "2001:db8::1",
                "not-an-address",
                "1.2.3.4, 10.0.0.1",
            ]),
        ));
    }
    if dice.chance(10) {
        headers.push(("accept", "text/plain"));
    }
    Sent { method, host, target: format!("{path}{query}"), headers }
}

/// Answers every request with 200 and the target it was asked for, until the process ends.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => head.push_str(&line),
            }
        }
        let mut parts = head.split(' ');
        let head_only = parts.next() == Some("HEAD");
        let target = parts.next().unwrap_or_default().to_owned();
        let body = if head_only { "" } else { &target };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nx-target: {target}\r\ncontent-length: {}\r\n\r\n{body}",
            target.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

struct Running {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(text: &str) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("portcullis.yaml");
    std::fs::write(&file, text).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["run", "--config"])
        .arg(&file)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = String::new();
    let address = loop {
        let Some(Ok(line)) = lines.next() else { panic!("the gateway did not start:\n{text}\n{seen}") };
        if let Some((_, rest)) = line.split_once("listening on ") {
            break rest.split_whitespace().next().unwrap().parse().unwrap();
        }
        seen.push_str(&line);
        seen.push('\n');
    };
    std::thread::spawn(move || lines.for_each(drop));
    Running { child, address, _directory: directory }
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

fn ask(address: SocketAddr, sent: &Sent) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut text =
        format!("{} {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", sent.method, sent.target, sent.host);
    for (name, value) in &sent.headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let all = String::from_utf8_lossy(&all).into_owned();
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or((&all, ""));
    let mut lines = head.lines();
    let status =
        lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|s| s.parse().ok()).unwrap_or(0);
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Answer { status, headers, body: body.to_owned() }
}

fn compile(text: &str) -> Option<Arc<Gateway>> {
    let mut build = Build::default();
    let document: Document = load_text("generated.yaml", text, &|_| None, &mut build)?;
    let live = Live::new(std::env::temp_dir());
    Gateway::compile(&document, &live, 1, &mut build).map(Arc::new)
}

fn explained(gateway: &Arc<Gateway>, sent: &Sent, runtime: &tokio::runtime::Runtime) -> Explanation {
    let headers = sent
        .headers
        .iter()
        .map(|(name, value)| (HeaderName::from_str(name).unwrap(), HeaderValue::from_str(value).unwrap()));
    let question = Question {
        method: Method::from_str(sent.method).unwrap(),
        url: format!("http://{}{}", sent.host, sent.target),
        headers: headers.collect(),
        client: Some("127.0.0.1".parse().unwrap()),
    };
    runtime.block_on(explain(gateway, &question)).unwrap()
}

/// What the two disagree about, if anything.
fn difference(explanation: &Explanation, answer: &Answer, sent: &Sent) -> Option<String> {
    let expected = explanation.status.unwrap_or(200);
    if answer.status != expected {
        return Some(format!(
            "explain says {expected} ({}), the gateway {}",
            explanation.outcome, answer.status
        ));
    }
    if let Some(upstream) = &explanation.upstream {
        let seen = answer.headers.get("x-target").map_or("nothing", String::as_str);
        if seen != upstream.target {
            return Some(format!("explain says the upstream sees {}, it saw {seen}", upstream.target));
        }
    }
    if let (Some(error), false) = (&explanation.error, sent.method == "HEAD") {
        let kind = error.response_type.to_ascii_lowercase().replace('_', "-");
        let json = answer.headers.get("content-type").is_some_and(|kind| kind.contains("json"));
        if json && !answer.body.contains(&kind) {
            return Some(format!("explain says {kind}, the gateway {}", answer.body));
        }
    }
    let told: BTreeMap<_, _> = explanation.response_headers.iter().cloned().collect();
    if explanation.upstream.is_none() {
        for name in [
            "access-control-allow-origin",
            "access-control-allow-methods",
            "vary",
            "location",
            "allow",
            "x-r",
        ] {
            if told.get(name) != answer.headers.get(name) {
                return Some(format!(
                    "{name}: explain {:?}, the gateway {:?}",
                    told.get(name),
                    answer.headers.get(name)
                ));
            }
        }
    }
    None
}

#[test]
fn explain_and_the_running_gateway_agree() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let origin = origin();
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let (mut compared, mut refused, mut forwarded) = (0, 0, 0);
    let begun = Instant::now();
    let mut configurations = 0;
    for _ in 0..4_000 {
        let text = configuration(&mut dice, origin);
        let Some(gateway) = compile(&text) else { continue };
        configurations += 1;
        let running = start(&text);
        for _ in 0..REQUESTS_EACH {
            let sent = request(&mut dice);
            let explanation = explained(&gateway, &sent, &runtime);
            let answer = ask(running.address, &sent);
            if let Some(difference) = difference(&explanation, &answer, &sent) {
                panic!(
                    "{difference}\n{} {} host {} {:?}\n{text}\n{explanation:#?}",
                    sent.method, sent.target, sent.host, sent.headers
                );
            }
            compared += 1;
            refused += usize::from(explanation.outcome == "refuse");
            forwarded += usize::from(explanation.outcome == "forward");
        }
        if configurations == CONFIGURATIONS {
            break;
        }
    }
    println!(
        "{compared} requests over {configurations} configurations in {:?}: {refused} refused, {forwarded} forwarded",
        begun.elapsed()
    );
    assert!(compared >= 2_000, "only {compared} requests were compared");
    assert!(
        refused > 200 && forwarded > 200,
        "the generator grew lopsided: {refused} refused, {forwarded} forwarded"
    );
}
