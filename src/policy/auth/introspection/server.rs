//! The server that is asked, and what it said: one question a token at a time, answers remembered, a breaker in between. It outlives
//! snapshots.
//!
//! Questions are asked in the back office: a client that goes away ends no question that others wait for.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use zeroize::Zeroizing;

use super::answer::{Rules, Verdict};
use crate::egress::{Egress, Fetched, Request};
use crate::policy::auth::Figure;
use crate::policy::auth::breaker::{Breaker, Turn};
use crate::policy::auth::jwt::claims::seconds;

/// What is remembered, in bytes, as far as it can be counted.
const CACHE_BYTES: u64 = 16 << 20;
/// Answers that are expected to be remembered at once.
const ENTRIES: usize = 16_384;
/// How long a token that is not good is remembered: it may be used a moment before it is known to its server.
const BAD_FOR: Duration = Duration::from_secs(5);
/// Questions that are asked at once, and tokens that wait to be asked about.
const QUESTIONS_MAX: usize = 64;
const FLIGHTS_MAX: usize = 1024;
/// How long a server that has failed again and again is left alone.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest answer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// Unreserved by `application/x-www-form-urlencoded`; a space is `%20`, which every reader of forms takes.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');

/// A token, overwritten when nobody holds it any more.
#[derive(Clone, PartialEq, Eq)]
struct Token(Arc<Zeroizing<String>>);

impl Hash for Token {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

impl Borrow<str> for Token {
    fn borrow(&self) -> &str {
        self.0.as_str()
    }
}

/// What is remembered of a token.
#[derive(Clone)]
struct Entry {
    verdict: Verdict,
    until: Instant,
    bytes: u64,
}

#[derive(Clone)]
struct Bytewise;

impl Weighter<Token, Entry> for Bytewise {
    fn weight(&self, _: &Token, entry: &Entry) -> u64 {
        entry.bytes
    }
}

/// Where a question's answer comes out; none yet, or why there is none.
type Flight = watch::Receiver<Option<Result<Verdict, &'static str>>>;

/// How a question can end: the words of metrics.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Active,
    Inactive,
    Failed,
    Refused,
}

const OUTCOMES: [(Outcome, &str); 4] = [
    (Outcome::Active, "active"),
    (Outcome::Inactive, "inactive"),
    (Outcome::Failed, "failed"),
    (Outcome::Refused, "refused"),
];

/// One server and all that it said.
pub(super) struct Server {
    pub(super) url: String,
    pub(super) rules: Rules,
    pub(super) cache_for: Duration,
    pub(super) timeout: Duration,
    authorization: HeaderValue,
    /// Where questions are asked, and by which client; none where none are.
    asking: Option<(Handle, Arc<Result<Egress, String>>)>,
    /// Keyed by SipHash with a secret of the process, and compared whole: nobody can make two tokens meet.
    cache: Cache<Token, Entry, Bytewise, RandomState>,
    flights: Mutex<HashMap<Token, Flight>>,
    questions: Semaphore,
    breaker: Arc<Breaker>,
    /// What the log was told last.
    trouble: Mutex<Option<String>>,
    counts: [AtomicU64; OUTCOMES.len()],
}

impl Server {
    pub(super) fn new(
        url: String,
        authorization: HeaderValue,
        rules: Rules,
        (cache_for, timeout): (Duration, Duration),
        asking: Option<(Handle, Arc<Result<Egress, String>>)>,
    ) -> Self {
        let breaker = Breaker::new(Arc::clone(&rules.policy), PAUSE);
        Self {
            url,
            rules,
            cache_for,
            timeout,
            authorization,
            asking,
            cache: Cache::with(
                ENTRIES,
                CACHE_BYTES,
                Bytewise,
                RandomState::new(),
                DefaultLifecycle::default(),
            ),
            flights: Mutex::default(),
            questions: Semaphore::new(QUESTIONS_MAX),
            breaker,
            trouble: Mutex::default(),
            counts: Default::default(),
        }
    }

