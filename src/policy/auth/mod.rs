//! Who a request is from, and whether they may: authentication and authorisation.
//!
//! A policy of `policies.auth` knows one kind of credential ([`Auth`]). A route asks one or several of them, and then its
//! conditions ([`Requirement`]). What comes out is one [`Identity`], or a refusal that tells a client how to authenticate.

pub mod api_key;
mod authorise;
pub mod basic;
mod breaker;
pub mod certificate;
mod challenge;
pub mod config;
mod credential;
mod fetching;
mod figures;
pub mod forward;
pub mod identity_token;
pub mod introspection;
mod judges;
pub mod jwt;
mod keys_elsewhere;
mod remembered;
mod requirement;
mod secrets;
#[cfg(test)]
pub(crate) mod testing;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

pub use authorise::expression_words;
use challenge::Challenge;
pub use config::{ClaimCondition, Config, RouteAuth, Rules};
pub use credential::{Place, Presented};
pub use figures::Figure;
pub use jwt::json::object as json_object;
pub use jwt::proof_algorithms;
pub use keys_elsewhere::{Kept, KeyPlaces};
pub use requirement::{Decision, Quantity, Refused, Requirement, Tokens, WELL_KNOWN};

use super::Mode;
use crate::config::{Build, Site, Spanned};
use crate::egress;
use crate::identity::Identity;
use crate::record::RouteFacts;
use crate::reply::Kind;
use crate::request::Request;
use crate::state::Live;

/// What a policy is compiled with.
#[derive(Debug)]
pub struct Context<'a> {
    /// What outlives this snapshot.
    pub live: &'a Live,
    /// What the gateway may fetch.
    pub egress: &'a Arc<egress::Policy>,
    /// Errors and files.
    pub build: &'a mut Build,
}

impl Context<'_> {
    /// The client for what a policy asks others: one for equal rules, whatever reloads come. Why there is none, where TLS cannot be
    /// set up. Used on [`Live::runtime`], never on a worker.
    pub fn fetcher(&self) -> Arc<Result<egress::Egress, String>> {
        self.live
            .find_or("egress", &format!("{:?}", self.egress), || egress::Egress::new(Arc::clone(self.egress)))
    }
}

/// A policy: one kind of credential, and what makes it valid.
#[derive(Debug)]
pub struct Auth {
    name: Arc<str>,
    mode: Mode,
    site: Site,
    way: Way,
}

/// How it is proved.
#[derive(Debug)]
enum Way {
    Jwt(Box<jwt::Jwt>),
    ApiKey(Box<api_key::ApiKey>),
    Introspection(Box<introspection::Introspection>),
    Certificate(Box<certificate::Certificate>),
    Forward(Box<forward::Forward>),
    Basic(Box<basic::Basic>),
}

/// A request, and when it came.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The request.
    pub request: &'a Request<'a>,
    /// Its route.
    pub route: &'a RouteFacts,
    /// What the `{name}`s of the route's path matched.
    pub parameters: &'a [(Arc<str>, Box<str>)],
    /// The query without any credential that is read from it: what others than the upstream may see.
    pub query: Option<&'a str>,
    /// What else of it is for the gateway alone.
    pub kept: Kept<'a>,
    /// By the wall clock: what tokens speak of.
    pub now: SystemTime,
}

/// A field for the answer to a request that passes: a nonce for the next proof (RFC 9449 §8.2).
pub type Told = Option<(http::HeaderName, http::HeaderValue)>;

/// What a policy makes of a request's credential.
#[derive(Debug)]
pub enum Judgement {
    /// The request presents none of this kind.
    Absent,
    /// It is valid: whose it is, and what the client is told with the answer.
    Known(Arc<Identity>, Told),
    /// It is presented, and not valid, or cannot be checked.
    Refused(Denial),
}

