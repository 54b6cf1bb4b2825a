//! Which pieces of a text may be shown, and which of what stands between texts.

use std::ops::Range;
use std::sync::Arc;

use super::Sources;
use super::secrecy::{Words, is_of_word};

/// How far a text is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// As its type takes it, but for what is hidden by its form.
    Open,
    /// What has a language of its own: its words.
    Expression,
    /// The variables in it.
    Text,
    /// Nothing.
    Closed,
    /// Nothing, nor anywhere else.
    Secret,
}

/// What is left of a text.
pub(super) fn without(hidden: &[Range<usize>], length: usize) -> Vec<Range<usize>> {
    let mut sorted = hidden.to_vec();
    sorted.sort_by_key(|range| range.start);
    let (mut left, mut from) = (Vec::new(), 0);
    for range in sorted {
        left.push(from..range.start.max(from));
        from = from.max(range.end);
    }
    left.push(from..length.max(from));
    left
}

/// Where a text has `${env:NAME}` and `${file:PATH}`, and variables of ours.
pub(super) fn placeholders(text: &str, words: &Words, guard: Guard) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('{') {
        let Some(inside) = text.get(at + 1..).and_then(|rest| rest.split_once('}')).map(|(inside, _)| inside)
        else {
            break;
        };
        let end = at + inside.len() + 2;
        let is_put_in = text.get(..at).is_some_and(|before| before.ends_with('$') && !before.ends_with("$$"));
        let is_source = ["env:", "file:"].iter().any(|source| inside.starts_with(source));
        if is_put_in && is_source {
            found.push(at - 1..end);
        } else if guard == Guard::Text && is_variable(inside, words) {
            found.push(at..end);
        }
    }
    found
}

/// Whether a text is the name of a variable by its form: `route.id`.
fn is_variable(text: &str, words: &Words) -> bool {
    let first = text.split('.').next().unwrap_or_default();
    words.has(first) && text.chars().all(|c| c.is_ascii_alphabetic() || c == '.')
}

/// Where an expression has words of its language, and members of what they name: not what stands in quotes.
pub(super) fn words_of(text: &str, words: &Words) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut quote = None;
    let mut word: Option<usize> = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        if quote.is_none() && is_of_word(c) {
            word.get_or_insert(at);
            continue;
        }
        if let Some(start) = word.take() {
            let own = text.get(start..at).unwrap_or_default();
            let before = text.get(..start).unwrap_or_default();
            let named = found.len().checked_sub(2).and_then(|at| found.get(at));
            // What stands before a dot or a bracket, or behind a dot, is no value.
            let is_name = matches!(c, '.' | '(')
                || before.ends_with('.') && named.is_some_and(|named| named.end + 1 == start);
            let is_member = is_name && own.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
            if is_member || words.may_have(own) {
                found.push(start..at);
            }
        }
        match quote {
            Some(open) if open == c => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if at < text.len() => found.push(at..at + c.len_utf8()),
            None => {}
        }
    }
    found
}

/// What stands in a text beside its `${env:…}` and `${file:…}`.
pub(super) fn literals(text: &str) -> Vec<&str> {
    let mut literals = Vec::new();
    let mut rest = text;
    while let Some(at) = ["${env:", "${file:"].iter().filter_map(|mark| rest.find(mark)).min() {
        let Some((before, after)) = rest.split_at_checked(at) else { break };
        let Some((_, after)) = after.split_once('}') else { break };
        literals.push(before);
        rest = after;
    }
    literals.push(rest);
    literals.retain(|literal| !literal.trim().is_empty());
    literals
}

/// Hides all that is not shown: the rest of each text, and what stands between texts, but for the marks of YAML.
pub(super) fn cover(
    file: &Arc<str>,
    text: &str,
    texts: &[Range<usize>],
    mut shown: Vec<Range<usize>>,
    sources: &mut Sources,
) {
    shown.sort_by_key(|range| (range.start, range.end));
    let mut shown = shown.into_iter().peekable();
    let mut texts = texts.to_vec();
    texts.sort_by_key(|range| (range.start, range.end));
    let mut from = 0;
    for whole in texts {
        marks(text, from..whole.start, file, sources);
        let mut hidden = whole.start.max(from);
        while let Some(range) = shown.next_if(|range| range.start < whole.end) {
            sources.cover(file, hidden..range.start.max(hidden));
            hidden = hidden.max(range.end);
        }
        sources.cover(file, hidden..whole.end.max(hidden));
        from = from.max(whole.end);
    }
    marks(text, from..text.len(), file, sources);
}

/// Hides what stands between texts: comments, and the names of anchors and tags.
fn marks(text: &str, range: Range<usize>, file: &Arc<str>, sources: &mut Sources) {
    let Some(between) = text.get(range.clone()) else { return };
    let (mut at, mut hidden) = (range.start, None);
    let mut end = |hidden: &mut Option<(usize, bool)>, at| {
        if let Some((start, _)) = hidden.take() {
            sources.cover(file, start..at);
        }
    };
    for c in between.chars() {
        let is_mark = c.is_whitespace() || "[]{},:-?|>+\"'".contains(c);
        match hidden {
            Some((_, true)) if c != '\n' => {}
            Some((_, false)) if !is_mark => {}
            _ => {
                end(&mut hidden, at);
                match c {
                    '#' => hidden = Some((at + 1, true)),
                    '&' | '*' | '!' => hidden = Some((at + 1, false)),
                    _ if !is_mark => hidden = Some((at, false)),
                    _ => {}
                }
            }
        }
        at += c.len_utf8();
    }
    end(&mut hidden, at);
}
