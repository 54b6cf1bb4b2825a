//! TLS: one acceptor a listener, shared by all workers; certificates by name, changed live.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use openssl::error::ErrorStack;
use openssl::pkey::{KeyType, PKey, Private};
use openssl::sha::sha256;
use openssl::ssl::{
    AlpnError, NameType, SslAcceptor, SslAcceptorBuilder, SslMethod, SslMode, SslOptions, SslRef,
    SslSessionCacheMode, SslVerifyMode, SslVersion, select_next_proto,
};
use openssl::x509::{X509, X509VerifyResult};
use pingora_core::listeners::TlsAccept;
use pingora_core::protocols::tls::SslStream;
use pingora_core::protocols::tls::server::handshake_with_callback;

use super::counts::Expiry;
use super::sock::Sock;
use crate::gateway::document::MinVersion;
use crate::gateway::{Certificate, ClientTrust, Listener, ListenerTls, client_trust};
use crate::identity::ClientCertificate;
use crate::request::TlsFacts;

/// Key exchange, best first: hybrid post-quantum where the client has it (draft-ietf-tls-ecdhe-mlkem).
const GROUPS: &str = "X25519MLKEM768:X25519:P-256:P-384";
const SUITES_13: &str = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
/// ECDHE and AEAD only (RFC 9325 §4.2).
const SUITES_12: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
                         ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
                         ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

/// What cannot change without another acceptor, and with it the loss of all tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    min_version: MinVersion,
    http2: bool,
    /// The rule about client certificates: with another one no ticket must be good any more.
    clients: Option<[u8; 32]>,
}

/// What ends TLS on a listener.
pub(super) struct Terminator {
    shape: Shape,
    acceptor: SslAcceptor,
    /// How clients are verified, where they are asked for a certificate.
    verify: Option<SslVerifyMode>,
    certificates: ArcSwap<Resolver>,
}

impl fmt::Debug for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminator").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// What a handshake brought.
pub(super) struct Settled {
    pub(super) stream: Box<SslStream<Sock>>,
    pub(super) facts: TlsFacts,
    pub(super) http2: bool,
}

/// Why a handshake failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The client does not speak TLS, or not ours, or takes nothing of what we offer; or it left. In the words of OpenSSL or the system.
    Handshake(String),
    /// It was not complete at its deadline.
    Late,
    /// It has no certificate, and needs one.
    CertificateMissing,
    /// Its certificate does not verify: why.
    CertificateInvalid(&'static str),
}

impl Terminator {
    /// For this listener; `previous` goes on where only certificates have changed, so that its tickets stay good.
    ///
    /// # Errors
    /// OpenSSL refuses.
    pub(super) fn of(
        listener: &Listener,
        tls: &ListenerTls,
        generated: Option<&Certificate>,
        previous: Option<&Arc<Self>>,
    ) -> Result<Change, String> {
        let clients = tls.clients.as_ref();
        let shape = Shape {
            min_version: tls.min_version,
            http2: listener.http2,
            clients: clients.map(ClientTrust::rule),
        };
        let resolver =
            Arc::new(Resolver::new(tls.certificates.iter().flatten().map(|c| &c.value).chain(generated)));
        if let Some(previous) = previous.filter(|previous| previous.shape == shape) {
            return Ok(Change { terminator: Arc::clone(previous), resolver });
        }
        let text = |error: ErrorStack| error.to_string();
        let mut builder = acceptor(&listener.name, shape).map_err(text)?;
        if let Some(clients) = clients {
            builder.set_verify_cert_store(clients.store()?).map_err(text)?;
            ask(&mut builder, clients).map_err(text)?;
        }
        let (acceptor, certificates) = (builder.build(), ArcSwap::new(Arc::clone(&resolver)));
        let terminator = Arc::new(Self { shape, acceptor, verify: clients.map(mode), certificates });
        Ok(Change { terminator, resolver })
    }

    /// Whether clients are asked for a certificate.
    pub(super) fn asks(&self) -> bool {
        self.verify.is_some()
    }

    /// Shakes hands. The caller has a deadline for it.
    ///
    /// # Errors
    /// Why it failed; the client has had its alert.
    pub(super) async fn accept(&self, sock: Sock) -> Result<Settled, Failed> {
        let handshake = Handshake { terminator: self, found: Arc::default() };
        let stream = handshake_with_callback(&self.acceptor, sock, &handshake)
            .await
            .map_err(|error| handshake.failed(&error.to_string()))?;
        let mut facts = facts(stream.ssl());
        if let Some(rule) = self.shape.clients {
            facts.client_rule = Some(rule);
            facts.client_certificate = self.client(stream.ssl())?;
        }
        let http2 = stream.ssl().selected_alpn_protocol() == Some(b"h2");
        Ok(Settled { stream: Box::new(stream), facts, http2 })
    }
}

