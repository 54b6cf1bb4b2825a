//! What is written about an external service, and what can be wrong with it.

use std::borrow::Cow;
use std::time::Duration;

use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::{is_forwarding, is_identity};
use crate::config::units::Time;
use crate::config::{Build, OrNone, Spanned};
use crate::egress;
use crate::policy::auth::credential::is_reserved;

/// The longest that a request may wait for the service.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// The longest that a yes is remembered: as long as somebody may still pass who has been locked out.
const REMEMBERED_MAX: Duration = Duration::from_secs(600);
/// The most that may wait for the service at once.
const IN_FLIGHT_MAX: usize = 10_000;

/// A service that is asked about each request: GET with the fields of `headers`, `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and `-For`.
/// 2xx is a yes. 401, 403 and redirects are given to the client, with `WWW-Authenticate`, `Location` and `Set-Cookie`. Whatever else
/// comes of it is 503.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Its address. What is not public, or plain http, must stand in `server.egress.allow`.
    pub url: Spanned<String>,
    /// Fields of the request that it is sent, and no others; without the keys and passwords that are for the gateway alone. Default:
    /// `authorization` and `cookie`. Beside other kinds of credentials (`any_of`) the service is asked only about requests of which none
    /// of these knows whose they are: what it could know somebody by, a cookie for instance, may be no credential at all, so it refuses
    /// nobody who bears another that is good. A credential that another kind reads is that kind's to judge. A request without any of these
    /// fields is asked about where nothing else is presented, so that the service's login is the answer; not where `anonymous` lets it pass.
    pub headers: Option<Vec<Spanned<String>>>,
    /// Fields of its answer that the upstream gets, each by its name: letters, digits and `-`. From a client they never pass, however
    /// they are spelt.
    pub pass: Vec<Spanned<String>>,
    /// The field of its answer that names the identity; a yes without it is 503. Default: the first of `pass`, where it is there.
    pub identity_header: Option<Spanned<String>>,
    /// How long a request waits for it, from `10ms` to `30s`; at most `server.egress.timeout`.
    pub timeout: Time,
    /// Requests that may wait for it at once; more are 503.
    pub in_flight: usize,
    /// `none`, or for how long a yes is remembered: `{for: 10s, by: [authorization, cookie, ':path']}`.
    pub cache: OrNone<Spanned<CacheConfig>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: Spanned::unwritten(String::new()),
            headers: None,
            pass: Vec::new(),
            identity_header: None,
            timeout: Time(Duration::from_secs(1)),
            in_flight: 256,
            cache: OrNone::None,
        }
    }
}

/// How a yes is remembered.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// How long, up to `10m`: as long may somebody pass who has been locked out.
    #[serde(rename = "for")]
    pub lasts: Time,
    /// What makes two requests equal: fields, and `:method`, `:host`, `:path` (with the query) and `:client`. Each of `headers` must be
    /// among them. Default: all that the service is told.
    #[serde(default)]
    pub by: Option<Vec<Spanned<String>>>,
}

/// What makes two requests equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum By {
    Header(HeaderName),
    Method,
    Host,
    Path,
    Client,
}

/// A configuration without fault.
pub(super) struct Checked {
    pub(super) headers: Box<[HeaderName]>,
    pub(super) pass: Box<[HeaderName]>,
    pub(super) identity: Option<(HeaderName, bool)>,
    pub(super) cache: Option<(Duration, Box<[By]>)>,
}

