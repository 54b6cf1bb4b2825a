//! TLS at the door: versions, names, key exchange, resumption, ALPN.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode, SslVersion};

use crate::harness::{Authority, Connection, Place, Running, find_tool, run};

pub(crate) use crate::harness::try_handshake;

const ROUTES: &str = "routes:\n  - {name: echo, echo: true}\n";

/// A gateway with one TLS listener; `tls` is what stands in its braces.
fn start(place: Place, tls: &str) -> Running {
    let text = Place::with_base(ROUTES)
        .replace("  - address: 127.0.0.1:0\n", &format!("  - address: 127.0.0.1:0\n    tls: {{{tls}}}\n"));
    place.start_whole(&text)
}

fn with_two_names(more: &str) -> (Authority, Running) {
    let (place, authority) = (Place::new(), Authority::new());
    authority.issue(&["first.example", "127.0.0.1"]).write(&place, "first");
    authority.issue(&["second.example", "*.wild.example"]).write(&place, "second");
    let certificates =
        "certificates: [{cert: first.crt, key: first.key}, {cert: second.crt, key: second.key}]";
    let gateway = start(place, &format!("{certificates}{more}"));
    (authority, gateway)
}

fn get(stream: SslStream<TcpStream>, path: &str) -> crate::harness::Response {
    Connection::over_tls(stream).get(path)
}

#[test]
fn tls_1_3_is_the_default_and_1_2_is_refused() {
    let (authority, gateway) = with_two_names("");
    let stream = authority.connect(gateway.address(), "first.example");
    assert_eq!(stream.ssl().version_str(), "TLSv1.3");
    get(stream, "/").expect(200);
    let old = authority.connector(|builder| builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap());
    let refused = try_handshake(&old, gateway.address(), "first.example");
    assert!(refused.is_err(), "TLS 1.2 was accepted");
    let line = &gateway.access(1)[0];
    assert_eq!(line["tls"]["version"], "TLSv1.3");
    assert_eq!(line["tls"]["sni"], "first.example");
    assert_eq!(line["tls"]["resumed"], false);
    assert!(line["tls"]["cipher"].as_str().unwrap().starts_with("TLS_"), "{line}");
}

#[test]
fn tls_1_2_by_choice_speaks_ecdhe_and_aead_only() {
    let (authority, gateway) = with_two_names(", min_version: \"1.2\"");
    let with = |ciphers: &str| {
        let connector = authority.connector(|builder| {
            builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
            builder.set_cipher_list(ciphers).unwrap();
        });
        try_handshake(&connector, gateway.address(), "first.example")
    };
    let stream = with("ECDHE+AESGCM").unwrap();
    assert_eq!(stream.ssl().version_str(), "TLSv1.2");
    get(stream, "/").expect(200);
    for weak in [
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES128-SHA256",
        "AES128-GCM-SHA256",
        "DHE-RSA-AES128-GCM-SHA256",
    ] {
        assert!(with(weak).is_err(), "{weak} was accepted");
    }
    assert_eq!(authority.connect(gateway.address(), "first.example").ssl().version_str(), "TLSv1.3");
}

#[test]
fn the_certificate_is_chosen_by_name_else_the_first() {
    let (authority, gateway) = with_two_names("");
    for (name, expected) in [
        ("first.example", "first.example"),
        ("second.example", "second.example"),
        ("SECOND.example", "second.example"),
        ("a.wild.example", "second.example"),
    ] {
        let stream = authority.connect(gateway.address(), name);
        let certificate = stream.ssl().peer_certificate().unwrap();
        let names = certificate.subject_alt_names().unwrap();
        assert!(names.iter().any(|n| n.dnsname() == Some(expected)), "asked for {name}");
    }
    // An address sends no SNI; an unknown name gets the first as well.
    drop(authority.connect(gateway.address(), "127.0.0.1"));
    let lax = authority.connector(|builder| builder.set_verify(SslVerifyMode::NONE));
    let stream = try_handshake(&lax, gateway.address(), "unknown.example").unwrap();
    let names = stream.ssl().peer_certificate().unwrap().subject_alt_names().unwrap();
    assert_eq!(names[0].dnsname(), Some("first.example"));
}

