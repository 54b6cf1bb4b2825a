//! What a syntax error means to somebody who writes a configuration, and what he meant to write.

use granit_parser::ErrorKind;

use super::Site;
use super::tree::shortened;
use super::unread::{self, VEIL};

/// Cause and cure of a parser's error at `site` of `text`; `shown` is as long, has no secrets in it, and is what is quoted.
pub(super) fn explain(kind: &ErrorKind, text: &str, shown: &str, site: &Site) -> (String, String) {
    let before = line(shown, site.line.saturating_sub(1)).trim_start_matches([' ', '-']);
    if matches!(kind, ErrorKind::MappingValueNotAllowed | ErrorKind::MappingKeyNotAllowed)
        && site.line > 1
        && let Some((key, VEIL)) =
            before.split_once(':').and_then(|(key, rest)| Some((key, rest.chars().next()?)))
        && !key.contains(VEIL)
    {
        let cause = format!("`{key}` in the line before lacks a space behind its colon");
        return (cause, format!("write `{key}: …`"));
    }
    if matches!(kind, ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator)
        && line(text, site.line).contains("${")
    {
        let cause = "within brackets, a text with brackets in it needs quotes";
        return (cause.into(), "write `\"${env:NAME}\"`, in quotes".into());
    }
    let is_bracketed = value_of(line(text, site.line)).starts_with(['[', '{']);
    let line = line(shown, site.line);
    let at = usize::try_from(site.column.saturating_sub(1)).unwrap_or(usize::MAX);
    let (cause, cure) = explain_in(kind, line, at, is_bracketed);
    (unread::told(&cause), unread::told(&cure))
}

fn explain_in(kind: &ErrorKind, line: &str, at: usize, is_bracketed: bool) -> (String, String) {
    let value = value_of(line);
    match kind {
        ErrorKind::MissingAnchorOrAliasName => {
            ("a bare `*` or `&` begins an alias or an anchor".into(), "write it in quotes: `\"*\"`".into())
        }
        ErrorKind::ExpectedBlockMappingKey if is_bracketed => (
            format!("`{value}` begins like a list or mapping and goes on as a text"),
            format!("write it in quotes: `{}`", quote(value)),
        ),
        ErrorKind::ExpectedBlockMappingKey => (
            "no key stands where one is wanted".into(),
            "write `key: value`, indented like the keys before it".into(),
        ),
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator => (
            "within brackets, a text with brackets in it needs quotes; or `,` or the end is missing".into(),
            format!("write it in quotes: `{}`", quote(&text_around(line, at))),
        ),
        ErrorKind::UnclosedFlowCollection { open } => {
            (format!("`{open}` is never closed"), format!("close it with `{}`", partner(*open)))
        }
        ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofImplicitFlowMapping
        | ErrorKind::UnexpectedEofFlowSequence => {
            ("a bracket is never closed".into(), "close it with `]` or `}`".into())
        }
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            (format!("`{open}` is closed by `{close}`"), format!("close it with `{}`", partner(*open)))
        }
        ErrorKind::MisplacedFlowCollectionEnd => (
            "a bracket is closed that was never opened".into(),
            "remove it, or write the text in quotes".into(),
        ),
        ErrorKind::InvalidColonPlacement => (
            "a `:` stands where `,` or the end of the list is wanted".into(),
            "close the bracket before it".into(),
        ),
        ErrorKind::MappingValueNotAllowed | ErrorKind::MappingKeyNotAllowed => (
            "a second `: ` in one line, or a key that is indented wrongly".into(),
            "put the value in quotes, or indent the key like those before it".into(),
        ),
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => (
            format!("`{}` is neither a key nor part of a value", shortened(line.trim())),
            "write `key: value`, with a space after the colon".into(),
        ),
        ErrorKind::UnexpectedCharacter { character } if character.is_control() => (
            format!("the control character U+{:04X} cannot stand in a configuration", u32::from(*character)),
            "remove it".into(),
        ),
        ErrorKind::UnexpectedCharacter { character } => (
            format!(
                "a text cannot begin with {}",
                if *character == '`' { "a backquote".into() } else { format!("`{character}`") }
            ),
            format!("write it in quotes: `{}`", quote(&text_around(line, at))),
        ),
        ErrorKind::TabInBlockIndentation | ErrorKind::TabNotAllowed | ErrorKind::TabInIndentation => {
            ("a tab stands where the line is indented".into(), "indent with spaces".into())
        }
        ErrorKind::UnclosedQuotedScalar | ErrorKind::DocumentIndicatorInQuotedScalar => {
            ("a quote is never closed".into(), "close it with the same quote".into())
        }
        ErrorKind::InvalidTrailingSingleQuotedScalar => (
            "text follows the closing quote".into(),
            "write a quote inside single quotes twice: `'it''s'`".into(),
        ),
        ErrorKind::InvalidTrailingDoubleQuotedScalar => (
            "text follows the closing quote".into(),
            "put the whole value in quotes; inside double quotes write `\\\"`".into(),
        ),
        ErrorKind::UnknownQuotedScalarEscape => (
            "an unknown escape in double quotes".into(),
            "write `\\\\` for a backslash, or use single quotes: they know no escapes".into(),
        ),
        ErrorKind::ExpectedBlockSequenceEntry | ErrorKind::BlockSequenceEntryNotAllowed => (
            "list items (`- …`) and keys are mixed".into(),
            "indent all items of a list, or all keys of a mapping, alike".into(),
        ),
        ErrorKind::RecursionLimitExceeded => {
            ("nested deeper than 64 levels".into(), "look for a bracket too many".into())
        }
        other => {
            (format!("not YAML: {other}"), "look for a missing quote, bracket or space before here".into())
        }
    }
}

