//! What is counted comes back to nothing, however a connection or a request ends.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use crate::harness::wire::{self, END_HEADERS, END_STREAM, HEADERS, SETTINGS, Wire, frame};
use crate::harness::{Authority, Connection, Origin, Place, Running};

const CONNECTIONS: usize = 160;
const REQUESTS: usize = 24;
const ENDS: usize = 500;
/// How many ends come about at once.
const AT_ONCE: usize = 32;

const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// A gateway whose deadlines are short and whose bounds are low, with a plain listener, one of TLS, one behind a balancer.
struct Rig {
    gateway: Running,
    authority: Authority,
    plain: SocketAddr,
    tls: SocketAddr,
    proxied: SocketAddr,
    _origin: Origin,
}

impl Rig {
    fn start() -> Self {
        let origin = Origin::each(|head, peer| match head.split(' ').nth(1).unwrap_or_default() {
            "/o/slow" => {
                std::thread::sleep(Duration::from_millis(300));
                peer.answer(200, "late")
            }
            "/o/endless" => {
                peer.write("HTTP/1.1 200 OK\r\nContent-Length: 90000000\r\n\r\n");
                while peer.write([b'x'; 1 << 16]) {}
                false
            }
            "/o/cut" => {
                peer.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
                false
            }
            "/o/garbage" => {
                peer.write("no response\r\n\r\n");
                false
            }
            "/o/early" => peer.answer(200, "early"),
            "/o/tunnel" => {
                peer.write("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
                while peer.take().is_some() {}
                false
            }
            _ => {
                peer.drain_body(head);
                peer.answer(200, "well")
            }
        });
        let (place, authority) = (Place::new(), Authority::new());
        authority.issue(&["gate.example"]).write(&place, "gate");
        let rest = format!(
            "upstreams: {{o: {{servers: ['{}']}}}}\n\
             policies: {{rate_limits: {{slots: {{key: client, concurrent: 1000}}}}}}\nroutes:\n  \
             - {{name: hello, match: {{path: /hello}}, respond: {{body: hello}}}}\n  \
             - {{name: echo, match: {{path: /echo}}, echo: true}}\n  \
             - {{name: o, match: {{path: '/o/{{*rest}}'}}, upstream: o, upgrade: [websocket], rate_limits: [slots]}}\n",
            origin.address()
        );
        let text = Place::with_base(&rest)
            .replace(
                "workers: 2,",
                &format!(
                    "workers: 2, limits: {{connections: {CONNECTIONS}, connections_per_client: {CONNECTIONS}, \
                     requests_in_flight: {REQUESTS}, http2_resets: 20/10s}}, timeouts: {{handshake: 400ms, head: 400ms, \
                     body_grace: 400ms, keep_alive: 400ms, write_stall: 400ms}},"
                ),
            )
            .replace(
                "  - address: 127.0.0.1:0\n",
                "  - address: 127.0.0.1:0\n  \
                 - address: 127.0.0.2:0\n    tls: {certificates: [{cert: gate.crt, key: gate.key}]}\n  \
                 - address: 127.0.0.3:0\n    proxy_protocol: {from: [127.0.0.0/8]}\n",
            );
        let gateway = place.start_whole(&text);
        let [plain, tls, proxied] = [0, 1, 2].map(|index| gateway.listener(index));
        Self { gateway, authority, plain, tls, proxied, _origin: origin }
    }

    /// One connection that ends badly, of the kind with this number.
    fn end_badly(&self, kind: usize) {
        match kind % KINDS {
            0 => reset(tcp(self.plain)),
            1 => drop(said(self.plain, "GET /hello HT")),
            2 => reset(said(self.plain, "GET /hello HTTP/1.1\r\nHo")),
            3 => wait(said(self.plain, "GET /hello HTTP/1.1\r\nHost: a\r\nX: drips")),
            4 => wait(said(self.plain, "\0\0\0\r\n\r\n")),
            5 => reset(said(self.plain, post("/o/x", 500) + "some")),
            6 => half_close(said(self.plain, post("/o/x", 500) + "some")),
            7 => wait(said(self.plain, post("/echo", 500) + "some")),
            8 => wait(said(self.plain, chunked("/o/x") + "5\r\nhelloXX")),
            9 => reset(said(self.plain, chunked("/echo") + "ffff\r\nhello")),
            10 => reset(said(self.plain, get("/o/slow"))),
            11 => half_close(said(self.plain, get("/o/slow") + &get("/o/slow") + &get("/hello"))),
            12 => deaf(said(self.plain, get("/o/endless"))),
            13 => reset(read_some(said(self.plain, get("/o/endless")))),
            14 => wait(said(self.plain, get("/o/cut"))),
            15 => wait(said(self.plain, get("/o/garbage"))),
            16 => wait(said(self.plain, post("/o/early", 500) + "some")),
            17 => reset(read_some(said(self.plain, upgrade()))),
            18 => half_close(read_some(said(self.plain, upgrade() + "frames"))),
            19 => wait(said(self.plain, post("/o/x", 5).replace("Host", "Expect: 100-continue\r\nHost"))),
            20 => reset(tcp(self.tls)),
            21 => wait(tcp(self.tls)),
            22 => wait(said(self.tls, "GET / HTTP/1.1\r\n\r\n")),
            23 => reset(said(self.tls, "\u{16}\u{3}\u{1}\u{2}")),
            24 => reset(tcp(self.proxied)),
            25 => reset(said(self.proxied, "PROXY TCP4 192.0.2")),
            26 => wait(said(self.proxied, "GET / HTTP/1.1\r\n\r\n")),
            27 => wait(said(self.proxied, "PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\nGET ")),
            28 => reset(said(
                self.proxied,
                "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_owned() + &get("/o/slow"),
            )),
            29 => self.streams(&[open("GET", "/o/slow", END_STREAM)], false),
            30 => self.streams(&[open("POST", "/o/x", 0), frame(wire::DATA, 0, 1, b"some")], false),
            31 => self.streams(&[open("POST", "/o/x", 0), frame(wire::DATA, 0, 1, b"some")], true),
            32 => self
                .streams(&[open("GET", "/o/slow", END_STREAM), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])], true),
            33 => self.streams(&[open("GET", "/o/endless", END_STREAM)], true),
            34 => self.streams(&[open("POST", "/echo", 0), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])], false),
            35 => self.streams(&[frame(GOAWAY, 0, 0, &[0; 8]), open("GET", "/o/slow", END_STREAM)], true),
            36 => self.streams(&[open("GET", "/no\x01path", END_STREAM)], true),
            37 => self.streams(&[open("TRACE", "/hello", END_STREAM)], true),
            38 => self.streams(&[frame(wire::DATA, 0, 9, b"of no stream")], true),
            39 => self.streams(&vec![frame(SETTINGS, 0, 0, &[]); 300], true),
            40 => {
                let many = (0..REQUESTS + 8).map(|n| {
                    let stream = u32::try_from(2 * n + 1).unwrap();
                    frame(HEADERS, END_HEADERS | END_STREAM, stream, &wire::block("GET", "/o/slow"))
                });
                self.streams(&many.collect::<Vec<_>>(), kind >= ENDS / 2);
            }
            _ => {
                let rapid = (0..60).flat_map(|n| {
                    let head =
                        frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &wire::block("GET", "/o/slow"));
                    [head, frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])]
                });
                self.streams(&rapid.collect::<Vec<_>>(), true);
            }
        }
    }

    /// HTTP/2 with these frames; then it waits for the end, or just goes.
    fn streams(&self, frames: &[Vec<u8>], waits: bool) {
        // A gateway that is full closes before the handshake.
        let connector = self.authority.connector(|builder| builder.set_alpn_protos(b"\x02h2").unwrap());
        let Ok(mut stream) = crate::harness::try_handshake(&connector, self.tls, "gate.example") else {
            return;
        };
        let bytes = [wire::greeting(100), frames.concat()].concat();
        if std::io::Write::write_all(&mut stream, &bytes).is_ok() && waits {
            stream.get_ref().set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    }
}