#[test]
fn alpn_settles_the_protocol() {
    let (authority, gateway) = with_two_names("");
    let offer = |protocols: &'static [u8]| {
        let connector = authority.connector(|builder| builder.set_alpn_protos(protocols).unwrap());
        try_handshake(&connector, gateway.address(), "first.example").map(|stream| {
            let chosen = stream.ssl().selected_alpn_protocol().map(<[u8]>::to_vec);
            chosen.map(|name| String::from_utf8(name).unwrap())
        })
    };
    assert_eq!(offer(b"\x02h2\x08http/1.1").unwrap().as_deref(), Some("h2"));
    assert_eq!(offer(b"\x08http/1.1").unwrap().as_deref(), Some("http/1.1"));
}

#[test]
fn http2_can_be_turned_off() {
    let (place, authority) = (Place::new(), Authority::new());
    authority.issue(&["first.example"]).write(&place, "first");
    let text = Place::with_base(ROUTES).replace(
        "  - address: 127.0.0.1:0\n",
        "  - address: 127.0.0.1:0\n    http2: false\n    tls: {certificates: [{cert: first.crt, key: first.key}]}\n",
    );
    let gateway = place.start_whole(&text);
    let connector = authority.connector(|builder| builder.set_alpn_protos(b"\x02h2\x08http/1.1").unwrap());
    let stream = try_handshake(&connector, gateway.address(), "first.example").unwrap();
    assert_ne!(stream.ssl().selected_alpn_protocol(), Some(&b"h2"[..]));
    get(stream, "/").expect(200);
}

#[test]
fn the_key_exchange_is_hybrid_post_quantum() {
    let (authority, gateway) = with_two_names("");
    // Offered alone, the handshake fails unless the gateway speaks it.
    let connector = authority.connector(|builder| builder.set_groups_list("X25519MLKEM768").unwrap());
    let stream = try_handshake(&connector, gateway.address(), "first.example").expect("X25519MLKEM768");
    get(stream, "/hybrid").expect(200);
    assert_eq!(gateway.access_of("/hybrid")["tls"]["group"], "X25519MLKEM768");
    let classic = authority.connector(|builder| builder.set_groups_list("X25519").unwrap());
    get(try_handshake(&classic, gateway.address(), "first.example").unwrap(), "/classic").expect(200);
    assert!(gateway.access_of("/classic")["tls"]["group"].as_str().unwrap().eq_ignore_ascii_case("x25519"));
}

#[test]
fn a_session_is_resumed() {
    let Some(openssl) = find_tool("openssl") else {
        println!("skipped: openssl's command is not installed");
        return;
    };
    let (_authority, gateway) = with_two_names("");
    let session = gateway.place.path("session.pem");
    let visit = |option: &str, path: &str| {
        let mut command = Command::new(&openssl);
        command.args([
            "s_client",
            "-connect",
            &gateway.address().to_string(),
            "-servername",
            "first.example",
        ]);
        command.args(["-ign_eof", option]).arg(&session);
        let request = format!("GET {path} HTTP/1.1\r\nHost: first.example\r\nConnection: close\r\n\r\n");
        let output = run(&mut command, request.as_bytes());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let first = visit("-sess_out", "/new");
    assert!(first.contains("New, TLSv1.3"), "{first}");
    let second = visit("-sess_in", "/resumed");
    assert!(second.contains("Reused, TLSv1.3"), "{second}");
    assert_eq!(gateway.access_of("/new")["tls"]["resumed"], false);
    assert_eq!(gateway.access_of("/resumed")["tls"]["resumed"], true);
}

#[test]
fn a_generated_certificate_is_kept() {
    let place = Place::new();
    let gateway = start(place, "certificates: generate");
    let fingerprint = |address: SocketAddr| {
        let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        let stream = try_handshake(&builder.build(), address, "localhost").unwrap();
        let certificate = stream.ssl().peer_certificate().unwrap();
        certificate.digest(openssl::hash::MessageDigest::sha256()).unwrap().to_vec()
    };
    let first = fingerprint(gateway.address());
    assert_eq!(first, fingerprint(gateway.address()));
    let gateway = gateway.restart();
    assert_eq!(first, fingerprint(gateway.address()), "another certificate after a restart");
    let keys: Vec<_> = files_below(&gateway.place.path("state"));
    for path in
        keys.iter().filter(|path| std::fs::read_to_string(path).is_ok_and(|t| t.contains("PRIVATE KEY")))
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is open to others: {mode:o}", path.display());
    }
}

