//! Proofs that a request comes from whom its token was issued to (DPoP, RFC 9449 §4.3).
//!
//! A proof is good once. Those seen are kept for as long as they could be good again, in one place for the process, so that no worker and
//! no policy takes what another has seen. Only proofs in which everything else is right are kept: to fill the room, one needs tokens.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foldhash::quality::RandomState;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::claims::{optional_text, seconds, time};
use super::key::{Key, sha256, thumbprint};
use super::token::Token;
use crate::canonical;
use crate::policy::auth::{Asked, Denial};
use crate::reply::Kind;
use crate::request::{Protocol, Request};
use crate::state::Live;

const DPOP: HeaderName = HeaderName::from_static("dpop");
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// The longest proof.
const PROOF_BYTES_MAX: usize = 8 << 10;
/// How old a proof may be, beside the leeway.
const PROOF_AGE: Duration = Duration::from_secs(60);
/// How many proofs are kept, in all: 11,000 a second with a leeway of 30 s, in at most 50 MiB.
const KEPT_MAX: usize = 1 << 20;
const SHARDS: usize = 16;
/// For how long a nonce is given out; it is good for as long again.
const NONCE_SECONDS: u64 = 300;
const NONCE_TAG_BYTES: usize = 16;

/// How proofs may be signed: with whatever needs no shared secret.
pub(super) fn algorithms() -> Vec<Algorithm> {
    Algorithm::ALL.into_iter().filter(|algorithm| !algorithm.is_symmetric()).collect()
}

/// What checks proofs.
#[derive(Debug)]
pub(super) struct Proofs {
    shared: Arc<Shared>,
    algorithms: Box<[Algorithm]>,
    leeway: Duration,
    wants_nonce: bool,
}

/// What all policies of a process share.
struct Shared {
    seen: Box<[Mutex<Shard>]>,
    /// Nonces are made with it, and need no room.
    secret: hmac::Key,
}

#[derive(Default)]
struct Shard {
    /// Proofs by a hash, and until when they could be good again, in seconds since 1970.
    proofs: HashMap<[u8; 16], u32, RandomState>,
    /// When it was looked through last, and the latest such time: they differ where the clock was set back.
    swept: u32,
    forgotten: u32,
}

/// Why a proof is not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Already,
    /// It would have ended before others were forgotten: the clock was set back since, and it may be one of these.
    Forgotten,
    Full,
}

impl Proofs {
    /// With the memory of the process.
    pub(super) fn find(live: &Live, leeway: Duration, wants_nonce: bool) -> Self {
        let shared = live.find_or("auth.jwt.proofs", "", Shared::new);
        Self { shared, algorithms: algorithms().into(), leeway, wants_nonce }
    }

    /// Checks that the request bears one good proof, of the key with this thumbprint, for this token. Where its nonce is about to end,
    /// gives the next one for the answer.
    ///
    /// # Errors
    /// It does not. Where a nonce is needed, the refusal bears one.
    pub(super) fn check(
        &self,
        key: &str,
        token: &str,
        asked: &Asked<'_>,
    ) -> Result<Option<(HeaderName, HeaderValue)>, Denial> {
        let now = seconds(asked.now);
        let mut values = asked.request.headers.get_all(&DPOP).iter();
        let text = match (values.next(), values.next()) {
            (None, _) => return Err(bad("proof_missing", "the token needs a proof, and there is none")),
            (Some(value), None) => value.to_str().map_err(|_| bad("proof", "the proof is no text"))?,
            (Some(_), Some(_)) => return Err(bad("proof", "there are several proofs")),
        };
        let proof = Token::parse(text, &self.algorithms, PROOF_BYTES_MAX)
            .map_err(|denial| bad("proof", format!("the proof: {}", denial.message)))?;
        if proof.kind() != Some("dpop+jwt") {
            return Err(bad("proof", "the proof's `typ` is not `dpop+jwt`"));
        }
        let jwk = proof.own_key().ok_or_else(|| bad("proof", "the proof has no `jwk`"))?;
        // Of another key: whose it is, is the question, before anything costs a verification.
        if thumbprint(jwk).as_deref() != Ok(key) {
            return Err(Denial::invalid("binding", "the proof is of another key than the token is bound to"));
        }
        let own = Key::parse(jwk).map_err(|why| bad("proof", format!("the proof's key: {why}")))?;
        if !proof.is_signed_by(&own) {
            return Err(bad("proof", "the proof is not signed by its own key"));
        }
        let claims = proof.claims().map_err(|denial| bad("proof", denial.message))?;
        let until = self.speaks_of(&claims, token, asked.request, now)?;
        let next = if self.wants_nonce { self.has_nonce(&claims, now)? } else { None };
        let jti = text_of(&claims, "jti")?;
        match self.shared.keep(key, jti, until, now) {
            Ok(()) => Ok(next),
            Err(Kept::Already) => Err(bad("proof_replayed", "the proof has been used before")),
            Err(Kept::Forgotten) => Err(bad(
                "proof_replayed",
                "the clock was set back: whether the proof has been used before is not known any more",
            )),
            Err(Kept::Full) => {
                Err(Denial::unavailable("proofs_full", "there are more proofs than can be told apart"))
            }
        }
    }

