//! The variables: the access log's names, dotted.

use std::fmt;
use std::io::Write;

use serde_json::Value;

use super::Answer;
use crate::record::{Phase, Record, Timestamp, push_millis};

/// A variable of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// One of the fixed names.
    Fact(Fact),
    /// `{route.NAME}`: what `{NAME}` matched in the route's path.
    Parameter(Box<str>),
    /// `{labels.NAME}`: a label of the route.
    Label(Box<str>),
    /// `{authorizer.claims.NAME}`: what the credential says of its owner; a dot leads into a nested claim.
    Claim(Box<str>),
}

macro_rules! facts {
    ($($fact:ident = $name:literal,)*) => {
        /// The fixed names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fact {
            $(#[doc = concat!("`{", $name, "}`")] $fact,)*
        }

        impl Fact {
            /// All of them, in the order of the access log.
            pub const ALL: &[Self] = &[$(Self::$fact,)*];

            /// As the access log says it, dotted.
            pub fn name(self) -> &'static str {
                match self { $(Self::$fact => $name,)* }
            }
        }
    };
}

facts! {
    RequestTime = "requestTime",
    RequestTimeEpoch = "requestTimeEpoch",
    RequestId = "requestId",
    ExtendedRequestId = "extendedRequestId",
    Generation = "generation",
    Route = "route",
    SourceIp = "identity.sourceIp",
    UserAgent = "identity.userAgent",
    User = "identity.user",
    Issuer = "identity.issuer",
    AuthMethod = "identity.method",
    Scopes = "identity.scopes",
    Groups = "identity.groups",
    Plan = "identity.plan",
    Caller = "identity.caller",
    ApiKeyId = "identity.apiKeyId",
    CertificateSubject = "identity.clientCert.subjectDN",
    CertificateIssuer = "identity.clientCert.issuerDN",
    CertificateSerial = "identity.clientCert.serialNumber",
    HttpMethod = "httpMethod",
    DomainName = "domainName",
    Path = "path",
    ResourcePath = "resourcePath",
    Protocol = "protocol",
    TlsVersion = "tls.version",
    TlsCipher = "tls.cipher",
    TlsGroup = "tls.group",
    TlsSni = "tls.sni",
    TlsResumed = "tls.resumed",
    Status = "status",
    RequestLength = "requestLength",
    ResponseLength = "responseLength",
    ResponseLatency = "responseLatency",
    OwnLatency = "ownLatency",
    IntegrationUpstream = "integration.upstream",
    IntegrationServer = "integration.server",
    IntegrationStatus = "integration.status",
    IntegrationLatency = "integration.latency",
    IntegrationConnectLatency = "integration.connectLatency",
    IntegrationAttempts = "integration.attempts",
    IntegrationError = "integration.error",
    AuthorizeStatus = "authorize.status",
    AuthorizeLatency = "authorize.latency",
    AuthorizeError = "authorize.error",
    WafStatus = "waf.status",
    WafLatency = "waf.latency",
    WafError = "waf.error",
    ErrorResponseType = "error.responseType",
    ErrorMessage = "error.message",
    ErrorPolicy = "error.policy",
    ErrorSite = "error.site",
    Would = "would",
}

/// AWS's name for what an authoriser has found out.
const CLAIMS: &str = "authorizer.claims.";

impl Variable {
    /// By its name, without braces.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        match name.split_once('.') {
            Some(("route", parameter)) if !parameter.is_empty() => {
                return Ok(Self::Parameter(parameter.into()));
            }
            Some(("labels", label)) if !label.is_empty() => return Ok(Self::Label(label.into())),
            _ => {}
        }
        if let Some(claim) = name.strip_prefix(CLAIMS).filter(|claim| !claim.is_empty()) {
            return Ok(Self::Claim(claim.into()));
        }
        if let Some(fact) = Fact::ALL.iter().find(|fact| fact.name() == name) {
            return Ok(Self::Fact(*fact));
        }
        let looks_like_a_name =
            name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if name.is_empty() || !looks_like_a_name {
            return Err(format!("`{{{name}}}` is no variable; a brace that is meant is written `{{{{`"));
        }
        Err(format!("unknown variable `{{{name}}}`; the nearest is `{{{}}}`", nearest(name)))
    }

    /// Whether it says who has proved to be whom.
    pub fn is_of_identity(&self) -> bool {
        match self {
            Self::Claim(_) => true,
            Self::Fact(fact) => matches!(
                fact,
                Fact::User
                    | Fact::Issuer
                    | Fact::AuthMethod
                    | Fact::Scopes
                    | Fact::Groups
                    | Fact::Plan
                    | Fact::Caller
                    | Fact::ApiKeyId
                    | Fact::CertificateSubject
                    | Fact::CertificateIssuer
                    | Fact::CertificateSerial
            ),
            Self::Parameter(_) | Self::Label(_) => false,
        }
    }
}

