//! Identity tokens: the gateway's own signed word, to an upstream, for who a request is from.
//!
//! A token is short-lived, for one audience, and of a type of its own (`portcullis+jwt`): no `jwt` policy takes it for an access token
//! unless its `type` says so. It speaks of an identity that was verified and of nobody else: an anonymous request has none, nor has one
//! that a shadowed policy let pass without a valid credential. It says who somebody is, not that they may: conditions that only shadowed
//! policies have refused do not hold it back. It is good for no longer than the credential that it was made of, apart from ten seconds.
//!
//! Signing takes some tens of microseconds on a worker, so a token is sent again for half of its lifetime ([`cache`]). Keys are kept, and
//! changed, as [`ring`] says.

mod cache;
mod claims;
mod config;
mod keeper;
mod key;
mod ring;

use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use cache::{Cache, Count, Signed};
pub use config::{Config, ForwardConfig, KeyConfig, KeyFile};
use keeper::{Current, Keys};
pub use key::SigningAlgorithm;
use key::SigningKey;
pub(super) use key::TYPE;
use ring::Rules;

use crate::config::{Build, Site, Spanned, unreadable};
use crate::identity::{Identity, Method};
use crate::state::Live;

/// A token is good for so long at least, whatever is left of the credential, which was good when it was made.
const LEAST: u64 = 10;
/// A thread's buffer is given back where a large identity has made it larger than this.
const BUFFER_BYTES: usize = 16 << 10;
/// What `explain` shows in place of a token.
pub const SHOWN: &str = "(a token, signed when it is served)";

