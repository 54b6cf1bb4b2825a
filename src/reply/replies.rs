//! `replies`, compiled: how each refusal is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::catalogue::DEFAULTS;
use super::{Config, Kind, Refusal, Reply, Wants};
use crate::config::{Build, Spanned};
use crate::record::Record;
use crate::template::{Answer, Escape, Fact, Template, Variable, push_json};

/// How each kind of refusal is told.
#[derive(Clone, Debug)]
pub struct Replies {
    /// The prefix of `type`.
    problem_types: Box<str>,
    /// By kind; none where nobody said otherwise.
    custom: BTreeMap<Kind, Arc<Custom>>,
}

/// One entry of `replies`, compiled.
#[derive(Clone, Debug)]
struct Custom {
    status: Option<StatusCode>,
    headers: Vec<(HeaderName, Template)>,
    body: Option<Body>,
}

#[derive(Clone, Debug)]
struct Body {
    content_type: HeaderValue,
    escape: Escape,
    template: Template,
}

impl Replies {
    /// Compiles `replies`; `problem_types` is `server.problem_types`. None when `build.errors` says why.
    pub fn compile(
        problem_types: &str,
        replies: &BTreeMap<String, Spanned<Config>>,
        build: &mut Build,
    ) -> Option<Self> {
        let before = build.errors.errors().len();
        if !problem_types.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b)) {
            let site = crate::config::Site::default_value();
            let cause = format!("`{problem_types}` cannot begin an address");
            build.errors.push(&site, "server.problem_types", cause, "write the beginning of a URI");
        }
        let mut custom: BTreeMap<Kind, Arc<Custom>> = BTreeMap::new();
        let mut classes = Vec::new();
        for (name, config) in replies {
            let compiled = Custom::compile(config, build).map(Arc::new);
            if let Some((_, class)) = DEFAULTS.iter().find(|(default, _)| default == name) {
                classes.extend(compiled.map(|compiled| (*class, compiled)));
                continue;
            }
            let Some(kind) = Kind::by_name(name) else {
                let cause = format!("unknown kind of reply `{name}`");
                let cure = format!("the nearest is `{}`", Kind::nearest(name));
                build.errors.push(&config.site, &*config.path, cause, cure);
                continue;
            };
            if let Some(compiled) = compiled
                && custom.insert(kind, compiled).is_some()
            {
                let cause = format!("`{}` is there twice, once by AWS's name", kind.name());
                build.errors.push(&config.site, &*config.path, cause, "keep one of them");
            }
        }
        for (class, compiled) in classes {
            for kind in Kind::ALL.iter().filter(|kind| kind.status().as_u16() / 100 == class) {
                custom.entry(*kind).or_insert_with(|| Arc::clone(&compiled));
            }
        }
        let clean = build.errors.errors().len() == before;
        clean.then(|| Self { problem_types: problem_types.into(), custom })
    }

    /// The answer to a request that is refused: its kind's words and fields, never the log's message.
    pub fn render(&self, refusal: &Refusal, record: &Record, wants: &Wants) -> Reply {
        let kind = refusal.kind;
        let custom = self.custom.get(&kind);
        let status = custom.and_then(|custom| custom.status).unwrap_or_else(|| kind.status());
        let status = refusal.status.unwrap_or(status);
        let answer = Answer { status: status.as_u16(), response_type: kind.name(), message: kind.detail() };
        let body = custom.and_then(|custom| custom.body.as_ref());
        let mut reply = match (wants, body) {
            (Wants::Grpc, _) => grpc(kind),
            (_, Some(body)) => {
                let mut text = Vec::new();
                body.template.write(body.escape, record, Some(&answer), &mut text);
                Reply::new(status, body.content_type.clone(), text)
            }
            (Wants::Text, None) => text(kind, status, record),
            (Wants::Problem, None) => self.problem(refusal, status, record),
        };
        let headers = &mut reply.headers;
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = kind.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        add(headers, &refusal.headers);
        for (name, template) in custom.iter().flat_map(|custom| &custom.headers) {
            let mut value = Vec::new();
            template.write(Escape::Header, record, Some(&answer), &mut value);
            // A value that cannot stand in a field was refused at load; variables bring printable ASCII only.
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert(name.clone(), value);
            }
        }
        if let (Wants::Grpc, Some(wait)) = (wants, pushback(headers)) {
            headers.insert("grpc-retry-pushback-ms", wait);
        }
        reply
    }

    /// RFC 9457 §3.
    fn problem(&self, refusal: &Refusal, status: StatusCode, record: &Record) -> Reply {
        let kind = refusal.kind;
        let registered = refusal.violated.as_ref().and_then(|_| kind.registered());
        let mut json = Vec::with_capacity(384);
        json.extend_from_slice(b"{\"type\":\"");
        match registered {
            Some((address, _)) => json.extend_from_slice(address.as_bytes()),
            None => {
                push_json(self.problem_types.as_bytes(), &mut json);
                json.extend_from_slice(kind.slug().as_bytes());
            }
        }
        json.extend_from_slice(b"\",\"title\":\"");
        push_json(registered.map_or_else(|| kind.title(), |(_, title)| title).as_bytes(), &mut json);
        json.extend_from_slice(b"\",\"status\":");
        json.extend_from_slice(status.as_str().as_bytes());
        json.extend_from_slice(b",\"detail\":\"");
        push_json(kind.detail().as_bytes(), &mut json);
        json.extend_from_slice(b"\",\"instance\":\"");
        push_json(record.request_id.as_str().as_bytes(), &mut json);
        json.push(b'"');
        if let Some(violated) = &refusal.violated {
            push_violated(&violated.0, &mut json);
        }
        json.extend_from_slice(b"}\n");
        Reply::new(status, HeaderValue::from_static("application/problem+json"), json)
    }
}

