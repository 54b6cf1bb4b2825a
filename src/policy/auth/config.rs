//! What is written under `policies.auth` and as a route's `auth`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::config::Spanned;
use crate::config::units::Time;
use crate::policy::Mode;

use super::api_key::Config as ApiKeyConfig;
use super::basic::Config as BasicConfig;
use super::certificate::Config as CertificateConfig;
use super::forward::Config as ForwardConfig;
use super::introspection::Config as IntrospectionConfig;
use super::jwt::Config as JwtConfig;

/// One way to say who a request is from: exactly one of `jwt`, `api_key`, `introspection`, `client_certificate`, `forward`, `basic`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A signed token (RFC 7519, RFC 9068).
    pub jwt: Option<Spanned<JwtConfig>>,
    /// A key of this gateway's, made by `portcullis keys create`.
    pub api_key: Option<Spanned<ApiKeyConfig>>,
    /// A token that its issuer is asked about (RFC 7662).
    pub introspection: Option<Spanned<IntrospectionConfig>>,
    /// The client certificate of the connection; the listener needs `tls.client_ca`.
    pub client_certificate: Option<Spanned<CertificateConfig>>,
    /// Another service is asked.
    pub forward: Option<Spanned<ForwardConfig>>,
    /// A name and a password (RFC 7617), for small sites.
    pub basic: Option<Spanned<BasicConfig>>,
    /// Whether a refusal is carried out (`enforce`) or only noted (`shadow`). Shadowed authentication is an open route: it also
    /// wants `auth_shadow_is_public: true`.
    pub mode: Mode,
    /// Says that whoever wrote `mode: shadow` knows that its routes are public.
    pub auth_shadow_is_public: bool,
}

impl Config {
    /// Whether its credentials name plans, which need not be those of `policies.plans`.
    pub fn names_plans(&self) -> bool {
        self.jwt.as_ref().is_some_and(|jwt| jwt.plan_claim.as_option().is_some())
    }
}

/// Who may pass a route: `none` (public), the name of a policy, or rules.
#[derive(Clone, Debug)]
pub enum RouteAuth {
    /// Everybody: a public route.
    None,
    /// Whom this policy knows.
    Policy(String),
    /// As the rules say.
    Rules(Box<Rules>),
}

/// Who may pass a route: one of `any_of` or all of `all_of`, and then every condition that is written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Policies of `policies.auth`, one of which must know the client. A credential that is presented and not valid refuses: it never
    /// falls through to the next kind. A request bears one token: two in two places refuse too (RFC 6750 §2). The service of `forward` is
    /// asked last, and only while nobody is known by another of them: what it could read may be no credential at all.
    pub any_of: Vec<Spanned<String>>,
    /// Policies of `policies.auth`, each of which must know the client. The first one's identity is the request's: conditions are about
    /// that one (of those in `mode: shadow` only where all are). An API key's plan holds whichever stands first.
    pub all_of: Vec<Spanned<String>>,
    /// Whether a request without any credential passes, as anonymous.
    pub anonymous: bool,
    /// Scopes that are all needed.
    #[schemars(length(min = 1))]
    pub scopes: Vec<Spanned<String>>,
    /// Groups, of which one is needed.
    #[schemars(length(min = 1))]
    pub groups: Vec<Spanned<String>>,
    /// Conditions on claims: `tenant: {equals: acme}`. A dot leads into a nested claim or is one of a name; at each level the longest name
    /// that is there goes first. What `pass` of a `forward` service lists are claims too: `x-user: {equals: ann}`.
    #[schemars(extend("minProperties" = 1, "x-guarded" = "text"))]
    pub claims: BTreeMap<String, Spanned<ClaimCondition>>,
    /// CIDRs or addresses, of which one must hold the client's.
    #[schemars(length(min = 1))]
    pub addresses: Vec<Spanned<String>>,
    /// Times of which one must be now: `Mon-Fri 08:00-18:00 UTC`.
    #[schemars(length(min = 1))]
    pub times: Vec<Spanned<String>>,
    /// An expression in CEL that must be true, such as `jwt.claims.tenant == route.tenant && method in ["GET"]`. `route.NAME` is a
    /// parameter of the path with its escapes decoded: `a b` for `a%20b`. It goes through a list once; where it would make too much of each
    /// element (a list of thousands looked for in another one), it is not true.
    ///
    /// There are the texts `method`, `path`, `host`, `protocol`, `client.ip`, `route.NAME`, `labels.NAME`, `headers["x-name"]` (as the client
    /// has sent it, in small letters; not those that the gateway or a service tells upstreams in), `identity.id`, `.issuer`, `.method` (`jwt`,
    /// `api_key`, …) and `.plan`; the lists `identity.scopes` and `.groups`; `identity.claims` and, the same, `jwt.claims`; and `now`, in seconds
    /// since 1970. What is compared with another type does not load.
    #[schemars(extend("x-guarded" = "expression"))]
    pub when: Option<Spanned<String>>,
}

