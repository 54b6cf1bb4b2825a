//! Origins: which are allowed, byte for byte as browsers serialise them (RFC 6454 §6.2; scheme and host in lower case, no
//! default port).

use std::collections::HashSet;

use foldhash::fast::RandomState;
use regex::bytes::Regex;

use super::Origin;
use crate::canonical::Authority;

/// All origins of a policy.
#[derive(Debug, Default)]
pub(super) struct Origins {
    any: bool,
    exact: HashSet<Box<[u8]>, RandomState>,
    wildcards: Vec<Wildcard>,
    regexes: Vec<Regex>,
}

/// `https://*.example.com:8443`: one label or more, not `https://example.com` itself; scheme and port as written.
#[derive(Debug, PartialEq, Eq)]
struct Wildcard {
    /// `https://`
    before: Box<[u8]>,
    /// `.example.com:8443`
    after: Box<[u8]>,
}

/// Cause and cure.
pub(super) type Fault = (String, String);

fn fault(cause: impl Into<String>, cure: impl Into<String>) -> Fault {
    (cause.into(), cure.into())
}

impl Origins {
    /// `*`
    pub(super) fn any(&self) -> bool {
        self.any
    }

    /// Whether a page of this origin may read answers.
    pub(super) fn allow(&self, origin: &[u8]) -> bool {
        self.any
            || self.exact.contains(origin)
            || self.wildcards.iter().any(|wildcard| wildcard.matches(origin))
            || self.regexes.iter().any(|regex| regex.is_match(origin))
    }

    /// Adds one as written. Returns a warning where there is one.
    pub(super) fn add(&mut self, written: &Origin) -> Result<Option<Fault>, Fault> {
        match written {
            Origin::Text(text) if text == "*" && self.any => Err(twice(text)),
            Origin::Text(text) if text == "*" => {
                self.any = true;
                Ok(None)
            }
            Origin::Text(text) if text.contains('*') => self.add_wildcard(text),
            Origin::Text(text) => {
                if text != "null" {
                    check(text, text)?;
                }
                if !self.exact.insert(text.as_bytes().into()) {
                    return Err(twice(text));
                }
                Ok(None)
            }
            Origin::Regex(text) => self.add_regex(text),
        }
    }

    fn add_wildcard(&mut self, text: &str) -> Result<Option<Fault>, Fault> {
        let Some((scheme, domain)) = text.split_once("://*.") else {
            return Err(fault(
                format!("`{text}` has a `*` that is not its first label"),
                "write `https://*.example.com`, or `\"*\"` alone for any origin",
            ));
        };
        if domain.contains('*') {
            return Err(fault(format!("`{text}` has more than one `*`"), "write `https://*.example.com`"));
        }
        check(text, &format!("{scheme}://{domain}"))?;
        let host = domain.split(':').next().unwrap_or_default();
        if !host.contains('.') && host != "localhost" {
            return Err(fault(
                format!("`{text}` allows every site of a whole top-level domain"),
                "name at least two labels: `https://*.example.com`",
            ));
        }
        let wildcard = Wildcard {
            before: format!("{scheme}://").into_bytes().into(),
            after: format!(".{domain}").into_bytes().into(),
        };
        if self.wildcards.contains(&wildcard) {
            return Err(twice(text));
        }
        self.wildcards.push(wildcard);
        Ok(None)
    }

    fn add_regex(&mut self, text: &str) -> Result<Option<Fault>, Fault> {
        let anchored_cure = || format!("write `^{}$`", text.trim_start_matches('^').trim_end_matches('$'));
        let inner = text.strip_prefix('^').or_else(|| text.strip_prefix(r"\A"));
        let inner = inner.and_then(|inner| match inner.strip_suffix('$') {
            Some(inner) if !ends_in_escape(inner) => Some(inner),
            _ => inner.strip_suffix(r"\z").filter(|inner| !ends_in_escape(inner)),
        });
        let Some(inner) = inner else {
            return Err(fault(
                format!("`{text}` is not anchored: it matches parts of other origins"),
                anchored_cure(),
            ));
        };
        // The anchors are also put around the whole, so that nothing in the pattern can loosen them.
        let regex = match Regex::new(text).and_then(|_| Regex::new(&format!(r"\A(?:{text})\z"))) {
            Ok(regex) => regex,
            Err(error) => {
                let error = error.to_string();
                let line = error.lines().last().unwrap_or_default();
                let cause =
                    format!("`{text}` is not a regular expression: {}", line.trim_start_matches("error: "));
                return Err(fault(cause, "see the syntax of the regex crate"));
            }
        };
        let look = look(inner);
        if look.alternates {
            return Err(fault(
                format!("`{text}` is not anchored: `|` parts the anchors"),
                format!("write `^(?:{inner})$`"),
            ));
        }
        if self.regexes.iter().any(|known| known.as_str() == regex.as_str()) {
            return Err(twice(text));
        }
        self.regexes.push(regex);
        Ok(look.any_character.then(|| {
            fault(
                format!("`{text}` has a `.` that matches any character"),
                r"write `\.` where a dot is meant",
            )
        }))
    }
}