const KINDS: usize = 42;

fn open(method: &str, path: &str, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, 1, &wire::block(method, path))
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: gate.example\r\n\r\n")
}

fn post(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: gate.example\r\nContent-Length: {length}\r\n\r\n")
}

fn chunked(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: gate.example\r\nTransfer-Encoding: chunked\r\n\r\n")
}

fn upgrade() -> String {
    get("/o/tunnel").replace("Host", "Connection: upgrade\r\nUpgrade: websocket\r\nHost")
}

fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream
}

fn said(address: SocketAddr, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = tcp(address);
    // One that is refused at once may be closed already.
    let _ = std::io::Write::write_all(&mut stream, bytes.as_ref());
    stream
}

fn read_some(mut stream: TcpStream) -> TcpStream {
    let _ = std::io::Read::read(&mut stream, &mut [0; 100]);
    stream
}

fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

fn half_close(stream: TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    wait(stream);
}

/// Reads to the end, or for a while.
fn wait(mut stream: TcpStream) {
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

/// Reads nothing until it is let go.
fn deaf(stream: TcpStream) {
    let mut wire = Wire::over(stream);
    wire.drip(b"", Duration::from_millis(50), Duration::from_secs(5));
}

#[test]
fn counts_never_leak() {
    let mut rig = Rig::start();
    std::thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            let rig = &rig;
            scope.spawn(move || (worker..ENDS).step_by(AT_ONCE).for_each(|kind| rig.end_badly(kind)));
        }
    });
    rig.gateway.await_metric("portcullis_connections", &[], 0.0);
    rig.gateway.await_metric("portcullis_requests_in_flight", &[], 0.0);
    rig.gateway.await_metric("portcullis_rate_limit_under_way", &[], 0.0);
    assert!(rig.gateway.lives());
    assert!(!rig.gateway.said().contains("panicked"), "{}", rig.gateway.said());

    // What the bounds are judged by is not what is shown: as much as ever is let in, at once.
    let mut slow: Vec<_> = (0..REQUESTS).map(|_| Connection::open(rig.plain)).collect();
    slow.iter_mut().for_each(|connection| connection.write(get("/o/slow")));
    for connection in &mut slow {
        connection.response().expect(200);
    }
    drop(slow);
    rig.gateway.await_metric("portcullis_connections", &[], 0.0);
    let refused = || {
        let of =
            |reason| rig.gateway.metrics().of("portcullis_connections_refused_total", &[("reason", reason)]);
        of("connections") + of("connections_per_client")
    };
    let before = refused();
    let open: Vec<_> = (0..CONNECTIONS).map(|_| tcp(rig.plain)).collect();
    rig.gateway.await_metric("portcullis_connections", &[], f64::from(u8::try_from(CONNECTIONS).unwrap()));
    assert!((refused() - before).abs() < 0.1, "of {CONNECTIONS} connections some were refused");
    drop(open);
}
