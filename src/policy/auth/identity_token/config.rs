//! What is written under `server.identity_tokens` and as a route's `forward_identity`, and what can be wrong with it.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE};
use reqwest::Url;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};

use super::key::SigningAlgorithm;
use crate::canonical;
use crate::client::{is_forwarding, is_protected};
use crate::config::units::{Size, Time};
use crate::config::{Build, Spanned};
use crate::policy::auth::WELL_KNOWN;
use crate::policy::auth::credential::is_reserved;

const LIFETIME_MIN: Duration = Duration::from_secs(10);
/// As long may a token be good of somebody who has been locked out; keys are published for longer after their last one.
pub(super) const LIFETIME_MAX: Duration = Duration::from_secs(600);
const ROTATE_MIN: Duration = Duration::from_secs(24 * 3600);
const ROTATE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
const CLAIMS_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 256;

/// Tokens of the gateway's own that tell upstreams who a request is from: signed (RFC 7515), short-lived, with `typ` `portcullis+jwt`.
/// Routes forward them by `forward_identity`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `iss` of the tokens, which names this gateway: an https URL (plain http for a loopback host alone).
    pub issuer: Option<Spanned<String>>,
    /// What signs: `generate` (a key kept in `server.state`, and changed by `rotate`), or `{file: key.pem}`, a private key on P-256 or
    /// of Ed25519.
    pub key: Spanned<KeyConfig>,
    /// How: `ES256` or `EdDSA` (Ed25519). Default: `ES256`; with a file, as the key wants it.
    pub algorithm: Option<Spanned<SigningAlgorithm>>,
    /// How long a token is good, from `10s` to `10m`. It is not good for longer than the credential that it was made of, ten seconds
    /// apart.
    pub lifetime: Time,
    /// Where GET and HEAD are answered with the public keys (RFC 7517 §5), on every listener and host. It goes before routes with
    /// parameters that have this path too; a route of exactly this path is an error.
    pub jwks: Spanned<String>,
    /// How old a generated key becomes, from `1d` to `366d`. Default: `30d`. The next one is published an hour before it signs, the old one until its
    /// last token has expired.
    pub rotate: Option<Spanned<Time>>,
    /// The longest token, from `512B` to `16KiB`; whose would be longer is refused (500).
    pub max_bytes: Size,
    /// How much of signed tokens is kept, so that a request of the same identity within half their lifetime need not be signed anew.
    /// From `0B` (each request has a token, and a `jti`, of its own) to `1GiB`.
    pub cache: Size,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            issuer: None,
            key: Spanned::default(),
            algorithm: None,
            lifetime: Time(Duration::from_secs(60)),
            jwks: Spanned::unwritten("/.well-known/portcullis/jwks.json".to_owned()),
            rotate: None,
            max_bytes: Size(4 << 10),
            cache: Size(4 << 20),
        }
    }
}

/// How old a generated key becomes where nothing is said.
pub(super) const ROTATE: Duration = Duration::from_secs(30 * 24 * 3600);

/// What signs.
#[derive(Clone, Debug, Default)]
pub enum KeyConfig {
    /// One that is made, kept and changed by the gateway.
    #[default]
    Generate,
    /// One of the operator's.
    File(Box<KeyFile>),
}

/// A key in a file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// A PEM file, not encrypted, that nobody but the gateway's user and group may read; read again when it changes.
    pub file: Spanned<String>,
}

/// How a route's upstream is told who it is.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ForwardConfig {
    /// The field that the token stands in. On no route does it pass from a client.
    pub header: Option<Spanned<String>>,
    /// `aud`: for whom the token is. One for each service, so that none can use at another what it was sent.
    pub audience: Option<Spanned<String>>,
    /// Claims of the identity that the token has too, under `claims`; a dot leads into a nested claim. Those that it has not are left
    /// out.
    pub claims: Vec<Spanned<String>>,
}

impl<'de> Deserialize<'de> for KeyConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = KeyConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`generate` or `{file: key.pem}`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<KeyConfig, E> {
                match text {
                    "generate" => Ok(KeyConfig::Generate),
                    other => {
                        Err(E::custom(format!("`{other}` is neither `generate` nor `{{file: key.pem}}`")))
                    }
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeyConfig, A::Error> {
                KeyFile::deserialize(MapAccessDeserializer::new(map))
                    .map(|file| KeyConfig::File(Box::new(file)))
            }
        }

        deserializer.deserialize_any(KeyVisitor)
    }
}

impl JsonSchema for KeyConfig {
    fn schema_name() -> Cow<'static, str> {
        "IdentityTokenKey".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let file = generator.subschema_for::<KeyFile>();
        json_schema!({
            "description": "`generate`, or `{file: key.pem}`.",
            "default": "generate",
            "anyOf": [{ "const": "generate" }, file]
        })
    }
}

