//! Where a credential stands in a request, and how it is taken out of what goes on to the upstream.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE, REFERER};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::config::{From, PlaceConfig};
use crate::config::Build;
use crate::request::{Fields, Request};

/// Where a credential stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// `Authorization: Bearer …` (RFC 6750 §2.1); `DPoP` too, where proofs are known (RFC 9449 §7.1).
    Bearer,
    /// `Authorization: Basic …` (RFC 7617).
    Basic,
    /// A header field, whole.
    Header(HeaderName),
    /// A cookie.
    Cookie(Box<str>),
    /// A parameter of the query, percent-decoded.
    Query(Box<str>),
}

/// What stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presented<'a> {
    /// Nothing of this kind.
    Absent,
    /// One credential.
    One(Cow<'a, str>),
    /// Something that cannot be one credential: two of them, or no text. For the log.
    Malformed(&'static str),
}

impl Place {
    /// How RFC 6750 §2 calls this way of sending a token; none for ways that it does not know.
    pub(super) fn bearer_method(&self) -> Option<&'static str> {
        match self {
            Self::Bearer => Some("header"),
            Self::Query(_) => Some("query"),
            Self::Basic | Self::Header(_) | Self::Cookie(_) => None,
        }
    }

    /// From what was written. None when `build.errors` says why; `path` is the key's.
    pub fn compile(
        written: &From,
        path: &str,
        site: &crate::config::Site,
        build: &mut Build,
    ) -> Option<Self> {
        match written {
            From::Bearer => Some(Self::Bearer),
            From::Place(place) => Self::of(place, path, site, build),
        }
    }

    /// The same without `bearer`.
    pub fn of(
        place: &PlaceConfig,
        path: &str,
        site: &crate::config::Site,
        build: &mut Build,
    ) -> Option<Self> {
        match (&place.header, &place.cookie, &place.query) {
            (Some(name), None, None) => match name.parse::<HeaderName>() {
                Ok(header) if header == AUTHORIZATION || header == COOKIE => {
                    let cause = format!("`{header}` holds more than one kind of credential");
                    let cure = match (header == COOKIE, path.ends_with(".from")) {
                        (true, _) => "write `{cookie: NAME}`",
                        (false, true) => "write `from: bearer`",
                        (false, false) => "write such as `{header: x-api-key}`",
                    };
                    build.errors.push(&name.site, &*name.path, cause, cure);
                    None
                }
                Ok(header) if is_reserved(&header) || header.as_str().contains('_') => {
                    let cause = format!(
                        "`{header}` is the connection's or the gateway's own word, or is never passed on"
                    );
                    build.errors.push(&name.site, &*name.path, cause, "write such as `x-api-key`");
                    None
                }
                Ok(header) if !header.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
                    let cause =
                        format!("`{header}` is another field to servers that take its punctuation for `-`");
                    build.errors.push(&name.site, &*name.path, cause, "use letters, digits and `-`");
                    None
                }
                Ok(header) => Some(Self::Header(header)),
                Err(_) => {
                    let cause = format!("`{}` is not the name of a header field", name.value);
                    build.errors.push(&name.site, &*name.path, cause, "write such as `x-api-key`");
                    None
                }
            },
            (None, Some(name), None) => {
                let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
                if name.is_empty() || !name.bytes().all(token) {
                    let cause = format!("`{}` is not the name of a cookie", name.value);
                    build.errors.push(&name.site, &*name.path, cause, "use letters, digits, `_` and `-`");
                    return None;
                }
                Some(Self::Cookie(name.as_str().into()))
            }
            (None, None, Some(name)) => {
                if name.is_empty() {
                    build.errors.push(&name.site, &*name.path, "the name is empty", "write such as `key`");
                    return None;
                }
                let cause =
                    "a credential in the query stands in histories, referrers and other servers' logs";
                build.errors.warn(&name.site, &*name.path, cause, "use a header field where clients can");
                Some(Self::Query(name.as_str().into()))
            }
            _ => {
                let cause = "a credential stands in exactly one place";
                build.errors.push(
                    site,
                    path,
                    cause,
                    "write one of `{header: x-key}`, `{cookie: key}`, `{query: key}`",
                );
                None
            }
        }
    }

    /// What the request presents here. `dpop`: whether `Authorization: DPoP` is a bearer's place too.
    pub fn find<'a>(&self, request: &Request<'a>, dpop: bool) -> Presented<'a> {
        match self {
            Self::Bearer => authorization(request.headers, |scheme| match token_scheme(scheme) {
                Some(TokenScheme::Bearer) => Scheme::Meant,
                Some(TokenScheme::Dpop) if dpop => Scheme::Meant,
                Some(_) => Scheme::Variant,
                None => Scheme::Other,
            }),
            Self::Basic => authorization(request.headers, basic_scheme),
            Self::Header(name) => only(request.headers, name, |value| Some(Cow::Borrowed(value))),
            Self::Cookie(name) => cookie(request.headers, name),
            Self::Query(name) => query(request.target.query().unwrap_or_default(), name),
        }
    }

    /// Whether it is the header field of this name, in lower case.
    pub(super) fn is_header(&self, name: &str) -> bool {
        matches!(self, Self::Header(own) if own.as_str().eq_ignore_ascii_case(name))
    }

    /// Takes the credential out of what goes on. The query is not among the fields: see [`Place::scrub_query`]. That of the page that led
    /// here is: `Referer`.
    pub fn scrub(&self, fields: &mut impl Fields) {
        match self {
            Self::Bearer => fields.remove(&AUTHORIZATION),
            // What another scheme says is another kind's, or the upstream's own.
            Self::Basic if authorization(fields.fields(), basic_scheme) == Presented::Absent => {}
            Self::Basic => fields.remove(&AUTHORIZATION),
            Self::Header(name) => fields.remove(name),
            Self::Cookie(name) => scrub_cookie(name, fields, |_| true),
            Self::Query(_) => self.scrub_referer(fields, |_| true),
        }
    }

    /// The query without the credential; none where it has none, or where nothing is left of it.
    pub fn scrub_query<'q>(&self, query: &'q str) -> Cow<'q, str> {
        self.scrub_query_where(query, |_| true)
    }

    /// Takes out what stands here, where it, or one of several, is such a thing.
    pub(super) fn scrub_where(&self, fields: &mut impl Fields, is_meant: impl Fn(&str) -> bool) {
        match self {
            Self::Bearer | Self::Basic => {}
            Self::Query(_) => self.scrub_referer(fields, is_meant),
            Self::Header(name) => {
                let mut values = fields.fields().get_all(name).iter();
                if values.any(|value| is_meant(String::from_utf8_lossy(value.as_bytes()).trim())) {
                    fields.remove(name);
                }
            }
            Self::Cookie(name) => scrub_cookie(name, fields, is_meant),
        }
    }

    /// As [`Place::scrub_query`], of what is such a thing.
    pub(super) fn scrub_query_where<'q>(
        &self,
        query: &'q str,
        is_meant: impl Fn(&str) -> bool,
    ) -> Cow<'q, str> {
        let Self::Query(name) = self else { return Cow::Borrowed(query) };
        let goes = |pair: &&str| {
            let value = || pair.split_once('=').map_or("", |(_, value)| value);
            is_named(pair, name) && is_meant(&percent_decode_str(value()).decode_utf8_lossy())
        };
        if !query.split('&').any(|pair| goes(&pair)) {
            return Cow::Borrowed(query);
        }
        let rest: Vec<_> = query.split('&').filter(|pair| !goes(pair)).collect();
        Cow::Owned(rest.join("&"))
    }

    /// The same of the queries in `Referer`: a browser tells the next request there what the last one was asked by (RFC 9110 §10.1.3).
    fn scrub_referer(&self, fields: &mut impl Fields, is_meant: impl Fn(&str) -> bool) {
        let scrubbed = |value: &HeaderValue| {
            let url = String::from_utf8_lossy(value.as_bytes());
            let (page, query) = url.split_once('?')?;
            let Cow::Owned(rest) = self.scrub_query_where(query, &is_meant) else { return None };
            let url = if rest.is_empty() { page.to_owned() } else { format!("{page}?{rest}") };
            HeaderValue::from_bytes(url.as_bytes()).ok()
        };
        let (mut left, mut goes) = (Vec::new(), false);
        for value in fields.fields().get_all(REFERER) {
            let without = scrubbed(value);
            goes |= without.is_some();
            left.push(without.unwrap_or_else(|| value.clone()));
        }
        if goes {
            fields.remove(&REFERER);
            left.into_iter().for_each(|value| fields.append(REFERER, value));
        }
    }
}

