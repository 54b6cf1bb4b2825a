use std::net::TcpStream;
use std::time::Duration;

use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslMethod, SslSession, SslStream, SslVerifyMode, SslVersion};
use openssl::x509::X509;

use super::rig::{Client, Rig, wait, with_tls};
use crate::config::{Site, Spanned};
use crate::gateway::document::MinVersion;
use crate::gateway::{Certificate, Listener, ListenerTls, certificates};

struct Ask<'a> {
    name: &'a str,
    max: Option<SslVersion>,
    alpn: &'a [u8],
    groups: &'a str,
    session: Option<SslSession>,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Self { name: "localhost", max: None, alpn: b"", groups: "X25519MLKEM768:X25519:P-256", session: None }
    }
}

fn connect(rig: &Rig, listener: &str, ask: Ask<'_>) -> Result<SslStream<TcpStream>, String> {
    let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    builder.set_groups_list(ask.groups).unwrap();
    builder.set_max_proto_version(ask.max).unwrap();
    if !ask.alpn.is_empty() {
        builder.set_alpn_protos(ask.alpn).unwrap();
    }
    let mut ssl = builder.build().configure().unwrap().verify_hostname(false).into_ssl(ask.name).unwrap();
    if let Some(session) = &ask.session {
        #[expect(unsafe_code, reason = "the session comes from a context made the same way")]
        unsafe {
            ssl.set_session(session).unwrap();
        }
    }
    let stream = TcpStream::connect(rig.address(listener)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut stream = SslStream::new(ssl, stream).unwrap();
    stream.connect().map_err(|error| error.to_string())?;
    Ok(stream)
}

fn issue(names: &[&str]) -> Spanned<Certificate> {
    use openssl::asn1::Asn1Time;
    let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(9).unwrap()).unwrap();
    let mut extension = openssl::x509::extension::SubjectAlternativeName::new();
    for name in names {
        extension.dns(name);
    }
    let extension = extension.build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(extension).unwrap();
    builder.sign(&key, openssl::hash::MessageDigest::sha256()).unwrap();
    Spanned {
        value: certificates::join(vec![builder.build()], key).unwrap(),
        site: Site::new("test.yaml", 1, 1),
        path: "c".into(),
    }
}

fn named(listener: &str, certificates: &[&[&str]]) -> Listener {
    let certificates = Some(certificates.iter().map(|names| issue(names)).collect());
    let tls = Some(ListenerTls { certificates, min_version: MinVersion::Tls13, clients: None });
    Listener { tls, ..with_tls(listener, MinVersion::Tls13) }
}

fn name_of(stream: &SslStream<TcpStream>) -> String {
    let certificate = stream.ssl().peer_certificate().unwrap();
    certificate.subject_alt_names().unwrap().get(0).unwrap().dnsname().unwrap().to_owned()
}

#[test]
fn tls13_with_a_hybrid_key_exchange_and_the_facts_of_it() {
    let rig = Rig::start(vec![with_tls("t", MinVersion::Tls13)]);
    for (groups, group) in [
        ("X25519MLKEM768:X25519", "X25519MLKEM768"),
        ("X25519", "X25519"),
        ("P-256", "P-256"),
        ("P-384", "P-384"),
    ] {
        let ask = Ask { groups, alpn: b"\x08http/1.1", name: "LocalHost", ..Ask::default() };
        let stream = connect(&rig, "t", ask).unwrap();
        assert_eq!(stream.ssl().version_str(), "TLSv1.3");
        let facts = Client::over(stream).get("/facts").body;
        for part in
            ["TLSv1.3", "TLS_AES_", &format!("Some(\"{group}\")"), "Some(\"localhost\")", "resumed: false"]
        {
            assert!(facts.contains(part), "{part} in {facts}");
        }
    }
    let old = Ask { max: Some(SslVersion::TLS1_2), ..Ask::default() };
    assert!(connect(&rig, "t", old).is_err());
}

#[test]
fn tls12_by_choice_with_ecdhe_and_aead_only() {
    let rig = Rig::start(vec![with_tls("t", MinVersion::Tls12)]);
    let old = Ask { max: Some(SslVersion::TLS1_2), ..Ask::default() };
    let stream = connect(&rig, "t", old).unwrap();
    let facts = Client::over(stream).get("/facts").body;
    assert!(facts.contains("TLSv1.2") && facts.contains("TLS_ECDHE_ECDSA_WITH_AES_"), "{facts}");
    let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    builder.set_cipher_list("ECDHE-ECDSA-AES128-SHA256:DHE-RSA-AES128-GCM-SHA256:AES128-GCM-SHA256").unwrap();
    let stream = TcpStream::connect(rig.address("t")).unwrap();
    assert!(builder.build().connect("localhost", stream).is_err());
}

