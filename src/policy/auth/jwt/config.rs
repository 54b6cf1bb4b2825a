//! What is written under `policies.auth.NAME.jwt`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::algorithm::Algorithm;
use crate::config::units::{Size, Time};
use crate::config::{OrNone, Secret, Spanned};
use crate::policy::auth::config::{From, RevocationConfig};

/// A signed token (RFC 7519): whose, for whom, and which keys verify it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who issues the tokens: what `iss` must be, byte for byte. Where `keys` are discovered, the URL that they are found by.
    pub issuer: Option<Spanned<String>>,
    /// For whom the tokens must be: one of these must be in the claim that `audience_claim` names.
    pub audiences: Vec<Spanned<String>>,
    /// The claim that says for whom a token is: `aud`, or `client_id` for issuers whose access tokens bear no `aud`, such as Cognito.
    pub audience_claim: AudienceClaim,
    /// How tokens may be signed. A key is used for these alone, and only for those that it is a key for.
    pub algorithms: Vec<Algorithm>,
    /// Where the keys come from.
    pub keys: Spanned<KeysConfig>,
    /// Where the token stands.
    pub from: From,
    /// Which tokens are taken: `access_token` (`typ` is `at+jwt`, `JWT` or absent, and no claim says that it is an ID token, or one to
    /// refresh or to log out by: `nonce` without a word for an access token, `at_hash`, `events`, `token_use: id`, `typ: Refresh` and the
    /// like), `at+jwt` (`typ` must say so too, RFC 9068), or `any`.
    #[serde(rename = "type")]
    pub kind: TokenKind,
    /// By how much clocks may differ. At most `60s`.
    pub leeway: Time,
    /// How old a token may be, by `iat`, however long it says that it is good for; `none`, or a duration.
    pub max_age: OrNone<Time>,
    /// The longest token. From `256B` to `64KiB`. Its field is met before it, name and scheme included, by `server.limits.field_bytes`: a
    /// token of the last few bytes below `8KiB`, and every longer one, is 431 and not 401 unless that is 1 KiB more.
    pub max_bytes: Size,
    /// The claim that is the identity's id.
    pub subject_claim: String,
    /// Claims of which the first that is there has the scopes: a text with spaces between them, or a list.
    pub scope_claims: Vec<String>,
    /// The claim with the groups, a text or a list; a dot leads into a nested claim (`realm_access.roles`) or is one of a name
    /// (`resource_access.my.api.roles`): at each level the longest name that is there goes first.
    pub groups_claim: String,
    /// The claim with the usage plan; `none`, or a name. It is a word for conditions, and for limits by `plan` or with `overrides`: throttle
    /// and quota of `policies.plans` are those of API keys, and no token's.
    pub plan_claim: OrNone<String>,
    /// Whether a token must be bound to a key of the client's, which each request proves to have (RFC 9449): `none` (a token that is
    /// bound so is refused), `optional` (it needs its proof, others do not), `required`.
    pub dpop: Dpop,
    /// Whether proofs need a nonce of the gateway's (RFC 9449 §9), so that none can be made in advance.
    pub dpop_nonce: bool,
    /// Tokens that are no longer good.
    pub revoked: Option<Spanned<RevocationConfig>>,
    /// How much of verified tokens is remembered, so that they need not be verified again. From `0B` (nothing) to `1GiB`.
    pub cache: Size,
}

/// Where keys come from: exactly one of `discovery`, `url`, `file`, `secret`. `portcullis check` judges those of a file, and of others the
/// copy in `server.state` that a gateway has made of what it fetched; it fetches nothing.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeysConfig {
    /// From where the issuer's own document says (OpenID Connect Discovery 1.0 §4, RFC 8414). The default.
    pub discovery: Option<bool>,
    /// A JWKS (RFC 7517 §5) by https. Addresses that are not public, and plain http, need `server.egress.allow`.
    pub url: Option<Spanned<String>>,
    /// A JWKS in a file; read again when it changes.
    pub file: Option<Spanned<String>>,
    /// A secret of 32 bytes and more that signs and verifies, for `HS256`, `HS384` and `HS512` alone; never a public key, a certificate, a
    /// JWK or a URL. Write it as `"${env:NAME}"`.
    pub secret: Option<Spanned<Secret>>,
    /// How often keys are fetched, unless the answer says less (`max-age`, `no-store`), but then not more often than once a `cooldown`.
    /// From `1s` to `24h`. Policies with the same `url` or discovered issuer share what is fetched: of their `refresh`, `cooldown` and
    /// `stale_keys_max` the shortest hold for all.
    pub refresh: Time,
    /// How long a token of an unknown key causes no fetch after another has, whether that brought something or failed. From `1s` to `10m`.
    /// While the last fetch has failed, such a token is 503: the key may be the issuer's.
    pub cooldown: Time,
    /// How long keys are used that could not be fetched anew. From `0ms` to `30d`.
    pub stale_keys_max: Time,
}

/// The claim that says for whom a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AudienceClaim {
    /// RFC 7519 §4.1.3
    #[default]
    Aud,
    /// RFC 8693 §4.3
    ClientId,
}

impl AudienceClaim {
    /// The claim's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aud => "aud",
            Self::ClientId => "client_id",
        }
    }
}

/// Which tokens are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
pub enum TokenKind {
    /// Access tokens.
    #[default]
    #[serde(rename = "access_token")]
    AccessToken,
    /// Access tokens of RFC 9068.
    #[serde(rename = "at+jwt")]
    AtJwt,
    /// Identity tokens of a gateway of this kind (`server.identity_tokens`), and nothing else.
    #[serde(rename = "portcullis+jwt")]
    IdentityToken,
    /// Whatever is signed and for this audience.
    #[serde(rename = "any")]
    Any,
}

/// Whether tokens are bound to a key of the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dpop {
    /// Those that are bound are refused.
    #[default]
    None,
    /// Those that are bound need a proof.
    Optional,
    /// Each must be bound.
    Required,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            issuer: None,
            audiences: Vec::new(),
            audience_claim: AudienceClaim::Aud,
            algorithms: vec![Algorithm::ES256, Algorithm::RS256],
            keys: Spanned::default(),
            from: From::Bearer,
            kind: TokenKind::AccessToken,
            leeway: Time(Duration::from_secs(30)),
            max_age: OrNone::None,
            max_bytes: Size(8 << 10),
            subject_claim: "sub".to_owned(),
            scope_claims: vec!["scope".to_owned(), "scp".to_owned()],
            groups_claim: "groups".to_owned(),
            plan_claim: OrNone::None,
            dpop: Dpop::None,
            dpop_nonce: false,
            revoked: None,
            cache: Size(16 << 20),
        }
    }
}

impl Default for KeysConfig {
    fn default() -> Self {
        Self {
            discovery: None,
            url: None,
            file: None,
            secret: None,
            refresh: Time(Duration::from_secs(15 * 60)),
            cooldown: Time(Duration::from_secs(30)),
            stale_keys_max: Time(Duration::from_secs(24 * 60 * 60)),
        }
    }
}
