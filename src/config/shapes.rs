//! Shapes that keys share: `none` or a value, a literal or a pattern.

/// `none`, or a value.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum OrNone<T> {
    /// Written `none`.
    #[default]
    None,
    /// Written in full.
    Some(T),
}

impl<T> OrNone<T> {
    /// The value, if there is one.
    pub fn as_option(&self) -> Option<&T> {
        match self {
            Self::None => None,
            Self::Some(value) => Some(value),
        }
    }
}

/// A condition on a text: `text` for equality, `{regex: …}`, or `{present: true}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Equal to this.
    Exact(String),
    /// Matched as a whole by this regular expression.
    Regex(String),
    /// There at all (`true`), or absent (`false`).
    Present(bool),
}
