//! What requests are counted by: the parts of a key, as they stand in a request.
//!
//! Each part is hashed behind a byte that tells its kind and whether the request has it. So a client that takes the place of a
//! missing value is never taken for a value, whatever clients say.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, Method};
use serde_json::Value;

use super::class::{Class, Classes};
use super::config::{Key as Written, KeyName, KeyPart};
use super::{HashKey, KeyHash, KeyHasher};
use crate::client;
use crate::config::{Build, Spanned};
use crate::identity::{self, Identity};

/// What a limit knows of a request.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Whose request it is.
    pub client: IpAddr,
    /// The method.
    pub method: &'a Method,
    /// The canonical host.
    pub host: &'a str,
    /// The fields.
    pub headers: &'a HeaderMap,
    /// The route's name; none before it is known.
    pub route: Option<&'a str>,
    /// Who; none before authentication, and for nobody in particular.
    pub identity: Option<&'a Identity>,
    /// Whose API key the request bears, where that stands beside the identity.
    pub api_key: Option<&'a Identity>,
    /// What was made of the client alone, before anything else was known.
    pub ahead: Option<&'a Ahead>,
}

/// Keys of the edge's first limits that are known once the client is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead(pub(super) [Option<(KeyHash, Class)>; AHEAD]);

/// How many of the edge's limits have their keys made ahead.
const AHEAD: usize = 4;

/// The parts of a key, and which values have limits of their own.
#[derive(Debug)]
pub(super) struct Key {
    parts: Box<[Part]>,
    classes: Classes,
}

/// A part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Client,
    /// The client, in a limit that counts the credentials of his which authentication has refused.
    AuthFailures,
    Identity,
    ApiKey,
    Plan,
    Route,
    Host,
    Header(HeaderName),
    Cookie(Box<str>),
    Claim(Box<str>),
}

/// A value, where it stands in the request.
pub(super) enum Found<'a> {
    Address(IpAddr),
    Bytes(&'a [u8]),
    Fields(http::header::GetAll<'a, http::HeaderValue>),
    Claim(&'a Value),
    Who(&'a Identity),
}

/// Where a key can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// From the door on.
    Edge,
    /// Once the route is known.
    Route,
    /// Once it is known who asks.
    Identity,
}

impl Key {
    /// None when `build.errors` says why.
    pub(super) fn compile(written: &Spanned<Written>, build: &mut Build) -> Option<Self> {
        let parts = written.0.iter().map(|part| Part::compile(part, written, build)).collect::<Vec<_>>();
        let parts = parts.into_iter().collect::<Option<Box<[_]>>>()?;
        for (at, part) in parts.iter().enumerate() {
            if parts.iter().take(at).any(|earlier| earlier == part) {
                let cause = format!("`{}` stands twice in this key", part.name());
                build.errors.push(&written.site, &*written.path, cause, "name each part once");
                return None;
            }
        }
        if let Some(cause) = unfit_for_failures(&parts) {
            let cure = "write `key: auth_failures`, or `key: [auth_failures, route]`";
            build.errors.push(&written.site, &*written.path, cause, cure);
            return None;
        }
        Some(Self { parts, classes: Classes::One })
    }

    /// Gives values limits of their own: `values` are these values and their classes. Which do not fit is an error.
    pub(super) fn set_classes<'a, T: 'a>(
        &mut self,
        values: impl Iterator<Item = (&'a String, &'a Spanned<T>, Class)>,
        build: &mut Build,
    ) {
        self.classes = Classes::compile(self.parts.first().unwrap_or(&Part::Client), values, build);
    }

    /// What tells it from other keys.
    pub(super) fn definition(&self) -> String {
        format!("{:?}", self.parts)
    }

    /// From where on it can be asked for.
    pub(super) fn reach(&self) -> Reach {
        self.parts.iter().map(Part::reach).max().unwrap_or(Reach::Edge)
    }

    /// Whether it is that of an API key.
    pub(super) fn is_of_api_keys(&self) -> bool {
        self.parts.contains(&Part::ApiKey)
    }

    /// Whether it counts what authentication has refused, and nothing else.
    pub(super) fn is_of_auth_failures(&self) -> bool {
        self.parts.contains(&Part::AuthFailures)
    }

    /// Whether it is the client's, whatever else a request has.
    pub(super) fn is_of_client_alone(&self) -> bool {
        matches!(*self.parts, [Part::Client | Part::AuthFailures])
    }

    /// Whether all clients have one bucket, or one for each route and host.
    pub(super) fn is_shared(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Route | Part::Host))
    }

    /// Whether its first part is the route's name.
    pub(super) fn is_by_route(&self) -> bool {
        self.parts.first() == Some(&Part::Route)
    }

    /// The request's key and its class. Allocates nothing, unless a number in a claim has a limit of its own.
    pub(super) fn of(&self, facts: &Facts<'_>, secret: &HashKey) -> (KeyHash, Class) {
        let mut hasher = secret.hasher();
        let mut class = Class::default();
        for (at, part) in self.parts.iter().enumerate() {
            match part.find(facts) {
                Some(found) => {
                    if at == 0 {
                        class = self.classes.of(&found, facts);
                    }
                    hasher.part(&[part.tag()]);
                    found.feed(&mut hasher);
                }
                None => {
                    hasher.part(&[part.tag() | MISSING]);
                    feed_address(facts.client, &mut hasher);
                }
            }
        }
        (hasher.finish(class.id), class)
    }
}

