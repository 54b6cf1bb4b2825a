//! Where a policy's keys come from, and what they are now.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use openssl::pkey::PKey;
use openssl::x509::X509;
use zeroize::Zeroizing;

use super::algorithm::Algorithm;
use super::config::{Config, KeysConfig};
use super::issuer::{Issuer, Schedule, Source, Unasked};
use super::jwks::KeySet;
use crate::config::units::Time;
use crate::config::{Build, Spanned, unreadable};
use crate::policy::auth::{Context, Figure, fetching, secrets};

/// The fewest bytes of a secret.
const SECRET_BYTES_MIN: usize = 32;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// A policy's keys.
#[derive(Debug)]
pub(super) enum Keys {
    /// Those of a file or a secret: another file is another snapshot.
    Fixed(Arc<KeySet>),
    /// Those of an issuer, fetched in the background; its schedule holds as long as the policy is there.
    Live { issuer: Arc<Issuer>, _schedule: Arc<Schedule> },
}

/// The keys as they are now, held without counting.
pub(super) enum Current<'a> {
    Fixed(&'a KeySet),
    Live(Guard<Option<Arc<KeySet>>>),
}

impl Current<'_> {
    /// None while an issuer's keys are not known.
    pub(super) fn set(&self) -> Option<&KeySet> {
        match self {
            Self::Fixed(set) => Some(set),
            Self::Live(guard) => guard.as_deref(),
        }
    }
}

impl Keys {
    /// From what was written. None when `build.errors` says why.
    pub(super) fn compile(config: &Spanned<Config>, context: &mut Context<'_>) -> Option<Self> {
        let keys = &config.keys;
        check_times(keys, context.build);
        let symmetric = config.algorithms.iter().filter(|algorithm| algorithm.is_symmetric()).count();
        // Where nothing is written of keys, it is the policy that is wrong.
        let (site, path) = match &*keys.path {
            "" => (&config.site, format!("{}.keys", config.path)),
            path => (&keys.site, path.to_owned()),
        };
        let mut refuse = |cause: &'static str, cure: &'static str| {
            context.build.errors.push(site, path.as_str(), cause, cure)
        };
        let discovers = keys.discovery.unwrap_or(false);
        let sources = [discovers, keys.url.is_some(), keys.file.is_some(), keys.secret.is_some()];
        let count = sources.iter().filter(|given| **given).count();
        if count > 1 || (count == 0 && keys.discovery == Some(false)) {
            refuse(
                "keys come from exactly one place",
                "write one of `{discovery: true}`, `{url: https://…}`, `{file: jwks.json}`, `{secret: \"${env:NAME}\"}`",
            );
            return None;
        }
        if keys.secret.is_none() && symmetric > 0 {
            refuse(
                "whoever has the public keys could sign tokens with `HS256` and the like: they need a secret",
                "remove them from `algorithms`, or write `keys: {secret: \"${env:NAME}\"}`",
            );
            return None;
        }
        if keys.secret.is_some() && symmetric < config.algorithms.len() {
            refuse(
                "a secret verifies `HS256`, `HS384` and `HS512`, and `algorithms` names others",
                "write such as `algorithms: [HS256]`, and a policy of its own for other algorithms",
            );
            return None;
        }
        let schedule = Schedule {
            refresh: keys.refresh.0,
            cooldown: keys.cooldown.0,
            stale_keys_max: keys.stale_keys_max.0,
        };
        match (&keys.url, &keys.file, &keys.secret) {
            (Some(url), _, _) => {
                fetching::may_be_fetched(url, context)?;
                let (issuer, _schedule) = Issuer::find(&Source::Url(url.value.clone()), schedule, context);
                judge_copy(&issuer, url, &config.algorithms, context);
                Some(Self::Live { issuer, _schedule })
            }
            (None, Some(file), _) => {
                let set = read(file, context.build)?;
                if !config.algorithms.is_empty() && !set.takes_any(&config.algorithms) {
                    let cause = "none of its keys is for any of `algorithms`, so no token could be verified";
                    let cure = "name the algorithms that the keys are for, or another file";
                    context.build.errors.push(&file.site, &*file.path, cause, cure);
                    return None;
                }
                Some(Self::Fixed(Arc::new(set)))
            }
            (None, None, Some(secret)) => {
                if !secrets::is_one(secret, context.build) {
                    return None;
                }
                if let Some(what) = public_thing(secret) {
                    let cause = format!("the secret is {what}: whoever knows that could sign tokens");
                    let cure = "name it in `keys: {file: …}` or `keys: {url: https://…}`, with algorithms such as `ES256`; a secret is random: \
                                `openssl rand -base64 48`";
                    context.build.errors.push(&secret.site, &*secret.path, cause, cure);
                    return None;
                }
                if secret.len() < SECRET_BYTES_MIN {
                    let cause = format!("the secret has {} bytes, and can be guessed", secret.len());
                    let cure = "use 32 random bytes or more: `openssl rand -base64 48`";
                    context.build.errors.push(&secret.site, &*secret.path, cause, cure);
                    return None;
                }
                let wanted = config.algorithms.iter().filter_map(|algorithm| algorithm.secret_bytes()).max();
                if let Some(wanted) = wanted.filter(|wanted| secret.len() < *wanted) {
                    let cause = format!(
                        "the secret has {} bytes, the longest hash of `algorithms` {wanted}",
                        secret.len()
                    );
                    let cure = "use a secret as long as the hash (RFC 7518 §3.2), or `HS256` alone";
                    context.build.errors.warn(&secret.site, &*secret.path, cause, cure);
                }
                Some(Self::Fixed(Arc::new(KeySet::of_secret(secret.as_bytes()))))
            }
            (None, None, None) => {
                let issuer = config.issuer.as_ref()?;
                fetching::may_be_fetched(issuer, context)?;
                is_plain(issuer, context.build)?;
                let source = Source::Discovery { issuer: issuer.value.clone() };
                let (found, _schedule) = Issuer::find(&source, schedule, context);
                judge_copy(&found, issuer, &config.algorithms, context);
                Some(Self::Live { issuer: found, _schedule })
            }
        }
    }

