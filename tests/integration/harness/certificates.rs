//! Certificates made for a test, and a TLS client that trusts only them.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use openssl::asn1::{Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{HandshakeError, SslConnector, SslConnectorBuilder, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::extension::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509CrlBuilder, X509Extension, X509NameBuilder, X509RevokedBuilder};

use super::Place;

/// An authority of the test's own.
pub(crate) struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate and its key, in memory.
pub(crate) struct Pair {
    pub(crate) certificate: X509,
    pub(crate) key: PKey<Private>,
}

impl Pair {
    /// Writes `NAME.crt` and `NAME.key`; gives the paths.
    pub(crate) fn write(&self, place: &Place, name: &str) -> (PathBuf, PathBuf) {
        let certificate = place.write(&format!("{name}.crt"), self.certificate.to_pem().unwrap());
        let key = place.write(&format!("{name}.key"), self.key.private_key_to_pem_pkcs8().unwrap());
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        (certificate, key)
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("a test's authority")
    }

    pub(crate) fn named(common: &str) -> Self {
        let key = new_key();
        let mut builder = begin(common, &key);
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        let usage = KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap();
        builder.append_extension(usage).unwrap();
        let name = name_of(common);
        builder.set_issuer_name(&name).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { certificate: builder.build(), key }
    }

    /// A certificate for these names (an IP address counts as one).
    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        let key = new_key();
        let mut builder = begin(names[0], &key);
        let mut alternatives = SubjectAlternativeName::new();
        for name in names {
            if name.parse::<std::net::IpAddr>().is_ok() {
                alternatives.ip(name);
            } else {
                alternatives.dns(name);
            }
        }
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let alternatives = alternatives.build(&context).unwrap();
        builder.append_extension(alternatives).unwrap();
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        Pair { certificate: builder.build(), key }
    }

    /// What would be one, had its certificate been issued to be.
    pub(crate) fn of(pair: &Pair) -> Self {
        Self { certificate: pair.certificate.clone(), key: pair.key.clone() }
    }

    /// An authority below this one.
    pub(crate) fn below(&self, common: &str) -> Self {
        let key = new_key();
        let mut builder = begin(common, &key);
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        let usage = KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap();
        builder.append_extension(usage).unwrap();
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        Self { certificate: builder.build(), key }
    }

    /// A client's certificate of this common name; `adjust` adds to it before it is signed.
    pub(crate) fn issue_client(&self, common: &str, adjust: impl FnOnce(&mut X509Builder)) -> Pair {
        let key = new_key();
        let mut builder = begin(common, &key);
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        adjust(&mut builder);
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        Pair { certificate: builder.build(), key }
    }

    /// The list of what this authority has revoked, good until so many seconds from now.
    pub(crate) fn revoke(&self, revoked: &[&Pair], seconds: i64) -> Vec<u8> {
        let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
        let mut builder = X509CrlBuilder::new().unwrap();
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        builder.set_last_update(&Asn1Time::from_unix(now - 86_400).unwrap()).unwrap();
        builder.set_next_update(&Asn1Time::from_unix(now + seconds).unwrap()).unwrap();
        for pair in revoked {
            let mut entry = X509RevokedBuilder::new().unwrap();
            entry.set_serial_number(pair.certificate.serial_number()).unwrap();
            entry.set_revocation_date(&Asn1Time::from_unix(now - 60).unwrap()).unwrap();
            builder.add_revoked(entry.build()).unwrap();
        }
        let around = X509::builder().unwrap();
        let context = around.x509v3_context(Some(&self.certificate), None);
        let identifier = AuthorityKeyIdentifier::new().issuer(true).build(&context).unwrap();
        builder.append_extension(identifier).unwrap();
        // CRLNumber, 1 (RFC 5280 §5.2.3).
        let number = Asn1OctetString::new_from_bytes(&[2, 1, 1]).unwrap();
        let kind = Asn1Object::from_str("2.5.29.20").unwrap();
        builder.append_extension(X509Extension::new_from_der(&kind, false, &number).unwrap()).unwrap();
        builder.sort().unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        builder.build().unwrap().to_pem().unwrap()
    }

    pub(crate) fn write(&self, place: &Place, name: &str) -> PathBuf {
        place.write(name, self.certificate.to_pem().unwrap())
    }

    pub(crate) fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    pub(crate) fn certificate(&self) -> &X509 {
        &self.certificate
    }

    /// A client that trusts this authority only; `adjust` changes what it offers.
    pub(crate) fn connector(&self, adjust: impl FnOnce(&mut SslConnectorBuilder)) -> SslConnector {
        let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
        builder.set_verify(SslVerifyMode::PEER);
        builder.cert_store_mut().add_cert(self.certificate.clone()).unwrap();
        adjust(&mut builder);
        builder.build()
    }

    /// A handshake as a client that asks for `name`.
    pub(crate) fn connect(&self, address: SocketAddr, name: &str) -> SslStream<TcpStream> {
        try_handshake(&self.connector(|_| {}), address, name)
            .unwrap_or_else(|e| panic!("no handshake with {address} for {name}: {e}"))
    }
}

/// A handshake, or why there was none.
pub(crate) fn try_handshake(
    connector: &SslConnector,
    address: SocketAddr,
    name: &str,
) -> Result<SslStream<TcpStream>, String> {
    let stream = TcpStream::connect(address).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|e| e.to_string())?;
    connector.connect(name, stream).map_err(|e| match e {
        HandshakeError::SetupFailure(e) => e.to_string(),
        HandshakeError::Failure(e) | HandshakeError::WouldBlock(e) => {
            format!("{} ({:?})", e.error(), e.ssl().verify_result())
        }
    })
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn name_of(common: &str) -> openssl::x509::X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, common).unwrap();
    name.build()
}

fn begin(common: &str, key: &PKey<Private>) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(127, MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&name_of(common)).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(30).unwrap()).unwrap();
    builder
}
