//! Whether somebody who is known may: the conditions of a route, each of which must hold.

mod expression;
mod sense;
#[cfg(test)]
mod tests;
mod times;
mod work;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::net::IpAddr;

pub use expression::expression_words;

use ipnet::IpNet;
use regex::Regex;
use serde_json::Value;

use super::config::{ClaimCondition, Rules, Scalar};
use super::jwt::json::EXACT;
use super::{Asked, Denial};
use crate::client::network;
use crate::config::{Build, Spanned};
use crate::identity::Identity;
use crate::reply::Kind;
use expression::Expression;
use times::Window;

/// What must hold for an identity and its request.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    scopes: Box<[Box<str>]>,
    /// The same, as a challenge says them.
    scope_text: Option<Box<str>>,
    groups: Box<[Box<str>]>,
    claims: Box<[Claim]>,
    addresses: Box<[IpNet]>,
    times: Box<[Window]>,
    when: Option<Expression>,
}

/// A condition on a claim.
#[derive(Debug)]
struct Claim {
    /// As written: `realm_access.roles`.
    name: Box<str>,
    test: Test,
}

/// What a claim must be.
#[derive(Debug)]
enum Test {
    Equals(Value),
    Contains(Value),
    AnyOf(Box<[Value]>),
    Matches(Regex),
}

impl Conditions {
    /// From a route's rules. What is wrong is in `build.errors`.
    pub(super) fn compile(rules: &Spanned<Rules>, build: &mut Build) -> Self {
        for scope in &rules.scopes {
            // RFC 6749 §3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
            let token = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            if scope.is_empty() || !scope.bytes().all(token) {
                let cause = format!("`{}` is not a scope", scope.value);
                build.errors.push(
                    &scope.site,
                    &*scope.path,
                    cause,
                    "write such as `orders:read`, one an entry",
                );
            }
        }
        for group in rules.groups.iter().filter(|group| group.trim().is_empty()) {
            build.errors.push(
                &group.site,
                &*group.path,
                "the name of a group is empty",
                "write such as `staff`",
            );
        }
        let texts = |list: &[Spanned<String>]| {
            list.iter().map(|text| text.as_str().into()).collect::<Box<[Box<str>]>>()
        };
        let scopes = texts(&rules.scopes);
        Self {
            scope_text: (!scopes.is_empty()).then(|| scopes.join(" ").into()),
            scopes,
            groups: texts(&rules.groups),
            claims: rules.claims.iter().filter_map(|(name, written)| claim(name, written, build)).collect(),
            addresses: rules
                .addresses
                .iter()
                .filter_map(|text| match network(text) {
                    Ok(network) => Some(network),
                    Err((cause, cure)) => {
                        build.errors.push(&text.site, &*text.path, cause, cure);
                        None
                    }
                })
                .collect(),
            times: rules
                .times
                .iter()
                .filter_map(|text| match Window::parse(text) {
                    Ok(window) => Some(window),
                    Err(cause) => {
                        let cure = "write such as `Mon-Fri 08:00-18:00 Europe/Berlin`";
                        build.errors.push(&text.site, &*text.path, cause, cure);
                        None
                    }
                })
                .collect(),
            when: rules.when.as_ref().and_then(|text| Expression::compile(text, build)),
        }
    }

    /// The scopes that are needed.
    pub(super) fn scope_list(&self) -> &[Box<str>] {
        &self.scopes
    }

    /// The scopes that are needed, as a challenge says them.
    pub(super) fn scopes(&self) -> Option<&str> {
        self.scope_text.as_deref()
    }

    /// The claims that `when` names, each once.
    pub(super) fn named_claims(&self) -> BTreeSet<&str> {
        self.when.iter().flat_map(Expression::claims).collect()
    }

    /// The parameters and labels of a route that `when` cannot do without.
    pub(super) fn names(&self) -> Vec<(&'static str, &str)> {
        self.when.as_ref().map(Expression::names).unwrap_or_default()
    }

    /// The fields of the request that `when` speaks of.
    pub(super) fn fields(&self) -> Vec<&str> {
        self.when.as_ref().map(Expression::fields).unwrap_or_default()
    }

