//! Another service is asked who a request is from, as nginx (`auth_request`) and Traefik (`forwardAuth`) ask one.
//!
//! It gets GET with the fields that are listed and with what a proxy tells of a request (`X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri`
//! and `-For`), nothing of the body. 2xx is a yes; 401, 403 and a redirect are its answer to the client; everything else, and no
//! answer in time, is a failure: nobody passes.

mod config;
mod service;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, COOKIE, FORWARDED, LOCATION, PRAGMA, SET_COOKIE,
    VIA, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::Handle;

use config::By;
pub use config::{CacheConfig, Config};
use service::{Asking, Service};

use super::{Asked, Context, Denial, Judgement};
use crate::config::Spanned;
use crate::egress::{self, Fetched};
use crate::identity::{Identity, Method};
use crate::reply::Kind;

/// Fields that may be written in parts (RFC 9110 §5.3, RFC 9113 §8.2.3).
const LISTS: [HeaderName; 9] = [
    ACCEPT,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    CACHE_CONTROL,
    COOKIE,
    FORWARDED,
    PRAGMA,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
];
pub(super) const REASONS: &[&str] =
    &["forward_refused", "forward_answer", "forward_busy", "forward_unavailable"];

/// Fields of a refusal that are the service's word to the client.
const TOLD: [HeaderName; 3] = [WWW_AUTHENTICATE, LOCATION, SET_COOKIE];

