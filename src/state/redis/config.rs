//! Where the store of a fleet is: `server.fleet`.

use std::fmt;
use std::path::PathBuf;

use openssl::x509::X509;
use reqwest::Url;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::units::Percent;
use crate::config::{Build, Secret, Spanned, unreadable};

/// The ports where a URL says none.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// Where systems keep the authorities that they trust: Debian, Fedora, openSUSE, Alpine.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// The most sentinels that are named.
const SENTINELS_MAX: usize = 16;
/// The most nodes of a cluster that are named.
const NODES_MAX: usize = 64;

/// What nodes share: a Redis (5 or newer) or Valkey, in which they count for limits with `scope: fleet`.
///
/// Its address is named here, so it may be a private one: `server.egress` has no say in it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The server: `redis://host:port/database`, or `rediss://…` for TLS. Without user and password, which have keys of their own.
    pub redis: Option<Spanned<String>>,
    /// Or who knows which server it is at the moment.
    pub sentinel: Option<Spanned<SentinelConfig>>,
    /// Or a cluster.
    pub cluster: Option<Spanned<ClusterConfig>>,
    /// The user (ACL). Default: the one whose password it is that a server has without users.
    pub user: Option<Spanned<String>>,
    /// Its password: `"${env:NAME}"` or `"${file:PATH}"`.
    pub password: Option<Spanned<Secret>>,
    /// A PEM file of the authorities that the server's certificate may be of. Default: the system's.
    pub ca: Option<Spanned<String>>,
    /// What the names of all keys in the store begin with: letters, digits, `-`, `_` and `.`. Fleets with different ones share nothing.
    pub prefix: Option<Spanned<String>>,
    /// How many nodes there are at least, until the store has said: each decides with its share of a limit while it does not reach the store.
    #[schemars(range(min = 1, max = 1_000))]
    pub nodes: Option<Spanned<u32>>,
    /// What all nodes together may hold in leases, of a limit's count and its burst: up to `50%`. More of it asks the store less often. Default:
    /// `10%`.
    pub lease: Option<Spanned<Percent>>,
}

/// Sentinels, which watch servers and say which of them is the master.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SentinelConfig {
    /// Their addresses: `redis://host:port`, or all `rediss://…`; then the master is spoken to in TLS too.
    #[schemars(length(min = 1, max = SENTINELS_MAX))]
    pub urls: Vec<Spanned<String>>,
    /// What they call the master.
    pub master: Spanned<String>,
    /// The user of the sentinels, where they have any.
    #[serde(default)]
    pub user: Option<Spanned<String>>,
    /// Its password.
    #[serde(default)]
    pub password: Option<Spanned<Secret>>,
}

/// Some nodes of a cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Their addresses: `redis://host:port`, or all `rediss://…`. They tell of the others, which are spoken to in the same way.
    #[schemars(length(min = 1, max = NODES_MAX))]
    pub urls: Vec<Spanned<String>>,
}

/// Where the store is, and how it is spoken to.
pub struct Endpoint {
    pub(super) way: Way,
    pub(super) login: Login,
    /// With TLS: those that a certificate may be of, PEM.
    pub(super) authorities: Option<Vec<u8>>,
    pub(super) database: u32,
    prefix: Box<str>,
    /// Equal for endpoints that make the same connections.
    definition: String,
}

/// How the server is found.
#[derive(Debug)]
pub(super) enum Way {
    Server(Address),
    Sentinels { addresses: Box<[Address]>, master: Box<str>, login: Login },
    Cluster(Box<[Address]>),
}

/// Who we are.
#[derive(Debug, Default)]
pub(super) struct Login {
    pub(super) user: Option<Box<str>>,
    pub(super) password: Option<Secret>,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address {
    /// A name, or an address without brackets.
    pub(super) host: Box<str>,
    pub(super) port: u16,
}

/// A URL, understood.
struct Named {
    address: Address,
    tls: bool,
    database: u32,
}

impl Endpoint {
    /// None when `build.errors` says why.
    pub fn compile(config: &Spanned<Config>, build: &mut Build) -> Option<Self> {
        let errors_before = build.errors.errors().len();
        let found = way(config, build);
        let login = login(config.user.as_ref(), config.password.as_ref(), build);
        let prefix = config.prefix.as_ref().map_or("portcullis", |prefix| prefix.as_str());
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if let Some(written) =
            config.prefix.as_ref().filter(|_| !(1..=64).contains(&prefix.len()) || !prefix.bytes().all(fits))
        {
            let cause = format!("`{prefix}` is no prefix of keys");
            build.errors.push(
                &written.site,
                &*written.path,
                cause,
                "use 1 to 64 letters, digits, `-`, `_` and `.`",
            );
        }
        let is_tls = found.as_ref().is_some_and(|(_, tls, _)| *tls);
        let authorities = authorities(config, is_tls, found.is_some(), build);
        let (way, is_tls, database) = found.filter(|_| build.errors.errors().len() == errors_before)?;
        if !is_tls {
            way.shows(config.password.as_ref(), build);
        }
        let (authorities, fingerprint) = authorities.unwrap_or_default();
        let authorities = is_tls.then(|| pem(&authorities));
        let definition = format!("{way:?} {} {database} {is_tls} {fingerprint} {prefix}", login.definition());
        let definition = match &way {
            Way::Sentinels { login, .. } => format!("{definition} {}", login.definition()),
            Way::Server(_) | Way::Cluster(_) => definition,
        };
        Some(Self { way, login, authorities, database, prefix: prefix.into(), definition })
    }