    /// Whether each holds.
    ///
    /// # Errors
    /// The first that does not.
    pub(super) fn check(&self, identity: &Identity, asked: &Asked<'_>) -> Result<(), Denial> {
        let refuse = |reason, message: String| Err(Denial::new(Kind::AccessDenied, reason, message));
        if let Some(scope) = self.scopes.iter().find(|scope| !identity.has_scope(scope)) {
            let message = format!("the scope `{scope}` is missing");
            return Err(Denial::new(Kind::AccessDenied, "insufficient_scope", message)
                .with_error("insufficient_scope"));
        }
        if !self.groups.is_empty() && !self.groups.iter().any(|group| identity.groups.contains(group)) {
            return refuse("group", "the identity is in none of the groups".to_owned());
        }
        if let Some(claim) = self.claims.iter().find(|claim| !claim.holds(identity)) {
            return refuse("claim", format!("the claim `{}` is not as the route wants it", claim.name));
        }
        if !self.addresses.is_empty() {
            let address: IpAddr = asked.request.client_ip().to_canonical();
            if !self.addresses.iter().any(|network| network.contains(&address)) {
                return refuse("address", "the client's address is in none of `addresses`".to_owned());
            }
        }
        if !self.times.is_empty() && !self.times.iter().any(|window| window.holds(asked.now)) {
            return refuse("time", "now is in none of `times`".to_owned());
        }
        match self.when.as_ref().map(|when| when.holds(identity, asked)) {
            None | Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => refuse("expression", "`when` is not true".to_owned()),
            Some(Err(why)) => refuse("expression", format!("`when` is not true: {why}")),
        }
    }
}

fn claim(name: &str, written: &Spanned<ClaimCondition>, build: &mut Build) -> Option<Claim> {
    let ClaimCondition { equals, contains, any_of, matches } = &written.value;
    let test = match (equals, contains, any_of, matches) {
        (Some(Scalar(value)), None, None, None) => Test::Equals(value.clone()),
        (None, Some(Scalar(value)), None, None) => Test::Contains(value.clone()),
        (None, None, Some(values), None) if !values.is_empty() => {
            Test::AnyOf(values.iter().map(|Scalar(value)| value.clone()).collect())
        }
        (None, None, None, Some(pattern)) => match Regex::new(pattern)
            // By itself first: `a)|(?:b` would be one with what stands around it.
            .and_then(|_| Regex::new(&format!(r"\A(?:{})\z", pattern.value)))
        {
            Ok(regex) => Test::Matches(regex),
            Err(_) => {
                let cause = format!("`{}` is not a regular expression", pattern.value);
                build.errors.push(&pattern.site, &*pattern.path, cause, "see the syntax of the regex crate");
                return None;
            }
        },
        _ => {
            build.errors.push(
                &written.site,
                &*written.path,
                "a condition on a claim is exactly one of `equals`, `contains`, `any_of`, `matches`",
                format!("write such as `{name}: {{equals: acme}}`"),
            );
            return None;
        }
    };
    let values: Vec<_> = equals.iter().chain(contains).chain(any_of.iter().flatten()).collect();
    if values.iter().any(|Scalar(value)| is_blurred(value)) {
        build.errors.push(
            &written.site,
            &*written.path,
            "a number is too large to be told from those beside it",
            "write a whole number of 64 bits without a point, or let the issuer say it as a text and write it in quotes",
        );
        return None;
    }
    // A claim whose own name has dots at such places cannot be meant: a dot leads into another.
    if name.split('.').any(str::is_empty) {
        let cause = format!("`{name}` names no claim: a part of it is empty");
        build.errors.push(
            &written.site,
            &*written.path,
            cause,
            "write such as `tenant` or `realm_access.roles`",
        );
        return None;
    }
    Some(Claim { name: name.into(), test })
}

impl Claim {
    fn holds(&self, identity: &Identity) -> bool {
        let Some(value) = identity.claim(&self.name) else { return false };
        match &self.test {
            Test::Equals(wanted) => same(value, wanted),
            Test::Contains(wanted) => {
                value.as_array().is_some_and(|list| list.iter().any(|element| same(element, wanted)))
            }
            Test::AnyOf(wanted) => wanted.iter().any(|wanted| same(value, wanted)),
            Test::Matches(regex) => value.as_str().is_some_and(|text| regex.is_match(text)),
        }
    }
}

/// Equal, type and all; 1 is 1.0. Whole numbers of 64 bits are compared as such: as doubles, neighbours beyond 2^53 are one.
fn same(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Number(own), Value::Number(other)) if own.is_f64() || other.is_f64() => {
            let own = own.as_f64().filter(|number| number.abs() < EXACT);
            own.is_some_and(|own| {
                other.as_f64().is_some_and(|other| own.partial_cmp(&other).is_some_and(Ordering::is_eq))
            })
        }
        _ => value == wanted,
    }
}

/// Whether it is a number that others could not be told from: whole, and of more than 64 bits, or written as a fraction beyond 2^53.
fn is_blurred(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| value.is_f64() && number.abs() >= EXACT)
}
