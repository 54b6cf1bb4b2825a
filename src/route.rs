//! Host, path, method, headers and query → the one route that is meant.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Pattern, Spanned};

/// Which requests a route is for: every condition given must hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Hosts, exact (`api.example.com`) or by label (`*.example.org`: one label or more). Default: any.
    pub hosts: Vec<Spanned<String>>,
    /// Exact `/a/b`; one segment, never empty, `/users/{id}`; the rest `/orders/{*rest}` (also `/orders/`, not `/orders`).
    /// Default: every path.
    pub path: Option<Spanned<String>>,
    /// Methods. HEAD goes where GET goes. Default: any.
    pub methods: Vec<Spanned<String>>,
    /// Header conditions: a text for equality, `{regex: …}` or `{present: true}`.
    pub headers: BTreeMap<String, Spanned<Pattern>>,
    /// Query conditions, likewise.
    pub query: BTreeMap<String, Spanned<Pattern>>,
}
