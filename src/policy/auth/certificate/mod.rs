//! The client certificate of the connection, which the handshake has verified: whose it is.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use quick_cache::sync::Cache;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Asked, Context, Denial, Judgement};
use crate::config::{Build, Spanned};
use crate::identity::{ClientCertificate, Identity, Method};
use crate::reply::Kind;

pub(super) const REASONS: &[&str] = &["certificate_identity", "certificate_not_allowed"];

/// Certificates whose identity is kept made.
const KEPT: usize = 1024;

/// The client certificate of the connection, which the listener's `tls.client_ca` has verified. Where lists are written, the certificate
/// must be on each of them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What of it is the identity: `subject` (RFC 4514, the default), `common_name`, `san_dns`, `san_uri` or `san_email`; the first one
    /// that it bears. A certificate without one is refused.
    pub identity: Source,
    /// Subjects that are known, whole, in the form of RFC 4514: `CN=press,O=Example`. All, where the list is empty.
    pub subjects: Vec<Spanned<String>>,
    /// Issuers that are known, likewise: the authority that has signed the certificate itself.
    pub issuers: Vec<Spanned<String>>,
    /// Alternative names that are known, of which it must bear one, with their kind: `dns:press.example.com`,
    /// `uri:spiffe://example.com/press`, `email:press@example.com`. All, where the list is empty.
    pub sans: Vec<Spanned<String>>,
}

/// What of a certificate is the identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The subject's distinguished name.
    #[default]
    Subject,
    /// The subject's common name.
    CommonName,
    /// The first host name among the alternative names.
    SanDns,
    /// The first URI.
    SanUri,
    /// The first address for mail.
    SanEmail,
}

