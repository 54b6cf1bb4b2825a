//! The access log: one record a request, as a JSON object or a template's line.
//!
//! Only facts that a [`Record`] has can be told: no header field but `User-Agent` is in it, and the query never is, so neither
//! credentials nor cookies can get here.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::metrics::Metrics;
use super::sink::{Lines, Sink};
use super::{Access, AccessTarget};
use crate::config::{Build, OrNone, Spanned};
use crate::record::{ErrorFacts, Integration, Phase, Record, RouteFacts, Timestamp, push_millis};
use crate::request::TlsFacts;
use crate::state::Live;
use crate::template::{Escape, Template, push_json};

/// The access log, compiled.
#[derive(Debug)]
pub(super) struct AccessLog {
    pub(super) sink: Arc<Sink>,
    format: Format,
    /// What is the same for every request of a route, by the route's index.
    routes: Vec<RouteText>,
}

#[derive(Debug)]
enum Format {
    Json,
    Line(Template),
}

/// Pieces of JSON that are made once a snapshot.
#[derive(Debug)]
struct RouteText {
    /// `,"route":"orders","labels":{…}`
    route: Box<[u8]>,
    /// `,"resourcePath":"/orders/{*rest}"`
    resource_path: Box<[u8]>,
}

impl AccessLog {
    /// Compiles `log.access`. None where there is none, or where `build.errors` says why. Opens nothing: `check` must not make
    /// files.
    pub(super) fn compile(
        routes: &[Arc<RouteFacts>],
        config: &Access,
        metrics: &Metrics,
        live: &Live,
        build: &mut Build,
    ) -> Option<Self> {
        let format = compile_format(&config.format, build);
        let OrNone::Some(to) = &config.to else {
            return None;
        };
        let target = compile_target(to, build)?;
        let sink = live.find_or("access_log", &target.to_string(), || {
            Sink::new(Lines::Access, target.clone(), metrics.log_dropped())
        });
        Some(Self {
            sink,
            format: format?,
            routes: routes.iter().map(|facts| RouteText::of(facts)).collect(),
        })
    }

    /// Writes the line of a request. Never waits for the disk.
    pub(super) fn tell(&self, record: &Record) {
        self.sink.write(record.worker, |out| match &self.format {
            Format::Json => self.write_json(record, out),
            Format::Line(template) => {
                template.write(Escape::Log, record, None, out);
                out.push(b'\n');
            }
        });
    }

    fn write_json(&self, record: &Record, out: &mut Vec<u8>) {
        let at = Timestamp::of(record.started_at);
        out.extend_from_slice(b"{\"requestTime\":\"");
        out.extend_from_slice(at.as_str().as_bytes());
        number("\",\"requestTimeEpoch\":", at.epoch_millis(), out);
        text(",\"requestId\":\"", Some(record.request_id.as_str()), out);
        text(",\"extendedRequestId\":\"", Some(record.extended_request_id.as_str()), out);
        number(",\"generation\":", record.generation, out);
        let route = record.route.as_ref().and_then(|route| self.routes.get(route.index));
        out.extend_from_slice(route.map_or(b"", |route| &route.route));
        write_identity(record, out);
        text(",\"httpMethod\":\"", record.method.as_ref().map(|m| m.as_str()), out);
        if let Some(target) = &record.target {
            text(",\"domainName\":\"", Some(target.host()).filter(|host| !host.is_empty()), out);
            text(",\"path\":\"", Some(target.path()), out);
        }
        out.extend_from_slice(route.map_or(b"", |route| &route.resource_path));
        text(",\"protocol\":\"", record.protocol.map(|p| p.as_str()), out);
        write_tls(record.tls.as_deref(), out);
        if record.status != 0 {
            number(",\"status\":", record.status, out);
        }
        number(",\"requestLength\":", record.request_length, out);
        number(",\"responseLength\":", record.response_length, out);
        latency(",\"responseLatency\":", record.response_latency, out);
        latency(",\"ownLatency\":", record.own_latency, out);
        write_integration(record.integration.as_ref(), out);
        write_phase(",\"authorize\":{", record.authorize.as_ref(), out);
        write_phase(",\"waf\":{", record.waf.as_ref(), out);
        write_error(record.error.as_ref(), out);
        write_would(&record.would, out);
        out.extend_from_slice(b"}\n");
    }
}

