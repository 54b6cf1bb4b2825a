//! One canonical form at the door: one host, one path, one query. Routing, policies, the log and the upstream see no other.
//!
//! Three answers are possible. What no application can need is refused here ([`Denial`]). What has one meaning is written
//! in one way. What has two readings, yet an API may need, is kept and named in [`Oddities`]; it is refused once the route
//! is known, unless that route tolerates it.

mod host;
mod path;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use http::{HeaderMap, Method};

use crate::request::Protocol;
pub use host::{Authority, Host};
pub(crate) use path::segment as canonical_segment;

/// What a request asks for, in the one form that routing, policies, the log and the upstream see.
///
/// One buffer, `host[:port]/path[?query]`: everything is a slice of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: String,
    host_end: usize,
    path_start: usize,
    path_end: usize,
    port: Option<u16>,
    oddities: Oddities,
}

impl Target {
    /// A target of these parts, brought into canonical form: for tests and benches, which have no request at hand.
    ///
    /// # Panics
    /// Where the parts make no target.
    #[doc(hidden)]
    #[expect(clippy::expect_used, reason = "tests and benches only")]
    pub fn of_canonical_parts(host: &str, path: &str, query: Option<&str>) -> Self {
        let raw = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        target(&Method::GET, raw.as_bytes(), Some(host), &HeaderMap::new(), Protocol::Http2, usize::MAX)
            .expect("parts of a target")
    }

    /// Lower case, without port and trailing dot; an IPv6 literal in brackets. Empty only on HTTP/1.0 without Host.
    pub fn host(&self) -> &str {
        self.text.get(..self.host_end).unwrap_or_default()
    }

    /// The port that Host named.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Host and, where it was named, port: what a `Host` field towards the upstream says.
    pub fn authority(&self) -> &str {
        self.text.get(..self.path_start).unwrap_or_default()
    }

    /// Starts with `/` (or is `*` for OPTIONS); what is unreserved is decoded, other escapes are in upper-case hex.
    pub fn path(&self) -> &str {
        self.text.get(self.path_start..self.path_end).unwrap_or_default()
    }

    /// As sent, without the `?`; none where there was no `?`.
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_end + 1..)
    }

    /// Path and query together: the request target in origin form.
    pub fn path_and_query(&self) -> &str {
        self.text.get(self.path_start..).unwrap_or_default()
    }

    /// What was seen that has two readings; refused after routing unless the route tolerates it.
    pub fn oddities(&self) -> Oddities {
        self.oddities
    }
}

/// What has two readings, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Oddities(u16);

impl Oddities {
    /// `%2F`: a slash to those who decode before they split. Never decoded here.
    pub const ENCODED_SLASH: Self = Self(1);
    /// `%5C`: a slash to those who decode, on some systems.
    pub const ENCODED_BACKSLASH: Self = Self(1 << 1);
    /// `\`: a slash to some; forwarded as `%5C`.
    pub const BACKSLASH: Self = Self(1 << 2);
    /// `..;x`: a dot segment to those who cut path parameters off.
    pub const SEMICOLON_DOTS: Self = Self(1 << 3);
    /// Bytes above 127 that were not percent-encoded; valid UTF-8, forwarded encoded.
    pub const RAW_NON_ASCII: Self = Self(1 << 4);

    const NAMES: [(Self, &'static str); 5] = [
        (Self::ENCODED_SLASH, "encoded_slash"),
        (Self::ENCODED_BACKSLASH, "encoded_backslash"),
        (Self::BACKSLASH, "backslash"),
        (Self::SEMICOLON_DOTS, "semicolon_dots"),
        (Self::RAW_NON_ASCII, "raw_non_ascii"),
    ];

    /// The oddity of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(oddity, _)| *oddity)
    }

    /// The names of those in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().filter(move |(oddity, _)| self.contains(*oddity)).map(|(_, name)| *name)
    }

    /// Whether nothing odd was seen.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` are in the set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds those of `other`.
    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// The refusal that is due once the route is known, for what the route does not tolerate.
    pub fn denial(self, tolerated: Self) -> Option<Denial> {
        let left = Self(self.0 & !tolerated.0);
        let name = left.names().next()?;
        let names: Vec<_> = left.names().collect();
        Some(Denial {
            fault: Fault::Ambiguous,
            reason: name,
            message: format!("the path has two readings: {}", names.join(", ")).into(),
        })
    }
}

/// Which kind of refusal a [`Denial`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 400
    Ambiguous,
    /// 414
    UriTooLong,
}

/// Why there is no canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Which kind of refusal.
    pub fault: Fault,
    /// A word for metrics, written in the code.
    pub reason: &'static str,
    /// What is wrong, for the log.
    pub message: Cow<'static, str>,
}

