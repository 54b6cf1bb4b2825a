//! Conditions as one expression in CEL (Common Expression Language, cel.dev).
//!
//! An expression is a pure function of an identity and its request. What would cost more than its length says has no place in it: it is
//! short, it has no regular expressions of its own (`claims` has `matches`), and lists are gone through once, not within each
//! other; what is made of each element is bounded (`work`). An error while it is evaluated, such as a claim that is not there, refuses.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::UNIX_EPOCH;

use cel::common::ast::{EntryExpr, Expr, LiteralValue};
use cel::objects::{Key, Map};
use cel::{Context, Env, IdedExpr, Program, Value};
use percent_encoding::percent_decode_str;

use super::super::Asked;
use super::sense;
use super::work::{self, Amount, Each};
use crate::config::{Build, Spanned};
use crate::identity::Identity;

/// Longer ones are programs, and belong into a service.
const BYTES_MAX: usize = 2048;

/// The words of the language, which a message may show whatever an expression says.
pub fn expression_words() -> impl Iterator<Item = &'static str> {
    const FUNCTIONS: [&str; 26] = [
        "lower",
        "upper",
        "lowerAscii",
        "user",
        "size",
        "contains",
        "startsWith",
        "endsWith",
        "has",
        "exists",
        "exists_one",
        "all",
        "map",
        "filter",
        "in",
        "true",
        "false",
        "null",
        "matches",
        "timestamp",
        "duration",
        "getHours",
        "getMinutes",
        "getDayOfWeek",
        "getFullYear",
        "getDate",
    ];
    let members = MEMBERS.into_iter().flat_map(|(_, members)| members.iter().copied());
    VARIABLES.into_iter().chain(members).chain(TYPES).chain(FUNCTIONS)
}

/// What an expression may speak of, in the order in which a message lists it.
pub(super) const VARIABLES: [&str; 11] =
    ["method", "path", "host", "protocol", "client", "headers", "route", "labels", "jwt", "identity", "now"];

/// What those have that are no lists of somebody else's names: whatever else is asked of them is not there, and refuses for ever.
pub(super) const MEMBERS: [(&str, &[&str]); 3] = [
    ("client", &["ip"]),
    ("jwt", &["claims"]),
    ("identity", &["id", "issuer", "method", "scopes", "groups", "plan", "claims"]),
];

/// What CEL calls types elsewhere.
const TYPES: [&str; 11] =
    ["int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type", "dyn"];

