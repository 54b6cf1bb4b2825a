//! What of a path has two readings, yet an API may need: noted at the door, refused once the route is known unless it lists it.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Denial, Fault};

/// What of a path two servers may read differently. A route that lists one takes such paths; what routes, policies, the log and
/// the upstream then see is one form all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Oddity {
    /// `%2f`: a slash to servers that decode before they split. It is never decoded here: `a%2Fb` is one segment, for routes as
    /// for the upstream, which gets `%2F`.
    EncodedSlash,
    /// `%5c`: a slash to servers that decode, on some systems. Never decoded here; the upstream gets `%5C`.
    EncodedBackslash,
    /// `\`: a slash to some servers. It is an ordinary character here, written `%5C`, for the upstream too.
    Backslash,
    /// `..;x` and `.;`: dot segments to servers that cut path parameters off. Ordinary segments here; the upstream gets them as
    /// they are.
    SemicolonDots,
    /// Dots between encoded slashes or backslashes, as in `..%2f` and `..\`: dot segments to servers that decode before they
    /// split. Ordinary text here; the upstream gets them as they are.
    HiddenDots,
    /// `;x` in a path that would lead to another route, or to none, without it: `/admin;x/y` is `/admin/y` to servers that cut
    /// path parameters off. The whole segment is matched here; the upstream gets it as it is. Parameters that make no such
    /// difference are no oddity.
    PathParameters,
    /// Bytes above 127 that are not percent-encoded; UTF-8 in any case. Routes, log and upstream see them encoded: `é` is
    /// `%C3%A9`.
    RawNonAscii,
}

impl Oddity {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 7] = [
        Self::EncodedSlash,
        Self::EncodedBackslash,
        Self::Backslash,
        Self::SemicolonDots,
        Self::HiddenDots,
        Self::PathParameters,
        Self::RawNonAscii,
    ];

    /// Its name in `path_oddities`, and its reason in log and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::EncodedSlash => "encoded_slash",
            Self::EncodedBackslash => "encoded_backslash",
            Self::Backslash => "backslash",
            Self::SemicolonDots => "semicolon_dots",
            Self::HiddenDots => "hidden_dots",
            Self::PathParameters => "path_parameters",
            Self::RawNonAscii => "raw_non_ascii",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Oddities(u16);

impl From<Oddity> for Oddities {
    fn from(oddity: Oddity) -> Self {
        Self(oddity.bit())
    }
}

impl FromIterator<Oddity> for Oddities {
    fn from_iter<I: IntoIterator<Item = Oddity>>(oddities: I) -> Self {
        Self(oddities.into_iter().fold(0, |set, oddity| set | oddity.bit()))
    }
}

impl Oddities {
    /// Those in the set.
    pub fn iter(self) -> impl Iterator<Item = Oddity> {
        Oddity::ALL.into_iter().filter(move |oddity| self.contains(*oddity))
    }

    /// The names of those in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.iter().map(Oddity::name)
    }

    /// Whether nothing odd was seen.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it is in the set.
    pub fn contains(self, oddity: Oddity) -> bool {
        self.0 & oddity.bit() != 0
    }

    /// Adds one.
    pub fn insert(&mut self, oddity: Oddity) {
        self.0 |= oddity.bit();
    }

    /// Those of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in `tolerated`.
    #[must_use]
    pub fn without(self, tolerated: Self) -> Self {
        Self(self.0 & !tolerated.0)
    }

    /// The refusal that is due once the route is known, for what it does not tolerate. It names the line that would allow the
    /// path: with what the route lists already, and what is missing. `route` is none where no route has the path: what two
    /// servers read differently has no one path that a 404 or 405 could speak of.
    pub fn denial(self, tolerated: Self, route: Option<&str>) -> Option<Denial> {
        let left = self.without(tolerated);
        let reason = left.names().next()?;
        let list = |set: Self| set.names().collect::<Vec<_>>().join(", ");
        let mut message = format!("the path has two readings ({}), ", list(left));
        match route {
            Some(route) => message.push_str(&format!(
                "which the route `{route}` takes only with `path_oddities: [{}]`",
                list(tolerated.and(left))
            )),
            None => message.push_str("and no route has it"),
        }
        Some(Denial { fault: Fault::Ambiguous, reason, message: message.into() })
    }
}
