//! Whose clients a listener knows: authorities, revocation lists, and the rule that a connection is made under.

mod facts;
mod name;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use openssl::asn1::Asn1Time;
use openssl::sha::Sha256;
use openssl::ssl::SslFiletype;
use openssl::stack::Stack;
use openssl::x509::store::{X509Lookup, X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509Crl, X509PurposeId, X509Ref, X509StoreContext};
use rustix::fs::{MemfdFlags, memfd_create};

pub use facts::facts;

use super::certificates::{BadCertificate, note, parse_chain, read, unix};
use super::document::{ClientDemand, ListenerTls};
use crate::config::{Build, Spanned};

/// Certificates between a client's and its root.
pub const DEPTH: u32 = 4;
/// Authorities of a listener: their names are told in every handshake.
const AUTHORITIES_MAX: usize = 64;
/// 112 bits: RSA of 2048, no SHA-1 (the level that handshakes have).
const LEVEL: i32 = 2;

/// Whose clients a listener knows.
pub struct ClientTrust {
    demand: ClientDemand,
    rule: [u8; 32],
    authorities: Vec<X509>,
    revoked: Option<Vec<u8>>,
    /// When its revocation lists end, in seconds since 1970.
    ends: Vec<i64>,
    store: X509Store,
}

impl fmt::Debug for ClientTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTrust").field("demand", &self.demand).finish_non_exhaustive()
    }
}

impl ClientTrust {
    /// From a listener's `tls`: `Some(None)` where no client is asked. None when `build.errors` says why.
    pub fn compile(tls: &Spanned<ListenerTls>, build: &mut Build) -> Option<Option<Self>> {
        let Some(file) = tls.client_ca.as_option() else {
            let demand = tls.client_certificate.as_ref().map(|demand| (&demand.site, &demand.path));
            let list = tls.client_crl.as_option().map(|list| (&list.site, &list.path));
            let Some((site, path)) = demand.or(list) else { return Some(None) };
            let cause = "nobody is asked for a certificate without `client_ca`";
            build.errors.push(
                site,
                &**path,
                cause,
                "name the authorities' file in `client_ca`, or remove it",
            );
            return None;
        };
        let pem = read(file, build)?;
        let authorities = note(authorities(&pem), file, build)?;
        warn_of_dates(&authorities, file, build);
        let (revoked, ends) = match tls.client_crl.as_option() {
            None => (None, Vec::new()),
            Some(list) => {
                let pem = read(list, build)?;
                let lists = note(lists(&pem, &authorities), list, build)?;
                warn_of_lists(&lists, list, build);
                (Some(pem.to_vec()), lists.iter().filter_map(|list| list.next_update()).map(unix).collect())
            }
        };
        let demand = tls.client_certificate.as_ref().map(|demand| demand.value).unwrap_or_default();
        match Self::new(demand, authorities, revoked, ends) {
            Ok(own) => Some(Some(own)),
            Err(cause) => {
                build.errors.push(&file.site, &*file.path, cause, "see what OpenSSL says of the files");
                None
            }
        }
    }

    fn new(
        demand: ClientDemand,
        authorities: Vec<X509>,
        revoked: Option<Vec<u8>>,
        ends: Vec<i64>,
    ) -> Result<Self, String> {
        let mut rule = Sha256::new();
        let mut add = |part: &[u8]| {
            rule.update(&(part.len() as u64).to_be_bytes());
            rule.update(part);
        };
        add(match demand {
            ClientDemand::Required => b"required",
            ClientDemand::Optional => b"optional",
        });
        for authority in &authorities {
            add(&authority.to_der().map_err(|error| error.to_string())?);
        }
        add(revoked.as_deref().unwrap_or_default());
        let store = store(&authorities, revoked.as_deref())?;
        Ok(Self { demand, rule: rule.finish(), authorities, revoked, ends, store })
    }

    /// What the rule is known by: equal rules, and they alone, have equal ones.
    pub fn rule(&self) -> [u8; 32] {
        self.rule
    }

    /// The same at this time, in seconds since 1970: a list that has ended makes another rule, by which connections are judged
    /// anew. It does so a second after its end: OpenSSL reads a clock that lags by a tick, and in the first milliseconds of the
    /// end's own second it would find that the list still holds, for as long as the connection lasts.
    pub fn rule_at(&self, now: i64) -> [u8; 32] {
        match self.ends.iter().filter(|end| **end < now).count() {
            0 => self.rule,
            ended => openssl::sha::sha256(&[&self.rule[..], &ended.to_be_bytes()].concat()),
        }
    }

    /// Whether a client without a certificate is refused.
    pub fn is_required(&self) -> bool {
        self.demand == ClientDemand::Required
    }

    /// Whose clients are known.
    pub fn authorities(&self) -> &[X509] {
        &self.authorities
    }

    /// What a handshake verifies by: purpose, depth and revocation included.
    ///
    /// # Errors
    /// OpenSSL or the system refuses.
    pub fn store(&self) -> Result<X509Store, String> {
        store(&self.authorities, self.revoked.as_deref())
    }

    /// Judges by this rule a chain (DER, the client's first) that another one has verified.
    ///
    /// # Errors
    /// Why it does not hold.
    pub fn judge(&self, chain: &[Box<[u8]>]) -> Result<(), String> {
        let text = |error: openssl::error::ErrorStack| error.to_string();
        let (leaf, above) = chain.split_first().ok_or("there is no certificate")?;
        let leaf = X509::from_der(leaf).map_err(text)?;
        let mut others = Stack::new().map_err(text)?;
        for certificate in above {
            others.push(X509::from_der(certificate).map_err(text)?).map_err(text)?;
        }
        let mut context = X509StoreContext::new().map_err(text)?;
        let (holds, why) = context
            .init(&self.store, &leaf, &others, |context| {
                context.verify_cert().map(|holds| (holds, context.error()))
            })
            .map_err(text)?;
        if holds { Ok(()) } else { Err(why.error_string().to_owned()) }
    }
}

