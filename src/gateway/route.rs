//! A route, compiled: its policies resolved, its one action ready.

use std::sync::Arc;

use http::StatusCode;

use super::answers::{redirect, respond};
use super::authentication;
use super::compile::{Shelf, find};
use super::document::{Document, PathRule, Route as RouteConfig};
use super::limits;
use crate::canonical::{self, Oddities};
use crate::config::{Build, OrNone, Spanned};
use crate::policy::access::Access;
use crate::policy::auth::Requirement;
use crate::policy::auth::identity_token::Forwarding;
use crate::policy::cors::Cors;
use crate::policy::headers::HeaderRules;
use crate::policy::rate_limit::{Limits, RateLimit};
use crate::record::RouteFacts;
use crate::reply::Reply;
use crate::route::Routes;
use crate::template::Template;
use crate::upstream::Upstream;

/// A route, compiled.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) facts: Arc<RouteFacts>,
    /// Who may pass; none: everybody.
    pub(super) auth: Option<Requirement>,
    /// How the upstream is told who it is.
    pub(super) forward_identity: Option<Forwarding>,
    pub(super) access: Option<Arc<Access>>,
    pub(super) cors: Option<Arc<Cors>>,
    pub(super) headers: Vec<Arc<HeaderRules>>,
    /// Those of the edge are among them.
    pub(super) limits: Option<Limits>,
    pub(super) upgrade: Box<[Box<str>]>,
    /// What it takes of paths with two readings.
    pub(super) tolerated: Oddities,
    pub(super) action: Action,
}

/// What a route does with a request that may pass.
#[derive(Debug)]
pub(super) enum Action {
    Forward {
        upstream: Arc<Upstream>,
        path: UpstreamPath,
    },
    Respond(Reply),
    Redirect {
        to: Template,
        status: StatusCode,
    },
    Echo,
    /// Only while errors are collected: such a gateway is never made.
    Missing,
}

/// What the upstream sees of the path.
#[derive(Debug, Default)]
pub(super) enum UpstreamPath {
    /// The canonical path as it is.
    #[default]
    Keep,
    /// A prefix taken away at a segment's border, then another put in front.
    Replace { strip: Box<str>, prefix: Box<str> },
    /// Written anew.
    Template(Template),
}

impl Route {
    pub(super) fn compile(
        index: usize,
        config: &Spanned<RouteConfig>,
        document: &Document,
        edge_limits: &[Arc<RateLimit>],
        shelf: &Shelf,
        build: &mut Build,
    ) -> Self {
        let auth = match config.auth.as_ref().or(document.defaults.auth.as_ref()) {
            Some(written) => authentication::compile(written, document, shelf, build),
            None => {
                auth_is_missing(config, build);
                None
            }
        };
        if let Some(auth) = &auth {
            condition_has_its_names(auth, config, document, build);
        }
        labels_are_sound(config, build);
        let defaults = &document.defaults;
        let policies = &document.policies;
        let access = config.access.as_ref().unwrap_or(&defaults.access).as_option();
        let cors = config.cors.as_ref().unwrap_or(&defaults.cors).as_option();
        let limits = limits::of_route(config, document, edge_limits, auth.as_ref(), shelf, build);
        let limits = Limits::new(edge_limits, limits, auth.is_some());
        Self {
            facts: super::compile::facts(index, config),
            auth,
            forward_identity: super::identity::forwarding(config, document, shelf, build),
            access: access
                .and_then(|n| find(n, &shelf.access, policies.access.keys(), "policies.access", build)),
            cors: cors.and_then(|n| find(n, &shelf.cors, policies.cors.keys(), "policies.cors", build)),
            headers: headers(config, document)
                .into_iter()
                .filter_map(|n| find(n, &shelf.headers, policies.headers.keys(), "policies.headers", build))
                .collect(),
            limits,
            upgrade: upgrade(config, build),
            tolerated: config.path_oddities.iter().copied().collect(),
            action: action(config, document, shelf, build),
        }
    }