/// Why these parts make no key of failures; none where they do, or are none. Who guesses is nobody yet, and chooses fields, cookies and
/// hosts: by them he would have as many limits as he likes.
fn unfit_for_failures(parts: &[Part]) -> Option<String> {
    if !parts.contains(&Part::AuthFailures) {
        return None;
    }
    let other = parts.iter().find(|part| !matches!(part, Part::AuthFailures | Part::Route));
    match other {
        Some(Part::Client) => Some("`auth_failures` counts by client already".to_owned()),
        Some(part @ (Part::Host | Part::Header(_) | Part::Cookie(_))) => {
            Some(format!("who guesses chooses the {}, and would meet no limit", part.name()))
        }
        Some(part) => Some(format!("while authentication fails there is no {}", part.name())),
        None if parts.first() != Some(&Part::AuthFailures) => {
            Some("`auth_failures` comes first in a key: its `overrides` are addresses".to_owned())
        }
        None => None,
    }
}

impl fmt::Display for Key {
    /// As an operator reads it: `client`, `identity and route`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.parts.iter().enumerate() {
            if at > 0 {
                f.write_str(" and ")?;
            }
            f.write_str(&part.name())?;
        }
        Ok(())
    }
}

/// Beside a kind's tag: the client stands in for a value that is not there.
const MISSING: u8 = 0x80;

impl Part {
    fn compile(written: &KeyPart, at: &Spanned<Written>, build: &mut Build) -> Option<Self> {
        let named = match written {
            KeyPart::Word(word) => {
                return match word.as_str() {
                    "client" => Some(Self::Client),
                    super::config::AUTH_FAILURES => Some(Self::AuthFailures),
                    "identity" => Some(Self::Identity),
                    "api_key" => Some(Self::ApiKey),
                    "plan" => Some(Self::Plan),
                    "route" => Some(Self::Route),
                    "host" => Some(Self::Host),
                    other => {
                        let cause = format!("`{other}` is nothing that requests are counted by");
                        let cure = format!("write one of {}", super::config::WORDS.join(", "));
                        build.errors.push(&at.site, &*at.path, cause, cure);
                        None
                    }
                };
            }
            KeyPart::Named(named) => named,
        };
        match &**named {
            KeyName { header: Some(name), cookie: None, claim: None } => field(name, build).map(Self::Header),
            KeyName { header: None, cookie: Some(name), claim: None } => {
                let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
                if name.is_empty() || !name.bytes().all(token) {
                    let cause = format!("`{}` is no name of a cookie", name.value);
                    build.errors.push(&name.site, &*name.path, cause, "write such as `session`");
                    return None;
                }
                Some(Self::Cookie(name.as_str().into()))
            }
            KeyName { header: None, cookie: None, claim: Some(name) } => {
                if name.is_empty() {
                    build.errors.push(
                        &name.site,
                        &*name.path,
                        "no claim is named",
                        "write such as `tenant.id`",
                    );
                    return None;
                }
                Some(Self::Claim(name.as_str().into()))
            }
            KeyName { .. } => {
                let cause = "a part of a key is exactly one of `header`, `cookie` and `claim`";
                build.errors.push(&at.site, &*at.path, cause, "make a list of several parts");
                None
            }
        }
    }

    fn tag(&self) -> u8 {
        match self {
            Self::Client => 1,
            Self::Identity => 2,
            Self::ApiKey => 3,
            Self::Plan => 4,
            Self::Route => 5,
            Self::Host => 6,
            Self::Header(_) => 7,
            Self::Cookie(_) => 8,
            Self::Claim(_) => 9,
            Self::AuthFailures => 10,
        }
    }

