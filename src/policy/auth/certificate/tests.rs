use std::sync::Arc;

use super::*;
use crate::config::Site;
use crate::policy::auth::testing::{connection, now};
use crate::request::TlsFacts;

fn certificate() -> ClientCertificate {
    ClientCertificate {
        subject_dn: "CN=press,O=Example".into(),
        issuer_dn: "CN=clients".into(),
        serial_number: "0A".into(),
        common_name: Some("press".into()),
        dns_names: ["press.example.com".into(), "second.example.com".into()].into(),
        uris: ["spiffe://example.com/press".into()].into(),
        sha256: [7; 32],
        not_after: 1_900_000_000,
        ..ClientCertificate::default()
    }
}

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned { value, site: Site::new("portcullis.yaml", 3, 1), path: "policies.auth.devices".into() }
}

fn list(names: &[&str]) -> Vec<Spanned<String>> {
    names.iter().map(|name| spanned((*name).to_owned())).collect()
}

fn compile(config: Config) -> Result<Certificate, String> {
    let (live, egress, mut build) = (crate::state::Live::default(), Arc::default(), Build::default());
    let mut context = Context { live: &live, egress: &egress, build: &mut build };
    Certificate::compile(&"auth.devices".into(), &spanned(config), &mut context)
        .ok_or_else(|| build.errors.errors()[0].cause.clone())
}

/// The identity, or the reason why there is none; `absent` where no certificate is.
fn judge(config: Config, certificate: Option<ClientCertificate>) -> Result<Arc<Identity>, &'static str> {
    let policy = compile(config).unwrap();
    let facts = TlsFacts {
        version: "TLSv1.3",
        cipher: "",
        group: None,
        sni: None,
        resumed: false,
        client_rule: Some([1; 32]),
        client_certificate: certificate.map(Arc::new),
    };
    let connection = crate::request::Connection { tls: Some(Arc::new(facts)), ..connection() };
    super::super::testing::asked("GET", "/", &[("x-client-cert", "CN=root")], |asked| {
        let request = crate::request::Request { connection: &connection, ..*asked.request };
        match policy.judge(&Asked { request: &request, now: now(), ..*asked }) {
            Judgement::Known(identity, _) => Ok(identity),
            Judgement::Absent => Err("absent"),
            Judgement::Refused(denial) => {
                assert_eq!(denial.kind, Kind::Unauthorized);
                Err(denial.reason)
            }
        }
    })
}

#[test]
fn the_identity_is_the_name_that_is_asked_for() {
    for (source, expected) in [
        (Source::Subject, Ok("CN=press,O=Example")),
        (Source::CommonName, Ok("press")),
        (Source::SanDns, Ok("press.example.com")),
        (Source::SanUri, Ok("spiffe://example.com/press")),
        (Source::SanEmail, Err("certificate_identity")),
    ] {
        let found = judge(Config { identity: source, ..Config::default() }, Some(certificate()));
        assert_eq!(found.as_ref().map(|identity| &*identity.id).map_err(|why| *why), expected, "{source:?}");
    }
    let known = judge(Config::default(), Some(certificate())).unwrap();
    assert_eq!(known.issuer.as_deref(), Some("CN=clients"));
    assert_eq!(known.method, Method::ClientCertificate);
    assert_eq!(known.claim("san_dns").unwrap()[1], "second.example.com");
    assert_eq!(known.certificate.as_deref(), Some(&certificate()));
    assert_eq!(judge(Config::default(), None), Err("absent"));
    let nameless = ClientCertificate { subject_dn: "".into(), ..certificate() };
    assert_eq!(judge(Config::default(), Some(nameless)), Err("certificate_identity"));
}

#[test]
fn lists_all_have_to_know_it() {
    let config = |subjects: &[&str], issuers: &[&str], sans: &[&str]| Config {
        subjects: list(subjects),
        issuers: list(issuers),
        sans: list(sans),
        ..Config::default()
    };
    for (config, known) in [
        (config(&["CN=other", "CN=press,O=Example"], &[], &[]), true),
        (config(&["CN=press"], &[], &[]), false),
        (config(&["cn=press,o=example"], &[], &[]), false),
        (config(&[], &["CN=clients"], &[]), true),
        (config(&[], &["CN=others"], &[]), false),
        (config(&[], &[], &["dns:SECOND.example.com"]), true),
        (config(&[], &[], &["dns:example.com", "uri:spiffe://example.com/press"]), true),
        (config(&[], &[], &["uri:spiffe://example.com"]), false),
        // Kinds do not stand in for each other.
        (config(&[], &[], &["uri:press.example.com", "email:a@press.example.com"]), false),
        (config(&["CN=press,O=Example"], &["CN=others"], &[]), false),
    ] {
        let text = format!("{config:?}");
        let found = judge(config, Some(certificate()));
        assert_eq!(found.map(drop), if known { Ok(()) } else { Err("certificate_not_allowed") }, "{text}");
    }
}

#[test]
fn an_identity_is_made_once() {
    let policy = compile(Config::default()).unwrap();
    let certificate = Arc::new(certificate());
    let first = Arc::new(policy.identify(&certificate).unwrap());
    policy.known.insert(certificate.sha256, Arc::clone(&first));
    assert!(Arc::ptr_eq(&first, &policy.known.get(&certificate.sha256).unwrap()));
}

#[test]
fn lists_of_no_names_are_refused() {
    for subjects in ["press", "/CN=press/O=Example", ""] {
        let config = Config { subjects: list(&[subjects]), ..Config::default() };
        assert!(compile(config).unwrap_err().contains("no distinguished name"), "{subjects}");
    }
    for san in ["press.example.com", "dns:", "ip:10.0.0.1"] {
        let config = Config { sans: list(&[san]), ..Config::default() };
        assert!(compile(config).unwrap_err().contains("no alternative name"), "{san}");
    }
}