/// The names of violated policies (draft-ietf-httpapi-ratelimit-headers-10).
fn push_violated(names: &[Arc<str>], json: &mut Vec<u8>) {
    for (at, name) in names.iter().enumerate() {
        json.extend_from_slice(if at == 0 { b",\"violated-policies\":[\"" } else { b",\"" });
        push_json(name.as_bytes(), json);
        json.push(b'"');
    }
    if !names.is_empty() {
        json.push(b']');
    }
}

/// For people.
fn text(kind: Kind, status: StatusCode, record: &Record) -> Reply {
    let (title, detail, id) = (kind.title(), kind.detail(), record.request_id.as_str());
    let body = format!("{} {title}\n\n{detail}\n\nRequest: {id}\n", status.as_u16());
    Reply::new(status, HeaderValue::from_static("text/plain; charset=utf-8"), body)
}

/// The trailers stand in the head, as a response without messages has them ("Trailers-Only" of gRPC over HTTP/2).
fn grpc(kind: Kind) -> Reply {
    let mut reply = Reply::new(StatusCode::OK, HeaderValue::from_static("application/grpc"), "");
    reply.headers.insert("grpc-status", HeaderValue::from(u16::from(kind.grpc_status())));
    // The catalogue's sentences are printable ASCII without `%`, which is what grpc-message leaves unescaped.
    reply.headers.insert("grpc-message", HeaderValue::from_static(kind.detail()));
    reply
}

/// What `Retry-After` says, as clients that speak gRPC hear it: milliseconds, in 31 bits (gRFC A6). None where it is no number.
fn pushback(headers: &HeaderMap) -> Option<HeaderValue> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    let most = u64::from(i32::MAX.unsigned_abs());
    Some(HeaderValue::from(seconds.saturating_mul(1000).min(most)))
}

/// The first of a name takes the place of ours, further ones stand beside it.
fn add(headers: &mut HeaderMap, fields: &[(HeaderName, HeaderValue)]) {
    for (index, (name, value)) in fields.iter().enumerate() {
        let seen = fields.iter().take(index).any(|(earlier, _)| earlier == name);
        if seen {
            headers.append(name.clone(), value.clone());
        } else {
            headers.insert(name.clone(), value.clone());
        }
    }
}

