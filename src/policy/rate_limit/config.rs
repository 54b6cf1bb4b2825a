//! What is written under `policies.rate_limits`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

pub use super::penalty::PenaltyConfig;
use crate::config::Spanned;
use crate::config::units::{Rate, Size, Time};
use crate::policy::Mode;

/// How often, and how many at once, requests of one key may come: `limit`, `concurrent`, or both.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which requests are counted together: `client` (an address, of IPv6 a network of 64 bits), `identity`, `api_key`, `plan`,
    /// `route`, `host`, `{header: x-tenant}`, `{cookie: session}`, `{claim: tenant.id}`, or a list of these. Where a request
    /// has no such value, its client takes the value's place. What clients choose freely, such as a field, bounds nobody who
    /// changes it: put a limit by `client` beside it. `auth_failures` is a client too, and counts nothing but the credentials of his
    /// that the gateway's own authentication has refused as wrong: who is above the limit is refused (429) before any credential is
    /// looked at, right or wrong, until time has brought a token. `[auth_failures, route]` counts each route for itself.
    pub key: Spanned<Key>,
    /// How fast spent tokens come back: `50/1s`. A request takes one, or its `cost`; one that finds too few is refused (429).
    #[serde(default)]
    pub limit: Option<Spanned<Rate>>,
    /// How many tokens there are at the most, to be spent at once. Default: the limit's count.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<Spanned<u32>>,
    /// Other limits for single values of the key, of its first part where it has several: a header's, a route's name, an address or
    /// a CIDR (the longest wins). For `identity` and `api_key` a name is first an identity's id or a key's (as `portcullis keys list`
    /// shows it), whoever vouches for it, then the plan of who asks: `enterprise: 1000/1s`. A plan of `policies.plans` is nobody's own
    /// name. Their burst is their count. At most 255 values.
    #[serde(default)]
    pub overrides: BTreeMap<String, Spanned<Rate>>,
    /// What a request costs, where that is not one token.
    #[serde(default)]
    pub cost: Option<Spanned<CostConfig>>,
    /// Only requests that are answered so are counted, when the answer's head is known; the others only need their `cost` to be there. What
    /// a key has under way before the first of its answers is known passes beside the limit: `concurrent` bounds that, and with no more than
    /// `burst` of them the rate holds in the long run. What a key owes so is another burst at the most. What authentication refuses counts for a
    /// limit by identity only where it is known who that is; without a token it is 429 in place of 403.
    #[serde(default)]
    pub count: Option<Spanned<CountConfig>>,
    /// Keys that keep coming although they are refused are refused for longer, each time twice as long: `penalty: {}`, or other
    /// figures. Who keeps to the limit, or comes again when he was told to, never is. Takes an eighth more of `memory`.
    #[serde(default)]
    pub penalty: Option<Spanned<PenaltyConfig>>,
    /// How many requests of one key may be under way at once; 503 above it. One is under way until the last piece of its answer is handed
    /// to whoever writes it, a tunnel for as long as its server keeps it open.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub concurrent: Option<Spanned<u32>>,
    /// Requests above `concurrent` that wait for their turn, of each key. Default: none waits.
    #[serde(default)]
    pub queue: Option<Spanned<QueueConfig>>,
    /// Who counts: each `node` by itself, or the `fleet`, all nodes together in the store of `server.fleet`. While the store does not
    /// answer, each node has its share.
    #[serde(default)]
    pub scope: Scope,
    /// With `scope: fleet`: whether the store is asked for every request. Exact to the token, at the price of a round trip to the store each.
    #[serde(default)]
    pub strict: Option<Spanned<bool>>,
    /// How clients are told: `ietf` (`RateLimit` and `RateLimit-Policy`), `legacy` (`X-RateLimit-Limit`, `-Remaining`, `-Reset`), or
    /// not at all (`hidden`).
    #[serde(default)]
    pub headers: Headers,
    /// The memory of the table of keys, taken whole at the load; a key takes about 18 bytes, and only while it has spent tokens. With
    /// `scope: fleet` leases may take as much again, about 320 bytes a key that has asked of late; where they find no room, the node
    /// decides by its share.
    #[serde(default = "memory")]
    pub memory: Spanned<Size>,
    /// Whether a refusal is carried out (`enforce`) or only noted (`shadow`); tokens are taken in either.
    #[serde(default)]
    pub mode: Mode,
}

impl Config {
    /// The memory that a `limit` takes at the most, in bytes: its table, records of refused keys, and leases.
    pub fn bytes_most(&self) -> u64 {
        let table = self.memory.value.0;
        let penalties = self.penalty.as_ref().map_or(0, |_| table / 8);
        let leases = if self.scope == Scope::Fleet { table } else { 0 };
        table.saturating_add(penalties).saturating_add(leases)
    }

    /// Whether it counts what authentication refuses.
    pub fn counts_auth_failures(&self) -> bool {
        let is_meant = |part: &KeyPart| matches!(part, KeyPart::Word(word) if word == AUTH_FAILURES);
        self.key.0.iter().any(is_meant)
    }

    /// Whether its key has a part that clients choose freely: whoever changes that has a bucket of his own.
    pub fn is_evaded(&self) -> bool {
        let chosen = |part: &KeyPart| matches!(part, KeyPart::Named(name) if name.header.is_some() || name.cookie.is_some());
        self.key.0.iter().any(chosen)
    }

