//! The facts of one request, gathered on its way: what the access log, metrics and templates speak of.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderValue, Method};

use crate::canonical::Target;
use crate::config::Site;
pub use crate::identity::ClientCertificate;
use crate::identity::{Identity, Text};
use crate::request::{Protocol, RequestId, TlsFacts};

/// What a route is called, in log, metrics and explain; made once a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFacts {
    /// The route's place in its snapshot: the index of its metrics.
    pub index: usize,
    /// Its name.
    pub name: Box<str>,
    /// Its path as configured: `/orders/{*rest}`; `/{*rest}` where it has none.
    pub resource_path: Box<str>,
    /// Free labels from the configuration.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Where it was written.
    pub site: Site,
}

/// A refusal as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFacts {
    /// The kind's name: `ACCESS_DENIED`.
    pub response_type: &'static str,
    /// A word for metrics: `not_allowed`. Bounded: written in the code.
    pub reason: &'static str,
    /// What happened, for the log only; never with secrets.
    pub message: Cow<'static, str>,
    /// `KIND.NAME`, such as `access.office`.
    pub policy: Option<Arc<str>>,
    /// The line that decided.
    pub site: Option<Site>,
}

/// What an upstream was asked and said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Integration {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The server last tried, as configured.
    pub server: Option<Arc<str>>,
    /// Its status.
    pub status: Option<u16>,
    /// From the first attempt to the response's head.
    pub latency: Option<Duration>,
    /// Establishing the connection used; zero when it was reused.
    pub connect_latency: Option<Duration>,
    /// Attempts made.
    pub attempts: u32,
    /// Why it failed, for the log.
    pub error: Option<Cow<'static, str>>,
}

/// What one phase of a request's way took and said (AWS's triple: status, latency, error).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// The status it led to.
    pub status: Option<u16>,
    /// How long it took.
    pub latency: Option<Duration>,
    /// Why it failed, for the log.
    pub error: Option<Cow<'static, str>>,
}

/// The facts of one request. Absent means not known.
#[derive(Clone, Debug)]
pub struct Record {
    /// When the request's first byte came.
    pub started: Instant,
    /// The same by the wall clock.
    pub started_at: SystemTime,
    /// Which worker carried it.
    pub worker: usize,
    /// The snapshot's generation.
    pub generation: u64,
    /// From a trusted peer, else our own.
    pub request_id: RequestId,
    /// Always our own, unique.
    pub extended_request_id: RequestId,
    /// The route that won.
    pub route: Option<Arc<RouteFacts>>,
    /// What the route's `{name}`s matched.
    pub parameters: Vec<(Arc<str>, Box<str>)>,
    /// The client's address.
    pub client: Option<std::net::IpAddr>,
    /// As sent.
    pub user_agent: Option<HeaderValue>,
    /// Who, once authenticated.
    pub identity: Option<Arc<Identity>>,
    /// The application that calls, where it is another than the identity.
    pub caller: Option<Arc<str>>,
    /// The id of the API key, never the key.
    pub api_key_id: Option<Text>,
    /// The client certificate, once verified.
    pub client_certificate: Option<Arc<ClientCertificate>>,
    /// The method.
    pub method: Option<Method>,
    /// Host, path, query.
    pub target: Option<Arc<Target>>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// TLS facts.
    pub tls: Option<Arc<TlsFacts>>,
    /// What was answered; 0 when nothing could be.
    pub status: u16,
    /// Bytes of the request's body.
    pub request_length: u64,
    /// Bytes of the response's body.
    pub response_length: u64,
    /// From the first byte in to the last byte out.
    pub response_latency: Option<Duration>,
    /// Of that, neither waiting for the client nor for the upstream.
    pub own_latency: Option<Duration>,
    /// The upstream's part.
    pub integration: Option<Integration>,
    /// Authorisation's part.
    pub authorize: Option<Phase>,
    /// The WAF's part.
    pub waf: Option<Phase>,
    /// Why we refused or failed.
    pub error: Option<ErrorFacts>,
    /// What shadowed policies would have refused.
    pub would: Vec<ErrorFacts>,
}

impl Record {
    /// A record of a request that begins now.
    pub fn new(worker: usize, generation: u64, started: Instant, started_at: SystemTime) -> Self {
        let id = RequestId::generate();
        Self {
            started,
            started_at,
            worker,
            generation,
            request_id: id,
            extended_request_id: id,
            route: None,
            parameters: Vec::new(),
            client: None,
            user_agent: None,
            identity: None,
            caller: None,
            api_key_id: None,
            client_certificate: None,
            method: None,
            target: None,
            protocol: None,
            tls: None,
            status: 0,
            request_length: 0,
            response_length: 0,
            response_latency: None,
            own_latency: None,
            integration: None,
            authorize: None,
            waf: None,
            error: None,
            would: Vec::new(),
        }
    }
}

/// A moment as RFC 3339 says it, UTC, in milliseconds: `2026-11-24T09:34:35.120Z`.
///
/// Years from 0001 to 9999; what lies outside is 1970.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    text: [u8; 24],
    epoch_millis: u64,
}

impl Timestamp {
    /// The moment, cut to milliseconds. What lies before 1970 is 1970.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (year, month, day) = civil(seconds / 86_400);
        let mut text = *b"1970-01-01T00:00:00.000Z";
        if year > 9999 {
            return Self { text, epoch_millis: 0 };
        }
        let of_day = seconds % 86_400;
        let millis = u64::from(since.subsec_millis());
        let parts = [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, of_day / 3_600),
            (14, 2, of_day / 60 % 60),
            (17, 2, of_day % 60),
            (20, 3, millis),
        ];
        for (at, width, number) in parts {
            let mut number = number;
            for digit in text.iter_mut().skip(at).take(width).rev() {
                *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
                number /= 10;
            }
        }
        Self { text, epoch_millis: seconds.saturating_mul(1_000).saturating_add(millis) }
    }

    /// RFC 3339.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    /// Milliseconds since 1970.
    pub fn epoch_millis(&self) -> u64 {
        self.epoch_millis
    }
}

impl std::fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Year, month and day of a day since 1970, in the Gregorian calendar. Years are counted from March, so that the leap day is
/// the last of its year.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468; // from 0000-03-01
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Appends a duration in milliseconds with three decimals, which is a JSON number: `1.234`.
pub fn push_millis(duration: Duration, out: &mut Vec<u8>) {
    // Half a million years of them fit.
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let mut buffer = itoa::Buffer::new();
    out.extend_from_slice(buffer.format(micros / 1_000).as_bytes());
    // With a thousand in front the fraction keeps its zeros: 1007 → .007
    let fraction = buffer.format(1_000 + micros % 1_000).as_bytes();
    out.push(b'.');
    out.extend_from_slice(fraction.get(1..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_in_utc_with_milliseconds() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_164_800_007, "2024-02-29T00:00:00.007Z"),
            (1_795_512_875_120, "2026-11-24T09:34:35.120Z"),
            (1_798_761_599_000, "2026-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            let stamp = Timestamp::of(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
            assert_eq!(stamp.as_str(), text);
            assert_eq!(stamp.epoch_millis(), millis);
        }
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(Timestamp::of(late).as_str(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn milliseconds_keep_three_decimals() {
        for (micros, text) in [(0, "0.000"), (7, "0.007"), (1_234, "1.234"), (12_000, "12.000")] {
            let mut out = Vec::new();
            push_millis(Duration::from_micros(micros), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
