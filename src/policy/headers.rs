//! Header rules: set, add, remove and rename, on requests and responses.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;
use http::header::{self, HeaderName};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Build, Spanned};
use crate::record::Record;
use crate::request::Fields;
use crate::template::{Template, Variable};

/// Header rules for both directions.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// On the way to the upstream.
    pub request: Rules,
    /// On the way to the client.
    pub response: Rules,
}

/// Rules for one direction, applied in the order rename, remove, set, add.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Replaces all fields of a name by one. The value is a template.
    #[schemars(extend("x-guarded" = "text"))]
    pub set: BTreeMap<String, Spanned<String>>,
    /// Adds a field beside those there are. The value is a template.
    #[schemars(extend("x-guarded" = "text"))]
    pub add: BTreeMap<String, Spanned<String>>,
    /// Removes all fields of a name.
    pub remove: Vec<Spanned<String>>,
    /// Gives fields another name: `old: new`.
    pub rename: BTreeMap<String, Spanned<String>>,
}

/// Header rules, compiled.
#[derive(Debug)]
pub struct HeaderRules {
    name: Arc<str>,
    request: CompiledRules,
    response: CompiledRules,
}

/// The rules of one direction. No name stands in two rules that would undo each other.
#[derive(Debug, Default)]
struct CompiledRules {
    rename: Vec<(HeaderName, HeaderName)>,
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
}

/// A value, ready to be sent.
#[derive(Debug)]
enum Value {
    /// Without variables.
    Fixed(HeaderValue),
    Template(Template),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

/// What frames a message or belongs to one connection: the gateway's own business (RFC 9110 §7.6.1).
const FRAMING: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
];
const FRAMING_TOO: [&str; 3] = ["keep-alive", "proxy-connection", "http2-settings"];

impl HeaderRules {
    /// Compiles `policies.headers.NAME`. None when `build.errors` says why.
    pub fn compile(name: &str, config: &Spanned<Config>, build: &mut Build) -> Option<Self> {
        let errors_before = build.errors.errors().len();
        let request = Compiler::new(config, Direction::Request, build).compile(&config.request);
        let response = Compiler::new(config, Direction::Response, build).compile(&config.response);
        let sound = build.errors.errors().len() == errors_before;
        sound.then(|| Self { name: format!("headers.{name}").into(), request, response })
    }

    /// `headers.NAME`
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The names in `{route.NAME}`: the routes that use the policy must have such parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        let values =
            [&self.request, &self.response].into_iter().flat_map(|rules| rules.set.iter().chain(&rules.add));
        values
            .filter_map(|(_, value)| match value {
                Value::Fixed(_) => None,
                Value::Template(template) => Some(template.parameters()),
            })
            .flatten()
    }

    /// Whether a request leaves with our word under this name (lower case).
    pub fn speaks_as(&self, name: &str) -> bool {
        let Self { request: CompiledRules { rename, set, add, .. }, .. } = self;
        let renamed = rename.iter().map(|(_, to)| to);
        let written = set.iter().chain(add).map(|(name, _)| name);
        renamed.chain(written).any(|ours| ours == name)
    }

    /// The fields in which a request's upstream is told who it is.
    pub fn told_identity(&self) -> impl Iterator<Item = &HeaderName> {
        let tells = |value: &Value| match value {
            Value::Fixed(_) => false,
            Value::Template(template) => template.variables().any(Variable::is_of_identity),
        };
        let written = self.request.set.iter().chain(&self.request.add);
        written.filter(move |(_, value)| tells(value)).map(|(name, _)| name)
    }

    /// Changes a request on its way to the upstream.
    pub fn request(&self, record: &Record, fields: &mut impl Fields) {
        self.request.apply(record, fields);
    }

    /// Changes a response on its way to the client, the gateway's own included.
    pub fn response(&self, record: &Record, fields: &mut impl Fields) {
        self.response.apply(record, fields);
    }
}

