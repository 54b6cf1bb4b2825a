//! Towards the upstream: the head that it will see.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;
use http::header::{HOST, VIA};

use super::{Admitted, Passage, X_REQUEST_ID, hops};
use crate::canonical::{self, Target};
use crate::client::{self, Trusted, Upgrade};
use crate::gateway::route::{Action, Route, UpstreamPath};
use crate::proxy_protocol::Header;
use crate::reply::{Kind, Refusal};
use crate::request::{Connection, Fields, Protocol};
use crate::upstream::Host;

impl Passage {
    /// Prepares the head that the upstream will see, and returns its path and query.
    ///
    /// Removes hop-by-hop fields and what only proxies may say, sets forwarding fields, Via and request id, applies the
    /// route's header rules, and last the Host (`server_name` is the chosen server's own `host:port`).
    pub fn upstream_head(
        &mut self,
        admitted: &Admitted,
        server_name: &str,
        fields: &mut impl Fields,
    ) -> String {
        let (Some(route), Some(target)) = (admitted.route(), self.record.target.clone()) else {
            return "/".to_owned();
        };
        client::strip_hop_by_hop(fields, upgrade(route, fields), |name| admitted.relies_on(name));
        if let Some(client) = &self.client {
            let nobody = Trusted::default();
            let trusted = self.gateway.listener(&self.listener).map_or(&nobody, |listener| &listener.trusted);
            client::forward(fields, self.peer, client, trusted, target.authority());
        }
        let protocol = self.record.protocol.unwrap_or(Protocol::Http11);
        set_via(protocol, fields);
        if let Some(method) = &self.record.method {
            hops::count_down(method, fields);
        }
        if let Ok(id) = HeaderValue::from_str(self.record.request_id.as_str()) {
            fields.set(X_REQUEST_ID, id);
        }
        if let Some(auth) = &route.auth {
            auth.scrub(fields);
        }
        self.gateway.key_places.scrub(fields);
        self.strip_told(fields);
        for (name, value) in &self.effects.passes {
            fields.append(name.clone(), value.clone());
        }
        self.strip_identity(fields);
        if !route.headers.is_empty() {
            client::remove_twins(fields, |name| route.headers.iter().any(|rules| rules.speaks_as(name)));
        }
        for rules in &route.headers {
            rules.request(&self.record, fields);
        }
        self.tell_identity(route, fields);
        let Action::Forward { upstream, path } = &route.action else {
            return path_and_query(target.path(), self.query(route, &target).as_deref());
        };
        if let Ok(host) = HeaderValue::from_str(host_for(upstream.host(), server_name, &target)) {
            fields.set(HOST, host);
        }
        self.upstream_path(route, path, &target)
    }

    /// What a PROXY header tells an upstream: the client, as believed, with its port where it is the peer (else 0: forwarding fields
    /// tell none), and where the client has connected to (all zeros where that is a Unix socket). A peer on a Unix socket for whom
    /// nobody vouches has no address to be told.
    pub fn proxy_header(&self, connection: &Connection) -> Header {
        let Some(client) = self.client.as_ref().map(|client| client.address) else { return Header::Own };
        let nowhere = match client {
            IpAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
            IpAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
        };
        match connection.peer {
            None if client.is_loopback() => Header::Own,
            peer => {
                let port =
                    peer.filter(|peer| peer.ip().to_canonical() == client).map_or(0, |peer| peer.port());
                Header::Client {
                    source: SocketAddr::new(client, port),
                    destination: connection
                        .local
                        .map_or(nowhere, |local| SocketAddr::new(local.ip().to_canonical(), local.port())),
                }
            }
        }
    }

    /// Writes the path anew, once, where the route's template does. Text that a client chooses freely may stand in it: what comes
    /// out is brought into canonical form like any path, and refused where it would be another path than the template says.
    pub(super) fn rewrite(&mut self, route: &Route) -> Result<(), Refusal> {
        let Action::Forward { path: UpstreamPath::Template(template), .. } = &route.action else {
            return Ok(());
        };
        let mut text = String::new();
        template.render_url(&self.record, &mut text);
        let wrong = match canonical::rewritten(&text) {
            Ok((path, oddities)) => match oddities.denial(route.tolerated, Some(&route.facts.name)) {
                None => {
                    self.rewritten = path;
                    return Ok(());
                }
                Some(denial) => denial,
            },
            Err(denial) => denial,
        };
        let message = format!("`path.template` makes no path of this request: {}", wrong.message);
        let refusal = Refusal::new(Kind::AmbiguousRequest, "path_template", message);
        Err(Refusal { site: Some(route.facts.site.clone()), ..refusal })
    }

    /// The query as the upstream sees it: without credentials that are for the gateway alone.
    pub(super) fn query<'t>(&self, route: &Route, target: &'t Target) -> Option<Cow<'t, str>> {
        let query = target.query()?;
        let scrubbed = route.auth.as_ref().map_or(Cow::Borrowed(query), |auth| auth.scrub_query(query));
        match self.gateway.key_places.scrub_query(scrubbed) {
            Cow::Borrowed(query) => Some(Cow::Borrowed(query)),
            Cow::Owned(rest) => (!rest.is_empty()).then_some(Cow::Owned(rest)),
        }
    }

    fn upstream_path(&self, route: &Route, path: &UpstreamPath, target: &Target) -> String {
        if target.path() == "*" {
            return target.path().to_owned(); // About the server, not a path to be rewritten (RFC 9112 §3.2.4).
        }
        let query = self.query(route, target);
        match path {
            UpstreamPath::Keep => path_and_query(target.path(), query.as_deref()),
            UpstreamPath::Replace { strip, prefix } => {
                let rest = match target.path().strip_prefix(&**strip) {
                    Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
                    Some(_) | None => target.path(),
                };
                let slash = if rest.is_empty() && prefix.is_empty() { "/" } else { "" };
                path_and_query(&format!("{prefix}{slash}{rest}"), query.as_deref())
            }
            UpstreamPath::Template(_) => path_and_query(&self.rewritten, query.as_deref()),
        }
    }
}

/// Whether a request may go on asking for the protocol it names: one that the route lists.
fn upgrade(route: &Route, fields: &impl Fields) -> Upgrade {
    let asked = fields.fields().get(http::header::UPGRADE).and_then(|value| value.to_str().ok());
    match asked {
        Some(protocol) if route.permits_upgrade(&protocol.trim().to_ascii_lowercase()) => Upgrade::Keep,
        Some(_) | None => Upgrade::Drop,
    }
}

/// Adds this hop (RFC 9110 §7.6.3).
fn set_via(protocol: Protocol, fields: &mut impl Fields) {
    fields.append(
        VIA,
        match protocol {
            Protocol::Http10 => HeaderValue::from_static("1.0 portcullis"),
            Protocol::Http11 => HeaderValue::from_static("1.1 portcullis"),
            Protocol::Http2 => HeaderValue::from_static("2 portcullis"),
        },
    );
}

fn host_for<'a>(host: &'a Host, server_name: &'a str, target: &'a Target) -> &'a str {
    match host {
        Host::Server => server_name,
        Host::Literal(literal) => literal,
        Host::Keep => target.authority(),
    }
}

fn path_and_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}