fn line(text: &str, number: u32) -> &str {
    let index = usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
    text.lines().nth(index).unwrap_or_default()
}

/// What follows the first `: ` or `- ` of a line, or all of it.
fn value_of(line: &str) -> &str {
    let value = line.split_once(": ").map_or(line, |(_, value)| value).trim();
    value.strip_prefix("- ").unwrap_or(value)
}

/// The text that goes through a column of a line, brackets within it included: `/x/{id}` of `{path: /x/{id}}`.
fn text_around(line: &str, at: usize) -> String {
    let characters: Vec<char> = line.chars().collect();
    let (before, after) = characters.split_at_checked(at).unwrap_or((&characters, &[]));
    let starts = |c: &char| matches!(c, ' ' | '[' | '{' | ',');
    // An error can also stand behind the brackets that are the text's beginning: `{route.id}/x`.
    let behind = matches!(before.last(), Some('}' | ']'));
    let opened = if behind { before.iter().rposition(|c| matches!(c, '{' | '[')) } else { None };
    let start = opened.or_else(|| before.iter().rposition(starts).map(|at| at + 1)).unwrap_or_default();
    let mut depth = 0_u32;
    let mut text: String = before.iter().skip(start).collect();
    for c in after {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' if depth > 0 => depth -= 1,
            '}' | ']' | ',' | ' ' if depth == 0 => break,
            _ => {}
        }
        text.push(*c);
    }
    text
}

fn quote(value: &str) -> String {
    if value.contains('"') { format!("'{value}'") } else { format!("\"{value}\"") }
}

fn partner(open: char) -> char {
    if open == '{' { '}' } else { ']' }
}

#[cfg(test)]
mod tests {
    use super::text_around;

    #[test]
    fn the_text_that_needs_quotes() {
        for (line, at, text) in [
            ("m: {path: /x/{id}}", 13, "/x/{id}"),
            ("m: {path: /x/{*rest}, b: c}", 13, "/x/{*rest}"),
            ("a: {x: {route.id}/y}", 17, "{route.id}/y"),
            ("a: {servers: [${env:PORT}]}", 15, "${env:PORT}"),
            ("a: @x # why", 3, "@x"),
            ("retries: {budget: %10}", 18, "%10"),
            ("", 7, ""),
        ] {
            assert_eq!(text_around(line, at), text, "{line}");
        }
    }
}