    /// What the server says of a token of this client's, or said not long ago.
    ///
    /// # Errors
    /// It cannot be asked.
    pub(super) async fn verdict(
        self: &Arc<Self>,
        token: &str,
        client: IpAddr,
    ) -> Result<Verdict, &'static str> {
        if let Some(entry) = self.cache.get(token).filter(|entry| Instant::now() < entry.until) {
            return Ok(entry.verdict);
        }
        let mut flight = self.flight(token, client)?;
        match flight.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or(Err(ENDED)),
            Err(_) => Err(ENDED),
        }
    }

    /// The question about this token that is under way, or a new one.
    fn flight(self: &Arc<Self>, token: &str, client: IpAddr) -> Result<Flight, &'static str> {
        let Some((runtime, _)) = &self.asking else { return Err("no server is asked here") };
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(token) {
            return Ok(flight.clone());
        }
        if flights.len() >= FLIGHTS_MAX {
            self.count(Outcome::Refused);
            return Err("too many tokens wait to be asked about");
        }
        let Some(turn) = self.breaker.turn(client, Instant::now()) else {
            self.count(Outcome::Refused);
            return Err("the server has failed again and again, and is left alone for a moment");
        };
        let token = Token(Arc::new(Zeroizing::new(token.to_owned())));
        let (land, flight) = watch::channel(None);
        flights.insert(token.clone(), flight.clone());
        drop(flights);
        let question = Question { server: Arc::clone(self), token, turn };
        runtime.spawn(async move { land.send_replace(Some(question.ask().await)) });
        Ok(flight)
    }

    fn remember(&self, token: &Token, verdict: &Verdict, length: usize) {
        let now = seconds(SystemTime::now());
        let (held, limit) = match verdict {
            Verdict::Known { until, .. } => {
                (self.cache_for, Duration::try_from_secs_f64((until - now).max(0.0)).unwrap_or(Duration::MAX))
            }
            Verdict::Refused(_) => (self.cache_for.min(BAD_FOR), Duration::MAX),
        };
        let held = held.min(limit);
        if held.is_zero() {
            return;
        }
        // An object takes several times its text; the rest is what an entry costs without one.
        let bytes = (token.0.len() + 4 * length + 512) as u64;
        let entry = Entry { verdict: verdict.clone(), until: Instant::now() + held, bytes };
        self.cache.insert(token.clone(), entry);
    }

    fn count(&self, outcome: Outcome) {
        if let Some(count) = self.counts.get(outcome as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The log is told of trouble when it begins, when it changes, and when it ends.
    fn tell(&self, trouble: Option<String>) {
        let mut told = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&trouble, &*told) {
            (Some(now), before) if before.as_ref() != Some(now) => {
                log::warn!("{}: tokens cannot be asked about: {now}", self.rules.policy);
            }
            (None, Some(_)) => log::info!("{}: tokens can be asked about again", self.rules.policy),
            _ => return,
        }
        *told = trouble;
    }

    /// For metrics.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let counts = OUTCOMES.iter().zip(&self.counts);
        counts
            .map(|((_, result), count)| Figure::Introspections {
                result,
                count: count.load(Ordering::Relaxed),
            })
            .collect()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("rules", &self.rules).finish_non_exhaustive()
    }
}

const ENDED: &str = "the question ended without an answer";

/// A question under way. However it ends, the breaker hears of it, and the next one may begin.
struct Question {
    server: Arc<Server>,
    token: Token,
    turn: Turn,
}

impl Question {
    async fn ask(mut self) -> Result<Verdict, &'static str> {
        let server = Arc::clone(&self.server);
        let Ok(Ok(_turn)) = tokio::time::timeout(server.timeout, server.questions.acquire()).await else {
            server.count(Outcome::Refused);
            return Err("too many tokens wait to be asked about");
        };
        self.turn.begin();
        let asked = tokio::time::timeout(server.timeout, self.send());
        let answer = asked.await.unwrap_or_else(|_| Err(format!("no answer within {:?}", server.timeout)));
        let read = answer.and_then(|answer| {
            // A server that will not answer about one token still answers about others: who sends such tokens shuts out nobody.
            if declines(answer.status) {
                self.turn.answered();
            }
            let body = body_of(answer)?;
            let verdict = server.rules.read(&body, seconds(SystemTime::now()));
            verdict.map(|verdict| (verdict, body.len())).map_err(|cause| format!("the answer: {cause}"))
        });
        match read {
            Ok((verdict, length)) => {
                self.turn.answered();
                server.tell(None);
                server.count(match verdict {
                    Verdict::Known { .. } => Outcome::Active,
                    Verdict::Refused(_) => Outcome::Inactive,
                });
                server.remember(&self.token, &verdict, length);
                Ok(verdict)
            }
            Err(trouble) => {
                server.count(Outcome::Failed);
                server.tell(Some(trouble));
                Err("the server cannot be asked; the log says why")
            }
        }
    }

    async fn send(&mut self) -> Result<Fetched, String> {
        let server = Arc::clone(&self.server);
        let (_, egress) = server.asking.as_ref().ok_or("no server is asked here")?;
        let egress = egress.as_ref().as_ref().map_err(|cause| format!("TLS cannot be set up: {cause}"))?;
        let body = Zeroizing::new(format!(
            "token={}&token_type_hint=access_token",
            utf8_percent_encode(&self.token.0, FORM)
        ));
        let request = Request::post(server.url.as_str(), Bytes::from_owner(Form(body)))
            .with_header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
            .with_header(AUTHORIZATION, server.authorization.clone())
            .with_header(ACCEPT, HeaderValue::from_static("application/json"))
            .within(server.timeout)
            .at_most(ANSWER_BYTES_MAX);
        let answer = egress.send(request).await;
        answer.map_err(|failure| {
            self.turn.failed(&failure);
            failure.to_string()
        })
    }
}

