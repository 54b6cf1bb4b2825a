//! Address lists: who may come at all, by where they come from.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Mode;
use crate::config::{OrNone, Spanned};

/// An address list. `deny` wins; an `allow` list (here or in the file) refuses the rest.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// CIDRs or addresses that may pass. Where any is given, all others are refused. `::ffff:a.b.c.d` is `a.b.c.d`.
    pub allow: Vec<Spanned<String>>,
    /// CIDRs or addresses that may not pass, whatever `allow` says.
    pub deny: Vec<Spanned<String>>,
    /// A file with one CIDR or address a line that may pass, as in `allow`; `#` begins a comment. Reloaded when it changes.
    pub file: OrNone<Spanned<String>>,
    /// Whether a refusal is carried out (`enforce`) or only noted (`shadow`).
    pub mode: Mode,
}

/// An address as lists compare it: IPv4-mapped IPv6 is IPv4.
pub fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
