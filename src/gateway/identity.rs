//! `forward_identity` of routes, and what must hold of all of them together.

use std::sync::Arc;

use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE};

use super::compile::Shelf;
use super::document::{Document, Route as RouteConfig};
use super::route::{Route, path_of};
use crate::client::{is_forwarding, is_identity, is_protected};
use crate::config::{Build, OrNone, Spanned};
use crate::policy::auth::RouteAuth;
use crate::policy::auth::identity_token::{ForwardConfig, Forwarding};

/// What a route's upstream is told; none where it is told nothing, and where `build.errors` says what is wrong.
pub(super) fn forwarding(
    config: &Spanned<RouteConfig>,
    document: &Document,
    shelf: &Shelf,
    build: &mut Build,
) -> Option<Forwarding> {
    let auth = config.auth.as_ref().or(document.defaults.auth.as_ref());
    let is_public = auth.is_some_and(|auth| matches!(auth.value, RouteAuth::None));
    let written = match &config.forward_identity {
        Some(OrNone::None) => return None,
        Some(OrNone::Some(written)) => written,
        // What stands in the defaults is for the routes that it can be for.
        None if is_public || config.upstream.is_none() => return None,
        None => document.defaults.forward_identity.as_option()?,
    };
    let mut sound = true;
    let mut refuse = |cause: String, cure: &'static str| {
        build.errors.push(&written.site, &*written.path, cause, cure);
        sound = false;
    };
    if is_public {
        let cause =
            format!("the route `{}` is public (`auth: none`): nobody is known on it", config.name.value);
        refuse(cause, "remove it, or say in `auth` who may pass");
    }
    if config.upstream.is_none() {
        let cause = format!("the route `{}` has no upstream that could be told", config.name.value);
        refuse(cause, "remove it, or write `forward_identity: none`");
    }
    compile(written, document, shelf, build).filter(|_| sound)
}

/// Without regard to where it stands.
pub(super) fn compile(
    written: &Spanned<ForwardConfig>,
    document: &Document,
    shelf: &Shelf,
    build: &mut Build,
) -> Option<Forwarding> {
    if document.server.identity_tokens.is_none() {
        let cause = "there are no identity tokens that could be forwarded";
        let cure = "write `server: {identity_tokens: {issuer: \"https://gateway.example.com\"}}`";
        build.errors.push(&written.site, &*written.path, cause, cure);
    }
    Forwarding::compile(written, shelf.identity_tokens.as_ref(), build)
}

/// The fields that the gateway alone may tell in who it is. What else would write them is an error, and so is a route of exactly the
/// path at which the keys are asked for.
pub(super) fn check(
    document: &Document,
    shelf: &Shelf,
    entries: &[Route],
    build: &mut Build,
) -> Arc<[HeaderName]> {
    let forwardings = entries.iter().filter_map(|entry| entry.forward_identity.as_ref());
    let mut fields: Vec<HeaderName> = forwardings.map(|forwarding| forwarding.header().clone()).collect();
    fields.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    fields.dedup();
    for (name, rules) in &shelf.headers {
        let Some(config) = document.policies.headers.get(name) else { continue };
        if let Some(field) = fields.iter().find(|field| rules.speaks_as(field.as_str())) {
            let cause = format!("`{field}` is for identity tokens alone (`forward_identity`)");
            build.errors.push(&config.site, &*config.path, cause, "give one of the two another name");
        }
    }
    for config in document.policies.auth.values().filter_map(|config| config.forward.as_ref()) {
        for name in &config.pass {
            if fields.iter().any(|field| field.as_str().eq_ignore_ascii_case(name)) {
                let cause = format!("`{}` is for identity tokens alone (`forward_identity`)", name.value);
                build.errors.push(&name.site, &*name.path, cause, "give one of the two another name");
            }
        }
    }
    path_is_free(document, fields.is_empty(), build);
    fields.into()
}

/// The fields by which some upstream is told who it is: by a header rule that speaks of it, or by an external service. What has a meaning
/// of its own, or bears a credential, is the route's.
pub(super) fn told(shelf: &Shelf) -> Arc<[HeaderName]> {
    let has_own_meaning = |name: &HeaderName| {
        matches!(*name, AUTHORIZATION | COOKIE)
            || is_protected(name.as_str())
            || shelf.auth.values().any(|policy| policy.reads_field(name))
    };
    let by_rules = shelf.headers.values().flat_map(|rules| rules.told_identity());
    let by_services = shelf.auth.values().flat_map(|policy| policy.passed_fields());
    let mut fields: Vec<HeaderName> =
        by_rules.chain(by_services).filter(|name| !has_own_meaning(name)).cloned().collect();
    fields.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    fields.dedup();
    fields.into()
}

