//! Cross-origin resource sharing, to the letter of the Fetch standard.
//!
//! A browser asks before it lets a page read an answer, or send a request that forms could not. This policy answers preflights,
//! says on every response who may read it, and on request refuses what comes from elsewhere. It protects users, not the
//! upstream: whoever is no browser sends what it likes.

mod compile;
mod origin;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Mode, Outcome, Verdict};
use crate::config::units::Time;
use crate::config::{Site, Spanned};
use crate::reply::Kind;
use crate::request::Fields;
use origin::Origins;

/// Which browsers' pages may read answers, and with which requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Origins that are allowed: exact (`https://app.example.com`), by label (`https://*.example.com`), an anchored
    /// `{regex: …}`, `"*"` for any, `"null"` for the opaque origin.
    pub origins: Vec<Spanned<Origin>>,
    /// Methods a page may use. Default: the methods of the routes that the path has.
    #[serde(default)]
    pub methods: Vec<Spanned<String>>,
    /// Request headers a page may send beyond the safelisted ones; `"*"` only without credentials.
    #[serde(default)]
    pub headers: Vec<Spanned<String>>,
    /// Response headers a page may read beyond the safelisted ones. Where limits have told a client something, what they told may be
    /// read too.
    #[serde(default)]
    pub expose: Vec<Spanned<String>>,
    /// Whether cookies and other credentials may go along.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may keep a preflight's answer.
    #[serde(default = "ten_minutes")]
    pub max_age: Time,
    /// Whether an actual request from another origin is refused (403); otherwise it passes without CORS headers.
    #[serde(default)]
    pub enforce_origin: bool,
    /// Whether a refusal is carried out (`enforce`) or only noted (`shadow`).
    #[serde(default)]
    pub mode: Mode,
}

fn ten_minutes() -> Time {
    Time(std::time::Duration::from_secs(600))
}

/// One allowed origin, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `https://app.example.com`, `https://*.example.com`, `*` or `null`.
    Text(String),
    /// `{regex: '^https://(a|b)\.example\.com$'}`
    Regex(String),
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use crate::config::Pattern;
        match Pattern::deserialize(deserializer)? {
            Pattern::Exact(text) => Ok(Self::Text(text)),
            Pattern::Regex(text) => Ok(Self::Regex(text)),
            Pattern::Present(_) => Err(serde::de::Error::custom("an origin is a text or `{regex: …}`")),
        }
    }
}

impl JsonSchema for Origin {
    fn schema_name() -> Cow<'static, str> {
        "Origin".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "An origin: `https://app.example.com`, `https://*.example.com`, `{regex: …}`, `\"*\"` or `\"null\"`.",
            "anyOf": [
                { "type": "string" },
                { "type": "object", "properties": { "regex": { "type": "string", "format": "x-regex" } },
                  "required": ["regex"], "additionalProperties": false },
            ]
        })
    }
}

/// A policy of cross-origin requests, compiled.
#[derive(Debug)]
pub struct Cors {
    name: Arc<str>,
    mode: Mode,
    site: Site,
    origins: Origins,
    /// Empty: those of the path's routes.
    methods: Vec<Method>,
    headers: AllowedHeaders,
    expose: Option<HeaderValue>,
    /// The same, and the fields of limits.
    expose_limits: Option<HeaderValue>,
    credentials: bool,
    max_age: HeaderValue,
    enforce_origin: bool,
}

/// Which request headers a page may send.
#[derive(Debug)]
struct AllowedHeaders {
    /// `*`: all but `authorization`, which must be named all the same (Fetch, "CORS non-wildcard request-header name").
    any: bool,
    names: HashSet<HeaderName, RandomState>,
    /// What `Access-Control-Allow-Headers` says; none where nothing is allowed.
    value: Option<HeaderValue>,
}

