//! Text with `{variables}`, parsed once, rendered from a [`Record`].

mod escape;
mod host;
mod variable;

pub use escape::{Escape, escape, push_json};
pub use host::Freedom;
pub use variable::{Fact, Variable};

use crate::record::Record;
use escape::Position;

/// A text with variables. `{{` is a brace, `}}` a closing one; a single `}` outside a variable stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Variable(Variable),
}

/// What an answer of our own says of itself while it is made, before the record knows. Clients are told this sentence as
/// `{error.message}`, never the log's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `{status}`
    pub status: u16,
    /// `{error.responseType}`
    pub response_type: &'static str,
    /// `{error.message}`
    pub message: &'static str,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// Says which variable is unknown, naming the nearest known one, or which brace is open.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, from_brace)) = rest.find(['{', '}']).and_then(|at| rest.split_at_checked(at))
        {
            plain.push_str(before);
            if let Some(after) = from_brace.strip_prefix("{{") {
                plain.push('{');
                rest = after;
            } else if let Some(after) = from_brace.strip_prefix("}}").or_else(|| from_brace.strip_prefix('}'))
            {
                plain.push('}');
                rest = after;
            } else {
                let inside = from_brace.strip_prefix('{').unwrap_or_default();
                let Some((name, after)) = inside.split_once('}') else {
                    return Err(format!(
                        "the brace before `{}` is not closed; a brace that is meant is written `{{{{`",
                        inside.chars().take(20).collect::<String>()
                    ));
                };
                let variable = Variable::parse(name)?;
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain).into()));
                }
                parts.push(Part::Variable(variable));
                rest = after;
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain.into()));
        }
        Ok(Self { parts })
    }

    /// Whether it has no variables.
    pub fn is_static(&self) -> bool {
        self.static_text().is_some()
    }

    /// The text, if it has no variables.
    pub fn static_text(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The variables, in order, as often as they stand there.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Variable(variable) => Some(variable),
        })
    }

    /// The names in `{route.NAME}`: the route must have such parameters, which only who knows the route can check.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.variables().filter_map(|variable| match variable {
            Variable::Parameter(name) => Some(&**name),
            Variable::Fact(_) | Variable::Label(_) | Variable::Claim(_) => None,
        })
    }

    /// The texts between the variables.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(&**text),
            Part::Variable(_) => None,
        })
    }

    /// The text with `placeholder` for each variable: for checks at load.
    pub fn with_placeholders(&self, placeholder: &str) -> String {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text,
                Part::Variable(_) => placeholder,
            })
            .collect()
    }

    /// Appends the text as a header field's value may have it: values bring printable ASCII only ([`Escape::Header`]); one that
    /// is not known is empty.
    pub fn render(&self, record: &Record, out: &mut String) {
        self.render_as(Escape::Header, record, out);
    }

    /// Appends an address; values are percent-encoded as their place in it wants ([`Escape::Url`]). It has a host without a scheme
    /// only where the template's own text begins with one: an empty value before a slash does not make `//host` of a path.
    pub fn render_url(&self, record: &Record, out: &mut String) {
        let start = out.len();
        self.render_as(Escape::Url, record, out);
        let names_host = matches!(self.parts.first(), Some(Part::Text(text)) if text.starts_with("//"));
        let slashes = out.bytes().skip(start).take_while(|byte| *byte == b'/').count();
        if slashes > 1 && !names_host {
            out.replace_range(start..start + slashes - 1, "");
        }
    }

    /// Appends the text, values escaped for where it goes. The template's own text is taken as it is.
    pub fn render_as(&self, escape: Escape, record: &Record, out: &mut String) {
        let mut bytes = std::mem::take(out).into_bytes();
        self.write(escape, record, None, &mut bytes);
        // Every way of escaping writes UTF-8; the check keeps this function safe, and costs little.
        *out = String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    }

    /// As [`Template::render_as`], onto bytes (always UTF-8); with the words of an answer that is being made.
    pub fn write(&self, escape: Escape, record: &Record, answer: Option<&Answer>, out: &mut Vec<u8>) {
        let mut position = Position::Start;
        for part in &self.parts {
            match part {
                Part::Text(text) => {
                    out.extend_from_slice(text.as_bytes());
                    position = position.after(text);
                }
                Part::Variable(variable) => {
                    let start = out.len();
                    variable::push(variable, record, answer, out);
                    if out.len() == start && escape == Escape::Log {
                        out.push(b'-');
                    }
                    // Only a value that may need it is taken out again and escaped.
                    if !out.get(start..).is_some_and(|value| escape::is_plain(escape, value)) {
                        let value = out.split_off(start);
                        // An authority ends where a path begins (RFC 3986 §3.2).
                        if position == Position::Authority && value.starts_with(b"/") && !out.ends_with(b"/")
                        {
                            position = Position::Path;
                        }
                        escape::push(escape, position, &value, out);
                    }
                    // What follows a value is a path, unless the text says otherwise.
                    if position == Position::Start && out.len() > start {
                        position = Position::Path;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::{Duration, Instant, SystemTime};

    use http::HeaderValue;

    use super::*;
    use crate::canonical::Target;
    use crate::config::Site;
    use crate::identity::{Identity, Method};
    use crate::record::{ErrorFacts, Integration, RouteFacts};

    fn record() -> Record {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_512_875_120);
        let mut record = Record::new(0, 3, Instant::now(), at);
        record.client = Some("192.0.2.7".parse().unwrap());
        record.method = Some(http::Method::GET);
        record.user_agent = Some(HeaderValue::from_bytes(b"c\"url\xe9\t").unwrap());
        record.target = Some(Arc::new(Target::of_canonical_parts(
            "api.example.com",
            "/users/a%20b",
            Some("token=s3cret"),
        )));
        record.route = Some(Arc::new(RouteFacts {
            index: 0,
            name: "users".into(),
            resource_path: "/users/{id}".into(),
            labels: BTreeMap::from([("stage".into(), "prod".into())]),
            site: Site::default_value(),
        }));
        record.parameters = vec![("id".into(), "a%20b".into())];
        record.status = 403;
        record.integration = Some(Integration {
            upstream: "users".into(),
            attempts: 2,
            latency: Some(Duration::from_micros(1_234)),
            ..Integration::default()
        });
        let facts = ErrorFacts {
            response_type: "ACCESS_DENIED",
            reason: "not_allowed",
            message: "192.0.2.7 is not allowed".into(),
            policy: Some("access.office".into()),
            site: Some(Site::new("a.yaml", 7, 1)),
        };
        record.would = vec![facts.clone()];
        record.error = Some(facts);
        record
    }

    fn rendered(text: &str, escape: Escape) -> String {
        let mut out = String::from(">");
        Template::parse(text).unwrap().render_as(escape, &record(), &mut out);
        out.split_off(1)
    }

    #[test]
    fn variables_have_the_names_of_the_access_log() {
        for (text, expected) in [
            ("", ""),
            ("{requestTime}", "2026-11-24T09:34:35.120Z"),
            ("{requestTimeEpoch}", "1795512875120"),
            ("{identity.sourceIp} {httpMethod}", "192.0.2.7 GET"),
            ("https://{domainName}{path}", "https://api.example.com/users/a%20b"),
            ("{route}/{route.id}/{route.none}|{resourcePath}", "users/a%20b/|/users/{id}"),
            ("{labels.stage}{labels.none}", "prod"),
            ("{integration.latency} {integration.attempts}", "1.234 2"),
            ("{error.responseType} {error.policy} {error.site}", "ACCESS_DENIED access.office a.yaml:7"),
            ("{would}", "access.office:not_allowed"),
            ("{status} {generation} {tls.version}|", "403 3 |"),
            ("{{{status}}} {{}} } {{a}", "{403} {} } {a}"),
        ] {
            assert_eq!(rendered(text, Escape::Header), expected, "{text}");
        }
    }

    #[test]
    fn every_name_is_found_and_told() {
        for fact in Fact::ALL {
            let template = Template::parse(&format!("{{{}}}", fact.name())).unwrap();
            assert_eq!(template.variables().collect::<Vec<_>>(), [&Variable::Fact(*fact)]);
            assert_eq!(template.variables().next().unwrap().to_string(), fact.name());
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_the_nearest() {
        for (text, error) in [
            ("{requestid}", "unknown variable `{requestid}`; the nearest is `{requestId}`"),
            ("{sourceIp}", "unknown variable `{sourceIp}`; the nearest is `{identity.sourceIp}`"),
            (
                "{identity.sourceip}",
                "unknown variable `{identity.sourceip}`; the nearest is `{identity.sourceIp}`",
            ),
            ("{query}", "unknown variable `{query}`; the nearest is `{route}`"),
            ("{route.}", "unknown variable `{route.}`; the nearest is `{route}`"),
            ("a {}", "`{}` is no variable; a brace that is meant is written `{{`"),
            ("{\"a\":1}", "`{\"a\":1}` is no variable; a brace that is meant is written `{{`"),
            ("x {path", "the brace before `path` is not closed; a brace that is meant is written `{{`"),
        ] {
            assert_eq!(Template::parse(text).unwrap_err(), error);
        }
    }

    #[test]
    fn a_text_without_variables_is_static() {
        let text = |text| Template::parse(text).unwrap();
        assert_eq!(text("a {{b}}").static_text(), Some("a {b}"));
        assert_eq!(text("").static_text(), Some(""));
        assert!(!text("{path}").is_static());
        assert_eq!(text("/x/{route.id}/{route.rest}{path}").parameters().collect::<Vec<_>>(), ["id", "rest"]);
    }

    #[test]
    fn a_value_is_escaped_for_where_it_goes() {
        let agent = "{identity.userAgent}";
        assert_eq!(rendered(agent, Escape::Log), r"c\x22url\xE9\x09");
        assert_eq!(rendered(agent, Escape::Header), "c\"url\\xE9\\x09");
        assert_eq!(rendered(agent, Escape::Json), "c\\\"url\u{fffd}\\t");
        assert_eq!(rendered("{tls.sni} {route.none}", Escape::Log), "- -");
    }

    #[test]
    fn one_element_of_a_list_is_never_two() {
        let mut record = record();
        let list = |texts: &[&str]| texts.iter().map(|text| Box::from(*text)).collect::<Box<[Box<str>]>>();
        let mut rendered = |groups: &[&str]| {
            let mut identity = Identity::new("alice", Method::Jwt, "auth.staff".into());
            (identity.groups, identity.scopes) = (list(groups), list(groups).into());
            record.identity = Some(Arc::new(identity));
            let mut out = String::new();
            Template::parse("{identity.groups}|{identity.scopes}").unwrap().render(&record, &mut out);
            out
        };
        for (groups, expected) in [
            (&["a", "admin"][..], "a,admin|a admin"),
            (&["a,admin"], "a%2Cadmin|a,admin"),
            (&["a admin"], "a admin|a%20admin"),
            (&["a%2Cadmin"], "a%252Cadmin|a%2Cadmin"),
            (&["a%20admin", "b"], "a%20admin,b|a%2520admin b"),
            (&["100%", "a%25", "%%2C"], "100%,a%2525,%%252C|100% a%2525 %%2C"),
        ] {
            assert_eq!(rendered(groups), expected);
        }
    }

    #[test]
    fn an_address_cannot_be_turned_elsewhere() {
        let mut record = record();
        record.parameters = vec![("a".into(), "evil.example/?@#\r\n%41%".into())];
        record.parameters.push(("b".into(), "https:/evil.example".into()));
        record.parameters.push(("c".into(), "//evil.example/a:b".into()));
        record.parameters.push(("d".into(), "/old/x".into()));
        for (text, expected) in [
            ("{route.b}", "https%3A/evil.example"),
            ("{route.c}", "/%2Fevil.example/a:b"),
            ("/x/{route.b}", "/x/https:/evil.example"),
            ("https://{route.a}.example.com/", "https://evil.example%2F%3F%40%23%0D%0A%2541%25.example.com/"),
            ("https://x.example/{route.a}", "https://x.example/evil.example/%3F@%23%0D%0A%41%25"),
            ("/x?to={route.a}", "/x?to=evil.example/%3F%40%23%0D%0A%2541%25"),
            ("https://{domainName}/new", "https://api.example.com/new"),
            // A path ends the authority that it follows; where there is none it would begin one.
            ("https://{domainName}{route.d}", "https://api.example.com/old/x"),
            ("https://{domainName}{route.c}?{route.d}", "https://api.example.com//evil.example/a:b?/old/x"),
            ("https://x.example{route.a}", "https://x.exampleevil.example%2F%3F%40%23%0D%0A%2541%25"),
            ("//{route.d}", "//%2Fold%2Fx"),
            // What is empty, or begins with a slash, makes no host of what follows it.
            ("/{route.none}/{route.b}", "/https:/evil.example"),
            ("/{route.c}", "/evil.example/a:b"),
            ("{route.none}{route.c}", "/%2Fevil.example/a:b"),
            ("{route.none}/{route.c}", "/evil.example/a:b"),
            ("//x.example/{route.b}", "//x.example/https:/evil.example"),
        ] {
            let mut out = String::new();
            Template::parse(text).unwrap().render_url(&record, &mut out);
            assert_eq!(out, expected);
        }
    }
}
