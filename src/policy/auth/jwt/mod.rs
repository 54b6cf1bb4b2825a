//! Signed tokens (RFC 7519): taken apart, verified, remembered.
//!
//! The order, and why: what a token looks like costs nothing to check, so it comes first; then the algorithm, by the policy's list
//! and by what the key is for; then the signature; only then what it says. A token that was good is remembered whole, until it
//! expires, its key is gone, or it is revoked.

mod algorithm;
pub(super) mod binding;
mod cache;
pub(super) mod claims;
mod config;
mod copy;
mod discovery;
mod dpop;
mod feed;
mod fetch;
mod issuer;
pub(super) mod json;
mod jwks;
mod keeper;
mod key;
mod keys;
pub(super) mod kind;
mod revoked;
mod token;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use algorithm::Algorithm;
use binding::Possession;
use cache::{Cache, Known, Recalled};
use claims::{Accepted, Rules};
pub use config::{AudienceClaim, Config, Dpop, KeysConfig, TokenKind};
pub use jwks::{Complaint, KeySet};
use key::Fingerprint;
use keys::Keys;
use revoked::Revoked;
pub use token::verify;
use token::{Familiar, Token, Unverified};

pub(super) use token::issuer_of;

use super::config::has_stray_space;
use super::{Asked, Context, Denial, Figure, Judgement, Place, Presented, Told};
use crate::config::{Build, Spanned};
use crate::identity::Identity;

/// Why a token may be refused.
pub(super) const REASONS: &[&str] = &[
    "token_size",
    "token_form",
    "token_header",
    "token_algorithm",
    "token_type",
    "unknown_key",
    "signature",
    "issuer",
    "audience",
    "claims",
    "expired",
    "too_old",
    "not_yet_valid",
    "revoked",
    "revocations_unavailable",
    "binding",
    "proof",
    "proof_missing",
    "proof_nonce",
    "proof_replayed",
    "proofs_full",
    "keys_unavailable",
];

const LEEWAY_MAX: Duration = Duration::from_secs(60);

/// A policy that knows tokens of one issuer.
#[derive(Debug)]
pub(super) struct Jwt {
    place: Place,
    algorithms: Box<[Algorithm]>,
    bytes_max: usize,
    keys: Keys,
    rules: Rules,
    possession: Possession,
    familiar: Familiar,
    revoked: Option<Revoked>,
    cache: Option<Arc<Cache>>,
}

impl Jwt {
    /// Compiles `policies.auth.NAME.jwt`. None when `build.errors` says why.
    pub(super) fn compile(
        name: &Arc<str>,
        config: &Spanned<Config>,
        context: &mut Context<'_>,
    ) -> Option<Self> {
        check(config, context.build);
        let place =
            Place::compile(&config.from, &format!("{}.from", config.path), &config.site, context.build);
        let keys = Keys::compile(config, context);
        let revoked = match &config.revoked {
            None => None,
            Some(written) => Some(Revoked::compile(written, context)?),
        };
        let rules = rules(name, config)?;
        let place = place?;
        let possession =
            Possession::new(context.live, &place, config.dpop, config.leeway.0, config.dpop_nonce);
        let bytes_max = usize::try_from(config.max_bytes.0).unwrap_or(usize::MAX);
        // What a verdict depends on, apart from keys: another definition has verdicts of its own.
        let definition = format!("{rules:?} {:?} {bytes_max} {}", config.algorithms, config.cache);
        let room = config.cache.0;
        let cache = || context.live.find_or("auth.jwt.cache", &definition, || Cache::new(room));
        Some(Self {
            place,
            algorithms: config.algorithms.as_slice().into(),
            bytes_max,
            keys: keys?,
            rules,
            possession,
            familiar: Familiar::default(),
            revoked,
            cache: (room > 0).then(cache),
        })
    }

