//! What the rim counts: plain atomics, read when metrics are scraped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use super::admission::Taken;

/// What one listener has seen; outlives the listener, so that its series does not end in the middle.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    /// Connections now open.
    pub open: AtomicUsize,
    /// Connections accepted.
    pub accepted: AtomicU64,
}

/// Why a connection was given up before it could ask anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// The TLS handshake failed.
    Handshake,
    /// The TLS handshake took too long.
    HandshakeTimeout,
    /// The client showed no certificate where it must.
    CertificateMissing,
    /// The client's certificate does not verify.
    CertificateInvalid,
    /// The process had no file descriptor for it; it waits in the kernel's queue.
    Descriptors,
    /// A peer that must send a PROXY header sent none.
    ProxyMissing,
    /// It sent one that is malformed.
    ProxyMalformed,
    /// Its header was not complete in time.
    ProxyTimeout,
    /// As many connections were open as may be.
    Connections,
    /// Its client had as many open as one may have.
    ConnectionsPerClient,
}

impl Unserved {
    /// All of them, so that each has its series from the start.
    pub const ALL: [Self; 10] = [
        Self::Handshake,
        Self::HandshakeTimeout,
        Self::CertificateMissing,
        Self::CertificateInvalid,
        Self::Descriptors,
        Self::ProxyMissing,
        Self::ProxyMalformed,
        Self::ProxyTimeout,
        Self::Connections,
        Self::ConnectionsPerClient,
    ];

    /// As a metric's label says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::CertificateMissing => "client_certificate_missing",
            Self::CertificateInvalid => "client_certificate_invalid",
            Self::Descriptors => "descriptors",
            Self::ProxyMissing => "proxy_protocol_missing",
            Self::ProxyMalformed => "proxy_protocol_malformed",
            Self::ProxyTimeout => "proxy_protocol_timeout",
            Self::Connections => "connections",
            Self::ConnectionsPerClient => "connections_per_client",
        }
    }
}

/// Which bound of its own has ended a connection that did nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It said nothing for `server.timeouts.keep_alive`.
    KeepAlive,
    /// It brought as many requests as one may.
    RequestsPerConnection,
}

impl Closed {
    /// All of them, so that each has its series from the start.
    pub const ALL: [Self; 2] = [Self::KeepAlive, Self::RequestsPerConnection];

    /// As a metric's label says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep_alive",
            Self::RequestsPerConnection => "requests_per_connection",
        }
    }
}

/// When a certificate in use expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The listener.
    pub listener: Arc<str>,
    /// The certificate's first name.
    pub name: Box<str>,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// What the rim counts.
#[derive(Debug, Default)]
pub struct Counts {
    listeners: Mutex<BTreeMap<Arc<str>, Arc<ListenerCounts>>>,
    expiries: Mutex<Vec<Expiry>>,
    unserved: [AtomicU64; Unserved::ALL.len()],
    closed: [AtomicU64; Closed::ALL.len()],
    pub(super) taken: Taken,
    /// Reloads that were put in force.
    pub reloads_applied: AtomicU64,
    /// Reloads that were refused.
    pub reloads_refused: AtomicU64,
    /// The generation in force.
    pub generation: AtomicU64,
    /// Whether the last reload was refused, so that what is written is not what is served.
    pub stale: AtomicBool,
    /// Since when the process takes no new connections; unset while it does.
    pub draining: OnceLock<SystemTime>,
}

impl Counts {
    /// Requests that `server.limits.requests_in_flight` counts.
    pub fn requests_held(&self) -> usize {
        self.taken.requests()
    }

    /// The counts of a listener, found by its name.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerCounts> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(listeners.entry(Arc::clone(name)).or_default())
    }

    /// How reloads have gone: accepted, refused, the generation in force, and whether the last was refused.
    pub fn tell_reloads(&self, tell: impl FnOnce(u64, u64, u64, bool)) {
        tell(
            self.reloads_applied.load(Ordering::Relaxed),
            self.reloads_refused.load(Ordering::Relaxed),
            self.generation.load(Ordering::Relaxed),
            self.stale.load(Ordering::Relaxed),
        );
    }

    /// Every listener there is or was, with what it counts.
    pub fn listeners(&self) -> Vec<(Arc<str>, Arc<ListenerCounts>)> {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().map(|(name, counts)| (Arc::clone(name), Arc::clone(counts))).collect()
    }

    /// Connections now open, on all listeners.
    pub fn open(&self) -> usize {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.values().map(|counts| counts.open.load(Ordering::Acquire)).sum()
    }

    /// Certificates in use.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_expiries(&self, expiries: Vec<Expiry>) {
        *self.expiries.lock().unwrap_or_else(PoisonError::into_inner) = expiries;
    }

    /// How many connections were given up for this reason.
    pub fn unserved(&self, reason: Unserved) -> u64 {
        self.cell(reason).load(Ordering::Relaxed)
    }

    pub(super) fn note(&self, reason: Unserved) {
        self.cell(reason).fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections this bound has ended.
    pub fn closed(&self, bound: Closed) -> u64 {
        self.closed_cell(bound).load(Ordering::Relaxed)
    }

    pub(super) fn note_closed(&self, bound: Closed) {
        self.closed_cell(bound).fetch_add(1, Ordering::Relaxed);
    }

    fn closed_cell(&self, bound: Closed) -> &AtomicU64 {
        let [keep_alive, requests] = &self.closed;
        match bound {
            Closed::KeepAlive => keep_alive,
            Closed::RequestsPerConnection => requests,
        }
    }

    fn cell(&self, reason: Unserved) -> &AtomicU64 {
        let [handshake, timeout, no_certificate, certificate, rest @ ..] = &self.unserved;
        let [descriptors, missing, malformed, late, connections, per_client] = rest;
        match reason {
            Unserved::Handshake => handshake,
            Unserved::HandshakeTimeout => timeout,
            Unserved::CertificateMissing => no_certificate,
            Unserved::CertificateInvalid => certificate,
            Unserved::Descriptors => descriptors,
            Unserved::ProxyMissing => missing,
            Unserved::ProxyMalformed => malformed,
            Unserved::ProxyTimeout => late,
            Unserved::Connections => connections,
            Unserved::ConnectionsPerClient => per_client,
        }
    }
}

impl ListenerCounts {
    /// Connections now open.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Acquire).try_into().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::Unserved;
    use crate::gateway::reasons::GATEWAY_REASONS;

    #[test]
    fn whoever_is_refused_with_a_record_has_a_reason_of_the_gateways() {
        for reason in Unserved::ALL {
            // Who waits for a descriptor is refused nothing, and served later.
            let waits = reason == Unserved::Descriptors;
            assert_eq!(GATEWAY_REASONS.contains(&reason.as_str()), !waits, "{reason:?}");
        }
    }
}