/// None when `build.errors` says why.
pub(super) fn check(config: &Spanned<Config>, egress: &egress::Policy, build: &mut Build) -> Option<Checked> {
    let errors_before = build.errors.errors().len();
    if config.url.is_empty() {
        let cure = "write `url: https://auth.example.com/check`";
        build.errors.push(&config.site, format!("{}.url", config.path), "nobody is asked", cure);
    } else if let Err(failure) = egress.may_fetch(&config.url) {
        let host = config.url.parse::<http::Uri>().ok().and_then(|url| url.host().map(str::to_owned));
        let cure: Cow<'static, str> = match (failure.reason, host) {
            (egress::Reason::NotPublic | egress::Reason::PlainHttp, Some(host)) => {
                format!("write `server: {{egress: {{allow: [\"{host}\"]}}}}` where it is meant").into()
            }
            _ => "write such as `https://auth.example.com/check`".into(),
        };
        let cause = format!("the service cannot be asked: {}", failure.message);
        build.errors.push(&config.url.site, &*config.url.path, cause, cure);
    }
    if config.url.contains('#') {
        let cause = "what stands behind `#` is sent to nobody";
        build.errors.push(&config.url.site, &*config.url.path, cause, "leave it out");
    }
    let mut range = |key: &str, holds: bool, written: String, cure: &'static str| {
        if !holds {
            let cause = format!("{written} is out of range");
            build.errors.push(&config.site, format!("{}.{key}", config.path), cause, cure);
        }
    };
    let timeout = config.timeout.0;
    range(
        "timeout",
        (Duration::from_millis(10)..=TIMEOUT_MAX).contains(&timeout),
        config.timeout.to_string(),
        "write a duration from `10ms` to `30s`",
    );
    let in_flight = config.in_flight;
    range(
        "in_flight",
        (1..=IN_FLIGHT_MAX).contains(&in_flight),
        in_flight.to_string(),
        "write a number from 1 to 10000",
    );
    let headers: Vec<_> = match &config.headers {
        None => vec![AUTHORIZATION, COOKIE],
        Some(names) => fields(names, asked_about, build),
    };
    if config.headers.as_ref().is_some_and(Vec::is_empty) {
        let cause = "the service is sent nothing that it could know anybody by";
        let cure =
            "list what it knows clients by, such as `[cookie]`; left out, it is `[authorization, cookie]`";
        build.errors.push(&config.site, format!("{}.headers", config.path), cause, cure);
    }
    let pass = fields(&config.pass, passed_on, build);
    let identity = match &config.identity_header {
        Some(name) => field(name, build).map(|name| (name, true)),
        None => pass.first().cloned().map(|name| (name, false)),
    };
    let cache = config.cache.as_option().and_then(|cache| remembered(cache, &headers, build));
    let sound = build.errors.errors().len() == errors_before;
    sound.then(|| Checked { headers: headers.into(), pass: pass.into(), identity, cache })
}

/// Why a field cannot be meant, and what to write instead.
type Fault = (&'static str, &'static str);

/// Each of them once: a field that is sent twice is no credential.
fn fields(
    names: &[Spanned<String>],
    fault: impl Fn(&str) -> Option<Fault>,
    build: &mut Build,
) -> Vec<HeaderName> {
    let mut found = Vec::new();
    for name in names {
        let Some(field) = field(name, build) else { continue };
        if let Some((cause, cure)) = fault(field.as_str()) {
            build.errors.push(&name.site, &*name.path, format!("`{field}` {cause}"), cure);
        } else if found.contains(&field) {
            let cause = format!("`{field}` is named twice");
            build.errors.push(&name.site, &*name.path, cause, "remove one of the two");
        } else {
            found.push(field);
        }
    }
    found
}

/// The service would believe a client what proxies tell of it.
fn asked_about(name: &str) -> Option<Fault> {
    if is_forwarding(name) || is_identity(name) {
        let cause = "tells what a proxy knows of a client; here it would be the client's own word";
        return Some((
            cause,
            "leave it out: the service is told `X-Forwarded-For` and the like by the gateway",
        ));
    }
    is_of_hop(name).then_some(("ends at the gateway", "name a field that clients send to servers"))
}