    /// Whether it is for this request and this token, and until when.
    fn speaks_of(
        &self,
        claims: &Map<String, Value>,
        token: &str,
        request: &Request<'_>,
        now: f64,
    ) -> Result<f64, Denial> {
        if text_of(claims, "htm")? != request.method.as_str() {
            return Err(bad("proof", "the proof is for another method"));
        }
        if !is_of(text_of(claims, "htu")?, request) {
            return Err(bad("proof", "the proof is for another URL"));
        }
        if text_of(claims, "ath")? != URL_SAFE_NO_PAD.encode(sha256(token.as_bytes())) {
            return Err(bad("proof", "the proof is for another token"));
        }
        let issued = time(claims, "iat").ok().flatten();
        let issued = issued.ok_or_else(|| bad("proof", "the proof's `iat` is missing, or no time"))?;
        let leeway = self.leeway.as_secs_f64();
        let until = issued + PROOF_AGE.as_secs_f64() + leeway;
        if now >= until || issued > now + leeway {
            return Err(bad("proof", "the proof is too old, or of the future"));
        }
        // RFC 9449 §4.2 asks for neither; where they are there they hold (RFC 7519 §4.1.4 and §4.1.5).
        let of = |name: &str| {
            time(claims, name).map_err(|_| bad("proof", format!("the proof's `{name}` is no time")))
        };
        if of("nbf")?.is_some_and(|begins| begins > now + leeway) {
            return Err(bad("proof", "the proof does not hold yet"));
        }
        let ends = of("exp")?.map_or(f64::INFINITY, |ends| ends + leeway);
        if now >= ends {
            return Err(bad("proof", "the proof has expired"));
        }
        Ok(until.min(ends))
    }

    /// The next nonce, where this one is no longer given out.
    fn has_nonce(
        &self,
        claims: &Map<String, Value>,
        now: f64,
    ) -> Result<Option<(HeaderName, HeaderValue)>, Denial> {
        let slot = slot(now);
        let nonce = optional_text(claims, "nonce").ok().flatten();
        let current = self.shared.nonce(slot);
        if nonce.is_some_and(|nonce| same(nonce, &current)) {
            return Ok(None);
        }
        let current = HeaderValue::from_str(&current).ok().map(|nonce| (DPOP_NONCE, nonce));
        if nonce.is_some_and(|nonce| same(nonce, &self.shared.nonce(slot.saturating_sub(1)))) {
            return Ok(current);
        }
        let mut denial = Denial::new(
            Kind::Unauthorized,
            "proof_nonce",
            "the proof has no nonce of the gateway's, or one that is too old",
        )
        .with_error("use_dpop_nonce");
        denial.headers.extend(current);
        Err(denial)
    }
}