fn authorities(pem: &[u8]) -> Result<Vec<X509>, BadCertificate> {
    const CURE: &str = "name a PEM file of the authorities' certificates, roots included";
    let authorities = parse_chain(pem).map_err(|bad| BadCertificate::new(bad.cause, CURE))?;
    if authorities.len() > AUTHORITIES_MAX {
        let cause = format!("{} authorities: their names do not fit a handshake", authorities.len());
        return Err(BadCertificate::new(cause, "name at most 64, those that issue to your clients"));
    }
    let is_issuer = |issuer: &X509, of: &X509| {
        issuer.subject_name().try_cmp(of.issuer_name()).is_ok_and(|order| order == Ordering::Equal)
    };
    for authority in &authorities {
        if !authorities.iter().any(|issuer| is_issuer(issuer, authority)) {
            let cause = format!(
                "`{}` is issued by `{}`, which is not in the file: no chain would reach a root",
                name::subject(authority),
                name::issuer(authority)
            );
            return Err(BadCertificate::new(cause, "add the root's certificate to the file"));
        }
    }
    Ok(authorities)
}

/// The lists of a PEM file; each root needs one, and those of authorities that are known must be theirs.
fn lists(pem: &[u8], authorities: &[X509]) -> Result<Vec<X509Crl>, BadCertificate> {
    const BEGIN: &str = "-----BEGIN X509 CRL-----";
    let text = String::from_utf8_lossy(pem);
    let mut lists = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let list = X509Crl::from_pem(format!("{BEGIN}{block}").as_bytes()).map_err(|_| {
            BadCertificate::new("a list in the file is damaged", "copy the PEM file again, whole")
        })?;
        lists.push(list);
    }
    if lists.is_empty() {
        return Err(BadCertificate::new(
            "the file has no PEM revocation list",
            "convert it: `openssl crl -inform der -in FILE -out FILE.pem`",
        ));
    }
    for authority in authorities {
        let mut own = lists.iter().filter(|list| is_of(list, authority)).peekable();
        if own.peek().is_none() {
            let cause = format!(
                "it has no list of `{}`: all of its clients would be refused",
                name::subject(authority)
            );
            return Err(BadCertificate::new(cause, "write the lists of all authorities into one file"));
        }
        let signed =
            |list: &X509Crl| authority.public_key().is_ok_and(|key| list.verify(&key).unwrap_or(false));
        if !own.all(signed) {
            let cause = format!("the list of `{}` is not signed by it", name::subject(authority));
            return Err(BadCertificate::new(cause, "get the list anew from the authority"));
        }
    }
    Ok(lists)
}

fn is_of(list: &X509Crl, authority: &X509Ref) -> bool {
    list.issuer_name().try_cmp(authority.subject_name()).is_ok_and(|order| order == Ordering::Equal)
}

fn warn_of_dates(authorities: &[X509], file: &Spanned<String>, build: &mut Build) {
    let Ok(now) = Asn1Time::days_from_now(0) else { return };
    for authority in authorities.iter().filter(|authority| authority.not_after() < &*now) {
        let cause =
            format!("`{}`: `{}` expired on {}", file.value, name::subject(authority), authority.not_after());
        build.errors.warn(&file.site, &*file.path, cause, "renew it: its clients are refused");
    }
}

/// A list past its next update is loaded all the same: refusing it would end what does not need it too.
fn warn_of_lists(lists: &[X509Crl], file: &Spanned<String>, build: &mut Build) {
    let Ok(now) = Asn1Time::days_from_now(0) else { return };
    for next in lists.iter().filter_map(|list| list.next_update()).filter(|next| *next < &*now) {
        let cause = format!("`{}`: a list should have been renewed on {next}", file.value);
        build.errors.warn(
            &file.site,
            &*file.path,
            cause,
            "renew it: until then its authority's clients are refused",
        );
    }
}

fn store(authorities: &[X509], revoked: Option<&[u8]>) -> Result<X509Store, String> {
    let text = |error: openssl::error::ErrorStack| error.to_string();
    let mut builder = X509StoreBuilder::new().map_err(text)?;
    for authority in authorities {
        builder.add_cert(authority.clone()).map_err(text)?;
    }
    let mut parameters = X509VerifyParam::new().map_err(text)?;
    parameters.set_purpose(X509PurposeId::SSL_CLIENT).map_err(text)?;
    parameters.set_depth(i32::try_from(DEPTH).unwrap_or(0));
    parameters.set_auth_level(LEVEL);
    if let Some(revoked) = revoked {
        parameters.set_flags(X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL).map_err(text)?;
        // OpenSSL's safe interface takes lists from a file alone. A file in memory has the very bytes that were judged.
        let system = |error: std::io::Error| format!("cannot hand the revocation lists over: {error}");
        let mut file =
            File::from(memfd_create("crl", MemfdFlags::CLOEXEC).map_err(|error| system(error.into()))?);
        file.write_all(revoked).map_err(system)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let lookup = builder.add_lookup(X509Lookup::file()).map_err(text)?;
        lookup.load_crl_file(path, SslFiletype::PEM).map_err(text)?;
    }
    builder.set_param(&parameters).map_err(text)?;
    Ok(builder.build())
}