    /// What it counts by itself.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let mut figures = self.keys.figures();
        figures.extend(self.revoked.iter().flat_map(Revoked::figures));
        figures
    }

    /// Where its tokens stand.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Whether tokens bound by a proof (RFC 9449) are taken.
    pub(super) fn takes_proofs(&self) -> bool {
        self.possession.takes_proofs()
    }

    /// Whether no others are.
    pub(super) fn needs_proofs(&self) -> bool {
        self.possession.needs_proofs()
    }

    /// `iss`
    pub(super) fn issuer(&self) -> &str {
        &self.rules.issuer
    }

    /// What it makes of a request. Waits only where an issuer's keys have to be waited for.
    pub(super) async fn judge(&self, asked: &Asked<'_>) -> Judgement {
        let token = match self.place.find(asked.request, self.takes_proofs()) {
            Presented::Absent => return Judgement::Absent,
            Presented::Malformed(why) => {
                let denial = Denial::invalid("malformed", why);
                return Judgement::Refused(denial);
            }
            Presented::One(token) => token,
        };
        match self.recognise(&token, asked).await {
            Ok((identity, told)) => Judgement::Known(identity, told),
            Err(denial) => Judgement::Refused(denial),
        }
    }

    /// Whether it has seen this token before, and found it good.
    pub(super) fn remembers(&self, token: &str) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.has(token))
    }

    async fn recognise(&self, text: &str, asked: &Asked<'_>) -> Result<(Arc<Identity>, Told), Denial> {
        let known = match self.recall(text, asked) {
            Recalled::Known(known) => known,
            Recalled::Expired => return Err(claims::expired()),
            Recalled::Unknown => self.verify(text, asked).await?,
        };
        if let Some(revoked) = &self.revoked {
            // What an issuer revokes is its `sub`, whatever claim the identity is made of.
            let id = &*known.identity.id;
            let subject = known.identity.claims.get("sub").and_then(|sub| sub.as_str()).unwrap_or(id);
            revoked.check(known.jti.as_deref(), subject)?;
            if subject != id {
                revoked.check(None, id)?;
            }
        }
        let told = self.possession.check(&known.confirmation, text, asked)?;
        Ok((Arc::clone(&known.identity), told))
    }

    /// No allocation.
    fn recall(&self, text: &str, asked: &Asked<'_>) -> Recalled {
        let Some(cache) = &self.cache else { return Recalled::Unknown };
        match self.keys.current().set() {
            Some(keys) => cache.recall(text, keys, claims::seconds(asked.now)),
            None => Recalled::Unknown,
        }
    }

    /// Verifies a token that comes for the first time, and remembers it.
    async fn verify(&self, text: &str, asked: &Asked<'_>) -> Result<Arc<Known>, Denial> {
        let token = Token::parse_with(text, &self.algorithms, self.bytes_max, &self.familiar)?;
        let (key, generation) = self.signer(&token, asked.now).await?;
        let accepted = self.accept(&token, asked.now)?;
        self.familiar.keep(&token);
        let known = Arc::new(Known::new(accepted, key, generation));
        if let Some(cache) = &self.cache {
            cache.remember(text, &known);
        }
        Ok(known)
    }

    /// What a token says, its signature aside.
    ///
    /// # Errors
    /// No signature would make it good.
    fn accept(&self, token: &Token<'_>, now: SystemTime) -> Result<Accepted, Denial> {
        if let Some(name) = token.brings_a_key() {
            let why = format!(
                "the token's header has `{name}`: keys are the issuer's, whatever a token says of them"
            );
            return Err(Denial::invalid("token_header", why));
        }
        self.rules.check(token.kind(), token.claims()?, now)
    }

    /// The key that signed a token, and the set that it was found in; where the token's key is not known, after asking the issuer. Where no
    /// key is known yet, nobody waits for a token that none would make good.
    async fn signer(&self, token: &Token<'_>, now: SystemTime) -> Result<(Fingerprint, u64), Denial> {
        let unavailable = || Denial::unavailable("keys_unavailable", "the issuer's keys are not known");
        let unasked = |_| {
            let why = "the token's key is not known, and the issuer cannot be asked for it";
            Denial::unavailable("keys_unavailable", why)
        };
        if self.keys.current().set().is_none() {
            self.accept(token, now)?;
        }
        let mut set = self.keys.first().await.ok_or_else(unavailable)?;
        loop {
            let generation = set.generation();
            let unverified = match token.verify(&set) {
                Ok(key) => return Ok((*key.fingerprint(), generation)),
                Err(unverified) => unverified,
            };
            let newer = match unverified {
                Unverified::Signature => None,
                // Nobody is asked for the key of a token that it would not make good.
                Unverified::UnknownKey { .. }
                    if self.rules.check(token.kind(), token.claims()?, now).is_err() =>
                {
                    None
                }
                Unverified::UnknownKey { .. } => {
                    self.keys.after_unknown(generation).await.map_err(unasked)?
                }
            };
            match newer {
                Some(newer) if newer.generation() != generation => set = newer,
                _ => return Err(unverified.denial()),
            }
        }
    }
}

