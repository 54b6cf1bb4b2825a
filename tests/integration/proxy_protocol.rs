//! The PROXY protocol: from a balancer in front, and to servers behind.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::harness::{
    Authority, Connection, Http2, Nginx, Origin, Peer, Place, Running, connect_from, eventually, find_tool,
    try_handshake,
};

const LISTENER: &str = "  - address: 127.0.0.1:0\n";
const ECHO: &str = "\
policies: {access: {some: {deny: [203.0.113.66]}}}
routes:
  - {name: listed, match: {path: /listed}, access: some, respond: {body: welcome}}
  - {name: echo, echo: true}
";
const V1: &str = "PROXY TCP4 203.0.113.7 198.51.100.9 56172 443\r\n";

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, body].concat()
}

/// 203.0.113.7 port 56172 → 198.51.100.9 port 443, and an extension that says nothing.
fn inet() -> Vec<u8> {
    v2(0x21, 0x11, &[203, 0, 113, 7, 198, 51, 100, 9, 0xdb, 0x6c, 1, 187, 4, 0, 3, 0, 0, 0])
}

fn inet6() -> Vec<u8> {
    let mut body = vec![0; 36];
    body[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    body[15] = 7;
    body[31] = 1;
    v2(0x21, 0x21, &body)
}

/// 127.0.0.1 is a balancer; others of the loopback network are clients of their own.
fn behind_a_balancer(more: &str, rest: &str) -> Running {
    let listener = format!("{LISTENER}    proxy_protocol: {{from: [127.0.0.1]}}\n{more}");
    let text = Place::with_base(rest).replace(LISTENER, &listener);
    Place::new().start_whole(&text.replace("drain: 80s", "drain: 80s, timeouts: {handshake: 1s}"))
}

fn over_tls(place: Place, authority: &Authority, rest: &str) -> Running {
    authority.issue(&["example.com"]).write(&place, "own");
    let listener = format!(
        "{LISTENER}    proxy_protocol: {{from: [127.0.0.1]}}\n    tls: {{certificates: [{{cert: own.crt, key: own.key}}]}}\n"
    );
    let text = Place::with_base(rest).replace(LISTENER, &listener);
    place.start_whole(&text.replace("drain: 80s", "drain: 80s, timeouts: {handshake: 1s}"))
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n")
}

const MISSING: &str = "a peer of `proxy_protocol.from` sent no PROXY header";
const MALFORMED: &str = "a PROXY ";
const UNEXPECTED: &str = "a PROXY header of a peer that the listener's `proxy_protocol.from` does not list";
const LATE: &str = "the PROXY header was not complete at the handshake's deadline";

/// Waits for the line of the refusal with this message.
fn refusal(gateway: &Running, message: &str) -> serde_json::Value {
    eventually(&format!("a line with {message}; there is:\n{}", gateway.place.read("access.log")), || {
        let text = gateway.place.read("access.log");
        text.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find(|line| line["error"]["message"] == message)
    })
}

#[test]
fn the_address_it_gives_is_the_clients_everywhere() {
    let gateway = behind_a_balancer("", ECHO);
    let rows: [(Vec<u8>, &str); 6] = [
        (V1.into(), "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:203.0.113.8 ::ffff:198.51.100.9 1 2\r\n".to_vec(), "203.0.113.8"),
        (inet(), "203.0.113.7"),
        (inet6(), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ];
    for (index, (header, client)) in rows.into_iter().enumerate() {
        let mut connection = Connection::open(gateway.address());
        let path = format!("/{index}");
        // The first request comes with the header, the second behind it.
        connection.write([&header[..], get(&path).as_bytes(), get("/more").as_bytes()].concat());
        for _ in 0..2 {
            let echo = connection.response().expect(200).json();
            assert_eq!(echo["client"], client, "{}", header.escape_ascii());
            assert_eq!(echo["headers"]["x-forwarded-for"], client);
            assert_eq!(echo["headers"]["x-forwarded-port"], "80", "the port that was asked for, as ever");
        }
        assert_eq!(connection.get("/again").expect(200).json()["client"], client);
        assert_eq!(gateway.access_of(&path)["identity"]["sourceIp"], client);
    }
    for (address, status) in [("203.0.113.66", 403), ("203.0.113.67", 200)] {
        let mut connection = Connection::open(gateway.address());
        connection.write(format!("PROXY TCP4 {address} 198.51.100.9 1 2\r\n"));
        connection.get("/listed").expect(status);
    }
}

#[test]
fn a_header_in_any_number_of_pieces() {
    let gateway = behind_a_balancer("", ECHO);
    for header in [V1.as_bytes().to_vec(), inet()] {
        let whole = [&header[..], get("/").as_bytes()].concat();
        for cut in (1..header.len() + 3).step_by(5) {
            let stream = TcpStream::connect(gateway.address()).unwrap();
            stream.set_nodelay(true).unwrap();
            let mut connection = Connection::over_tcp(stream);
            connection.write(&whole[..cut]);
            // Another connection is served meanwhile: by then the first piece has been read.
            let mut other = connect_from("127.0.0.2", gateway.address());
            other.get("/").expect(200);
            connection.write(&whole[cut..]);
            assert_eq!(connection.response().expect(200).json()["client"], "203.0.113.7", "cut at {cut}");
        }
        let mut connection = Connection::open(gateway.address());
        for byte in whole {
            connection.write([byte]);
        }
        assert_eq!(connection.response().expect(200).json()["client"], "203.0.113.7");
    }
}

#[test]
fn what_is_no_header_is_refused_with_its_reason() {
    let gateway = behind_a_balancer("", ECHO);
    let rows: [(&[u8], &str); 8] = [
        (b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", MISSING),
        (b"\x16\x03\x01\x02\x00\x01", MISSING),
        (b"PROXY TCP4 203.0.113.7 198.51.100.9 56172 443\nGET / HTTP/1.1\r\n", MALFORMED),
        (b"PROXY TCP4 203.0.113.007 198.51.100.9 1 2\r\n", MALFORMED),
        (b"PROXY TCP4 203.0.113.7 198.51.100.9 1 65536\r\n", MALFORMED),
        (&[b'P', b'R', b'O', b'X', b'Y', b' '].repeat(20), MALFORMED),
        (b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c------------", MALFORMED),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", MALFORMED),
    ];
    let mut counts = [0.0, 0.0];
    for (index, (bytes, message)) in rows.into_iter().enumerate() {
        let mut connection = Connection::open(gateway.address());
        connection.write(bytes);
        let response = connection.response();
        assert!(response.status == 400 && response.closes(), "{}: {response:?}", bytes.escape_ascii());
        assert_eq!(response.json()["type"], "urn:portcullis:problem:ambiguous-request");
        assert!(connection.is_closed());
        let line = gateway.access(index + 1).pop().unwrap();
        let said = line["error"]["message"].as_str().unwrap();
        assert!(said.starts_with(message), "{}: {line}", bytes.escape_ascii());
        assert_eq!((&line["status"], &line["identity"]["sourceIp"]), (&400.into(), &"127.0.0.1".into()));
        counts[usize::from(message == MALFORMED)] += 1.0;
    }
    for (reason, count) in [("proxy_protocol_missing", counts[0]), ("proxy_protocol_malformed", counts[1])] {
        gateway.await_metric("portcullis_connections_refused_total", &[("reason", reason)], count);
        gateway.await_metric("portcullis_refusals_total", &[("reason", reason)], count);
    }
}

#[test]
fn a_header_that_drips_has_the_handshakes_deadline() {
    let gateway = behind_a_balancer("", ECHO);
    let mut connection = Connection::open(gateway.address());
    let began = Instant::now();
    for byte in V1.bytes().take(V1.len() - 1) {
        if connection.try_write([byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        if began.elapsed() > Duration::from_millis(1500) {
            break;
        }
    }
    connection.response().expect(408);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let line = refusal(&gateway, LATE);
    assert_eq!(line["status"], 408, "{line}");
    let labels = [("reason", "proxy_protocol_timeout")];
    gateway.await_metric("portcullis_connections_refused_total", &labels, 1.0);
}

#[test]
fn others_are_clients_of_their_own_and_their_headers_are_refused() {
    let gateway = behind_a_balancer("", ECHO);
    let mut other = connect_from("127.0.0.2", gateway.address());
    assert_eq!(other.get("/").expect(200).json()["client"], "127.0.0.2");
    gateway.access(1);
    let inet = inet();
    let rows = [
        [V1.as_bytes(), get("/").as_bytes()].concat(),
        V1.as_bytes().to_vec(),
        [&inet[..], get("/").as_bytes()].concat(),
    ];
    for (index, bytes) in rows.iter().enumerate() {
        let mut connection = connect_from("127.0.0.2", gateway.address());
        connection.write(bytes);
        if index == 1 {
            // A line alone could still become a head: it is told at the deadline, or by what follows.
            connection.write(get("/"));
        }
        let response = connection.response();
        assert!(response.status == 400 && response.closes(), "{index}: {response:?}");
        let line = gateway.access(index + 2).pop().unwrap();
        assert_eq!(line["error"]["message"], UNEXPECTED, "{line}");
        assert_eq!(line["identity"]["sourceIp"], "127.0.0.2");
    }
    // Without the key nobody's header is one.
    let gateway = Running::with(ECHO);
    gateway.send([V1.as_bytes(), get("/").as_bytes()].concat()).expect(400);
    assert_eq!(gateway.access(1)[0]["error"]["message"], UNEXPECTED);
    let labels = [("reason", "proxy_protocol_unexpected")];
    gateway.await_metric("portcullis_refusals_total", &labels, 1.0);
}

#[test]
fn checks_of_a_balancer_make_no_noise() {
    let authority = Authority::new();
    let plain = behind_a_balancer("", ECHO);
    let tls = over_tls(Place::new(), &authority, ECHO);
    for gateway in [&plain, &tls] {
        for first in [&b""[..], b"PROXY UNKNOWN\r\n", &v2(0x20, 0, b"")] {
            let mut stream = TcpStream::connect(gateway.address()).unwrap();
            stream.write_all(first).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(Connection::over_tcp(stream).is_closed());
        }
    }
    // A check that asks something is an ordinary request of the balancer's own.
    let mut asking = Connection::open(plain.address());
    asking.write([v2(0x20, 0, b""), get("/").into_bytes()].concat());
    assert_eq!(asking.response().expect(200).json()["client"], "127.0.0.1");
    assert_eq!(plain.access(1).len(), 1);
    for gateway in [&plain, &tls] {
        assert_eq!(gateway.metrics().of("portcullis_connections_refused_total", &[]), 0.0);
    }
    assert_eq!(tls.place.read("access.log"), "");
}

#[test]
fn the_header_comes_before_tls() {
    let authority = Authority::new();
    let gateway = over_tls(Place::new(), &authority, ECHO);
    for header in [V1.as_bytes().to_vec(), inet()] {
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        stream.write_all(&header).unwrap();
        let connector = authority.connector(|_| {});
        let mut connection = Connection::over_tls(connector.connect("example.com", stream).unwrap());
        let echo = connection.get("/").expect(200).json();
        assert_eq!(
            (&echo["client"], &echo["headers"]["x-forwarded-proto"]),
            (&"203.0.113.7".into(), &"https".into())
        );
    }
    let connector = authority.connector(|builder| builder.set_alpn_protos(b"\x02h2").unwrap());
    let mut client = Http2::connect_after(gateway.address(), &inet6(), &connector, "example.com");
    for _ in 0..2 {
        assert_eq!(client.get("/").expect(200).json()["client"], "2001:db8::7");
    }
    // A client of its own, as on a plain listener.
    let mut other = connect_from("127.0.0.2", gateway.address());
    other.write(V1);
    assert!(other.is_closed() || other.is_closed());
    // Without its header the handshake of a balancer's connection fails; the record says why, and no status: nothing was answered.
    assert!(try_handshake(&authority.connector(|_| {}), gateway.address(), "example.com").is_err());
    let line = refusal(&gateway, MISSING);
    assert!(line["status"].is_null() && line["identity"]["sourceIp"] == "127.0.0.1", "{line}");
    // Header and handshake share one deadline.
    let mut silent = Connection::open(gateway.address());
    let began = Instant::now();
    silent.write(V1);
    assert!(silent.is_closed() && began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let labels = [("reason", "handshake_timeout")];
    gateway.await_metric("portcullis_connections_refused_total", &labels, 1.0);
}

#[test]
fn trust_is_judged_by_the_address_that_the_header_gives() {
    let gateway = behind_a_balancer("    trusted_proxies: [203.0.113.0/24]\n", ECHO);
    let asked = |header: &str| {
        let mut connection = Connection::open(gateway.address());
        connection.write(header);
        connection.write("GET / HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: 192.0.2.77\r\n\r\n");
        connection.response().expect(200).json()["client"].as_str().unwrap().to_owned()
    };
    assert_eq!(asked(V1), "192.0.2.77");
    assert_eq!(asked("PROXY TCP4 198.51.100.1 198.51.100.9 1 2\r\n"), "198.51.100.1");
    assert_eq!(asked("PROXY UNKNOWN\r\n"), "127.0.0.1");
    let place = Place::new();
    let listener =
        format!("{LISTENER}    proxy_protocol: {{from: [127.0.0.0/8]}}\n    trusted_proxies: [127.0.0.1]\n");
    place.write("c.yaml", Place::with_base(ECHO).replace(LISTENER, &listener));
    let output = place.portcullis(&["check", "--config", "c.yaml"]);
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("must send PROXY headers"), "{said}");
}

#[test]
fn connections_are_counted_for_the_address_that_the_header_gives() {
    let listener = format!("{LISTENER}    proxy_protocol: {{from: [127.0.0.1, 127.0.0.4]}}\n");
    let text = Place::with_base(ECHO)
        .replace(LISTENER, &listener)
        .replace("workers: 2,", "workers: 2, limits: {connections_per_client: 1},");
    let gateway = Place::new().start_whole(&text);
    let open = |peer: &str, client: &str| {
        let mut connection = connect_from(peer, gateway.address());
        connection.write(format!("PROXY TCP4 {client} 198.51.100.9 1 443\r\n"));
        connection
    };
    // Two clients behind one balancer share no count.
    let mut first = open("127.0.0.1", "203.0.113.7");
    first.get("/").expect(200);
    let mut second = open("127.0.0.1", "203.0.113.8");
    second.get("/").expect(200);
    // One client behind two balancers does.
    open("127.0.0.4", "203.0.113.7").response().expect(503);
    let message = "as many connections are open as `server.limits.connections_per_client` allows: 1";
    let line = refusal(&gateway, message);
    assert_eq!((&line["status"], &line["identity"]["sourceIp"]), (&503.into(), &"203.0.113.7".into()));
    let labels = [("reason", "connections_per_client")];
    gateway.await_metric("portcullis_connections_refused_total", &labels, 1.0);
    first.get("/").expect(200);
    drop(first);
    eventually("a place for the client", || {
        (open("127.0.0.4", "203.0.113.7").try_get("/")?.status == 200).then_some(())
    });
    second.get("/").expect(200);
}

#[test]
fn a_unix_socket_can_bear_headers_too() {
    let place = Place::new();
    let socket = place.path("gate.sock");
    let listener =
        format!("  - address: 'unix:{}'\n    proxy_protocol: {{from: ['unix:']}}\n", socket.display());
    let gateway = place.start_whole(&Place::with_base(ECHO).replace(LISTENER, &listener));
    let mut connection = Connection::over_unix(&socket);
    connection.write(V1);
    assert_eq!(connection.get("/").expect(200).json()["client"], "203.0.113.7");
    Connection::over_unix(&socket).get("/").expect(400);
    refusal(&gateway, MISSING);
}

#[test]
fn a_reload_changes_who_must_send_one() {
    let gateway = behind_a_balancer("", ECHO);
    gateway.reload(ECHO);
    gateway.get("/").expect(200);
}

/// An origin that tells what each connection began with, and how many requests it served.
fn recording() -> (Origin, Receiver<(String, usize)>) {
    let (told, tells) = channel();
    let origin = Origin::serve(move |peer: &mut Peer| {
        let Some(line) = peer.read_line() else { return };
        let mut served = 0;
        while let Some(head) = peer.read_head() {
            served += 1;
            told.send((line.trim_end().to_owned(), served)).ok();
            if head.starts_with("GET /cut ") && served == 1 || !peer.answer(200, &line) {
                return;
            }
        }
    });
    (origin, tells)
}

fn to(origin: SocketAddr, more: &str) -> String {
    format!(
        "upstreams: {{origin: {{servers: ['{origin}'], proxy_protocol: {more}}}}}\nroutes: [{{name: all, upstream: origin}}]\n"
    )
}

#[test]
fn a_connection_to_an_upstream_is_one_clients() {
    let (origin, tells) = recording();
    let gateway = behind_a_balancer("", &to(origin.address(), "v1"));
    let next = || tells.recv_timeout(Duration::from_secs(10)).unwrap();
    let open = |header: &str| {
        let mut connection = Connection::open(gateway.address());
        connection.write(header);
        connection
    };
    let line = "PROXY TCP4 203.0.113.7 198.51.100.9 56172 443".to_owned();
    let mut first = open(V1);
    for served in 1..=3 {
        first.get("/").expect(200);
        assert_eq!(next(), (line.clone(), served), "kept for the client it was made for");
    }
    let mut second = open("PROXY TCP4 203.0.113.8 198.51.100.9 1 443\r\n");
    second.get("/").expect(200);
    assert_eq!(
        next(),
        ("PROXY TCP4 203.0.113.8 198.51.100.9 1 443".to_owned(), 1),
        "another client, another one"
    );
    // The port tells two connections of one address apart, as the servers' own logs do.
    let mut third = open("PROXY TCP4 203.0.113.7 198.51.100.9 56173 443\r\n");
    third.get("/").expect(200);
    assert_eq!(next(), ("PROXY TCP4 203.0.113.7 198.51.100.9 56173 443".to_owned(), 1));
    first.get("/").expect(200);
    assert_eq!(next(), (line, 4));
    // Nobody's balancer: the connection's own ends.
    let mut own = connect_from("127.0.0.2", gateway.address());
    own.get("/").expect(200);
    let (said, _) = next();
    let end = format!(" {}", gateway.address().port());
    assert!(said.starts_with("PROXY TCP4 127.0.0.2 127.0.0.1 ") && said.ends_with(&end), "{said}");
}

#[test]
fn a_retry_sends_the_header_again() {
    let (origin, tells) = recording();
    let rest = to(origin.address(), "v1, retries: {attempts: 2, on: [reset]}");
    let gateway = behind_a_balancer("", &rest);
    let mut connection = Connection::open(gateway.address());
    connection.write(V1);
    connection.get("/cut").expect(502);
    for _ in 0..2 {
        let (line, served) = tells.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!((&*line, served), ("PROXY TCP4 203.0.113.7 198.51.100.9 56172 443", 1));
    }
}

#[test]
fn health_checks_speak_for_nobody() {
    for (version, first) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", v2(0x20, 0, b""))] {
        let (told, tells) = channel();
        let length = first.len();
        let origin = Origin::serve(move |peer: &mut Peer| {
            let Some(header) = peer.read_bytes(length) else { return };
            if peer.read_head().is_some_and(|head| head.starts_with("GET /healthz ")) {
                told.send(header).ok();
                peer.answer(200, "");
            }
        });
        let more = format!("{version}, health: {{path: /healthz, interval: 50ms}}");
        let _gateway = behind_a_balancer("", &to(origin.address(), &more));
        assert_eq!(tells.recv_timeout(Duration::from_secs(10)).unwrap(), first, "{version}");
    }
}

#[test]
fn nginx_reads_what_is_sent() {
    let Some(nginx) = Nginx::start(1) else { return };
    for version in ["v1", "v2"] {
        let more = format!("{version}, health: {{path: /own, interval: 50ms}}");
        let gateway = behind_a_balancer("    trusted_proxies: [203.0.113.9]\n", &to(nginx.proxied(), &more));
        let ask = |header: &str, fields: &str| {
            let mut connection = Connection::open(gateway.address());
            connection.write(format!("{header}GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
            connection.response().expect(200).text()
        };
        assert_eq!(ask(V1, ""), "203.0.113.7 56172 198.51.100.9 443", "{version}");
        let v6 = "PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n";
        assert_eq!(ask(v6, ""), "2001:db8::7 1 2001:db8::1 2", "{version}");
        let mixed = "PROXY TCP4 203.0.113.9 198.51.100.9 1 443\r\n";
        let believed = ask(mixed, "X-Forwarded-For: 2001:db8::99\r\n");
        assert_eq!(
            believed, "2001:db8::99  ::ffff:198.51.100.9 443",
            "{version}: a believed client has no port"
        );
        let port = gateway.address().port();
        assert!(ask("PROXY UNKNOWN\r\n", "").starts_with("127.0.0.1 "), "{version}");
        assert!(ask("PROXY UNKNOWN\r\n", "").ends_with(&format!(" 127.0.0.1 {port}")), "{version}");
        gateway.await_metric("portcullis_upstream_healthy", &[("upstream", "origin")], 1.0);
    }
}

#[test]
fn the_header_comes_before_tls_towards_upstreams_too() {
    let (authority, place) = (Authority::new(), Place::new());
    authority.write(&place, "ca.pem");
    let pair = authority.issue(&["127.0.0.1"]);
    let (told, tells) = channel();
    let origin = Origin::serve_tls_after(&pair, V1.len(), told, |peer: &mut Peer| {
        while peer.read_head().is_some() && peer.answer(200, "over TLS") {}
    });
    let rest = to(origin.address(), "v1, tls: {ca: ca.pem}");
    let listener = format!("{LISTENER}    proxy_protocol: {{from: [127.0.0.1]}}\n");
    let gateway = place.start_whole(&Place::with_base(&rest).replace(LISTENER, &listener));
    let mut connection = Connection::open(gateway.address());
    connection.write(V1);
    assert_eq!(connection.get("/").expect(200).text(), "over TLS");
    assert_eq!(tells.recv_timeout(Duration::from_secs(10)).unwrap(), V1.as_bytes());
}

/// A HAProxy that passes connections on to a gateway; stopped by its id when dropped.
struct Haproxy(Child);

impl Haproxy {
    fn start(place: &Place, gateway: SocketAddr, send: &str) -> Option<(Self, SocketAddr)> {
        let Some(program) = find_tool("haproxy") else {
            println!("skipped: haproxy is not installed");
            return None;
        };
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             frontend f\n  bind {address}\n  default_backend b\n\
             backend b\n  server gateway {gateway} {send} check inter 100ms\n"
        );
        let config = place.write("haproxy.cfg", config);
        let mut command = Command::new(program);
        command
            .arg("-db")
            .arg("-f")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let own = Self(command.spawn().unwrap());
        eventually("haproxy to answer", || Connection::try_open(address)?.try_get("/"));
        Some((own, address))
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn haproxy_in_front() {
    for send in ["send-proxy", "send-proxy-v2"] {
        let gateway = behind_a_balancer("", ECHO);
        let place = Place::new();
        let Some((_haproxy, address)) = Haproxy::start(&place, gateway.address(), send) else { return };
        let mut client = connect_from("127.0.0.3", address);
        for _ in 0..2 {
            assert_eq!(client.get("/").expect(200).json()["client"], "127.0.0.3", "{send}");
        }
        // Its checks have come by now, and none of them is a failure.
        assert_eq!(gateway.metrics().of("portcullis_connections_refused_total", &[]), 0.0, "{send}");
    }
}
