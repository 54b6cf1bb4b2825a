//! How much an expression may make of what others send.
//!
//! A list is gone through once, not within another (`expression`). Yet what a loop does for each element may go through more: `x in LIST`
//! goes through the list each time, and what stands in a new list, a sum or a call is copied, as deep as it is. For n elements and m values that
//! is n · m. Which of these a loop does is known at load, how many there are for each request: together they are bounded.

use cel::common::ast::{Expr, operators};
use cel::{IdedExpr, Value};

use super::expression::children;

/// Looks at values, of about 20 ns each: less than a tenth of a second.
const LOOKED_AT_MAX: usize = 4 << 20;
/// Values copied, of about 2 µs each.
const COPIED_MAX: usize = 32 << 10;
/// A text takes as long as a value for each so many bytes.
const TEXT_BYTES: usize = 256;

/// What loops do for each element with what is no part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Each {
    /// Nothing that takes longer the more there is.
    #[default]
    Itself,
    /// Looks at it.
    Looks,
    /// Copies it.
    Copies,
}

/// What the loops of an expression do.
pub(super) fn each(expression: &IdedExpr) -> Each {
    let own = match &expression.expr {
        Expr::Comprehension(of) => {
            let mut bound = vec![of.iter_var.as_str(), of.accu_var.as_str()];
            bound.extend(of.iter_var2.as_deref());
            within(&of.loop_cond, &bound).max(within(&of.loop_step, &bound))
        }
        _ => Each::Itself,
    };
    children(&expression.expr).into_iter().map(each).fold(own, Each::max)
}

/// What a loop does in a part of its body.
fn within(expression: &IdedExpr, bound: &[&str]) -> Each {
    match root(expression) {
        Some(_) if is_small(expression, bound) => return Each::Itself,
        Some(_) => return Each::Copies,
        None => {}
    }
    match &expression.expr {
        Expr::Call(call) if is_comparison(&call.func_name) => {
            let side = |side: &IdedExpr| match root(side) {
                Some(_) if !is_small(side, bound) => Each::Looks,
                _ => within(side, bound),
            };
            call.args.iter().map(side).fold(Each::Itself, Each::max)
        }
        other => children(other).into_iter().map(|child| within(child, bound)).fold(Each::Itself, Each::max),
    }
}

fn is_comparison(name: &str) -> bool {
    [
        operators::IN,
        operators::EQUALS,
        operators::NOT_EQUALS,
        operators::LESS,
        operators::LESS_EQUALS,
        operators::GREATER,
        operators::GREATER_EQUALS,
    ]
    .contains(&name)
}

/// The name that a chain of members begins with: `jwt` of `jwt.claims.tenant`.
fn root(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Ident(name) => Some(name),
        Expr::Select(select) => root(&select.operand),
        _ => None,
    }
}

/// Whether such a chain leads to an element, or to a short text or a number whatever is sent.
fn is_small(chain: &IdedExpr, bound: &[&str]) -> bool {
    let (Some(root), member) = (root(chain), member(chain)) else { return false };
    match root {
        name if bound.contains(&name) => true,
        "method" | "protocol" | "host" | "now" => true,
        "client" | "route" | "labels" => member.is_some(),
        "identity" => matches!(member, Some("id" | "issuer" | "method" | "plan")),
        _ => matches!(&chain.expr, Expr::Select(select) if select.test),
    }
}

/// The first member of a chain: `claims` of `jwt.claims.tenant`.
fn member(chain: &IdedExpr) -> Option<&str> {
    match &chain.expr {
        Expr::Select(select) => member(&select.operand).or(Some(&select.field)),
        _ => None,
    }
}

/// How much there is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    /// Elements of the longest list.
    longest: usize,
    /// Values in all.
    values: usize,
}

