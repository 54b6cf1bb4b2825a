//! Values of a key that have limits of their own.

use std::collections::HashMap;

use ipnet::IpNet;
use serde_json::Value;

use super::key::{Facts, Found, Part};
use crate::canonical::Authority;
use crate::client;
use crate::config::{Build, Spanned};

/// Those keys that share a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Class {
    /// The limit's place in its policy; 0 is that of all keys without one of their own.
    pub(super) tier: u8,
    /// By which the table knows it: the same as long as the table lives.
    pub(super) id: u8,
}

/// The classes of values with limits of their own.
#[derive(Debug, Default)]
pub(super) enum Classes {
    #[default]
    One,
    /// The longest prefixes first.
    Networks(Vec<(IpNet, Class)>),
    /// Whom it is about, by his own name, else by his plan. A plan's name is nobody's own: who can call himself like a plan gets nothing
    /// by it.
    Names(HashMap<Box<str>, Named, foldhash::fast::FixedState>),
    Values(HashMap<Box<[u8]>, Class, foldhash::fast::FixedState>),
}

/// Who is named so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    class: Class,
    /// A plan of the configuration.
    is_plan: bool,
}

impl Classes {
    /// Of values that stand in the first part of a key. Which do not fit is an error, and so is one that is written twice, in whatever
    /// form: either of its limits would be a surprise.
    pub(super) fn compile<'a, T: 'a>(
        first: &Part,
        values: impl Iterator<Item = (&'a String, &'a Spanned<T>, Class)>,
        build: &mut Build,
    ) -> Self {
        let mut networks = Vec::new();
        let (mut names, mut texts) = (HashMap::default(), HashMap::default());
        let mut seen = HashMap::<String, &str>::new();
        let mut is_new = |canonical: String, value: &'a str, at: &Spanned<T>, build: &mut Build| {
            let Some(first) = seen.insert(canonical, value) else { return true };
            let cause = format!("`{first}` and `{value}` are one value");
            build.errors.push(&at.site, &*at.path, cause, "keep one of the two");
            false
        };
        for (value, at, class) in values {
            if value.is_empty() {
                let cause = "an empty value is none: the client stands in for it";
                build.errors.push(&at.site, &*at.path, cause, "name a value, or change `limit`");
                continue;
            }
            match first {
                Part::Client | Part::AuthFailures => match client::network(value) {
                    Ok(network) => {
                        if is_new(network.to_string(), value, at, build) {
                            networks.push((network, class));
                        }
                    }
                    Err((cause, cure)) => build.errors.push(&at.site, &*at.path, cause, cure),
                },
                Part::Identity | Part::ApiKey => {
                    let is_plan = build.plans.contains(value);
                    names.insert(value.as_str().into(), Named { class, is_plan });
                }
                Part::Host => match canonical_host(value) {
                    Ok(host) => {
                        if is_new(host.clone(), value, at, build) {
                            texts.insert(host.into_bytes().into(), class);
                        }
                    }
                    Err(cause) => {
                        let cause = format!("`{value}` is no host: {cause}");
                        build.errors.push(&at.site, &*at.path, cause, "write such as `api.example.com`");
                    }
                },
                Part::Plan | Part::Route | Part::Header(_) | Part::Cookie(_) | Part::Claim(_) => {
                    texts.insert(value.as_bytes().into(), class);
                }
            }
        }
        networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
        match first {
            _ if networks.is_empty() && names.is_empty() && texts.is_empty() => Self::One,
            Part::Client | Part::AuthFailures => Self::Networks(networks),
            Part::Identity | Part::ApiKey => Self::Names(names),
            _ => Self::Values(texts),
        }
    }

    /// The class of a request's value.
    pub(super) fn of(&self, found: &Found<'_>, facts: &Facts<'_>) -> Class {
        match self {
            Self::One => Class::default(),
            Self::Networks(networks) => {
                let address = facts.client.to_canonical();
                let found = networks.iter().find(|(network, _)| network.contains(&address));
                found.map(|(_, class)| *class).unwrap_or_default()
            }
            Self::Names(names) => {
                let own = match found {
                    Found::Who(who) => Some(&*who.id),
                    Found::Bytes(key) => std::str::from_utf8(key).ok(),
                    Found::Address(_) | Found::Fields(_) | Found::Claim(_) => None,
                };
                let plan = facts.identity.and_then(|who| who.plan.as_deref());
                let named = |name: Option<&str>| names.get(name?);
                let found = named(own).filter(|named| !named.is_plan).or_else(|| named(plan));
                found.map(|named| named.class).unwrap_or_default()
            }
            Self::Values(values) => {
                let class = |value: &[u8]| values.get(value).copied().unwrap_or_default();
                match found {
                    Found::Bytes(bytes) => class(bytes),
                    Found::Claim(Value::String(text)) => class(text.as_bytes()),
                    Found::Claim(value) => class(value.to_string().as_bytes()),
                    // Several values are none of those that were named.
                    Found::Fields(fields) => {
                        let mut fields = fields.iter();
                        match (fields.next(), fields.next()) {
                            (Some(only), None) => class(only.as_bytes()),
                            _ => Class::default(),
                        }
                    }
                    Found::Address(_) | Found::Who(_) => Class::default(),
                }
            }
        }
    }
}

/// As requests have it.
fn canonical_host(written: &str) -> Result<String, &'static str> {
    let authority = Authority::parse(written.as_bytes())?;
    if authority.port.is_some() {
        return Err("it has a port, and all ports of a host are one key");
    }
    let mut host = String::new();
    authority.host.write(&mut host);
    Ok(host)
}
