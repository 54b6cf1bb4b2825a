//! TLS towards servers: verified, 1.2 or newer.

use std::net::IpAddr;
use std::path::Path;

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslConnector, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;

use super::address::is_name;
use super::config::Tls;
use crate::config::{Build, Spanned, unreadable};

/// Where distributions keep the authorities they trust: the vendored OpenSSL knows none of these.
const SYSTEM_AUTHORITIES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// Makes TLS connections to the servers of one upstream. Authorities are parsed once, at load.
pub struct TlsClient {
    connector: SslConnector,
    verify: bool,
    server_name: Option<Box<str>>,
    identity: String,
}

impl TlsClient {
    /// Compiles. None when `build.errors` says why.
    pub(super) fn compile(config: &Spanned<Tls>, build: &mut Build) -> Option<Self> {
        let words = words(config, build);
        let server_name = server_name(config, build);
        let authorities = match (&config.ca, config.verify) {
            (Some(file), _) => own_authorities(file, build),
            (None, true) => system_authorities(config, build),
            (None, false) => Some((Vec::new(), String::new())),
        };
        let (Some(()), Some(server_name), Some((authorities, origin))) = (words, server_name, authorities)
        else {
            return None;
        };
        let identity = format!("tls verify={} name={server_name:?} ca={origin}", config.verify);
        match connector(config.verify, authorities) {
            Ok(connector) => Some(Self { connector, verify: config.verify, server_name, identity }),
            Err(error) => {
                build.errors.push(
                    &config.site,
                    &*config.path,
                    format!("TLS cannot be set up: {error}"),
                    "check the certificates of `ca`",
                );
                None
            }
        }
    }

    /// Prepares a connection to the server `host`: SNI (names only, RFC 6066 §3) and the name the certificate must bear.
    pub(super) fn ssl(&self, host: &str) -> Result<Ssl, ErrorStack> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = name.strip_suffix('.').unwrap_or(name);
        self.connector
            .configure()?
            .verify_hostname(self.verify)
            .use_server_name_indication(name.parse::<IpAddr>().is_err())
            .into_ssl(name)
    }

    /// Two clients of the same identity make the same connections.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }
}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsClient").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// No verification must be said twice, and once is a contradiction.
fn words(config: &Spanned<Tls>, build: &mut Build) -> Option<()> {
    let (key, cause, cure) = match (config.verify, config.insecure_skip_verify) {
        (true, false) | (false, true) => return Some(()),
        (false, false) => (
            "verify",
            "without verification anybody on the way can read and change what passes",
            "name the authority with `ca`, or say `insecure_skip_verify: true` as well",
        ),
        (true, true) => (
            "insecure_skip_verify",
            "`insecure_skip_verify` contradicts `verify: true`",
            "remove it, or say `verify: false` as well",
        ),
    };
    build.errors.push(&config.site, format!("{}.{key}", config.path), cause, cure);
    None
}

/// An empty name would be a certificate nobody checks.
fn server_name(config: &Spanned<Tls>, build: &mut Build) -> Option<Option<Box<str>>> {
    let Some(name) = &config.server_name else {
        return Some(None);
    };
    if is_name(name) || name.parse::<IpAddr>().is_ok() {
        return Some(Some(name.to_ascii_lowercase().into()));
    }
    build.errors.push(
        &name.site,
        &*name.path,
        format!("`{}` is not the name of a server", name.value),
        "write the name in the server's certificate, or leave the key out",
    );
    None
}

fn own_authorities(file: &Spanned<String>, build: &mut Build) -> Option<(Vec<X509>, String)> {
    let path = build.files.resolve(&file.site, file);
    let mut wrong = |cause: String| {
        build.errors.push(&file.site, &*file.path, cause, "name a PEM file of certificates");
        None
    };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) => {
            build.files.watch(&path);
            return wrong(format!("`{}` cannot be read: {}", path.display(), unreadable(&error)));
        }
    };
    let hash = hex(&openssl::sha::sha256(&text));
    match X509::stack_from_pem(&text) {
        Ok(list) if list.is_empty() => wrong(format!("`{}` holds no certificate", path.display())),
        Ok(list) => {
            build.files.watch(&path);
            Some((list, hash))
        }
        Err(error) => wrong(format!("`{}` is not PEM: {error}", path.display())),
    }
}

fn system_authorities(config: &Spanned<Tls>, build: &mut Build) -> Option<(Vec<X509>, String)> {
    let named = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let known = SYSTEM_AUTHORITIES.iter().map(Path::new);
    for path in named.as_deref().into_iter().chain(known) {
        let Ok(text) = std::fs::read(path) else { continue };
        match X509::stack_from_pem(&text) {
            Ok(list) if !list.is_empty() => return Some((list, hex(&openssl::sha::sha256(&text)))),
            Ok(_) | Err(_) => continue,
        }
    }
    build.errors.push(
        &config.site,
        &*config.path,
        "this system has no list of trusted authorities",
        "install ca-certificates, or name a file with `ca`",
    );
    None
}

fn connector(verify: bool, authorities: Vec<X509>) -> Result<SslConnector, ErrorStack> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    // RFC 9325 §3.1.1: TLS 1.0 and 1.1 must not be negotiated.
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_alpn_protos(b"\x08http/1.1")?;
    let mut store = X509StoreBuilder::new()?;
    for authority in authorities {
        store.add_cert(authority)?;
    }
    builder.set_cert_store(store.build());
    builder.set_verify(if verify { SslVerifyMode::PEER } else { SslVerifyMode::NONE });
    Ok(builder.build())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