/// Whether a field frames the message, belongs to the connection, or is what the gateway itself tells: no credential, and no service's
/// word, stands there.
pub(super) fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-forwarded-")
        || name.starts_with("content-")
        || matches!(
            name,
            "host"
                | "connection"
                | "keep-alive"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
                | "expect"
                | "forwarded"
                | "via"
                | "x-request-id"
                | "proxy-connection"
        )
}

/// What a scheme is to a place.
enum Scheme {
    /// The place's own.
    Meant,
    /// The credential is of the place's kind, and its scheme is not taken: that is not the same as none.
    Variant,
    /// Another kind of credential.
    Other,
}

fn basic_scheme(scheme: &str) -> Scheme {
    if scheme.eq_ignore_ascii_case("basic") { Scheme::Meant } else { Scheme::Other }
}

enum TokenScheme {
    Bearer,
    Dpop,
    Odd,
}

/// The scheme of a token, where it is one: RFC 6750, RFC 9449, or what is or was in use for the same.
fn token_scheme(scheme: &str) -> Option<TokenScheme> {
    let is = |name: &str| scheme.eq_ignore_ascii_case(name);
    if is("bearer") {
        return Some(TokenScheme::Bearer);
    }
    if is("dpop") {
        return Some(TokenScheme::Dpop);
    }
    let begins = |name: &str| scheme.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let is_odd = begins("bearer") || begins("oauth") || is("token") || is("jwt") || is("mac") || is("pop");
    is_odd.then_some(TokenScheme::Odd)
}

