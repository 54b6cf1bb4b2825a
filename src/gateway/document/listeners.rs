//! `listeners`: where clients connect, and by what certificates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::client::ProxiesWrite;
use crate::config::{OrNone, Spanned};

/// Where clients connect.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `host:port`, `"[v6]:port"`, or `unix:/path`.
    pub address: Spanned<String>,
    /// Peers (CIDR or address; `unix:` for those of a Unix socket) whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id`
    /// are believed, read from the right.
    #[serde(default)]
    pub trusted_proxies: Vec<Spanned<String>>,
    /// Which fields the `trusted_proxies` write: `x_forwarded`, `forwarded` (RFC 7239), or `any`, where nobody says. A proxy that writes the
    /// one may pass the other as a client sent it: with `any`, `X-Forwarded-For` is believed where there is one, so that behind a proxy
    /// that writes `Forwarded` alone a client would name its own address.
    #[serde(default)]
    pub proxies_write: Spanned<ProxiesWrite>,
    /// `none`, or `{from: [10.0.0.0/8]}`: peers that must send a PROXY header (version 1 or 2) ahead of everything, TLS too. The
    /// address it gives is the client's in every respect, also where `trusted_proxies` are judged. Other peers are clients of
    /// their own, and a header of theirs is refused.
    #[serde(default)]
    pub proxy_protocol: OrNone<Spanned<ProxyProtocol>>,
    /// The host of requests of HTTP/1.0 that name none: `host` or `host:port`; `none` refuses them (400).
    #[serde(default)]
    pub default_host: OrNone<Spanned<String>>,
    /// `true`: answer every request with a redirect to https; a number: to https on that port.
    #[serde(default)]
    pub redirect_to_https: RedirectToHttps,
    /// Whether HTTP/2 is offered; needs `tls`.
    #[serde(default = "yes")]
    pub http2: bool,
    /// TLS; without it the listener is plain.
    #[serde(default)]
    pub tls: Option<Spanned<ListenerTls>>,
}

/// Who must send a PROXY header.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// CIDRs or addresses; `unix:` for the peers of a Unix socket.
    pub from: Vec<Spanned<String>>,
}

fn yes() -> bool {
    true
}

/// Whether a plain listener redirects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RedirectToHttps {
    /// It serves.
    #[default]
    No,
    /// To https on this port.
    Port(u16),
}

impl<'de> Deserialize<'de> for RedirectToHttps {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RedirectVisitor;

        impl serde::de::Visitor<'_> for RedirectVisitor {
            type Value = RedirectToHttps;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`true`, `false` or a port")
            }

            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<RedirectToHttps, E> {
                Ok(if on { RedirectToHttps::Port(443) } else { RedirectToHttps::No })
            }

            fn visit_u64<E: serde::de::Error>(self, port: u64) -> Result<RedirectToHttps, E> {
                u16::try_from(port).map(RedirectToHttps::Port).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(RedirectVisitor)
    }
}

impl JsonSchema for RedirectToHttps {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RedirectToHttps".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "`true` (port 443), `false`, or a port.",
            "default": false,
            "anyOf": [{ "type": "boolean" }, { "type": "integer", "minimum": 1, "maximum": 65535 }]
        })
    }
}

/// TLS on a listener.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerTls {
    /// `generate` (one self-signed, kept in `server.state`), or a list of `{cert: file, key: file}`, chosen by SNI from the
    /// names the certificates bear; the first serves clients that name none of them.
    pub certificates: Spanned<Certificates>,
    /// The oldest version accepted: `"1.3"` or `"1.2"` (with ECDHE and AEAD only).
    pub min_version: MinVersion,
    /// A PEM file of authorities whose clients are known: roots, and what they have issued. `none` asks for no client certificate. On
    /// such a listener no session is resumed, and a request for another host than the handshake's is refused (421).
    pub client_ca: OrNone<Spanned<String>>,
    /// Whether a client without a certificate is refused (`required`, the default) or served without one (`optional`). One that does
    /// not verify is refused either way. Needs `client_ca`.
    pub client_certificate: Option<Spanned<ClientDemand>>,
    /// A PEM file with a revocation list (RFC 5280 §5) of every authority in the chain of a client, read again when it changes; `none`
    /// checks no revocation. A list past its next update, or none of an authority, refuses all of its clients, on open connections
    /// too. Needs `client_ca`.
    pub client_crl: OrNone<Spanned<String>>,
}

/// What a listener wants of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientDemand {
    /// A certificate that verifies.
    #[default]
    Required,
    /// One that verifies, or none.
    Optional,
}

/// Certificates of a listener.
#[derive(Clone, Debug, Default)]
pub enum Certificates {
    /// One self-signed, kept in `server.state`.
    #[default]
    Generate,
    /// From files.
    Files(Vec<Spanned<CertificateFiles>>),
}

impl<'de> Deserialize<'de> for Certificates {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CertificatesVisitor;

        impl<'de> serde::de::Visitor<'de> for CertificatesVisitor {
            type Value = Certificates;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`generate` or a list of `{cert: file, key: file}`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Certificates, E> {
                match text {
                    "generate" => Ok(Certificates::Generate),
                    other => Err(E::custom(format!("`{other}` is neither `generate` nor a list"))),
                }
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<Certificates, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(list)).map(Certificates::Files)
            }
        }

        deserializer.deserialize_any(CertificatesVisitor)
    }
}

impl JsonSchema for Certificates {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Certificates".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let files = generator.subschema_for::<CertificateFiles>();
        schemars::json_schema!({
            "description": "`generate`, or a list of `{cert: file, key: file}`.",
            "default": "generate",
            "anyOf": [{ "const": "generate" }, { "type": "array", "items": files, "minItems": 1 }]
        })
    }
}

/// A certificate chain and its key, PEM.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: Spanned<String>,
    /// The private key.
    pub key: Spanned<String>,
}

/// The oldest TLS version accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
pub enum MinVersion {
    /// TLS 1.2, with ECDHE and AEAD only.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}