#[test]
fn certificates_are_chosen_by_name() {
    let rig = Rig::start(vec![named(
        "t",
        &[&["first.example"], &["*.wild.example", "Exact.example"], &["a.wild.example"]],
    )]);
    let rows = [
        ("first.example", "first.example"),
        ("FIRST.example", "first.example"),
        ("exact.example", "*.wild.example"),
        ("b.wild.example", "*.wild.example"),
        ("a.wild.example", "a.wild.example"),
        ("c.b.wild.example", "first.example"),
        ("wild.example", "first.example"),
        ("other", "first.example"),
    ];
    for (asked, expected) in rows {
        let stream = connect(&rig, "t", Ask { name: asked, ..Ask::default() }).unwrap();
        assert_eq!(name_of(&stream), expected, "{asked}");
    }
    assert_eq!(rig.handle.counts().expiries().len(), 3);
}

#[test]
fn sessions_resume_and_certificates_change_live_without_losing_them() {
    let rig = Rig::start(vec![named("t", &[&["one.example"]])]);
    let ask = || Ask { name: "one.example", ..Ask::default() };
    let mut client = Client::over(connect(&rig, "t", ask()).unwrap());
    assert!(client.get("/facts").body.contains("resumed: false"));
    let session = client.stream.ssl().session().unwrap().to_owned();
    assert_eq!(rig.reload(Ok(vec![named("t", &[&["two.example"]])])), Ok(2));
    assert_eq!(name_of(&connect(&rig, "t", ask()).unwrap()), "two.example");
    let again = connect(&rig, "t", Ask { session: Some(session), ..ask() }).unwrap();
    assert!(again.ssl().session_reused());
    assert!(Client::over(again).get("/facts").body.contains("resumed: true"));
    // The connection from before the reload lives on.
    assert_eq!(client.get("/hello").body, "hello");
}

#[test]
fn http2_is_offered_where_the_listener_says_so() {
    let without = Listener { http2: false, ..with_tls("b", MinVersion::Tls13) };
    let rig = Rig::start(vec![with_tls("a", MinVersion::Tls13), without]);
    let chosen = |listener: &str, alpn: &[u8]| {
        connect(&rig, listener, Ask { alpn, ..Ask::default() })
            .map(|stream| stream.ssl().selected_alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(chosen("a", b"\x02h2\x08http/1.1").unwrap().as_deref(), Some(&b"h2"[..]));
    assert_eq!(chosen("a", b"\x08http/1.1\x02h2").unwrap().as_deref(), Some(&b"h2"[..]));
    assert_eq!(chosen("b", b"\x02h2\x08http/1.1").unwrap().as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(chosen("a", b"").unwrap(), None);
    assert!(chosen("a", b"\x03foo").is_err());
}

#[test]
fn a_handshake_has_a_deadline_and_noise_is_counted() {
    use crate::server::Unserved;
    let rig = Rig::with(vec![with_tls("t", MinVersion::Tls13)], |s| s.handshake = Duration::from_millis(300))
        .unwrap();
    let mut silent = Client::connect(rig.address("t"));
    assert!(silent.rest().is_empty());
    let mut noisy = Client::connect(rig.address("t"));
    noisy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut bytes = Vec::new();
    let _ = std::io::Read::read_to_end(&mut noisy.stream, &mut bytes);
    assert!(!bytes.starts_with(b"HTTP"));
    let counts = rig.handle.counts();
    wait("both are counted", || {
        counts.unserved(Unserved::HandshakeTimeout) == 1 && counts.unserved(Unserved::Handshake) == 1
    });
}

#[test]
fn early_answers_arrive_over_tls_too() {
    use std::io::Write;
    let rig = Rig::start(vec![with_tls("t", MinVersion::Tls13)]);
    let mut client = Client::over(connect(&rig, "t", Ask::default()).unwrap());
    assert_eq!(client.get("/big").body.len(), 3 << 20);
    client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 3145728\r\n\r\n");
    for _ in 0..8 {
        if client.stream.write_all(&[b'x'; 65536]).is_err() {
            break;
        }
    }
    assert_eq!(client.answer().unwrap().status, 413);
}
