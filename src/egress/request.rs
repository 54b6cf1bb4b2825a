//! What is asked of a server, and what its answer says of how long it holds.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AGE, CACHE_CONTROL};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// What is asked, and how patiently. Its address, fields and body may bear credentials: none is ever shown.
#[derive(Clone)]
pub struct Request {
    pub(super) method: Method,
    pub(super) url: Box<str>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) within: Option<Duration>,
    pub(super) bytes_max: Option<u64>,
    pub(super) follows: bool,
}

impl Request {
    /// GET; redirects are followed as the rules allow.
    pub fn get(url: impl Into<Box<str>>) -> Self {
        Self {
            method: Method::GET,
            url: url.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            within: None,
            bytes_max: None,
            follows: true,
        }
    }

    /// POST; a redirect is an answer like any other.
    pub fn post(url: impl Into<Box<str>>, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, body: body.into(), follows: false, ..Self::get(url) }
    }

    /// With a header field, beside those of the same name.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Within this time, where `server.egress.timeout` allows as much.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// With at most these bytes in the answer's body, where `server.egress.bytes` allows as many.
    #[must_use]
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.bytes_max = Some(bytes);
        self
    }

    /// Without following redirects: one is an answer like any other.
    #[must_use]
    pub fn unfollowed(mut self) -> Self {
        self.follows = false;
        self
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("method", &self.method).finish_non_exhaustive()
    }
}

/// How long an answer may be used without asking again, by its `max-age` less its `Age` (RFC 9111 §4.2.1, §5.1); none where it does
/// not say. What must not be stored, or not be used unasked, or is said in a way that cannot be read, is good for no time.
pub fn lifetime(headers: &HeaderMap) -> Option<Duration> {
    let mut lifetime = None;
    for field in headers.get_all(CACHE_CONTROL) {
        let Some(directives) = field.to_str().ok().and_then(directives) else { return Some(Duration::ZERO) };
        for directive in directives {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" | "no-cache" => return Some(Duration::ZERO),
                "max-age" => {
                    let own = seconds(value).unwrap_or_default();
                    lifetime = Some(lifetime.map_or(own, |other: Duration| other.min(own)));
                }
                _ => {}
            }
        }
    }
    let age = headers.get(AGE).and_then(|age| age.to_str().ok()).and_then(seconds);
    lifetime.map(|lifetime| lifetime.saturating_sub(age.unwrap_or_default()))
}

/// The directives of a field: a comma within quotes is a part of one (RFC 9110 §5.6.4). None where a quote is not closed.
fn directives(text: &str) -> Option<Vec<&str>> {
    let (mut quoted, mut escaped) = (false, false);
    let directives = text
        .split(|c: char| {
            let ends = c == ',' && !quoted;
            quoted ^= c == '"' && !escaped;
            escaped = c == '\\' && quoted && !escaped;
            ends
        })
        .collect();
    (!quoted).then_some(directives)
}

/// A number of seconds, also in quotes (RFC 9111 §5.2); one that is too large is the largest (§1.2.2). None where it is none.
fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let is_number = !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| Duration::from_secs(bare.parse::<u32>().unwrap_or(u32::MAX).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_an_answer_holds() {
        for (fields, expected) in [
            (&[][..], None),
            (&[("cache-control", "public")], None),
            (&[("cache-control", "public, max-age=300, must-revalidate")], Some(300)),
            (&[("cache-control", "Max-Age=\"60\"")], Some(60)),
            (&[("cache-control", "max-age=300"), ("age", "100")], Some(200)),
            (&[("cache-control", "max-age=300"), ("age", "400")], Some(0)),
            (&[("cache-control", "max-age=300"), ("cache-control", "max-age=30")], Some(30)),
            (&[("cache-control", "max-age=soon")], Some(0)),
            (&[("cache-control", "max-age=99999999999999999999")], Some(u32::MAX.into())),
            (&[("cache-control", "max-age=\"99999999999999999999\"")], Some(u32::MAX.into())),
            (&[("cache-control", "max-age=300"), ("age", "99999999999999999999")], Some(0)),
            (&[("cache-control", "max-age=300"), ("age", "-5")], Some(300)),
            (&[("cache-control", "max-age=-1")], Some(0)),
            (&[("cache-control", "max-age=")], Some(0)),
            (&[("cache-control", "max-age=\"60")], Some(0)),
            // A list of fields is no list of directives.
            (&[("cache-control", "private=\"x, no-store, y\", max-age=300")], Some(300)),
            (&[("cache-control", "ext=\"a\\\", no-store\", max-age=300")], Some(300)),
            (&[("cache-control", "ext=\"a, max-age=300, no-store")], Some(0)),
            (&[("cache-control", "max-age=300, no-store")], Some(0)),
            (&[("cache-control", "no-cache")], Some(0)),
        ] {
            let headers = fields.iter().fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(*name, HeaderValue::from_static(value));
                headers
            });
            assert_eq!(lifetime(&headers), expected.map(Duration::from_secs), "{fields:?}");
        }
    }

    #[test]
    fn nothing_of_it_is_shown() {
        let secret = HeaderValue::from_static("Basic c2VjcmV0");
        let request = Request::post("https://u.example/?secret", "secret");
        let shown = format!("{:?}", request.with_header(http::header::AUTHORIZATION, secret));
        assert_eq!(shown, "Request { method: POST, .. }");
    }
}
