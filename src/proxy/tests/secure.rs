use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslAcceptor, SslMethod};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{Front, Origin};

/// An authority and a certificate of it for `api.internal` and 127.0.0.1.
struct Trust {
    authority: tempfile::NamedTempFile,
    acceptor: SslAcceptor,
}

fn certificate(name: &str, key: &PKey<Private>, issuer: Option<(&X509, &PKey<Private>)>) -> X509 {
    let mut subject = X509Name::builder().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = BigNum::from_u32(if issuer.is_some() { 2 } else { 1 }).unwrap().to_asn1_integer().unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(issuer.map_or(&*subject, |(issuer, _)| issuer.subject_name())).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    match issuer {
        None => builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap(),
        Some((issuer, _)) => {
            let names = SubjectAlternativeName::new()
                .dns("api.internal")
                .ip("127.0.0.1")
                .build(&builder.x509v3_context(Some(issuer), None))
                .unwrap();
            builder.append_extension(names).unwrap();
        }
    }
    builder.sign(issuer.map_or(key, |(_, key)| key), MessageDigest::sha256()).unwrap();
    builder.build()
}

fn new_trust() -> Trust {
    let key = || {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    };
    let (root_key, leaf_key) = (key(), key());
    let root = certificate("Test Root", &root_key, None);
    let leaf = certificate("leaf", &leaf_key, Some((&root, &root_key)));
    let mut authority = tempfile::NamedTempFile::new().unwrap();
    authority.write_all(&root.to_pem().unwrap()).unwrap();
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate(&leaf).unwrap();
    acceptor.set_private_key(&leaf_key).unwrap();
    Trust { authority, acceptor: acceptor.build() }
}

impl Trust {
    async fn origin(&self) -> Origin {
        let acceptor = self.acceptor.clone();
        Origin::new(move |tcp, _| {
            let ssl = Ssl::new(acceptor.context()).unwrap();
            async move {
                let mut tls = tokio_openssl::SslStream::new(ssl, tcp).unwrap();
                if Pin::new(&mut tls).accept().await.is_err() {
                    return;
                }
                let mut buffer = vec![0; 4096];
                while tls.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    let sni =
                        tls.ssl().servername(openssl::ssl::NameType::HOST_NAME).unwrap_or("-").to_owned();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{sni}", sni.len());
                    tls.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        })
        .await
    }

    fn ca(&self) -> &str {
        self.authority.path().to_str().unwrap()
    }
}

#[tokio::test]
async fn what_is_verified_is_served_and_kept() {
    let trust = new_trust();
    let origin = trust.origin().await;
    for (tls, sni) in [
        (json!({"ca": trust.ca()}), "-"),
        (json!({"ca": trust.ca(), "server_name": "API.internal"}), "api.internal"),
        (json!({"verify": false, "insecure_skip_verify": true, "server_name": "other.test"}), "other.test"),
    ] {
        let before = origin.count();
        let front = Front::to(origin.address, json!({"tls": tls})).await;
        let mut client = front.client().await;
        for _ in 0..4 {
            let answer = client.get("/").await;
            assert_eq!((answer.status, std::str::from_utf8(&answer.body).unwrap()), (200, sni));
        }
        assert_eq!(origin.count() - before, 1);
    }
}

#[tokio::test]
async fn what_is_not_verified_is_not_asked() {
    let (trust, other) = (new_trust(), new_trust());
    let origin = trust.origin().await;
    for tls in [json!({"ca": other.ca()}), json!({"ca": trust.ca(), "server_name": "other.test"})] {
        let mut front = Front::to(origin.address, json!({"tls": tls, "retries": {"attempts": 1}})).await;
        assert_eq!(front.client().await.get("/").await.status, 502);
        let error = front.record().await.error.unwrap();
        assert_eq!(error.reason, "tls_failed");
        assert!(error.message.contains("not trusted"), "{}", error.message);
    }
}

#[tokio::test]
async fn a_stalled_handshake_is_a_connect_timeout() {
    let silent = Origin::new(|tcp, _| async move {
        let _tcp = tcp;
        std::future::pending::<()>().await;
    })
    .await;
    let trust = new_trust();
    let rest = json!({
        "tls": {"ca": trust.ca()},
        "timeouts": {"connect": "200ms"},
        "retries": {"attempts": 1}
    });
    let mut front = Front::to(silent.address, rest).await;
    let began = Instant::now();
    assert_eq!(front.client().await.get("/").await.status, 504);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(front.record().await.error.unwrap().reason, "connect_timeout");
}

#[tokio::test]
async fn health_is_checked_with_the_same_verification() {
    let (trust, other) = (new_trust(), new_trust());
    let origin = trust.origin().await;
    let health = json!({"path": "/", "interval": "10ms", "timeout": "1s", "unhealthy_after": 1});
    for (ca, healthy) in [(trust.ca(), true), (other.ca(), false)] {
        let before = origin.count();
        let front = Front::to(origin.address, json!({"tls": {"ca": ca}, "health": health})).await;
        let upstream = Arc::clone(&front.upstream);
        while origin.count() < before + 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(upstream.servers().all(|(_, verdict)| verdict == healthy));
    }
}
