//! Whether a server may be asked: active checks over HTTP/1.1, and their verdict.
//!
//! A server is healthy until proved otherwise. Verdicts are found in `Live` by address and definition of the check, so they
//! survive a reload, also one and back. A check ends when nobody wants its verdict any more.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::address::Address;
use super::config::Health;
use super::link::Link;
use super::names::Addresses;
use super::tls::TlsClient;
use crate::proxy_protocol::{self, Header, Version};
use crate::state::Live;

/// More than this of an answer is not read.
const ANSWER_BYTES_MAX: u64 = 4096;

/// The verdict on one server.
#[derive(Debug)]
pub(super) struct Vitality {
    healthy: AtomicBool,
}

/// What is asked of a server, how often, and what is made of the answers.
#[derive(Clone, Debug)]
pub(super) struct Check {
    /// For the log.
    pub(super) upstream: Arc<str>,
    /// As configured.
    pub(super) server: Arc<str>,
    /// The server's host, for TLS.
    pub(super) host: Box<str>,
    /// The request, whole.
    pub(super) request: Box<str>,
    /// The PROXY header of a connection that is the gateway's own; empty where none is wanted.
    pub(super) first: Box<[u8]>,
    /// TLS, verified as for requests.
    pub(super) tls: Option<Arc<TlsClient>>,
    /// How often, within a tenth.
    pub(super) interval: Duration,
    /// How long name, connection, handshake and answer may take together.
    pub(super) timeout: Duration,
    /// Successes in a row that make a server healthy.
    pub(super) healthy_after: u32,
    /// Failures in a row that make it unhealthy.
    pub(super) unhealthy_after: u32,
    /// The status of a healthy answer.
    pub(super) status: u16,
}

impl Check {
    /// What to ask of this server.
    pub(super) fn new(
        upstream: &Arc<str>,
        server: &Arc<str>,
        address: &Address,
        host: &str,
        config: &Health,
        tls: Option<Arc<TlsClient>>,
        proxy: Option<Version>,
    ) -> Self {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Portcullis health check\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            config.path.value
        );
        Self {
            upstream: Arc::clone(upstream),
            server: Arc::clone(server),
            host: address.host.clone(),
            request: request.into(),
            first: proxy
                .map(|version| proxy_protocol::write(version, Header::Own))
                .unwrap_or_default()
                .into(),
            tls,
            interval: config.interval.0,
            timeout: config.timeout.0,
            healthy_after: config.healthy_after,
            unhealthy_after: config.unhealthy_after,
            status: config.status,
        }
    }

    /// Two checks of the same definition come to the same verdict.
    fn definition(&self) -> String {
        let tls = self.tls.as_ref().map_or("", |tls| tls.identity());
        format!(
            "{} {:?} {:?} {} {} {} {:?} {:?} {tls}",
            self.server,
            self.interval,
            self.timeout,
            self.healthy_after,
            self.unhealthy_after,
            self.status,
            self.request,
            self.first
        )
    }

    /// Asks once.
    async fn ask(&self, addresses: &Addresses) -> Result<(), String> {
        let asked = tokio::time::timeout(self.timeout, async {
            let address = addresses.next(self.timeout).await.ok_or("its name is not resolved")?;
            let tls = self.tls.as_deref().map(|tls| (tls, &*self.host));
            let link = Link::dial(address, &self.first, tls).await.map_err(|error| error.to_string())?;
            answer(link, &self.request).await
        });
        match asked.await {
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
            Ok(Err(error)) => Err(error),
            Ok(Ok(status)) if status == self.status => Ok(()),
            Ok(Ok(status)) => Err(format!("status {status} instead of {}", self.status)),
        }
    }
}

impl Vitality {
    /// Finds the verdict of this check in `live`, or begins to check.
    pub(super) fn of(check: Check, addresses: &Arc<Addresses>, live: &Live) -> Arc<Self> {
        let mut fresh = false;
        let vitality = live.find_or("upstream.health", &check.definition(), || {
            fresh = true;
            Self { healthy: AtomicBool::new(true) }
        });
        if let (true, Some(runtime)) = (fresh, live.runtime()) {
            runtime.spawn(watch(check, Arc::clone(addresses), Arc::downgrade(&vitality)));
        }
        vitality
    }