/// The known name that is most like this one.
fn nearest(name: &str) -> &'static str {
    let lower = name.to_ascii_lowercase();
    // Who leaves the front out (`{sourceIp}`) means that one name, however far it is by letters.
    let by_last = |known: &&'static str| {
        known.rsplit_once('.').is_some_and(|(_, last)| last.eq_ignore_ascii_case(&lower))
    };
    let names = || {
        Fact::ALL.iter().map(|fact| fact.name()).chain([
            "route.NAME",
            "labels.NAME",
            "authorizer.claims.NAME",
        ])
    };
    names()
        .find(by_last)
        .or_else(|| {
            names().min_by_key(|known| strsim::damerau_levenshtein(&lower, &known.to_ascii_lowercase()))
        })
        .unwrap_or("requestId")
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fact(fact) => f.write_str(fact.name()),
            Self::Parameter(name) => write!(f, "route.{name}"),
            Self::Label(name) => write!(f, "labels.{name}"),
            Self::Claim(name) => write!(f, "{CLAIMS}{name}"),
        }
    }
}

/// Appends the value as it is, unescaped; nothing where it is not known.
pub(super) fn push(variable: &Variable, record: &Record, answer: Option<&Answer>, out: &mut Vec<u8>) {
    match variable {
        Variable::Parameter(name) => {
            let found = record.parameters.iter().find(|(known, _)| **known == **name);
            push_text(found.map(|(_, value)| &**value), out);
        }
        Variable::Label(name) => {
            push_text(record.route.as_ref().and_then(|r| r.labels.get(name)).map(|l| &**l), out);
        }
        Variable::Claim(name) => {
            if let Some(value) = record.identity.as_ref().and_then(|identity| identity.claim(name)) {
                push_claim(value, out);
            }
        }
        Variable::Fact(fact) => push_fact(*fact, record, answer, out),
    }
}

/// Texts, numbers and truths as they are, a list of these with commas; what has a form of its own has none in a line.
fn push_claim(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(text) => out.extend_from_slice(text.as_bytes()),
        Value::Number(_) | Value::Bool(_) => push_shown(Some(value), out),
        Value::Array(list) => {
            for (index, element) in list.iter().filter(|element| !element.is_object()).enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                push_claim(element, out);
            }
        }
        Value::Null | Value::Object(_) => {}
    }
}

fn push_fact(fact: Fact, record: &Record, answer: Option<&Answer>, out: &mut Vec<u8>) {
    let certificate = || record.client_certificate.as_deref();
    let tls = || record.tls.as_deref();
    let error = || record.error.as_ref();
    match fact {
        Fact::RequestTime => out.extend_from_slice(Timestamp::of(record.started_at).as_str().as_bytes()),
        Fact::RequestTimeEpoch => push_number(Some(Timestamp::of(record.started_at).epoch_millis()), out),
        Fact::RequestId => push_text(Some(record.request_id.as_str()), out),
        Fact::ExtendedRequestId => push_text(Some(record.extended_request_id.as_str()), out),
        Fact::Generation => push_number(Some(record.generation), out),
        Fact::Route => push_text(record.route.as_ref().map(|r| &*r.name), out),
        Fact::SourceIp => push_shown(record.client, out),
        Fact::UserAgent => {
            out.extend_from_slice(record.user_agent.as_ref().map_or(b"", |value| value.as_bytes()));
        }
        Fact::User => push_text(record.identity.as_ref().map(|i| &*i.id), out),
        Fact::Issuer => push_text(record.identity.as_ref().and_then(|i| i.issuer.as_deref()), out),
        Fact::AuthMethod => push_text(record.identity.as_ref().map(|i| i.method.as_str()), out),
        Fact::Scopes => push_list(record.identity.as_ref().map(|i| &*i.scopes), (b' ', b"%20"), out),
        Fact::Groups => push_list(record.identity.as_ref().map(|i| &*i.groups), (b',', b"%2C"), out),
        Fact::Plan => push_text(record.identity.as_ref().and_then(|i| i.plan.as_deref()), out),
        Fact::Caller => push_text(record.caller.as_deref(), out),
        Fact::ApiKeyId => push_text(record.api_key_id.as_deref(), out),
        Fact::CertificateSubject => push_text(certificate().map(|c| &*c.subject_dn), out),
        Fact::CertificateIssuer => push_text(certificate().map(|c| &*c.issuer_dn), out),
        Fact::CertificateSerial => push_text(certificate().map(|c| &*c.serial_number), out),
        Fact::HttpMethod => push_text(record.method.as_ref().map(|m| m.as_str()), out),
        Fact::DomainName => push_text(record.target.as_ref().map(|t| t.host()), out),
        Fact::Path => push_text(record.target.as_ref().map(|t| t.path()), out),
        Fact::ResourcePath => push_text(record.route.as_ref().map(|r| &*r.resource_path), out),
        Fact::Protocol => push_text(record.protocol.map(|p| p.as_str()), out),
        Fact::TlsVersion => push_text(tls().map(|t| t.version), out),
        Fact::TlsCipher => push_text(tls().map(|t| t.cipher), out),
        Fact::TlsGroup => push_text(tls().and_then(|t| t.group.as_deref()), out),
        Fact::TlsSni => push_text(tls().and_then(|t| t.sni.as_deref()), out),
        Fact::TlsResumed => push_text(tls().map(|t| if t.resumed { "true" } else { "false" }), out),
        Fact::Status => {
            let known = (record.status != 0).then_some(record.status);
            push_number(answer.map_or(known, |a| Some(a.status)), out);
        }
        Fact::RequestLength => push_number(Some(record.request_length), out),
        Fact::ResponseLength => push_number(Some(record.response_length), out),
        Fact::ResponseLatency => push_latency(record.response_latency, out),
        Fact::OwnLatency => push_latency(record.own_latency, out),
        Fact::IntegrationUpstream
        | Fact::IntegrationServer
        | Fact::IntegrationStatus
        | Fact::IntegrationLatency
        | Fact::IntegrationConnectLatency
        | Fact::IntegrationAttempts
        | Fact::IntegrationError => push_integration(fact, record, out),
        Fact::AuthorizeStatus => push_number(phase(&record.authorize).and_then(|p| p.status), out),
        Fact::AuthorizeLatency => push_latency(phase(&record.authorize).and_then(|p| p.latency), out),
        Fact::AuthorizeError => push_text(phase(&record.authorize).and_then(|p| p.error.as_deref()), out),
        Fact::WafStatus => push_number(phase(&record.waf).and_then(|p| p.status), out),
        Fact::WafLatency => push_latency(phase(&record.waf).and_then(|p| p.latency), out),
        Fact::WafError => push_text(phase(&record.waf).and_then(|p| p.error.as_deref()), out),
        Fact::ErrorResponseType => {
            let known = error().map(|e| e.response_type);
            push_text(answer.map_or(known, |a| Some(a.response_type)), out);
        }
        Fact::ErrorMessage => {
            let known = error().map(|e| &*e.message);
            push_text(answer.map_or(known, |a| Some(a.message)), out);
        }
        Fact::ErrorPolicy => push_text(error().and_then(|e| e.policy.as_deref()), out),
        Fact::ErrorSite => push_shown(error().and_then(|e| e.site.as_ref()), out),
        Fact::Would => push_would(record, out),
    }
}