    /// Whether a client may switch to this protocol, in lower case.
    pub(super) fn permits_upgrade(&self, protocol: &str) -> bool {
        self.upgrade.iter().any(|listed| **listed == *protocol)
    }
}

/// Nothing is public by omission.
fn auth_is_missing(config: &Spanned<RouteConfig>, build: &mut Build) {
    build.errors.push(
        &config.site,
        format!("{}.auth", config.path),
        format!("nothing says who may use the route `{}`", config.name.value),
        "write `auth: none` on it, or in `defaults`, if it is public",
    );
}

/// Every `route.NAME` of `when` is a parameter of the route's path, and every `labels.NAME` one of its labels: else it would refuse for
/// ever.
fn condition_has_its_names(
    auth: &Requirement,
    config: &Spanned<RouteConfig>,
    document: &Document,
    build: &mut Build,
) {
    let Some(written) = config.auth.as_ref().or(document.defaults.auth.as_ref()) else { return };
    let path = path_of(config);
    for (of, name) in auth.names() {
        let (known, what) = match of {
            "labels" => (config.labels.contains_key(name), format!("label `{name}`")),
            _ => (has_parameter(path, name), format!("parameter `{name}` in its path")),
        };
        if !known {
            build.errors.push(
                &written.site,
                format!("{}.when", written.path),
                format!("the route `{}` has no {what}, which `when` asks for", config.name.value),
                format!("give it one, or write `has({of}.{name})` where it may be absent"),
            );
        }
    }
}

/// Labels go to every log line of the route: few and short.
fn labels_are_sound(config: &Spanned<RouteConfig>, build: &mut Build) {
    for (name, value) in &config.labels {
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(sound) {
            let cause = format!("`{name}` cannot be a label's name");
            build.errors.push(
                &value.site,
                &*value.path,
                cause,
                "use 1 to 64 letters, digits, `_`, `-` and `.`",
            );
        }
        if value.len() > 256 || value.chars().any(char::is_control) {
            build.errors.push(
                &value.site,
                &*value.path,
                "this label's value is too long or holds control characters",
                "use at most 256 printable bytes",
            );
        }
    }
    if config.labels.len() > 32 {
        build.errors.push(
            &config.site,
            format!("{}.labels", config.path),
            "more than 32 labels",
            "keep the ones that logs are searched by",
        );
    }
}

/// The route's header policies: its own, with the defaults where it says `inherit`.
fn headers<'a>(config: &'a RouteConfig, document: &'a Document) -> Vec<&'a Spanned<String>> {
    // An `inherit` in the defaults themselves has been complained about.
    let defaults = || document.defaults.headers.iter().filter(|name| name.value != "inherit").collect();
    match &config.headers {
        None => defaults(),
        Some(OrNone::None) => Vec::new(),
        Some(OrNone::Some(names)) => names
            .iter()
            .flat_map(|name| match name.as_str() {
                "inherit" => defaults(),
                _ => vec![name],
            })
            .collect(),
    }
}

/// The path as written; every path where none is.
pub(super) fn path_of(config: &RouteConfig) -> &str {
    config.matches.value.path.as_ref().map_or("/{*rest}", |path| path.value.as_str())
}

/// Whether a path has this parameter.
pub(super) fn has_parameter(path: &str, name: &str) -> bool {
    path.contains(&format!("{{{name}}}")) || path.contains(&format!("{{*{name}}}"))
}

