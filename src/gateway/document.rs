//! The root of the configuration, made of the modules' own `Config`s. Field docs are the operator's reference.

mod listeners;

use std::collections::BTreeMap;

pub use listeners::{
    CertificateFiles, Certificates, ClientDemand, Listener, ListenerTls, MinVersion, ProxyProtocol,
    RedirectToHttps,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::canonical::Oddity;
use crate::config::units::{Rate, Size, Speed, Time};
use crate::config::{OrNone, Spanned};
use crate::policy::auth::{self, RouteAuth, identity_token};
use crate::policy::{access, cors, headers, rate_limit};
use crate::state::redis;
use crate::{egress, observe, reply, route, upstream};

/// A Portcullis configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "Portcullis configuration")]
pub struct Document {
    /// More files (globs), relative to this one: maps are joined, lists appended, a name given twice is an error.
    pub include: Vec<Spanned<String>>,
    /// The process.
    pub server: Spanned<Server>,
    /// What is written about requests and about the gateway itself.
    pub log: Spanned<observe::Config>,
    /// Where clients connect.
    pub listeners: Vec<Spanned<Listener>>,
    /// What every request passes before any route is known.
    pub edge: Spanned<Edge>,
    /// Pools of servers, by name.
    pub upstreams: BTreeMap<String, Spanned<upstream::Config>>,
    /// Policies, named once, used by `routes`, `defaults` and `edge`.
    pub policies: Policies,
    /// For every route; a route's own key replaces it, `none` takes it away, `[inherit, x]` adds to a list.
    pub defaults: Spanned<Defaults>,
    /// Which request goes where.
    pub routes: Vec<Spanned<Route>>,
    /// Our own answers, by kind: `ROUTE_NOT_FOUND: {status: 404, body: …}`.
    pub replies: BTreeMap<String, Spanned<reply::Config>>,
}

/// The process.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Worker threads: `auto` (one a core) or a number. Takes effect at a restart.
    pub workers: Spanned<Workers>,
    /// The directory for what outlives the process. Takes effect at a restart.
    pub state: Spanned<String>,
    /// The address of `/livez`, `/readyz`, `/metrics` and `/version`: `host:port`, `unix:/path`, or `none`. A loopback address answers
    /// requests whose `Host` is an IP address or `localhost`, and no others (421).
    pub status: OrNone<Spanned<String>>,
    /// Must be true for a status address that is not loopback.
    pub status_public: bool,
    /// The user to become when started as root, once every address is bound and every key is read; `none` stays root, and
    /// warns. Started as anybody else, it must be that user. Takes effect at a restart.
    pub user: OrNone<Spanned<String>>,
    /// The prefix of `type` in problem documents; a site sets its own documentation's address.
    pub problem_types: String,
    /// The most that draining may take after SIGTERM.
    pub drain: Spanned<Time>,
    /// What becomes of request fields with a `_` in their name: `drop` takes them out before anything looks, `refuse` answers
    /// 400. They never pass: CGI, WSGI and their kin read `X_Client` and `X-Client` as one.
    pub headers_with_underscores: Underscores,
    /// Bounds.
    pub limits: Limits,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Fetches of the gateway's own, and those of `portcullis fetch`.
    pub egress: egress::Config,
    /// The store that nodes of a fleet share, for limits with `scope: fleet`.
    pub fleet: Option<Spanned<redis::Config>>,
    /// Tokens of the gateway's own, by which upstreams know who a request is from: see a route's `forward_identity`.
    pub identity_tokens: Option<Spanned<identity_token::Config>>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            workers: Spanned::default(),
            state: Spanned::unwritten("./state".to_owned()),
            status: OrNone::Some(Spanned::unwritten("127.0.0.1:9900".to_owned())),
            status_public: false,
            user: OrNone::None,
            problem_types: "urn:portcullis:problem:".to_owned(),
            drain: Spanned::unwritten(Time(std::time::Duration::from_secs(90))),
            headers_with_underscores: Underscores::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            egress: egress::Config::default(),
            fleet: None,
            identity_tokens: None,
        }
    }
}

/// Worker threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Workers {
    /// One a core.
    #[default]
    Auto,
    /// As many.
    Number(usize),
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WorkersVisitor;

        impl serde::de::Visitor<'_> for WorkersVisitor {
            type Value = Workers;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`auto` or a number")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Workers, E> {
                match text {
                    "auto" => Ok(Workers::Auto),
                    other => Err(E::custom(format!("`{other}` is neither `auto` nor a number"))),
                }
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Workers, E> {
                usize::try_from(number).map(Workers::Number).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(WorkersVisitor)
    }
}

impl JsonSchema for Workers {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Workers".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "`auto` (one a core) or a number from 1 to 1024.",
            "default": "auto",
            "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": 1024 }]
        })
    }
}