/// Why a credential does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What the client is told; it must not tell a wrong key from a revoked one.
    pub kind: Kind,
    /// A word for metrics, written in the code.
    pub reason: &'static str,
    /// What happened, for the log; never with the credential.
    pub message: Cow<'static, str>,
    /// `error` of the challenge (RFC 6750 §3.1): `invalid_token`, `insufficient_scope`, `use_dpop_nonce`, …; none where it has none. What is
    /// malformed, or one token too many, is 401 as any credential that is not valid, so that its error is that of 401 too:
    /// `invalid_request` belongs to 400, which says that nothing was asked that could be read.
    pub error: Option<&'static str>,
    /// More header fields for the answer: a DPoP nonce, what an external service said.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Another status than the kind's: the redirect of an external service.
    pub status: Option<http::StatusCode>,
}

impl Denial {
    /// A credential that is not valid: 401, `invalid_token`.
    pub fn invalid(reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unauthorized, reason, message).with_error("invalid_token")
    }

    /// A credential that cannot be checked at the moment: 503.
    pub fn unavailable(reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::AuthorizerFailure, reason, message)
    }

    /// Of any kind.
    pub fn new(kind: Kind, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, reason, message: message.into(), error: None, headers: Vec::new(), status: None }
    }

    /// Whether it is of a credential that is wrong, which limits by `auth_failures` count. Not of none; nor of a token that was good and
    /// has expired, since clients find that out so; nor of a proof that wants the nonce of this answer (RFC 9449 §8), nor where a
    /// service shows the way to its login. Of API keys all count alike, or who is throttled could tell a wrong key from a revoked one.
    pub fn is_failure(&self) -> bool {
        let is_refused = self.kind.status() == http::StatusCode::UNAUTHORIZED && self.status.is_none();
        let is_innocent = matches!(self.kind, Kind::MissingAuthenticationToken | Kind::ExpiredToken);
        is_refused && !is_innocent && self.error != Some("use_dpop_nonce")
    }

    /// With the `error` of its challenge.
    #[must_use]
    pub fn with_error(mut self, error: &'static str) -> Self {
        self.error = Some(error);
        self
    }
}

impl Auth {
    /// Compiles `policies.auth.NAME`. None when `build.errors` says why.
    pub fn compile(name: &str, config: &Spanned<Config>, context: &mut Context<'_>) -> Option<Self> {
        let errors_before = context.build.errors.errors().len();
        let own: Arc<str> = format!("auth.{name}").into();
        let way = compile_way(&own, config, context);
        shadow_is_meant(name, config, context.build);
        let sound = context.build.errors.errors().len() == errors_before;
        way.filter(|_| sound).map(|way| Self { name: own, mode: config.mode, site: config.site.clone(), way })
    }

