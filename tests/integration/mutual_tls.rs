//! Client certificates: asked for, verified, revoked, known by policies; and what no session and no other host may carry.

use std::net::{SocketAddr, TcpStream};

use openssl::asn1::Asn1Time;
use openssl::ssl::{SslConnector, SslSession, SslSessionCacheMode, SslStream, SslVersion};
use openssl::x509::X509Builder;
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use serde_json::Value;

use crate::harness::tokens::{self, SigningKey};
use crate::harness::{Authority, Connection, Http2, Origin, Pair, Place, Response, Running, try_handshake};

const HOST: &str = "a.example";
const POLICIES: &str = "policies: {auth: {devices: {client_certificate: {}}}}\n";
const ROUTES: &str = "routes:\n  - {name: open, match: {path: /open}, echo: true}\n  \
                      - {name: known, auth: devices, echo: true}\n";

/// A gateway's files: its own certificate by one authority, clients known by another.
struct Scene {
    server: Authority,
    clients: Authority,
    place: Place,
}

impl Scene {
    fn new() -> Self {
        let (server, clients, place) = (Authority::new(), Authority::named("clients"), Place::new());
        server.issue(&[HOST, "b.example", "127.0.0.1", "127.0.0.2"]).write(&place, "server");
        clients.write(&place, "clients.pem");
        Self { server, clients, place }
    }

    fn pair(&self, common: &str) -> Pair {
        self.clients.issue_client(common, |_| {})
    }

    fn start(self, tls: &str, rest: &str) -> (Authority, Authority, Running) {
        let gateway = self.place.start_whole(&with(tls, rest));
        (self.server, self.clients, gateway)
    }
}

/// The base configuration with TLS of which `tls` is a part.
fn with(tls: &str, rest: &str) -> String {
    let own = format!(
        "    tls: {{certificates: [{{cert: server.crt, key: server.key}}], min_version: '1.2', {tls}}}\n"
    );
    Place::with_base(rest).replace("  - address: 127.0.0.1:0\n", &format!("  - address: 127.0.0.1:0\n{own}"))
}

fn connector(server: &Authority, pair: Option<&Pair>) -> SslConnector {
    server.connector(|builder| {
        if let Some(pair) = pair {
            builder.set_certificate(&pair.certificate).unwrap();
            builder.set_private_key(&pair.key).unwrap();
        }
    })
}

fn connect(server: &Authority, pair: Option<&Pair>, address: SocketAddr) -> SslStream<TcpStream> {
    try_handshake(&connector(server, pair), address, HOST).unwrap()
}

/// GET for the host of the handshake.
fn ask(connection: &mut Connection, host: &str, path: &str) -> std::io::Result<Response> {
    connection.try_write(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))?;
    connection.try_response(false)
}

fn get(server: &Authority, pair: Option<&Pair>, address: SocketAddr, path: &str) -> Option<Response> {
    // A client of TLS 1.3 hears of the refusal when it reads.
    let stream = try_handshake(&connector(server, pair), address, HOST).ok()?;
    ask(&mut Connection::over_tls(stream), HOST, path).ok()
}

fn error(line: &Value) -> &str {
    line["error"]["reason"].as_str().unwrap_or_default()
}

#[test]
fn a_required_certificate_is_asked_for_and_its_facts_are_told() {
    let scene = Scene::new();
    let pair = scene.clients.issue_client("press", |builder| {
        let names = SubjectAlternativeName::new()
            .dns("press.example.com")
            .uri("spiffe://example.com/press")
            .build(&builder.x509v3_context(None, None))
            .unwrap();
        builder.append_extension(names).unwrap();
        builder.append_extension(ExtendedKeyUsage::new().client_auth().build().unwrap()).unwrap();
    });
    let rest = format!(
        "{}policies:\n  auth:\n    devices: {{client_certificate: {{identity: san_uri, sans: ['dns:PRESS.example.com']}}}}\n  \
         headers:\n    tell: {{request: {{set: {{x-device: '{{identity.clientCert.subjectDN}}'}}}}}}\n\
         defaults: {{auth: devices, headers: [tell]}}\nroutes:\n  - {{name: known, echo: true}}\n",
        ""
    );
    let text = with("client_ca: clients.pem, client_certificate: required", "");
    let text = text.replace("defaults: {auth: none}\n", &rest);
    let gateway = scene.place.start_whole(&text);
    let answer = get(&scene.server, Some(&pair), gateway.address(), "/").unwrap();
    answer.expect(200);
    assert_eq!(answer.json()["headers"]["x-device"], "CN=press");
    let line = &gateway.access(1)[0];
    assert_eq!(line["identity"]["user"], "spiffe://example.com/press");
    assert_eq!(line["identity"]["clientCert"]["subjectDN"], "CN=press");
    assert_eq!(line["identity"]["clientCert"]["issuerDN"], "CN=clients");
    assert!(!line["identity"]["clientCert"]["serialNumber"].as_str().unwrap().is_empty());
    // One that is on no list of the policy is not taken for another.
    let other = scene.clients.issue_client("other", |_| {});
    get(&scene.server, Some(&other), gateway.address(), "/other").unwrap().expect(401);
    assert_eq!(error(&gateway.access_of("/other")), "certificate_not_allowed");
}

