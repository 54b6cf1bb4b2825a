//! Everything the gateway may answer itself: one catalogue of kinds, and the forms they take.

mod catalogue;
mod replies;
mod wants;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

pub use catalogue::Kind;
pub use replies::Replies;
pub use wants::{Preference, Wants};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
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
    #[schemars(extend("x-guarded" = "text"))]
    pub headers: BTreeMap<String, Spanned<String>>,
    /// Another body; a template. `{error.message}` is the sentence that clients may read; where the type is JSON or HTML, values
    /// are escaped for it, and a brace that is meant is written twice: `'{{"message": "{error.message}"}}'`.
    #[schemars(extend("x-guarded" = "text"))]
    pub body: Option<Spanned<String>>,
    /// The body's type. Default: text/plain.
    pub content_type: Option<Spanned<String>>,
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
    /// Another status than the kind's, whatever `replies` say: an external service redirects the client.
    pub status: Option<StatusCode>,
    /// For what limits have refused.
    pub violated: Option<Box<Violated>>,
}

/// The limits that have refused, by the names of those that clients may know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violated(pub Vec<Arc<str>>);

impl Refusal {
    /// A refusal that no policy made.
    pub fn new(kind: Kind, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            reason,
            message: message.into(),
            policy: None,
            site: None,
            headers: Vec::new(),
            status: None,
            violated: None,
        }
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

impl Reply {
    /// An answer with this body.
    pub fn new(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert(header::CONTENT_TYPE, content_type);
        Self { status, headers, body }
    }
}