impl Denial {
    fn ambiguous(reason: &'static str, message: &'static str) -> Self {
        Self { fault: Fault::Ambiguous, reason, message: message.into() }
    }
}

/// A request target by its form (RFC 9112 §3.2). Authority form belongs to CONNECT, which is refused before it comes here.
enum Form<'a> {
    Origin(&'a [u8]),
    Absolute { authority: &'a [u8], default_port: u16, rest: &'a [u8] },
    Asterisk,
}

/// Brings a request target into its canonical form. `raw` is what stood on the wire, `authority` is HTTP/2's,
/// `bytes_max` the bound on `raw`.
///
/// Allocates once, and needs no second look at a path that is canonical already.
///
/// # Errors
/// What has no meaning, or two that no route may choose between.
pub fn target(
    method: &Method,
    raw: &[u8],
    authority: Option<&str>,
    headers: &HeaderMap,
    protocol: Protocol,
    bytes_max: usize,
) -> Result<Target, Denial> {
    if raw.len() > bytes_max {
        return Err(Denial {
            fault: Fault::UriTooLong,
            reason: "uri_too_long",
            message: format!("the request target has {} bytes, more than {bytes_max}", raw.len()).into(),
        });
    }
    let form = form(method, raw, protocol)?;
    let authority = host::decide(&form, authority, headers, protocol)?;
    let rest = match form {
        Form::Origin(rest) => rest,
        Form::Absolute { rest: [], .. } if method == Method::OPTIONS => b"*", // RFC 9112 §3.2.4
        Form::Absolute { rest, .. } => rest,
        Form::Asterisk => b"*",
    };
    write(authority, rest)
}

fn form<'a>(method: &Method, raw: &'a [u8], protocol: Protocol) -> Result<Form<'a>, Denial> {
    match raw {
        [] => Err(Denial::ambiguous("bad_target", "the request target is empty")),
        [b'/', ..] => Ok(Form::Origin(raw)),
        b"*" if method == Method::OPTIONS => Ok(Form::Asterisk),
        b"*" => Err(Denial::ambiguous("bad_target", "`*` is for OPTIONS only")),
        _ if protocol == Protocol::Http2 => {
            Err(Denial::ambiguous("bad_target", "`:path` does not start with a slash")) // RFC 9113 §8.3.1
        }
        _ => absolute(raw),
    }
}

/// What an absolute target says in origin form, in two parts: a slash where the path lacks it, and what was sent. Nothing where
/// it is no absolute target.
pub fn path_of_absolute<'a>(method: &Method, raw: &'a [u8]) -> [&'a [u8]; 2] {
    match absolute(raw) {
        Ok(Form::Absolute { rest: [], .. }) if method == Method::OPTIONS => [b"*", b""],
        Ok(Form::Absolute { rest, .. }) if rest.starts_with(b"/") => [b"", rest],
        Ok(Form::Absolute { rest, .. }) => [b"/", rest],
        Ok(Form::Origin(_) | Form::Asterisk) | Err(_) => [b"", b""],
    }
}

fn absolute(raw: &[u8]) -> Result<Form<'_>, Denial> {
    let after = |scheme: &[u8]| {
        raw.split_at_checked(scheme.len())
            .filter(|(s, _)| s.eq_ignore_ascii_case(scheme))
            .map(|(_, rest)| rest)
    };
    let (default_port, rest) = match (after(b"http://"), after(b"https://")) {
        (Some(rest), _) => (80, rest),
        (_, Some(rest)) => (443, rest),
        _ => {
            return Err(Denial::ambiguous(
                "bad_target",
                "the request target is neither a path nor an http or https address",
            ));
        }
    };
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#' | b'\\')).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at_checked(end).unwrap_or((rest, &[]));
    Ok(Form::Absolute { authority, default_port, rest })
}

/// Writes the one buffer. `rest` is path and query; an empty path is `/` (RFC 9110 §4.2.3).
fn write(authority: Option<Authority<'_>>, rest: &[u8]) -> Result<Target, Denial> {
    let (path, query) = match memchr::memchr(b'?', rest) {
        Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at..)),
        None => (rest, None),
    };
    let plan = path::plan(path)?;
    let query = query.map(path::query).transpose()?.unwrap_or_default();
    let host_bytes = authority.as_ref().map_or(0, Authority::length_max);
    let mut text = String::with_capacity(host_bytes + plan.bytes_max() + query.len());
    let port = authority.as_ref().and_then(|authority| authority.port);
    let host_end = authority.map_or(0, |authority| authority.write(&mut text));
    let path_start = text.len();
    let oddities = plan.write(&mut text)?;
    let path_end = text.len();
    text.push_str(query);
    Ok(Target { text, host_end, path_start, path_end, port, oddities })
}
