//! Routes that answer by themselves: `respond` and `redirect`.

use std::str::FromStr;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::document::{Redirect, Respond, Route as RouteConfig};
use super::route::{Action, template_of};
use crate::config::{Build, Spanned};
use crate::record::Record;
use crate::reply::Reply;
use crate::template::{Freedom, Template};

/// The answer of `respond`, the same for every request; what cannot be in it is an error.
pub(super) fn respond(written: &Spanned<Respond>, build: &mut Build) -> Option<Reply> {
    let mut headers = HeaderMap::new();
    let status = StatusCode::from_u16(written.status).ok()?;
    match HeaderValue::from_str(&written.content_type) {
        Ok(value) => headers.insert(CONTENT_TYPE, value),
        Err(_) => {
            let site = &written.content_type.site;
            build.errors.push(
                site,
                &*written.content_type.path,
                "this is not a media type",
                "write such as `application/json`",
            );
            None
        }
    };
    for (name, value) in &written.headers {
        match (HeaderName::from_str(name), HeaderValue::from_str(value)) {
            (Ok(name), _) if framing(&name) => {
                let cause = format!("`{name}` is set by the gateway itself");
                build.errors.push(&value.site, &*value.path, cause, "remove it");
            }
            (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
            _ => build.errors.push(
                &value.site,
                &*value.path,
                format!("`{name}: {}` is not a header field", value.value),
                "use a token for its name and printable text for its value",
            ),
        }
    }
    let bodiless =
        matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless && !written.body.is_empty() {
        let path = format!("{}.body", written.path);
        build.errors.push(
            &written.site,
            path,
            format!("a {} answer has no body", status.as_u16()),
            "remove `body`, or use status 200",
        );
    }
    if bodiless {
        headers.remove(CONTENT_TYPE);
    } else {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(written.body.len()));
    }
    Some(Reply { status, headers, body: Bytes::from(written.body.clone()) })
}

/// Fields that frame a message or a connection (RFC 9110 §7.6.1, RFC 9112 §6).
fn framing(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-length"
            | "transfer-encoding"
            | "connection"
            | "keep-alive"
            | "upgrade"
            | "te"
            | "trailer"
            | "proxy-connection"
    )
}

/// A route that redirects; its address is made for each request, by [`redirect_reply`].
pub(super) fn redirect(
    written: &Spanned<Redirect>,
    config: &RouteConfig,
    build: &mut Build,
) -> Option<Action> {
    let status = &written.status;
    if !matches!(status.value, 301 | 302 | 303 | 307 | 308) {
        let cause = format!("{} is not a redirect", status.value);
        build.errors.push(
            &status.site,
            format!("{}.status", written.path),
            cause,
            "write 301, 302, 303, 307 or 308",
        );
        return None;
    }
    let to = template_of(&written.to, config, build)?;
    if !(written.to.starts_with('/') || written.to.contains("://") || written.to.starts_with('{')) {
        let cause = format!("`{}` is neither a URL nor a path", written.to.value);
        build.errors.push(
            &written.to.site,
            &*written.to.path,
            cause,
            "write `https://{domainName}/new` or `/new`",
        );
    }
    leads_where_it_says(&to, &written.to, build);
    Some(Action::Redirect { to, status: StatusCode::from_u16(status.value).ok()? })
}

/// A redirect to wherever a client likes lends our name to whoever fishes for passwords.
fn leads_where_it_says(to: &Template, written: &Spanned<String>, build: &mut Build) {
    let (cause, cure) = match to.freedom() {
        None => return,
        Some(Freedom::Scheme) => (
            "a client could choose the scheme of this address".to_owned(),
            "write it out: `https://`".to_owned(),
        ),
        Some(Freedom::Host(variable)) => (
            format!("`{{{variable}}}` ends the host: a client could choose where this address leads"),
            format!(
                "write a slash between host and variable (`https://example.com/{{{variable}}}`), or a domain of yours \
                 behind it (`https://{{{variable}}}.example.com/`)"
            ),
        ),
    };
    build.errors.push(&written.site, &*written.path, cause, cure);
}

/// The answer of a redirect (RFC 9110 §15.4).
pub(super) fn redirect_reply(to: &Template, status: StatusCode, record: &Record) -> Option<Reply> {
    let mut location = String::new();
    to.render_url(record, &mut location);
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, HeaderValue::from_str(&location).ok()?);
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    if !matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    Some(Reply { status, headers, body: Bytes::new() })
}
