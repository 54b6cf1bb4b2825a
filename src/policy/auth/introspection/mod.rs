//! Tokens that only their server can read: it is asked about each (RFC 7662).
//!
//! While the server cannot be asked, tokens of which it spoke not long ago pass until that is over; every other one is refused with
//! 503: none passes unasked.

mod answer;
mod server;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::config::{From, has_stray_space};
use super::jwt::Dpop;
use super::jwt::binding::Possession;
use super::{Asked, Context, Denial, Figure, Judgement, Place, Presented, fetching, secrets};
use crate::config::units::Time;
use crate::config::{Build, Secret, Spanned};
use answer::{Rules, Verdict};
use server::Server;

/// Why a token may be refused.
pub(super) const REASONS: &[&str] = &[
    "token_size",
    "token_type",
    "inactive",
    "issuer",
    "audience",
    "claims",
    "expired",
    "not_yet_valid",
    "binding",
    "proof",
    "proof_missing",
    "proof_replayed",
    "proofs_full",
    "introspection_unavailable",
];

/// The longest token.
const TOKEN_BYTES_MAX: usize = 8 << 10;
const CACHE_MAX: Duration = Duration::from_secs(60 * 60);

/// A token that its server is asked about (RFC 7662). While the server cannot be asked, what it said within `cache` holds, and every
/// other token is refused with 503. One that is bound to a key (`cnf.jkt`) needs its proof (RFC 9449 §6.2).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The server's introspection endpoint, by https. Addresses that are not public, and plain http, need `server.egress.allow`.
    pub url: Option<Spanned<String>>,
    /// By which name the gateway is known to the server.
    pub client_id: Spanned<String>,
    /// Its secret there. Write it as `"${env:NAME}"`.
    pub client_secret: Spanned<Secret>,
    /// Where the token stands.
    pub from: From,
    /// What `iss` of an answer must be; without it, whatever the server says.
    pub issuer: Option<Spanned<String>>,
    /// For whom tokens must be: one of these must be in `aud` of the answer. Without any, the server's word is enough.
    pub audiences: Vec<Spanned<String>>,
    /// How long an answer is remembered: a good one at most until the token expires, a bad one for `5s` at most. Up to `1h`; `0ms` asks
    /// for every request.
    pub cache: Time,
    /// How long an answer may take. From `100ms` to `30s`; `server.egress.timeout` where that is less.
    pub timeout: Time,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            client_id: Spanned::default(),
            client_secret: Spanned::default(),
            from: From::Bearer,
            issuer: None,
            audiences: Vec::new(),
            cache: Time(Duration::from_secs(30)),
            timeout: Time(Duration::from_secs(2)),
        }
    }
}

/// A policy that asks one server.
#[derive(Debug)]
pub(super) struct Introspection {
    place: Place,
    /// A token that is bound to a key (`cnf.jkt`, RFC 9449 §6.2) needs its proof.
    possession: Possession,
    server: Arc<Server>,
}

impl Introspection {
    /// Compiles `policies.auth.NAME.introspection`. None when `build.errors` says why.
    pub(super) fn compile(
        name: &Arc<str>,
        config: &Spanned<Config>,
        context: &mut Context<'_>,
    ) -> Option<Self> {
        check(config, context.build);
        let place =
            Place::compile(&config.from, &format!("{}.from", config.path), &config.site, context.build);
        let url = config.url.as_ref()?;
        fetching::may_be_fetched(url, context)?;
        let issuer = config.issuer.as_ref().map(|issuer| issuer.as_str().into());
        let audiences = config.audiences.iter().map(|audience| audience.as_str().into()).collect();
        let rules = Rules { policy: Arc::clone(name), issuer, audiences };
        let asking = context.live.runtime().map(|runtime| (runtime.clone(), context.fetcher()));
        let server = context.live.find_or("auth.introspection", &definition(name, config, context), || {
            let authorization = server::authorization(&config.client_id, &config.client_secret);
            let times = (config.cache.0, config.timeout.0);
            Server::new(url.value.clone(), authorization, rules, times, asking)
        });
        let place = place?;
        let possession = Possession::new(context.live, &place, Dpop::Optional, answer::LEEWAY, false);
        Some(Self { place, possession, server })
    }

