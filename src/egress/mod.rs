//! The one client for what the gateway fetches itself. It goes where `server.egress` lets it, and is told nothing it was not asked
//! for: no redirect to another host, no proxy of the environment, no cookies, no credentials, no more bytes or time than allowed.
//!
//! An address is judged after resolving, by the resolver that the connection is made with: what was judged is what is connected to.

mod address;
mod names;
mod policy;
mod request;
#[cfg(test)]
mod tests;

use std::error::Error as _;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use schemars::JsonSchema;
use serde::Deserialize;

pub use names::lookup;
use names::{Lookup, system};
pub use policy::Policy;
use policy::Scheme;
pub use request::{Request, lifetime};

use crate::config::Spanned;
use crate::config::units::{Size, Time};

/// Redirects that are followed, all of them to the same scheme, host and port.
const REDIRECTS_MAX: usize = 3;
/// Header fields of an answer.
const FIELDS_MAX: usize = 100;
/// Connections to a host that are kept, and for how long.
const KEPT_MAX: usize = 4;
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Fetches of the gateway's own. Public addresses are reached by https; every other address, and plain http, must be listed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Host names, addresses or CIDRs that may be fetched from though they are not public, and by plain http. A name covers
    /// whatever it resolves to.
    pub allow: Vec<Spanned<String>>,
    /// A fetch as a whole: resolving, redirects and body included. From `100ms` to `1m`.
    pub timeout: Time,
    /// The most of an answer's body. From `1KiB` to `64MiB`.
    pub bytes: Size,
}

impl Default for Config {
    fn default() -> Self {
        Self { allow: Vec::new(), timeout: Time(Duration::from_secs(5)), bytes: Size(1 << 20) }
    }
}

/// Why nothing was fetched: a word for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not a URL, or one without a host.
    BadUrl,
    /// Neither https nor http.
    Scheme,
    /// Credentials in the URL.
    Userinfo,
    /// Plain http to a host that is not listed.
    PlainHttp,
    /// An address that is neither public nor listed.
    NotPublic,
    /// A redirect to another scheme, host or port.
    RedirectElsewhere,
    /// More redirects than are followed.
    Redirects,
    /// The name has no address.
    Unresolved,
    /// No connection.
    Connect,
    /// TLS failed, or the certificate is not to be trusted.
    Tls,
    /// Not done in time.
    Timeout,
    /// The body is larger than allowed.
    Bytes,
    /// The answer breaks off, or is none.
    BadAnswer,
}

impl Reason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadUrl => "bad_url",
            Self::Scheme => "scheme",
            Self::Userinfo => "userinfo",
            Self::PlainHttp => "plain_http",
            Self::NotPublic => "not_public",
            Self::RedirectElsewhere => "redirect_elsewhere",
            Self::Redirects => "redirects",
            Self::Unresolved => "unresolved",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Bytes => "bytes",
            Self::BadAnswer => "bad_answer",
        }
    }

    /// Whether the rules forbid it; else it was tried and failed.
    pub fn is_refusal(self) -> bool {
        match self {
            Self::BadUrl
            | Self::Scheme
            | Self::Userinfo
            | Self::PlainHttp
            | Self::NotPublic
            | Self::RedirectElsewhere
            | Self::Redirects => true,
            Self::Unresolved | Self::Connect | Self::Tls | Self::Timeout | Self::Bytes | Self::BadAnswer => {
                false
            }
        }
    }
}

/// Nothing was fetched, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", reason.as_str())]
pub struct Failure {
    /// The word.
    pub reason: Reason,
    /// What happened, and what would help; for the log alone.
    pub message: String,
}

impl Failure {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What was fetched, of whatever status.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Of the last answer.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body, whole.
    pub body: Bytes,
    /// Where it came from.
    pub address: SocketAddr,
    /// How many redirects led there.
    pub redirects: usize,
}

/// The client. Must be used within the back office: fetching is no worker's work.
pub struct Egress {
    policy: Arc<Policy>,
    secure: Clients,
    plain: Clients,
}

/// Of one scheme.
struct Clients {
    /// Keeps connections.
    keeping: reqwest::Client,
    /// Has each on a connection of its own: for what a kept one did not answer.
    fresh: reqwest::Client,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Egress {
    /// Reads the authorities that this system trusts.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(policy: Arc<Policy>) -> Result<Self, String> {
        Self::with_lookup(policy, &system())
    }