thread_local! {
    /// A token's text on its way: what a request needs again and again is not allocated again.
    static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// `server.identity_tokens`, compiled.
#[derive(Debug)]
pub struct IdentityTokens {
    issuer: Box<str>,
    lifetime: u64,
    bytes_max: usize,
    path: Box<str>,
    keys: Arc<Keys>,
    cache: Option<Arc<Cache>>,
    counts: Arc<Counts>,
    /// False in `check` and `explain`, which sign nothing.
    serves: bool,
}

#[derive(Debug, Default)]
struct Counts {
    signed: Count,
    reused: Count,
    refused: Count,
}

/// What there is to tell of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenFigures {
    /// Tokens signed, since the process began.
    pub signed: u64,
    /// Requests that a token was sent with which had been signed before.
    pub reused: u64,
    /// Requests refused since there could be no token for them.
    pub refused: u64,
    /// Keys that are published.
    pub keys: usize,
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsigned {
    /// It would have so many bytes, which are more than `max_bytes`.
    TooLong(usize),
    /// There is no key, or no randomness.
    Failed,
}

impl IdentityTokens {
    /// Compiles `server.identity_tokens`. None when `build.errors` says why.
    pub fn compile(config: &Spanned<Config>, live: &Live, build: &mut Build) -> Option<Self> {
        let before = build.errors.errors().len();
        config::check(config, build);
        let rules = rules(config, build)?;
        if build.errors.errors().len() > before {
            return None;
        }
        let keys = Keys::find(live, rules);
        let serves = live.runtime().is_some();
        open(&keys, serves, config, live, build)?;
        let lifetime = config.lifetime.0.as_secs();
        let room = config.cache.0;
        // What has been kept is of one lifetime, whatever else changes.
        let definition = format!("{lifetime} {room}");
        let cache = || live.find_or("identity_tokens.cache", &definition, || Cache::new(room));
        Some(Self {
            issuer: config.issuer.as_ref()?.as_str().into(),
            lifetime,
            bytes_max: usize::try_from(config.max_bytes.0).unwrap_or(usize::MAX),
            path: config.jwks.as_str().into(),
            keys,
            cache: (room > 0).then(cache),
            counts: live.find_or("identity_tokens.counts", "", Counts::default),
            serves,
        })
    }

    /// The path at which the public keys are asked for.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The public keys, as a JWKS (RFC 7517 §5); an empty set before they are known, and in `explain`.
    pub fn key_set(&self) -> Bytes {
        self.keys.current().map_or(Bytes::from_static(b"{\"keys\":[]}\n"), |current| current.set.clone())
    }

    /// What there is to tell.
    pub fn figures(&self) -> TokenFigures {
        TokenFigures {
            signed: self.counts.signed.sum(),
            reused: self.counts.reused.sum(),
            refused: self.counts.refused.sum(),
            keys: self.keys.current().map_or(0, |current| current.count),
        }
    }

    /// When a token made now ends.
    fn expires(&self, identity: &Identity, now: u64) -> u64 {
        let claimed = match identity.method {
            Method::Jwt | Method::Introspection => identity.claims.get("exp"),
            Method::Anonymous
            | Method::ApiKey
            | Method::ClientCertificate
            | Method::Forward
            | Method::Basic => None,
        };
        let seconds =
            |time: f64| std::time::Duration::try_from_secs_f64(time).ok().map(|time| time.as_secs());
        let claimed = claimed.and_then(|own| own.as_u64().or_else(|| own.as_f64().and_then(seconds)));
        let own = identity.expires.or(claimed);
        (now + self.lifetime).min(own.map_or(u64::MAX, |own| own.max(now + LEAST)))
    }

    /// The token whose text begins so. Allocates where it has to be signed.
    fn token(
        &self,
        text: &mut Vec<u8>,
        identity: &Identity,
        now: u64,
        worker: usize,
    ) -> Result<HeaderValue, Unsigned> {
        let current = self.keys.current().ok_or(Unsigned::Failed)?;
        let expires = self.expires(identity, now);
        let length = text.len();
        if expires < now + self.lifetime {
            // One that ends with its credential is no other credential's: no text of an identity ends so.
            text.extend_from_slice(b",\"exp\":");
            text.extend_from_slice(itoa::Buffer::new().format(expires).as_bytes());
        }
        let kid = &*current.key.public().kid;
        if let Some(value) = self.cache.as_ref().and_then(|cache| cache.recall(text, kid, now)) {
            self.counts.reused.add(worker);
            return Ok(value);
        }
        let found_by: Option<Box<[u8]>> = self.cache.is_some().then(|| text.as_slice().into());
        text.truncate(length);
        let value = self.sign(&current, text, now, expires)?;
        self.counts.signed.add(worker);
        if let (Some(cache), Some(found_by)) = (&self.cache, found_by) {
            let until = now + (expires - now) / 2;
            cache.keep(&found_by, Signed { value: value.clone(), kid: kid.into(), made: now, until });
        }
        Ok(value)
    }

    fn sign(
        &self,
        current: &Current,
        text: &mut Vec<u8>,
        now: u64,
        expires: u64,
    ) -> Result<HeaderValue, Unsigned> {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| Unsigned::Failed)?;
        claims::end(now, expires, &URL_SAFE_NO_PAD.encode(id), text);
        let chars = current.key.token_chars(text.len());
        if chars > self.bytes_max {
            return Err(Unsigned::TooLong(chars));
        }
        let token = current.key.token(text).ok_or(Unsigned::Failed)?;
        let mut value = HeaderValue::try_from(token).map_err(|_| Unsigned::Failed)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// How a route's upstream is told who it is: `forward_identity`, compiled.
#[derive(Debug)]
pub struct Forwarding {
    tokens: Arc<IdentityTokens>,
    header: HeaderName,
    begin: Box<[u8]>,
    claims: Box<[Box<str>]>,
    site: Site,
}

impl Forwarding {
    /// Compiles a `forward_identity`; `tokens` are none where nothing is written of them. None when `build.errors` says why, or says why
    /// there are no tokens.
    pub fn compile(
        written: &Spanned<ForwardConfig>,
        tokens: Option<&Arc<IdentityTokens>>,
        build: &mut Build,
    ) -> Option<Self> {
        let checked = config::check_forward(written, build)?;
        let tokens = tokens?;
        Some(Self {
            tokens: Arc::clone(tokens),
            header: checked.header,
            begin: claims::begin(&tokens.issuer, &checked.audience),
            claims: checked.claims,
            site: written.site.clone(),
        })
    }

    /// The field that the token stands in.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// Where it was written.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The token for an identity that was verified; none for nobody in particular, and for one without a name.
    ///
    /// # Errors
    /// There can be none, so the request must not be forwarded.
    pub fn token(
        &self,
        identity: &Identity,
        now: SystemTime,
        worker: usize,
    ) -> Result<Option<HeaderValue>, Unsigned> {
        if identity.is_anonymous() || identity.id.is_empty() {
            return Ok(None);
        }
        if !self.tokens.serves {
            return Ok(Some(HeaderValue::from_static(SHOWN)));
        }
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        TEXT.with_borrow_mut(|text| {
            text.clear();
            text.extend_from_slice(&self.begin);
            claims::identity(identity, &self.claims, text);
            let token = self.tokens.token(text, identity, now, worker);
            if token.is_err() {
                self.tokens.counts.refused.add(worker);
            }
            if text.capacity() > BUFFER_BYTES {
                *text = Vec::new();
            }
            token.map(Some)
        })
    }
}

/// Opens the keys in `server.state`, as soon as that can be; for `check` and `explain`, only looks at them.
fn open(
    keys: &Arc<Keys>,
    serves: bool,
    config: &Spanned<Config>,
    live: &Live,
    build: &mut Build,
) -> Option<()> {
    let directory = live.directory().to_path_buf();
    let at = config.key.site.clone();
    let site = if at.line == 0 { config.site.clone() } else { at };
    let path = format!("{}.key", config.path);
    let unusable = if serves {
        let (keys, told) = (Arc::clone(keys), format!("{site}: {path}"));
        let opened = live.open_settled(move || {
            keys.open(&directory).map_err(|(cause, cure)| format!("{told}: identity tokens: {cause}; {cure}"))
        });
        opened.err().map(|cause| (cause, "nothing has changed so far"))
    } else {
        look(&directory, &site, &path, build)
    };
    match unusable {
        None => Some(()),
        Some((cause, cure)) => {
            build.errors.push(&site, path, cause, cure);
            None
        }
    }
}

/// Who checks a configuration may be somebody whom keys are no business of.
fn look(directory: &Path, site: &Site, path: &str, build: &mut Build) -> Option<ring::Unusable> {
    if directory.as_os_str().is_empty() {
        return None;
    }
    let (cause, cure) = ring::read(directory).err()?;
    if ring::is_forbidden(directory) {
        let cause =
            "the keys of identity tokens cannot be read by this user, so nothing is known of them here";
        build.errors.warn(site, path, cause, "run this as the gateway's user, if they matter");
        return None;
    }
    Some((cause, cure))
}

/// By which keys it is signed. None when `build.errors` says why.
fn rules(config: &Spanned<Config>, build: &mut Build) -> Option<Rules> {
    let wanted = config.algorithm.as_ref();
    let KeyConfig::File(key) = &config.key.value else {
        let rotate = config.rotate.as_ref().map_or(config::ROTATE, |rotate| rotate.0);
        let algorithm = wanted.map(|wanted| wanted.value).unwrap_or_default();
        return Some(Rules::Generated { algorithm, rotate: rotate.as_secs() });
    };
    let file = &key.file;
    let path = build.files.resolve(&file.site, file);
    let pem = match build.files.read(&path) {
        Ok(pem) => Zeroizing::new(pem),
        Err(error) => {
            let cause = format!("cannot read `{}`: {}", path.display(), unreadable(&error));
            build.errors.push(&file.site, &*file.path, cause, "name a PEM file that the gateway may read");
            return None;
        }
    };
    if std::fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & 0o007 != 0) {
        let cause = format!("everybody may read the key `{}`, and speak for the gateway with it", file.value);
        let cure = "make a new one, with mode 0600, or 0640 with the gateway's group";
        build.errors.push(&file.site, &*file.path, cause, cure);
    }
    let key = match SigningKey::from_pem(&pem) {
        Ok(key) => key,
        Err((cause, cure)) => {
            build.errors.push(&file.site, &*file.path, format!("`{}`: {cause}", file.value), cure);
            return None;
        }
    };
    if let Some(wanted) = wanted.filter(|wanted| wanted.value != key.algorithm()) {
        let cause = format!("`{}` is a key for {}", file.value, key.algorithm().as_str());
        build.errors.push(&wanted.site, &*wanted.path, cause, "remove it, or name another key");
        return None;
    }
    Some(Rules::File(Arc::new(key)))
}

#[cfg(test)]
mod tests;