impl RouteText {
    fn of(facts: &RouteFacts) -> Self {
        let mut route = Vec::new();
        text(",\"route\":\"", Some(&facts.name), &mut route);
        if !facts.labels.is_empty() {
            route.extend_from_slice(b",\"labels\":{");
            for (name, value) in &facts.labels {
                route.push(b'"');
                push_json(name.as_bytes(), &mut route);
                text("\":\"", Some(value), &mut route);
                route.push(b',');
            }
            close(&mut route);
        }
        let mut resource_path = Vec::new();
        text(",\"resourcePath\":\"", Some(&facts.resource_path), &mut resource_path);
        Self { route: route.into(), resource_path: resource_path.into() }
    }
}

fn compile_format(format: &Spanned<String>, build: &mut Build) -> Option<Format> {
    if format.value == "json" {
        return Some(Format::Json);
    }
    let mut refuse = |cause: String, cure: &'static str| {
        build.errors.push(&format.site, &*format.path, cause, cure);
        None
    };
    let template = match Template::parse(format) {
        Ok(template) => template,
        Err(cause) => return refuse(cause, "write `json`, or a template with the names of the access log"),
    };
    if template.texts().any(|text| text.contains(char::is_control)) {
        return refuse(
            "a line of the log cannot hold line breaks".to_owned(),
            "write the template on one line",
        );
    }
    if template.is_static() {
        let cause = format!("`{}` would write the same line for every request", format.value);
        return refuse(cause, "write `json`, or a template such as '{identity.sourceIp} {path} {status}'");
    }
    Some(Format::Line(template))
}

fn compile_target(to: &Spanned<String>, build: &mut Build) -> Option<AccessTarget> {
    let mut refuse = |cause: String, cure: &'static str| {
        build.errors.push(&to.site, &*to.path, cause, cure);
        None
    };
    let path = match to.value.as_str() {
        "stdout" => return Some(AccessTarget::Stdout),
        "stderr" => return Some(AccessTarget::Stderr),
        "" => {
            return refuse("an empty path".to_owned(), "write `stdout`, `stderr`, a file's path, or `none`");
        }
        text if text.starts_with("unix:") => {
            return refuse(
                "the access log cannot go to a Unix socket yet".to_owned(),
                "write `stdout`, `stderr`, a file's path, or `none`",
            );
        }
        text => build.files.resolve(&to.site, text),
    };
    match writable(&path) {
        Ok(()) => Some(AccessTarget::File(path)),
        Err(why) => {
            let mut cause = String::new();
            let _ = write!(cause, "the access log `{}` cannot be written: {why}", path.display());
            build.errors.push(&to.site, &*to.path, cause, "name a file in a directory that can be written");
            None
        }
    }
}

/// Whether a log could be appended to here, without making the file: the check must leave nothing behind.
fn writable(path: &Path) -> Result<(), String> {
    use rustix::fs::{Access, access};
    if path.is_dir() {
        return Err("it is a directory".to_owned());
    }
    if path.exists() {
        return access(path, Access::WRITE_OK).map_err(|error| error.to_string());
    }
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if !directory.is_dir() {
        return Err(format!("there is no directory `{}`", directory.display()));
    }
    access(directory, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| error.to_string())
}

fn write_identity(record: &Record, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"identity\":{");
    let start = out.len();
    if let Some(client) = record.client {
        out.extend_from_slice(b"\"sourceIp\":\"");
        push_address(client, out);
        out.push(b'"');
    }
    let agent = record.user_agent.as_ref().map(|value| value.as_bytes());
    member(start, "\"userAgent\":\"", agent, out);
    member(start, "\"user\":\"", record.identity.as_ref().map(|i| i.id.as_bytes()), out);
    member(start, "\"caller\":\"", record.caller.as_ref().map(|c| c.as_bytes()), out);
    member(start, "\"apiKeyId\":\"", record.api_key_id.as_ref().map(|k| k.as_bytes()), out);
    if let Some(certificate) = &record.client_certificate {
        comma(start, out);
        out.extend_from_slice(b"\"clientCert\":{");
        text("\"subjectDN\":\"", Some(&certificate.subject_dn), out);
        text(",\"issuerDN\":\"", Some(&certificate.issuer_dn), out);
        text(",\"serialNumber\":\"", Some(&certificate.serial_number), out);
        out.push(b'}');
    }
    out.push(b'}');
}

