//! Header rules: rename, remove, set and add, in this order, on requests and responses.

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Build, Spanned};
use crate::record::Record;
use crate::request::Fields;
use crate::template::Template;

/// Header rules for both directions.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// On the way to the upstream.
    pub request: Rules,
    /// On the way to the client, our own answers included.
    pub response: Rules,
}

/// Rules for one direction, applied in the order rename, remove, set, add.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Replaces all fields of a name by one. The value is a template.
    pub set: BTreeMap<String, Spanned<String>>,
    /// Adds a field beside those there are. The value is a template.
    pub add: BTreeMap<String, Spanned<String>>,
    /// Removes all fields of a name.
    pub remove: Vec<Spanned<String>>,
    /// Gives fields another name, `old: new`; what bore the new name before is replaced.
    pub rename: BTreeMap<String, Spanned<String>>,
}

/// Header rules, compiled.
#[derive(Debug)]
pub struct HeaderRules {
    request: Direction,
    response: Direction,
}

#[derive(Debug, Default)]
struct Direction {
    rename: Vec<(HeaderName, HeaderName)>,
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
    templates: Vec<(Spanned<()>, Vec<String>)>,
}

#[derive(Debug)]
enum Value {
    /// No variable in it: made at load.
    Fixed(HeaderValue),
    Rendered(Template),
}

impl HeaderRules {
    /// None when `build.errors` says why.
    pub fn compile(name: &str, config: &Spanned<Config>, build: &mut Build) -> Option<Self> {
        let before = build.errors.errors().len();
        let path = format!("policies.headers.{name}");
        let request = Direction::compile(&config.request, &format!("{path}.request"), true, build);
        let response = Direction::compile(&config.response, &format!("{path}.response"), false, build);
        (build.errors.errors().len() == before).then_some(Self { request, response })
    }

    /// Applies the rules to a request on its way to the upstream.
    pub fn request(&self, record: &Record, fields: &mut impl Fields) {
        self.request.apply(record, fields);
    }

    /// Applies the rules to a response on its way to the client.
    pub fn response(&self, record: &Record, fields: &mut impl Fields) {
        self.response.apply(record, fields);
    }

    /// The `{route.NAME}`s its templates use, each with the place it was written at: a route that uses the rules must have them.
    pub fn parameters(&self) -> impl Iterator<Item = (&Spanned<()>, &str)> {
        let both = self.request.templates.iter().chain(&self.response.templates);
        both.flat_map(|(place, names)| names.iter().map(move |name| (place, name.as_str())))
    }
}

impl Direction {
    fn compile(rules: &Rules, path: &str, request: bool, build: &mut Build) -> Self {
        let mut own = Self::default();
        let mut written = HashSet::new();
        for (old, new) in &rules.rename {
            let names = (name(old, new, request, build), name(new, new, request, build));
            if let (Some(old), Some(new)) = names {
                if old == new {
                    build.errors.push(&new_site(rules, &old), format!("{path}.rename.{old}"), format!("`{old}` is renamed to itself"), "write another name, or remove it");
                }
                own.rename.push((old, new));
            }
        }
        for entry in &rules.remove {
            own.remove.extend(name(&entry.value, entry, request, build));
        }
        for (text, value) in &rules.set {
            let Some(name) = name(text, value, request, build) else { continue };
            if !written.insert(name.clone()) {
                build.errors.push(&value.site, &*value.path, format!("`{name}` is set twice"), "names of fields know no case: keep one");
            }
            if let Some(value) = own.value(value, build) {
                own.set.push((name, value));
            }
        }
        for (text, value) in &rules.add {
            let Some(name) = name(text, value, request, build) else { continue };
            if let Some(value) = own.value(value, build) {
                own.add.push((name, value));
            }
        }
        own
    }

    fn value(&mut self, written: &Spanned<String>, build: &mut Build) -> Option<Value> {
        if written.chars().any(|c| c.is_control() && c != '\t') {
            build.errors.push(&written.site, &*written.path, "a header's value cannot hold control characters", "write it on one line");
            return None;
        }
        let template = match Template::parse(written) {
            Ok(template) => template,
            Err(cause) => {
                build.errors.push(&written.site, &*written.path, cause, "`{name}` is a variable, `{{` a brace");
                return None;
            }
        };
        let names: Vec<String> = template.parameters().map(ToString::to_string).collect();
        if !names.is_empty() {
            let place = Spanned { value: (), site: written.site.clone(), path: written.path.clone() };
            self.templates.push((place, names));
        }
        match template.static_text() {
            Some(text) => HeaderValue::from_bytes(text.as_bytes()).ok().map(Value::Fixed),
            None => Some(Value::Rendered(template)),
        }
    }

    fn apply(&self, record: &Record, fields: &mut impl Fields) {
        for (old, new) in &self.rename {
            let values: Vec<_> = fields.fields().get_all(old).iter().cloned().collect();
            if values.is_empty() {
                continue;
            }
            fields.remove(old);
            fields.remove(new);
            for value in values {
                fields.append(new.clone(), value);
            }
        }
        for name in &self.remove {
            fields.remove(name);
        }
        for (name, value) in &self.set {
            if let Some(value) = value.render(record) {
                fields.set(name.clone(), value);
            }
        }
        for (name, value) in &self.add {
            if let Some(value) = value.render(record) {
                fields.append(name.clone(), value);
            }
        }
    }
}

impl Value {
    /// What a client sent can end up in a value, so nothing that would end the field passes (RFC 9110 §5.5).
    fn render(&self, record: &Record) -> Option<HeaderValue> {
        match self {
            Self::Fixed(value) => Some(value.clone()),
            Self::Rendered(template) => {
                let mut text = String::new();
                template.render(record, &mut text);
                text.retain(|c| !c.is_control());
                HeaderValue::from_bytes(text.trim().as_bytes()).ok()
            }
        }
    }
}