fn bad(reason: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> Denial {
    Denial::new(Kind::Unauthorized, reason, message).with_error("invalid_dpop_proof")
}

fn text_of<'c>(claims: &'c Map<String, Value>, name: &str) -> Result<&'c str, Denial> {
    let text = optional_text(claims, name).ok().flatten().filter(|text| !text.is_empty());
    text.ok_or_else(|| bad("proof", format!("the proof's `{name}` is missing, or no text")))
}

fn same(one: &str, other: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

/// Whether a proof's `htu` is the request's URL as its client sees it, without query and fragment. Both are compared in canonical form
/// (RFC 9449 §4.3 asks for RFC 3986 §6.2.2 and §6.2.3).
fn is_of(htu: &str, request: &Request<'_>) -> bool {
    let Some((scheme, rest)) = htu.split_once("://") else { return false };
    let https = scheme.eq_ignore_ascii_case("https");
    if https != request.client.https || !(https || scheme.eq_ignore_ascii_case("http")) {
        return false;
    }
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let rest = rest.get(..end).unwrap_or_default();
    let (authority, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len())).unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    let meant = canonical::target(
        &Method::GET,
        path.as_bytes(),
        Some(authority),
        &HeaderMap::new(),
        Protocol::Http2,
        PROOF_BYTES_MAX,
    );
    let Ok(meant) = meant else { return false };
    let port = |port: Option<u16>| port.unwrap_or(if https { 443 } else { 80 });
    meant.host() == request.target.host()
        && port(meant.port()) == port(request.target.port())
        && meant.path() == request.target.path()
}

fn slot(now: f64) -> u64 {
    Duration::try_from_secs_f64(now).unwrap_or_default().as_secs() / NONCE_SECONDS
}

impl Shared {
    fn new() -> Self {
        let mut secret = [0; 32];
        // Without randomness nonces could be foreseen, as they may be where none are wanted.
        if aws_lc_rs::rand::fill(&mut secret).is_err() {
            log::error!("no randomness for nonces of DPoP");
        }
        Self {
            seen: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            secret: hmac::Key::new(hmac::HMAC_SHA256, &secret),
        }
    }

    /// The nonce of a span of time.
    fn nonce(&self, slot: u64) -> String {
        let slot = slot.to_be_bytes();
        let tag = hmac::sign(&self.secret, &slot);
        let tag = tag.as_ref().get(..NONCE_TAG_BYTES).unwrap_or_default();
        URL_SAFE_NO_PAD.encode([&slot[..], tag].concat())
    }

    /// Keeps a proof until it can no longer be good.
    fn keep(&self, key: &str, jti: &str, until: f64, now: f64) -> Result<(), Kept> {
        // A thumbprint has 43 characters: no other pair makes the same text.
        let hash = sha256([key, jti].concat().as_bytes());
        let (id, rest) = hash.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
        let shard = rest.first().map_or(0, |byte| usize::from(*byte) % SHARDS);
        let Some(shard) = self.seen.get(shard) else { return Err(Kept::Full) };
        let second = |time: f64| {
            u32::try_from(Duration::try_from_secs_f64(time).unwrap_or_default().as_secs()).unwrap_or(u32::MAX)
        };
        // Until its second is over: rounding must not end it early.
        shard.lock().unwrap_or_else(PoisonError::into_inner).keep(
            *id,
            second(until).saturating_add(1),
            second(now),
        )
    }
}