impl CompiledRules {
    fn apply(&self, record: &Record, fields: &mut impl Fields) {
        for (from, to) in &self.rename {
            rename(fields, from, to);
        }
        for name in &self.remove {
            if fields.fields().contains_key(name) {
                fields.remove(name);
            }
        }
        for (name, value) in &self.set {
            match value.render(record) {
                Some(value) => fields.set(name.clone(), value),
                // What the gateway would have said is not known: another's word must not stand in for it.
                None => fields.remove(name),
            }
        }
        for (name, value) in &self.add {
            if let Some(value) = value.render(record) {
                fields.append(name.clone(), value);
            }
        }
    }
}

/// Where `from` is there, its values replace those of `to`.
fn rename(fields: &mut impl Fields, from: &HeaderName, to: &HeaderName) {
    let values: Vec<HeaderValue> = fields.fields().get_all(from).iter().cloned().collect();
    if values.is_empty() {
        return;
    }
    fields.remove(from);
    fields.remove(to);
    for value in values {
        fields.append(to.clone(), value);
    }
}

impl Value {
    /// None where a template comes out empty.
    fn render(&self, record: &Record) -> Option<HeaderValue> {
        let template = match self {
            Self::Fixed(value) => return Some(value.clone()),
            Self::Template(template) => template,
        };
        let mut text = String::new();
        template.render(record, &mut text);
        sanitised(text)
    }
}

/// What a variable brought in cannot end a field or begin another: controls become spaces, bytes beyond ASCII `?`.
fn sanitised(text: String) -> Option<HeaderValue> {
    let is_clean = text.bytes().all(|b| matches!(b, b' '..=b'~'));
    let text = match is_clean {
        true => text,
        false => text
            .chars()
            .map(|c| match c {
                ' '..='~' => c,
                c if c.is_ascii() => ' ',
                _ => '?',
            })
            .collect(),
    };
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    HeaderValue::from_str(text).ok()
}

/// Cause and cure.
type Fault = (Cow<'static, str>, Cow<'static, str>);

fn fault(cause: impl Into<Cow<'static, str>>, cure: impl Into<Cow<'static, str>>) -> Fault {
    (cause.into(), cure.into())
}

/// Compiles the rules of one direction, telling everything that is wrong.
struct Compiler<'a> {
    config: &'a Spanned<Config>,
    direction: Direction,
    build: &'a mut Build,
}

impl<'a> Compiler<'a> {
    fn new(config: &'a Spanned<Config>, direction: Direction, build: &'a mut Build) -> Self {
        Self { config, direction, build }
    }

    fn compile(&mut self, rules: &Rules) -> CompiledRules {
        let compiled = CompiledRules {
            rename: self.renames(&rules.rename),
            remove: self.removals(&rules.remove),
            set: self.values("set", &rules.set),
            add: self.values("add", &rules.add),
        };
        for fault in compiled.conflicts() {
            self.push_here(fault);
        }
        compiled
    }

    fn push<T>(&mut self, at: &Spanned<T>, (cause, cure): Fault) {
        self.build.errors.push(&at.site, &*at.path, cause, cure);
    }

    /// For what stands in no one line.
    fn push_here(&mut self, (cause, cure): Fault) {
        let direction = match self.direction {
            Direction::Request => "request",
            Direction::Response => "response",
        };
        self.build.errors.push(&self.config.site, format!("{}.{direction}", self.config.path), cause, cure);
    }

    fn renames(&mut self, written: &BTreeMap<String, Spanned<String>>) -> Vec<(HeaderName, HeaderName)> {
        let mut renames = Vec::new();
        for (from, to) in written {
            match (self.name(from), self.name(to)) {
                (Ok(from), Ok(new)) => renames.push((from, new)),
                (from, new) => from.err().into_iter().chain(new.err()).for_each(|fault| self.push(to, fault)),
            }
        }
        renames
    }