    /// `auth.NAME`
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether refusals are carried out.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where it was written.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Why it may refuse: the words of its series.
    pub fn reasons(config: &Config) -> Vec<&'static str> {
        let mut reasons = requirement::REASONS.to_vec();
        let own: &[&[&str]] = &[
            config.jwt.as_ref().map_or(&[], |_| jwt::REASONS),
            config.api_key.as_ref().map_or(&[], |_| api_key::REASONS),
            config.introspection.as_ref().map_or(&[], |_| introspection::REASONS),
            config.client_certificate.as_ref().map_or(&[], |_| certificate::REASONS),
            config.forward.as_ref().map_or(&[], |_| forward::REASONS),
            config.basic.as_ref().map_or(&[], |_| basic::REASONS),
        ];
        reasons.extend(own.iter().copied().flatten());
        reasons
    }

    /// What it counts by itself.
    pub fn figures(&self) -> Vec<Figure> {
        match &self.way {
            Way::Jwt(jwt) => jwt.figures(),
            Way::Introspection(introspection) => introspection.figures(),
            Way::ApiKey(_) | Way::Certificate(_) | Way::Forward(_) | Way::Basic(_) => Vec::new(),
        }
    }

    /// What this policy makes of the request. Waits for the network only where the kind of credential has to be asked about.
    pub async fn judge(&self, asked: &Asked<'_>) -> Judgement {
        match &self.way {
            Way::Jwt(jwt) => jwt.judge(asked).await,
            Way::ApiKey(key) => key.judge(asked),
            Way::Introspection(introspection) => introspection.judge(asked).await,
            Way::Certificate(certificate) => certificate.judge(asked),
            Way::Forward(forward) => forward.judge(asked).await,
            Way::Basic(basic) => basic.judge(asked).await,
        }
    }

    /// Whether it reads tokens, of which those of the same place are one kind.
    fn reads_tokens(&self) -> bool {
        matches!(self.way, Way::Jwt(_) | Way::Introspection(_))
    }

    /// How a client may authenticate here: a challenge for each scheme.
    fn challenges(&self) -> Vec<Challenge> {
        let realm = self.name.strip_prefix("auth.").unwrap_or(&self.name);
        let mut parameters = format!("realm=\"{realm}\"");
        let bearer = |place: &Place| matches!(place, Place::Bearer).then_some("Bearer");
        let schemes: &[&'static str] = match &self.way {
            Way::Jwt(jwt) => match (bearer(jwt.place()), jwt.takes_proofs()) {
                (Some(_), true) if jwt.needs_proofs() => &["DPoP"],
                (Some(_), true) => &["Bearer", "DPoP"],
                (Some(_), false) => &["Bearer"],
                // Proofs are a field of their own, wherever the token stands: this is how clients know that a nonce is wanted (RFC 9449 §9).
                (None, true) => &["Token", "DPoP"],
                (None, false) => &["Token"],
            },
            Way::Introspection(introspection) => match bearer(introspection.place()) {
                Some(_) => &["Bearer", "DPoP"],
                None => &["Token"],
            },
            Way::ApiKey(_) => &["ApiKey"],
            Way::Certificate(_) => &["ClientCertificate"],
            Way::Basic(_) => &["Basic"],
            Way::Forward(_) => &["Forward"],
        };
        if matches!(self.way, Way::Basic(_)) {
            parameters.push_str(", charset=\"UTF-8\"");
        }
        let of = |scheme: &'static str| match scheme {
            "DPoP" => format!("{parameters}, algs=\"{}\"", proof_algorithms()),
            _ => parameters.clone(),
        };
        schemes.iter().map(|scheme| Challenge { scheme, parameters: of(scheme) }).collect()
    }

    /// Whether it takes tokens with a proof of possession (RFC 9449).
    fn takes_proofs(&self) -> bool {
        match &self.way {
            Way::Jwt(jwt) => jwt.takes_proofs(),
            Way::Introspection(_) => true,
            Way::ApiKey(_) | Way::Certificate(_) | Way::Forward(_) | Way::Basic(_) => false,
        }
    }

    /// Whether it takes no tokens that are not bound to a proof.
    fn needs_proofs(&self) -> bool {
        matches!(&self.way, Way::Jwt(jwt) if jwt.needs_proofs())
    }

    /// Whether its identities can have scopes.
    fn gives_scopes(&self) -> bool {
        match &self.way {
            Way::Jwt(_) | Way::Introspection(_) | Way::ApiKey(_) => true,
            Way::Certificate(_) | Way::Forward(_) | Way::Basic(_) => false,
        }
    }

    /// Whether they can have groups.
    fn gives_groups(&self) -> bool {
        self.reads_tokens()
    }

    /// Whether they can have this claim.
    fn gives_claim(&self, name: &str) -> bool {
        match &self.way {
            Way::Jwt(_) | Way::Introspection(_) | Way::Certificate(_) | Way::Forward(_) => true,
            Way::ApiKey(_) => matches!(name, "name" | "owner"),
            Way::Basic(_) => false,
        }
    }

    /// The tokens' judge, where it is one.
    fn as_jwt(&self) -> Option<&jwt::Jwt> {
        match &self.way {
            Way::Jwt(jwt) => Some(jwt),
            _ => None,
        }
    }

    /// Who issues the tokens that it takes, where that is known, and a client can look there (RFC 8414 §2: a URL).
    fn token_issuer(&self) -> Option<&str> {
        let issuer = match &self.way {
            Way::Jwt(jwt) => Some(jwt.issuer()),
            Way::Introspection(introspection) => introspection.issuer(),
            Way::ApiKey(_) | Way::Certificate(_) | Way::Forward(_) | Way::Basic(_) => None,
        };
        issuer.filter(|issuer| issuer.starts_with("https://") || issuer.starts_with("http://"))
    }

    /// Where its credential stands; none for what is no part of a request's head, or several parts.
    fn place(&self) -> Option<&Place> {
        match &self.way {
            Way::Jwt(jwt) => Some(jwt.place()),
            Way::ApiKey(key) => Some(key.place()),
            Way::Introspection(introspection) => Some(introspection.place()),
            Way::Basic(_) => Some(&Place::Basic),
            Way::Certificate(_) | Way::Forward(_) => None,
        }
    }

    fn is_of_api_keys(&self) -> bool {
        self.as_api_key().is_some()
    }

    /// The keys' judge, where it is one.
    fn as_api_key(&self) -> Option<&api_key::ApiKey> {
        match &self.way {
            Way::ApiKey(key) => Some(key),
            _ => None,
        }
    }

    /// Whether this header field is where its credential stands.
    pub fn reads_field(&self, name: &http::HeaderName) -> bool {
        self.place().is_some_and(|place| place.is_header(name.as_str()))
    }

    /// The fields that an external service's word is in.
    pub fn passed_fields(&self) -> &[http::HeaderName] {
        self.as_forward().map_or(&[], forward::Forward::passes)
    }

    /// The external service, where it is one.
    fn as_forward(&self) -> Option<&forward::Forward> {
        match &self.way {
            Way::Forward(forward) => Some(forward),
            _ => None,
        }
    }

    /// Whether its credential goes no further than here: keys and passwords are for the gateway alone, tokens are for the upstream
    /// too.
    fn scrubs(&self) -> bool {
        match &self.way {
            Way::ApiKey(_) | Way::Basic(_) => true,
            Way::Jwt(_) | Way::Introspection(_) | Way::Certificate(_) | Way::Forward(_) => false,
        }
    }
}