/// What becomes of request fields with a `_` in their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Underscores {
    /// They are taken out.
    #[default]
    Drop,
    /// The request is 400.
    Refuse,
}

/// Bounds.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections open at once, on all listeners; one above it is answered 503 where it is plain, and closed.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections: usize,
    /// Of these, by one client: an IPv4 address, or an IPv6 network of 64 bits. Peers of a Unix socket have no such bound.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections_per_client: usize,
    /// Requests being served at once, by all workers; 503 above it, before any route is looked for. The real bound on memory.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub requests_in_flight: usize,
    /// Streams at once on a connection of HTTP/2; what is above it is reset (REFUSED_STREAM). So many
    /// are for small heads: one of 1 KiB counts for 1.3, one of 8 KiB for 2.6.
    #[schemars(range(min = 1, max = 10_000))]
    pub http2_streams: u32,
    /// Resets of streams that a client sends or provokes on a connection of HTTP/2; above it the connection ends. PING, SETTINGS,
    /// PRIORITY, WINDOW_UPDATE, empty and unknown frames are held to the same rate, each kind by itself, beyond those that
    /// ordinary traffic brings along.
    pub http2_resets: Rate,
    /// Header fields in a request; 431 above it.
    #[schemars(range(min = 1, max = 250))]
    pub header_fields: usize,
    /// Bytes of a request's head; 431 above it. On HTTP/2 64 KiB at the most.
    pub header_bytes: Size,
    /// Bytes of one header field; 431 above it.
    pub field_bytes: Size,
    /// Bytes of a request target; 414 above it.
    pub uri_bytes: Size,
    /// Requests that a connection may bring; then it is closed after its answer. HTTP/2 says GOAWAY ahead, for what is under way until
    /// a client hears of it (as many as `http2_streams`, a tenth of the requests at the most), and refuses what comes beyond.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests_per_connection: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_client: 1_000,
            requests_in_flight: 10_000,
            http2_streams: 128,
            http2_resets: Rate { count: 200, per: std::time::Duration::from_secs(10) },
            header_fields: 100,
            header_bytes: Size(32 << 10),
            field_bytes: Size(8 << 10),
            uri_bytes: Size(8 << 10),
            requests_per_connection: 10_000,
        }
    }
}

/// Deadlines.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// A TLS handshake, as a whole.
    pub handshake: Time,
    /// A whole request head, however it drips in; 408 after it.
    pub head: Time,
    /// The slowest that a request's body may come, measured from its start and not from read to read; what chunks are
    /// wrapped in does not count, nor does the time in which an upstream keeps the body waiting. 408 below it; an HTTP/2
    /// stream is reset.
    pub body_rate: Speed,
    /// How far a body may lie behind `body_rate`.
    pub body_grace: Time,
    /// A whole request body, whoever is waited for.
    pub body_total: Time,
    /// An idle keep-alive connection.
    pub keep_alive: Time,
    /// How long a client may leave the next piece of an answer (64 KiB) untaken; then the connection is reset, or the
    /// HTTP/2 stream.
    pub write_stall: Time,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = |s| Time(std::time::Duration::from_secs(s));
        Self {
            handshake: seconds(10),
            head: seconds(10),
            body_rate: Speed(1 << 10),
            body_grace: seconds(5),
            body_total: seconds(3600),
            keep_alive: seconds(75),
            write_stall: seconds(30),
        }
    }
}

/// What every request passes before any route is known.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Edge {
    /// A policy of `policies.access`, or `none`.
    pub access: OrNone<Spanned<String>>,
    /// Policies of `policies.rate_limits` whose key is the client, the host or a header field; all are asked, of requests without a
    /// route too, and of those that are refused before they are understood (400, 405, 414, 431 …): these are counted by client, whatever the
    /// key is. Where a trusted proxy sends a head of HTTP/1 that cannot be read, the client is not known, and none is asked.
    pub rate_limits: Vec<Spanned<String>>,
}

/// Policies by kind and name.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policies {
    /// Who a request is from.
    pub auth: BTreeMap<String, Spanned<auth::Config>>,
    /// Address lists.
    pub access: BTreeMap<String, Spanned<access::Config>>,
    /// Cross-origin rules.
    pub cors: BTreeMap<String, Spanned<cors::Config>>,
    /// Header rules.
    pub headers: BTreeMap<String, Spanned<headers::Config>>,
    /// How often, and how many at once.
    pub rate_limits: BTreeMap<String, Spanned<rate_limit::Config>>,
    /// What API keys may do: usage plans, with throttles and quotas.
    pub plans: BTreeMap<String, Spanned<rate_limit::plan_config::Config>>,
}