    fn removals(&mut self, written: &[Spanned<String>]) -> Vec<HeaderName> {
        let mut names = Vec::new();
        for entry in written {
            match self.name(entry) {
                Ok(name) if names.contains(&name) => {
                    self.push(entry, fault(format!("`{name}` is removed twice"), "remove one of the two"));
                }
                Ok(name) => names.push(name),
                Err(fault) => self.push(entry, fault),
            }
        }
        names
    }

    fn values(
        &mut self,
        rule: &str,
        written: &BTreeMap<String, Spanned<String>>,
    ) -> Vec<(HeaderName, Value)> {
        let mut values: Vec<(HeaderName, Value)> = Vec::new();
        for (name, text) in written {
            let (name, value) = match (self.name(name), value(name, text)) {
                (Ok(name), Ok(value)) => (name, value),
                (name, value) => {
                    name.err().into_iter().chain(value.err()).for_each(|fault| self.push(text, fault));
                    continue;
                }
            };
            if values.iter().any(|(known, _)| *known == name) {
                let cause = format!("`{rule}` has `{name}` twice");
                self.push(text, fault(cause, "remove one; case makes no difference"));
                continue;
            }
            values.push((name, value));
        }
        values
    }

    fn name(&self, text: &str) -> Result<HeaderName, Fault> {
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            return Err(fault(format!("`{text}` is not a header name"), "write letters, digits and `-`"));
        };
        if FRAMING.contains(&name) || FRAMING_TOO.contains(&name.as_str()) {
            return Err(fault(
                format!("`{text}` frames the message or belongs to the connection"),
                "remove the rule; the gateway sees to it",
            ));
        }
        if name == header::HOST && self.direction == Direction::Request {
            return Err(fault(
                "`host` is not changed by header rules",
                "say `host:` in the upstream: keep, server, or a literal",
            ));
        }
        Ok(name)
    }
}

fn value(name: &str, text: &str) -> Result<Value, Fault> {
    if text.bytes().any(|b| b.is_ascii_control()) || !text.is_ascii() {
        return Err(fault(
            format!("the value of `{name}` has a control character or is not ASCII"),
            "write printable ASCII on one line",
        ));
    }
    let template = Template::parse(text).map_err(|what| {
        fault(format!("the value of `{name}` is not a template: {what}"), "`{{` is a brace")
    })?;
    if text.contains(['{', '}']) {
        return Ok(Value::Template(template));
    }
    HeaderValue::from_str(text.trim()).map(Value::Fixed).map_err(|_| {
        fault(format!("`{text}` is not a value for `{name}`"), "write printable ASCII on one line")
    })
}

impl CompiledRules {
    /// Names in rules that would undo each other, in the order in which they are applied.
    fn conflicts(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (index, (from, to)) in self.rename.iter().enumerate() {
            let others = || self.rename.iter().enumerate().filter(|(other, _)| *other != index);
            if from == to {
                faults.push(fault(format!("`{from}` is renamed to itself"), "remove the rule"));
            } else if others().any(|(_, (other, _))| other == to || other == from) {
                let cause = format!("`{from}` and `{to}` are renamed more than once");
                faults.push(fault(cause, "name each field once under `rename`"));
            } else if others().any(|(other, (_, target))| other < index && target == to) {
                faults.push(fault(format!("two fields are renamed to `{to}`"), "give each its own name"));
            }
            for (rule, has) in [("remove", self.removes(to)), ("set", self.sets(to))] {
                if has {
                    let cause = format!("`{from}` is renamed to `{to}`, which `{rule}` then undoes");
                    faults.push(fault(cause, format!("take `{to}` out of `rename` or of `{rule}`")));
                }
            }
            if self.removes(from) {
                let cause = format!("`{from}` is renamed and then removed");
                faults.push(fault(cause, format!("take `{from}` out of `rename` or of `remove`")));
            }
        }
        for name in &self.remove {
            if self.sets(name) {
                let cause = format!("`{name}` is removed and set");
                faults.push(fault(cause, "`set` replaces all there are: take it out of `remove`"));
            } else if self.adds(name) {
                let cause = format!("`{name}` is removed and added");
                faults.push(fault(cause, "`set` replaces all there are: use it instead of both"));
            }
        }
        for (name, _) in &self.set {
            if self.adds(name) {
                let cause = format!("`{name}` is set and added");
                faults.push(fault(cause, "write one value under `set`, or only `add`"));
            }
        }
        faults
    }