#[test]
fn without_one_the_handshake_fails_and_leaves_a_record() {
    let scene = Scene::new();
    let (server, _, gateway) = scene.start("client_ca: clients.pem", &format!("{POLICIES}{ROUTES}"));
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let connector = server.connector(|builder| builder.set_max_proto_version(Some(version)).unwrap());
        let heard = try_handshake(&connector, gateway.address(), HOST)
            .map_err(|error| error.to_string())
            .and_then(|stream| {
                ask(&mut Connection::over_tls(stream), HOST, "/open").map_err(|error| error.to_string())
            });
        let error = heard.expect_err("it was served");
        assert!(error.contains("alert") || error.contains("handshake failure"), "no alert: {error}");
    }
    let lines = gateway.access(2);
    for line in &lines {
        assert_eq!(error(line), "client_certificate_missing", "{line}");
        assert!(line.get("status").is_none_or(|status| status == 0 || status.is_null()), "{line}");
    }
    let refused = [("reason", "client_certificate_missing")];
    gateway.await_metric("portcullis_connections_refused_total", &refused, 2.0);
}

#[test]
fn what_does_not_verify_is_refused_required_or_optional() {
    for demand in ["required", "optional"] {
        let scene = Scene::new();
        let stranger = Authority::named("clients").issue_client("press", |_| {});
        let expired = scene.clients.issue_client("late", |builder| {
            builder.set_not_before(&Asn1Time::from_unix(1_000_000_000).unwrap()).unwrap();
            builder.set_not_after(&Asn1Time::from_unix(1_100_000_000).unwrap()).unwrap();
        });
        let early = scene.clients.issue_client("early", |builder| {
            builder.set_not_before(&Asn1Time::days_from_now(5).unwrap()).unwrap();
        });
        let purpose = scene.clients.issue_client("server", |builder| {
            builder.append_extension(ExtendedKeyUsage::new().server_auth().build().unwrap()).unwrap();
        });
        let own = scene.server.issue(&["a.example"]);
        let authority = |builder: &mut X509Builder| {
            builder.append_extension(BasicConstraints::new().critical().build().unwrap()).unwrap();
        };
        let leaf = scene.clients.issue_client("no authority", authority);
        let forged = Authority::of(&leaf).issue_client("below a leaf", |_| {});
        let good = scene.pair("good");
        let tls = format!("client_ca: clients.pem, client_certificate: {demand}");
        let (server, _, gateway) = scene.start(&tls, &format!("{POLICIES}{ROUTES}"));
        get(&server, Some(&good), gateway.address(), "/open").unwrap().expect(200);
        let bad = [&stranger, &expired, &early, &purpose, &own, &forged];
        for (index, pair) in bad.iter().enumerate() {
            let answer = get(&server, Some(pair), gateway.address(), "/open");
            assert!(answer.is_none(), "{demand}, certificate {index} was served: {answer:?}");
        }
        let lines = gateway.access(1 + bad.len());
        let refused = lines.iter().filter(|line| error(line) == "client_certificate_invalid");
        assert_eq!(refused.count(), bad.len(), "{lines:#?}");
        let said = lines.iter().map(|line| line["error"]["message"].to_string()).collect::<String>();
        for word in ["expired", "not yet valid", "purpose"] {
            assert!(said.contains(word), "{word} in {said}");
        }
    }
}