/// Tells `build.errors` what is wrong with it, its key apart.
pub(super) fn check(config: &Spanned<Config>, build: &mut Build) {
    match &config.issuer {
        None => build.errors.push(
            &config.site,
            format!("{}.issuer", config.path),
            "nothing says whose tokens these are",
            "write this gateway's address, such as `https://gateway.example.com`",
        ),
        Some(issuer) => {
            if let Err((cause, cure)) = is_issuer(issuer) {
                build.errors.push(&issuer.site, &*issuer.path, cause, cure);
            }
        }
    }
    let mut range = |key: &str, holds: bool, written: String, cure: &'static str| {
        if !holds {
            let cause = format!("{written} is out of range");
            build.errors.push(&config.site, format!("{}.{key}", config.path), cause, cure);
        }
    };
    let lifetime = (LIFETIME_MIN..=LIFETIME_MAX).contains(&config.lifetime.0);
    range("lifetime", lifetime, config.lifetime.to_string(), "write a duration from `10s` to `10m`");
    if let Some(rotate) = &config.rotate {
        let fits = (ROTATE_MIN..=ROTATE_MAX).contains(&rotate.0);
        range("rotate", fits, rotate.value.to_string(), "write a duration from `1d` to `366d`");
    }
    let bytes = (512..=16 << 10).contains(&config.max_bytes.0);
    range("max_bytes", bytes, config.max_bytes.to_string(), "write a size from `512B` to `16KiB`");
    let cache = config.cache.0 <= 1 << 30;
    range("cache", cache, config.cache.to_string(), "write a size from `0B` (nothing is kept) to `1GiB`");
    if let (Some(rotate), KeyConfig::File(_)) = (&config.rotate, &config.key.value) {
        let cause = "a key of yours is changed by you alone";
        build.errors.push(&rotate.site, &*rotate.path, cause, "remove it, or write `key: generate`");
    }
    if let Err(cause) = is_path(&config.jwks) {
        let cause = format!("`{}` {cause}", config.jwks.value);
        let cure = "write a path such as `/.well-known/portcullis/jwks.json`";
        build.errors.push(&config.jwks.site, &*config.jwks.path, cause, cure);
    }
}

/// RFC 8414 §2: https, without query and fragment. Plain http where nobody can stand on the way.
fn is_issuer(text: &str) -> Result<(), (String, &'static str)> {
    const CURE: &str = "write such as `https://gateway.example.com`, as those will compare it who verify";
    let url = Url::parse(text).map_err(|_| (format!("`{text}` is no URL"), CURE))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(("the issuer has a user or a password in it".to_owned(), CURE));
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
        return Err((format!("`{text}` is not https"), CURE));
    }
    if url.query().is_some() || url.fragment().is_some() || text.len() > NAME_BYTES_MAX {
        return Err((format!("`{text}` has a query or a fragment, or is too long"), CURE));
    }
    Ok(())
}

fn is_path(text: &str) -> Result<(), &'static str> {
    if text.contains(['{', '}', '?', '#']) {
        return Err("is no plain path");
    }
    let canonical = canonical::rewritten(text);
    if !canonical.is_ok_and(|(path, oddities)| path == text && oddities == canonical::Oddities::default())
        || text.contains("/.") && !text.starts_with("/.well-known/")
        || text.len() > NAME_BYTES_MAX
    {
        return Err("is no path in canonical form");
    }
    if text.ends_with('/') {
        return Err("names no document");
    }
    if text.starts_with(WELL_KNOWN) {
        return Err("is where the metadata of protected resources stand");
    }
    Ok(())
}

/// A route's choice, without fault.
pub(super) struct Checked {
    pub(super) header: HeaderName,
    pub(super) audience: Box<str>,
    pub(super) claims: Box<[Box<str>]>,
}

/// None when `build.errors` says why.
pub(super) fn check_forward(config: &Spanned<ForwardConfig>, build: &mut Build) -> Option<Checked> {
    let header = match &config.header {
        None => {
            let cause = "nothing says in which field the token stands";
            let path = format!("{}.header", config.path);
            build.errors.push(&config.site, path, cause, "write such as `header: x-identity-token`");
            None
        }
        Some(name) => header(name, build),
    };
    let is_sound =
        |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control);
    let audience = match &config.audience {
        None => {
            let cause = "a token for everybody could be used by one service at another";
            let path = format!("{}.audience", config.path);
            build.errors.push(&config.site, path, cause, "name the service, such as `audience: orders`");
            None
        }
        Some(audience) if !is_sound(audience) => {
            let cause = "the audience is empty, too long, or has control characters";
            let cure = "name the service, such as `audience: orders`";
            build.errors.push(&audience.site, &*audience.path, cause, cure);
            None
        }
        Some(audience) => Some(audience.as_str().into()),
    };
    if config.claims.len() > CLAIMS_MAX {
        let cause = format!("more than {CLAIMS_MAX} claims");
        let path = format!("{}.claims", config.path);
        build.errors.push(&config.site, path, cause, "forward those that the service decides by");
        return None;
    }
    for (at, name) in config.claims.iter().enumerate() {
        let cause = if !is_sound(name) {
            "the name of a claim is empty, too long, or has control characters".to_owned()
        } else if config.claims.iter().take(at).any(|other| other.value == name.value) {
            format!("`{}` is named twice", name.value)
        } else {
            continue;
        };
        build.errors.push(&name.site, &*name.path, cause, "write each claim once, such as `[tenant]`");
        return None;
    }
    let claims = config.claims.iter().map(|name| name.as_str().into()).collect();
    Some(Checked { header: header?, audience: audience?, claims })
}

/// A field that nobody else has a word in.
fn header(name: &Spanned<String>, build: &mut Build) -> Option<HeaderName> {
    let Ok(header) = name.parse::<HeaderName>() else {
        let cause = format!("`{}` is not the name of a header field", name.value);
        build.errors.push(&name.site, &*name.path, cause, "write such as `x-identity-token`");
        return None;
    };
    let text = header.as_str();
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let taken = header == AUTHORIZATION || header == COOKIE || is_protected(text) || is_forwarding(text);
    if taken || !plain || is_reserved(&header) || matches!(text, "set-cookie" | "http2-settings") {
        let cause = format!("`{text}` has a meaning of its own, or is never passed on");
        build.errors.push(&name.site, &*name.path, cause, "write such as `x-identity-token`");
        return None;
    }
    Some(header)
}
