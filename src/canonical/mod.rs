//! One canonical form at the door: one host, one path, one query. Routing, policies, the log and the upstream see no other.
//!
//! Three answers are possible. What no application can need is refused here ([`Denial`]). What has one meaning is written
//! in one way. What has two readings, yet an API may need, is kept and named in [`Oddities`]; it is refused once the route
//! is known, unless that route tolerates it.

mod host;
mod oddities;
mod path;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use http::{HeaderMap, Method};

use crate::request::Protocol;
pub use host::{Authority, Host};
pub use oddities::{Oddities, Oddity};
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

    /// Lower case, without port and trailing dot; an IPv6 literal in brackets. Never empty.
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

    /// What was seen that has two readings; refused after routing unless the route tolerates it. Whether path parameters make
    /// a difference only routes can say: [`Target::without_parameters`].
    pub fn oddities(&self) -> Oddities {
        self.oddities
    }

    /// The target as servers see it that cut path parameters (`;x`, up to the segment's end, RFC 3986 §3.3) off before anything
    /// else; `%3B` is taken for a `;`, as some decode first. None where the path has none: that costs one look at its bytes.
    ///
    /// # Errors
    /// Without them its dot segments leave the root.
    pub fn without_parameters(&self) -> Option<Result<Self, Denial>> {
        let path = self.path();
        memchr::memchr2(b';', b'%', path.as_bytes())?;
        if !path.contains(';') && !path.contains("%3B") {
            return None;
        }
        let mut cut = String::with_capacity(path.len());
        for segment in path.split('/').skip(1) {
            let segment = segment.split_once(';').map_or(segment, |(before, _)| before);
            cut.push('/');
            cut.push_str(segment.split_once("%3B").map_or(segment, |(before, _)| before));
        }
        let mut text = String::with_capacity(self.text.len());
        text.push_str(self.authority());
        let written = path::plan(cut.as_bytes()).and_then(|plan| plan.write(&mut text));
        let path_end = text.len();
        text.push_str(self.text.get(self.path_end..).unwrap_or_default());
        Some(written.map(|oddities| Self { text, path_end, oddities, ..*self }))
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
/// or what a listener has for a request of HTTP/1.0 without Host; `bytes_max` the bound on `raw`.
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
            reason: "uri_bytes",
            message: format!(
                "the request target has {} bytes, `server.limits.uri_bytes` is {bytes_max}",
                raw.len()
            )
            .into(),
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

/// Brings a path that was written anew, by a template for one, into its canonical form, with its oddities.
///
/// # Errors
/// As [`target`]; and dot segments: whoever writes `/x/{route.id}` means a path below `/x/`, whatever the client has said.
pub fn rewritten(path: &str) -> Result<(String, Oddities), Denial> {
    let mut out = String::with_capacity(path.len());
    for segment in path.split('/') {
        out.clear();
        canonical_segment(segment.as_bytes(), &mut out, &mut Oddities::default())?;
        if matches!(out.as_str(), "." | "..") {
            return Err(Denial::ambiguous("bad_path", "the path has dot segments"));
        }
    }
    out.clear();
    let oddities = path::plan(path.as_bytes())?.write(&mut out)?;
    Ok((out, oddities))
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
fn write(authority: Authority<'_>, rest: &[u8]) -> Result<Target, Denial> {
    let (path, query) = match memchr::memchr(b'?', rest) {
        Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at..)),
        None => (rest, None),
    };
    let plan = path::plan(path)?;
    let query = query.map(path::query).transpose()?.unwrap_or_default();
    let mut text = String::with_capacity(authority.length_max() + plan.bytes_max() + query.len());
    let port = authority.port;
    let host_end = authority.write(&mut text);
    let path_start = text.len();
    let oddities = plan.write(&mut text)?;
    let path_end = text.len();
    text.push_str(query);
    Ok(Target { text, host_end, path_start, path_end, port, oddities })
}