fn upgrade(config: &Spanned<RouteConfig>, build: &mut Build) -> Box<[Box<str>]> {
    for protocol in &config.upgrade {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b);
        if protocol.is_empty() || !protocol.bytes().all(token) {
            let cause = format!("`{}` is not the name of a protocol", protocol.value);
            build.errors.push(&protocol.site, &*protocol.path, cause, "write `websocket`");
        } else if matches!(
            protocol.to_ascii_lowercase().as_str(),
            "h2c" | "h2" | "http/2.0" | "tls/1.0" | "http/1.1"
        ) {
            let cause = format!("switching to `{}` would carry requests past every check", protocol.value);
            build.errors.push(
                &protocol.site,
                &*protocol.path,
                cause,
                "list protocols such as `websocket` only",
            );
        }
    }
    if let (Some(first), None) = (config.upgrade.first(), &config.upstream) {
        build.errors.push(
            &first.site,
            &*first.path,
            "only a route with an `upstream` can switch protocols",
            "remove `upgrade`",
        );
    }
    config.upgrade.iter().map(|protocol| protocol.to_ascii_lowercase().into()).collect()
}

fn action(config: &Spanned<RouteConfig>, document: &Document, shelf: &Shelf, build: &mut Build) -> Action {
    let given = [
        config.upstream.as_ref().map(|x| ("upstream", &x.site)),
        config.respond.as_ref().map(|x| ("respond", &x.site)),
        config.redirect.as_ref().map(|x| ("redirect", &x.site)),
        config.echo.as_ref().map(|x| ("echo", &x.site)),
    ];
    let given: Vec<_> = given.into_iter().flatten().collect();
    let name = &config.name.value;
    match given.as_slice() {
        [] => {
            let cure = "add one of `upstream`, `respond`, `redirect`, `echo`";
            build.errors.push(&config.site, &*config.path, format!("the route `{name}` does nothing"), cure);
        }
        [_] => {}
        [(first, _), (second, site), ..] => {
            let cause = format!("the route `{name}` has two actions: `{first}` and `{second}`");
            build.errors.push(
                site,
                format!("{}.{second}", config.path),
                cause,
                "keep one; a second route can do the other",
            );
        }
    }
    if let (Some(path), None) = (&config.value.path, &config.upstream) {
        build.errors.push(
            &path.site,
            &*path.path,
            "`path` says what an upstream sees, and there is none",
            "remove it, or add `upstream`",
        );
    }
    if let Some(upstream) = &config.upstream {
        let path =
            config.value.path.as_ref().map(|rule| upstream_path(rule, config, build)).unwrap_or_default();
        return match find(upstream, &shelf.upstreams, document.upstreams.keys(), "upstreams", build) {
            Some(upstream) => Action::Forward { upstream, path },
            None => Action::Missing,
        };
    }
    if let Some(written) = &config.respond {
        return respond(written, build).map_or(Action::Missing, Action::Respond);
    }
    if let Some(written) = &config.redirect {
        return redirect(written, config, build).unwrap_or(Action::Missing);
    }
    match &config.echo {
        Some(echo) if !echo.value => {
            build.errors.push(
                &echo.site,
                &*echo.path,
                "`echo: false` does nothing",
                "remove it, or write `echo: true`",
            );
            Action::Missing
        }
        Some(_) => Action::Echo,
        None => Action::Missing,
    }
}

fn upstream_path(rule: &Spanned<PathRule>, config: &RouteConfig, build: &mut Build) -> UpstreamPath {
    let borders = |written: &Option<Spanned<String>>, build: &mut Build| -> Box<str> {
        let Some(text) = written else { return "".into() };
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let canonical = canonical::rewritten(text);
        if !canonical.is_ok_and(|(canonical, _)| canonical == text.value) || text.contains("/.") {
            let cause = format!("`{}` is not a path prefix in canonical form", text.value);
            build.errors.push(
                &text.site,
                &*text.path,
                cause,
                "begin with `/`; leave out `//`, dot segments, `?` and `#`",
            );
        }
        trimmed.into()
    };
    if let Some(template) = &rule.template {
        if rule.strip.is_some() || rule.prefix.is_some() {
            build.errors.push(
                &template.site,
                &*template.path,
                "`template` writes the whole path; `strip` and `prefix` would be ignored",
                "keep one of the two ways",
            );
        }
        if template.contains(['?', '#']) || template.contains(char::is_whitespace) {
            let cause = "a path holds no `?`, `#` or space";
            build.errors.push(
                &template.site,
                &*template.path,
                cause,
                "leave it out; the query goes along as it is",
            );
        }
        if !template.starts_with('/') {
            build.errors.push(
                &template.site,
                &*template.path,
                "a path begins with `/`",
                format!("write `/{}`", template.value),
            );
        }
        let Some(parsed) = template_of(template, config, build) else { return UpstreamPath::default() };
        makes_a_path(&parsed, template, config, build);
        return UpstreamPath::Template(parsed);
    }
    let strip = borders(&rule.strip, build);
    let prefix = borders(&rule.prefix, build);
    if strip.is_empty() && prefix.is_empty() {
        UpstreamPath::Keep
    } else {
        UpstreamPath::Replace { strip, prefix }
    }
}