/// How proofs may be signed, as a challenge says it (RFC 9449 §7.1).
pub fn proof_algorithms() -> String {
    let names: Vec<_> = dpop::algorithms().into_iter().map(Algorithm::as_str).collect();
    names.join(" ")
}

fn rules(name: &Arc<str>, config: &Config) -> Option<Rules> {
    let text = |text: &String| text.as_str().into();
    Some(Rules {
        policy: Arc::clone(name),
        issuer: config.issuer.as_ref()?.as_str().into(),
        audiences: config.audiences.iter().map(|audience| audience.as_str().into()).collect(),
        audience_claim: config.audience_claim,
        kind: config.kind,
        leeway: config.leeway.0,
        max_age: config.max_age.as_option().map(|age| age.0),
        subject_claim: text(&config.subject_claim),
        scope_claims: config.scope_claims.iter().map(text).collect(),
        groups_claim: text(&config.groups_claim),
        plan_claim: config.plan_claim.as_option().map(text),
    })
}

/// What is wrong with the configuration, apart from its keys.
fn check(config: &Spanned<Config>, build: &mut Build) {
    let mut refuse = |key: &str, cause: String, cure: &'static str| {
        build.errors.push(&config.site, format!("{}.{key}", config.path), cause, cure);
    };
    if config.issuer.as_ref().is_none_or(|issuer| issuer.trim().is_empty()) {
        let cause = "tokens of any issuer would be taken whose keys these are";
        refuse(
            "issuer",
            cause.to_owned(),
            "write what the tokens have in `iss`, such as `https://id.example.com`",
        );
    }
    let texts = config.issuer.iter().map(|issuer| ("issuer", issuer.as_str()));
    for (key, text) in texts.chain(config.audiences.iter().map(|audience| ("audiences", audience.as_str()))) {
        if has_stray_space(text) && !text.trim().is_empty() {
            refuse(key, format!("`{text}` has white space at an end: no token says that"), "remove it");
        }
    }
    if config.audiences.is_empty() || config.audiences.iter().any(|audience| audience.trim().is_empty()) {
        let cause = "tokens that were issued for other services would be taken";
        refuse("audiences", cause.to_owned(), "write what the tokens have in `aud`, such as `[orders]`");
    }
    if config.algorithms.is_empty() {
        refuse("algorithms", "no token could be verified".to_owned(), "write such as `[ES256, RS256]`");
    }
    if config.leeway.0 > LEEWAY_MAX {
        let cause = format!("{} is more than clocks differ by, and lets expired tokens pass", config.leeway);
        refuse("leeway", cause, "write at most `60s`, and set the clocks");
    }
    if let Some(age) = config.max_age.as_option().filter(|age| age.0.is_zero()) {
        refuse("max_age", format!("{age} is older than no token"), "write such as `1h`, or `none`");
    }
    if !(256..=64 << 10).contains(&config.max_bytes.0) {
        let cause = format!("{} is out of range", config.max_bytes);
        refuse("max_bytes", cause, "write a size from `256B` to `64KiB`");
    }
    if config.cache.0 > 1 << 30 {
        let cause = format!("{} is out of range", config.cache);
        refuse("cache", cause, "write a size from `0B` (nothing is remembered) to `1GiB`");
    }
    if config.scope_claims.is_empty() {
        let cause = "no token would have a scope, whatever it says";
        refuse("scope_claims", cause.to_owned(), "write such as `[scope, scp]`, or remove it");
    }
    let names = [&config.subject_claim, &config.groups_claim];
    if names
        .into_iter()
        .chain(&config.scope_claims)
        .chain(config.plan_claim.as_option())
        .any(|name| name.trim().is_empty())
    {
        refuse("subject_claim", "the name of a claim is empty".to_owned(), "write such as `sub`");
    }
    if config.dpop_nonce && config.dpop == Dpop::None {
        let cause = "there are no proofs that could have a nonce";
        refuse("dpop_nonce", cause.to_owned(), "remove it, or write `dpop: optional` or `dpop: required`");
    }
}

