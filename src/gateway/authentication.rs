//! A route's `auth`, with its policies found.

use std::sync::Arc;

use super::compile::{Shelf, find};
use super::document::{Document, Listener};
use crate::config::{Build, Spanned};
use crate::policy::auth::{Auth, Quantity, Requirement, RouteAuth, Rules};

/// A policy about client certificates needs a listener that asks for them: else it could only refuse.
pub(super) fn certificates_are_asked_for(document: &Document, build: &mut Build) {
    let asks = |listener: &Spanned<Listener>| {
        listener.tls.as_ref().is_some_and(|tls| tls.client_ca.as_option().is_some())
    };
    if document.listeners.iter().any(asks) {
        return;
    }
    for config in document.policies.auth.values().filter_map(|policy| policy.client_certificate.as_ref()) {
        build.errors.push(
            &config.site,
            &*config.path,
            "no listener asks clients for a certificate, so nobody could pass",
            "write `tls: {client_ca: authorities.pem, client_certificate: required}` on a listener",
        );
    }
}

/// What a route asks of who comes; none where everybody may pass, and where `build.errors` says what is wrong.
pub(super) fn compile(
    written: &Spanned<RouteAuth>,
    document: &Document,
    shelf: &Shelf,
    build: &mut Build,
) -> Option<Requirement> {
    let policy = |name: &Spanned<String>, build: &mut Build| -> Option<Arc<Auth>> {
        find(name, &shelf.auth, document.policies.auth.keys(), "policies.auth", build)
    };
    let at = |name: &String| Spanned {
        value: name.clone(),
        site: written.site.clone(),
        path: written.path.clone(),
    };
    match &written.value {
        RouteAuth::None => None,
        RouteAuth::Policy(name) => {
            let found = policy(&at(name), build)?;
            let rules =
                Spanned { value: Rules::default(), site: written.site.clone(), path: written.path.clone() };
            Requirement::compile(vec![found], Quantity::One, &rules, build)
        }
        RouteAuth::Rules(rules) => {
            let (names, quantity) = match (rules.any_of.as_slice(), rules.all_of.as_slice()) {
                ([], []) => {
                    build.errors.push(
                        &written.site,
                        &*written.path,
                        "it names no policy, so nobody is asked who he is",
                        "name one, such as `{any_of: [staff], scopes: [orders:read]}`, or write `auth: none`",
                    );
                    return None;
                }
                ([_, ..], [_, ..]) => {
                    build.errors.push(
                        &written.site,
                        &*written.path,
                        "rules name their policies once: in `any_of` or in `all_of`",
                        "write such as `{any_of: [staff], scopes: [orders:read]}`",
                    );
                    return None;
                }
                (any_of, []) => (any_of, Quantity::One),
                ([], all_of) => (all_of, Quantity::All),
            };
            // Each is looked for, so that each that is missing is told.
            let found: Vec<_> = names.iter().map(|name| policy(name, build)).collect();
            let found: Option<Vec<_>> = found.into_iter().collect();
            let rules =
                Spanned { value: (**rules).clone(), site: written.site.clone(), path: written.path.clone() };
            Requirement::compile(found?, quantity, &rules, build)
        }
    }
}