fn compile_way(name: &Arc<str>, config: &Spanned<Config>, context: &mut Context<'_>) -> Option<Way> {
    let Config {
        jwt,
        api_key,
        introspection,
        client_certificate,
        forward,
        basic,
        mode: _,
        auth_shadow_is_public: _,
    } = &config.value;
    let given = [
        jwt.is_some(),
        api_key.is_some(),
        introspection.is_some(),
        client_certificate.is_some(),
        forward.is_some(),
        basic.is_some(),
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        context.build.errors.push(
            &config.site,
            &*config.path,
            "a policy knows exactly one kind of credential",
            "write one of `jwt`, `api_key`, `introspection`, `client_certificate`, `forward`, `basic`; a route's `any_of` \
             takes several policies",
        );
        return None;
    }
    if let Some(config) = jwt {
        return jwt::Jwt::compile(name, config, context).map(|way| Way::Jwt(Box::new(way)));
    }
    if let Some(config) = api_key {
        return api_key::ApiKey::compile(name, config, context).map(|way| Way::ApiKey(Box::new(way)));
    }
    if let Some(config) = introspection {
        return introspection::Introspection::compile(name, config, context)
            .map(|way| Way::Introspection(Box::new(way)));
    }
    if let Some(config) = client_certificate {
        return certificate::Certificate::compile(name, config, context)
            .map(|way| Way::Certificate(Box::new(way)));
    }
    if let Some(config) = forward {
        return forward::Forward::compile(name, config, context).map(|way| Way::Forward(Box::new(way)));
    }
    let config = basic.as_ref()?;
    basic::Basic::compile(name, config, context).map(|way| Way::Basic(Box::new(way)))
}

/// Shadowed authentication is an open route: that is said twice.
fn shadow_is_meant(name: &str, config: &Spanned<Config>, build: &mut Build) {
    match (config.mode, config.auth_shadow_is_public) {
        (Mode::Shadow, false) => build.errors.push(
            &config.site,
            format!("{}.mode", config.path),
            format!("with `mode: shadow`, routes that use `{name}` are open to everybody"),
            "write `auth_shadow_is_public: true` beside it if that is meant, or `mode: enforce`",
        ),
        (Mode::Enforce, true) => build.errors.push(
            &config.site,
            format!("{}.auth_shadow_is_public", config.path),
            "nothing is shadowed here",
            "remove it, or write `mode: shadow`",
        ),
        (Mode::Shadow, true) | (Mode::Enforce, false) => {}
    }
}