/// What is answered to a preflight.
#[derive(Debug)]
pub enum Preflight<'a> {
    /// 204 with these fields.
    Allow(HeaderMap),
    /// The verdict, always a refusal, and what goes with the 403: `Vary`, and no Allow field. [`Cors::apply`] is not for it.
    Refuse {
        /// Why.
        verdict: Verdict<'a>,
        /// The fields of the reply.
        headers: [(HeaderName, HeaderValue); 1],
    },
}

const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// The fields that say who may read a response. Where a route has a policy, the upstream's own are not passed on.
const RESPONSE_FIELDS: [HeaderName; 7] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    ALLOW_PRIVATE_NETWORK,
];

/// The reasons for which a policy refuses.
pub const REASONS: &[&str] =
    &["origin_not_allowed", "method_not_allowed", "header_not_allowed", "bad_preflight"];

/// The most names that a preflight may ask for, and the most bytes they may take.
const REQUESTED_HEADERS_MAX: usize = 64;
const REQUESTED_HEADERS_BYTES_MAX: usize = 4096;

/// Whether a request is a preflight: OPTIONS with `Origin` and `Access-Control-Request-Method`. Any other OPTIONS is an
/// ordinary request.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The one origin that a request names; none where it names several.
pub fn origin_of(headers: &HeaderMap) -> Option<&HeaderValue> {
    single(headers, &header::ORIGIN)
}