    /// Where its tokens stand.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Whose tokens it knows, where that was written.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.server.rules.issuer.as_deref()
    }

    /// What it counts by itself.
    pub(super) fn figures(&self) -> Vec<Figure> {
        self.server.figures()
    }

    /// What it makes of a request. Waits for the server where it does not remember what that said.
    pub(super) async fn judge(&self, asked: &Asked<'_>) -> Judgement {
        let token = match self.place.find(asked.request, true) {
            Presented::Absent => return Judgement::Absent,
            Presented::Malformed(why) => {
                let denial = Denial::invalid("malformed", why);
                return Judgement::Refused(denial);
            }
            Presented::One(token) => token,
        };
        if token.len() > TOKEN_BYTES_MAX {
            return Judgement::Refused(Denial::invalid("token_size", "the token is longer than 8 KiB"));
        }
        // RFC 6750 §2.1 has fewer in a bearer; some servers' tokens have others that are seen.
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let why = "a token has neither spaces nor other characters that are not seen";
            return Judgement::Refused(Denial::invalid("malformed", why));
        }
        match self.server.verdict(&token, asked.request.client_ip()).await {
            Ok(Verdict::Known { identity, confirmation, .. }) => {
                match self.possession.check(&confirmation, &token, asked) {
                    Ok(told) => Judgement::Known(identity, told),
                    Err(denial) => Judgement::Refused(denial),
                }
            }
            Ok(Verdict::Refused(denial)) => Judgement::Refused(denial),
            Err(why) => Judgement::Refused(Denial::unavailable("introspection_unavailable", why)),
        }
    }
}

/// Two policies of the same definition would get the same answers. A hash: there is a secret in it.
fn definition(name: &str, config: &Config, context: &Context<'_>) -> String {
    let text = |written: &Spanned<String>| written.value.clone();
    let whole = zeroize::Zeroizing::new(format!(
        "{name} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        config.url.as_ref().map(text),
        config.client_id.value,
        &**config.client_secret,
        config.issuer.as_ref().map(text),
        config.audiences.iter().map(text).collect::<Vec<_>>(),
        config.cache.0,
        config.timeout.0,
        context.egress,
    ));
    openssl::sha::sha256(whole.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// What is wrong with the configuration, as far as it tells by itself.
fn check(config: &Spanned<Config>, build: &mut Build) {
    if !config.client_secret.is_empty() {
        secrets::is_one(&config.client_secret, build);
    }
    let mut refuse = |key: &str, cause: String, cure: &'static str| {
        build.errors.push(&config.site, format!("{}.{key}", config.path), cause, cure);
    };
    if config.url.is_none() {
        let cure = "write the server's introspection endpoint, such as `https://id.example.com/introspect`";
        refuse("url", "there is nobody to ask".to_owned(), cure);
    }
    if config.client_id.trim().is_empty() {
        let cure = "write the name that the gateway is registered by at the server";
        refuse("client_id", "servers answer only to clients that they know (RFC 7662 §4)".to_owned(), cure);
    }
    if config.client_secret.is_empty() {
        let cure = "write `\"${env:NAME}\"` or `\"${file:PATH}\"`";
        refuse("client_secret", "there is no secret to authenticate with".to_owned(), cure);
    }
    let texts = config.issuer.iter().map(|issuer| ("issuer", issuer.as_str()));
    let texts = texts.chain(config.audiences.iter().map(|audience| ("audiences", audience.as_str())));
    for (key, text) in texts.chain([("client_id", config.client_id.as_str())]) {
        if has_stray_space(text) && !text.trim().is_empty() {
            refuse(key, format!("`{text}` has white space at an end: no server says that"), "remove it");
        }
    }
    if config.issuer.as_ref().is_some_and(|issuer| issuer.trim().is_empty()) {
        refuse("issuer", "it is empty".to_owned(), "write what the answers have in `iss`, or remove it");
    }
    if config.audiences.iter().any(|audience| audience.trim().is_empty()) {
        refuse("audiences", "one of them is empty".to_owned(), "write what the answers have in `aud`");
    }
    if config.cache.0 > CACHE_MAX {
        let cause = format!("{} is long for a token that may be revoked", config.cache);
        refuse("cache", cause, "write at most `1h`");
    }
    if !(Duration::from_millis(100)..=Duration::from_secs(30)).contains(&config.timeout.0) {
        let cause = format!("{} is out of range", config.timeout);
        refuse("timeout", cause, "write a duration from `100ms` to `30s`");
    }
}