fn push_integration(fact: Fact, record: &Record, out: &mut Vec<u8>) {
    let Some(integration) = &record.integration else {
        return;
    };
    match fact {
        Fact::IntegrationUpstream => push_text(Some(&integration.upstream), out),
        Fact::IntegrationServer => push_text(integration.server.as_deref(), out),
        Fact::IntegrationStatus => push_number(integration.status, out),
        Fact::IntegrationLatency => push_latency(integration.latency, out),
        Fact::IntegrationConnectLatency => push_latency(integration.connect_latency, out),
        Fact::IntegrationAttempts => push_number(Some(integration.attempts), out),
        _ => push_text(integration.error.as_deref(), out),
    }
}

/// `access.office:not_allowed,cors.web:origin`
fn push_would(record: &Record, out: &mut Vec<u8>) {
    for (index, would) in record.would.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_text(would.policy.as_deref(), out);
        out.push(b':');
        push_text(Some(would.reason), out);
    }
}

fn phase(phase: &Option<Phase>) -> Option<&Phase> {
    phase.as_ref()
}

fn push_text(text: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(text.unwrap_or_default().as_bytes());
}

/// Elements, with a character between them. One that has it within itself is not two: there its code stands for it, and a `%` that would
/// be taken for a code is `%25`.
fn push_list(list: Option<&[Box<str>]>, (between, code): (u8, &[u8]), out: &mut Vec<u8>) {
    for (index, text) in list.unwrap_or_default().iter().enumerate() {
        if index > 0 {
            out.push(between);
        }
        let mut rest = text.as_bytes();
        while let Some((&byte, behind)) = rest.split_first() {
            match byte {
                byte if byte == between => out.extend_from_slice(code),
                b'%' if rest.starts_with(code) || rest.starts_with(b"%25") => {
                    out.extend_from_slice(b"%25");
                }
                byte => out.push(byte),
            }
            rest = behind;
        }
    }
}

fn push_number(number: Option<impl itoa::Integer>, out: &mut Vec<u8>) {
    if let Some(number) = number {
        out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
}

fn push_latency(latency: Option<std::time::Duration>, out: &mut Vec<u8>) {
    if let Some(latency) = latency {
        push_millis(latency, out);
    }
}

fn push_shown(value: Option<impl fmt::Display>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        // A Vec takes all that is written.
        let _ = write!(out, "{value}");
    }
}