fn files_below(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_handshake_that_fails_or_is_late_is_counted_and_told_and_who_says_nothing_is_not() {
    let (place, authority) = (Place::new(), Authority::new());
    authority.issue(&["first.example"]).write(&place, "first");
    let tls = "  - address: 127.0.0.1:0\n    tls: {certificates: [{cert: first.crt, key: first.key}]}\n";
    let text = Place::with_base(ROUTES)
        .replace("workers: 2", "workers: 2, timeouts: {handshake: 500ms}")
        .replace("  - address: 127.0.0.1:0\n", tls);
    let gateway = place.start_whole(&text);
    let address = gateway.address();
    let said = |bytes: &[u8]| {
        let mut connection = Connection::open(address);
        connection.write(bytes);
        connection
    };
    // Who looks whether the port is open, by a close or a reset, is refused nothing.
    for linger in [None, Some(Duration::ZERO)] {
        let stream = TcpStream::connect(address).unwrap();
        socket2::SockRef::from(&stream).set_linger(linger).unwrap();
    }
    let began = Instant::now();
    assert!(said(b"").is_closed() && said(&[22, 3, 1, 2, 0]).is_closed());
    assert!(began.elapsed() < Duration::from_secs(8), "closed after {:?}", began.elapsed());
    said(b"GET / HTTP/1.1\r\nHost: first.example\r\n\r\n").is_closed();
    said(&[0xff; 600]).is_closed();
    drop(said(&[22, 3, 1, 2, 0]));
    let old = authority.connector(|builder| builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap());
    let alpn = authority.connector(|builder| builder.set_alpn_protos(b"\x03foo").unwrap());
    let distrustful = Authority::named("another").connector(|_| {});
    for connector in [old, alpn, distrustful] {
        assert!(try_handshake(&connector, address, "first.example").is_err());
    }
    let lines = gateway.access(8);
    let with = |reason: &str| {
        let of = lines.iter().filter(|line| line["error"]["reason"] == reason);
        of.map(|line| line["error"]["message"].as_str().unwrap()).collect::<Vec<_>>()
    };
    let late = "the TLS handshake was not complete within `server.timeouts.handshake`";
    assert_eq!(with("handshake_timeout"), [late; 2]);
    let failed = with("handshake");
    assert_eq!((failed.len(), lines.len()), (6, 8), "{lines:#?}");
    for reason in ["http request", "unsupported protocol", "no application protocol", "unknown ca"] {
        let said = |said: &&&str| said.starts_with("the TLS handshake failed: ") && said.ends_with(reason);
        assert_eq!(failed.iter().filter(said).count(), 1, "{reason}: {failed:#?}");
    }
    for line in &lines {
        assert!(line["status"].is_null() && line["identity"]["sourceIp"] == "127.0.0.1", "{line}");
    }
    for (reason, count) in [("handshake", 6.0), ("handshake_timeout", 2.0)] {
        gateway.await_metric("portcullis_connections_refused_total", &[("reason", reason)], count);
        let labels = [("policy", "gateway"), ("reason", reason)];
        gateway.await_metric("portcullis_refusals_total", &labels, count);
    }
}

#[test]
fn plain_http_on_a_tls_listener_harms_nobody() {
    let (authority, gateway) = with_two_names("");
    let mut plain = Connection::open(gateway.address());
    plain.write("GET / HTTP/1.1\r\nHost: first.example\r\n\r\n");
    plain.try_response(false).ok();
    get(authority.connect(gateway.address(), "first.example"), "/").expect(200);
}