    /// Whether it bounds those who evade another: as the other does, all their requests or how many there are at once.
    pub fn bounds_whom_evades(&self, other: &Self) -> bool {
        let is_firm = !self.is_evaded() && self.mode == Mode::Enforce;
        let is_like = match (&other.limit, &self.limit) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(_)) => self.count.is_none() || other.count.is_some(),
        };
        is_firm && is_like && !self.counts_auth_failures()
    }
}

fn memory() -> Spanned<Size> {
    Spanned::unwritten(Size(8 << 20))
}

/// What a request costs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CostConfig {
    /// Tokens by method: `{POST: 5, OPTIONS: 0}`. Default: 1.
    pub methods: BTreeMap<String, Spanned<u32>>,
    /// A request field that says how many tokens it costs. It never makes a request cheaper than its method does.
    pub header: Option<Spanned<CostHeader>>,
}

/// A field that says what a request costs.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CostHeader {
    /// Its name. What is no whole number is not there.
    pub name: Spanned<String>,
    /// The most that it may say; what is more counts as much.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub most: Spanned<u32>,
}

/// Which requests are counted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CountConfig {
    /// Those that are answered with one of these statuses, by the upstream or the gateway: `[401, 403]` for failed logins. A limit's own
    /// refusals do not count for it.
    #[schemars(length(min = 1), inner(range(min = 100, max = 599)))]
    pub status: Vec<u16>,
}

/// Who waits for his turn.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// How many requests of one key may wait. One whose client goes meanwhile leaves at once: on HTTP/1 that is a client that has closed its
    /// connection, or only its own direction of it, which looks the same; on HTTP/2 one that has reset the stream.
    #[schemars(range(min = 1, max = 1_000))]
    pub length: u32,
    /// For how long; then it is 503.
    pub wait: Spanned<Time>,
}

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Each node by itself.
    #[default]
    Node,
    /// All nodes together.
    Fleet,
}

/// How clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Headers {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10).
    #[default]
    Ietf,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining`, `X-RateLimit-Reset` (seconds until all tokens are there).
    Legacy,
    /// Not at all.
    Hidden,
}

/// The parts of a key, at least one.
#[derive(Clone, Debug)]
pub struct Key(pub Vec<KeyPart>);

/// One part of a key.
#[derive(Clone, Debug)]
pub enum KeyPart {
    /// One of [`WORDS`].
    Word(String),
    /// What has a name.
    Named(Box<KeyName>),
}

/// What requests are counted by that has a name: exactly one of these.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeyName {
    /// A header field, with all its values.
    pub header: Option<Spanned<String>>,
    /// A cookie.
    pub cookie: Option<Spanned<String>>,
    /// A claim of the identity; a dot leads into a nested one.
    pub claim: Option<Spanned<String>>,
}

/// What a key can be, in a word.
pub(super) const WORDS: [&str; 7] = ["client", "identity", "api_key", "plan", "route", "host", AUTH_FAILURES];

/// The word for a client's refused credentials.
pub(super) const AUTH_FAILURES: &str = "auth_failures";

/// The most parts of a key.
const PARTS_MAX: usize = 4;

impl<'de> Deserialize<'de> for KeyPart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PartVisitor;

        impl<'de> Visitor<'de> for PartVisitor {
            type Value = KeyPart;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`client`, `identity`, … or such as `{header: x-tenant}`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<KeyPart, E> {
                Ok(KeyPart::Word(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeyPart, A::Error> {
                KeyName::deserialize(MapAccessDeserializer::new(map))
                    .map(|name| KeyPart::Named(Box::new(name)))
            }
        }

        deserializer.deserialize_any(PartVisitor)
    }
}

impl JsonSchema for KeyPart {
    fn schema_name() -> Cow<'static, str> {
        "RateLimitKeyPart".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let named = generator.subschema_for::<KeyName>();
        json_schema!({
            "description": "`client`, `identity`, `api_key`, `plan`, `route`, `host`, `auth_failures`, or `{header: …}`, `{cookie: …}`, \
                            `{claim: …}`.",
            "anyOf": [{ "type": "string", "enum": WORDS }, named]
        })
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a part of a key, or a list of them")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Key, E> {
                Ok(Key(vec![KeyPart::Word(text.to_owned())]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Key, A::Error> {
                let name = KeyName::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Key(vec![KeyPart::Named(Box::new(name))]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Key, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = items.next_element()? {
                    parts.push(part);
                }
                Ok(Key(parts))
            }
        }

        deserializer.deserialize_any(KeyVisitor)
    }
}

impl JsonSchema for Key {
    fn schema_name() -> Cow<'static, str> {
        "RateLimitKey".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let named = generator.subschema_for::<KeyName>();
        let part = generator.subschema_for::<KeyPart>();
        json_schema!({
            "description": "What requests are counted by: `client`, `identity`, `api_key`, `plan`, `route`, `host`, `auth_failures`, \
                            `{header: …}`, `{cookie: …}`, `{claim: …}`, or a list of these.",
            "anyOf": [
                { "type": "string", "enum": WORDS },
                named,
                { "type": "array", "items": part, "minItems": 1, "maxItems": PARTS_MAX },
            ]
        })
    }
}