impl Custom {
    fn compile(config: &Spanned<Config>, build: &mut Build) -> Option<Self> {
        let before = build.errors.errors().len();
        let status = config.status.and_then(|status| {
            let valid = StatusCode::from_u16(status).ok().filter(|_| (400..=599).contains(&status));
            if valid.is_none() {
                let path = format!("{}.status", config.path);
                let cause = format!("a refusal cannot have status {status}");
                build.errors.push(&config.site, path, cause, "write a status from 400 to 599");
            }
            valid
        });
        let headers =
            config.headers.iter().filter_map(|(name, value)| compile_header(name, value, build)).collect();
        let body = match (&config.body, &config.content_type) {
            (Some(body), content_type) => compile_body(body, content_type.as_ref(), build),
            (None, Some(content_type)) => {
                let cause = "a `content_type` without a `body` says nothing";
                build.errors.push(
                    &content_type.site,
                    &*content_type.path,
                    cause,
                    "add `body`, or leave it out",
                );
                None
            }
            (None, None) => None,
        };
        (build.errors.errors().len() == before).then_some(Self { status, headers, body })
    }
}

fn compile_header(name: &str, value: &Spanned<String>, build: &mut Build) -> Option<(HeaderName, Template)> {
    const OURS: [HeaderName; 6] = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::TRAILER,
        header::UPGRADE,
        header::TE,
    ];
    let mut refuse = |cause: String, cure: &'static str| {
        build.errors.push(&value.site, &*value.path, cause, cure);
        None
    };
    let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
        return refuse(format!("`{name}` is no name of a header field"), "use letters, digits and `-`");
    };
    if OURS.contains(&header) {
        return refuse(format!("`{header}` belongs to the connection"), "leave it out");
    }
    if header == header::CONTENT_TYPE {
        return refuse("the type goes with the body".to_owned(), "write it as `content_type` beside `body`");
    }
    let template = compile_template(value, build)?;
    if template.texts().any(|text| HeaderValue::from_str(text).is_err()) {
        let cause = "a header field's value cannot hold line breaks or control characters";
        build.errors.push(&value.site, &*value.path, cause, "write it on one line, in ASCII");
        return None;
    }
    Some((header, template))
}

fn compile_body(
    body: &Spanned<String>,
    content_type: Option<&Spanned<String>>,
    build: &mut Build,
) -> Option<Body> {
    let template = compile_template(body, build)?;
    let text = content_type.map_or("text/plain", |text| text.value.as_str());
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let Some(content_type) = HeaderValue::from_str(text).ok().filter(|_| is_media_type(&essence)) else {
        let place = content_type.unwrap_or(body);
        let cause = format!("`{text}` is no content type");
        build.errors.push(&place.site, &*place.path, cause, "write one such as `application/json`");
        return None;
    };
    let escape = if essence.ends_with("/json") || essence.ends_with("+json") {
        Escape::Json
    } else if essence.ends_with("/html") || essence.ends_with("/xml") || essence.ends_with("+xml") {
        Escape::Html
    } else {
        Escape::Text
    };
    if escape == Escape::Json && !makes_json(&template) {
        let cure = "put variables within quotes, and write a brace that is meant as `{{` or `}}`";
        build.errors.push(&body.site, &*body.path, "this body does not make JSON", cure);
        return None;
    }
    Some(Body { content_type, escape, template })
}

fn is_media_type(essence: &str) -> bool {
    let token = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

/// Whether the body is JSON once its variables have values: a 0 stands for each, which is right within quotes and without.
fn makes_json(template: &Template) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(&template.with_placeholders("0")).is_ok()
}