/// The method that a preflight asks for, by which it is routed. None when it is not a single method.
pub fn requested_method(headers: &HeaderMap) -> Option<Method> {
    let value = single(headers, &header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(value.as_bytes()).ok()
}

/// The one value of a field; none where it comes more than once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

impl Cors {
    /// `cors.NAME`
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether refusals are carried out.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where the policy was written.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Answers a preflight. `path_methods` are those of the path's routes, for a policy that lists none.
    ///
    /// A shadowed refusal lets the preflight go on to its route, as though there were no policy.
    pub fn preflight(&self, headers: &HeaderMap, path_methods: &[Method]) -> Preflight<'_> {
        let methods = if self.methods.is_empty() { path_methods } else { &self.methods };
        match self.judge_preflight(headers, methods) {
            Ok(origin) => Preflight::Allow(self.preflight_fields(origin, methods)),
            Err((reason, message)) => Preflight::Refuse {
                verdict: self.refuse(reason, message),
                headers: [(header::VARY, self.preflight_vary())],
            },
        }
    }

    fn judge_preflight<'h>(
        &self,
        headers: &'h HeaderMap,
        methods: &[Method],
    ) -> Result<&'h HeaderValue, (&'static str, Cow<'static, str>)> {
        let Some(origin) = origin_of(headers) else {
            return Err(("bad_preflight", "the preflight has more than one Origin".into()));
        };
        if !self.origins.allow(origin.as_bytes()) {
            return Err(("origin_not_allowed", format!("the origin {origin:?} is not allowed").into()));
        }
        let Some(method) = requested_method(headers) else {
            return Err(("bad_preflight", "the preflight does not ask for one method".into()));
        };
        if !methods.contains(&method) {
            return Err(("method_not_allowed", format!("the method `{method}` is not allowed").into()));
        }
        self.judge_requested_headers(headers)?;
        Ok(origin)
    }

    fn judge_requested_headers(&self, headers: &HeaderMap) -> Result<(), (&'static str, Cow<'static, str>)> {
        let mut names = 0;
        let mut bytes = 0;
        for line in headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            bytes += line.len();
            if bytes > REQUESTED_HEADERS_BYTES_MAX {
                return Err(("bad_preflight", "the preflight asks for too many headers".into()));
            }
            let elements = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            for element in elements.filter(|element| !element.is_empty()) {
                names += 1;
                if names > REQUESTED_HEADERS_MAX {
                    return Err(("bad_preflight", "the preflight asks for too many headers".into()));
                }
                let Ok(name) = HeaderName::from_bytes(element) else {
                    return Err(("bad_preflight", "the preflight asks for what is no header name".into()));
                };
                if !self.headers.allow(&name) {
                    return Err(("header_not_allowed", format!("the header `{name}` is not allowed").into()));
                }
            }
        }
        Ok(())
    }

    fn preflight_fields(&self, origin: &HeaderValue, methods: &[Method]) -> HeaderMap {
        let mut fields = HeaderMap::with_capacity(8);
        fields.insert(header::VARY, self.preflight_vary());
        self.set_origin(Some(origin), &mut fields);
        let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
        if let Ok(methods) = HeaderValue::from_str(&methods.join(", ")) {
            fields.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        if let Some(headers) = &self.headers.value {
            fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
        }
        fields.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        fields
    }

    /// Says on a preflight that something else has refused what the refusal depends on: nobody may read it.
    pub fn apply_to_refused_preflight(&self, response: &mut impl Fields) {
        response.set(header::VARY, self.preflight_vary());
    }

    fn preflight_vary(&self) -> HeaderValue {
        HeaderValue::from_static(match self.origins.any() {
            true => "Access-Control-Request-Method, Access-Control-Request-Headers",
            false => "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        })
    }

    /// Whether an actual request may go on. Refuses only with `enforce_origin`, and only what names an origin: that includes a
    /// page's requests to its own host where the browser sends `Origin`, so list that host too.
    pub fn check_origin(&self, headers: &HeaderMap) -> Verdict<'_> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let allowed = match (origins.next(), origins.next()) {
            _ if !self.enforce_origin => true,
            (None, _) => true,
            (Some(origin), None) => self.origins.allow(origin.as_bytes()),
            (Some(_), Some(_)) => false,
        };
        if allowed {
            return Verdict { outcome: Outcome::Pass, site: &self.site };
        }
        self.refuse("origin_not_allowed", "the request's origin is not allowed".into())
    }

    /// Says on a response who may read it: on upstreams' and on the gateway's own, refusals included. `origin` is the
    /// request's ([`origin_of`]). What the upstream said of it is replaced.
    ///
    /// `limits` have said on it where the client stands, or when to come again: a page may read that as well.
    ///
    /// A shadowed policy leaves the upstream's word where it would not have given its own.
    pub fn apply(&self, origin: Option<&HeaderValue>, limits: bool, response: &mut impl Fields) {
        let origin = origin.filter(|origin| self.origins.allow(origin.as_bytes()));
        if origin.is_none() && !self.origins.any() && self.mode == Mode::Shadow {
            return;
        }
        for name in &RESPONSE_FIELDS {
            if response.fields().contains_key(name) {
                response.remove(name);
            }
        }
        if !self.origins.any() {
            vary_by_origin(response);
        }
        if self.set_origin(origin, response)
            && let Some(expose) = if limits { &self.expose_limits } else { &self.expose }
        {
            response.set(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    /// Whether there was something to say. A policy of any origin says `*` to everyone, so that caches can share it.
    fn set_origin(&self, origin: Option<&HeaderValue>, response: &mut impl Fields) -> bool {
        let value = match origin {
            _ if self.origins.any() => HeaderValue::from_static("*"),
            Some(origin) => origin.clone(),
            None => return false,
        };
        response.set(header::ACCESS_CONTROL_ALLOW_ORIGIN, value);
        if self.credentials {
            response.set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }

    fn refuse(&self, reason: &'static str, message: Cow<'static, str>) -> Verdict<'_> {
        Verdict { outcome: Outcome::Refuse { kind: Kind::CorsRefused, reason, message }, site: &self.site }
    }
}

impl AllowedHeaders {
    fn allow(&self, name: &HeaderName) -> bool {
        self.names.contains(name) || (self.any && *name != header::AUTHORIZATION)
    }
}

/// A cache must not give one origin's answer to another.
fn vary_by_origin(response: &mut impl Fields) {
    let lines = response.fields().get_all(header::VARY);
    let mut names =
        lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
    if names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin")) {
        return;
    }
    let mut all: Vec<u8> = Vec::new();
    for line in response.fields().get_all(header::VARY) {
        all.extend_from_slice(line.as_bytes());
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(b"Origin");
    // Made of valid values: always valid itself.
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        response.set(header::VARY, value);
    }
}
