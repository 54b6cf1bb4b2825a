//! Header rules: set, add, remove and rename, on requests and responses.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Spanned;

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
    pub set: BTreeMap<String, Spanned<String>>,
    /// Adds a field beside those there are. The value is a template.
    pub add: BTreeMap<String, Spanned<String>>,
    /// Removes all fields of a name.
    pub remove: Vec<Spanned<String>>,
    /// Gives fields another name: `old: new`.
    pub rename: BTreeMap<String, Spanned<String>>,
}