fn passed_on(name: &str) -> Option<Fault> {
    if is_forwarding(name) {
        return Some((
            "tells whose request it is, which is the gateway's own word",
            "have the service answer with a field of its own, such as `x-user`",
        ));
    }
    if matches!(name, "set-cookie" | "www-authenticate" | "location") {
        let cure = "leave it out: clients get it with a no";
        return Some(("is a field of answers, which means nothing to an upstream", cure));
    }
    is_of_hop(name).then_some(("ends at the gateway", "name a field that servers know somebody by"))
}

/// What is no end's word to the other (RFC 9110 §7.6.1, §11.7), beside what is reserved.
fn is_of_hop(name: &str) -> bool {
    matches!(
        name,
        "http2-settings" | "proxy-authenticate" | "proxy-authorization" | "proxy-authentication-info"
    )
}

/// A field that is neither the connection's nor the gateway's own word, and is the same to every server: CGI and its kin take `_`, `.` and
/// the like for `-`, and a field whose name has a `_` is not taken from clients.
fn field(name: &Spanned<String>, build: &mut Build) -> Option<HeaderName> {
    let plain = |field: &HeaderName| field.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    match name.parse::<HeaderName>() {
        Ok(field) if !plain(&field) && field.as_str().contains('*') => {
            let cause = format!("`{field}` stands for no other names");
            let cure = "list each field by its name, such as `x-user`";
            build.errors.push(&name.site, &*name.path, cause, cure);
            None
        }
        Ok(field) if !plain(&field) => {
            let cause =
                format!("`{field}` is another field to other servers, which take its punctuation for `-`");
            let cure =
                format!("write `{}`", field.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
            build.errors.push(&name.site, &*name.path, cause, cure);
            None
        }
        Ok(field) if !is_reserved(&field) => Some(field),
        Ok(field) => {
            let cause = format!("`{field}` is the connection's, or the gateway's own word");
            build.errors.push(&name.site, &*name.path, cause, "name a field that clients and servers send");
            None
        }
        Err(_) => {
            let cause = format!("`{}` is not the name of a header field", name.value);
            build.errors.push(&name.site, &*name.path, cause, "write such as `x-user`");
            None
        }
    }
}

fn remembered(
    cache: &Spanned<CacheConfig>,
    headers: &[HeaderName],
    build: &mut Build,
) -> Option<(Duration, Box<[By]>)> {
    let lasts = cache.lasts.0;
    if lasts.is_zero() || lasts > REMEMBERED_MAX {
        let cause = format!("{} is out of range", cache.lasts);
        build.errors.push(&cache.site, format!("{}.for", cache.path), cause, "write a duration up to `10m`");
    }
    let all = || headers.iter().cloned().map(By::Header);
    let Some(written) = &cache.by else {
        let by = all().chain([By::Method, By::Host, By::Path, By::Client]).collect();
        return Some((lasts, by));
    };
    let mut by = Vec::new();
    for name in written {
        match name.as_str() {
            ":method" => by.push(By::Method),
            ":host" => by.push(By::Host),
            ":path" => by.push(By::Path),
            ":client" => by.push(By::Client),
            _ => by.extend(field(name, build).map(By::Header)),
        }
    }
    let forgotten: Vec<_> =
        headers.iter().filter(|name| !by.contains(&By::Header((*name).clone()))).collect();
    if let Some(name) = forgotten.first() {
        build.errors.push(
            &cache.site,
            format!("{}.by", cache.path),
            format!(
                "the service is sent `{name}`, and its answer would be another client's who sends another one"
            ),
            "list every field of `headers` here",
        );
        return None;
    }
    let told = [(":method", By::Method), (":host", By::Host), (":path", By::Path)];
    let silent: Vec<_> = told.iter().filter(|(_, what)| !by.contains(what)).map(|(name, _)| *name).collect();
    if !silent.is_empty() {
        let cause = format!("a yes to one request holds for all that differ in {} only", silent.join(", "));
        let cure = "right where the service looks at nothing but `by`; list them otherwise, in quotes";
        build.errors.warn(&cache.site, format!("{}.by", cache.path), cause, cure);
    }
    Some((lasts, by.into()))
}