/// Whether the template's own text can be part of a canonical path; what stands for its variables is judged request by request.
fn makes_a_path(template: &Template, written: &Spanned<String>, config: &RouteConfig, build: &mut Build) {
    let tolerated: Oddities = config.path_oddities.iter().copied().collect();
    let own = template.with_placeholders("x");
    let cause = match canonical::rewritten(&own) {
        // Said already.
        Err(_) if !own.starts_with('/') || own.contains(['?', '#']) || own.contains(char::is_whitespace) => {
            return;
        }
        Err(denial) => denial.message,
        Ok((_, oddities)) => match oddities.denial(tolerated, Some(&config.name)) {
            None => return,
            Some(denial) => denial.message,
        },
    };
    let cause = format!("every request would be refused: {cause}");
    build.errors.push(&written.site, &*written.path, cause, "write the path as an upstream should see it");
}

/// A template whose `{route.NAME}`s this route has.
pub(super) fn template_of(
    written: &Spanned<String>,
    config: &RouteConfig,
    build: &mut Build,
) -> Option<Template> {
    let template = match Template::parse(written) {
        Ok(template) => template,
        Err(cause) => {
            build.errors.push(&written.site, &*written.path, cause, "`{name}` is a variable, `{{` a brace");
            return None;
        }
    };
    parameters_exist(&template, written, config, build);
    Some(template)
}

/// Every `{route.NAME}` of a template is a parameter of the route's path.
fn parameters_exist(template: &Template, written: &Spanned<String>, config: &RouteConfig, build: &mut Build) {
    let path = path_of(config);
    for name in template.parameters().filter(|name| !has_parameter(path, name)) {
        let cause = format!("the path `{path}` of the route `{}` has no `{{{name}}}`", config.name.value);
        build.errors.push(&written.site, &*written.path, cause, "use a name that stands in `match.path`");
    }
}

/// Routes that one preflight could mean must share a `cors` policy: a preflight says neither headers nor, in some
/// browsers' caches, the query that would tell them apart.
pub(super) fn check_preflights(routes: &Routes, document: &Document, build: &mut Build) {
    let policy = |route: &RouteConfig| {
        route.cors.as_ref().unwrap_or(&document.defaults.cors).as_option().map(|name| name.value.clone())
    };
    let says = |name: Option<String>| name.map_or_else(|| "none".to_owned(), |name| format!("`{name}`"));
    for group in routes.preflight_groups() {
        let mut group = group.iter().filter_map(|index| document.routes.get(*index));
        let Some(first) = group.next() else { continue };
        let Some(other) = group.find(|other| policy(other) != policy(first)) else { continue };
        build.errors.push(
            other.cors.as_ref().and_then(OrNone::as_option).map_or(&other.site, |name| &name.site),
            format!("{}.cors", other.path),
            format!(
                "one preflight could mean the route `{}` ({}, cors {}) as well as `{}` (cors {})",
                first.name.value,
                first.site,
                says(policy(first)),
                other.name.value,
                says(policy(other)),
            ),
            "give both the same `cors`: a preflight does not tell apart what only `headers` or `query` do",
        );
    }
}
