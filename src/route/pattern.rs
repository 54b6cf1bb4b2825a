//! Hosts and paths as routes write them, brought into the canonical form that requests have.

use std::sync::Arc;

use super::Match;
use crate::canonical::{Authority, Host, Oddities, Oddity, canonical_segment};
use crate::config::{Build, Spanned};

/// The most `{name}`s a path may have: what a match keeps without allocating.
pub(super) const PARAMETERS_MAX: usize = 16;

/// A host as a route names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostPattern {
    Exact(Box<str>),
    /// `*.example.org` without its `*.`: one label or more before it.
    Under(Box<str>),
    Any,
}

/// One segment of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Canonical; empty only at the end, for a trailing slash.
    Literal(Box<str>),
    Parameter,
    Rest,
}

/// A path as a route writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathPattern {
    pub(super) segments: Vec<Segment>,
    /// The names of parameters and rest, in order.
    pub(super) names: Box<[Arc<str>]>,
}

/// Cause and cure.
type Fault = (String, String);

fn fault(cause: impl Into<String>, cure: impl Into<String>) -> Fault {
    (cause.into(), cure.into())
}

/// The hosts of a route, at least one.
pub(super) fn hosts(matches: &Match, build: &mut Build) -> Option<Vec<HostPattern>> {
    if matches.hosts.is_empty() {
        return Some(vec![HostPattern::Any]);
    }
    let mut hosts = Vec::with_capacity(matches.hosts.len());
    let mut sound = true;
    for written in &matches.hosts {
        let result = match host(written) {
            Ok(host) if hosts.contains(&host) => {
                Err(fault(format!("the host `{}` is given twice", **written), "remove one"))
            }
            other => other,
        };
        match result {
            Ok(host) => hosts.push(host),
            Err((cause, cure)) => {
                build.errors.push(&written.site, &*written.path, cause, cure);
                sound = false;
            }
        }
    }
    sound.then_some(hosts)
}

fn host(text: &str) -> Result<HostPattern, Fault> {
    if text == "*" {
        return Err(fault("`*` is not a host", "leave `hosts` out to match any host"));
    }
    if let Some((_, host)) = text.split_once("://") {
        let host = host.split('/').next().unwrap_or_default();
        return Err(fault(format!("`{text}` is a URL, not a host"), format!("write `{host}`")));
    }
    let (wildcard, name) = match text.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, text),
    };
    if name.contains('*') {
        return Err(fault(
            format!("the host `{text}` has a `*` that is not its first label"),
            "write `*.example.org`, which is one label or more",
        ));
    }
    let authority = Authority::parse(name.as_bytes()).map_err(|what| {
        fault(format!("`{text}` is not a host: {what}"), "write `api.example.com` or `*.example.org`")
    })?;
    let mut canonical = String::new();
    authority.host.write(&mut canonical);
    if authority.port.is_some() {
        return Err(fault(
            format!("the host `{text}` names a port"),
            format!(
                "write `{}`; routes match any port",
                text.rsplit_once(':').map_or(text, |(host, _)| host)
            ),
        ));
    }
    match (wildcard, authority.host) {
        (true, Host::V6(_)) => Err(fault("an address has no labels before it", format!("write `{name}`"))),
        (true, Host::Name(_)) => Ok(HostPattern::Under(canonical.into())),
        (false, _) => Ok(HostPattern::Exact(canonical.into())),
    }
}

impl PathPattern {
    /// Every path where there is none written.
    pub(super) fn compile(matches: &Match, tolerated: Oddities, build: &mut Build) -> Option<Self> {
        let Some(written) = &matches.path else {
            return Some(Self { segments: vec![Segment::Rest], names: Box::new(["rest".into()]) });
        };
        match Self::parse(written, tolerated) {
            Ok(pattern) => Some(pattern),
            Err((cause, cure)) => {
                let Spanned { site, path, .. } = written;
                build.errors.push(site, &**path, cause, cure);
                None
            }
        }
    }

    fn parse(text: &str, tolerated: Oddities) -> Result<Self, Fault> {
        let Some(inner) = text.strip_prefix('/') else {
            return Err(fault(
                format!("the path `{text}` does not start with `/`"),
                format!("write `/{text}`"),
            ));
        };
        let mut segments = Vec::new();
        let mut names: Vec<Arc<str>> = Vec::new();
        let mut written = inner.split('/').peekable();
        while let Some(segment) = written.next() {
            let last = written.peek().is_none();
            if segment.contains(['{', '}']) {
                let (kind, name) = braces(text, segment)?;
                if kind == Segment::Rest && !last {
                    return Err(fault(
                        format!("`{segment}` is not the end of the path `{text}`"),
                        "put it last; `{name}` stands for one segment",
                    ));
                }
                if names.iter().any(|known| **known == *name) {
                    let cause = format!("the path `{text}` has two parameters named `{name}`");
                    return Err(fault(cause, "give each its own name"));
                }
                names.push(name.into());
                segments.push(kind);
            } else {
                segments.push(literal(text, segment, last, tolerated)?);
            }
        }
        if names.len() > PARAMETERS_MAX {
            return Err(fault(
                format!("the path `{text}` has more than {PARAMETERS_MAX} parameters"),
                "use `{*rest}` for its end",
            ));
        }
        Ok(Self { segments, names: names.into() })
    }
}

fn braces<'a>(path: &str, segment: &'a str) -> Result<(Segment, &'a str), Fault> {
    let wrong = || {
        fault(
            format!("`{segment}` in the path `{path}` is not `{{name}}` or `{{*name}}`"),
            "braces stand for a whole segment; names are letters, digits, `_` and `-`",
        )
    };
    let inner = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')).ok_or_else(wrong)?;
    let (kind, name) = match inner.strip_prefix('*') {
        Some(name) => (Segment::Rest, name),
        None => (Segment::Parameter, inner),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let sound = starts_well && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if sound { Ok((kind, name)) } else { Err(wrong()) }
}

/// A literal segment in the form in which requests come; refused where no request can.
fn literal(path: &str, segment: &str, last: bool, tolerated: Oddities) -> Result<Segment, Fault> {
    if segment.is_empty() && !last {
        return Err(fault(format!("the path `{path}` has `//`, which no request has"), "write one `/`"));
    }
    if segment.contains('?') {
        return Err(fault(
            format!("the path `{path}` has a `?`"),
            "put conditions on the query under `query`",
        ));
    }
    let mut canonical = String::new();
    let mut oddities = Oddities::default();
    if let Err(denial) = canonical_segment(segment.as_bytes(), &mut canonical, &mut oddities) {
        return Err(fault(
            format!("no request has the path `{path}`: {}", denial.message),
            "percent-encode what a path cannot bear",
        ));
    }
    if matches!(canonical.as_str(), "." | "..") {
        return Err(fault(
            format!("the path `{path}` has dot segments, which no request has"),
            "write it without",
        ));
    }
    // Raw UTF-8 is how a person writes what requests have encoded.
    let refused = oddities.without(tolerated.and(Oddity::RawNonAscii.into()));
    if !refused.is_empty() {
        let names = refused.names().collect::<Vec<_>>().join(", ");
        return Err(fault(
            format!("requests with the path `{path}` are refused: it has two readings ({names})"),
            format!("say `path_oddities: [{names}]` on the route, or write the path without"),
        ));
    }
    Ok(Segment::Literal(canonical.into()))
}