    fn with_lookup(policy: Arc<Policy>, lookup: &Lookup) -> Result<Self, String> {
        let client = |scheme, kept| {
            let guard = Guard { policy: Arc::clone(&policy), scheme, lookup: Arc::clone(lookup) };
            reqwest::Client::builder()
                .dns_resolver(guard)
                .no_proxy()
                // Followed by us: each step is judged.
                .redirect(redirect::Policy::none())
                .referer(false)
                .retry(reqwest::retry::never())
                .user_agent(concat!("portcullis/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(policy.timeout)
                .pool_max_idle_per_host(kept)
                .pool_idle_timeout(KEPT_FOR)
                .http1_only()
                .http1_max_headers(FIELDS_MAX)
                .tls_backend_native()
                .tls_version_min(reqwest::tls::Version::TLS_1_2)
                .https_only(scheme == Scheme::Https)
                .build()
                .map_err(|error| error.to_string())
        };
        let clients = |scheme| {
            Ok::<_, String>(Clients { keeping: client(scheme, KEPT_MAX)?, fresh: client(scheme, 0)? })
        };
        Ok(Self { secure: clients(Scheme::Https)?, plain: clients(Scheme::Http)?, policy })
    }

    /// Fetches with GET, within the time and the bytes allowed. Whatever the status, an answer is an answer.
    ///
    /// # Errors
    /// What the rules forbid, and what failed.
    pub async fn get(&self, url: &str) -> Result<Fetched, Failure> {
        self.send(Request::get(url)).await
    }

    /// Asks, within the time and the bytes allowed. Whatever the status, an answer is an answer.
    ///
    /// # Errors
    /// What the rules forbid, and what failed.
    pub async fn send(&self, request: Request) -> Result<Fetched, Failure> {
        let most = self.policy.timeout;
        let within = request.within.map_or(most, |time| time.min(most));
        let late = |_| {
            let key = if within == most { " (`server.egress.timeout`)" } else { "" };
            Failure::new(Reason::Timeout, format!("not done within {within:?}{key}"))
        };
        tokio::time::timeout(within, self.follow(&request)).await.map_err(late)?
    }

    async fn follow(&self, request: &Request) -> Result<Fetched, Failure> {
        let mut target = self.policy.url(&request.url)?;
        for redirects in 0..=REDIRECTS_MAX {
            let clients = match target.scheme {
                Scheme::Https => &self.secure,
                Scheme::Http => &self.plain,
            };
            let ask = |client: &reqwest::Client| {
                let asked = client.request(request.method.clone(), target.url.clone());
                let asked = asked.headers(request.headers.clone());
                let asked = if request.body.is_empty() { asked } else { asked.body(request.body.clone()) };
                asked.send()
            };
            let mut response = ask(&clients.keeping).await;
            // A server may close a kept connection just as it is asked there. None of our questions changes anything.
            if response.as_ref().is_err_and(was_closed) {
                response = ask(&clients.fresh).await;
            }
            let response = response.map_err(failure)?;
            let address = response
                .remote_addr()
                .ok_or_else(|| Failure::new(Reason::Connect, "the connection's address is not known"))?;
            // The same judgement again, on what the socket says.
            self.policy.address(&target.host, target.scheme, address.ip())?;
            match leads_on(response.status(), response.headers()).filter(|_| request.follows) {
                Some(location) => target = target.redirect(&location, &self.policy)?,
                None => return self.read(response, request.bytes_max, address, redirects).await,
            }
        }
        Err(Failure::new(Reason::Redirects, format!("more than {REDIRECTS_MAX} redirects")))
    }

    /// The body, which is nobody's compressed one: none is asked for, none is unpacked.
    async fn read(
        &self,
        mut response: reqwest::Response,
        bytes_max: Option<u64>,
        address: SocketAddr,
        redirects: usize,
    ) -> Result<Fetched, Failure> {
        let most = bytes_max.map_or(self.policy.bytes, |own| own.min(self.policy.bytes));
        let large = || {
            let key = if most == self.policy.bytes { " (`server.egress.bytes`)" } else { "" };
            Failure::new(Reason::Bytes, format!("the body is larger than {}{key}", Size(most)))
        };
        if response.content_length().is_some_and(|length| length > most) {
            return Err(large());
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(failure)? {
            if (body.len() + chunk.len()) as u64 > most {
                return Err(large());
            }
            body.extend_from_slice(&chunk);
        }
        let headers = std::mem::take(response.headers_mut());
        Ok(Fetched { status: response.status(), headers, body: body.freeze(), address, redirects })
    }
}

/// Where an answer redirects to; 304 and the like do not.
fn leads_on(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308).then_some(())?;
    // Not valid as text: it leads nowhere that could be judged.
    headers.get(header::LOCATION).map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned())
}

/// Whether the connection ended before an answer had come.
fn was_closed(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        let is_reset = cause
            .downcast_ref::<io::Error>()
            .is_some_and(|own| matches!(own.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
        // The words of hyper, whose type cannot be named from here.
        if is_reset || cause.to_string().starts_with("connection closed before message completed") {
            return !error.is_connect();
        }
        source = cause.source();
    }
    false
}

/// What went wrong on the way, by the innermost cause that is known.
fn failure(error: reqwest::Error) -> Failure {
    // A URL may have in its query what is no log's business.
    let error = error.without_url();
    let mut innermost = error.to_string();
    let mut is_tls = false;
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(own) = cause.downcast_ref::<Failure>() {
            return own.clone();
        }
        is_tls |= cause.is::<openssl::ssl::Error>() || cause.is::<openssl::error::ErrorStack>();
        innermost = cause.to_string();
        source = cause.source();
    }
    let reason = if is_tls {
        Reason::Tls
    } else if error.is_timeout() {
        Reason::Timeout
    } else if error.is_connect() {
        Reason::Connect
    } else {
        Reason::BadAnswer
    };
    Failure::new(reason, innermost)
}

/// Resolves for the connector, and keeps back the addresses that must not be connected to.
struct Guard {
    policy: Arc<Policy>,
    scheme: Scheme,
    lookup: Lookup,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, scheme, lookup) = (Arc::clone(&self.policy), self.scheme, Arc::clone(&self.lookup));
        Box::pin(async move {
            let host = name.as_str();
            let found = lookup(host.to_owned())
                .await
                .map_err(|cause| Failure::new(Reason::Unresolved, format!("`{host}`: {cause}")))?;
            let mut refused = None;
            let mut good = Vec::with_capacity(found.len());
            for ip in found {
                match policy.address(host, scheme, ip) {
                    Ok(()) => good.push(SocketAddr::new(ip, 0)),
                    Err(failure) => refused = Some(failure),
                }
            }
            if good.is_empty() {
                let none = || Failure::new(Reason::Unresolved, format!("`{host}` has no address"));
                return Err(refused.unwrap_or_else(none).into());
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}