impl Amount {
    /// Counts a variable.
    pub(super) fn add(&mut self, value: &Value) {
        self.values += 1;
        match value {
            Value::List(list) => {
                self.longest = self.longest.max(list.len());
                list.iter().for_each(|element| self.add(element));
            }
            Value::Map(map) => {
                self.longest = self.longest.max(map.map.len());
                map.map.values().for_each(|value| self.add(value));
            }
            Value::String(text) => self.values += text.len() / TEXT_BYTES,
            _ => {}
        }
    }

    /// Whether loops that do this come to an end soon.
    pub(super) fn is_within(&self, each: Each) -> bool {
        let most = match each {
            Each::Itself => return true,
            Each::Looks => LOOKED_AT_MAX,
            Each::Copies => COPIED_MAX,
        };
        self.longest.saturating_mul(self.values) <= most
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_loops_do_is_told_by_their_form() {
        let env = cel::Env::stdlib();
        for (text, expected) in [
            ("method in ['GET']", Each::Itself),
            ("'a' in jwt.claims.l", Each::Itself),
            ("jwt.claims.l.exists(x, x == 'a')", Each::Itself),
            ("jwt.claims.l.exists(x, x in ['a', 'b'])", Each::Itself),
            ("jwt.claims.l.exists(x, x.name.startsWith('a') && x.level > 3)", Each::Itself),
            ("jwt.claims.l.exists(x, x == 'tenant-' + route.tenant)", Each::Itself),
            ("jwt.claims.l.all(x, x.owner == identity.id && now < x.until)", Each::Itself),
            ("jwt.claims.l.exists(x, has(jwt.claims.a) && x == 'a')", Each::Itself),
            ("'admin' in jwt.claims.l.map(x, x.name)", Each::Itself),
            ("jwt.claims.l.filter(x, x != 'a').size() > 0", Each::Itself),
            ("identity.groups.exists(g, g in jwt.claims.l)", Each::Looks),
            ("identity.groups.exists(g, g == jwt.claims.tenant)", Each::Looks),
            ("identity.groups.exists(g, jwt.claims.tenant == g || g == 'a')", Each::Looks),
            ("labels.exists(l, l in identity.scopes)", Each::Looks),
            ("jwt.claims.l.map(x, jwt.claims.l).size() > 0", Each::Copies),
            ("jwt.claims.l.exists(x, [jwt.claims.l] == [x])", Each::Copies),
            ("jwt.claims.l.exists(x, x in jwt.claims.l + ['a'])", Each::Copies),
            ("jwt.claims.l.exists(x, x.startsWith(jwt.claims.tenant))", Each::Copies),
            ("jwt.claims.l.exists(x, x == headers['a'] + 'b')", Each::Copies),
            ("jwt.claims.l.exists(x, size(jwt.claims.l) == 3)", Each::Copies),
            ("jwt.claims.l.map(x, labels).size() > 0", Each::Copies),
            ("jwt.claims.l.map(x, x == 'a' ? jwt.claims.l : []).size() > 0", Each::Copies),
            ("method == 'GET' && jwt.claims.l.exists(x, x in jwt.claims.l)", Each::Looks),
        ] {
            let program = env.compile(text).unwrap();
            assert_eq!(each(program.expression()), expected, "{text}");
        }
    }

    #[test]
    fn the_more_there_is_the_less_may_be_made_of_it() {
        let text = |length: usize| Value::String(Arc::new("a".repeat(length)));
        let list = |length: usize| Value::List(Arc::new((0..length).map(|_| text(3)).collect()));
        let amount = |values: &[Value]| {
            let mut amount = Amount::default();
            values.iter().for_each(|value| amount.add(value));
            amount
        };
        assert_eq!(amount(&[list(10), text(512), list(3)]), Amount { longest: 10, values: 18 });
        for (length, looks, copies) in
            [(100, true, true), (200, true, false), (2000, true, false), (3000, false, false)]
        {
            let own = amount(&[list(length)]);
            assert!(own.is_within(Each::Itself));
            assert_eq!(
                (own.is_within(Each::Looks), own.is_within(Each::Copies)),
                (looks, copies),
                "{length}"
            );
        }
    }
}
