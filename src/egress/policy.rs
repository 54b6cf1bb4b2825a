//! What may be fetched: plain decisions, without a network.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use reqwest::Url;

use super::address::Kind;
use super::{Config, Failure, Reason};
use crate::client::network;
use crate::config::{Build, Site, Spanned};

/// The rules of `server.egress`, compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Host names in lower case, without a dot at their end.
    names: Vec<Box<str>>,
    networks: Vec<IpNet>,
    /// A fetch as a whole.
    pub(super) timeout: Duration,
    /// The most of a body.
    pub(super) bytes: u64,
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Https,
    Http,
}

impl Policy {
    /// Compiles `server.egress`. None when `build.errors` says why.
    pub fn compile(config: &Config, site: &Site, build: &mut Build) -> Option<Self> {
        let before = build.errors.errors().len();
        let mut policy = Self { timeout: config.timeout.0, bytes: config.bytes.0, ..Self::default() };
        for entry in &config.allow {
            match listed(entry) {
                Ok(Listed::Network(network)) => policy.networks.push(network),
                Ok(Listed::Name(name)) => policy.names.push(name),
                Err((cause, cure)) => build.errors.push(&entry.site, &*entry.path, cause, cure),
            }
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&config.timeout.0) {
            let cause = format!("{} is out of range", config.timeout);
            build.errors.push(site, "server.egress.timeout", cause, "write a duration from `100ms` to `1m`");
        }
        if !((1 << 10)..=(64 << 20)).contains(&config.bytes.0) {
            let cause = format!("{} is out of range", config.bytes);
            build.errors.push(site, "server.egress.bytes", cause, "write a size from `1KiB` to `64MiB`");
        }
        (build.errors.errors().len() == before).then_some(policy)
    }

    /// Whether a URL may be fetched, as far as it tells by itself; what its name resolves to is judged at each fetch.
    ///
    /// # Errors
    /// Why it may not.
    pub fn may_fetch(&self, url: &str) -> Result<(), Failure> {
        self.url(url).map(drop)
    }

    /// Judges a URL by itself; its host, where that is an address, as one that is connected to.
    pub(super) fn url(&self, text: &str) -> Result<Target, Failure> {
        let url = Url::parse(text)
            .map_err(|error| Failure::new(Reason::BadUrl, format!("it is not a URL: {error}")))?;
        let scheme = match url.scheme() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            other => {
                return Err(Failure::new(Reason::Scheme, format!("`{other}` is neither https nor http")));
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            // Not shown: it may be a password.
            return Err(Failure::new(Reason::Userinfo, "credentials in a URL end in logs"));
        }
        let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_owned();
        if host.is_empty() {
            return Err(Failure::new(Reason::BadUrl, "it names no host"));
        }
        // All the spellings of an IPv4 address (0x7f.1, 2130706433) have become one by parsing (WHATWG URL).
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse() {
            self.address(&host, scheme, ip)?;
        } else if scheme == Scheme::Http && !self.may_be_plain(&host) {
            return Err(plain(&host));
        }
        Ok(Target { url, scheme, host: host.into() })
    }

    /// Judges the address that is about to be connected to.
    pub(super) fn address(&self, host: &str, scheme: Scheme, ip: IpAddr) -> Result<(), Failure> {
        let canonical = ip.to_canonical();
        let named = self.names.iter().any(|name| **name == *host.trim_end_matches('.'));
        let listed = named
            || self.networks.iter().any(|network| network.contains(&ip) || network.contains(&canonical));
        let refuse = |message: String| Err(Failure::new(Reason::NotPublic, message));
        // An IPv4 address within IPv6 is connected to as that, and can be as much of a nowhere.
        if let (Kind::Nowhere(word), _) | (_, Kind::Nowhere(word)) = (Kind::of(ip), Kind::of(canonical)) {
            return refuse(format!("{ip} is {word}: nothing is fetched from there"));
        }
        match (Kind::of(ip), scheme) {
            _ if listed => Ok(()),
            (Kind::Public, Scheme::Https) => Ok(()),
            (Kind::Public, Scheme::Http) => Err(plain(host)),
            (Kind::Inner(word) | Kind::Nowhere(word), _) => {
                refuse(format!("{ip} is {word}; list it, or the host, in `server.egress.allow`"))
            }
        }
    }

    /// Whether a name over plain http can turn out to be listed at all: by itself, or by an address it may have.
    fn may_be_plain(&self, host: &str) -> bool {
        !self.networks.is_empty() || self.names.iter().any(|name| **name == *host)
    }
}

/// A URL that may be fetched, as far as it tells.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) url: Url,
    pub(super) scheme: Scheme,
    pub(super) host: Box<str>,
}

impl Target {
    /// Where a redirect leads: the same scheme, host and port, or nowhere.
    pub(super) fn redirect(&self, location: &str, policy: &Policy) -> Result<Self, Failure> {
        let elsewhere = |message: String| Failure::new(Reason::RedirectElsewhere, message);
        let next =
            self.url.join(location).map_err(|error| elsewhere(format!("it leads to no URL: {error}")))?;
        // `origin` has the default ports filled in.
        if next.origin() != self.url.origin() {
            let origin = next.origin().ascii_serialization();
            return Err(elsewhere(format!("it leads to {origin}, another scheme, host or port")));
        }
        policy.url(next.as_str())
    }
}

fn plain(host: &str) -> Failure {
    let message = format!(
        "http to `{host}` can be read and changed on its way; use https, or list the host in \
                           `server.egress.allow`"
    );
    Failure::new(Reason::PlainHttp, message)
}

enum Listed {
    Network(IpNet),
    Name(Box<str>),
}

fn listed(entry: &Spanned<String>) -> Result<Listed, (String, String)> {
    const CURE: &str = "write a host name such as `keys.internal`, or addresses such as `10.0.0.0/8`";
    let text = entry.value.as_str();
    match network(text) {
        Ok(network) if network.prefix_len() == 0 => {
            return Err((format!("`{text}` lists every address: nothing would be refused"), CURE.into()));
        }
        Ok(network) => return Ok(Listed::Network(network)),
        Err(bad) if text.split_once('/').is_some_and(|(ip, _)| ip.parse::<IpAddr>().is_ok()) => {
            return Err(bad);
        }
        Err(_) => {}
    }
    let is_name = |host: &str| {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        host.len() <= 253 && host.split('.').all(label) && host.parse::<IpAddr>().is_err()
    };
    // As a URL's host is read: lower case, punycode, and what is an address in disguise becomes one.
    let host = Url::parse(&format!("https://{text}/")).ok();
    let host = host.filter(|url| url.path() == "/" && url.port().is_none() && url.username().is_empty());
    let name = host.as_ref().and_then(Url::host_str).map(|host| host.trim_end_matches('.'));
    match name.filter(|name| is_name(name) && !text.contains(['/', ':', '@', '?', '#'])) {
        Some(name) => Ok(Listed::Name(name.into())),
        None => Err((format!("`{text}` is neither a host name nor an address"), CURE.into())),
    }
}
