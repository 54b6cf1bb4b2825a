//! Everything the gateway may answer itself: one catalogue of kinds, and the forms they take.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Site, Spanned};
use crate::record::ErrorFacts;

/// How one kind of reply is customised.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Another status.
    #[schemars(range(min = 400, max = 599))]
    pub status: Option<u16>,
    /// More header fields; the values are templates.
    pub headers: BTreeMap<String, Spanned<String>>,
    /// Another body; a template.
    pub body: Option<Spanned<String>>,
    /// Its type. Default: text/plain.
    pub content_type: Option<Spanned<String>>,
}

/// Why the gateway answers itself. The names are those of `replies` and of the log's `responseType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// 400: what has two readings, or none.
    AmbiguousRequest,
    /// 404
    RouteNotFound,
    /// 405, with `Allow`
    MethodNotAllowed,
    /// 403
    AccessDenied,
    /// 403
    CorsRefused,
    /// 408
    RequestTimeout,
    /// 414
    UriTooLong,
    /// 421
    Misdirected,
    /// 431
    HeadersTooLarge,
    /// 501
    UnknownCoding,
    /// 503
    Overloaded,
    /// 503
    NoHealthyServer,
    /// 502
    IntegrationFailure,
    /// 504
    IntegrationTimeout,
    /// 500: a fault of our own.
    InternalError,
}

impl Kind {
    /// The kind's name: `ACCESS_DENIED`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AmbiguousRequest => "AMBIGUOUS_REQUEST",
            Self::RouteNotFound => "ROUTE_NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::AccessDenied => "ACCESS_DENIED",
            Self::CorsRefused => "CORS_REFUSED",
            Self::RequestTimeout => "REQUEST_TIMEOUT",
            Self::UriTooLong => "URI_TOO_LONG",
            Self::Misdirected => "MISDIRECTED",
            Self::HeadersTooLarge => "HEADERS_TOO_LARGE",
            Self::UnknownCoding => "UNKNOWN_CODING",
            Self::Overloaded => "OVERLOADED",
            Self::NoHealthyServer => "NO_HEALTHY_SERVER",
            Self::IntegrationFailure => "INTEGRATION_FAILURE",
            Self::IntegrationTimeout => "INTEGRATION_TIMEOUT",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    /// Its status, unless `replies` says otherwise.
    pub fn status(self) -> StatusCode {
        match self {
            Self::AmbiguousRequest => StatusCode::BAD_REQUEST,
            Self::RouteNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::AccessDenied | Self::CorsRefused => StatusCode::FORBIDDEN,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Overloaded | Self::NoHealthyServer => StatusCode::SERVICE_UNAVAILABLE,
            Self::IntegrationFailure => StatusCode::BAD_GATEWAY,
            Self::IntegrationTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A refusal: what the client is told (kind, headers) and what only the log is told (reason, message, policy, site).
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What the client is told.
    pub kind: Kind,
    /// A word for metrics, written in the code: `not_allowed`.
    pub reason: &'static str,
    /// What happened, for the log.
    pub message: Cow<'static, str>,
    /// `KIND.NAME`.
    pub policy: Option<Arc<str>>,
    /// The line that decided.
    pub site: Option<Site>,
    /// Fields that go with the kind, such as `Allow`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// A refusal that no policy made.
    pub fn new(kind: Kind, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, reason, message: message.into(), policy: None, site: None, headers: Vec::new() }
    }

    /// With a header field.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// As the log tells it.
    pub fn facts(&self) -> ErrorFacts {
        ErrorFacts {
            response_type: self.kind.name(),
            reason: self.reason,
            message: self.message.clone(),
            policy: self.policy.clone(),
            site: self.site.clone(),
        }
    }
}

/// An answer of our own, whole.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The fields, `Content-Type` and `Content-Length` included.
    pub headers: HeaderMap,
    /// The body; not sent in answer to HEAD.
    pub body: Bytes,
}