/// Whether a status is that of a server that can be asked about other tokens, though it does not answer about this one: one in distress
/// answers 5xx, one that does not know us 401 or 403.
fn declines(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

fn body_of(answer: Fetched) -> Result<Bytes, String> {
    match answer.status {
        StatusCode::OK => Ok(answer.body),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(format!(
            "status {}: the server does not take `client_id` and `client_secret`",
            answer.status.as_u16()
        )),
        other => Err(format!("status {} instead of 200", other.as_u16())),
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let server = &self.server;
        server.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
    }
}

/// A form that is overwritten when it has been sent.
struct Form(Zeroizing<String>);

impl AsRef<[u8]> for Form {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Basic authentication of a client: both parts are encoded as forms are, then joined (RFC 6749 §2.3.1).
pub(super) fn authorization(id: &str, secret: &str) -> HeaderValue {
    use base64::Engine as _;
    let encode = |text: &str| Zeroizing::new(utf8_percent_encode(text, FORM).to_string());
    let pair = Zeroizing::new(format!("{}:{}", *encode(id), *encode(secret)));
    let text = Zeroizing::new(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(&*pair)));
    // Base64 is always fit for a field.
    let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_clients_name_and_secret_are_encoded_before_they_are_joined() {
        use base64::Engine as _;
        for (id, secret, expected) in [
            ("shop", "s3cret", "shop:s3cret"),
            ("a:b", "c:d", "a%3Ab:c%3Ad"),
            ("a b", "p%+/=&ü", "a%20b:p%25%2B%2F%3D%26%C3%BC"),
        ] {
            let value = authorization(id, secret);
            assert!(value.is_sensitive());
            let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
            let pair = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
            assert_eq!(String::from_utf8(pair).unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn where_nobody_asks_nothing_is_known() {
        let rules = Rules { policy: "auth.o".into(), issuer: None, audiences: Box::default() };
        let times = (Duration::from_secs(30), Duration::from_secs(2));
        let server = Server::new(String::new(), authorization("a", "b"), rules, times, None);
        let server = Arc::new(server);
        assert_eq!(server.verdict("t", CLIENT).await.unwrap_err(), "no server is asked here");
        // A verdict is remembered until its time, a bad one not for long.
        let body = |until: f64| format!(r#"{{"active": true, "sub": "a", "exp": {until}}}"#);
        let now = seconds(SystemTime::now());
        let token = |text: &str| Token(Arc::new(Zeroizing::new(text.to_owned())));
        let good = server.rules.read(body(now + 600.0).as_bytes(), now).unwrap();
        server.remember(&token("good"), &good, 100);
        assert!(matches!(server.verdict("good", CLIENT).await, Ok(Verdict::Known { .. })));
        let until = |text: &str| server.cache.get(text).map(|entry| entry.until - Instant::now());
        assert!(until("good").unwrap() > Duration::from_secs(29));
        let ending = server.rules.read(body(now + 2.0).as_bytes(), now).unwrap();
        server.remember(&token("ending"), &ending, 100);
        assert!(until("ending").unwrap() < Duration::from_secs(3));
        // Clocks may differ, so that it is still good when the server says so; from here on it is asked each time.
        let ended = server.rules.read(body(now - 28.0).as_bytes(), now).unwrap();
        assert!(matches!(ended, Verdict::Known { .. }));
        server.remember(&token("ended"), &ended, 100);
        assert!(until("ended").is_none());
        server.remember(&token("bad"), &server.rules.read(b"{\"active\": false}", now).unwrap(), 20);
        assert!(until("bad").unwrap() <= BAD_FOR);
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let rules = Rules { policy: "auth.o".into(), issuer: None, audiences: Box::default() };
        let times = (Duration::from_secs(30), Duration::from_secs(2));
        let server = Server::new(String::new(), authorization("a", "b"), rules, times, None);
        let verdict = server.rules.read(b"{\"active\": false}", 0.0).unwrap();
        for number in 0..5_000 {
            server.remember(&Token(Arc::new(Zeroizing::new(format!("{number}")))), &verdict, 4_000);
        }
        assert!(server.cache.weight() <= CACHE_BYTES, "{}", server.cache.weight());
        assert!(server.cache.len() > 100);
    }
}
