//! What an expression can mean, told by its form: comparisons that are the same for every request, and fields of a request by name.
//!
//! CEL compares whatever there is, and a text is never an object: `client != "192.0.2.7"` is true for everybody. What has a type that is
//! known must be compared with its like. Of `headers` each field is named as it stands, so that it is known at load whose word it is.

use std::borrow::Cow;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};

use super::expression::{Fault, MEMBERS, VARIABLES, children};

/// A type, as far as it is known at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Bool,
    Bytes,
    Null,
    List,
    Object,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a number",
            Self::Bool => "true or false",
            Self::Bytes => "bytes",
            Self::Null => "null",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }
}

/// What makes no sense in it, with a cure; none where all of it may.
pub(super) fn fault(expression: &IdedExpr) -> Option<Fault> {
    if let Expr::Comprehension(of) = &expression.expr {
        let bound = [Some(&of.iter_var), of.iter_var2.as_ref()];
        // What comes after would take the element for our own.
        if let Some(fault) = bound.into_iter().flatten().find_map(|name| taken(name)) {
            return Some(fault);
        }
    }
    let own = match &expression.expr {
        Expr::Ident(name) => bare(name),
        Expr::Call(call) => compared(call).or_else(|| index(call)),
        Expr::Select(select) if is_headers(&select.operand) && !is_small(&select.field) => Some(no_field()),
        _ => None,
    };
    // What is no value is told before what it is compared with.
    looked_into(expression).into_iter().find_map(fault).or(own)
}

/// The fields of a request that it speaks of. What it does with `headers` beside naming them is a [`fault`].
pub(super) fn fields<'e>(expression: &'e IdedExpr, found: &mut Vec<&'e str>) {
    let own = match &expression.expr {
        Expr::Select(select) if is_headers(&select.operand) => Some(&*select.field),
        Expr::Call(call) => match (&*call.func_name, &*call.args) {
            (operators::INDEX, [of, name]) | (operators::IN, [name, of]) if is_headers(of) => text(name),
            _ => None,
        },
        _ => None,
    };
    found.extend(own);
    children(&expression.expr).into_iter().for_each(|child| fields(child, found));
}

/// The claims that it names, of `identity.claims` and `jwt.claims`: the first part of each name.
pub(super) fn claims<'e>(expression: &'e IdedExpr, found: &mut Vec<&'e str>) {
    if let Some((of, name)) = named(expression)
        && let Some((whose, "claims")) = named(of)
        && matches!(&whose.expr, Expr::Ident(own) if matches!(own.as_str(), "identity" | "jwt"))
    {
        found.push(name);
    }
    children(&expression.expr).into_iter().for_each(|child| claims(child, found));
}

/// The object and the name of a member: `of.name` or `of["name"]`, and `"name" in of`.
fn named(expression: &IdedExpr) -> Option<(&IdedExpr, &str)> {
    match &expression.expr {
        Expr::Select(select) => Some((&select.operand, &select.field)),
        Expr::Call(call) => match (&*call.func_name, &*call.args) {
            (operators::INDEX, [of, name]) | (operators::IN, [name, of]) => Some((of, text(name)?)),
            _ => None,
        },
        _ => None,
    }
}

/// Its parts, without the objects of which a member is named.
fn looked_into(expression: &IdedExpr) -> Vec<&IdedExpr> {
    let parts = children(&expression.expr);
    let named = match &expression.expr {
        Expr::Select(_) => 0,
        Expr::Call(call) if call.func_name == operators::INDEX => 0,
        Expr::Call(call) if call.func_name == operators::IN && call.args.last().is_some_and(has_names) => 1,
        Expr::Comprehension(of) if has_names(&of.iter_range) && !is_headers(&of.iter_range) => 0,
        _ => return parts,
    };
    let is_object = |part: &IdedExpr| matches!(&part.expr, Expr::Ident(_));
    let kept = parts.into_iter().enumerate().filter(|(at, part)| *at != named || !is_object(part));
    kept.map(|(_, part)| part).collect()
}

fn is_headers(expression: &IdedExpr) -> bool {
    matches!(&expression.expr, Expr::Ident(name) if name == "headers")
}

/// Whether it is an object of somebody else's names, in which one may be looked for.
fn has_names(expression: &IdedExpr) -> bool {
    matches!(&expression.expr, Expr::Ident(name) if matches!(name.as_str(), "headers" | "route" | "labels"))
}

fn text(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// An object of ours as it stands, without a member.
fn bare(name: &str) -> Option<Fault> {
    let cure: Cow<'static, str> = match name {
        "client" => "write `client.ip`".into(),
        "jwt" => "write such as `jwt.claims.tenant`".into(),
        "identity" => "write such as `identity.id`".into(),
        "headers" => FIELDS.into(),
        "route" | "labels" => format!("write such as `{name}.name`").into(),
        _ => return None,
    };
    Some((format!("`{name}` is an object, and this is the same whatever is asked"), cure))
}

const FIELDS: &str =
    "name each field as it stands, in small letters: `headers[\"x-a\"]`, `\"x-a\" in headers`";

fn is_small(name: &str) -> bool {
    !name.bytes().any(|b| b.is_ascii_uppercase())
}

fn no_field() -> Fault {
    ("a field in `headers` is named by a text in small letters".to_owned(), FIELDS.into())
}