/// The functions of the language: made once.
static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// An expression, compiled.
pub(super) struct Expression {
    text: Box<str>,
    program: Program,
    /// Which of [`VARIABLES`] it speaks of: only these are made for a request.
    uses: Vec<&'static str>,
    /// What its loops do for each element.
    each: Each,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl Expression {
    /// From what was written. None when `build.errors` says why.
    pub(super) fn compile(written: &Spanned<String>, build: &mut Build) -> Option<Self> {
        match parse(written) {
            Ok(own) => Some(own),
            Err((cause, cure)) => {
                build.errors.push(&written.site, &*written.path, cause, cure);
                None
            }
        }
    }

    /// The parameters and labels of a route that it cannot do without: `("route", "tenant")`. What it asks for by `has` may be absent.
    pub(super) fn names(&self) -> Vec<(&'static str, &str)> {
        let mut found = Vec::new();
        selected(self.program.expression(), &mut found);
        let asked = |of: &str, name: &str| found.iter().any(|own| (own.0, own.1, own.2) == (of, name, true));
        let needed = found.iter().filter(|(of, name, _)| !asked(of, name));
        needed.map(|(of, name, _)| (*of, *name)).collect()
    }

    /// The claims that it names.
    pub(super) fn claims(&self) -> Vec<&str> {
        let mut found = Vec::new();
        sense::claims(self.program.expression(), &mut found);
        found
    }

    /// The fields of the request that it speaks of.
    pub(super) fn fields(&self) -> Vec<&str> {
        let mut found = Vec::new();
        sense::fields(self.program.expression(), &mut found);
        found
    }

    /// Whether it is true for this identity and request.
    ///
    /// # Errors
    /// What went wrong, for the log.
    pub(super) fn holds(&self, identity: &Identity, asked: &Asked<'_>) -> Result<bool, String> {
        let mut context = Context::with_env(Arc::clone(&LANGUAGE));
        let mut amount = Amount::default();
        for name in &self.uses {
            let value = variable(name, identity, asked);
            if self.each != Each::Itself {
                amount.add(&value);
            }
            context.add_variable_from_value(*name, value);
        }
        if !amount.is_within(self.each) {
            return Err(
                "for each element of a list it would go through so much else that it would take too long"
                    .to_owned(),
            );
        }
        match self.program.execute(&context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err("it is neither true nor false".to_owned()),
            // The message may show values of the request: only its kind is told.
            Err(error) => Err(kind_of(&error).to_owned()),
        }
    }
}

/// Cause and cure.
pub(super) type Fault = (String, Cow<'static, str>);

fn parse(text: &str) -> Result<Expression, Fault> {
    let fault = |cause: String, cure: &'static str| Err((cause, cure.into()));
    if text.len() > BYTES_MAX {
        return fault(
            format!("the expression has {} bytes; at most {BYTES_MAX} are taken", text.len()),
            "make it shorter, or let a service decide (`forward`)",
        );
    }
    let program = match LANGUAGE.compile(text) {
        Ok(program) => program,
        Err(errors) => {
            let error = errors.errors.first().map(|error| error.msg.clone()).unwrap_or_default();
            let error = error.lines().next().unwrap_or_default();
            let error = error.split(" expecting ").next().unwrap_or_default().trim_end_matches('.');
            return fault(
                format!("`{text}` is no expression: {error}"),
                "write such as `jwt.claims.tenant == route.tenant && method in [\"GET\"]`",
            );
        }
    };
    if loops(program.expression()) > 1 {
        return fault(
            "lists are gone through within each other".to_owned(),
            "use one `exists`, `all`, `map` or `filter` at a time",
        );
    }
    if let Some(kind) = never_true(&program.expression().expr) {
        return fault(
            format!("`{text}` is {kind}: it is never true"),
            "write a condition such as `method == \"GET\"`",
        );
    }
    if let Some(name) = unknown_function(program.expression()) {
        return fault(format!("an expression knows no function `{name}`"), instead_of(name));
    }
    if let Some((of, name, known)) = unknown_member(program.expression()) {
        return Err((format!("`{of}` has no `{name}`"), format!("it has `{}`", known.join("`, `")).into()));
    }
    if let Some(fault) = sense::fault(program.expression()) {
        return Err(fault);
    }
    let mut uses = Vec::new();
    for name in program.references().variables() {
        if name.starts_with('@') {
            continue; // What macros are made of.
        }
        match VARIABLES.iter().find(|known| **known == name) {
            Some(known) => uses.push(*known),
            // A list's element has a name of its own.
            None if is_bound(program.expression(), name) => {}
            None if TYPES.contains(&name) => {
                return fault(format!("an expression knows no types such as `{name}`"), instead_of("type"));
            }
            None => {
                let cure = format!("it knows {}", VARIABLES.join(", "));
                return Err((format!("an expression knows no `{name}`"), cure.into()));
            }
        }
    }
    // What speaks of nothing is the same for every request.
    if uses.is_empty() {
        let value = program.execute(&Context::with_env(Arc::clone(&LANGUAGE)));
        if value.is_ok_and(|value| !matches!(value, Value::Bool(_))) {
            return fault(
                format!("`{text}` is neither true nor false, whatever is asked"),
                "write a condition such as `method == \"GET\"`",
            );
        }
    }
    let each = work::each(program.expression());
    Ok(Expression { text: text.into(), program, uses, each })
}

pub(super) fn children(expression: &Expr) -> Vec<&IdedExpr> {
    match expression {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(of) => {
            vec![&of.iter_range, &of.accu_init, &of.loop_cond, &of.loop_step, &of.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => entries(map.entries.iter().map(|entry| &entry.expr)),
        Expr::Struct(of) => entries(of.entries.iter().map(|entry| &entry.expr)),
        Expr::Select(select) => vec![&select.operand],
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entries<'e>(entries: impl Iterator<Item = &'e EntryExpr>) -> Vec<&'e IdedExpr> {
    entries
        .flat_map(|entry| match entry {
            EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
            EntryExpr::StructField(field) => vec![&field.value],
        })
        .collect()
}

/// What an expression is that is neither true nor false, as far as its form tells.
fn never_true(expression: &Expr) -> Option<&'static str> {
    match expression {
        Expr::Literal(LiteralValue::Boolean(_)) => None,
        Expr::Literal(_) => Some("a value"),
        Expr::List(_) => Some("a list"),
        Expr::Map(_) | Expr::Struct(_) => Some("a map"),
        Expr::Ident(name) if VARIABLES.contains(&name.as_str()) => Some("no condition"),
        _ => None,
    }
}

/// A function that the language does not have, on anything.
fn unknown_function(expression: &IdedExpr) -> Option<&str> {
    let own = match &expression.expr {
        Expr::Call(call) if !is_function(&call.func_name, call.target.is_some()) => Some(&*call.func_name),
        _ => None,
    };
    own.or_else(|| children(&expression.expr).into_iter().find_map(unknown_function))
}

/// What to write instead of a function that CEL has elsewhere.
fn instead_of(name: &str) -> &'static str {
    match name {
        "matches" => {
            "regular expressions stand beside `when`: `claims: {NAME: {matches: …}}`, and in a route's `match` for header fields; \
             here write `startsWith`, `endsWith`, `contains` or `in`"
        }
        "timestamp" | "duration" | "getFullYear" | "getMonth" | "getDate" | "getDayOfMonth"
        | "getDayOfWeek" | "getDayOfYear" | "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds" => {
            "`now` and times in claims are seconds since 1970: write such as `now - jwt.claims.iat < 3600`; days and hours stand \
             beside `when`: `times: [\"Mon-Fri 08:00-18:00 UTC\"]`"
        }
        "type" | "dyn" => {
            "a value of another type makes no comparison true: compare with a value of the type that is wanted, and ask `has(…)` \
             whether it is there"
        }
        _ => {
            "it knows `size`, `contains`, `startsWith`, `endsWith`, `has`, `exists`, `all`, `map`, `filter`, `int`, `string` and `in`; \
             `claims` has `matches`"
        }
    }
}

/// Whether there is a function of this name: called without arguments, it says that these are wrong, and not that it is unknown.
fn is_function(name: &str, is_member: bool) -> bool {
    // `_==_` and the like, and what macros are made of.
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return true;
    }
    let call = if is_member { format!("''.{name}()") } else { format!("{name}()") };
    let called = LANGUAGE.compile(&call).map(|call| call.execute(&Context::with_env(Arc::clone(&LANGUAGE))));
    called.is_ok_and(|result| !matches!(result, Err(cel::ExecutionError::UndeclaredReference(_))))
}

/// A member that one of our own variables does not have, and those that it has.
fn unknown_member(expression: &IdedExpr) -> Option<(&str, &str, &'static [&'static str])> {
    let own = match &expression.expr {
        Expr::Select(select) => match &select.operand.expr {
            Expr::Ident(of) => MEMBERS
                .iter()
                .find(|(name, members)| name == of && !members.contains(&&*select.field))
                .map(|(name, members)| (*name, &*select.field, *members)),
            _ => None,
        },
        _ => None,
    };
    own.or_else(|| children(&expression.expr).into_iter().find_map(unknown_member))
}