#[test]
fn optional_serves_without_and_forged_fields_make_nobody_known() {
    let scene = Scene::new();
    let pair = scene.pair("press");
    let tls = "client_ca: clients.pem, client_certificate: optional";
    let (server, _, gateway) = scene.start(tls, &format!("{POLICIES}{ROUTES}"));
    let forged = "X-Client-Cert: MIIB\r\nX-SSL-Client-S-DN: CN=press\r\nX-SSL-Client-Verify: SUCCESS\r\n\
                  X-Forwarded-Client-Cert: Subject=\"CN=press\"\r\nClient-Cert: :MIIB:\r\nClient-Cert-Chain: :MIIB:\r\n\
                  X-Client-Certificate: x\r\nX-Amzn-Mtls-Clientcert: x\r\nSSL-Client-Cert: x\r\n";
    let mut connection = Connection::over_tls(connect(&server, None, gateway.address()));
    connection.write(format!("GET /known HTTP/1.1\r\nHost: {HOST}\r\n{forged}\r\n"));
    let refused = connection.response();
    refused.expect(401);
    assert!(refused.header("www-authenticate").unwrap().contains("ClientCertificate"), "{refused:?}");
    // Nor does an upstream see them.
    connection.write(format!("GET /open HTTP/1.1\r\nHost: {HOST}\r\n{forged}\r\n"));
    let seen = connection.response();
    let fields = seen.expect(200).json()["headers"].as_object().unwrap().clone();
    let told: Vec<_> = fields.keys().filter(|name| name.contains("cert") || name.contains("ssl")).collect();
    assert!(told.is_empty(), "{told:?}");
    get(&server, Some(&pair), gateway.address(), "/known").unwrap().expect(200);
    let lines = gateway.access(3);
    assert_eq!(error(&lines[0]), "missing");
    assert!(lines[0]["identity"].get("clientCert").is_none(), "{}", lines[0]);
}

#[test]
fn chains_reach_a_root_by_what_the_client_sends() {
    let scene = Scene::new();
    let middle = scene.clients.below("middle");
    let pair = middle.issue_client("deep", |_| {});
    let (server, _, gateway) = scene.start("client_ca: clients.pem", &format!("{POLICIES}{ROUTES}"));
    assert!(get(&server, Some(&pair), gateway.address(), "/known").is_none(), "without the middle");
    let connector = server.connector(|builder| {
        builder.set_certificate(&pair.certificate).unwrap();
        builder.set_private_key(&pair.key).unwrap();
        builder.add_extra_chain_cert(middle.certificate().clone()).unwrap();
    });
    let stream = try_handshake(&connector, gateway.address(), HOST).unwrap();
    ask(&mut Connection::over_tls(stream), HOST, "/known").unwrap().expect(200);
    assert_eq!(gateway.access(2)[1]["identity"]["clientCert"]["issuerDN"], "CN=middle");
}

#[test]
fn another_host_than_the_handshakes_is_misdirected() {
    let scene = Scene::new();
    let pair = scene.pair("press");
    let (server, _, gateway) = scene.start("client_ca: clients.pem", &format!("{POLICIES}{ROUTES}"));
    let mut connection = Connection::over_tls(connect(&server, Some(&pair), gateway.address()));
    ask(&mut connection, "A.example:8443", "/open").unwrap().expect(200);
    let refused = ask(&mut connection, "b.example", "/open").unwrap();
    refused.expect(421);
    assert!(refused.text().contains("misdirected"), "{refused:?}");
    assert!(refused.closes(), "{refused:?}");
    assert_eq!(error(&gateway.access(2)[1]), "host_is_not_sni");
    // A connection to an address asks for addresses.
    let stream = try_handshake(&connector_lax(&server, &pair), gateway.address(), "127.0.0.1").unwrap();
    let mut connection = Connection::over_tls(stream);
    ask(&mut connection, "127.0.0.1", "/open").unwrap().expect(200);
    ask(&mut connection, HOST, "/open").unwrap().expect(421);
    // A client that coalesces connections of HTTP/2.
    let connector = server.connector(|builder| {
        builder.set_certificate(&pair.certificate).unwrap();
        builder.set_private_key(&pair.key).unwrap();
        builder.set_alpn_protos(b"\x02h2").unwrap();
    });
    let mut http2 = Http2::connect(gateway.address(), &connector, HOST);
    http2.get("/open").expect(200);
    http2.get_of("b.example", "/open").expect(421);
    http2.get("/open").expect(200);
}

