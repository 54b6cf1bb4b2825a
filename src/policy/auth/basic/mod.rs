//! HTTP Basic (RFC 7617) for small sites: users of a file, whose hashes are computed on threads of their own.
//!
//! The order is the point. What was right lately from the same client is remembered and passes at once: nobody else learns by it
//! whether a guess is right. Then the failure limit, which costs nothing to ask. Only then a password is hashed, one at a time for
//! equal credentials of a client, with a bound on how many wait.

mod failures;
mod pool;
mod users;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::RETRY_AFTER;
use schemars::JsonSchema;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Asked, Context, Denial, Judgement, Place, Presented};
use crate::config::Spanned;
use crate::config::units::Rate;
use crate::identity::{Identity, Method};
use crate::reply::Kind;
use failures::Failures;
use pool::Pool;
use users::Users;

pub(super) const REASONS: &[&str] = &["unknown_user", "wrong_password", "too_many_failures", "busy"];

/// How long a right password is remembered. A changed file forgets it at once.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How many are, a policy.
const REMEMBERED_MAX: usize = 1024;
/// Name and password, decoded.
const CREDENTIAL_BYTES_MAX: usize = 1024;

/// As written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The users, `name:hash` a line, with hashes of argon2id (`$argon2id$…`) or bcrypt (`$2b$…`); read again when it changes.
    pub file: Spanned<String>,
    /// How often a client, by its address, may be wrong. Beyond, its requests are answered 429 before any hash is computed.
    #[serde(default = "per_client")]
    pub failures_per_client: Spanned<Rate>,
    /// How often anybody may be wrong about one user. Beyond, that user's requests are answered 429 too, except from a client that
    /// has given the right password in the last five minutes.
    #[serde(default = "per_user")]
    pub failures_per_user: Spanned<Rate>,
}

fn per_client() -> Spanned<Rate> {
    Spanned::unwritten(Rate { count: 5, per: Duration::from_secs(60) })
}

fn per_user() -> Spanned<Rate> {
    Spanned::unwritten(Rate { count: 20, per: Duration::from_secs(60) })
}

/// Compiled.
pub(super) struct Basic {
    name: Arc<str>,
    /// Outlives reloads that leave the file as it is.
    known: Arc<Known>,
    failures: Arc<Failures>,
    pool: Arc<Pool>,
}

/// Users, and whose password was right lately.
struct Known {
    users: Arc<Users>,
    /// By a keyed hash of client, name and password: the memory of the process tells none of them.
    right: quick_cache::sync::Cache<[u8; 32], Right>,
    key: hmac::Key,
}

#[derive(Clone)]
struct Right {
    identity: Arc<Identity>,
    until: Instant,
}

/// A name and a password, as they were sent.
struct Credentials {
    name: Box<str>,
    password: Zeroizing<Vec<u8>>,
}

impl Basic {
    pub(super) fn compile(
        name: &Arc<str>,
        config: &Spanned<Config>,
        context: &mut Context<'_>,
    ) -> Option<Self> {
        let Config { file, failures_per_client, failures_per_user } = &config.value;
        for rate in [failures_per_client, failures_per_user] {
            let Rate { count, per } = rate.value;
            if count > 1000 || !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&per) {
                let cause = format!(
                    "`{}` is no limit: passwords could be guessed, or nobody ever try again",
                    rate.value
                );
                let cure = "write at most 1000 within `1s` to `1d`, such as `5/1m`";
                context.build.errors.push(&rate.site, &*rate.path, cause, cure);
            }
        }
        let (users, content) = Users::read(file, context.build)?;
        let key = fresh_key();
        let Some(key) = key else {
            let cause = "the system gives no random bytes";
            context.build.errors.push(&config.site, &*config.path, cause, "try again");
            return None;
        };
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content);
        let definition = format!("{name} {hash:?}");
        let known = context.live.find_or("auth.basic", &definition, || Known {
            users: Arc::new(users),
            right: quick_cache::sync::Cache::new(REMEMBERED_MAX),
            key,
        });
        let (client, user) = (failures_per_client.value, failures_per_user.value);
        let limits = format!("{name} {client} {user}");
        let failures = context.live.find_or("auth.basic.failures", &limits, || Failures::new(client, user));
        let pool = context.live.find_or("auth.basic.pool", "", Pool::default);
        Some(Self { name: Arc::clone(name), known, failures, pool })
    }

    pub(super) async fn judge(&self, asked: &Asked<'_>) -> Judgement {
        let text = match Place::Basic.find(asked.request, false) {
            Presented::Absent => return Judgement::Absent,
            Presented::Malformed(why) => return malformed(why),
            Presented::One(text) => text,
        };
        let credentials = match Credentials::parse(&text) {
            Ok(credentials) => credentials,
            Err(why) => return malformed(why),
        };
        let tag = self.tag(asked.request.client_ip(), &credentials);
        if let Some(right) = self.known.right.get(&tag) {
            if Instant::now() < right.until {
                return Judgement::Known(right.identity, None);
            }
            self.known.right.remove(&tag);
        }
        // A page that brings thirty requests at once has one password hashed: the others wait for it, and find it right.
        let judged = self.known.right.get_or_insert_async(&tag, self.prove(asked, credentials)).await;
        match judged {
            Ok(right) => Judgement::Known(right.identity, None),
            Err(denial) => Judgement::Refused(*denial),
        }
    }

    /// The long way: whether the failure limit lets it be tried, and then whether it is right.
    async fn prove(&self, asked: &Asked<'_>, credentials: Credentials) -> Result<Right, Box<Denial>> {
        let Credentials { name, password } = credentials;
        let charged = self.failures.begin(asked.request.client_ip(), &name).map_err(throttled)?;
        let whose = self.known.users.find(&name);
        // Who leaves before the answer has been wrong: else leaving would be the way to guess for ever.
        let right = self.pool.verify(&self.known.users, whose, password).await.map_err(|_| {
            self.failures.give_back(charged);
            Denial::unavailable("busy", "as many passwords wait to be hashed as may")
        })?;
        if !right {
            let denial = if whose.is_known() {
                Denial::new(
                    Kind::Unauthorized,
                    "wrong_password",
                    format!("the password is not that of `{name}`"),
                )
            } else {
                // What stands there may be a password in the wrong place.
                Denial::new(Kind::Unauthorized, "unknown_user", "there is no user of the name that was given")
            };
            return Err(Box::new(denial));
        }
        self.failures.give_back(charged);
        let identity = Arc::new(Identity::new(name, Method::Basic, Arc::clone(&self.name)));
        Ok(Right { identity, until: Instant::now() + REMEMBERED })
    }

    /// Names credentials, and whose client they come from, without telling them.
    fn tag(&self, client: IpAddr, credentials: &Credentials) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.known.key);
        context.update(&failures::client_bits(client).to_be_bytes());
        // The length keeps `a` + `bc` apart from `ab` + `c`.
        context.update(&(credentials.name.len() as u64).to_be_bytes());
        context.update(credentials.name.as_bytes());
        context.update(&credentials.password);
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