/// A template that clients will read: what only the log may tell is refused.
fn compile_template(text: &Spanned<String>, build: &mut Build) -> Option<Template> {
    let template = match Template::parse(text) {
        Ok(template) => template,
        Err(cause) => {
            let cure = "use the names of the access log, such as `{requestId}`";
            build.errors.push(&text.site, &*text.path, cause, cure);
            return None;
        }
    };
    let inside = template.variables().find(|variable| {
        matches!(
            variable,
            Variable::Fact(
                Fact::ErrorPolicy
                    | Fact::ErrorSite
                    | Fact::IntegrationServer
                    | Fact::IntegrationError
                    | Fact::AuthorizeError
                    | Fact::WafError
                    | Fact::Would
            )
        )
    });
    if let Some(variable) = inside {
        let cause = format!("`{{{variable}}}` would tell clients what is inside");
        let cure = "give them `{requestId}`, by which the log is found";
        build.errors.push(&text.site, &*text.path, cause, cure);
        return None;
    }
    Some(template)
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;

    fn record() -> Record {
        let mut record = Record::new(0, 1, Instant::now(), SystemTime::now());
        record.request_id = crate::request::RequestId::parse(b"req-1").unwrap();
        record.user_agent = Some(HeaderValue::from_static("a\"b<c>"));
        record
    }

    fn entry(text: &str) -> Spanned<Config> {
        let mut spanned = Spanned::unwritten(serde_json::from_str::<Config>(text).unwrap());
        spanned.path = "replies.X".into();
        spanned
    }

    fn compile(entries: &[(&str, &str)]) -> Result<Replies, Vec<String>> {
        let map = entries.iter().map(|(name, text)| ((*name).to_owned(), entry(text))).collect();
        let mut build = Build::default();
        let replies = Replies::compile("urn:portcullis:problem:", &map, &mut build);
        let errors = build.errors.errors().iter().map(|e| format!("{}; {}", e.cause, e.cure));
        replies.ok_or_else(|| errors.collect())
    }

    fn refusal(kind: Kind) -> Refusal {
        Refusal::new(kind, "word", "secret: rule 7 of 10.0.0.9")
    }

    fn body(reply: &Reply) -> &str {
        std::str::from_utf8(&reply.body).unwrap()
    }

    #[test]
    fn a_refusal_is_a_problem_document() {
        let replies = compile(&[]).unwrap();
        let allow = HeaderValue::from_static("GET, HEAD");
        let refusal = refusal(Kind::MethodNotAllowed).with_header(header::ALLOW, allow.clone());
        let reply = replies.render(&refusal, &record(), &Wants::Problem);
        assert_eq!(reply.status, 405);
        assert_eq!(
            body(&reply),
            "{\"type\":\"urn:portcullis:problem:method-not-allowed\",\"title\":\"Method not allowed\",\"status\":405,\
             \"detail\":\"This resource does not take this method.\",\"instance\":\"req-1\"}\n"
        );
        assert_eq!(reply.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(reply.headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(reply.headers[header::CONTENT_LENGTH], reply.body.len().to_string());
        assert_eq!(reply.headers[header::ALLOW], allow);
    }

    #[test]
    fn what_limits_refuse_has_the_drafts_types_and_the_names_that_clients_may_know() {
        let replies = compile(&[]).unwrap();
        let told = |kind, violated: &[&str]| {
            let names = violated.iter().map(|name| Arc::from(*name)).collect();
            let violated = Some(Box::new(crate::reply::Violated(names)));
            let refusal = Refusal { violated, ..refusal(kind) };
            body(&replies.render(&refusal, &record(), &Wants::Problem)).to_owned()
        };
        assert_eq!(
            told(Kind::Throttled, &["per_client", "per_user"]),
            "{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\
             \"title\":\"Request cannot be satisfied as assigned quota has been exceeded\",\"status\":429,\
             \"detail\":\"Requests come faster than the limit allows.\",\"instance\":\"req-1\",\
             \"violated-policies\":[\"per_client\",\"per_user\"]}\n"
        );
        let busy = told(Kind::Overloaded, &[]);
        assert!(busy.contains("#temporary-reduced-capacity\"") && !busy.contains("violated"), "{busy}");
        let of_ours = body(&replies.render(&refusal(Kind::Throttled), &record(), &Wants::Problem)).to_owned();
        assert!(of_ours.contains("urn:portcullis:problem:throttled"), "{of_ours}");
    }

    #[test]
    fn every_kind_has_words_that_leak_nothing_and_fit_every_form() {
        let replies = compile(&[]).unwrap();
        for kind in Kind::ALL {
            for wants in [Wants::Problem, Wants::Text, Wants::Grpc] {
                let reply = replies.render(&refusal(*kind), &record(), &wants);
                let told = format!("{:?} {}", reply.headers, body(&reply));
                assert!(!told.contains("secret") && !told.contains("10.0.0.9"), "{told}");
                assert!(
                    reply.status.is_client_error() || reply.status.is_server_error() || wants == Wants::Grpc
                );
            }
            let visible = |b: u8| (0x20..0x7f).contains(&b) && b != b'%';
            assert!(kind.detail().bytes().all(visible), "grpc-message is taken as it is: {}", kind.detail());
            assert!(kind.status().as_u16() >= 400);
            assert_eq!(Kind::by_name(kind.name()), Some(*kind));
        }
        assert_eq!(Kind::by_name("RESOURCE_NOT_FOUND"), Some(Kind::RouteNotFound));
    }

    #[test]
    fn a_browser_reads_text_and_grpc_its_status() {
        let replies = compile(&[]).unwrap();
        let reply = replies.render(&refusal(Kind::RouteNotFound), &record(), &Wants::Text);
        assert_eq!(body(&reply), "404 Not found\n\nNothing is served at this address.\n\nRequest: req-1\n");
        let reply = replies.render(&refusal(Kind::Overloaded), &record(), &Wants::Grpc);
        assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0));
        assert_eq!(reply.headers["grpc-status"], "14");
        assert_eq!(reply.headers["grpc-message"], "There are too many requests at the moment.");
        assert_eq!(reply.headers[header::CONTENT_TYPE], "application/grpc");
        assert_eq!(reply.headers[header::RETRY_AFTER], "1");
        assert_eq!(reply.headers["grpc-retry-pushback-ms"], "1000");
        for (told, heard) in [("30", Some("30000")), ("9999999999", Some("2147483647")), ("soon", None)] {
            let refusal =
                refusal(Kind::Throttled).with_header(header::RETRY_AFTER, HeaderValue::from_static(told));
            let reply = replies.render(&refusal, &record(), &Wants::Grpc);
            let heard = heard.map(HeaderValue::from_static);
            assert_eq!(reply.headers.get("grpc-retry-pushback-ms"), heard.as_ref());
            let reply = replies.render(&refusal, &record(), &Wants::Problem);
            assert_eq!(reply.headers.get("grpc-retry-pushback-ms"), None);
        }
        let reply = replies.render(&Refusal::new(Kind::Throttled, "rate", ""), &record(), &Wants::Grpc);
        assert_eq!(reply.headers.get("grpc-retry-pushback-ms"), None);
    }

    #[test]
    fn fields_of_the_refusal_replace_ours_and_stand_beside_each_other() {
        let replies = compile(&[]).unwrap();
        let value = HeaderValue::from_static;
        let refusal = refusal(Kind::Overloaded)
            .with_header(header::RETRY_AFTER, value("9"))
            .with_header(header::WWW_AUTHENTICATE, value("Bearer"))
            .with_header(header::WWW_AUTHENTICATE, value("Basic"));
        let reply = replies.render(&refusal, &record(), &Wants::Problem);
        assert_eq!(reply.headers.get_all(header::RETRY_AFTER).iter().collect::<Vec<_>>(), ["9"]);
        assert_eq!(reply.headers.get_all(header::WWW_AUTHENTICATE).iter().count(), 2);
    }

    #[test]
    fn a_reply_can_be_customised() {
        let replies = compile(&[
            (
                "ACCESS_DENIED",
                r#"{"status": 404, "headers": {"x-id": "{requestId}", "cache-control": "private"},
                    "body": "{{\"m\":\"{error.message}\",\"s\":{status},\"k\":\"{error.responseType}\",\"ua\":\"{identity.userAgent}\"}}",
                    "content_type": "application/json; charset=utf-8"}"#,
            ),
            ("RESOURCE_NOT_FOUND", r#"{"body": "<p>{identity.userAgent}</p>", "content_type": "text/html"}"#),
            ("DEFAULT_4XX", r#"{"status": 418}"#),
            ("DEFAULT_5XX", r#"{"body": "later"}"#),
        ])
        .unwrap();
        let mut record = record();
        record.error = Some(refusal(Kind::AccessDenied).facts());
        let reply = replies.render(&refusal(Kind::AccessDenied), &record, &Wants::Text);
        assert_eq!(reply.status, 404);
        assert_eq!(
            body(&reply),
            r#"{"m":"Access to this resource is not allowed.","s":404,"k":"ACCESS_DENIED","ua":"a\"b<c>"}"#
        );
        assert_eq!(reply.headers[header::CONTENT_TYPE], "application/json; charset=utf-8");
        assert_eq!(reply.headers["x-id"], "req-1");
        assert_eq!(reply.headers[header::CACHE_CONTROL], "private");

        let reply = replies.render(&refusal(Kind::RouteNotFound), &record, &Wants::Problem);
        assert_eq!((reply.status.as_u16(), body(&reply)), (404, "<p>a&quot;b&lt;c&gt;</p>"));
        let reply = replies.render(&refusal(Kind::CorsRefused), &record, &Wants::Problem);
        assert_eq!(reply.status, 418);
        assert!(body(&reply).contains("\"status\":418"));
        let reply = replies.render(&refusal(Kind::NoHealthyServer), &record, &Wants::Problem);
        assert_eq!((reply.status.as_u16(), body(&reply)), (503, "later"));
        assert_eq!(reply.headers[header::CONTENT_TYPE], "text/plain");
        let reply = replies.render(&refusal(Kind::AccessDenied), &record, &Wants::Grpc);
        assert_eq!((reply.status.as_u16(), reply.headers["x-id"].as_bytes()), (200, &b"req-1"[..]));
    }

    #[test]
    fn what_cannot_be_told_is_refused_at_load() {
        for (name, text, error) in [
            ("ACESS_DENIED", "{}", "unknown kind of reply `ACESS_DENIED`; the nearest is `ACCESS_DENIED`"),
            ("access-denied", "{}", "unknown kind of reply `access-denied`; the nearest is `ACCESS_DENIED`"),
            (
                "THROTTLED",
                r#"{"status": 200}"#,
                "a refusal cannot have status 200; write a status from 400 to 599",
            ),
            (
                "THROTTLED",
                r#"{"headers": {"a b": "x"}}"#,
                "`a b` is no name of a header field; use letters, digits and `-`",
            ),
            (
                "THROTTLED",
                r#"{"headers": {"Content-Length": "0"}}"#,
                "`content-length` belongs to the connection; leave it out",
            ),
            (
                "THROTTLED",
                r#"{"headers": {"content-type": "a/b"}}"#,
                "the type goes with the body; write it as `content_type` beside `body`",
            ),
            (
                "THROTTLED",
                r#"{"headers": {"x-a": "a\nb"}}"#,
                "a header field's value cannot hold line breaks or control characters; write it on one line, in ASCII",
            ),
            (
                "THROTTLED",
                r#"{"body": "{requestid}"}"#,
                "unknown variable `{requestid}`; the nearest is `{requestId}`; use the names of the access log, such as `{requestId}`",
            ),
            (
                "THROTTLED",
                r#"{"body": "{error.site}"}"#,
                "`{error.site}` would tell clients what is inside; give them `{requestId}`, by which the log is found",
            ),
            (
                "THROTTLED",
                r#"{"content_type": "text/html"}"#,
                "a `content_type` without a `body` says nothing; add `body`, or leave it out",
            ),
            (
                "THROTTLED",
                r#"{"body": "x", "content_type": "html"}"#,
                "`html` is no content type; write one such as `application/json`",
            ),
            (
                "THROTTLED",
                r#"{"body": "{{\"a\": {requestId}", "content_type": "application/json"}"#,
                "this body does not make JSON; put variables within quotes, and write a brace that is meant as `{{` or `}}`",
            ),
        ] {
            assert_eq!(compile(&[(name, text)]).unwrap_err(), [error], "{text}");
        }
        let both = compile(&[("RESOURCE_NOT_FOUND", "{}"), ("ROUTE_NOT_FOUND", "{}")]);
        assert_eq!(
            both.unwrap_err(),
            ["`ROUTE_NOT_FOUND` is there twice, once by AWS's name; keep one of them"]
        );
    }
}