    fn name(&self) -> std::borrow::Cow<'static, str> {
        match self {
            Self::Client => "client".into(),
            Self::AuthFailures => super::config::AUTH_FAILURES.into(),
            Self::Identity => "identity".into(),
            Self::ApiKey => "api_key".into(),
            Self::Plan => "plan".into(),
            Self::Route => "route".into(),
            Self::Host => "host".into(),
            Self::Header(name) => format!("header {name}").into(),
            Self::Cookie(name) => format!("cookie {name}").into(),
            Self::Claim(name) => format!("claim {name}").into(),
        }
    }

    fn reach(&self) -> Reach {
        match self {
            Self::Client | Self::AuthFailures | Self::Host | Self::Header(_) => Reach::Edge,
            Self::Route | Self::Cookie(_) => Reach::Route,
            Self::Identity | Self::ApiKey | Self::Plan | Self::Claim(_) => Reach::Identity,
        }
    }

    /// Its value in the request; what is empty is not there.
    fn find<'a>(&self, facts: &Facts<'a>) -> Option<Found<'a>> {
        let text = |text: &'a str| (!text.is_empty()).then_some(Found::Bytes(text.as_bytes()));
        match self {
            Self::Client | Self::AuthFailures => Some(Found::Address(facts.client)),
            Self::Identity => facts.identity.filter(|who| !who.is_anonymous()).map(Found::Who),
            Self::ApiKey => facts.api_key.or(facts.identity).and_then(|who| text(who.key_id.as_deref()?)),
            Self::Plan => facts.api_key.or(facts.identity).and_then(|who| text(who.plan.as_deref()?)),
            Self::Route => facts.route.and_then(text),
            Self::Host => text(facts.host),
            Self::Header(name) => {
                let values = facts.headers.get_all(name);
                values.iter().any(|value| !value.is_empty()).then_some(Found::Fields(values))
            }
            Self::Cookie(name) => {
                cookie(facts.headers, name).filter(|value| !value.is_empty()).map(Found::Bytes)
            }
            Self::Claim(name) => facts
                .identity
                .and_then(|who| who.claim(name))
                .filter(|value| !is_nothing(value))
                .map(Found::Claim),
        }
    }
}

impl Found<'_> {
    fn feed(&self, hasher: &mut KeyHasher) {
        match self {
            Self::Address(address) => feed_address(*address, hasher),
            Self::Bytes(bytes) => hasher.part(bytes),
            Self::Fields(values) => values.iter().for_each(|value| hasher.part(value.as_bytes())),
            Self::Claim(Value::String(text)) => {
                hasher.part(b"text");
                hasher.part(text.as_bytes());
            }
            Self::Claim(value) => {
                // Each piece of its JSON is a part; the same value comes in the same pieces.
                hasher.part(b"json");
                let _ = write!(Pieces(hasher), "{value}");
                hasher.part(b"");
            }
            // Who vouches for a name belongs to it: `acme` of one issuer is not that of another. The keys of this gateway are one
            // set, by whatever policy they come.
            Self::Who(who) => {
                let voucher = match who.method {
                    identity::Method::ApiKey => "",
                    _ => who.issuer.as_deref().unwrap_or(&who.policy),
                };
                hasher.part(who.method.as_str().as_bytes());
                hasher.part(voucher.as_bytes());
                hasher.part(who.id.as_bytes());
            }
        }
    }
}

/// An IPv6 network of 64 bits is one client.
fn feed_address(address: IpAddr, hasher: &mut KeyHasher) {
    match client::subscriber(address) {
        IpAddr::V4(address) => hasher.part(&address.octets()),
        IpAddr::V6(address) => hasher.part(&address.octets()),
    }
}

struct Pieces<'a>(&'a mut KeyHasher);

impl fmt::Write for Pieces<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.0.part(piece.as_bytes());
        Ok(())
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(str::is_empty)
}

/// The first cookie of this name (RFC 6265 §5.4).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(COOKIE).into_iter().flat_map(|field| field.as_bytes().split(|b| *b == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let at = memchr::memchr(b'=', pair)?;
        let (own, value) = pair.split_at_checked(at)?;
        (own.trim_ascii() == name.as_bytes())
            .then(|| value.strip_prefix(b"=").unwrap_or_default().trim_ascii())
    })
}

/// The name of a field that a request may bear. None when `build.errors` says why.
pub(super) fn field(name: &Spanned<String>, build: &mut Build) -> Option<HeaderName> {
    let mut refuse = |cause: String, cure: &'static str| {
        build.errors.push(&name.site, &*name.path, cause, cure);
        None
    };
    match HeaderName::from_bytes(name.as_bytes()) {
        Err(_) => {
            refuse(format!("`{}` is no name of a header field", name.value), "use letters, digits and `-`")
        }
        Ok(header) if header.as_str().contains('_') => {
            let cause = format!("a field with a `_` in its name, such as `{header}`, never passes the door");
            refuse(cause, "write it with `-`")
        }
        Ok(header) if header == http::header::HOST => {
            refuse("a request's host is not its field".to_owned(), "write `host`")
        }
        Ok(header) => Some(header),
    }
}