    /// The keys as they are now.
    pub(super) fn current(&self) -> Current<'_> {
        match self {
            Self::Fixed(set) => Current::Fixed(set),
            Self::Live { issuer, .. } => Current::Live(issuer.current()),
        }
    }

    /// What is counted of an issuer's.
    pub(super) fn figures(&self) -> Vec<Figure> {
        match self {
            Self::Fixed(_) => Vec::new(),
            Self::Live { issuer, .. } => issuer.figures(),
        }
    }

    /// The keys, to hold on to; waits a bounded time for the first ones of an issuer.
    pub(super) async fn first(&self) -> Option<Arc<KeySet>> {
        match self {
            Self::Fixed(set) => Some(Arc::clone(set)),
            Self::Live { issuer, .. } => issuer.first().await,
        }
    }

    /// A token names a key that is not in the set of generation `seen`: another set, if the issuer has one.
    ///
    /// # Errors
    /// It cannot be asked.
    pub(super) async fn after_unknown(&self, seen: u64) -> Result<Option<Arc<KeySet>>, Unasked> {
        match self {
            Self::Fixed(_) => Ok(None),
            Self::Live { issuer, .. } => issuer.after_unknown(seen).await,
        }
    }
}

/// What a secret is that is none: a key or a certificate, or where there are some. Such things are made to be known.
fn public_thing(secret: &str) -> Option<&'static str> {
    use base64::Engine as _;
    let text = secret.trim();
    let begins = |with: &str| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    if begins("-----BEGIN") || begins("ssh-") {
        return Some("a key or a certificate in text form (PEM)");
    }
    if begins("https://") || begins("http://") {
        return Some("a URL");
    }
    if text.starts_with(['{', '[']) {
        return Some("a JSON document, such as a JWK");
    }
    // A PEM without its first and last line.
    let bare = Zeroizing::new(text.split_ascii_whitespace().collect::<String>());
    let der = Zeroizing::new(base64::engine::general_purpose::STANDARD.decode(bare.as_bytes()).ok()?);
    let is_key = PKey::public_key_from_der(&der).is_ok() || X509::from_der(&der).is_ok();
    is_key.then_some("a public key or a certificate (DER in base64)")
}