impl Shard {
    fn keep(&mut self, id: [u8; 16], until: u32, now: u32) -> Result<(), Kept> {
        if self.proofs.get(&id).is_some_and(|until| *until >= now) {
            return Err(Kept::Already);
        }
        if until < self.forgotten {
            return Err(Kept::Forgotten);
        }
        let most = KEPT_MAX / SHARDS;
        // Looked through once a second at most, and only where it grows.
        if self.proofs.len() >= self.proofs.capacity().min(most) && self.swept != now {
            self.proofs.retain(|_, until| *until >= now);
            self.swept = now;
            self.forgotten = self.forgotten.max(now);
        }
        if self.proofs.len() >= most {
            return Err(Kept::Full);
        }
        self.proofs.insert(id, until);
        Ok(())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use serde_json::json;

    use super::super::tokens::{self, SigningKey};
    use super::*;
    use crate::canonical::Target;
    use crate::client::Client;
    use crate::config::Site;
    use crate::policy::auth::{self, testing};
    use crate::record::RouteFacts;

    const URL: &str = "https://api.example.com/orders";

    /// What the check says of a request to `https://api.example.com/orders` with these `DPoP` fields.
    fn told(
        proofs: &Proofs,
        key: &SigningKey,
        token: &str,
        fields: &[String],
    ) -> Result<Option<String>, Denial> {
        told_at(
            proofs,
            key,
            token,
            fields,
            &Target::of_canonical_parts("api.example.com", "/orders", Some("a=1")),
            true,
        )
    }

    fn told_at(
        proofs: &Proofs,
        key: &SigningKey,
        token: &str,
        fields: &[String],
        target: &Target,
        https: bool,
    ) -> Result<Option<String>, Denial> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(DPOP, HeaderValue::from_str(field).unwrap());
        }
        let client = Client { address: [127, 0, 0, 1].into(), peer_trusted: false, https };
        let connection = testing::connection();
        let request = Request {
            method: &Method::GET,
            target,
            headers: &headers,
            client: &client,
            protocol: Protocol::Http11,
            connection: &connection,
        };
        let route = RouteFacts {
            index: 0,
            name: "orders".into(),
            resource_path: "/orders".into(),
            labels: BTreeMap::new(),
            site: Site::default_value(),
        };
        let asked = Asked {
            request: &request,
            route: &route,
            parameters: &[],
            query: None,
            kept: auth::Kept::default(),
            now: SystemTime::now(),
        };
        let next = proofs.check(&key.thumbprint(), token, &asked)?;
        Ok(next.map(|(name, nonce)| {
            assert_eq!(name, DPOP_NONCE);
            nonce.to_str().unwrap().to_owned()
        }))
    }

    fn proofs(wants_nonce: bool) -> Proofs {
        Proofs::find(&Live::default(), Duration::from_secs(30), wants_nonce)
    }

    fn reason(result: Result<Option<String>, Denial>) -> &'static str {
        result.map_or_else(|denial| denial.reason, |_| "good")
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_proof_good_again() {
        let mut shard = Shard::default();
        let id = |number: u8| [number; 16];
        assert_eq!(shard.keep(id(0), 190, 100), Ok(()));
        assert_eq!(shard.keep(id(0), 190, 101), Err(Kept::Already));
        // Much later it is forgotten.
        for number in 1..=200 {
            assert_eq!(shard.keep(id(number), 3690, 3600), Ok(()), "{number}");
        }
        assert!(!shard.proofs.contains_key(&id(0)));
        assert_eq!(shard.keep(id(0), 190, 100), Err(Kept::Forgotten));
        assert_eq!(shard.keep(id(201), 3690, 3601), Ok(()));
    }

    #[test]
    fn a_proof_is_good_once() {
        let proofs = proofs(false);
        for algorithm in ["ES256", "ES384", "ES512", "EdDSA", "PS256", "RS256"] {
            let key = SigningKey::new(algorithm, "");
            let proof = [key.proof("GET", URL, "t.o.k", &json!({}))];
            assert_eq!(reason(told(&proofs, &key, "t.o.k", &proof)), "good", "{algorithm}");
            assert_eq!(reason(told(&proofs, &key, "t.o.k", &proof)), "proof_replayed", "{algorithm}");
        }
        // Another key may use the same id.
        let (one, other) = (SigningKey::new("ES256", ""), SigningKey::new("ES256", ""));
        for key in [one, other] {
            let proof = [key.proof("GET", URL, "t", &json!({"jti": "same"}))];
            assert_eq!(reason(told(&proofs, &key, "t", &proof)), "good");
        }
    }

    #[test]
    fn a_proof_is_for_one_request_and_one_token() {
        let (proofs, key) = (proofs(false), SigningKey::new("ES256", ""));
        let now = tokens::now();
        let rows = [
            (json!({}), "good"),
            (json!({"htm": "POST"}), "proof"),
            (json!({"htm": "get"}), "proof"),
            (json!({"htm": null}), "proof"),
            (json!({"htu": null}), "proof"),
            (json!({"htu": "https://api.example.com/orders?x=1#y"}), "good"),
            (json!({"htu": "HTTPS://API.example.com:443/%6frders"}), "good"),
            (json!({"htu": "https://api.example.com/orders/"}), "proof"),
            (json!({"htu": "https://api.example.com/other"}), "proof"),
            (json!({"htu": "https://api.example.com"}), "proof"),
            (json!({"htu": "http://api.example.com/orders"}), "proof"),
            (json!({"htu": "https://api.example.com:8443/orders"}), "proof"),
            (json!({"htu": "https://evil.example/orders"}), "proof"),
            (json!({"htu": "https://api.example.com@evil.example/orders"}), "proof"),
            (json!({"htu": "/orders"}), "proof"),
            (json!({"htu": 7}), "proof"),
            (json!({"ath": null}), "proof"),
            (json!({"ath": "x"}), "proof"),
            (json!({"jti": null}), "proof"),
            (json!({"jti": ""}), "proof"),
            (json!({"jti": 1}), "proof"),
            (json!({"iat": null}), "proof"),
            (json!({"iat": "now"}), "proof"),
            (json!({"iat": now - 80}), "good"),
            (json!({"iat": now - 91}), "proof"),
            (json!({"iat": now + 20}), "good"),
            (json!({"iat": now + 60}), "proof"),
            (json!({"exp": now + 5, "nbf": now - 5}), "good"),
            (json!({"exp": now - 20}), "good"),
            (json!({"exp": now - 31}), "proof"),
            (json!({"exp": "soon"}), "proof"),
            (json!({"nbf": now + 20}), "good"),
            (json!({"nbf": now + 40}), "proof"),
            (json!({"nbf": []}), "proof"),
        ];
        for (other, expected) in rows {
            let proof = [key.proof("GET", URL, "t.o.k", &other)];
            assert_eq!(reason(told(&proofs, &key, "t.o.k", &proof)), expected, "{other}");
        }
        let foreign = [key.proof("GET", URL, "another.token", &json!({}))];
        assert_eq!(reason(told(&proofs, &key, "t.o.k", &foreign)), "proof");
    }

    #[test]
    fn the_url_is_the_one_that_the_client_sees() {
        let (proofs, key) = (proofs(false), SigningKey::new("ES256", ""));
        for (host, path, https, htu, expected) in [
            ("api.example.com:8080", "/a", false, "http://api.example.com:8080/a", "good"),
            ("api.example.com:80", "/a", false, "http://api.example.com/a", "good"),
            ("api.example.com", "/", true, "https://api.example.com", "good"),
            ("api.example.com", "/a%2Fb", true, "https://api.example.com/a%2fb", "good"),
            ("api.example.com", "/a", true, "http://api.example.com/a", "proof"),
            ("api.example.com", "/a", false, "https://api.example.com/a", "proof"),
        ] {
            let target = Target::of_canonical_parts(host, path, None);
            let proof = [key.proof("GET", htu, "t", &json!({}))];
            assert_eq!(reason(told_at(&proofs, &key, "t", &proof, &target, https)), expected, "{htu}");
        }
    }

    #[test]
    fn a_proof_has_the_form_of_one() {
        let (proofs, key) = (proofs(false), SigningKey::new("ES256", ""));
        let good = || key.proof("GET", URL, "t", &json!({}));
        assert_eq!(reason(told(&proofs, &key, "t", &[])), "proof_missing");
        assert_eq!(reason(told(&proofs, &key, "t", &[good(), good()])), "proof");
        assert_eq!(reason(told(&proofs, &key, "t", &["x".repeat(9000)])), "proof");
        assert_eq!(reason(told(&proofs, &key, "t", &[format!("{}x", good())])), "proof");
        // Somebody else's, however well made.
        let other = SigningKey::new("ES256", "");
        assert_eq!(reason(told(&proofs, &key, "t", &[other.proof("GET", URL, "t", &json!({}))])), "binding");
        let claims: Value = {
            let proof = good();
            let payload = proof.split('.').nth(1).unwrap();
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
        };
        let mut private = key.public();
        private["d"] = json!("AQAB");
        for header in [
            json!({"alg": "ES256", "jwk": key.public()}),
            json!({"alg": "ES256", "typ": "JWT", "jwk": key.public()}),
            json!({"alg": "ES256", "typ": "dpop+jwt"}),
            json!({"alg": "ES256", "typ": "dpop+jwt", "jwk": private}),
            json!({"alg": "ES384", "typ": "dpop+jwt", "jwk": key.public()}),
            json!({"alg": "none", "typ": "dpop+jwt", "jwk": key.public()}),
            json!({"alg": "HS256", "typ": "dpop+jwt", "jwk": key.public()}),
            json!({"alg": "ES256", "typ": "dpop+jwt", "jwk": key.public(), "crit": ["x"]}),
        ] {
            let proof = [key.token_with(&header, &claims)];
            assert_eq!(reason(told(&proofs, &key, "t", &proof)), "proof", "{header}");
        }
        let forged =
            other.token_with(&json!({"alg": "ES256", "typ": "dpop+jwt", "jwk": key.public()}), &claims);
        assert_eq!(reason(told(&proofs, &key, "t", &[forged])), "proof");
        // What was refused was not kept.
        let proof =
            [key.token_with(&json!({"alg": "ES256", "typ": "dpop+jwt", "jwk": key.public()}), &claims)];
        assert_eq!(reason(told(&proofs, &key, "t", &proof)), "good");
    }

    #[test]
    fn a_nonce_is_given_and_wanted() {
        let (proofs, key) = (proofs(true), SigningKey::new("ES256", ""));
        let denial = told(&proofs, &key, "t", &[key.proof("GET", URL, "t", &json!({}))]).unwrap_err();
        assert_eq!((denial.reason, denial.error), ("proof_nonce", Some("use_dpop_nonce")));
        let [(name, nonce)] = &denial.headers[..] else { panic!("{denial:?}") };
        assert_eq!(name, DPOP_NONCE);
        let nonce = nonce.to_str().unwrap();
        let with = |nonce: &str| [key.proof("GET", URL, "t", &json!({"nonce": nonce}))];
        assert_eq!(reason(told(&proofs, &key, "t", &with(nonce))), "good");
        assert_eq!(reason(told(&proofs, &key, "t", &with("AAAA"))), "proof_nonce");
        let slot = slot(tokens::now() as f64);
        // The answer to one that is about to end bears the next (RFC 9449 §8.2).
        let next = told(&proofs, &key, "t", &with(&proofs.shared.nonce(slot - 1))).unwrap();
        assert_eq!(next.as_deref(), Some(nonce));
        assert_eq!(told(&proofs, &key, "t", &with(nonce)), Ok(None));
        assert_eq!(reason(told(&proofs, &key, "t", &with(&proofs.shared.nonce(slot - 2)))), "proof_nonce");
        // Of another process.
        let other = self::proofs(true);
        assert_eq!(reason(told(&proofs, &key, "t", &with(&other.shared.nonce(slot)))), "proof_nonce");
    }

    #[test]
    fn what_is_kept_is_bounded_and_ends() {
        let mut shard = Shard::default();
        let id = |number: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            id
        };
        let most = KEPT_MAX / SHARDS;
        for number in 0..most {
            assert_eq!(shard.keep(id(number), 100, 1), Ok(()));
        }
        assert_eq!(shard.keep(id(most), 100, 2), Err(Kept::Full));
        assert_eq!(shard.keep(id(7), 100, 100), Err(Kept::Already));
        assert_eq!(shard.keep(id(most), 200, 101), Ok(()));
        assert_eq!(shard.proofs.len(), 1, "what could not be good again is gone");
        assert_eq!(shard.keep(id(7), 300, 102), Ok(()));
    }
}
