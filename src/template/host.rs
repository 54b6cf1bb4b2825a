//! Who chooses the host of an address: its template, or who asks.

use super::escape::is_scheme;
use super::{Fact, Part, Template, Variable};

/// How a client could choose where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freedom<'a> {
    /// By a variable that the scheme comes from.
    Scheme,
    /// By this variable, with which the host ends: `https://good.example{route.rest}` leads to `good.example.evil.test`.
    Host(&'a Variable),
}

impl Template {
    /// Whether a client could choose the host of this address (RFC 3986 §3.2), and how. Variables may stand in front of a domain
    /// of the template's own (`https://{route.tenant}.example.com/`); the path and what the client itself asked for
    /// (`{domainName}`) may stand anywhere.
    pub fn freedom(&self) -> Option<Freedom<'_>> {
        let first = self.parts.first();
        let begin = match first {
            Some(Part::Text(text)) => text,
            Some(Part::Variable(_)) => {
                // What begins with a variable is a path (`{path}`), unless the scheme comes from it.
                let after = self.texts().next().unwrap_or_default();
                let scheme = after.split(['/', '?', '#']).next().is_some_and(|text| text.contains(':'));
                return (scheme && after.contains("://")).then_some(Freedom::Scheme);
            }
            None => return None,
        };
        // As browsers read it: a backslash is a slash, and more of them than two begin a host all the same.
        let begin = begin.replace('\\', "/");
        let Some((scheme, authority)) = begin.split_once("//") else {
            // `https:{path}` and `http{route.s}://…`: what looks like a scheme is one only where a host follows in the same text.
            let later = self.texts().skip(1).any(|text| text.contains("://"));
            let relative = begin.starts_with(['/', '?', '#']);
            return (later && !relative).then_some(Freedom::Scheme);
        };
        if !is_scheme(scheme) {
            return None; // `/a//b`, `/a?b=https://c`
        }
        self.end_of_host(authority.trim_start_matches('/'))
    }

    /// The client's variable that the host ends with, beginning behind `//`.
    fn end_of_host(&self, authority: &str) -> Option<Freedom<'_>> {
        let mut free: Option<&Variable> = None;
        // What follows the variable, as far as the host goes.
        let mut domain = String::new();
        let mut before = !authority.is_empty();
        for (index, part) in self.parts.iter().enumerate() {
            match part {
                Part::Text(text) => {
                    let text = if index == 0 { authority } else { text };
                    let ends = text.find(['/', '\\', '?', '#']);
                    domain.push_str(ends.and_then(|at| text.get(..at)).unwrap_or(text));
                    before |= !text.is_empty();
                    if ends.is_some() {
                        break;
                    }
                }
                // Begins with a slash, and so ends the host that stands before it.
                Part::Variable(Variable::Fact(Fact::Path | Fact::ResourcePath)) if before => break,
                Part::Variable(variable) => {
                    before = true;
                    match whose(variable) {
                        Whose::Site => domain.push('x'),
                        Whose::Host => domain.push_str("x.x"),
                        Whose::Client => {
                            free = Some(variable);
                            domain.clear();
                        }
                    }
                }
            }
        }
        free.filter(|_| !is_domain(&domain)).map(Freedom::Host)
    }
}

/// Who says what stands for a variable.
enum Whose {
    /// The configuration.
    Site,
    /// The client, which has come to us by this name.
    Host,
    /// The client.
    Client,
}

fn whose(variable: &Variable) -> Whose {
    match variable {
        Variable::Label(_) | Variable::Fact(Fact::Route) => Whose::Site,
        Variable::Fact(Fact::DomainName | Fact::TlsSni) => Whose::Host,
        Variable::Fact(_) | Variable::Parameter(_) | Variable::Claim(_) => Whose::Client,
    }
}

/// Whether what follows a value is a domain of somebody: `.example.com`. Anybody can have a name before `.com`, or before
/// `example.com` without its dot.
fn is_domain(rest: &str) -> bool {
    let name = rest.split(':').next().unwrap_or_default();
    let labels = name.strip_prefix('.').map(|name| name.trim_end_matches('.').split('.'));
    labels.is_some_and(|mut labels| labels.clone().count() > 1 && labels.all(|label| !label.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_template_says_where_an_address_leads() {
        let scheme = Some("scheme");
        for (text, free) in [
            ("/new", None),
            ("/new/{route.rest}", None),
            ("{path}", None),
            ("{route.rest}/x", None),
            ("/a//b{route.rest}", None),
            ("/login?to=https://{route.rest}", None),
            ("https://a.example", None),
            ("https://a.example/{route.rest}", None),
            ("https://a.example?{route.rest}", None),
            ("https://a.example:8443/{route.rest}", None),
            ("https://{domainName}/new", None),
            ("https://{domainName}:8443/{route.rest}", None),
            ("https://www.{domainName}{path}", None),
            ("//{domainName}{path}", None),
            ("https://{route}.example.com/{route.rest}", None),
            ("https://app.{labels.domain}{path}", None),
            ("https://{route.tenant}.example.com/{route.rest}", None),
            ("https://{route.tenant}.example.com:8443{path}", None),
            ("https://{route.tenant}.{domainName}{path}", None),
            ("https://a.example{path}{route.rest}", None),
            ("https://a.example{route.rest}", Some("route.rest")),
            ("https://a.example{route.rest}/x", Some("route.rest")),
            ("https://{domainName}{route.rest}", Some("route.rest")),
            ("https://{route.host}/", Some("route.host")),
            ("//{route.host}/", Some("route.host")),
            ("https:///{route.host}/", Some("route.host")),
            ("/\\{route.host}/", Some("route.host")),
            ("https://a.example\\{route.rest}", None),
            ("https://{route.name}.com/", Some("route.name")),
            ("https://{route.name}..com/", Some("route.name")),
            ("https://{route.name}example.com/", Some("route.name")),
            ("https://{route.name}.example.com{route.rest}", Some("route.rest")),
            ("https://{route.name}:8443/", Some("route.name")),
            ("https://a.example:{route.port}/", Some("route.port")),
            ("https://{identity.userAgent}", Some("identity.userAgent")),
            ("https://{path}", Some("path")),
            ("{route.scheme}://a.example/", scheme),
            ("{route.scheme}s://a.example/", scheme),
            ("http{route.s}://a.example/", scheme),
        ] {
            let template = Template::parse(text).unwrap();
            let found = template.freedom().map(|freedom| match freedom {
                Freedom::Scheme => "scheme".to_owned(),
                Freedom::Host(variable) => variable.to_string(),
            });
            assert_eq!(found.as_deref(), free, "{text}");
        }
    }
}