fn read(file: &Spanned<String>, build: &mut Build) -> Option<KeySet> {
    let path = build.files.resolve(&file.site, file);
    let set = match build.files.read(&path) {
        Ok(content) => {
            KeySet::parse(&content).map_err(|cause| format!("`{}` is no JWKS: {cause}", path.display()))
        }
        Err(error) => Err(format!("cannot read `{}`: {}", path.display(), unreadable(&error))),
    };
    let set = match set {
        Ok(set) => set,
        Err(cause) => {
            build.errors.push(
                &file.site,
                &*file.path,
                cause,
                "name a file such as `{\"keys\": [{\"kty\": \"EC\", …}]}`",
            );
            return None;
        }
    };
    for complaint in set.complaints() {
        let cause = format!("`{}`: {complaint}", path.display());
        if set.is_empty() {
            build.errors.push(&file.site, &*file.path, cause, "a set needs a public key that verifies");
        } else {
            build.errors.warn(&file.site, &*file.path, cause, "remove the key from the file, or mend it");
        }
    }
    if set.is_empty() && set.complaints().is_empty() {
        let cause = format!("`{}` has no keys, so no token could be verified", path.display());
        build.errors.push(&file.site, &*file.path, cause, "a set needs a public key that verifies");
    }
    (!set.is_empty()).then_some(set)
}

/// Where nothing is fetched (`check`, `explain`), what is known of an issuer's keys is the copy that a gateway has made: what would be left
/// out of it is said. A gateway itself says so when it has fetched them.
fn judge_copy(
    issuer: &Issuer,
    written: &Spanned<String>,
    algorithms: &[Algorithm],
    context: &mut Context<'_>,
) {
    if context.live.runtime().is_some() {
        return;
    }
    let current = issuer.current();
    let Some(set) = current.as_deref() else { return };
    let mut warn = |cause: String, cure: &'static str| {
        context.build.errors.warn(&written.site, &*written.path, cause, cure);
    };
    for complaint in set.complaints() {
        let cause = format!("in the issuer's keys, as they were fetched last, {complaint}");
        warn(cause, "its tokens are refused; ask the issuer to mend or remove it");
    }
    if !set.takes_any(algorithms) {
        let cause = "the issuer's keys, as they were fetched last, have none for any of `algorithms`";
        warn(cause.to_owned(), "every token is refused; name the algorithms that its keys are for");
    }
}

/// A well-known path can be put behind a path, and behind nothing else (RFC 8414 §2, OpenID Connect Discovery 1.0 §3).
fn is_plain(issuer: &Spanned<String>, build: &mut Build) -> Option<()> {
    if !issuer.contains(['?', '#']) {
        return Some(());
    }
    let cause = format!("`{}` has a query or a fragment: no document stands behind it", issuer.value);
    let cure = "write the issuer as its documents name it, or `keys: {url: https://…}`";
    build.errors.push(&issuer.site, &*issuer.path, cause, cure);
    None
}

fn check_times(keys: &Spanned<KeysConfig>, build: &mut Build) {
    let mut check = |name: &str, time: Time, range: RangeInclusive<Duration>| {
        if !range.contains(&time.0) {
            let cause = format!("{time} is out of range");
            let cure =
                format!("write a duration from `{}` to `{}`", Time(*range.start()), Time(*range.end()));
            build.errors.push(&keys.site, format!("{}.{name}", keys.path), cause, cure);
        }
    };
    check("refresh", keys.refresh, SECOND..=24 * HOUR);
    check("cooldown", keys.cooldown, SECOND..=600 * SECOND);
    check("stale_keys_max", keys.stale_keys_max, Duration::ZERO..=30 * 24 * HOUR);
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    #[test]
    fn what_is_made_to_be_known_is_no_secret() {
        let key = PKey::generate_ed25519().unwrap();
        let der = PKey::public_key_from_raw_bytes(&key.raw_public_key().unwrap(), openssl::pkey::Id::ED25519)
            .unwrap()
            .public_key_to_der()
            .unwrap();
        let pem = String::from_utf8(key.public_key_to_pem().unwrap()).unwrap();
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect::<Vec<_>>().join("\n");
        let base64 = base64::engine::general_purpose::STANDARD.encode(&der);
        for text in [
            &pem,
            &format!("\n {pem}"),
            &body,
            &base64,
            "{\"kty\": \"EC\"}",
            " {\"keys\": []}",
            "[{}]",
            "https://id.example.com/jwks.json",
            "HTTP://id.example.com/jwks.json",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI",
        ] {
            assert!(public_thing(text).is_some(), "{text}");
        }
        for text in [
            "httpsomething-long-and-random-enough",
            "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA==",
            "-----",
            "ünïcödé",
        ] {
            assert_eq!(public_thing(text), None, "{text}");
        }
    }
}