fn new_site(rules: &Rules, old: &HeaderName) -> crate::config::Site {
    rules.rename.iter().find(|(name, _)| name.eq_ignore_ascii_case(old.as_str())).map_or_else(
        crate::config::Site::default_value,
        |(_, new)| new.site.clone(),
    )
}

/// A field's name that a rule may touch.
fn name<T>(text: &str, place: &Spanned<T>, request: bool, build: &mut Build) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_str(text) else {
        build.errors.push(&place.site, &*place.path, format!("`{text}` is not a field's name"), "use letters, digits and `-`");
        return None;
    };
    let cure = match name.as_str() {
        "host" if request => "say it with the upstream's `host`",
        // RFC 9110 §7.6.1 and RFC 9112 §6: they frame the message and the connection.
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding" | "upgrade" | "content-length" => {
            "leave it to the gateway"
        }
        "x-request-id" => "leave it to the gateway; trusted peers may set it",
        _ => return Some(name),
    };
    build.errors.push(&place.site, &*place.path, format!("`{name}` cannot be changed by a rule"), cure);
    None
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use http::HeaderMap;

    use super::*;
    use crate::config::Site;

    fn spanned(text: &str) -> Spanned<String> {
        Spanned { value: text.to_owned(), site: Site::new("t.yaml", 7, 1), path: "p".into() }
    }

    fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, Spanned<String>> {
        list.iter().map(|(name, value)| ((*name).to_owned(), spanned(value))).collect()
    }

    fn compile(rules: Rules) -> Result<HeaderRules, Vec<(String, String)>> {
        let config = Spanned::unwritten(Config { request: rules, response: Rules::default() });
        let mut build = Build::default();
        let compiled = HeaderRules::compile("t", &config, &mut build);
        let errors = build.errors.errors().iter().map(|e| (e.cause.clone(), e.cure.clone())).collect();
        compiled.ok_or(errors)
    }

    fn record() -> Record {
        let mut record = Record::new(0, 1, Instant::now(), SystemTime::now());
        record.client = Some("192.0.2.7".parse().unwrap());
        record.user_agent = Some(HeaderValue::from_bytes(b"a\tb").unwrap());
        record
    }

    fn apply(rules: Rules, before: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut fields = HeaderMap::new();
        for (name, value) in before {
            fields.append(*name, HeaderValue::from_static(value));
        }
        compile(rules).unwrap().request(&record(), &mut fields);
        let mut after: Vec<_> =
            fields.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
        after.sort();
        after
    }

    fn owned(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn each_rule_does_what_it_says() {
        let set = Rules { set: pairs(&[("X-Client", "{identity.sourceIp}")]), ..Rules::default() };
        assert_eq!(apply(set, &[("x-client", "forged"), ("x-client", "twice")]), owned(&[("x-client", "192.0.2.7")]));
        let add = Rules { add: pairs(&[("x-a", "2")]), ..Rules::default() };
        assert_eq!(apply(add, &[("x-a", "1")]), owned(&[("x-a", "1"), ("x-a", "2")]));
        let remove = Rules { remove: vec![spanned("Server")], ..Rules::default() };
        assert_eq!(apply(remove, &[("server", "x"), ("server", "y"), ("z", "1")]), owned(&[("z", "1")]));
        let rename = Rules { rename: pairs(&[("x-old", "x-new")]), ..Rules::default() };
        assert_eq!(apply(rename, &[("x-old", "1"), ("x-old", "2"), ("x-new", "0")]), owned(&[("x-new", "1"), ("x-new", "2")]));
    }

    #[test]
    fn the_order_is_rename_remove_set_add() {
        let rules = Rules {
            rename: pairs(&[("a", "b")]),
            remove: vec![spanned("b")],
            set: pairs(&[("b", "set")]),
            add: pairs(&[("b", "added")]),
        };
        assert_eq!(apply(rules, &[("a", "1")]), owned(&[("b", "added"), ("b", "set")]));
    }

    #[test]
    fn mistakes_are_errors() {
        let rows = [
            (Rules { set: pairs(&[("x y", "1")]), ..Rules::default() }, "`x y` is not a field's name"),
            (Rules { set: pairs(&[("host", "1")]), ..Rules::default() }, "`host` cannot be changed by a rule"),
            (Rules { add: pairs(&[("Content-Length", "1")]), ..Rules::default() }, "`content-length` cannot be changed by a rule"),
            (Rules { remove: vec![spanned("connection")], ..Rules::default() }, "`connection` cannot be changed by a rule"),
            (Rules { rename: pairs(&[("a", "te")]), ..Rules::default() }, "`te` cannot be changed by a rule"),
            (Rules { rename: pairs(&[("a", "A")]), ..Rules::default() }, "`a` is renamed to itself"),
            (Rules { set: pairs(&[("a", "1"), ("A", "2")]), ..Rules::default() }, "`a` is set twice"),
            (Rules { set: pairs(&[("a", "1\r\nx: y")]), ..Rules::default() }, "a header's value cannot hold control characters"),
        ];
        for (rules, cause) in rows {
            let errors = compile(rules).unwrap_err();
            assert_eq!(errors[0].0, cause);
        }
        assert!(compile(Rules { set: pairs(&[("a", "{identity.sorceIp}")]), ..Rules::default() }).is_err());
    }

    #[test]
    fn what_a_client_sent_cannot_end_a_field() {
        let rules = Rules { set: pairs(&[("x-agent", "{identity.userAgent}")]), ..Rules::default() };
        let after = apply(rules, &[]);
        assert!(after[0].1.bytes().all(|b| b >= 0x20), "{after:?}");
    }
}