/// An element that is called as one of our own.
fn taken(name: &str) -> Option<Fault> {
    let own = VARIABLES.into_iter().find(|own| *own == name)?;
    Some((
        format!("an element cannot be called `{own}`: that has a meaning"),
        "give it another name, such as `x`".into(),
    ))
}

/// A member that is named by a text.
fn index(call: &CallExpr) -> Option<Fault> {
    let (operators::INDEX | operators::IN, [first, second]) = (&*call.func_name, &*call.args) else {
        return None;
    };
    let (of, name) = if call.func_name == operators::IN { (second, first) } else { (first, second) };
    let Expr::Ident(of) = &of.expr else { return None };
    let name = text(name);
    if of == "headers" {
        return (!name.is_some_and(is_small)).then(no_field);
    }
    let (of, members) = MEMBERS.iter().find(|(own, _)| own == of)?;
    let is_member = call.func_name == operators::INDEX && name.is_some_and(|name| members.contains(&name));
    let cure = || format!("it has `{}`", members.join("`, `")).into();
    (!is_member).then(|| (format!("`{of}` has other members than this asks for"), cure()))
}

/// A comparison whose outcome is known: of what has different types, or is no value.
fn compared(call: &CallExpr) -> Option<Fault> {
    let [one, other] = &*call.args else { return None };
    let never = |one: Kind, other: Kind| {
        let cause = format!(
            "{} is compared with {}: that is the same whatever is asked",
            one.as_str(),
            other.as_str()
        );
        Some((
            cause,
            "compare with what has the same type; `\"a\" in identity.groups` looks into a list".into(),
        ))
    };
    let is_ours = |side: &IdedExpr| kind(side) == Some(Kind::Object) && !matches!(side.expr, Expr::Map(_));
    match (&*call.func_name, kind(one), kind(other)) {
        (operators::EQUALS | operators::NOT_EQUALS, Some(one), Some(other)) if one != other => {
            never(one, other)
        }
        // Claims are compared one by one: whole, an issuer's next claim would change the outcome.
        (operators::EQUALS | operators::NOT_EQUALS, first, second) if is_ours(one) || is_ours(other) => {
            never(first.unwrap_or(Kind::Text), second.unwrap_or(Kind::Text))
        }
        (
            operators::IN,
            Some(one),
            Some(other @ (Kind::Text | Kind::Number | Kind::Bool | Kind::Bytes | Kind::Null)),
        ) => never(one, other),
        (operators::IN, Some(one), Some(Kind::Object)) if one != Kind::Text => never(one, Kind::Text),
        (operators::IN, Some(one), Some(Kind::List)) => {
            let elements: Vec<_> = match &other.expr {
                Expr::List(list) => list.elements.iter().map(kind).collect(),
                // Ours are lists of texts.
                Expr::Select(_) => vec![Some(Kind::Text)],
                _ => return None,
            };
            let unlike = elements.iter().all(|element| element.is_some_and(|element| element != one));
            elements.first().copied().flatten().filter(|_| unlike).and_then(|element| never(one, element))
        }
        _ => None,
    }
}

/// Of which type it is, where that is known.
fn kind(expression: &IdedExpr) -> Option<Kind> {
    match &expression.expr {
        Expr::Literal(literal) => Some(match literal {
            LiteralValue::Boolean(_) => Kind::Bool,
            LiteralValue::Bytes(_) => Kind::Bytes,
            LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Kind::Number,
            LiteralValue::Null => Kind::Null,
            LiteralValue::String(_) => Kind::Text,
        }),
        Expr::List(_) => Some(Kind::List),
        Expr::Map(_) => Some(Kind::Object),
        Expr::Ident(name) => match name.as_str() {
            "method" | "path" | "host" | "protocol" => Some(Kind::Text),
            "now" => Some(Kind::Number),
            own => VARIABLES.contains(&own).then_some(Kind::Object),
        },
        Expr::Select(select) if select.test => Some(Kind::Bool),
        Expr::Select(select) => member(&select.operand, &select.field),
        Expr::Call(call) => match (&*call.func_name, &*call.args) {
            (operators::INDEX, [of, name]) => member(of, text(name)?),
            (operators::CONDITIONAL, [_, one, other]) => kind(one).filter(|one| kind(other) == Some(*one)),
            (operators::ADD, [one, other]) => kind(one).filter(|one| kind(other) == Some(*one)),
            (
                operators::EQUALS
                | operators::NOT_EQUALS
                | operators::IN
                | operators::LOGICAL_AND
                | operators::LOGICAL_OR
                | operators::LOGICAL_NOT
                | "startsWith"
                | "endsWith"
                | "contains",
                _,
            ) => Some(Kind::Bool),
            ("size" | "int" | "uint" | "double", _) => Some(Kind::Number),
            ("string", _) => Some(Kind::Text),
            _ => None,
        },
        Expr::Comprehension(_) | Expr::Struct(_) | Expr::Unspecified => None,
    }
}

/// Of which type a member of one of our own is.
fn member(of: &IdedExpr, name: &str) -> Option<Kind> {
    let Expr::Ident(of) = &of.expr else { return None };
    match (of.as_str(), name) {
        ("identity", "scopes" | "groups") => Some(Kind::List),
        ("identity" | "jwt", "claims") => Some(Kind::Object),
        ("identity" | "client" | "headers" | "route" | "labels", _) => Some(Kind::Text),
        _ => None,
    }
}
