//! What a route asks of a request beside host and path: methods, headers, query.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use regex::bytes::Regex;

use super::{Match, Specificity};
use crate::config::{Build, Pattern, Spanned};

/// All conditions of a route; they hold together or not.
#[derive(Debug)]
pub(super) struct Conditions {
    /// HEAD beside GET; empty is any.
    methods: Vec<Method>,
    headers: Vec<(HeaderName, Value)>,
    query: Vec<(Box<str>, Value)>,
    specificity: Specificity,
}

/// A condition on a value. Where a request gives it several times, each must hold: so two values never both match one request.
#[derive(Debug)]
enum Value {
    Exact(Box<[u8]>),
    Regex(Regex),
    Present,
    Absent,
}

impl Conditions {
    pub(super) fn compile(matches: &Match, build: &mut Build) -> Option<Self> {
        let methods = methods(&matches.methods, build);
        let headers = headers(matches, build);
        let mut query = Some(Vec::new());
        for (name, pattern) in &matches.query {
            match (Value::compile(pattern, build), &mut query) {
                (Some(value), Some(query)) => query.push((name.as_str().into(), value)),
                _ => query = None,
            }
        }
        let (methods, headers, query) = (methods?, headers?, query?);
        let specificity = (!methods.is_empty(), headers.len(), query.len());
        Some(Self { methods, headers, query, specificity })
    }

    pub(super) fn specificity(&self) -> Specificity {
        self.specificity
    }

    /// What the route takes, HEAD with GET; empty is any.
    pub(super) fn methods(&self) -> &[Method] {
        &self.methods
    }

    pub(super) fn admit(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    /// All but the method.
    pub(super) fn hold(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        let headers_hold = self
            .headers
            .iter()
            .all(|(name, value)| value.holds(headers.get_all(name).iter().map(HeaderValue::as_bytes)));
        headers_hold && self.hold_by_query(query)
    }

    /// All but the method and the headers.
    pub(super) fn hold_by_query(&self, query: Option<&str>) -> bool {
        self.query.iter().all(|(name, value)| value.holds_in(query.unwrap_or_default(), name))
    }

    /// Whether a condition asks for this field.
    pub(super) fn name(&self, field: &HeaderName) -> bool {
        self.headers.iter().any(|(name, _)| name == field)
    }

    pub(super) fn are_conditional(&self) -> bool {
        !self.headers.is_empty() || !self.query.is_empty()
    }

    /// Whether some request could satisfy both. May say yes where none can (two regular expressions), never no where one can.
    pub(super) fn overlap(&self, other: &Self) -> bool {
        let disjoint = |ours: &Value, theirs: &Value| ours.excludes(theirs) || theirs.excludes(ours);
        let by_headers = self.headers.iter().any(|(name, value)| {
            other.headers.iter().any(|(theirs, other)| theirs == name && disjoint(value, other))
        });
        let by_query = self.query.iter().any(|(name, value)| {
            other.query.iter().any(|(theirs, other)| theirs == name && disjoint(value, other))
        });
        self.methods_overlap(other) && !by_headers && !by_query
    }

    pub(super) fn methods_overlap(&self, other: &Self) -> bool {
        self.methods.is_empty()
            || other.methods.is_empty()
            || self.methods.iter().any(|method| other.methods.contains(method))
    }

    /// Whether every request that satisfies `other`'s headers and query satisfies ours. May say no where it is so.
    pub(super) fn are_implied_by(&self, other: &Self) -> bool {
        self.headers
            .iter()
            .all(|(name, value)| other.headers.iter().any(|(n, o)| n == name && value.is_implied_by(o)))
            && self
                .query
                .iter()
                .all(|(name, value)| other.query.iter().any(|(n, o)| n == name && value.is_implied_by(o)))
    }
}

impl Value {
    fn compile(written: &Spanned<Pattern>, build: &mut Build) -> Option<Self> {
        match &written.value {
            Pattern::Exact(text) => Some(Self::Exact(text.as_bytes().into())),
            Pattern::Present(true) => Some(Self::Present),
            Pattern::Present(false) => Some(Self::Absent),
            // The whole value: a pattern that forgets its anchors must not match a part.
            Pattern::Regex(text) => match Regex::new(&format!(r"\A(?:{text})\z")) {
                Ok(regex) => Some(Self::Regex(regex)),
                Err(error) => {
                    let cause = format!("`{text}` is not a regular expression: {}", last_line(&error));
                    build.errors.push(
                        &written.site,
                        &*written.path,
                        cause,
                        "see the syntax of the regex crate",
                    );
                    None
                }
            },
        }
    }

    fn holds<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
        let Some(first) = values.next() else { return matches!(self, Self::Absent) };
        match self {
            Self::Exact(text) => *first == **text && values.all(|value| *value == **text),
            Self::Regex(regex) => regex.is_match(first) && values.all(|value| regex.is_match(value)),
            Self::Present => true,
            Self::Absent => false,
        }
    }