/// For every route.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Who may pass. Must be said here or on the route: nothing is public by omission. `none` is public.
    pub auth: Option<Spanned<RouteAuth>>,
    /// How upstreams are told who it is, or `none`; for routes with an `upstream` that are not public.
    pub forward_identity: OrNone<Spanned<identity_token::ForwardConfig>>,
    /// A policy of `policies.access`, or `none`.
    pub access: OrNone<Spanned<String>>,
    /// A policy of `policies.cors`, or `none`.
    pub cors: OrNone<Spanned<String>>,
    /// Policies of `policies.headers`, in order.
    pub headers: Vec<Spanned<String>>,
    /// Policies of `policies.rate_limits`; all are asked.
    pub rate_limits: Vec<Spanned<String>>,
}

/// One route.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Unique; in log, metrics and explain.
    pub name: Spanned<String>,
    /// Which requests it is for.
    #[serde(default, rename = "match")]
    pub matches: Spanned<route::Match>,
    /// Only to settle two routes that are equally specific: the higher wins.
    #[serde(default)]
    pub priority: Option<i32>,
    /// Free, bounded: in log and metrics' info.
    #[serde(default)]
    pub labels: BTreeMap<String, Spanned<String>>,
    /// Who may pass: `none` (public), a policy of `policies.auth`, or rules.
    #[serde(default)]
    pub auth: Option<Spanned<RouteAuth>>,
    /// How the upstream is told who it is, or `none`: a signed token (`server.identity_tokens`) in a field that no client may send. A
    /// request of nobody in particular has none.
    #[serde(default)]
    pub forward_identity: Option<OrNone<Spanned<identity_token::ForwardConfig>>>,
    /// A policy of `policies.access`, or `none`.
    #[serde(default)]
    pub access: Option<OrNone<Spanned<String>>>,
    /// A policy of `policies.cors`, or `none`.
    #[serde(default)]
    pub cors: Option<OrNone<Spanned<String>>>,
    /// Policies of `policies.headers`, in order; `[inherit, x]` adds to the defaults, `none` takes them away.
    #[serde(default)]
    pub headers: Option<OrNone<Vec<Spanned<String>>>>,
    /// Policies of `policies.rate_limits`, all of which are asked: those by client, host, header, cookie or route before preflights are
    /// answered, those that need to know who asks behind authentication. `[inherit, x]` adds to the defaults, `none` takes them away.
    #[serde(default)]
    pub rate_limits: Option<OrNone<Vec<Spanned<String>>>>,
    /// Paths that two servers may read differently and that this route takes all the same; without it they are 400.
    #[serde(default)]
    pub path_oddities: Vec<Oddity>,
    /// Forward to this upstream.
    #[serde(default)]
    pub upstream: Option<Spanned<String>>,
    /// What the upstream sees of the path.
    #[serde(default)]
    pub path: Option<Spanned<PathRule>>,
    /// Protocols a client may switch to, such as `websocket`. Default: none.
    #[serde(default)]
    pub upgrade: Vec<Spanned<String>>,
    /// Answer with this.
    #[serde(default)]
    pub respond: Option<Spanned<Respond>>,
    /// Redirect.
    #[serde(default)]
    pub redirect: Option<Spanned<Redirect>>,
    /// Answer with what was received, as JSON.
    #[serde(default)]
    pub echo: Option<Spanned<bool>>,
}

/// What the upstream sees of the path: `strip`, then `prefix`; or `template` alone.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PathRule {
    /// A prefix taken away, at a segment's border: `/api`.
    pub strip: Option<Spanned<String>>,
    /// A prefix put in front: `/v2`.
    pub prefix: Option<Spanned<String>>,
    /// The whole path as a template: `/x/{route.id}`.
    pub template: Option<Spanned<String>>,
}

/// A fixed answer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Respond {
    /// The status.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// The body, as it is.
    #[schemars(extend("x-guarded" = "text"))]
    pub body: String,
    /// Its type.
    pub content_type: Spanned<String>,
    /// More header fields.
    #[schemars(extend("x-guarded" = "text"))]
    pub headers: BTreeMap<String, Spanned<String>>,
}

impl Default for Respond {
    fn default() -> Self {
        Self {
            status: 200,
            body: String::new(),
            content_type: Spanned::unwritten("text/plain".to_owned()),
            headers: BTreeMap::new(),
        }
    }
}

/// A redirect.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Where to; a template. No client chooses its host: what stands for `{route.NAME}` comes behind a slash
    /// (`https://example.com/{route.rest}`) or in front of a domain (`https://{route.tenant}.example.com/`).
    pub to: Spanned<String>,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "permanent")]
    pub status: Spanned<u16>,
}

fn permanent() -> Spanned<u16> {
    Spanned::unwritten(308)
}