/// The one credential of a scheme in `Authorization` (RFC 9110 §11.6.2). Another scheme is another kind of credential; what has none may
/// be any.
fn authorization<'a>(headers: &'a HeaderMap, kind: impl Fn(&str) -> Scheme) -> Presented<'a> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (first, second) = (values.next(), values.next());
    let Some(first) = first else { return Presented::Absent };
    if second.is_some() {
        return Presented::Malformed("several Authorization fields");
    }
    let Ok(text) = first.to_str() else { return Presented::Malformed("the Authorization field is no text") };
    // RFC 9110 §11.4: auth-scheme [ 1*SP … ]. What parts it otherwise, some servers take for a space.
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let (scheme, credential) =
        text.split_at_checked(text.find(|c| !token(c)).unwrap_or(text.len())).unwrap_or((text, ""));
    if !(credential.is_empty() || credential.starts_with(' ')) {
        return Presented::Malformed("the scheme of the Authorization field is not followed by a space");
    }
    let credential = credential.trim_matches(' ');
    if credential.is_empty() {
        return Presented::Malformed("the Authorization field has a scheme and no credential, or no scheme");
    }
    match kind(scheme) {
        Scheme::Meant => Presented::One(Cow::Borrowed(credential)),
        Scheme::Variant => Presented::Malformed("the token's scheme in the Authorization field is not taken"),
        Scheme::Other => Presented::Absent,
    }
}

fn only<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    take: impl Fn(&'a str) -> Option<Cow<'a, str>>,
) -> Presented<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Presented::Absent,
        (Some(value), None) => match value.to_str().ok().map(str::trim).and_then(take) {
            Some(value) if value.is_empty() => Presented::Malformed("the credential is empty"),
            Some(value) => Presented::One(value),
            None => Presented::Malformed("the credential is no text"),
        },
        (Some(_), Some(_)) => Presented::Malformed("several fields of the credential's name"),
    }
}

/// Pairs of all `Cookie` fields (RFC 6265 §5.4).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Presented<'a> {
    let mut found = Presented::Absent;
    for field in headers.get_all(COOKIE) {
        for pair in field.as_bytes().split(|b| *b == b';') {
            let Some(value) = named(pair.trim_ascii(), name) else { continue };
            if found != Presented::Absent {
                return Presented::Malformed("several cookies of the credential's name");
            }
            found = match std::str::from_utf8(value) {
                Ok("") => Presented::Malformed("the credential is empty"),
                Ok(value) => Presented::One(Cow::Borrowed(value.trim_matches('"'))),
                Err(_) => Presented::Malformed("the credential is no text"),
            };
        }
    }
    found
}

/// The value of `name=value`.
fn named<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    // Many servers trim names too: `session =x` is a second `session` to them.
    let at = pair.iter().position(|b| *b == b'=')?;
    let (own, value) = pair.split_at_checked(at)?;
    (own.trim_ascii() == name.as_bytes()).then(|| value.strip_prefix(b"=").unwrap_or_default().trim_ascii())
}

