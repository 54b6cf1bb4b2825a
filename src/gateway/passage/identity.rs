//! Identity tokens on a request's way: made once, told to the upstream, and the keys that they are verified by.

use std::time::SystemTime;

use http::header::CACHE_CONTROL;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{Passage, Stop, step};
use crate::canonical::Target;
use crate::client;
use crate::gateway::Gateway;
use crate::gateway::route::Route;
use crate::policy::Step;
use crate::policy::auth::identity_token::Unsigned;
use crate::reply::{Kind, Refusal, Reply};
use crate::request::{Arrival, Fields};

impl Passage {
    /// Answers a request for the keys of identity tokens. Reads alone are answered; the rest goes its way.
    pub(super) fn identity_keys(
        &mut self,
        gateway: &Gateway,
        arrival: &Arrival<'_>,
        target: &Target,
    ) -> Result<(), Stop> {
        let Some(tokens) = &gateway.identity_tokens else { return Ok(()) };
        if target.path() != tokens.path() || !matches!(*arrival.method, Method::GET | Method::HEAD) {
            return Ok(());
        }
        self.effects.note(|| step("identity_keys", "answer", "the public keys of identity tokens"));
        let kind = HeaderValue::from_static("application/jwk-set+json");
        let mut reply = Reply::new(StatusCode::OK, kind, tokens.key_set());
        // A key is published for an hour before it signs.
        reply.headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
        Err(Stop::Answered(Box::new(reply)))
    }

    /// Has the gateway's word for who it is signed, where the route wants it told and it is known.
    ///
    /// # Errors
    /// There is somebody, and no token can be had: without it the upstream would take the request for nobody's.
    pub(super) fn vouch(&mut self, route: &Route) -> Result<(), Refusal> {
        let (Some(forwarding), Some(identity)) = (&route.forward_identity, &self.record.identity) else {
            return Ok(());
        };
        // Not the time at which the request began: who it is may have taken longer to find out than a token lives.
        let token = forwarding.token(identity, SystemTime::now(), self.record.worker);
        let refusal = match token {
            Ok(token) => {
                if token.is_some() {
                    let detail = format!("{} in `{}`", identity.id, forwarding.header());
                    self.effects.note(|| Step {
                        site: Some(forwarding.site().clone()),
                        ..step("forward_identity", "pass", detail)
                    });
                }
                self.identity_token = token;
                return Ok(());
            }
            Err(Unsigned::TooLong(bytes)) => {
                let message = format!(
                    "the identity's token would have {bytes} bytes, more than `server.identity_tokens.max_bytes`"
                );
                Refusal::new(Kind::InternalError, "identity_token_size", message)
            }
            Err(Unsigned::Failed) => Refusal::new(
                Kind::InternalError,
                "identity_token_unsigned",
                "the identity's token could not be signed",
            ),
        };
        Err(Refusal { site: Some(forwarding.site().clone()), ..refusal })
    }

    /// Takes out of what a client, or a service that knows who it is, has sent the fields that the gateway alone tells that in.
    pub(super) fn strip_identity(&self, fields: &mut impl Fields) {
        strip(&self.gateway.identity_fields, fields);
    }

    /// Takes out of what a client has sent the fields by which some upstream of the configuration is told who it is: of another route's
    /// too, since both may be one service.
    pub(super) fn strip_told(&self, fields: &mut impl Fields) {
        strip(&self.gateway.told_fields, fields);
    }

    /// Tells the upstream who it is, in place of whatever stands there.
    pub(super) fn tell_identity(&self, route: &Route, fields: &mut impl Fields) {
        if let (Some(forwarding), Some(token)) = (&route.forward_identity, &self.identity_token) {
            fields.set(forwarding.header().clone(), token.clone());
        }
    }
}

fn strip(own: &[HeaderName], fields: &mut impl Fields) {
    if own.is_empty() {
        return;
    }
    for name in own {
        if fields.fields().contains_key(name) {
            fields.remove(name);
        }
    }
    client::remove_twins(fields, |name| own.iter().any(|own| own == name));
}
