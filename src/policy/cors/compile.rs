//! From what was written to a policy without doubt.

use std::collections::HashSet;
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderValue, Method};

use super::origin::{Fault, Origins};
use super::{AllowedHeaders, Config, Cors, Origin};
use crate::config::{Build, Spanned};

/// The fields by which limits tell a client where it stands and when to come again.
const OF_LIMITS: [&str; 6] = [
    "retry-after",
    "ratelimit",
    "ratelimit-policy",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
];
/// Browsers keep a preflight's answer for 24 hours at most.
const MAX_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl Cors {
    /// Compiles `policies.cors.NAME`. None when `build.errors` says why.
    pub fn compile(name: &str, config: &Spanned<Config>, build: &mut Build) -> Option<Self> {
        let errors_before = build.errors.errors().len();
        let origins = origins(config, build);
        let methods = methods(&config.methods, build);
        let headers = headers(config, build);
        let (expose, expose_limits) = expose(config, build);
        if config.max_age.0 > MAX_AGE_MAX {
            build.errors.push(
                &config.site,
                format!("{}.max_age", config.path),
                "`max_age` is longer than any browser keeps it",
                "write at most `24h`",
            );
        }
        let sound = build.errors.errors().len() == errors_before;
        sound.then(|| Self {
            name: format!("cors.{name}").into(),
            mode: config.mode,
            site: config.site.clone(),
            origins,
            methods,
            headers,
            expose,
            expose_limits,
            credentials: config.credentials,
            max_age: HeaderValue::from(config.max_age.0.as_secs()),
            enforce_origin: config.enforce_origin,
        })
    }
}

fn push<T>(build: &mut Build, at: &Spanned<T>, (cause, cure): Fault) {
    build.errors.push(&at.site, &*at.path, cause, cure);
}

fn fault(cause: impl Into<String>, cure: impl Into<String>) -> Fault {
    (cause.into(), cure.into())
}

fn origins(config: &Spanned<Config>, build: &mut Build) -> Origins {
    let mut origins = Origins::default();
    if config.origins.is_empty() {
        push(build, config, fault("no origins are allowed", "list the origins, or remove the policy"));
    }
    for written in &config.origins {
        match origins.add(&written.value) {
            Ok(None) => {}
            Ok(Some((cause, cure))) => build.errors.warn(&written.site, &*written.path, cause, cure),
            Err(fault) => push(build, written, fault),
        }
    }
    let is_any = |written: &&Spanned<Origin>| matches!(&written.value, Origin::Text(text) if text == "*");
    let Some(any) = config.origins.iter().find(is_any) else { return origins };
    if config.credentials {
        push(build, any, fault("origins `*` cannot be used with credentials", "list the origins"));
    }
    if !config.origins.iter().all(|written| is_any(&written)) {
        push(
            build,
            any,
            fault("`*` allows every origin, the others too", "write `\"*\"` alone, or list the origins"),
        );
    }
    if config.enforce_origin {
        push(
            build,
            any,
            fault("`enforce_origin` refuses nothing where `*` is allowed", "list the origins, or remove it"),
        );
    }
    origins
}

fn methods(written: &[Spanned<String>], build: &mut Build) -> Vec<Method> {
    let mut methods = Vec::new();
    for entry in written {
        match method(entry, &methods) {
            Ok(method) => methods.push(method),
            Err(fault) => push(build, entry, fault),
        }
    }
    methods
}

fn method(text: &str, known: &[Method]) -> Result<Method, Fault> {
    let upper = text.to_ascii_uppercase();
    if text == "*" {
        return Err(fault(
            "`*` is not a method",
            "list the methods, or leave `methods` out for those of the routes",
        ));
    }
    // Fetch, "forbidden method".
    if ["CONNECT", "TRACE", "TRACK"].contains(&upper.as_str()) {
        return Err(fault(format!("no page may use `{text}`"), "remove it"));
    }
    if text != upper && ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&upper.as_str())
    {
        return Err(fault(
            format!("`{text}` is not a method: they are written in capitals"),
            format!("write `{upper}`"),
        ));
    }
    match Method::from_bytes(text.as_bytes()) {
        Err(_) => Err(fault(format!("`{text}` is not a method"), "write `GET`, `POST` and the like")),
        Ok(method) if known.contains(&method) => {
            Err(fault(format!("the method `{text}` is given twice"), "remove one"))
        }
        Ok(method) => Ok(method),
    }
}

fn headers(config: &Spanned<Config>, build: &mut Build) -> AllowedHeaders {
    let any = config.headers.iter().find(|name| name.as_str() == "*");
    if let Some(any) = any.filter(|_| config.credentials) {
        push(build, any, fault("headers `*` cannot be used with credentials", "list the headers"));
    }
    let names = names(&config.headers, build);
    let value = list(any.is_some(), &names);
    AllowedHeaders { any: any.is_some(), names: HashSet::from_iter(names), value }
}

/// What pages may read of every answer, and of those on which limits have said something.
fn expose(config: &Spanned<Config>, build: &mut Build) -> (Option<HeaderValue>, Option<HeaderValue>) {
    let any = config.expose.iter().find(|name| name.as_str() == "*");
    if let Some(any) = any.filter(|_| config.credentials) {
        push(build, any, fault("`*` exposes nothing with credentials", "list the headers"));
    }
    let mut names = names(&config.expose, build);
    let always = list(any.is_some(), &names);
    for name in OF_LIMITS.map(HeaderName::from_static) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    (always, list(any.is_some(), &names))
}

/// The names but for `*`.
fn names(written: &[Spanned<String>], build: &mut Build) -> Vec<HeaderName> {
    let mut names: Vec<HeaderName> = Vec::new();
    let mut stars = 0;
    for entry in written {
        let result = match HeaderName::from_bytes(entry.as_bytes()) {
            _ if entry.as_str() == "*" => {
                stars += 1;
                if stars < 2 {
                    continue;
                }
                Err(fault("`*` is given twice", "remove one"))
            }
            Err(_) => {
                Err(fault(format!("`{}` is not a header name", **entry), "write letters, digits and `-`"))
            }
            Ok(name) if names.contains(&name) => Err(fault(
                format!("the header `{}` is given twice", **entry),
                "remove one; case makes no difference",
            )),
            Ok(name) => Ok(name),
        };
        match result {
            Ok(name) => names.push(name),
            Err(fault) => push(build, entry, fault),
        }
    }
    names
}

fn list(any: bool, names: &[HeaderName]) -> Option<HeaderValue> {
    let mut all: Vec<&str> = Vec::with_capacity(names.len() + 1);
    all.extend(any.then_some("*"));
    all.extend(names.iter().map(HeaderName::as_str));
    if all.is_empty() {
        return None;
    }
    HeaderValue::from_str(&all.join(", ")).ok()
}
