//! Cross-origin resource sharing, to the letter of the Fetch standard.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Mode;
use crate::config::Spanned;
use crate::config::units::Time;

/// Which browsers' pages may read answers, and with which requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Origins that are allowed: exact (`https://app.example.com`), by label (`https://*.example.com`), an anchored
    /// `{regex: …}`, `"*"` for any, `"null"` for the opaque origin.
    pub origins: Vec<Spanned<Origin>>,
    /// Methods a page may use. Default: the methods of the routes that the path has.
    #[serde(default)]
    pub methods: Vec<Spanned<String>>,
    /// Request headers a page may send beyond the safelisted ones; `"*"` only without credentials.
    #[serde(default)]
    pub headers: Vec<Spanned<String>>,
    /// Response headers a page may read beyond the safelisted ones.
    #[serde(default)]
    pub expose: Vec<Spanned<String>>,
    /// Whether cookies and other credentials may go along.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may keep a preflight's answer.
    #[serde(default = "ten_minutes")]
    pub max_age: Time,
    /// Whether an actual request from another origin is refused (403); otherwise it passes without CORS headers.
    #[serde(default)]
    pub enforce_origin: bool,
    /// Whether a refusal is carried out (`enforce`) or only noted (`shadow`).
    #[serde(default)]
    pub mode: Mode,
}

fn ten_minutes() -> Time {
    Time(std::time::Duration::from_secs(600))
}

/// One allowed origin, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `https://app.example.com`, `https://*.example.com`, `*` or `null`.
    Text(String),
    /// `{regex: '^https://(a|b)\.example\.com$'}`
    Regex(String),
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use crate::config::Pattern;
        match Pattern::deserialize(deserializer)? {
            Pattern::Exact(text) => Ok(Self::Text(text)),
            Pattern::Regex(text) => Ok(Self::Regex(text)),
            Pattern::Present(_) => Err(serde::de::Error::custom("an origin is a text or `{regex: …}`")),
        }
    }
}

impl JsonSchema for Origin {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Origin".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "An origin: `https://app.example.com`, `https://*.example.com`, `{regex: …}`, `\"*\"` or `\"null\"`.",
            "anyOf": [
                { "type": "string" },
                { "type": "object", "properties": { "regex": { "type": "string", "format": "x-regex" } },
                  "required": ["regex"], "additionalProperties": false },
            ]
        })
    }
}
