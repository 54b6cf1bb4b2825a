//! One fetch of an issuer's keys: where they are, whether they have changed, and whether they are keys at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, StatusCode};

use super::discovery;
use super::issuer::Source;
use super::jwks::KeySet;
use crate::egress::{Egress, Failure, Fetched, Request, lifetime};

/// The largest document: sixty-four keys are a tenth of it.
pub(super) const DOCUMENT_BYTES_MAX: u64 = 1 << 20;
/// The longest `ETag` that is sent back.
const ETAG_BYTES_MAX: usize = 256;

/// What a fetch came to.
#[derive(Debug)]
pub(super) struct Got {
    /// Another state of the keys; none where the issuer says that they are the same (304).
    pub(super) changed: Option<Changed>,
    /// How long they are good, by the answer.
    pub(super) lifetime: Option<Duration>,
}

/// Keys as they came.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) set: KeySet,
    pub(super) document: String,
    pub(super) etag: Option<HeaderValue>,
}

/// How a fetch can end: the words of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Keys came.
    Fetched,
    /// They are the same (304).
    Unchanged,
    /// `server.egress` forbids it.
    Forbidden,
    /// Nobody answered, or not in time, or with another status.
    Failed,
    /// The answer is not what was asked for.
    Invalid,
}

impl Outcome {
    pub(super) const ALL: [Self; 5] =
        [Self::Fetched, Self::Unchanged, Self::Forbidden, Self::Failed, Self::Invalid];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Unchanged => "unchanged",
            Self::Forbidden => "forbidden",
            Self::Failed => "failed",
            Self::Invalid => "invalid",
        }
    }
}

/// Why no keys came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) outcome: Outcome,
    /// For the log.
    pub(super) message: String,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        let outcome = if failure.reason.is_refusal() { Outcome::Forbidden } else { Outcome::Failed };
        Self { outcome, message: failure.to_string() }
    }
}

/// Fetches the keys of one source.
#[derive(Debug)]
pub(super) struct Fetcher {
    source: Source,
    egress: Arc<Result<Egress, String>>,
    /// Where they are, and since when that is known.
    found: Option<(String, Instant)>,
}

impl Fetcher {
    pub(super) fn new(source: Source, egress: Arc<Result<Egress, String>>) -> Self {
        Self { source, egress, found: None }
    }

    /// Fetches once; `etag` is that of the keys that are known. A document that was found a while ago is not asked for again
    /// before each fetch, but after each that failed, and when its word on where the keys are has been `believed` for so long.
    pub(super) async fn fetch(
        &mut self,
        etag: Option<&HeaderValue>,
        believed: Duration,
    ) -> Result<Got, Trouble> {
        let address = self.address(believed).await?;
        let got = self.keys(&address, etag).await;
        match (&got, &self.source) {
            (Err(_), Source::Discovery { .. }) => self.found = None,
            (Ok(_), _) | (Err(_), Source::Url(_)) => {}
        }
        got
    }

    async fn address(&mut self, believed: Duration) -> Result<String, Trouble> {
        let issuer = match &self.source {
            Source::Url(url) => return Ok(url.clone()),
            Source::Discovery { issuer } => issuer,
        };
        if let Some((address, since)) = &self.found
            && since.elapsed() < believed
        {
            return Ok(address.clone());
        }
        let [openid, oauth] = discovery::addresses(issuer);
        let mut answer = self.get(&openid, None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            answer = self.get(&oauth, None).await?;
        }
        is_ok(&answer, "the issuer's document")?;
        let address = discovery::jwks_uri(&answer.body, issuer).map_err(|cause| {
            let message = format!("the issuer's document: {cause}");
            Trouble { outcome: Outcome::Invalid, message }
        })?;
        self.found = Some((address.clone(), Instant::now()));
        Ok(address)
    }

    async fn keys(&self, address: &str, etag: Option<&HeaderValue>) -> Result<Got, Trouble> {
        let answer = self.get(address, etag).await?;
        let lifetime = lifetime(&answer.headers);
        if answer.status == StatusCode::NOT_MODIFIED && etag.is_some() {
            return Ok(Got { changed: None, lifetime });
        }
        is_ok(&answer, "the keys")?;
        let invalid =
            |cause: &str| Trouble { outcome: Outcome::Invalid, message: format!("the keys: {cause}") };
        let set = KeySet::parse(&answer.body).map_err(invalid)?;
        let document =
            std::str::from_utf8(&answer.body).map_err(|_| invalid("they are no UTF-8"))?.to_owned();
        let etag = answer.headers.get(ETAG).filter(|etag| etag.len() <= ETAG_BYTES_MAX).cloned();
        Ok(Got { changed: Some(Changed { set, document, etag }), lifetime })
    }

    async fn get(&self, url: &str, etag: Option<&HeaderValue>) -> Result<Fetched, Trouble> {
        let egress = self.egress.as_ref().as_ref().map_err(|cause| Trouble {
            outcome: Outcome::Failed,
            message: format!("TLS cannot be set up: {cause}"),
        })?;
        let request = Request::get(url).at_most(DOCUMENT_BYTES_MAX);
        let request = request.with_header(ACCEPT, HeaderValue::from_static("application/json"));
        let request = match etag {
            Some(etag) => request.with_header(IF_NONE_MATCH, etag.clone()),
            None => request,
        };
        Ok(egress.send(request).await?)
    }
}

fn is_ok(answer: &Fetched, what: &str) -> Result<(), Trouble> {
    if answer.status == StatusCode::OK {
        return Ok(());
    }
    let message = format!("{what}: status {} instead of 200", answer.status.as_u16());
    Err(Trouble { outcome: Outcome::Failed, message })
}
