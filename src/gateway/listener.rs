//! A listener, compiled.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::certificates::{self, Certificate};
use super::client_trust::ClientTrust;
use super::document::{Listener as ListenerConfig, MinVersion, ProxyProtocol, RedirectToHttps};
use crate::canonical::Authority;
use crate::client::{ProxiesWrite, Trusted};
use crate::config::{Build, OrNone, Site, Spanned};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An IPv4 or IPv6 address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A listener, compiled.
#[derive(Debug)]
pub struct Listener {
    /// The address as written: its name in metrics and log.
    pub name: Arc<str>,
    /// Where.
    pub address: ListenAddress,
    /// Whether HTTP/2 is offered by ALPN.
    pub http2: bool,
    /// TLS; none on a plain listener.
    pub tls: Option<ListenerTls>,
    /// The host, in canonical form, of requests of HTTP/1.0 that name none.
    pub default_host: Option<Box<str>>,
    /// Whether it only redirects.
    pub redirect: RedirectToHttps,
    /// Peers whose word on the client is believed.
    pub trusted: Trusted,
    /// Peers that must send a PROXY header.
    pub proxied: Option<Trusted>,
    /// Where it was written.
    pub site: Site,
}

/// TLS of a listener, compiled: certificates are parsed, their keys fit.
#[derive(Debug)]
pub struct ListenerTls {
    /// None: generate one, kept in the state directory.
    pub certificates: Option<Vec<Spanned<Certificate>>>,
    /// The oldest version accepted.
    pub min_version: MinVersion,
    /// Whose clients are known; none where none are asked for a certificate.
    pub clients: Option<ClientTrust>,
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// All listeners; what is wrong with one keeps the others.
pub(super) fn compile(written: &[Spanned<ListenerConfig>], build: &mut Build) -> Vec<Arc<Listener>> {
    let mut seen: BTreeMap<String, Site> = BTreeMap::new();
    let mut listeners = Vec::new();
    if written.is_empty() {
        let cure = "write `listeners:` with at least one `- address: 127.0.0.1:8080`";
        build.errors.push(
            &Site::default_value(),
            "listeners",
            "there is no listener: nothing could be served",
            cure,
        );
    }
    for config in written {
        let Some(address) = listen_address(&config.address, build) else { continue };
        let several = matches!(&address, ListenAddress::Tcp(address) if address.port() == 0);
        if let Some(first) = seen.insert(format!("{address:?}"), config.site.clone())
            && !several
        {
            let cause = format!("`{}` is listened on twice; first at {first}", config.address.value);
            build.errors.push(&config.site, &*config.address.path, cause, "remove one of the two");
        }
        let name = match listeners.iter().filter(|l: &&Arc<Listener>| l.address == address).count() {
            0 => config.address.value.clone(),
            // Only port 0 comes here without an error: each such listener gets a port, and a name, of its own.
            earlier => format!("{}#{}", config.address.value, earlier + 1),
        };
        listeners.extend(listener(&name, config, address, build).map(Arc::new));
    }
    listeners
}

fn listener(
    name: &str,
    config: &Spanned<ListenerConfig>,
    address: ListenAddress,
    build: &mut Build,
) -> Option<Listener> {
    let tls = match &config.tls {
        None => None,
        Some(tls) => {
            let certificates = certificates::compile(&tls.certificates, build);
            let clients = ClientTrust::compile(tls, build);
            certificates.zip(clients).map(|(certificates, clients)| ListenerTls {
                certificates,
                min_version: tls.min_version,
                clients,
            })
        }
    };
    if let (RedirectToHttps::Port(_), Some(_)) = (config.redirect_to_https, &config.tls) {
        let path = format!("{}.redirect_to_https", config.path);
        build.errors.push(
            &config.site,
            path,
            "a listener with `tls` is https already",
            "set `redirect_to_https` on a plain listener",
        );
    }
    if let RedirectToHttps::Port(0) = config.redirect_to_https {
        let path = format!("{}.redirect_to_https", config.path);
        build.errors.push(&config.site, path, "port 0 cannot be redirected to", "write `true` or a port");
    }
    let write = &config.proxies_write;
    if write.value != ProxiesWrite::Any && config.trusted_proxies.is_empty() {
        let cure = "name the proxies in `trusted_proxies`, or remove `proxies_write`";
        build.errors.push(&write.site, &*write.path, "no proxy is trusted: nothing is believed", cure);
    }
    let trusted =
        Trusted::compile(&config.trusted_proxies, build).map(|trusted| trusted.writing(write.value));
    let proxied = match &config.proxy_protocol {
        OrNone::None => None,
        OrNone::Some(written) => Some(proxied(written, config, &address, build)?),
    };
    Some(Listener {
        name: name.into(),
        address,
        http2: config.http2,
        tls,
        default_host: default_host(&config.default_host, build)?,
        redirect: config.redirect_to_https,
        trusted: trusted?,
        proxied,
        site: config.site.clone(),
    })
}

/// Who must send a PROXY header. A list that can match nobody, or anybody, is a mistake more often than not.
fn proxied(
    written: &Spanned<ProxyProtocol>,
    config: &ListenerConfig,
    address: &ListenAddress,
    build: &mut Build,
) -> Option<Trusted> {
    let from = Trusted::compile(&written.from, build)?;
    let path = format!("{}.from", written.path);
    let is_unix = |entry: &Spanned<String>| entry.value == "unix:";
    let (cause, cure) = match address {
        _ if written.from.is_empty() => (
            "a list of nobody: no peer could send a PROXY header",
            "list the balancer's addresses, or write `proxy_protocol: none`",
        ),
        ListenAddress::Tcp(_) if written.from.iter().all(is_unix) => {
            ("`unix:` is no peer of a TCP listener", "list the balancer's addresses")
        }
        ListenAddress::Unix(_) if !written.from.iter().any(is_unix) => {
            ("peers of a Unix socket have no address", "write `from: [\"unix:\"]`")
        }
        ListenAddress::Tcp(_) | ListenAddress::Unix(_) => {
            warn_of_anybody(written, build);
            warn_of_trust(&from, config, build);
            return Some(from);
        }
    };
    build.errors.push(&written.site, path, cause, cure);
    None
}

fn warn_of_anybody(written: &ProxyProtocol, build: &mut Build) {
    for entry in written.from.iter().filter(|entry| entry.ends_with("/0")) {
        let cause = "everybody who reaches this listener may claim to be any client";
        let cure = "list the balancer's addresses, unless a firewall lets nobody else connect";
        build.errors.warn(&entry.site, &*entry.path, cause, cure);
    }
}

/// Trust is judged by the address that the header gives. Who lists the balancer in both places believes that its `X-Forwarded-For`
/// will be read, which it is only on connections of its own.
fn warn_of_trust(from: &Trusted, config: &ListenerConfig, build: &mut Build) {
    for entry in &config.trusted_proxies {
        if from.covers(entry) {
            let cause = format!(
                "`{}` must send PROXY headers: not its own address is judged then, but the one that the header gives",
                entry.value
            );
            let cure = "list the proxies in front of it, or remove the entry";
            build.errors.warn(&entry.site, &*entry.path, cause, cure);
        }
    }
}

/// A host in its canonical form. The outer `None` when `build.errors` says what is wrong.
fn default_host(written: &OrNone<Spanned<String>>, build: &mut Build) -> Option<Option<Box<str>>> {
    let Some(written) = written.as_option() else { return Some(None) };
    match Authority::parse(written.as_bytes()) {
        Ok(authority) => {
            let mut text = String::new();
            authority.write(&mut text);
            Some(Some(text.into()))
        }
        Err(what) => {
            let cause = format!("`{}` is not a host: {what}", written.value);
            build.errors.push(&written.site, &*written.path, cause, "write `www.example.com`, or `none`");
            None
        }
    }
}

/// `host:port` with an address for host, `[v6]:port`, or `unix:/path`.
pub(super) fn listen_address(written: &Spanned<String>, build: &mut Build) -> Option<ListenAddress> {
    if let Some(path) = written.strip_prefix("unix:") {
        if path.is_empty() {
            build.errors.push(
                &written.site,
                &*written.path,
                "a Unix socket without a path",
                "write `unix:/run/portcullis.sock`",
            );
            return None;
        }
        return Some(ListenAddress::Unix(build.files.resolve(&written.site, path)));
    }
    let named = written.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let starred = written.strip_prefix("*:").map(|port| format!("0.0.0.0:{port}"));
    match named.or(starred).as_deref().unwrap_or(written).parse::<SocketAddr>() {
        Ok(address) => Some(ListenAddress::Tcp(address)),
        Err(_) => {
            build.errors.push(
                &written.site,
                &*written.path,
                format!("`{}` is not an address to listen on", written.value),
                "write `127.0.0.1:8080`, `0.0.0.0:443`, `\"[::]:443\"` or `unix:/path`",
            );
            None
        }
    }
}
