//! What a connection of a listener that asks for client certificates may carry.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::{Passage, step};
use crate::canonical::Target;
use crate::gateway::{ClientTrust, Listener};
use crate::reply::{Kind, Refusal};
use crate::request::{Connection, TlsFacts};

impl Passage {
    /// The certificate must hold by the rule now in force, and the request be for the host that the handshake was for: what was
    /// verified there speaks for no other (RFC 9110 §15.5.20).
    ///
    /// # Errors
    /// 421, and the connection ends: on a new one the client can do better.
    pub(super) fn client_certificate(
        &mut self,
        connection: &Connection,
        listener: Option<&Arc<Listener>>,
        target: &Target,
    ) -> Result<(), Refusal> {
        let Some(tls) = &connection.tls else { return Ok(()) };
        let trust = listener.and_then(|listener| listener.tls.as_ref()?.clients.as_ref());
        if trust.is_none() && tls.client_rule.is_none() {
            return Ok(());
        }
        let refuse = |reason, message| {
            connection.fate.end();
            Err(Refusal::new(Kind::Misdirected, reason, message))
        };
        if !self.holds(connection, tls, trust) {
            self.record.client_certificate = None;
            let message =
                "the connection's client certificate does not hold by the rule that the listener has now";
            return refuse("client_certificate_changed", message);
        }
        if !is_same_host(tls.sni.as_deref(), target.host()) {
            return refuse("host_is_not_sni", "the host is another than the one that the handshake was for");
        }
        self.effects.note(|| match &tls.client_certificate {
            Some(certificate) => step("client_certificate", "pass", certificate.subject_dn.to_string()),
            None => step("client_certificate", "pass", "the connection bears none"),
        });
        Ok(())
    }

    /// A reload may have changed the rule, and time may have ended the certificate or a revocation list, since the handshake.
    fn holds(&self, connection: &Connection, tls: &TlsFacts, trust: Option<&ClientTrust>) -> bool {
        let now = self.record.started_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        if tls.client_certificate.as_ref().is_some_and(|certificate| now > certificate.not_after) {
            return false;
        }
        let Some(trust) = trust else { return false };
        let rule = trust.rule_at(now);
        if tls.client_rule == Some(rule) {
            return true;
        }
        connection.fate.holds(rule, || match &tls.client_certificate {
            Some(certificate) => trust.judge(&certificate.chain).is_ok(),
            None => !trust.is_required(),
        })
    }
}

/// A handshake without a name was for an address.
fn is_same_host(sni: Option<&str>, host: &str) -> bool {
    match sni {
        Some(name) => name.strip_suffix('.').unwrap_or(name) == host,
        None => host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok(),
    }
}
