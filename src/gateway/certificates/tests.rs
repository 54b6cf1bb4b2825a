//! Every way in which a certificate can be wrong has its own message.

use std::path::Path;

use openssl::pkey::PKey;
use openssl::symm::Cipher;

use super::*;
use crate::config::Site;

fn files(directory: &Path, cert: &str, key: &str) -> Spanned<CertificateFiles> {
    let at = |line, text: &str, path: &str| Spanned {
        value: text.to_owned(),
        site: Site::new(directory.join("p.yaml").to_str().unwrap(), line, 1),
        path: path.into(),
    };
    Spanned {
        value: CertificateFiles { cert: at(3, cert, "c.cert"), key: at(4, key, "c.key") },
        site: Site::new(directory.join("p.yaml").to_str().unwrap(), 2, 1),
        path: "c".into(),
    }
}

fn errors(directory: &Path, cert: &str, key: &str) -> Vec<String> {
    let mut build = Build::default();
    assert!(load(&files(directory, cert, key), &mut build).is_none(), "{cert} {key}");
    build.errors.errors().iter().map(|e| format!("{} {}", e.path, e.cause)).collect()
}

#[test]
fn a_good_pair_is_loaded_with_its_names_and_an_open_key_is_warned_about() {
    let directory = tempfile::tempdir().unwrap();
    let made = generated(directory.path()).unwrap();
    let names: Vec<_> = made.names.iter().map(|n| &**n).collect();
    assert_eq!(names, ["localhost", "127.0.0.1", "::1"]);
    let mut build = Build::default();
    let pair = files(directory.path(), "generated.crt", "generated.key");
    let loaded = load(&pair, &mut build).unwrap();
    assert!(loaded.is_same(&made));
    assert!(build.errors.is_empty() && build.errors.warnings().is_empty());
    assert_eq!(build.files.watched().len(), 2);

    let key = directory.path().join("generated.key");
    assert_eq!(mode(&key).unwrap() & 0o777, 0o600);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(load(&pair, &mut build).is_some());
    assert!(build.errors.warnings()[0].cause.starts_with("everybody may read the key"));
}

#[test]
fn the_generated_pair_is_kept_and_replaced_when_it_is_broken() {
    let directory = tempfile::tempdir().unwrap();
    let first = generated(directory.path()).unwrap();
    assert!(generated(directory.path()).unwrap().is_same(&first));
    std::fs::write(directory.path().join("generated.key"), "gone").unwrap();
    assert!(!generated(directory.path()).unwrap().is_same(&first));
    let week = 7 * 86_400;
    let year = i64::from(365 * 86_400);
    let now = unix(&Asn1Time::days_from_now(0).unwrap());
    assert!(first.not_after > now + year && first.not_after < now + year + 5 * week);
}

#[test]
fn each_fault_has_its_message() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let one = generated(at).unwrap();
    let other = tempfile::tempdir().unwrap();
    let second = generated(other.path()).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(at.join(name), bytes).unwrap();
    write("other.key", &second.key.private_key_to_pem_pkcs8().unwrap());
    write(
        "locked.key",
        &one.key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"secret").unwrap(),
    );
    write("empty", b" \n");
    write("text", b"hello");
    write("der", &one.leaf.to_der().unwrap());
    write("damaged.crt", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    write("damaged.key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    write("wrong-order.crt", &[second.leaf.to_pem().unwrap(), one.leaf.to_pem().unwrap()].concat());
    let rows = [
        ("missing", "generated.key", "c.cert cannot read"),
        ("generated.crt", "missing", "c.key cannot read"),
        ("generated.crt", "other.key", "c.cert `generated.crt`: the certificate and the key do not fit"),
        ("generated.crt", "locked.key", "c.key `locked.key`: the key is encrypted"),
        ("empty", "generated.key", "c.cert `empty`: the file is empty"),
        ("text", "generated.key", "c.cert `text`: the file has no PEM certificate"),
        ("der", "generated.key", "c.cert `der`: the file has no PEM certificate"),
        ("generated.key", "generated.key", "c.cert `generated.key`: the file is a key"),
        ("generated.crt", "generated.crt", "c.key `generated.crt`: the file is a certificate"),
        ("generated.crt", "text", "c.key `text`: the file has no PEM key"),
        ("damaged.crt", "generated.key", "c.cert `damaged.crt`: a certificate in the file is damaged"),
        ("generated.crt", "damaged.key", "c.key `damaged.key`: the key in the file is damaged"),
        ("wrong-order.crt", "generated.key", "c.cert `wrong-order.crt`: the chain does not start with"),
    ];
    for (cert, key, expected) in rows {
        let found = errors(at, cert, key);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{cert} {key}: {found:?}");
    }
    // Both at once.
    assert_eq!(errors(at, "missing", "locked.key").len(), 2);
}

fn issue(name: Option<&str>, from: i64, to: i64) -> (X509, PKey<Private>) {
    let group = openssl::ec::EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap();
    let mut subject = openssl::x509::X509NameBuilder::new().unwrap();
    if let Some(name) = name {
        subject.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    }
    let subject = subject.build();
    let now = unix(&Asn1Time::days_from_now(0).unwrap());
    let mut builder = X509::builder().unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(&subject).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(now + from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(now + to).unwrap()).unwrap();
    builder.sign(&key, openssl::hash::MessageDigest::sha256()).unwrap();
    (builder.build(), key)
}

#[test]
fn the_common_name_serves_where_there_is_no_other_and_none_is_an_error() {
    let (leaf, key) = issue(Some("Old.example"), 0, 1000);
    assert_eq!(&*join(vec![leaf], key).unwrap().names[0], "old.example");
    let (leaf, key) = issue(None, 0, 1000);
    assert_eq!(join(vec![leaf], key).unwrap_err().cause, "the certificate bears no name");
}

#[test]
fn dates_are_warned_about() {
    let directory = tempfile::tempdir().unwrap();
    let rows = [(-2000, -1000, "`c.crt` expired on"), (1000, 2000, "`c.crt` is not valid before")];
    for (from, to, expected) in rows {
        let (leaf, key) = issue(Some("a"), from, to);
        std::fs::write(directory.path().join("c.crt"), leaf.to_pem().unwrap()).unwrap();
        std::fs::write(directory.path().join("c.key"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        let mut build = Build::default();
        assert!(load(&files(directory.path(), "c.crt", "c.key"), &mut build).is_some());
        assert!(build.errors.warnings().iter().any(|w| w.cause.starts_with(expected)), "{expected}");
    }
}

#[test]
fn a_chain_that_does_not_lead_up_is_warned_about() {
    let directory = tempfile::tempdir().unwrap();
    let (leaf, key) = issue(Some("a"), 0, 1000);
    let (stranger, _) = issue(Some("b"), 0, 1000);
    std::fs::write(directory.path().join("c.key"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    // The leaf is its own issuer here: that chain leads up, the stranger's does not.
    for (second, warned) in [(&leaf, false), (&stranger, true)] {
        let chain = [leaf.to_pem().unwrap(), second.to_pem().unwrap()].concat();
        std::fs::write(directory.path().join("c.crt"), chain).unwrap();
        let mut build = Build::default();
        assert!(load(&files(directory.path(), "c.crt", "c.key"), &mut build).is_some());
        let said = "`c.crt`: certificate 2 has not signed the one before it";
        assert_eq!(build.errors.warnings().iter().any(|w| w.cause == said), warned);
    }
}