#[cfg(test)]
#[path = "../../../../tests/integration/harness/tokens.rs"]
pub(super) mod tokens;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures_util::FutureExt as _;
    use http::{HeaderName, HeaderValue};
    use serde_json::json;

    use super::tokens::{ISSUER, SigningKey, claims};
    use super::*;
    use crate::config::load_text;
    use crate::policy::Effects;
    use crate::policy::auth::{self, Auth, Quantity, Requirement, testing};
    use crate::state::Live;

    #[test]
    fn the_next_nonce_comes_with_the_answer_where_one_is_about_to_end() {
        let (issuer, client) = (SigningKey::new("ES256", "k"), SigningKey::new("ES256", ""));
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("jwks.json");
        std::fs::write(&keys, tokens::jwks(&[&issuer])).unwrap();
        let text = format!(
            "jwt: {{issuer: '{ISSUER}', audiences: [orders], keys: {{file: '{}'}}, dpop: required, dpop_nonce: true}}",
            keys.display()
        );
        let mut build = Build::default();
        let config: auth::Config = load_text("a.yaml", &text, &|_| None, &mut build).unwrap();
        let (live, egress) = (Live::default(), Arc::default());
        let mut context = Context { live: &live, egress: &egress, build: &mut build };
        let policy = Auth::compile("staff", &Spanned::unwritten(config), &mut context).unwrap();
        let rules = Spanned::unwritten(auth::Rules::default());
        let requirement =
            Requirement::compile(vec![Arc::new(policy)], Quantity::One, &rules, &mut build).unwrap();
        let now = tokens::now();
        let token = issuer.token(&claims(&json!({"cnf": {"jkt": client.thumbprint()}, "exp": now + 1200})));
        type Fields = Vec<(HeaderName, HeaderValue)>;
        let decide = |after: u64, nonce: Option<&str>| -> Result<Fields, Fields> {
            let other = json!({"iat": now + after, "nonce": nonce});
            let proof = client.proof("GET", "https://api.example.com/orders", &token, &other);
            let fields = [("authorization", &*format!("DPoP {token}")), ("dpop", &*proof)];
            testing::asked("GET", "/orders", &fields, |asked| {
                let asked = Asked { now: SystemTime::now() + Duration::from_secs(after), ..*asked };
                let mut effects = Effects::default();
                let decided = requirement.decide(&asked, &mut effects).now_or_never().unwrap();
                decided.map(|_| effects.answers).map_err(|refused| refused.refusal.headers)
            })
        };
        let nonce_of = |fields: &Fields| {
            let nonce = fields.iter().find(|(name, _)| name == "dpop-nonce");
            nonce.map(|(_, nonce)| nonce.to_str().unwrap().to_owned())
        };
        let first = nonce_of(&decide(0, None).unwrap_err()).unwrap();
        assert_eq!(decide(0, Some(&first)), Ok(Vec::new()), "it is young");
        let second = nonce_of(&decide(300, Some(&first)).unwrap()).unwrap();
        assert_ne!(second, first);
        assert_eq!(decide(300, Some(&second)), Ok(Vec::new()));
        assert!(decide(600, Some(&first)).is_err(), "it has ended");
        assert!(decide(600, Some(&second)).is_ok());
    }

    #[test]
    fn every_word_that_a_token_is_refused_with_has_its_series() {
        let sources = [
            include_str!("mod.rs"),
            include_str!("binding.rs"),
            include_str!("claims.rs"),
            include_str!("dpop.rs"),
            include_str!("revoked.rs"),
            include_str!("token.rs"),
        ];
        let word = regex::Regex::new(r#"(?:invalid|unavailable|bad|new)\(\s*(?:Kind::\w+,\s*)?"([a-z_]+)""#)
            .unwrap();
        let mut given = std::collections::BTreeSet::new();
        for source in sources {
            let code = source.split("#[cfg(test)]").next().unwrap();
            given.extend(word.captures_iter(code).map(|found| found[1].to_owned()));
        }
        // A request that cannot be read as one token is any policy's to refuse.
        assert!(given.remove("malformed"));
        let known: std::collections::BTreeSet<_> = REASONS.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(given, known);
    }
}