impl Terminator {
    /// The certificate that the handshake has verified. Each of these refusals is OpenSSL's already: what it lets pass is looked at
    /// again.
    fn client(&self, ssl: &SslRef) -> Result<Option<Arc<ClientCertificate>>, Failed> {
        if ssl.session_reused() {
            return Err(Failed::CertificateInvalid("a session was resumed where none may be"));
        }
        if ssl.peer_certificate().is_none() {
            return match self.verify {
                Some(mode) if !mode.contains(SslVerifyMode::FAIL_IF_NO_PEER_CERT) => Ok(None),
                Some(_) | None => Err(Failed::CertificateMissing),
            };
        }
        if ssl.verify_result() != X509VerifyResult::OK {
            return Err(Failed::CertificateInvalid(ssl.verify_result().error_string()));
        }
        let unreadable = Failed::CertificateInvalid("its names cannot be read");
        let facts = ssl.verified_chain().and_then(client_trust::facts).ok_or(unreadable)?;
        Ok(Some(Arc::new(facts)))
    }
}

/// A handshake on its way.
struct Handshake<'t> {
    terminator: &'t Terminator,
    /// What OpenSSL found wrong with the client's certificate.
    found: Arc<OnceLock<&'static str>>,
}

impl Handshake<'_> {
    fn failed(&self, error: &str) -> Failed {
        match self.found.get() {
            Some(found) => Failed::CertificateInvalid(found),
            None if error.contains("peer did not return a certificate") => Failed::CertificateMissing,
            None => Failed::Handshake(reason(error)),
        }
    }
}

/// What OpenSSL says is wrong, without its codes, functions and source files: `error:CODE:LIBRARY:FUNCTION:REASON:FILE:LINE:DATA`.
fn reason(error: &str) -> String {
    /// Of what it says beside, enough to know it by.
    const LENGTH: usize = 200;
    let said = error.rsplit_once("TLS accept() failed: ").map_or(error, |(_, said)| said);
    let reason = match said.split_once("error:") {
        Some((_, parts)) => parts.split(':').nth(3).unwrap_or(parts),
        None => said,
    };
    reason.chars().take(LENGTH).collect()
}

#[async_trait]
impl TlsAccept for Handshake<'_> {
    async fn certificate_callback(&self, ssl: &mut SslRef) {
        if let Some(mode) = self.terminator.verify {
            let found = Arc::clone(&self.found);
            // Nothing is decided here: what OpenSSL finds is noted for the log.
            ssl.set_verify_callback(mode, move |holds, context| {
                if !holds {
                    // The first thing says most.
                    let _ = found.set(context.error().error_string());
                }
                holds
            });
        }
        let resolver = self.terminator.certificates.load();
        let chosen = resolver.choose(ssl.servername(NameType::HOST_NAME));
        // Without a certificate the handshake fails by itself.
        if let Some(chosen) = chosen
            && let Err(error) = chosen.put(ssl)
        {
            log::error!("cannot use a certificate: {error}");
        }
    }
}

/// A terminator and the certificates it shall have; made before anything is changed, so that a reload can still be refused.
#[derive(Debug)]
pub(super) struct Change {
    terminator: Arc<Terminator>,
    resolver: Arc<Resolver>,
}

impl Change {
    /// Puts the certificates in force.
    pub(super) fn commit(self) -> Arc<Terminator> {
        self.terminator.certificates.store(self.resolver);
        self.terminator
    }

    pub(super) fn expiries<'a>(&'a self, listener: &'a Arc<str>) -> impl Iterator<Item = Expiry> + 'a {
        self.resolver.identities.iter().map(|identity| Expiry {
            listener: Arc::clone(listener),
            name: identity.name.clone(),
            not_after: identity.not_after,
        })
    }
}

/// How clients are verified.
fn mode(clients: &ClientTrust) -> SslVerifyMode {
    match clients.is_required() {
        true => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
        false => SslVerifyMode::PEER,
    }
}

/// Asks clients for a certificate. Nothing is resumed: a ticket would carry a certificate to where it was not verified, past a name
/// (id contexts do not stop it), a revocation, or another authority (CVE-2025-23419).
fn ask(builder: &mut SslAcceptorBuilder, clients: &ClientTrust) -> Result<(), ErrorStack> {
    for authority in clients.authorities() {
        builder.add_client_ca(authority)?;
    }
    builder.set_verify_depth(client_trust::DEPTH);
    builder.set_verify(mode(clients));
    builder.set_num_tickets(0)?;
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    Ok(())
}