/// Compiled.
pub(super) struct Certificate {
    name: Arc<str>,
    source: Source,
    subjects: Box<[Box<str>]>,
    issuers: Box<[Box<str>]>,
    /// Host names in lower case.
    dns_names: Box<[Box<str>]>,
    uris: Box<[Box<str>]>,
    emails: Box<[Box<str>]>,
    /// By the certificate's hash. An identity is as large as its certificate, which an authority has signed.
    known: Cache<[u8; 32], Arc<Identity>>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Certificate {
    pub(super) fn compile(
        name: &Arc<str>,
        config: &Spanned<Config>,
        context: &mut Context<'_>,
    ) -> Option<Self> {
        let build = &mut *context.build;
        let errors_before = build.errors.errors().len();
        let mut own = Self {
            name: Arc::clone(name),
            source: config.identity,
            subjects: names(&config.subjects, build),
            issuers: names(&config.issuers, build),
            dns_names: Box::default(),
            uris: Box::default(),
            emails: Box::default(),
            known: Cache::new(KEPT),
        };
        let (mut dns_names, mut uris, mut emails) = (Vec::new(), Vec::new(), Vec::new());
        for written in &config.sans {
            // What no certificate has would only lock out.
            let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
            match written.split_once(':').filter(|(_, rest)| is_plain(rest)) {
                Some(("dns", host)) if !host.contains(['/', ':', '@']) => {
                    dns_names.push(host.to_ascii_lowercase().into());
                }
                Some(("uri", uri)) => uris.push(uri.into()),
                Some(("email", address)) if address.contains('@') => emails.push(address.into()),
                _ => build.errors.push(
                    &written.site,
                    &*written.path,
                    format!("`{}` is no alternative name with its kind", written.value),
                    "write such as `dns:press.example.com`, `uri:spiffe://example.com/press` or \
                     `email:press@example.com`",
                ),
            }
        }
        (own.dns_names, own.uris, own.emails) = (dns_names.into(), uris.into(), emails.into());
        (build.errors.errors().len() == errors_before).then_some(own)
    }

    /// Whose certificate the connection has.
    pub(super) fn judge(&self, asked: &Asked<'_>) -> Judgement {
        let tls = asked.request.connection.tls.as_ref();
        let Some(certificate) = tls.and_then(|tls| tls.client_certificate.as_ref()) else {
            return Judgement::Absent;
        };
        if let Some(identity) = self.known.get(&certificate.sha256) {
            return Judgement::Known(identity, None);
        }
        match self.identify(certificate) {
            Ok(identity) => {
                let identity = Arc::new(identity);
                self.known.insert(certificate.sha256, Arc::clone(&identity));
                Judgement::Known(identity, None)
            }
            Err(denial) => Judgement::Refused(denial),
        }
    }

    fn identify(&self, certificate: &Arc<ClientCertificate>) -> Result<Identity, Denial> {
        let refuse = |reason, message: &'static str| Denial::new(Kind::Unauthorized, reason, message);
        if !self.allows(certificate) {
            let message = "the client's certificate is not on the policy's lists";
            return Err(refuse("certificate_not_allowed", message));
        }
        let id = match self.source {
            Source::Subject => Some(&certificate.subject_dn),
            Source::CommonName => certificate.common_name.as_ref(),
            Source::SanDns => certificate.dns_names.first(),
            Source::SanUri => certificate.uris.first(),
            Source::SanEmail => certificate.emails.first(),
        };
        let Some(id) = id.filter(|id| !id.is_empty()) else {
            let message = "the client's certificate bears no name of the kind that is the identity";
            return Err(refuse("certificate_identity", message));
        };
        let mut identity = Identity::new(id.clone(), Method::ClientCertificate, Arc::clone(&self.name));
        identity.issuer = Some(certificate.issuer_dn.clone());
        identity.expires = u64::try_from(certificate.not_after).ok();
        identity.claims = claims(certificate).into();
        identity.certificate = Some(Arc::clone(certificate));
        Ok(identity)
    }

    /// Host names are compared without case (RFC 5280 §7.2), the rest byte for byte.
    fn allows(&self, certificate: &ClientCertificate) -> bool {
        let lists = |list: &[Box<str>], name: &str| list.is_empty() || list.iter().any(|own| **own == *name);
        let sans = self.dns_names.is_empty() && self.uris.is_empty() && self.emails.is_empty();
        let bears = |list: &[Box<str>], names: &[Box<str>]| names.iter().any(|name| list.contains(name));
        lists(&self.subjects, &certificate.subject_dn)
            && lists(&self.issuers, &certificate.issuer_dn)
            && (sans
                || certificate
                    .dns_names
                    .iter()
                    .any(|name| self.dns_names.iter().any(|own| own.eq_ignore_ascii_case(name)))
                || bears(&self.uris, &certificate.uris)
                || bears(&self.emails, &certificate.emails))
    }
}

/// What conditions can ask of it.
fn claims(certificate: &ClientCertificate) -> Map<String, Value> {
    let text = |text: &str| Value::from(text);
    let list = |names: &[Box<str>]| names.iter().map(|name| text(name)).collect::<Value>();
    let mut claims = Map::new();
    claims.insert("subject".to_owned(), text(&certificate.subject_dn));
    claims.insert("issuer".to_owned(), text(&certificate.issuer_dn));
    claims.insert("serial".to_owned(), text(&certificate.serial_number));
    if let Some(name) = &certificate.common_name {
        claims.insert("common_name".to_owned(), text(name));
    }
    claims.insert("san_dns".to_owned(), list(&certificate.dns_names));
    claims.insert("san_uri".to_owned(), list(&certificate.uris));
    claims.insert("san_email".to_owned(), list(&certificate.emails));
    claims.insert("not_after".to_owned(), certificate.not_after.into());
    claims
}

/// Distinguished names as they are written.
fn names(written: &[Spanned<String>], build: &mut Build) -> Box<[Box<str>]> {
    for name in written.iter().filter(|name| !name.contains('=') || name.starts_with('/')) {
        build.errors.push(
            &name.site,
            &*name.path,
            format!("`{}` is no distinguished name", name.value),
            "write it as `openssl x509 -in FILE -noout -subject -nameopt RFC2253` shows it: `CN=press,O=Example`",
        );
    }
    written.iter().map(|name| name.as_str().into()).collect()
}
