//! Certificates of listeners: read, checked, named, or generated.

mod generate;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use zeroize::Zeroizing;

pub use generate::generated;

use super::document::{CertificateFiles, Certificates};
use crate::config::{Build, Spanned, unreadable};

/// A certificate chain and its key, which fit each other.
pub struct Certificate {
    /// Lower-case names it bears, wildcards included.
    pub names: Vec<Box<str>>,
    /// The certificate itself.
    pub leaf: X509,
    /// What leads from it to a root, in order.
    pub chain: Vec<X509>,
    /// Its key.
    pub key: PKey<Private>,
    /// When it expires, in seconds since 1970.
    pub not_after: i64,
}

impl Certificate {
    /// The first name: what metrics call it.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", |name| name)
    }

    /// Whether `other` is the same certificate, so that nothing needs to change for it.
    pub fn is_same(&self, other: &Self) -> bool {
        let bytes = |certificate: &X509| certificate.to_der().unwrap_or_default();
        bytes(&self.leaf) == bytes(&other.leaf)
            && self.chain.iter().map(bytes).eq(other.chain.iter().map(bytes))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

/// What is wrong with a certificate or key, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCertificate {
    /// What is wrong.
    pub cause: String,
    /// What to do.
    pub cure: &'static str,
}

impl BadCertificate {
    pub(super) fn new(cause: impl Into<String>, cure: &'static str) -> Self {
        Self { cause: cause.into(), cure }
    }
}

/// The certificates of a listener: `Some(None)` where one is to be generated. None when `build.errors` says why.
pub fn compile(
    certificates: &Spanned<Certificates>,
    build: &mut Build,
) -> Option<Option<Vec<Spanned<Certificate>>>> {
    let files = match &certificates.value {
        Certificates::Generate => return Some(None),
        Certificates::Files(files) => files,
    };
    if files.is_empty() {
        build.errors.push(
            &certificates.site,
            &*certificates.path,
            "the list of certificates is empty",
            "name at least one `{cert: file, key: file}`, or write `generate`",
        );
        return None;
    }
    // All of them, so that all errors are seen at once.
    let loaded = files.iter().map(|files| load(files, build)).collect::<Vec<_>>();
    loaded.into_iter().collect::<Option<Vec<_>>>().map(Some)
}

/// Reads a chain and its key, and checks that they can serve. None when `build.errors` says why.
pub fn load(files: &Spanned<CertificateFiles>, build: &mut Build) -> Option<Spanned<Certificate>> {
    let chain = read(&files.cert, build).and_then(|pem| note(parse_chain(&pem), &files.cert, build));
    let key = read(&files.key, build).and_then(|pem| note(parse_key(&pem), &files.key, build));
    let certificate = note(join(chain?, key?), &files.cert, build)?;
    warn_if_open(&files.key, build);
    warn_of_dates(&certificate.leaf, &files.cert, build);
    warn_of_order(&certificate, &files.cert, build);
    Some(Spanned { value: certificate, site: files.site.clone(), path: files.path.clone() })
}

/// Overwritten when it is dropped: it may be a key. (OpenSSL does the same with what it parses.)
pub(super) fn read(file: &Spanned<String>, build: &mut Build) -> Option<Zeroizing<Vec<u8>>> {
    let path = build.files.resolve(&file.site, file);
    match build.files.read(&path) {
        Ok(bytes) => Some(Zeroizing::new(bytes)),
        Err(error) => {
            build.errors.push(
                &file.site,
                &*file.path,
                format!("cannot read `{}`: {}", path.display(), unreadable(&error)),
                "name a PEM file that the gateway may read",
            );
            None
        }
    }
}

pub(super) fn note<T>(
    result: Result<T, BadCertificate>,
    file: &Spanned<String>,
    build: &mut Build,
) -> Option<T> {
    result
        .map_err(|bad| {
            build.errors.push(&file.site, &*file.path, format!("`{}`: {}", file.value, bad.cause), bad.cure);
        })
        .ok()
}

/// The chain of a PEM file, leaf first.
///
/// # Errors
/// Says what the file is instead.
pub fn parse_chain(pem: &[u8]) -> Result<Vec<X509>, BadCertificate> {
    if pem.iter().all(u8::is_ascii_whitespace) {
        return Err(BadCertificate::new("the file is empty", "write the chain into it, leaf first"));
    }
    let chain = X509::stack_from_pem(pem).map_err(|_| {
        BadCertificate::new("a certificate in the file is damaged", "copy the PEM file again, whole")
    })?;
    if !chain.is_empty() {
        return Ok(chain);
    }
    Err(if contains(pem, b"PRIVATE KEY-----") {
        BadCertificate::new("the file is a key, not a certificate", "exchange `cert` and `key`")
    } else {
        BadCertificate::new(
            "the file has no PEM certificate",
            "convert it: `openssl x509 -inform der -in FILE -out FILE.pem`",
        )
    })
}