/// Whether a text that is compared with what others say has white space at an end: then it is never the same.
pub(super) fn has_stray_space(text: &str) -> bool {
    text.trim() != text
}

/// What a claim must be: exactly one of these.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimCondition {
    /// This value: a text, a number, `true` or `false`; type and all. Whole numbers of 64 bits are compared exactly; a larger number in a
    /// token is no value.
    pub equals: Option<Scalar>,
    /// A list that has this value as an element.
    pub contains: Option<Scalar>,
    /// One of these values.
    pub any_of: Option<Vec<Scalar>>,
    /// A text that this regular expression matches as a whole.
    pub matches: Option<Spanned<String>>,
}

/// A text, a number, `true` or `false`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar(pub Value);

/// Where a credential stands: `bearer`, `{header: x-token}`, `{cookie: session}` or `{query: token}`.
#[derive(Clone, Debug, Default)]
pub enum From {
    /// `Authorization: Bearer` (RFC 6750 §2.1).
    #[default]
    Bearer,
    /// Elsewhere.
    Place(Box<PlaceConfig>),
}

/// A place for a credential: exactly one of these.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlaceConfig {
    /// A header field.
    pub header: Option<Spanned<String>>,
    /// A cookie.
    pub cookie: Option<Spanned<String>>,
    /// A parameter of the query. Queries stand in histories, referrers and other servers' logs: discouraged.
    pub query: Option<Spanned<String>>,
}

/// A list of tokens that are no longer good: exactly one of `file` and `url`. One `jti` or `sub` a line (`#` begins a comment), or JSON
/// `{"jti": […], "sub": […]}`. An empty file is a list of nobody. An empty answer is taken for a fault of who gives it, and the list stays as
/// it was: a list of nobody is `{"jti": []}` there, or a comment.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RevocationConfig {
    /// A file; read again when it changes.
    pub file: Option<Spanned<String>>,
    /// Fetched by the rules of `server.egress`. A copy is kept in `server.state`, so that a restart knows it while it cannot be fetched.
    pub url: Option<Spanned<String>>,
    /// How often it is fetched. From `1s` to `1d`.
    pub refresh: Time,
    /// How long a list is used that could not be fetched anew; then no token passes (503). From `0ms` to `30d`.
    pub stale_max: Time,
}

impl Default for RevocationConfig {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self { file: None, url: None, refresh: Time(Duration::from_secs(60)), stale_max: Time(day) }
    }
}

impl<'de> Deserialize<'de> for RouteAuth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RouteAuthVisitor;

        impl<'de> Visitor<'de> for RouteAuthVisitor {
            type Value = RouteAuth;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none`, the name of a policy, or `{any_of: […]}`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RouteAuth, E> {
                Ok(match text {
                    "none" => RouteAuth::None,
                    name => RouteAuth::Policy(name.to_owned()),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RouteAuth, A::Error> {
                Rules::deserialize(MapAccessDeserializer::new(map))
                    .map(|rules| RouteAuth::Rules(Box::new(rules)))
            }
        }

        deserializer.deserialize_any(RouteAuthVisitor)
    }
}

impl JsonSchema for RouteAuth {
    fn schema_name() -> Cow<'static, str> {
        "RouteAuth".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rules = generator.subschema_for::<Rules>();
        json_schema!({
            "description": "Who may pass: `none` (public), the name of a policy of `policies.auth`, or rules.",
            "anyOf": [{ "type": "string" }, rules]
        })
    }
}

impl<'de> Deserialize<'de> for From {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FromVisitor;

        impl<'de> Visitor<'de> for FromVisitor {
            type Value = From;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`bearer`, `{header: x-token}`, `{cookie: session}` or `{query: token}`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<From, E> {
                match text {
                    "bearer" => Ok(From::Bearer),
                    other => {
                        Err(E::custom(format!("`{other}` is neither `bearer` nor `{{header: x-token}}`")))
                    }
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<From, A::Error> {
                PlaceConfig::deserialize(MapAccessDeserializer::new(map))
                    .map(|place| From::Place(Box::new(place)))
            }
        }

        deserializer.deserialize_any(FromVisitor)
    }
}

impl JsonSchema for From {
    fn schema_name() -> Cow<'static, str> {
        "From".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let place = generator.subschema_for::<PlaceConfig>();
        json_schema!({
            "description": "Where the credential stands: `bearer`, `{header: x-token}`, `{cookie: session}` or `{query: token}`.",
            "default": "bearer",
            "anyOf": [{ "const": "bearer" }, place]
        })
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null | Value::Array(_) | Value::Object(_) => {
                Err(D::Error::custom("write a text, a number, `true` or `false`"))
            }
            scalar => Ok(Self(scalar)),
        }
    }
}

impl JsonSchema for Scalar {
    fn schema_name() -> Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "A text, a number, `true` or `false`.", "type": ["string", "number", "boolean"] })
    }
}