fn query<'a>(query: &'a str, name: &str) -> Presented<'a> {
    let mut found = Presented::Absent;
    for pair in query.split('&').filter(|pair| is_named(pair, name)) {
        if found != Presented::Absent {
            return Presented::Malformed("several parameters of the credential's name");
        }
        let value = pair.split_once('=').map_or("", |(_, value)| value);
        found = match percent_decode_str(value).decode_utf8() {
            Ok(value) if value.is_empty() => Presented::Malformed("the credential is empty"),
            Ok(value) => Presented::One(value),
            Err(_) => Presented::Malformed("the credential is no text"),
        };
    }
    found
}

/// Whether a pair of a query has this name, however it is escaped: `k%65y` is `key` to most servers.
fn is_named(pair: &str, name: &str) -> bool {
    let own = pair.split_once('=').map_or(pair, |(own, _)| own);
    percent_decode_str(own).eq(name.bytes())
}

fn scrub_cookie(name: &str, fields: &mut impl Fields, is_one: impl Fn(&str) -> bool) {
    let values = || fields.fields().get_all(COOKIE).iter();
    let is_meant = |pair: &&[u8]| {
        named(pair.trim_ascii(), name)
            .is_some_and(|value| is_one(String::from_utf8_lossy(value).trim_matches('"')))
    };
    if !values().any(|field| field.as_bytes().split(|b| *b == b';').any(|pair| is_meant(&pair))) {
        return;
    }
    let kept: Vec<Vec<u8>> = values()
        .map(|field| {
            let pairs = field.as_bytes().split(|b| *b == b';').filter(|pair| !is_meant(pair));
            pairs.map(<[u8]>::trim_ascii).collect::<Vec<_>>().join(&b"; "[..])
        })
        .filter(|field| !field.is_empty())
        .collect();
    fields.remove(&COOKIE);
    for field in kept {
        if let Ok(value) = HeaderValue::from_bytes(&field) {
            fields.append(COOKIE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::auth::testing::asked;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn one(text: &str) -> Presented<'_> {
        Presented::One(text.into())
    }

    #[test]
    fn what_the_query_of_the_page_before_bore_is_scrubbed_too() {
        let place = Place::Query("key".into());
        for (before, after) in [
            ("https://a/b?key=s3cret", Some("https://a/b")),
            ("https://a/b?x=1&k%65y=s3cret&y=2", Some("https://a/b?x=1&y=2")),
            ("/b?key=1&key=2#part", Some("/b")),
            ("https://a/key=s3cret?keys=1", None),
            ("https://a/b", None),
            ("", None),
        ] {
            let mut fields = headers(&[("referer", before), ("referer", "https://other/?z")]);
            place.scrub(&mut fields);
            let left: Vec<_> = fields.get_all(REFERER).iter().collect();
            assert_eq!(left, [after.unwrap_or(before), "https://other/?z"], "{before}");
        }
        let mut fields = headers(&[("referer", "https://a/b?key=s3cret&key=x")]);
        place.scrub_where(&mut fields, |value| value == "s3cret");
        assert_eq!(fields.get(REFERER).unwrap(), "https://a/b?key=x");
    }

    #[test]
    fn a_bearer_is_one_credential_of_its_scheme() {
        let several = &[("authorization", "Bearer a"), ("authorization", "Basic b")][..];
        for (fields, dpop, expected) in [
            (&[][..], false, Presented::Absent),
            (&[("authorization", "Bearer abc")], false, one("abc")),
            (&[("authorization", "bearer   abc ")], false, one("abc")),
            (&[("authorization", "DPoP abc")], true, one("abc")),
            (&[("authorization", "Basic abc")], false, Presented::Absent),
            (&[("authorization", "Negotiate abc")], false, Presented::Absent),
            (several, false, Presented::Malformed("several Authorization fields")),
        ] {
            asked("GET", "/", fields, |asked| {
                assert_eq!(Place::Bearer.find(asked.request, dpop), expected, "{fields:?}");
            });
        }
        // A token of another scheme, or of none, is a token all the same: nobody is anonymous who presents one.
        for value in [
            "Bearer",
            "Bearer:abc",
            "DPoP abc",
            "dpop abc",
            "Token abc",
            "JWT a.b.c",
            "OAuth abc",
            "OAuth2 abc",
            "BearerToken abc",
            "a.b.c",
            "=abc",
        ] {
            asked("GET", "/", &[("authorization", value)], |asked| {
                let found = Place::Bearer.find(asked.request, false);
                assert!(matches!(found, Presented::Malformed(_)), "{value}: {found:?}");
            });
        }
        for value in ["dXNlcjpwdw==", "Basic", "Basic\tdXNlcjpwdw=="] {
            asked("GET", "/", &[("authorization", value)], |asked| {
                let found = Place::Basic.find(asked.request, false);
                assert!(matches!(found, Presented::Malformed(_)), "{value}: {found:?}");
            });
        }
    }

    #[test]
    fn a_password_is_taken_out_and_a_token_stays() {
        for (value, stays) in [
            ("Basic YTpi", false),
            ("bASIC YTpi", false),
            ("Basic", false),
            ("Basic\tYTpi", false),
            ("YTpi", false),
            ("Bearer abc", true),
            ("DPoP abc", true),
        ] {
            let mut map = headers(&[("authorization", value)]);
            Place::Basic.scrub(&mut map);
            assert_eq!(map.contains_key(AUTHORIZATION), stays, "{value}");
        }
        let mut twice = headers(&[("authorization", "Bearer abc"), ("authorization", "Basic YTpi")]);
        Place::Basic.scrub(&mut twice);
        assert!(twice.is_empty());
    }

    #[test]
    fn what_is_meant_alone_is_taken_out() {
        let is_meant = |value: &str| value == "mine";
        let mut map =
            headers(&[("x-key", "mine"), ("x-other", "yours"), ("cookie", "k=mine; k=yours; j=mine")]);
        for place in [Place::Header(HeaderName::from_static("x-key")), Place::Cookie("k".into())] {
            place.scrub_where(&mut map, is_meant);
        }
        Place::Header(HeaderName::from_static("x-other")).scrub_where(&mut map, is_meant);
        assert_eq!(map.get("x-key"), None);
        assert_eq!(map["x-other"], "yours");
        assert_eq!(map[COOKIE], "k=yours; j=mine");
        let place = Place::Query("k".into());
        assert_eq!(place.scrub_query_where("a=1&k=mi%6ee&k=yours", is_meant), "a=1&k=yours");
    }

    #[test]
    fn a_cookie_is_found_among_others_and_taken_out() {
        let map = headers(&[("cookie", "a=1; session=xyz; b=2"), ("cookie", "session2=z")]);
        assert_eq!(cookie(&map, "session"), one("xyz"));
        assert_eq!(cookie(&map, "sess"), Presented::Absent);
        let mut rest = map.clone();
        scrub_cookie("session", &mut rest, |_| true);
        let left: Vec<_> = rest.get_all(COOKIE).iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(left, ["a=1; b=2", "session2=z"]);
        let mut alone = headers(&[("cookie", "session=xyz")]);
        scrub_cookie("session", &mut alone, |_| true);
        assert!(alone.is_empty());
        let mut spaced = headers(&[("cookie", "k =1; a=2")]);
        assert_eq!(cookie(&spaced, "k"), one("1"));
        scrub_cookie("k", &mut spaced, |_| true);
        assert_eq!(spaced[COOKIE], "a=2");
        let odd = headers(&[("cookie", "k=1; k =2")]);
        assert!(matches!(cookie(&odd, "k"), Presented::Malformed(_)));
        let twice = headers(&[("cookie", "k=1"), ("cookie", "k=1")]);
        assert!(matches!(cookie(&twice, "k"), Presented::Malformed(_)));
    }

    #[test]
    fn a_parameter_is_found_however_its_name_is_escaped() {
        assert_eq!(query("a=1&k%65y=se%63ret&b", "key"), one("secret"));
        assert_eq!(query("a=1", "key"), Presented::Absent);
        assert!(matches!(query("key=1&k%65y=2", "key"), Presented::Malformed(_)));
        assert!(matches!(query("key=", "key"), Presented::Malformed(_)));
        let place = Place::Query("key".into());
        assert_eq!(place.scrub_query("a=1&k%65y=x&b"), "a=1&b");
        assert_eq!(place.scrub_query("a=1&b"), "a=1&b");
        assert_eq!(place.scrub_query("key=x"), "");
    }
}