    fn removes(&self, name: &HeaderName) -> bool {
        self.remove.contains(name)
    }

    fn sets(&self, name: &HeaderName) -> bool {
        self.set.iter().any(|(known, _)| known == name)
    }

    fn adds(&self, name: &HeaderName) -> bool {
        self.add.iter().any(|(known, _)| known == name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;
    use crate::config::Site;

    fn spanned(line: u32, text: &str) -> Spanned<String> {
        Spanned { value: text.to_owned(), site: Site::new("t.yaml", line, 1), path: "p".into() }
    }

    /// `rename: a=b; remove: c; set: d=e; add: f=g`, entries parted by `, `.
    fn rules(text: &str) -> Rules {
        let mut rules = Rules::default();
        for (part, line) in text.split("; ").filter(|part| !part.is_empty()).zip(10..) {
            let (rule, entries) = part.split_once(": ").unwrap();
            for entry in entries.split(", ") {
                let pair = entry.split_once('=');
                match (rule, pair) {
                    ("remove", None) => rules.remove.push(spanned(line, entry)),
                    (rule, Some((name, value))) => {
                        let map = match rule {
                            "rename" => &mut rules.rename,
                            "set" => &mut rules.set,
                            "add" => &mut rules.add,
                            other => panic!("no rule {other}"),
                        };
                        map.insert(name.to_owned(), spanned(line, value));
                    }
                    _ => panic!("{part}"),
                }
            }
        }
        rules
    }

    fn compile(request: &str, response: &str) -> Result<HeaderRules, Vec<String>> {
        let value = Config { request: rules(request), response: rules(response) };
        let config = Spanned { value, site: Site::new("t.yaml", 1, 1), path: "policies.headers.x".into() };
        let mut build = Build::default();
        let compiled = HeaderRules::compile("x", &config, &mut build);
        compiled.ok_or_else(|| {
            let errors = build.errors.errors().iter();
            errors.map(|e| format!("{} {}; {}", e.site.line, e.cause, e.cure)).collect()
        })
    }

    fn record() -> Record {
        Record::new(0, 1, Instant::now(), SystemTime::now())
    }

    fn fields(text: &str) -> HeaderMap {
        let mut map = HeaderMap::new();
        for field in text.split("; ").filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').unwrap();
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    fn told(fields: &HeaderMap) -> String {
        let mut lines: Vec<_> = fields.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        lines.sort();
        lines.join("; ")
    }

    #[test]
    fn rules_change_fields_in_order() {
        let rows = [
            ("", "a=1", "a=1"),
            ("set: a=2", "a=1; a=3; b=1", "a=2; b=1"),
            ("set: A=2", "", "a=2"),
            ("set: a=", "a=1", "a="),
            ("add: a=2", "a=1", "a=1; a=2"),
            ("add: a=2", "", "a=2"),
            ("remove: a", "a=1; a=2; b=1", "b=1"),
            ("remove: a", "b=1", "b=1"),
            ("rename: a=b", "a=1; a=2", "b=1; b=2"),
            ("rename: a=b", "a=1; b=9", "b=1"),
            ("rename: a=b", "b=9", "b=9"),
            ("rename: a=b; set: a=new", "a=old", "a=new; b=old"),
            ("rename: a=b; add: a=new", "a=old", "a=new; b=old"),
            ("rename: a=b; add: b=2", "a=1", "b=1; b=2"),
            ("rename: a=b; remove: c; set: d=1; add: e=1", "a=1; c=1; d=9; e=9", "b=1; d=1; e=1; e=9"),
        ];
        for (text, before, after) in rows {
            let compiled = compile(text, "").unwrap();
            let mut request = fields(before);
            compiled.request(&record(), &mut request);
            assert_eq!(told(&request), after, "{text} on {before}");
            let mut response = fields(before);
            compiled.response(&record(), &mut response);
            assert_eq!(told(&response), told(&fields(before)), "the other direction is left alone");

            let mut response = fields(before);
            compile("", text).unwrap().response(&record(), &mut response);
            assert_eq!(told(&response), after, "{text} on {before}");
        }
    }

    #[test]
    fn wrong_rules_are_errors_with_a_cure() {
        let rows = [
            ("set: x y=1", "10 `x y` is not a header name; write letters"),
            ("add: x:y=1", "10 `x:y` is not a header name"),
            ("remove: ", "10 `` is not a header name"),
            ("rename: a=b c", "10 `b c` is not a header name"),
            ("rename: a b=c", "10 `a b` is not a header name"),
            ("set: a=b\r\nc", "10 the value of `a` has a control character or is not ASCII; write printable"),
            ("set: a=b\u{0}c", "10 the value of `a` has a control character"),
            ("add: a=b\u{e9}", "10 the value of `a` has a control character or is not ASCII"),
            (
                "set: connection=close",
                "10 `connection` frames the message or belongs to the connection; remove the rule",
            ),
            ("set: Content-Length=5", "10 `Content-Length` frames the message"),
            ("remove: transfer-encoding", "10 `transfer-encoding` frames the message"),
            ("remove: keep-alive", "10 `keep-alive` frames the message"),
            ("rename: te=x", "10 `te` frames the message"),
            ("rename: x=trailer", "10 `trailer` frames the message"),
            ("add: upgrade=h2c", "10 `upgrade` frames the message"),
            ("add: proxy-connection=x", "10 `proxy-connection` frames the message"),
            ("set: host=x", "10 `host` is not changed by header rules; say `host:` in the upstream"),
            ("set: A=1, a=2", "10 `set` has `a` twice; remove one; case makes no difference"),
            ("remove: a, A", "10 `a` is removed twice"),
            ("rename: a=a", "1 `a` is renamed to itself; remove the rule"),
            ("rename: a=c, b=c", "1 two fields are renamed to `c`; give each its own name"),
            ("rename: a=b; remove: b", "1 `a` is renamed to `b`, which `remove` then undoes"),
            ("rename: a=b; set: b=1", "1 `a` is renamed to `b`, which `set` then undoes"),
            ("rename: a=b; remove: a", "1 `a` is renamed and then removed"),
            ("remove: a; set: a=1", "1 `a` is removed and set; `set` replaces all there are"),
            ("remove: a; add: a=1", "1 `a` is removed and added; `set` replaces all there are"),
            ("set: a=1; add: A=2", "1 `a` is set and added; write one value under `set`"),
        ];
        for (text, expected) in rows {
            let errors = compile(text, "").unwrap_err();
            assert_eq!(errors.len(), 1, "{text}: {errors:?}");
            assert!(errors[0].starts_with(expected), "{text}: {errors:?}");
        }
        let errors = compile("rename: a=b, b=c", "").unwrap_err();
        assert!(errors[0].contains("are renamed more than once"), "{errors:?}");
        assert!(compile("", "set: host=x").is_ok(), "a response's Host is a field like others");
    }

    #[test]
    fn what_variables_bring_in_stays_in_its_field() {
        let rows = [
            ("plain", Some("plain")),
            (" outer ", Some("outer")),
            ("a\r\nset-cookie: x", Some("a  set-cookie: x")),
            ("a\0b\x7fc\td", Some("a b c d")),
            ("caf\u{e9} \u{85}", Some("caf? ?")),
            ("", None),
            (" \r\n", None),
        ];
        for (text, expected) in rows {
            let value = sanitised(text.to_owned());
            assert_eq!(value.as_ref().map(|value| value.to_str().unwrap()), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_splits_a_field(text in any::<String>()) {
            if let Some(value) = sanitised(text) {
                prop_assert!(value.as_bytes().iter().all(|b| matches!(b, b' '..=b'~')));
            }
        }
    }
}
