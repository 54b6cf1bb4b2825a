//! A listener, compiled.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::certificates::{self, Certificate};
use super::document::{Listener as ListenerConfig, MinVersion, RedirectToHttps};
use crate::client::Trusted;
use crate::config::{Build, Site, Spanned};

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
    /// Whether it only redirects.
    pub redirect: RedirectToHttps,
    /// Peers whose word on the client is believed.
    pub trusted: Trusted,
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
        Some(tls) => certificates::compile(&tls.certificates, build)
            .map(|certificates| ListenerTls { certificates, min_version: tls.min_version }),
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
    Some(Listener {
        name: name.into(),
        address,
        http2: config.http2,
        tls,
        redirect: config.redirect_to_https,
        trusted: Trusted::compile(&config.trusted_proxies, build)?,
        site: config.site.clone(),
    })
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