/// Compiled.
pub(super) struct Forward {
    name: Arc<str>,
    url: Box<str>,
    headers: Box<[HeaderName]>,
    pass: Box<[HeaderName]>,
    /// Whose value is the identity; whether an answer without it is none.
    identity: Option<(HeaderName, bool)>,
    timeout: std::time::Duration,
    /// How long a yes is remembered, and what makes two requests equal; none where each is asked about.
    cache: Option<(std::time::Duration, Box<[By]>)>,
    service: Arc<Service>,
    /// Where it is asked; none in `check` and `explain`.
    runtime: Option<Handle>,
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Forward {
    pub(super) fn compile(
        name: &Arc<str>,
        config: &Spanned<Config>,
        context: &mut Context<'_>,
    ) -> Option<Self> {
        let checked = config::check(config, context.egress, context.build)?;
        let definition = format!("{name} {:?} {:?}", config.value, context.egress);
        let fetcher = context.fetcher();
        let service = context
            .live
            .find_or("forward", &definition, || Service::new(Arc::clone(name), fetcher, config.in_flight));
        Some(Self {
            name: Arc::clone(name),
            url: config.url.as_str().into(),
            headers: checked.headers,
            pass: checked.pass,
            identity: checked.identity,
            timeout: config.timeout.0,
            cache: checked.cache,
            service,
            runtime: context.live.runtime().cloned(),
        })
    }

    /// The fields that come from the service alone.
    pub(super) fn passes(&self) -> &[HeaderName] {
        &self.pass
    }

    /// The fields of a request that it is sent.
    pub(super) fn asks_by(&self) -> &[HeaderName] {
        &self.headers
    }

    /// Whether the request bears nothing that the service could know somebody by.
    pub(super) fn is_absent(&self, headers: &HeaderMap) -> bool {
        !self.headers.iter().any(|name| headers.contains_key(name))
    }

    /// A field that the service is asked about, is no list, and is there twice.
    fn repeated(&self, headers: &HeaderMap) -> Option<&HeaderName> {
        self.headers
            .iter()
            .find(|name| !LISTS.contains(name) && headers.get_all(*name).iter().nth(1).is_some())
    }

    /// What the service says. Asked on the back office; the worker waits.
    pub(super) async fn judge(&self, asked: &Asked<'_>) -> Judgement {
        if let Some(name) = self.repeated(asked.request.headers) {
            let why = format!(
                "`{name}` is there more than once: the service and the upstream might read different ones"
            );
            let denial = Denial::invalid("malformed", why);
            return Judgement::Refused(denial);
        }
        let key = self.cache.as_ref().map(|(_, by)| service::key(by, asked));
        if let Some(identity) = key.as_deref().and_then(|key| self.service.recall(key)) {
            return Judgement::Known(identity, None);
        }
        let unavailable =
            |message: String| Judgement::Refused(Denial::unavailable("forward_unavailable", message));
        let Some(runtime) = &self.runtime else {
            return unavailable("the service is asked by a running gateway only".to_owned());
        };
        let fetched = match self.service.ask(runtime, asked.request.client_ip(), self.question(asked)).await {
            Asking::Answered(fetched) => fetched,
            Asking::Failed(message) => return unavailable(message),
            Asking::Busy => {
                let message = "as many requests wait for the service as `in_flight` allows";
                return Judgement::Refused(Denial::unavailable("forward_busy", message));
            }
        };
        match self.read(&fetched) {
            Ok(identity) => {
                let identity = Arc::new(identity);
                if let (Some((lasts, _)), Some(key)) = (&self.cache, key)
                    && !forbids_storing(&fetched.headers)
                {
                    self.service.remember(&key, *lasts, &identity);
                }
                Judgement::Known(identity, None)
            }
            Err(denial) => Judgement::Refused(denial),
        }
    }

    fn question(&self, asked: &Asked<'_>) -> egress::Request {
        let request = asked.request;
        let mut question = egress::Request::get(self.url.clone()).within(self.timeout).unfollowed();
        let path = match asked.query {
            Some(query) => format!("{}?{query}", request.target.path()),
            None => request.target.path().to_owned(),
        };
        let client = request.client_ip().to_canonical().to_string();
        for (name, value) in [
            ("x-forwarded-method", request.method.as_str()),
            ("x-forwarded-proto", if request.client.https { "https" } else { "http" }),
            ("x-forwarded-host", request.target.authority()),
            ("x-forwarded-uri", &path),
            ("x-forwarded-for", &client),
        ] {
            // All of these are canonical: they fit a field.
            if let Ok(value) = HeaderValue::from_str(value) {
                question = question.with_header(HeaderName::from_static(name), value);
            }
        }
        let mut own = HeaderMap::new();
        for name in &self.headers {
            for value in request.headers.get_all(name) {
                own.append(name.clone(), value.clone());
            }
        }
        asked.kept.scrub(&mut own);
        for (name, value) in &own {
            question = question.with_header(name.clone(), value.clone());
        }
        question
    }

    fn read(&self, fetched: &Fetched) -> Result<Identity, Denial> {
        let told = |kind, message: String| {
            let mut denial = Denial::new(kind, "forward_refused", message);
            for name in &TOLD {
                denial
                    .headers
                    .extend(fetched.headers.get_all(name).iter().map(|value| (name.clone(), value.clone())));
            }
            denial
        };
        let status = fetched.status;
        match status.as_u16() {
            200..=299 => self.known(&fetched.headers),
            401 => Err(told(Kind::Unauthorized, "the service answered 401".to_owned())),
            403 => Err(told(Kind::AccessDenied, "the service answered 403".to_owned())),
            301 | 302 | 303 | 307 | 308 if fetched.headers.contains_key(LOCATION) => {
                let denial = told(Kind::Unauthorized, format!("the service redirects ({})", status.as_u16()));
                Err(Denial { status: Some(status), ..denial })
            }
            other => Err(Denial::unavailable("forward_unavailable", format!("the service answered {other}"))),
        }
    }

    fn known(&self, headers: &HeaderMap) -> Result<Identity, Denial> {
        let wrong = |message| Denial::unavailable("forward_answer", message);
        let id = match &self.identity {
            None => "",
            Some((name, required)) => {
                let mut values = headers.get_all(name).iter();
                match (values.next(), values.next()) {
                    (Some(value), None) => value
                        .to_str()
                        .map_err(|_| wrong("the service's word for the identity is no text"))?
                        .trim(),
                    (None, _) if !required => "",
                    (None, _) => return Err(wrong("the service said yes, and not to whom")),
                    (Some(_), Some(_)) => return Err(wrong("the service named several identities")),
                }
            }
        };
        if id.is_empty() && self.identity.as_ref().is_some_and(|(_, required)| *required) {
            return Err(wrong("the service said yes, and not to whom"));
        }
        let mut identity = Identity::new(id, Method::Forward, Arc::clone(&self.name));
        for name in &self.pass {
            let values = headers.get_all(name);
            if let Some(first) = values.iter().next() {
                let text = String::from_utf8_lossy(first.as_bytes()).into_owned();
                identity.claims.insert(name.as_str().to_owned(), text.into());
            }
        }
        identity.upstream_headers = self
            .pass
            .iter()
            .flat_map(|name| headers.get_all(name).iter().map(|value| (name.clone(), value.clone())))
            .collect();
        Ok(identity)
    }
}

/// Whether the service wants to be asked each time (RFC 9111 §5.2.2.5).
fn forbids_storing(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|word| {
        let word = word.trim();
        word.eq_ignore_ascii_case("no-store") || word.eq_ignore_ascii_case("no-cache")
    })
}