/// Neither a condition nor the choice of a route hangs on a field that is taken from clients before the upstream sees the request: there
/// it is the gateway's word, or a service's, and here a client's.
pub(super) fn nothing_is_decided_by(
    own: &[&[HeaderName]],
    document: &Document,
    entries: &[Route],
    build: &mut Build,
) {
    let tells_who = |name: &str| {
        let name = name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        is_identity(&name) || own.iter().any(|own| own.iter().any(|own| *own == *name))
    };
    for (entry, config) in entries.iter().zip(&document.routes) {
        let matched = config.matches.headers.iter().filter(|(name, _)| tells_who(name));
        for (name, pattern) in matched {
            let cause = format!(
                "`{name}` tells upstreams who it is, and is taken from clients on every route: here it would be a client's own word"
            );
            let cure = "match another field, or say in `auth` who may pass";
            build.errors.push(&pattern.site, &*pattern.path, cause, cure);
        }
        let Some(written) = config.auth.as_ref().or(document.defaults.auth.as_ref()) else { continue };
        for name in entry.auth.iter().flat_map(|auth| auth.fields()) {
            let taken = |what: &str| {
                format!(
                    "`{name}` tells upstreams {what}, and is taken from clients on every route: in `headers` it would be a client's own word"
                )
            };
            let (cause, cure) = if name.contains('_') {
                let cause =
                    format!("`{name}` is in no request: fields with a low line in their names are dropped");
                (cause, "ask for a field with another name, and have clients send that")
            } else if tells_who(name) {
                let cure = "ask the identity: `identity.id`, and `claims` or `identity.claims` for what `pass` of a service lists";
                (taken("who it is"), cure)
            } else if is_forwarding(name) {
                (taken("whose request it is"), "write `client.ip`, `host`, `path` and the like")
            } else {
                continue;
            };
            build.errors.push(&written.site, format!("{}.when", written.path), cause, cure);
        }
    }
}

/// The keys go before routes with parameters; one of exactly their path would never be asked.
fn path_is_free(document: &Document, unused: bool, build: &mut Build) {
    let Some(tokens) = &document.server.identity_tokens else { return };
    if unused && build.errors.is_empty() {
        let cause = "no route forwards an identity";
        build.errors.warn(
            &tokens.site,
            &*tokens.path,
            cause,
            "write `forward_identity` on a route, or remove it",
        );
    }
    for route in &document.routes {
        let path = path_of(route);
        if path == tokens.jwks.value {
            let cause = format!(
                "`{path}` is where the keys of identity tokens are published; `{}` would never be asked for it",
                route.name.value
            );
            let site = route.matches.value.path.as_ref().map_or(&route.site, |path| &path.site);
            let cure = "give the route another path, or `server.identity_tokens.jwks`";
            build.errors.push(site, format!("{}.match.path", route.path), cause, cure);
        } else if covers(path, &tokens.jwks) {
            let site = route.matches.value.path.as_ref().map_or(&route.site, |path| &path.site);
            let cause = format!(
                "`{}` is answered by the gateway, and not by `{}`",
                tokens.jwks.value, route.name.value
            );
            let cure = "right where the route is not for that; another path otherwise, in `server.identity_tokens.jwks`";
            build.errors.warn(site, format!("{}.match.path", route.path), cause, cure);
        }
    }
}

/// Whether a route's path has this one among others; one for every path need not be told.
fn covers(pattern: &str, path: &str) -> bool {
    let mut segments = path.split('/').skip(1);
    let mut wanted = pattern.split('/').skip(1).enumerate();
    loop {
        match (wanted.next(), segments.next()) {
            (Some((at, wanted)), Some(_)) if wanted.starts_with("{*") => return at > 0,
            (Some((_, wanted)), Some(segment)) if wanted == segment || is_parameter(wanted, segment) => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

fn is_parameter(wanted: &str, segment: &str) -> bool {
    wanted.starts_with('{') && !segment.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_covered_by_what_could_be_asked_for_it() {
        for (pattern, expected) in [
            ("/{*rest}", false),
            ("/.well-known/{*rest}", true),
            ("/.well-known/a/{*rest}", true),
            ("/.well-known/{x}/keys", true),
            ("/{x}/{y}/{z}", true),
            ("/{x}/{y}", false),
            ("/.well-known/a/keys/{*rest}", false),
            ("/.well-known/b/keys", false),
            ("/", false),
        ] {
            assert_eq!(covers(pattern, "/.well-known/a/keys"), expected, "{pattern}");
        }
    }
}
