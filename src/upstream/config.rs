//! An upstream as written.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::{Percent, Time};
use crate::config::{OrNone, Spanned};
use crate::proxy_protocol::Version;

/// A pool of servers that serve the same thing.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `host:port`, or `{address, weight}`. Names are resolved in the background and again by their TTL.
    pub servers: Vec<Spanned<Server>>,
    /// What the servers speak.
    #[serde(default)]
    pub protocol: UpstreamProtocol,
    /// How a server is chosen.
    #[serde(default)]
    pub balance: Balance,
    /// TLS towards the servers.
    #[serde(default)]
    pub tls: OrNone<Spanned<Tls>>,
    /// `none`, `v1` or `v2`: each new connection begins, before TLS, with a PROXY header that tells the client's address. A
    /// connection is kept for the client that it was made for: give `keep_alive.connections` room for as many clients as come at
    /// once.
    #[serde(default)]
    pub proxy_protocol: SendProxy,
    /// Which Host the servers see: `keep` (the client's), `server` (the server's own name), or a literal.
    #[serde(default)]
    pub host: Spanned<Host>,
    /// How long things may take.
    #[serde(default)]
    pub timeouts: Spanned<Timeouts>,
    /// Idle connections kept.
    #[serde(default)]
    pub keep_alive: KeepAlive,
    /// When a request is tried again.
    #[serde(default)]
    pub retries: Spanned<Retries>,
    /// Active health checks over HTTP.
    #[serde(default)]
    pub health: OrNone<Spanned<Health>>,
}

/// What the servers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1
    #[default]
    Http1,
}

/// Which PROXY header servers are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SendProxy {
    /// None.
    #[default]
    None,
    /// A line of text.
    V1,
    /// A binary block.
    V2,
}

impl SendProxy {
    pub(super) fn version(self) -> Option<Version> {
        match self {
            Self::None => None,
            Self::V1 => Some(Version::V1),
            Self::V2 => Some(Version::V2),
        }
    }
}

/// How a server is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// By turns, as often as their weights say, evenly spread.
    #[default]
    RoundRobin,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `host:port` or `[v6]:port`.
    pub address: String,
    /// Its share among the others; 0 takes it out.
    pub weight: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ServerInFull {
    /// `host:port` or `[v6]:port`.
    address: String,
    /// Its share among the others, 0 to 1000; 0 takes it out.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    weight: u32,
}

fn one() -> u32 {
    1
}

impl<'de> Deserialize<'de> for Server {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ServerVisitor;

        impl<'de> serde::de::Visitor<'de> for ServerVisitor {
            type Value = Server;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`host:port` or `{address: host:port, weight: 1}`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Server, E> {
                Ok(Server { address: text.to_owned(), weight: 1 })
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Server, A::Error> {
                let full = ServerInFull::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Server { address: full.address, weight: full.weight })
            }
        }

        deserializer.deserialize_any(ServerVisitor)
    }
}

impl JsonSchema for Server {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Server".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let full = ServerInFull::json_schema(generator);
        schemars::json_schema!({
            "description": "`host:port`, or `{address: host:port, weight: 2}`.",
            "anyOf": [{ "type": "string", "format": "x-host-port" }, full]
        })
    }
}

/// Which Host the servers see.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Host {
    /// The client's.
    #[default]
    Keep,
    /// The server's own name, as in `servers`.
    Server,
    /// This one.
    Literal(String),
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match String::deserialize(deserializer)?.as_str() {
            "keep" => Self::Keep,
            "server" => Self::Server,
            literal => Self::Literal(literal.to_owned()),
        })
    }
}

impl JsonSchema for Host {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "UpstreamHost".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "description": "`keep`, `server`, or a literal host.", "type": "string", "default": "keep" })
    }
}

/// TLS towards the servers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Whether the server's certificate is verified. `false` must be said twice: with `insecure_skip_verify: true`.
    pub verify: bool,
    /// The second word for `verify: false`.
    pub insecure_skip_verify: bool,
    /// The name the certificate must bear, also sent as SNI. Default: the server's own name.
    pub server_name: Option<Spanned<String>>,
    /// A PEM file of the authorities to trust instead of the system's.
    pub ca: Option<Spanned<String>>,
}

impl Default for Tls {
    fn default() -> Self {
        Self { verify: true, insecure_skip_verify: false, server_name: None, ca: None }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Establishing a connection, TLS included.
    pub connect: Time,
    /// To the response's first byte, and between its bytes; 1h after an upgrade. As long the server may take nothing of what is sent to it.
    pub read: Time,
    /// To the response's head, all attempts together.
    pub total: Time,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = |s| Time(Duration::from_secs(s));
        Self { connect: seconds(1), read: seconds(30), total: seconds(60) }
    }
}

/// Idle connections kept.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeepAlive {
    /// How long an unused connection is kept.
    pub idle: Time,
    /// How many are kept, for the whole process.
    pub connections: usize,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { idle: Time(Duration::from_secs(60)), connections: 128 }
    }
}

/// When a request is tried again.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// Attempts in all; 1 never tries again.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u32,
    /// What is tried again: `connect` (no connection could be made), `reset` (closed before an answer; idempotent methods
    /// without a body only).
    pub on: Vec<RetryOn>,
    /// The share of requests that may be retries, over the last ten seconds; at least one a second is always allowed.
    pub budget: Percent,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 2, on: vec![RetryOn::Connect], budget: Percent(1_000) }
    }
}

/// What is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// No connection could be made.
    Connect,
    /// The connection was closed or reset before an answer.
    Reset,
}

impl RetryOn {
    /// All of them, in their order.
    pub const ALL: [Self; 2] = [Self::Connect, Self::Reset];

    /// As configured, and as metrics say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
        }
    }
}

/// Active health checks over HTTP.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// The path asked for.
    pub path: Spanned<String>,
    /// How often.
    #[serde(default = "five_seconds")]
    pub interval: Time,
    /// How long an answer may take.
    #[serde(default = "one_second")]
    pub timeout: Time,
    /// Successes in a row that make a server healthy.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_after: u32,
    /// Failures in a row that make it unhealthy.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_after: u32,
    /// The status of a healthy answer.
    #[serde(default = "two_hundred")]
    #[schemars(range(min = 100, max = 599))]
    pub status: u16,
}

fn five_seconds() -> Time {
    Time(Duration::from_secs(5))
}

fn one_second() -> Time {
    Time(Duration::from_secs(1))
}

fn two() -> u32 {
    2
}

fn three() -> u32 {
    3
}

fn two_hundred() -> u16 {
    200
}