impl Credentials {
    /// From what stands behind `Basic` (RFC 7617 §2): base64 of `name:password`, in UTF-8.
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > CREDENTIAL_BYTES_MAX.div_ceil(3) * 4 {
            return Err("name and password are longer than 1024 bytes");
        }
        let decoded = STANDARD.decode(text).map(Zeroizing::new).map_err(|_| "the credential is no base64")?;
        let whole = std::str::from_utf8(&decoded).map_err(|_| "name and password are not UTF-8")?;
        let (name, password) = whole.split_once(':').ok_or("there is no `:` between name and password")?;
        if whole.chars().any(char::is_control) {
            return Err("name or password has a control character");
        }
        Ok(Self { name: name.into(), password: Zeroizing::new(password.as_bytes().to_vec()) })
    }
}

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Basic").field("name", &self.name).finish_non_exhaustive()
    }
}

fn fresh_key() -> Option<hmac::Key> {
    let mut secret = Zeroizing::new([0_u8; 32]);
    aws_lc_rs::rand::fill(&mut *secret).ok()?;
    Some(hmac::Key::new(hmac::HMAC_SHA256, &*secret))
}

fn malformed(why: &'static str) -> Judgement {
    Judgement::Refused(Denial::new(Kind::Unauthorized, "malformed", why))
}

fn throttled(wait: Duration) -> Box<Denial> {
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    let message = format!("too many wrong passwords: the next may come in {seconds} s");
    let mut denial = Denial::new(Kind::Throttled, "too_many_failures", message);
    if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
        denial.headers.push((RETRY_AFTER, value));
    }
    Box::new(denial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_a_name_and_a_password() {
        let parse = |text: &str| {
            let parsed = Credentials::parse(&STANDARD.encode(text));
            parsed.map(|own| (own.name.to_string(), String::from_utf8(own.password.to_vec()).unwrap()))
        };
        let pair = |name: &str, password: &str| Ok((name.to_owned(), password.to_owned()));
        assert_eq!(parse("alice:secret"), pair("alice", "secret"));
        assert_eq!(parse("alice:a:b"), pair("alice", "a:b"));
        assert_eq!(parse("alice:"), pair("alice", ""));
        assert_eq!(parse("Ä:pässword"), pair("Ä", "pässword"));
        assert_eq!(parse("alice"), Err("there is no `:` between name and password"));
        assert_eq!(parse("a\0b:c"), Err("name or password has a control character"));
        assert!(parse(&format!("a:{}", "x".repeat(1022))).is_ok());
        assert_eq!(parse(&"x".repeat(1027)), Err("name and password are longer than 1024 bytes"));
        assert_eq!(Credentials::parse("!").err(), Some("the credential is no base64"));
        assert_eq!(Credentials::parse("/zo6").err(), Some("name and password are not UTF-8"));
    }
}