fn write_tls(tls: Option<&TlsFacts>, out: &mut Vec<u8>) {
    let Some(tls) = tls else {
        return;
    };
    text(",\"tls\":{\"version\":\"", Some(tls.version), out);
    text(",\"cipher\":\"", Some(tls.cipher), out);
    text(",\"group\":\"", tls.group.as_deref(), out);
    text(",\"sni\":\"", tls.sni.as_deref(), out);
    out.extend_from_slice(if tls.resumed { b",\"resumed\":true}" } else { b",\"resumed\":false}" });
}

fn write_integration(integration: Option<&Integration>, out: &mut Vec<u8>) {
    let Some(integration) = integration else {
        return;
    };
    text(",\"integration\":{\"upstream\":\"", Some(&integration.upstream), out);
    text(",\"server\":\"", integration.server.as_deref(), out);
    if let Some(status) = integration.status {
        number(",\"status\":", status, out);
    }
    latency(",\"latency\":", integration.latency, out);
    latency(",\"connectLatency\":", integration.connect_latency, out);
    number(",\"attempts\":", integration.attempts, out);
    text(",\"error\":\"", integration.error.as_deref(), out);
    out.push(b'}');
}

fn write_phase(open: &str, phase: Option<&Phase>, out: &mut Vec<u8>) {
    let Some(phase) = phase else {
        return;
    };
    out.extend_from_slice(open.as_bytes());
    if let Some(status) = phase.status {
        number("\"status\":", status, out);
        out.push(b',');
    }
    if phase.latency.is_some() {
        latency("\"latency\":", phase.latency, out);
        out.push(b',');
    }
    if phase.error.is_some() {
        text("\"error\":\"", phase.error.as_deref(), out);
        out.push(b',');
    }
    close(out);
}

fn write_error(error: Option<&ErrorFacts>, out: &mut Vec<u8>) {
    let Some(error) = error else {
        return;
    };
    text(",\"error\":{\"responseType\":\"", Some(error.response_type), out);
    text(",\"reason\":\"", Some(error.reason), out);
    text(",\"message\":\"", Some(&error.message), out);
    text(",\"policy\":\"", error.policy.as_deref(), out);
    write_site(error, out);
    out.push(b'}');
}

fn write_would(would: &[ErrorFacts], out: &mut Vec<u8>) {
    for (index, error) in would.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b",\"would\":[{" } else { b",{" });
        if error.policy.is_some() {
            text("\"policy\":\"", error.policy.as_deref(), out);
            out.push(b',');
        }
        text("\"reason\":\"", Some(error.reason), out);
        write_site(error, out);
        out.push(b'}');
    }
    if !would.is_empty() {
        out.push(b']');
    }
}

fn write_site(error: &ErrorFacts, out: &mut Vec<u8>) {
    let Some(site) = &error.site else {
        return;
    };
    out.extend_from_slice(b",\"site\":\"");
    push_json(site.file.as_bytes(), out);
    if site.line != 0 {
        number(":", site.line, out);
    }
    out.push(b'"');
}

/// An address; IPv4 by hand, which `Display` takes three times as long for.
fn push_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => {
            let mut buffer = itoa::Buffer::new();
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(buffer.format(octet).as_bytes());
            }
        }
        IpAddr::V6(v6) => {
            // A Vec takes all that is written.
            let _ = std::io::Write::write_fmt(out, format_args!("{v6}"));
        }
    }
}

/// `key` ends with the opening quote.
fn text(key: &str, value: Option<&str>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        out.extend_from_slice(key.as_bytes());
        push_json(value.as_bytes(), out);
        out.push(b'"');
    }
}

/// A member of an object that began at `start`, with a comma if it is not the first.
fn member(start: usize, key: &str, value: Option<&[u8]>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        comma(start, out);
        out.extend_from_slice(key.as_bytes());
        push_json(value, out);
        out.push(b'"');
    }
}

fn comma(start: usize, out: &mut Vec<u8>) {
    if out.len() > start {
        out.push(b',');
    }
}

/// Closes an object whose members each wrote a comma behind themselves.
fn close(out: &mut Vec<u8>) {
    match out.last_mut() {
        Some(last) if *last == b',' => *last = b'}',
        _ => out.push(b'}'),
    }
}