/// Members of `route` and `labels`, and whether they are only asked for.
fn selected<'e>(expression: &'e IdedExpr, found: &mut Vec<(&'static str, &'e str, bool)>) {
    if let Expr::Select(select) = &expression.expr
        && let Expr::Ident(of) = &select.operand.expr
        && let Some(of) = ["route", "labels"].into_iter().find(|name| name == of)
    {
        found.push((of, &select.field, select.test));
    }
    children(&expression.expr).into_iter().for_each(|child| selected(child, found));
}

/// How deep lists are gone through within each other.
fn loops(expression: &IdedExpr) -> usize {
    let own = usize::from(matches!(expression.expr, Expr::Comprehension(_)));
    own + children(&expression.expr).into_iter().map(loops).max().unwrap_or_default()
}

fn is_bound(expression: &IdedExpr, name: &str) -> bool {
    let own = matches!(&expression.expr, Expr::Comprehension(of)
        if of.iter_var == name || of.iter_var2.as_deref() == Some(name) || of.accu_var == name);
    own || children(&expression.expr).into_iter().any(|child| is_bound(child, name))
}

fn variable(name: &str, identity: &Identity, asked: &Asked<'_>) -> Value {
    let request = asked.request;
    match name {
        "method" => text(request.method.as_str()),
        "path" => text(request.target.path()),
        "host" => text(request.target.host()),
        "protocol" => text(request.protocol.as_str()),
        "client" => map([("ip", text(&request.client_ip().to_canonical().to_string()))]),
        "headers" => map(request.headers.keys().map(|name| {
            let values = request.headers.get_all(name).iter();
            let joined: Vec<_> = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            (name.as_str(), text(&joined.join(", ")))
        })),
        "route" => map(asked.parameters.iter().filter_map(|(name, value)| {
            Some((&**name, text(&percent_decode_str(value).decode_utf8().ok()?)))
        })),
        "labels" => map(asked.route.labels.iter().map(|(name, value)| (&**name, text(value)))),
        "jwt" => map([("claims", claims(identity))]),
        "identity" => map([
            ("id", text(&identity.id)),
            ("issuer", text(identity.issuer.as_deref().unwrap_or_default())),
            ("method", text(identity.method.as_str())),
            ("scopes", list(&identity.scopes)),
            ("groups", list(&identity.groups)),
            ("plan", text(identity.plan.as_deref().unwrap_or_default())),
            ("claims", claims(identity)),
        ]),
        "now" => Value::Int(
            asked
                .now
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
        ),
        _ => Value::Null,
    }
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

fn list(texts: &[Box<str>]) -> Value {
    Value::List(Arc::new(texts.iter().map(|own| text(own)).collect()))
}

fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let entries = entries.into_iter().map(|(name, value)| (Key::String(Arc::new(name.to_owned())), value));
    Value::Map(Map { map: Arc::new(entries.collect::<HashMap<_, _>>()) })
}

