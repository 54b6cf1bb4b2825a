//! A listener, compiled.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::certificates::Certificate;
use super::document::{MinVersion, RedirectToHttps};
use crate::client::Trusted;
use crate::config::{Site, Spanned};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An IPv4 or IPv6 address and port.
    Tcp(std::net::SocketAddr),
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