    /// Equal for endpoints that make the same connections; no secret is in it.
    pub fn definition(&self) -> &str {
        &self.definition
    }

    /// What keys begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl Way {
    /// Warns where the password can be read on its way.
    fn shows(&self, password: Option<&Spanned<Secret>>, build: &mut Build) {
        let addresses = match self {
            Self::Server(address) => std::slice::from_ref(address),
            Self::Sentinels { addresses, .. } | Self::Cluster(addresses) => addresses,
        };
        let is_far = |address: &&Address| match address.host.parse::<std::net::IpAddr>() {
            Ok(ip) => !ip.is_loopback(),
            Err(_) => !address.host.eq_ignore_ascii_case("localhost"),
        };
        if let (Some(password), Some(far)) = (password, addresses.iter().find(is_far)) {
            let cause = format!("the password goes to `{}` in the clear", far.host);
            let cure = "write `rediss://`, or see that nobody listens on the way";
            build.errors.warn(&password.site, &*password.path, cause, cure);
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("definition", &self.definition).finish_non_exhaustive()
    }
}

impl Address {
    /// As a server says it; none where that can be no host.
    pub(super) fn said(host: &str, port: &str) -> Option<Self> {
        let fits = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'-' | b'_');
        let is_host = !host.is_empty() && host.len() <= 255 && host.as_bytes().iter().all(fits);
        Some(Self { host: host.into(), port: port.parse().ok()? }).filter(|_| is_host)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Login {
    fn definition(&self) -> String {
        let hash = self.password.as_ref().map(|password| hex(&openssl::sha::sha256(password.as_bytes())));
        format!("{:?} {hash:?}", self.user)
    }
}

fn way(config: &Spanned<Config>, build: &mut Build) -> Option<(Way, bool, u32)> {
    match (&config.redis, &config.sentinel, &config.cluster) {
        (Some(url), None, None) => {
            let named = named(url, PORT, build)?;
            Some((Way::Server(named.address), named.tls, named.database))
        }
        (None, Some(sentinel), None) => sentinels(sentinel, build),
        (None, None, Some(cluster)) => {
            let (addresses, tls) = addresses(&cluster.urls, PORT, "nodes of a cluster", build)?;
            Some((Way::Cluster(addresses), tls, 0))
        }
        (Some(_), _, _) | (_, Some(_), _) => {
            let cause = "`redis`, `sentinel` and `cluster` are three ways to say where the store is";
            build.errors.push(&config.site, &*config.path, cause, "keep one of them");
            None
        }
        (None, None, None) => {
            let cause = "a fleet without a store shares nothing";
            build.errors.push(
                &config.site,
                &*config.path,
                cause,
                "add `redis: \"redis://127.0.0.1:6379\"`, or `sentinel`",
            );
            None
        }
    }
}

fn sentinels(written: &Spanned<SentinelConfig>, build: &mut Build) -> Option<(Way, bool, u32)> {
    let login = login(written.user.as_ref(), written.password.as_ref(), build);
    let (addresses, tls) = addresses(&written.urls, SENTINEL_PORT, "sentinels", build)?;
    let master = &written.master;
    if master.is_empty() || master.len() > 256 || !master.bytes().all(|b| b.is_ascii_graphic()) {
        let cause = format!("`{}` is no name of a master", master.value);
        build.errors.push(
            &master.site,
            &*master.path,
            cause,
            "write what `sentinel monitor` calls it, such as `mymaster`",
        );
        return None;
    }
    Some((Way::Sentinels { addresses, master: master.as_str().into(), login }, tls, 0))
}

/// Several addresses of one kind, and whether they are spoken to in TLS.
fn addresses(
    urls: &[Spanned<String>],
    port: u16,
    kind: &str,
    build: &mut Build,
) -> Option<(Box<[Address]>, bool)> {
    let all: Vec<_> = urls.iter().map(|url| named(url, port, build)).collect();
    let all = all.into_iter().collect::<Option<Vec<_>>>()?;
    let tls = all.first().is_some_and(|first| first.tls);
    for (named, url) in all.iter().zip(urls) {
        if named.tls != tls {
            let cause = format!("some {kind} are spoken to in TLS, and others are not");
            build.errors.push(&url.site, &*url.path, cause, "write `rediss://` for all of them, or for none");
            return None;
        }
        if named.database != 0 {
            let cause = format!("{kind} have database 0 and no other");
            build.errors.push(&url.site, &*url.path, cause, "leave the path out");
        }
    }
    Some((all.into_iter().map(|named| named.address).collect(), tls))
}

fn login(user: Option<&Spanned<String>>, password: Option<&Spanned<Secret>>, build: &mut Build) -> Login {
    if let (Some(user), None) = (user, password) {
        let cause = "a user without a password";
        build.errors.push(
            &user.site,
            &*user.path,
            cause,
            "add `password: \"${file:PATH}\"`, or remove the user",
        );
    }
    if let Some(user) = user.filter(|user| user.is_empty() || user.len() > 256) {
        build.errors.push(
            &user.site,
            &*user.path,
            "this is no name of a user",
            "write it as the server's ACL does",
        );
    }
    if let Some(secret) = password {
        is_secret(secret, build);
    }
    Login {
        user: user.map(|user| user.as_str().into()),
        password: password.map(|password| password.value.clone()),
    }
}

/// One that stands in the file itself is warned about.
fn is_secret(secret: &Spanned<Secret>, build: &mut Build) {
    if secret.trim().is_empty() || secret.len() > 1024 {
        let cure = "write `\"${env:NAME}\"` or `\"${file:PATH}\"`, and see that it has the secret";
        build.errors.push(&secret.site, &*secret.path, "this is no password", cure);
    } else if !build.sources.is_put_in(&secret.path) {
        build.sources.withhold(secret);
        build.errors.warn(
            &secret.site,
            &*secret.path,
            "the secret stands in the file itself, and in every copy of it",
            "write `\"${env:NAME}\"` or `\"${file:PATH}\"`",
        );
    }
}

/// Understands `redis://host:port/database`. None when `build.errors` says why.
fn named(written: &Spanned<String>, port: u16, build: &mut Build) -> Option<Named> {
    let cure = "write such as `redis://127.0.0.1:6379` or `rediss://redis.internal:6379/1`";
    let mut refuse = |cause: String, cure: &'static str| {
        build.errors.push(&written.site, &*written.path, cause, cure);
        None
    };
    let url = match Url::parse(written) {
        Ok(url) => url,
        Err(error) => return refuse(format!("this is not a URL: {error}"), cure),
    };
    let tls = match url.scheme() {
        "redis" => false,
        "rediss" => true,
        other => return refuse(format!("`{other}` is neither redis nor rediss"), cure),
    };
    if !url.username().is_empty() || url.password().is_some() {
        // Not shown: it may be a password.
        let cure = "write them as `user` and `password: \"${file:PATH}\"` beside it";
        return refuse("credentials in a URL end in logs".to_owned(), cure);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("this URL has more in it than a server's address".to_owned(), cure);
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    if host.is_empty() {
        return refuse("this URL names no host".to_owned(), cure);
    }
    let path = url.path().trim_start_matches('/');
    let database =
        if path.is_empty() { Some(0) } else { path.parse().ok().filter(|number| *number < 10_000) };
    let Some(database) = database else {
        return refuse(format!("`{path}` is no number of a database"), cure);
    };
    Some(Named { address: Address { host: host.into(), port: url.port().unwrap_or(port) }, tls, database })
}

/// The certificates of `ca`, and their hash.
fn authorities(
    config: &Spanned<Config>,
    is_tls: bool,
    is_known: bool,
    build: &mut Build,
) -> Option<(Vec<X509>, String)> {
    let Some(file) = &config.ca else {
        return if is_tls { system_authorities(config, build) } else { None };
    };
    if is_known && !is_tls {
        let cause = "`ca` is about TLS, and the store is spoken to without";
        build.errors.push(&file.site, &*file.path, cause, "write `rediss://`, or remove it");
        return None;
    }
    let path = build.files.resolve(&file.site, file);
    let (cause, cure) = match build.files.read(&path) {
        Ok(text) => match X509::stack_from_pem(&text) {
            Ok(list) if !list.is_empty() => return Some((list, hex(&openssl::sha::sha256(&text)))),
            Ok(_) => {
                (format!("`{}` holds no certificate", path.display()), "name a PEM file of certificates")
            }
            Err(error) => {
                (format!("`{}` is not PEM: {error}", path.display()), "name a PEM file of certificates")
            }
        },
        Err(error) => {
            let cause = format!("`{}` cannot be read: {}", path.display(), unreadable(&error));
            (cause, "name a PEM file of certificates")
        }
    };
    build.errors.push(&file.site, &*file.path, cause, cure);
    None
}

fn system_authorities(config: &Spanned<Config>, build: &mut Build) -> Option<(Vec<X509>, String)> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let known = SYSTEM_AUTHORITIES.iter().map(PathBuf::from);
    let read = |path: PathBuf| {
        let text = std::fs::read(path).ok()?;
        let list = X509::stack_from_pem(&text).ok().filter(|list| !list.is_empty())?;
        Some((list, hex(&openssl::sha::sha256(&text))))
    };
    let found = named.into_iter().chain(known).find_map(read);
    if found.is_none() {
        let cause = "this system has no list of trusted authorities";
        build.errors.push(
            &config.site,
            &*config.path,
            cause,
            "install ca-certificates, or name a file with `ca`",
        );
    }
    found
}

/// One after the other, without what else was in the file.
fn pem(authorities: &[X509]) -> Vec<u8> {
    authorities.iter().filter_map(|authority| authority.to_pem().ok()).flatten().collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