fn claims(identity: &Identity) -> Value {
    map(identity.claims.iter().map(|(name, value)| (name.as_str(), of_json(value, 0))))
}

/// Deeper than any claim is meant to be: what lies below is not there.
const DEPTH_MAX: usize = 16;

fn of_json(value: &serde_json::Value, depth: usize) -> Value {
    use serde_json::Value as Json;
    match value {
        _ if depth > DEPTH_MAX => Value::Null,
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::String(value) => text(value),
        Json::Number(number) => number
            .as_i64()
            .map(Value::Int)
            // As doubles, neighbours would be one.
            .or_else(|| number.as_u64().map(Value::UInt))
            .or_else(|| number.as_f64().map(Value::Float))
            .unwrap_or(Value::Null),
        Json::Array(list) => {
            Value::List(Arc::new(list.iter().map(|element| of_json(element, depth + 1)).collect()))
        }
        Json::Object(object) => {
            map(object.iter().map(|(name, value)| (name.as_str(), of_json(value, depth + 1))))
        }
    }
}

fn kind_of(error: &cel::ExecutionError) -> &'static str {
    use cel::ExecutionError as Error;
    match error {
        Error::NoSuchKey(_) => "it speaks of something that is not there",
        Error::UndeclaredReference(_) => "it calls something that does not exist",
        Error::NoSuchOverload(_) | Error::UnexpectedType { .. } | Error::ValuesNotComparable(..) => {
            "it puts together what has different types"
        }
        _ => "it could not be evaluated",
    }
}