/// The key of a PEM file.
///
/// # Errors
/// Says what the file is instead.
pub fn parse_key(pem: &[u8]) -> Result<PKey<Private>, BadCertificate> {
    if pem.iter().all(u8::is_ascii_whitespace) {
        return Err(BadCertificate::new("the file is empty", "write the key into it"));
    }
    if contains(pem, b"ENCRYPTED") {
        return Err(BadCertificate::new(
            "the key is encrypted",
            "decrypt it: `openssl pkey -in FILE -out FILE.plain`, readable by the gateway only",
        ));
    }
    if !contains(pem, b"PRIVATE KEY-----") {
        return Err(if contains(pem, b"BEGIN CERTIFICATE-----") {
            BadCertificate::new("the file is a certificate, not a key", "exchange `cert` and `key`")
        } else {
            BadCertificate::new(
                "the file has no PEM key",
                "convert it: `openssl pkey -inform der -in FILE -out FILE.pem`",
            )
        });
    }
    // With a callback of our own, OpenSSL never asks for a password at the terminal.
    PKey::private_key_from_pem_callback(pem, |_| Ok(0))
        .map_err(|_| BadCertificate::new("the key in the file is damaged", "copy the PEM file again, whole"))
}

/// Puts a chain and a key together.
///
/// # Errors
/// The key is another certificate's, or the certificate bears no name.
pub fn join(mut chain: Vec<X509>, key: PKey<Private>) -> Result<Certificate, BadCertificate> {
    if chain.is_empty() {
        return Err(BadCertificate::new("the file has no PEM certificate", "write the chain into it"));
    }
    let leaf = chain.remove(0);
    let fits = leaf.public_key().is_ok_and(|public| public.public_eq(&key));
    if !fits {
        let elsewhere = chain.iter().any(|c| c.public_key().is_ok_and(|public| public.public_eq(&key)));
        return Err(if elsewhere {
            BadCertificate::new("the chain does not start with the key's certificate", "put the leaf first")
        } else {
            BadCertificate::new(
                "the certificate and the key do not fit each other",
                "name the key it was made with",
            )
        });
    }
    let names = names(&leaf);
    if names.is_empty() {
        return Err(BadCertificate::new(
            "the certificate bears no name",
            "issue it again with a subject alternative name",
        ));
    }
    let not_after = unix(leaf.not_after());
    Ok(Certificate { names, leaf, chain, key, not_after })
}

/// Lower-case names: the subject's alternative ones, or its common name where there are none (RFC 6125 §6.4.4).
fn names(leaf: &X509) -> Vec<Box<str>> {
    let mut names = Vec::new();
    for name in leaf.subject_alt_names().iter().flatten() {
        if let Some(dns) = name.dnsname() {
            names.push(dns.to_ascii_lowercase().into_boxed_str());
        } else if let Some(ip) = name.ipaddress().and_then(address) {
            names.push(ip.to_string().into_boxed_str());
        }
    }
    if leaf.subject_alt_names().is_none() {
        let subject = leaf.subject_name();
        names.extend(
            subject
                .entries_by_nid(Nid::COMMONNAME)
                .filter_map(|entry| entry.data().to_string().ok())
                .map(|name| name.to_ascii_lowercase().into_boxed_str()),
        );
    }
    names
}

fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(std::net::IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from))
        .ok()
}

/// Seconds since 1970.
pub(super) fn unix(time: &Asn1TimeRef) -> i64 {
    Asn1Time::from_unix(0)
        .and_then(|epoch| epoch.diff(time))
        .map_or(0, |diff| i64::from(diff.days) * 86_400 + i64::from(diff.secs))
}

/// An expired certificate is loaded all the same: refusing it would turn a warning in browsers into an outage.
fn warn_of_dates(leaf: &X509, file: &Spanned<String>, build: &mut Build) {
    let Ok(now) = Asn1Time::days_from_now(0) else { return };
    if leaf.not_after() < &*now {
        let cause = format!("`{}` expired on {}", file.value, leaf.not_after());
        build.errors.warn(&file.site, &*file.path, cause, "renew it: clients refuse it");
    } else if leaf.not_before() > &*now {
        let cause = format!("`{}` is not valid before {}", file.value, leaf.not_before());
        build.errors.warn(&file.site, &*file.path, cause, "check the clock, or wait: clients refuse it");
    }
}

/// Each certificate of a chain is signed by the next (RFC 8446 §4.4.2 lets TLS 1.3 clients sort it out; not all do).
fn warn_of_order(certificate: &Certificate, file: &Spanned<String>, build: &mut Build) {
    let mut below = &certificate.leaf;
    for (number, next) in (2..).zip(&certificate.chain) {
        if next.issued(below) != openssl::x509::X509VerifyResult::OK {
            let cause = format!("`{}`: certificate {number} has not signed the one before it", file.value);
            let cure =
                "write the leaf first, then each certificate's issuer; clients may refuse it otherwise";
            return build.errors.warn(&file.site, &*file.path, cause, cure);
        }
        below = next;
    }
}

fn warn_if_open(file: &Spanned<String>, build: &mut Build) {
    let path = build.files.resolve(&file.site, file);
    if mode(&path).is_some_and(|mode| mode & 0o007 != 0) {
        build.errors.warn(
            &file.site,
            &*file.path,
            format!("everybody may read the key `{}`", file.value),
            "`chmod 0600` it, or 0640 with the gateway's group",
        );
    }
}

fn mode(path: &Path) -> Option<u32> {
    std::fs::metadata(path).ok().map(|metadata| metadata.permissions().mode())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}