    /// The verdict.
    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }
}

/// Checks again and again, as long as somebody wants the verdict.
async fn watch(check: Check, addresses: Arc<Addresses>, vitality: Weak<Vitality>) {
    let (mut good, mut bad) = (0_u32, 0_u32);
    loop {
        let asked = check.ask(&addresses).await;
        let Some(vitality) = vitality.upgrade() else { return };
        match asked {
            Ok(()) => {
                (good, bad) = (good.saturating_add(1), 0);
                if good >= check.healthy_after && !vitality.healthy.swap(true, Ordering::Relaxed) {
                    log::info!("upstream {}: {} is healthy again", check.upstream, check.server);
                }
            }
            Err(error) => {
                (good, bad) = (0, bad.saturating_add(1));
                if bad >= check.unhealthy_after && vitality.healthy.swap(false, Ordering::Relaxed) {
                    log::warn!("upstream {}: {} is unhealthy: {error}", check.upstream, check.server);
                }
            }
        }
        drop(vitality);
        tokio::time::sleep(jitter(check.interval)).await;
    }
}

/// Within a tenth of the interval, so that the checks of a fleet do not fall together.
fn jitter(interval: Duration) -> Duration {
    let chance = RandomState::new().hash_one(0_u8) % 2001;
    let tenths = u32::try_from(chance).unwrap_or(1000) + 9000;
    interval * tenths / 10_000
}

/// Sends a request and reads the status of the answer, past interim ones.
async fn answer(mut link: Link, request: &str) -> Result<u16, String> {
    link.write_all(request.as_bytes()).await.map_err(|error| format!("sending: {error}"))?;
    let mut text = Vec::with_capacity(512);
    let mut link = link.take(ANSWER_BYTES_MAX);
    loop {
        let read = link.read_buf(&mut text).await.map_err(|error| format!("reading: {error}"))?;
        match status(&text)? {
            Some(status) => return Ok(status),
            None if read == 0 => return Err("closed before an answer".to_owned()),
            None => {}
        }
    }
}

/// The final status in what has come of an answer so far (RFC 9112 §4; interim heads are skipped).
fn status(mut text: &[u8]) -> Result<Option<u16>, String> {
    loop {
        let Some(end) = memchr::memchr(b'\n', text) else { return Ok(None) };
        let line = text.get(..end).unwrap_or_default();
        let digits = match line {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', b' ', a, b, c, b' ' | b'\r', ..]
            | [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', b' ', a, b, c] => [*a, *b, *c],
            _ => return Err("the answer is not HTTP/1".to_owned()),
        };
        let number = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse::<u16>().ok());
        match number {
            None => return Err("the answer is not HTTP/1".to_owned()),
            Some(100..=199) => {}
            Some(status) => return Ok(Some(status)),
        }
        let Some(next) = memchr::memmem::find(text, b"\r\n\r\n") else { return Ok(None) };
        text = text.get(next + 4..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_status() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n"), Ok(Some(200)));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Ok(Some(503)));
        assert_eq!(status(b"HTTP/1.1 204\n"), Ok(Some(204)));
        assert_eq!(status(b"HTTP/1.1 20"), Ok(None));
        assert_eq!(status(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n"), Ok(Some(200)));
        assert_eq!(status(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n"), Ok(None));
        for garbage in [&b"SSH-2.0-x\r\n"[..], b"HTTP/1.1 2x0 OK\r\n", b"HTTP/2 200\r\n", b"\r\n"] {
            assert!(status(garbage).is_err());
        }
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        for _ in 0..200 {
            let wait = jitter(Duration::from_secs(10));
            assert!((9..=11).contains(&wait.as_secs()), "{wait:?}");
        }
    }
}