fn number(key: &str, value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn latency(key: &str, value: Option<Duration>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        out.extend_from_slice(key.as_bytes());
        push_millis(value, out);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Instant, SystemTime};

    use http::{HeaderValue, Method};

    use super::*;
    use crate::canonical::Target;
    use crate::config::Site;
    use crate::identity::{self, Identity};
    use crate::record::ClientCertificate;
    use crate::request::{Protocol, RequestId};

    fn route() -> Arc<RouteFacts> {
        Arc::new(RouteFacts {
            index: 0,
            name: "orders".into(),
            resource_path: "/orders/{*rest}".into(),
            labels: BTreeMap::from([("api".into(), "orders".into()), ("st\"age".into(), "prod".into())]),
            site: Site::default_value(),
        })
    }

    fn record() -> Record {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_512_875_120);
        let mut record = Record::new(0, 3, Instant::now(), at);
        record.request_id = RequestId::parse(b"from-a-peer").unwrap();
        record.extended_request_id = RequestId::parse(b"our-own").unwrap();
        record
    }

    fn full() -> Record {
        let mut record = record();
        let millis = |micros| Some(Duration::from_micros(micros));
        record.route = Some(route());
        record.client = Some("192.0.2.7".parse().unwrap());
        record.user_agent = Some(HeaderValue::from_bytes(b"curl/8 \"x\" \xff\t").unwrap());
        record.identity = Some(Arc::new(Identity::new("alice", identity::Method::Jwt, "auth.staff".into())));
        record.caller = Some("app".into());
        record.api_key_id = Some("key-7".into());
        record.client_certificate = Some(Arc::new(ClientCertificate {
            subject_dn: "CN=a".into(),
            issuer_dn: "CN=ca".into(),
            serial_number: "0A".into(),
            ..ClientCertificate::default()
        }));
        record.method = Some(Method::GET);
        record.target =
            Some(Arc::new(Target::of_canonical_parts("api.example.com", "/orders/7", Some("token=s3cret"))));
        record.protocol = Some(Protocol::Http2);
        record.tls = Some(Arc::new(TlsFacts {
            version: "TLSv1.3",
            cipher: "TLS_AES_256_GCM_SHA384",
            group: Some("X25519MLKEM768".into()),
            sni: Some("api.example.com".into()),
            resumed: false,
            client_rule: None,
            client_certificate: None,
        }));
        record.status = 403;
        record.request_length = 5;
        record.response_length = 120;
        record.response_latency = millis(1_234);
        record.own_latency = millis(56);
        record.integration = Some(Integration {
            upstream: "orders".into(),
            server: Some("127.0.0.1:9001".into()),
            status: Some(200),
            latency: millis(1_000),
            connect_latency: millis(0),
            attempts: 2,
            error: Some("reset".into()),
        });
        record.authorize = Some(Phase { status: Some(200), latency: millis(10), error: None });
        record.waf = Some(Phase { status: None, latency: None, error: Some("late".into()) });
        let facts = ErrorFacts {
            response_type: "ACCESS_DENIED",
            reason: "not_allowed",
            message: "192.0.2.7 is in no list".into(),
            policy: Some("access.office".into()),
            site: Some(Site::new("conf/a.yaml", 12, 3)),
        };
        let bare = ErrorFacts { policy: None, site: None, reason: "origin", ..facts.clone() };
        record.would = vec![facts.clone(), bare];
        record.error = Some(facts);
        record
    }

    fn json(record: &Record) -> String {
        let log = AccessLog {
            sink: Arc::new(Sink::new(Lines::Access, AccessTarget::Stdout, Arc::default())),
            format: Format::Json,
            routes: vec![RouteText::of(&route())],
        };
        let mut out = Vec::new();
        log.write_json(record, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_full_record_is_told_in_full() {
        let expected = concat!(
            r#"{"requestTime":"2026-11-24T09:34:35.120Z","requestTimeEpoch":1795512875120,"requestId":"from-a-peer","#,
            r#""extendedRequestId":"our-own","generation":3,"route":"orders","labels":{"api":"orders","st\"age":"prod"},"#,
            r#""identity":{"sourceIp":"192.0.2.7","userAgent":"curl/8 \"x\" �\t","user":"alice","caller":"app","#,
            r#""apiKeyId":"key-7","clientCert":{"subjectDN":"CN=a","issuerDN":"CN=ca","serialNumber":"0A"}},"#,
            r#""httpMethod":"GET","domainName":"api.example.com","path":"/orders/7","resourcePath":"/orders/{*rest}","#,
            r#""protocol":"HTTP/2.0","tls":{"version":"TLSv1.3","cipher":"TLS_AES_256_GCM_SHA384","#,
            r#""group":"X25519MLKEM768","sni":"api.example.com","resumed":false},"#,
            r#""status":403,"requestLength":5,"responseLength":120,"responseLatency":1.234,"ownLatency":0.056,"#,
            r#""integration":{"upstream":"orders","server":"127.0.0.1:9001","status":200,"latency":1.000,"#,
            r#""connectLatency":0.000,"attempts":2,"error":"reset"},"#,
            r#""authorize":{"status":200,"latency":0.010},"waf":{"error":"late"},"#,
            r#""error":{"responseType":"ACCESS_DENIED","reason":"not_allowed","message":"192.0.2.7 is in no list","#,
            r#""policy":"access.office","site":"conf/a.yaml:12"},"#,
            r#""would":[{"policy":"access.office","reason":"not_allowed","site":"conf/a.yaml:12"},{"reason":"origin"}]}"#,
            "\n"
        );
        let line = json(&full());
        assert_eq!(line, expected);
        serde_json::from_str::<serde_json::Value>(&line).unwrap();
    }

    #[test]
    fn what_is_not_known_is_absent() {
        assert_eq!(
            json(&record()),
            concat!(
                r#"{"requestTime":"2026-11-24T09:34:35.120Z","requestTimeEpoch":1795512875120,"requestId":"from-a-peer","#,
                r#""extendedRequestId":"our-own","generation":3,"identity":{},"requestLength":0,"responseLength":0}"#,
                "\n"
            )
        );
    }

    #[test]
    fn secrets_and_line_breaks_never_reach_the_log() {
        let mut record = full();
        record.target =
            Some(Arc::new(Target::of_canonical_parts("a.example", "/a", Some("access_token=s3cret"))));
        record.parameters = vec![("p".into(), "x\r\n\"} {\"forged".into())];
        record.error = Some(ErrorFacts { message: "odd\nbytes".into(), ..record.error.unwrap() });
        let template = Template::parse("{path} {route.p} {error.message} {identity.userAgent}").unwrap();
        let mut line = Vec::new();
        template.write(Escape::Log, &record, None, &mut line);
        for told in [json(&record), String::from_utf8(line).unwrap() + "\n"] {
            assert!(!told.contains("s3cret"), "{told}");
            assert_eq!(
                told.find(|c: char| c.is_control() || c == '\u{2028}'),
                Some(told.len() - 1),
                "{told}"
            );
        }
    }

    #[test]
    fn an_ipv6_address_is_told_short() {
        let mut record = record();
        record.client = Some("2001:db8::1".parse().unwrap());
        assert!(json(&record).contains(r#""identity":{"sourceIp":"2001:db8::1"}"#));
    }

    #[test]
    fn what_cannot_be_logged_to_is_refused_at_load() {
        let directory = tempfile::tempdir().unwrap();
        let inside = |name: &str| directory.path().join(name).display().to_string();
        let none = inside("none");
        for (to, format, cause) in [
            (
                inside(""),
                "json",
                format!("the access log `{}` cannot be written: it is a directory", inside("")),
            ),
            (
                inside("none/log"),
                "json",
                format!(
                    "the access log `{}` cannot be written: there is no directory `{none}`",
                    inside("none/log")
                ),
            ),
            ("".into(), "json", "an empty path".into()),
            ("unix:/run/log.sock".into(), "json", "the access log cannot go to a Unix socket yet".into()),
            ("stdout".into(), "plain", "`plain` would write the same line for every request".into()),
            ("stdout".into(), "{path}\n{status}", "a line of the log cannot hold line breaks".into()),
            ("none".into(), "{paht}", "unknown variable `{paht}`; the nearest is `{path}`".into()),
        ] {
            let to_value = match to.as_str() {
                "none" => OrNone::None,
                _ => OrNone::Some(Spanned::unwritten(to)),
            };
            let access = Access { to: to_value, format: Spanned::unwritten(format.into()) };
            let (live, mut build) = (Live::default(), Build::default());
            assert!(AccessLog::compile(&[], &access, &Metrics::default(), &live, &mut build).is_none());
            assert_eq!(build.errors.errors()[0].cause, cause);
        }
        let access = Access { to: OrNone::Some(Spanned::unwritten(inside("log"))), ..Access::default() };
        let (live, mut build) = (Live::default(), Build::default());
        assert!(AccessLog::compile(&[], &access, &Metrics::default(), &live, &mut build).is_some());
        assert!(!directory.path().join("log").exists(), "a check makes no files");
    }
}
