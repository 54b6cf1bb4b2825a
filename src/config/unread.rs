//! A text that is no YAML: of its lines only keys are shown, which are the same in every configuration. Where a secret begins and ends in it
//! nobody can tell.

use std::ops::Range;

use super::secrecy::{Words, is_of_word};

/// What stands for a hidden character.
pub(super) const VEIL: char = '…';

/// What of a text is not shown, in bytes: all but its keys, and the marks around them.
pub(super) fn hidden(text: &str, words: &Words) -> Vec<Range<usize>> {
    let mut hidden = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let shown = keys(line.trim_end(), words);
        let mut from = line.len() - line.trim_start().len();
        for range in shown {
            hidden.push(start + from..start + range.start);
            from = range.end;
        }
        hidden.push(start + from..start + line.trim_end().len());
        start += line.len();
    }
    hidden.retain(|range| !range.is_empty());
    hidden
}

/// The keys of a line, with the marks before them and the colon behind.
fn keys(line: &str, words: &Words) -> Vec<Range<usize>> {
    let mut keys: Vec<Range<usize>> = Vec::new();
    let indent = line.len() - line.trim_start().len();
    let text = line.trim_start_matches([' ', '\t', '-', '?']);
    let first = line.len() - text.len();
    let mut starts = vec![(indent, first)];
    let marks = line.match_indices(['{', '[', ',']);
    starts.extend(marks.map(|(at, mark)| (at, at + mark.len())));
    for (mark, start) in starts {
        let Some(rest) = line.get(start..) else { continue };
        let name = rest.trim_start();
        let quote = name.chars().next().filter(|c| matches!(c, '"' | '\''));
        let name = quote.map_or(name, |quote| name.trim_start_matches(quote));
        let end = name.find(|c| !is_of_word(c)).unwrap_or(name.len());
        let (Some(word), Some(behind)) = (name.get(..end), name.get(end..)) else { continue };
        let behind = quote.and_then(|quote| behind.strip_prefix(quote)).unwrap_or(behind);
        let is_key = behind.starts_with(':')
            || start == first && (behind.is_empty() || behind.starts_with([' ', '\t', '=']));
        if words.is_key(word) && is_key {
            let colon = usize::from(behind.starts_with(':'));
            let opened = behind.get(colon..).unwrap_or_default();
            let space = opened.len() - opened.trim_start().len();
            let end = line.len() - opened.len() + space;
            let mark = if mark == first { indent } else { mark };
            let from = keys.last().map_or(mark, |last| last.end.max(mark));
            keys.push(from..end.max(from));
        }
    }
    keys
}

/// The text with what is hidden of it, character by character.
pub(super) fn masked(text: &str, hidden: &[Range<usize>]) -> String {
    let mut ranges = hidden.iter().peekable();
    let mut ends = 0;
    let hide = |(at, c)| {
        while let Some(range) = ranges.next_if(|range| range.start <= at) {
            ends = ends.max(range.end);
        }
        if at < ends && c != '\n' { VEIL } else { c }
    };
    text.char_indices().map(hide).collect()
}

/// A piece of what was masked, as it is told: however long a secret is.
pub(super) fn told(masked: &str) -> String {
    let mut told = String::with_capacity(masked.len());
    for c in masked.chars() {
        if c != VEIL || !told.ends_with(VEIL) {
            told.push(c);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secrecy::Names;

    #[test]
    fn of_a_broken_text_only_its_keys_are_shown() {
        let key = serde_json::json!({});
        let names = Names::of(&serde_json::json!({
            "properties": { "client_secret": key, "url": key, "auth": key, "introspection": key }
        }));
        for (line, expected) in [
            ("client_secret: HUNTER: 2", "client_secret: …"),
            ("client_secret HUNTER", "client_secret …"),
            ("  client_secret:HUNTER", "  client_secret:…"),
            ("client_secret=HUNTER", "client_secret…"),
            ("  client_secret:", "  client_secret:"),
            ("HUNTER", "…"),
            ("\tHUNTER: 2", "\t…"),
            ("- - client_secret: 'HUNTER", "- - client_secret: …"),
            ("- {url: HUN, \"client_secret\": 'TER, x: HUN}", "- {url: …, \"client_secret\": …"),
            ("auth: {introspection: {url: https://me:HUNTER@x", "auth: {introspection: {url: …"),
            ("innocent: HUNTER", "…"),
            ("# url: HUNTER", "…"),
            ("client_secrt: HUNTER", "…"),
            ("client_secret: &HUNTER url: HUNTER", "client_secret: …"),
            ("client_secret: HÜNTER, url: y", "client_secret: …, url: …"),
            ("? client_secret", "? client_secret"),
            ("", ""),
        ] {
            let hidden = hidden(line, &names.words);
            let masked = masked(line, &hidden);
            assert_eq!(masked.chars().count(), line.chars().count(), "{line}");
            assert_eq!(told(&masked), expected, "{line}");
        }
    }
}
