//! Logging as written.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{OrNone, Spanned};

/// What is written about requests and about the gateway itself.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug`, `trace`, `off`, or a list such as `portcullis=debug,pingora=warn`; a level without a name
    /// is for all others, which else are at `warn`. Pingora's own messages, one a failed request and with its query, and those of the
    /// client of a fleet's store (`redis`) are off unless the list names them.
    pub level: Spanned<String>,
    /// The operational log's form: `text` or `json`.
    pub format: Format,
    /// The access log.
    pub access: Access,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: Spanned::unwritten("info".to_owned()), format: Format::Text, access: Access::default() }
    }
}

/// The operational log's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines: an object a line.
    Json,
}

/// The access log.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// `stdout`, `stderr`, a file's path (reopened on SIGUSR1), or `none`.
    pub to: OrNone<Spanned<String>>,
    /// `json`, or a template such as `'{identity.sourceIp} [{requestTime}] "{httpMethod} {path} {protocol}" {status}'`.
    pub format: Spanned<String>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            to: OrNone::Some(Spanned::unwritten("stdout".to_owned())),
            format: Spanned::unwritten("json".to_owned()),
        }
    }
}

/// Where the access log goes, parsed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AccessTarget {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file.
    File(std::path::PathBuf),
}

impl fmt::Display for AccessTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}