fn twice(text: &str) -> Fault {
    fault(format!("the origin `{text}` is given twice"), "remove one")
}

impl Wildcard {
    fn matches(&self, origin: &[u8]) -> bool {
        let labels = origin.strip_prefix(&*self.before).and_then(|rest| rest.strip_suffix(&*self.after));
        labels.is_some_and(|labels| labels.split(|b| *b == b'.').all(is_label))
    }
}

fn is_label(label: &[u8]) -> bool {
    let is_host = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    !label.is_empty() && label.iter().all(is_host)
}

/// Whether a browser could send this as an origin: `scheme://host[:port]` in lower case. `text` is what the operator wrote,
/// `origin` the same without its wildcard.
fn check(text: &str, origin: &str) -> Result<(), Fault> {
    let Some((scheme, rest)) = origin.split_once("://") else {
        return Err(fault(format!("`{text}` is not an origin"), format!("write `https://{text}`")));
    };
    let lower = text.to_ascii_lowercase();
    if lower != text {
        return Err(fault(
            format!("`{text}` has capitals, which no browser sends"),
            format!("write `{lower}`"),
        ));
    }
    let sound_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
    if !sound_scheme {
        return Err(fault(format!("`{text}` has no valid scheme"), "write `https://app.example.com`"));
    }
    if let Some(at) = rest.find(['/', '?', '#']) {
        let surplus = rest.get(at..).unwrap_or_default();
        let cure = format!("write `{}`", text.strip_suffix(surplus).unwrap_or(text));
        return Err(fault(format!("`{text}` has a path, which no origin has"), cure));
    }
    if !rest.is_ascii() {
        let cure = "write the host in its ASCII form (`xn--…`)";
        return Err(fault(format!("`{text}` is not ASCII, as browsers send it"), cure));
    }
    let authority = Authority::parse(rest.as_bytes()).map_err(|what| {
        fault(format!("`{text}` is not an origin: {what}"), "write `https://app.example.com`")
    })?;
    let default_port = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    if authority.port.is_some() && authority.port == default_port {
        let cure = format!("write `{}`", text.rsplit_once(':').map_or(text, |(origin, _)| origin));
        return Err(fault(format!("`{text}` names the default port, which no browser sends"), cure));
    }
    let mut canonical = String::new();
    authority.host.write(&mut canonical);
    // A trailing dot, or an IPv6 address in another form than browsers use.
    if rest.strip_prefix(&*canonical).is_none_or(|port| !port.is_empty() && !port.starts_with(':')) {
        let cure = format!("write `{scheme}://{canonical}` with its port, if it has one");
        return Err(fault(format!("`{text}` is not how browsers write it"), cure));
    }
    Ok(())
}

fn ends_in_escape(text: &str) -> bool {
    text.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// What a look at a regular expression shows.
struct Look {
    /// A `|` outside all parentheses.
    alternates: bool,
    /// A `.` that is neither escaped, nor in a class, nor repeated.
    any_character: bool,
}

fn look(inner: &str) -> Look {
    let mut look = Look { alternates: false, any_character: false };
    let mut depth = 0_usize;
    let mut class = false;
    let mut characters = inner.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                characters.next();
            }
            '[' => class = true,
            ']' => class = false,
            _ if class => {}
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => look.alternates = true,
            '.' if !matches!(characters.peek(), Some('*' | '+' | '?' | '{')) => look.any_character = true,
            _ => {}
        }
    }
    look
}