fn connector_lax(server: &Authority, pair: &Pair) -> SslConnector {
    connector(server, Some(pair))
}

/// The session that a client of this version would come back with, once it has been served.
fn session(stream: SslStream<TcpStream>) -> Option<SslSession> {
    let mut stream = stream;
    use std::io::{Read as _, Write as _};
    stream.write_all(format!("GET /open HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
    let session = stream.ssl().session().map(ToOwned::to_owned);
    // OpenSSL gives up the session of a connection that ends without a word.
    stream.shutdown().ok();
    session
}

fn resume(
    connector: &SslConnector,
    address: SocketAddr,
    session: &SslSession,
) -> Result<SslStream<TcpStream>, String> {
    let mut ssl = connector.configure().unwrap().into_ssl(HOST).unwrap();
    #[expect(unsafe_code, reason = "the session comes from a context made the same way")]
    unsafe {
        ssl.set_session(session).unwrap();
    }
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let mut stream = SslStream::new(ssl, stream).unwrap();
    stream.connect().map_err(|error| error.to_string())?;
    Ok(stream)
}

#[test]
fn no_session_carries_a_certificate_anywhere() {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let scene = Scene::new();
        let others = Authority::named("others");
        others.write(&scene.place, "others.pem");
        let pair = scene.pair("press");
        let own = "certificates: [{cert: server.crt, key: server.key}], min_version: '1.2'";
        let second = format!(
            "  - address: 127.0.0.2:0\n    tls: {{{own}, client_ca: others.pem, client_certificate: optional}}\n"
        );
        let third = format!("  - address: 127.0.0.3:0\n    tls: {{{own}}}\n");
        let rest = format!("{POLICIES}{ROUTES}");
        let text = with("client_ca: clients.pem", &rest)
            .replace("defaults: {auth: none}\n", &format!("{second}{third}defaults: {{auth: none}}\n"));
        let place = scene.place;
        let gateway = place.start_whole(&text);
        let addresses = [0, 1, 2].map(|index| gateway.listener(index));
        let with_pair = scene.server.connector(|builder| {
            builder.set_certificate(&pair.certificate).unwrap();
            builder.set_private_key(&pair.key).unwrap();
            builder.set_max_proto_version(Some(version)).unwrap();
            builder.set_session_cache_mode(SslSessionCacheMode::CLIENT);
        });
        let plain = scene.server.connector(|builder| {
            builder.set_max_proto_version(Some(version)).unwrap();
            builder.set_session_cache_mode(SslSessionCacheMode::CLIENT);
        });
        // Where nobody is asked for a certificate, sessions resume: the test can tell.
        let free = session(try_handshake(&plain, addresses[2], HOST).unwrap()).unwrap();
        assert!(resume(&plain, addresses[2], &free).unwrap().ssl().session_reused(), "{version:?}");
        // None of that listener is good elsewhere.
        for address in [addresses[0], addresses[1]] {
            if let Ok(stream) = resume(&with_pair, address, &free) {
                assert!(!stream.ssl().session_reused(), "{version:?}");
            }
        }
        // A session of a listener that asks for certificates is good nowhere: not there, not at the other one, not after a reload, and
        // not under another authority.
        let kept = session(try_handshake(&with_pair, addresses[0], HOST).unwrap()).unwrap();
        for address in addresses {
            for connector in [&plain, &with_pair] {
                let Ok(stream) = resume(connector, address, &kept) else { continue };
                assert!(!stream.ssl().session_reused(), "{version:?} at {address}");
                let answer = ask(&mut Connection::over_tls(stream), HOST, "/known");
                if address != addresses[0] || std::ptr::eq(connector, &plain) {
                    assert!(
                        answer.is_err() || answer.is_ok_and(|answer| answer.status == 401),
                        "{version:?}"
                    );
                }
            }
        }
        reload(&gateway, &text.replace("drain: 80s", "drain: 81s"));
        assert!(!resume(&with_pair, addresses[0], &kept).unwrap().ssl().session_reused());
        reload(&gateway, &text.replace("client_ca: clients.pem", "client_ca: others.pem"));
        for connector in [&plain, &with_pair] {
            let answer = resume(connector, addresses[0], &kept)
                .map_err(std::io::Error::other)
                .and_then(|stream| ask(&mut Connection::over_tls(stream), HOST, "/known"));
            assert!(answer.is_err(), "{version:?}: {answer:?}");
        }
    }
}

fn reload(gateway: &Running, text: &str) {
    let before = gateway.generation();
    gateway.place.write("portcullis.yaml", text);
    gateway.signal(rustix::process::Signal::HUP);
    crate::harness::eventually("the next generation", || (gateway.generation() > before).then_some(()));
}

#[test]
fn a_connection_is_judged_anew_when_the_rule_changes() {
    let scene = Scene::new();
    let others = Authority::named("others");
    let (pair, other) = (scene.pair("press"), others.issue_client("other", |_| {}));
    scene.place.write("both.pem", [scene.clients.pem(), others.pem()].concat());
    others.write(&scene.place, "others.pem");
    let rest = format!("{POLICIES}{ROUTES}");
    let text = |file: &str| with(&format!("client_ca: {file}"), &rest);
    let place = scene.place;
    let gateway = place.start_whole(&text("both.pem"));
    let open = |pair: &Pair| Connection::over_tls(connect(&scene.server, Some(pair), gateway.address()));
    let (mut first, mut second) = (open(&pair), open(&other));
    ask(&mut first, HOST, "/known").unwrap().expect(200);
    ask(&mut second, HOST, "/known").unwrap().expect(200);
    reload(&gateway, &text("others.pem"));
    ask(&mut second, HOST, "/known").unwrap().expect(200);
    let refused = ask(&mut first, HOST, "/open").unwrap();
    refused.expect(421);
    assert!(refused.closes());
    // Found by its path: lines of several workers come in no order.
    let line = &gateway.access_of("/open");
    assert_eq!(error(line), "client_certificate_changed");
    assert!(line["identity"].get("clientCert").is_none(), "{line}");
    // A listener that asks nobody any more vouches for nobody.
    reload(&gateway, &with("", ROUTES.split("  - {name: known").next().unwrap()));
    ask(&mut second, HOST, "/open").unwrap().expect(421);
}

#[test]
fn revoked_certificates_are_refused_and_a_renewed_list_counts_at_once() {
    let scene = Scene::new();
    let (good, bad) = (scene.pair("good"), scene.pair("bad"));
    scene.place.write("clients.crl", scene.clients.revoke(&[&bad], 86_400));
    let tls = "client_ca: clients.pem, client_crl: clients.crl";
    let (server, clients, gateway) = scene.start(tls, &format!("{POLICIES}{ROUTES}"));
    get(&server, Some(&good), gateway.address(), "/known").unwrap().expect(200);
    assert!(get(&server, Some(&bad), gateway.address(), "/known").is_none());
    let line = &gateway.access(2)[1];
    assert_eq!(error(line), "client_certificate_invalid");
    assert!(line["error"]["message"].as_str().unwrap().contains("revoked"), "{line}");
    // Revoked now: the connection that is there ends with it, by the file alone.
    let mut open = Connection::over_tls(connect(&server, Some(&good), gateway.address()));
    ask(&mut open, HOST, "/known").unwrap().expect(200);
    let before = gateway.generation();
    gateway.place.write("clients.crl", clients.revoke(&[&bad, &good], 86_400));
    crate::harness::eventually("the list to be read", || (gateway.generation() > before).then_some(()));
    ask(&mut open, HOST, "/known").unwrap().expect(421);
    assert!(get(&server, Some(&good), gateway.address(), "/known").is_none());
    // A list past its next update refuses everybody.
    let before = gateway.generation();
    gateway.place.write("clients.crl", clients.revoke(&[&bad], -60));
    crate::harness::eventually("the list to be read", || (gateway.generation() > before).then_some(()));
    assert!(get(&server, Some(&good), gateway.address(), "/known").is_none());
    let lines = gateway.access(6);
    assert!(lines[5]["error"]["message"].as_str().unwrap().contains("CRL has expired"), "{}", lines[5]);
}

#[test]
fn an_open_connection_ends_with_the_list_that_it_was_judged_by() {
    let scene = Scene::new();
    let pair = scene.pair("good");
    scene.place.write("clients.crl", scene.clients.revoke(&[], 86_400));
    let tls = "client_ca: clients.pem, client_crl: clients.crl";
    let (server, clients, gateway) = scene.start(tls, &format!("{POLICIES}{ROUTES}"));
    let mut open = Connection::over_tls(connect(&server, Some(&pair), gateway.address()));
    ask(&mut open, HOST, "/known").unwrap().expect(200);
    let before = gateway.generation();
    let written = std::time::Instant::now();
    gateway.place.write("clients.crl", clients.revoke(&[], 6));
    crate::harness::eventually("the list to be read", || (gateway.generation() > before).then_some(()));
    let answer = ask(&mut open, HOST, "/known").unwrap();
    if written.elapsed().as_secs() < 4 {
        answer.expect(200);
    }
    // Nobody reloads, and nobody hears of a newer list.
    crate::harness::eventually("the connection to end", || {
        (ask(&mut open, HOST, "/late").map_or(0, |answer| answer.status) != 200).then_some(())
    });
    assert!(written.elapsed().as_secs() >= 5);
    let line = gateway.access_of("/late");
    assert!(line["status"] == 200 || error(&line) == "client_certificate_changed", "{line}");
    let labels = [("reason", "client_certificate_changed")];
    gateway.await_metric("portcullis_refusals_total", &labels, 1.0);
    assert!(get(&server, Some(&pair), gateway.address(), "/known").is_none());
}

#[test]
fn the_upstream_is_told_by_header_rules_alone() {
    let scene = Scene::new();
    let pair = scene.pair("press");
    let origin = Origin::echo();
    let rest = format!(
        "policies:\n  auth: {{devices: {{client_certificate: {{identity: common_name}}}}}}\n  headers:\n    tell: {{request: {{set: \
         {{x-client-cert-subject: '{{identity.clientCert.subjectDN}}'}}}}}}\n\
         upstreams: {{o: {{servers: ['{}']}}}}\nroutes:\n  - {{name: r, auth: devices, headers: [tell], upstream: o}}\n",
        origin.address()
    );
    let (server, _, gateway) = scene.start("client_ca: clients.pem", &rest);
    let mut connection = Connection::over_tls(connect(&server, Some(&pair), gateway.address()));
    connection.write(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Client-Cert-Subject: CN=root\r\n\r\n"));
    let seen = connection.response().expect(200).text();
    assert!(seen.contains("x-client-cert-subject: CN=press\r\n") && !seen.contains("CN=root"), "{seen}");
    assert_eq!(gateway.access(1)[0]["identity"]["user"], "press");
}

#[test]
fn a_bound_token_is_good_over_a_connection_of_its_certificate_alone() {
    let scene = Scene::new();
    let (own, other) = (scene.pair("own"), scene.pair("other"));
    let issuer = SigningKey::new("ES256", "k");
    scene.place.write("jwks.json", tokens::jwks(&[&issuer]));
    let rest = format!(
        "policies: {{auth: {{staff: {{jwt: {{issuer: '{}', audiences: [orders], keys: {{file: ./jwks.json}}}}}}}}}}\n\
         routes:\n  - {{name: bound, auth: staff, respond: {{body: hello}}}}\n",
        tokens::ISSUER
    );
    let hash = tokens::part(openssl::sha::sha256(&own.certificate.to_der().unwrap()));
    let token = issuer.token(&tokens::claims(&serde_json::json!({"cnf": {"x5t#S256": hash}})));
    let (server, _, gateway) = scene.start("client_ca: clients.pem, client_certificate: optional", &rest);
    let status = |pair: Option<&Pair>| {
        let mut connection = Connection::over_tls(connect(&server, pair, gateway.address()));
        let head = format!("GET /bound HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n\r\n");
        connection.try_write(head).unwrap();
        connection.try_response(false).unwrap().status
    };
    // Twice: verified, and remembered.
    for _ in 0..2 {
        assert_eq!((status(Some(&own)), status(Some(&other)), status(None)), (200, 401, 401));
    }
}