    fn holds_in(&self, query: &str, name: &str) -> bool {
        let mut seen = false;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !decoded(key).eq(name.bytes()) {
                continue;
            }
            seen = true;
            let holds = match self {
                Self::Exact(text) => decoded(value).eq(text.iter().copied()),
                Self::Regex(regex) if value.contains(['%', '+']) => {
                    regex.is_match(&decoded(value).collect::<Vec<_>>())
                }
                Self::Regex(regex) => regex.is_match(value.as_bytes()),
                Self::Present => true,
                Self::Absent => false,
            };
            if !holds {
                return false;
            }
        }
        seen || matches!(self, Self::Absent)
    }

    fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a != b,
            (Self::Exact(text), Self::Regex(regex)) => !regex.is_match(text),
            (Self::Absent, other) => !matches!(other, Self::Absent),
            _ => false,
        }
    }

    fn is_implied_by(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, other) => !matches!(other, Self::Absent),
            (Self::Absent, Self::Absent) => true,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Regex(regex), Self::Exact(text)) => regex.is_match(text),
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// The bytes of a query's part as a form decodes them: `+` is a space, a `%` without two hex digits is itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (first, tail) = rest.split_first()?;
        rest = tail;
        match (*first, tail) {
            (b'+', _) => Some(b' '),
            (b'%', [high, low, after @ ..]) => {
                let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
                match (digit(*high), digit(*low)) {
                    (Some(high), Some(low)) => {
                        rest = after;
                        Some(high * 16 + low)
                    }
                    _ => Some(b'%'),
                }
            }
            (byte, _) => Some(byte),
        }
    })
}

fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn methods(written: &[Spanned<String>], build: &mut Build) -> Option<Vec<Method>> {
    let mut methods: Vec<Method> = Vec::new();
    let mut sound = true;
    for entry in written {
        let text = entry.as_str();
        let result = match Method::from_bytes(text.as_bytes()) {
            _ if text == "*" => {
                Err(("`*` is not a method".to_owned(), "leave `methods` out for any".to_owned()))
            }
            Err(_) => {
                Err((format!("`{text}` is not a method"), "write `GET`, `POST` and the like".to_owned()))
            }
            Ok(Method::TRACE | Method::CONNECT) => {
                Err((format!("`{text}` never reaches a route"), "remove it".to_owned()))
            }
            Ok(_) if is_ordinary(&text.to_ascii_uppercase()) && text != text.to_ascii_uppercase() => Err((
                format!("`{text}` is not a method: they are written in capitals"),
                format!("write `{}`", text.to_ascii_uppercase()),
            )),
            Ok(method) if methods.contains(&method) => {
                Err((format!("the method `{text}` is given twice"), "remove one".to_owned()))
            }
            Ok(method) => Ok(method),
        };
        match result {
            Ok(method) => methods.push(method),
            Err((cause, cure)) => {
                build.errors.push(&entry.site, &*entry.path, cause, cure);
                sound = false;
            }
        }
    }
    // RFC 9110 §9.3.2: a resource that answers GET answers HEAD.
    if methods.contains(&Method::GET) && !methods.contains(&Method::HEAD) {
        methods.push(Method::HEAD);
    }
    sound.then_some(methods)
}

fn is_ordinary(method: &str) -> bool {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"].contains(&method)
}

fn headers(matches: &Match, build: &mut Build) -> Option<Vec<(HeaderName, Value)>> {
    let mut headers: Vec<(HeaderName, Value)> = Vec::new();
    let mut sound = true;
    for (text, pattern) in &matches.headers {
        let name = match HeaderName::from_bytes(text.as_bytes()) {
            Err(_) => {
                Err((format!("`{text}` is not a header name"), "write letters, digits and `-`".to_owned()))
            }
            Ok(header::HOST) => {
                Err(("`host` is not matched as a header".to_owned(), "use `hosts`".to_owned()))
            }
            Ok(name) if name.as_str().contains('_') => Err((
                format!("no request has the header `{text}`: names with a `_` are dropped or refused"),
                format!("write `{}`, and have clients send that", text.replace('_', "-")),
            )),
            Ok(name) if headers.iter().any(|(known, _)| *known == name) => Err((
                format!("the header `{text}` is given twice"),
                "remove one; case makes no difference".to_owned(),
            )),
            Ok(name) => match &pattern.value {
                Pattern::Exact(value) if !could_be_sent(value) => Err((
                    format!("no request has `{text}: {value}`"),
                    "write it without control characters and outer spaces".to_owned(),
                )),
                _ => Ok(name),
            },
        };
        match (name, Value::compile(pattern, build)) {
            (Ok(name), Some(value)) => headers.push((name, value)),
            (Ok(_), None) => sound = false,
            (Err((cause, cure)), _) => {
                build.errors.push(&pattern.site, &*pattern.path, cause, cure);
                sound = false;
            }
        }
    }
    sound.then_some(headers)
}

fn could_be_sent(value: &str) -> bool {
    HeaderValue::from_str(value).is_ok() && value.trim_matches([' ', '\t']) == value
}
