//! Secrets in a text that is no YAML: told line by line, by the names before them. What goes on in further lines is hidden with them.

use std::collections::HashMap;
use std::ops::Range;

use super::secrecy::{Names, hidden_in, open_user, words};

/// What stands for a hidden character.
const VEIL: char = '…';

/// Where secrets stand, in bytes.
pub(super) fn secrets(text: &str, names: &Names) -> Vec<Range<usize>> {
    let mut known: HashMap<&str, bool> = HashMap::new();
    let mut hidden = Vec::new();
    let mut open: Option<Value> = None;
    let (mut aliases, mut lines) = (Vec::new(), Vec::new());
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let at = start;
        start += line.len();
        let line = line.trim_end();
        let first = line.len() - line.trim_start().len();
        if let Some(value) = &mut open
            && value.goes_on_in(line)
        {
            hidden.push(at + first..at + line.len());
            continue;
        }
        open = None;
        let mut is_secret = |word: &'_ Range<usize>| {
            let Some(word) = text.get(at + word.start..at + word.end) else { return false };
            *known.entry(word).or_insert_with(|| names.is_secret_anywhere(word))
        };
        if let Some((value, begins)) =
            words(line).filter(&mut is_secret).find_map(|word| Value::behind(line, &word))
        {
            let behind = line.get(begins..).unwrap_or_default();
            aliases.extend(behind.strip_prefix('*').and_then(|name| name.split([' ', ',', '}', ']']).next()));
            hidden.push(at + begins..at + line.len());
            open = Some(value);
        }
        let text = line.get(first..).unwrap_or_default();
        let first = if text.starts_with("- ") { first + 2 } else { first };
        let text = line.get(first..).unwrap_or_default();
        let value = text.find(": ").map_or(0, |colon| colon + 2);
        // What stands before a colon is a key mostly.
        let is_key = hidden_in(text.get(..value).unwrap_or_default()).is_empty();
        let from = if is_key { value } else { 0 };
        let by_form = hidden_in(text.get(from..).unwrap_or_default()).into_iter();
        let open = open_user(text).map(|begins| at + first + begins..at + line.len());
        hidden.extend(open);
        let from = at + first + from;
        hidden.extend(by_form.map(|range| from + range.start..from + range.end));
        lines.push((at, line));
    }
    // What an alias stands for where a secret is wanted.
    for (at, line) in lines.into_iter().filter(|_| !aliases.is_empty()) {
        let anchor = aliases.iter().filter_map(|name| line.find(&format!("&{name}"))).min();
        hidden.extend(anchor.map(|begins| at + begins..at + line.len()));
    }
    hidden.retain(|range| !range.is_empty());
    hidden
}

/// The text with its secrets hidden, character by character.
pub(super) fn masked(text: &str, hidden: &[Range<usize>]) -> String {
    let mut sorted = hidden.to_vec();
    sorted.sort_by_key(|range| range.start);
    let mut ranges = sorted.into_iter().peekable();
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

/// A value that may go on in the next line.
struct Value {
    /// Of the line of its key.
    indent: usize,
    /// Nothing stands behind the key.
    is_below: bool,
    quote: Option<char>,
    brackets: usize,
}

impl Value {
    /// What follows a word, and where it begins. None where the word is itself a value.
    fn behind(line: &str, word: &Range<usize>) -> Option<(Self, usize)> {
        let before = line.get(..word.start)?;
        let is_mark = |c| matches!(c, ' ' | '-' | '?' | '"' | '\'');
        let after = line.get(word.end..)?;
        let is_parted = |c| matches!(c, ' ' | '\t' | ':' | '=' | ',' | ']' | '}');
        if !after.is_empty() && !after.trim_start_matches(['"', '\'']).starts_with(is_parted) {
            return None;
        }
        let behind = after.trim_start_matches(['"', '\'']).trim_start();
        let rest = behind.strip_prefix([':', '=']).unwrap_or(behind).trim_start();
        let is_value =
            matches!(rest.chars().next(), None | Some(',' | ']' | '}')) && rest.len() == behind.len();
        if is_value && !before.chars().all(is_mark) {
            return None;
        }
        let mut value = Self {
            indent: line.chars().take_while(|c| is_mark(*c)).count(),
            is_below: matches!(rest.chars().next(), None | Some('|' | '>' | '#' | '&' | '!')),
            quote: None,
            brackets: 0,
        };
        value.read(rest, true);
        Some((value, line.len() - rest.len()))
    }

    /// Follows quotes and brackets through a line.
    fn read(&mut self, text: &str, is_first: bool) {
        let mut before = ' ';
        for (index, c) in text.chars().enumerate() {
            let begins = is_first && index == 0 || matches!(before, ' ' | ',' | '[' | '{' | ':');
            match (self.quote, c) {
                (Some('"'), '"') if before == '\\' => {}
                (Some(quote), c) if quote == c => self.quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') if begins => self.quote = Some(c),
                (None, '[' | '{') if begins || self.brackets > 0 => self.brackets += 1,
                (None, ']' | '}') => self.brackets = self.brackets.saturating_sub(1),
                (None, _) => {}
            }
            before = c;
        }
    }

    fn goes_on_in(&mut self, line: &str) -> bool {
        let text = line.trim_start();
        if self.quote.is_some() || self.brackets > 0 {
            self.read(text, false);
            return true;
        }
        if text.is_empty() {
            return true;
        }
        let indent = line.len() - text.len();
        let is_item = text == "-" || text.starts_with("- ");
        let is_entry =
            is_item || text.starts_with(['#', '}', ']']) || text.contains(": ") || text.ends_with(':');
        // Also items that are indented less than what they are the value of.
        let goes_on = indent > self.indent || !is_entry || self.is_below && is_item;
        if goes_on {
            self.read(text, false);
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_to_its_end_however_broken_the_text_is() {
        for (text, is_closed) in [
            ("client_secret: HUNTER: 2\nurl: x", true),
            ("client_secret HUNTER\nurl: x", true),
            ("client_secret:HUNTER\nurl: x", true),
            ("client_secrt: \"HUN\nTER\nurl: y", false),
            ("client_secrt: \"HUN\nTER\"\nurl: y", true),
            ("- {a: b, \"password\": 'HUNTER, c: d}\nurl: x", false),
            ("a:\n  secret: |\n    HUNTER\n\n    TER\n  url: x", true),
            ("a:\n  secret:\n  - HUNTER\n  - TER\n  url: x", true),
            ("a:\n  secret:\n- HUNTER\n  url: x", true),
            ("secret: [a,\n HUNTER\n]\nurl: x", true),
            ("secret: HUN\nTER\nurl: x", true),
            ("# token: HUNTER\nurl: x", true),
            ("x: &s HUNTER\nsecret: *s\nurl: x", true),
            ("url: me:HUNTER@x.example: y", true),
            ("url: 'https://me:HUNTER\n  x: y", true),
            ("url: https://x.example:8443/y: z", true),
            ("- https://x.example?a=HUNTER: y\nurl: x", true),
        ] {
            let masked = masked(text, &secrets(text, &Names::default()));
            assert_eq!(masked.chars().count(), text.chars().count(), "{text}");
            assert!(!masked.contains("HUN") && !masked.contains("TER"), "{text}: {masked}");
            assert_eq!(masked.contains("url: "), is_closed, "{masked}");
        }
        let text = "type: access_token\naudience: [token]\nstate: `pwd`\nb: &b [c]\nurl: x";
        assert_eq!(masked(text, &secrets(text, &Names::default())), text);
    }
}