fn acceptor(listener: &str, shape: Shape) -> Result<SslAcceptorBuilder, ErrorStack> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_min_proto_version(Some(match shape.min_version {
        MinVersion::Tls12 => SslVersion::TLS1_2,
        MinVersion::Tls13 => SslVersion::TLS1_3,
    }))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_cipher_list(SUITES_12)?;
    builder.set_ciphersuites(SUITES_13)?;
    builder.set_groups_list(GROUPS)?;
    builder.set_options(SslOptions::NO_RENEGOTIATION);
    builder.clear_options(SslOptions::NO_TICKET);
    // An idle connection keeps no record buffers.
    builder.set_mode(SslMode::RELEASE_BUFFERS);
    // Half the reads: 53 → 47 µs a request.
    builder.set_read_ahead(true);
    // A resumed session must not carry one listener's trust to another (CVE-2025-23419).
    let context = [listener.as_bytes(), shape.clients.as_ref().map_or(&[], |rule| rule.as_slice())].concat();
    builder.set_session_id_context(&sha256(&context))?;
    builder.set_alpn_select_callback(move |_, offered| {
        let ours: &[u8] = if shape.http2 { b"\x02h2\x08http/1.1" } else { b"\x08http/1.1" };
        // RFC 7301 §3.2: a client that offers only what we do not speak is told so.
        select_next_proto(ours, offered)
            .filter(|chosen| names(offered).any(|name| name == *chosen))
            .ok_or(AlpnError::ALERT_FATAL)
    });
    Ok(builder)
}

/// The names of a list of protocols (RFC 7301 §3.1).
fn names(mut list: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = list.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        list = rest;
        Some(name)
    })
}

fn facts(ssl: &SslRef) -> TlsFacts {
    let cipher =
        ssl.current_cipher().map_or("", |cipher| cipher.standard_name().unwrap_or_else(|| cipher.name()));
    TlsFacts {
        version: ssl.version_str(),
        cipher,
        group: group(ssl).map(Into::into),
        sni: ssl.servername(NameType::HOST_NAME).map(|name| name.to_ascii_lowercase().into_boxed_str()),
        resumed: ssl.session_reused(),
        client_rule: None,
        client_certificate: None,
    }
}

/// The key exchange, told by the client's share; OpenSSL's own name for it is not within reach of safe code.
fn group(ssl: &SslRef) -> Option<&'static str> {
    let key = ssl.peer_tmp_key().ok()?;
    if key.is_a(KeyType::X25519) {
        return Some("X25519");
    }
    if key.is_a(KeyType::EC) {
        return match key.bits() {
            256 => Some("P-256"),
            384 => Some("P-384"),
            _ => None,
        };
    }
    // What is left of GROUPS.
    Some("X25519MLKEM768")
}

/// Names → certificates.
#[derive(Debug)]
struct Resolver {
    identities: Vec<Identity>,
    exact: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
}

/// A certificate as a handshake uses it.
struct Identity {
    name: Box<str>,
    not_after: i64,
    leaf: X509,
    chain: Vec<X509>,
    key: PKey<Private>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Resolver {
    fn new<'a>(certificates: impl Iterator<Item = &'a Certificate>) -> Self {
        let mut own =
            Self { identities: Vec::new(), exact: HashMap::default(), wildcard: HashMap::default() };
        for (index, certificate) in certificates.enumerate() {
            for name in &certificate.names {
                // The first one written wins where two bear a name.
                match name.strip_prefix("*.") {
                    Some(rest) => own.wildcard.entry(rest.into()).or_insert(index),
                    None => own.exact.entry(name.clone()).or_insert(index),
                };
            }
            own.identities.push(Identity {
                name: certificate.name().into(),
                not_after: certificate.not_after,
                leaf: certificate.leaf.clone(),
                chain: certificate.chain.clone(),
                key: certificate.key.clone(),
            });
        }
        own
    }

    /// Exact, then by label (`*` is one label, RFC 6125 §6.4.3), else the first.
    fn choose(&self, name: Option<&str>) -> Option<&Identity> {
        let index = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let name = name.strip_suffix('.').unwrap_or(&name);
            let by_label = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(name).or_else(by_label)
        });
        self.identities.get(index.copied().unwrap_or(0))
    }
}

impl Identity {
    fn put(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        ssl.set_certificate(&self.leaf)?;
        for certificate in &self.chain {
            ssl.add_chain_cert(certificate.clone())?;
        }
        ssl.set_private_key(&self.key)
    }
}
