//! Messages about places at which something is not shown. They say no more of it than its line does: words of the configuration's own
//! language, and what its value does not have in any form that it is read in.

use std::collections::HashSet;
use std::net::IpAddr;

use zeroize::Zeroizing;

use super::Diagnostic;
use super::scalars::{Typed, typed};
use super::secrecy::{is_of_word, parts};
use super::sources::{HIDDEN, Hidden, Kept, Sources, is_long};
use super::units::{Percent, Rate, Size, Speed, Time};

/// Words of examples.
const EXAMPLES: &str = "env file path name key value text url port host http https redis rediss unix example com org net api internal \
                        localhost requestid kib mib gib utc it s b ms m h d n v x get post ca pem json yaml jwks htpasswd";

impl Sources {
    /// A text that was made of the configuration's values, as it may be told: without what may be a secret in them.
    pub fn discreet_value(&self, text: &str) -> String {
        let values =
            self.hidden.iter().filter(|hidden| hidden.written == HIDDEN).map(|hidden| &*hidden.value);
        let mut literals: Vec<&str> = values
            .flat_map(|value| value.split(['{', '}']).step_by(2))
            .map(|literal| literal.trim_end_matches('$').trim())
            .filter(|literal| literal.len() > 2 && !is_harmless(literal))
            .collect();
        literals.sort_by_key(|literal| std::cmp::Reverse(literal.len()));
        literals.iter().fold(self.discreet(text), |text, literal| text.replace(literal, HIDDEN))
    }

    /// A message about a place, as it may be told.
    pub(super) fn discreet_at(&self, message: &str, diagnostic: &Diagnostic) -> String {
        let scope = Scope::of(self, diagnostic);
        let whole = self.discreet(message);
        let told = |(index, piece): (usize, &str)| match index % 2 {
            // Quoted is every second piece.
            1 => scope.quoted(piece),
            _ => scope.plain(piece),
        };
        let text = whole.split('`').enumerate().map(told).collect::<Vec<_>>().join("`");
        self.shown(&text, 0, Vec::new()).0.into_owned()
    }
}

/// Whether a text is no secret by its form: a few words in small letters, and short numbers.
fn is_harmless(text: &str) -> bool {
    let is_word = |word: &str| {
        word.len() <= 12 && word.bytes().all(|b| b.is_ascii_lowercase())
            || word.len() <= 4 && word.bytes().all(|b| b.is_ascii_digit())
    };
    text.len() <= 32 && text.is_ascii() && parts(text).all(is_word)
}

/// What is hidden where a message is about.
struct Scope<'a> {
    sources: &'a Sources,
    /// What is hidden at the very place.
    here: Vec<Veiled<'a>>,
    /// What is hidden in the same line, and within what the message is about.
    near: Vec<Veiled<'a>>,
    /// Words that are shown at the place itself, in lower case.
    shown: HashSet<String>,
    is_strict: bool,
}

struct Veiled<'a> {
    written: &'a str,
    kept: Kept,
    /// What it says, and what is made of it when it is read; in lower case.
    forms: Vec<Zeroizing<String>>,
}

impl<'a> Veiled<'a> {
    fn of(hidden: &'a Hidden) -> Self {
        Self { written: &hidden.written, kept: hidden.kept, forms: forms(&hidden.value) }
    }

    fn is_put_in(&self) -> bool {
        self.written != HIDDEN
    }

    /// Whether a text is all of it.
    fn is(&self, text: &str) -> bool {
        self.forms.iter().any(|form| **form == text)
    }

    /// Whether a word, in lower case, is a part of it.
    fn has(&self, word: &str, is_odd: bool) -> bool {
        let number = number(word);
        let is_odd = is_odd && number.is_none();
        let is_part = (is_long(word) || is_odd) && self.forms.iter().any(|form| form.contains(word));
        is_part || number.is_some_and(|number| self.has_number(number))
    }

    fn has_number(&self, wanted: u64) -> bool {
        let is_short = wanted < 10;
        self.forms.iter().any(|form| {
            let mut runs =
                form.split(|c: char| !c.is_ascii_digit()).filter_map(|run| run.parse::<u64>().ok());
            runs.any(|number| number == wanted) && (!is_short || form.len() < 3)
        })
    }
}

impl<'a> Scope<'a> {
    fn of(sources: &'a Sources, diagnostic: &Diagnostic) -> Self {
        let below = |a: &str, b: &str| {
            !b.is_empty()
                && a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let (mut here, mut near) = (Vec::new(), Vec::new());
        let path = sources.discreet_path(&diagnostic.path, &diagnostic.site.file);
        // Names are told in other spellings too: `x-version` for `x_version`.
        let near_by = [&*path, &*diagnostic.site.file].map(str::to_lowercase);
        let words =
            near_by.iter().flat_map(|text| parts(text).chain(text.split(|c: char| !c.is_alphanumeric())));
        let mut shown: HashSet<String> = words.map(str::to_owned).collect();
        for hidden in &sources.hidden {
            let is_same_line =
                hidden.site.file == diagnostic.site.file && hidden.site.line == diagnostic.site.line;
            let is_here = below(&diagnostic.path, &hidden.path)
                || is_same_line && (diagnostic.path.is_empty() || hidden.site == diagnostic.site);
            if is_here {
                shown.extend(hidden.shown.iter().cloned());
                here.push(Veiled::of(hidden));
            } else if (is_same_line || below(&hidden.path, &diagnostic.path)) && is_long(&hidden.value) {
                near.push(Veiled::of(hidden));
            }
        }
        let is_strict = !here.is_empty() || sources.distrusted.contains(&diagnostic.site.file);
        Self { sources, here, near, shown, is_strict }
    }

    /// What stands for something hidden.
    fn instead(&self) -> &'a str {
        self.here.iter().find(|veiled| veiled.is_put_in()).map_or(HIDDEN, |veiled| veiled.written)
    }

    fn is_known(&self, word: &str) -> bool {
        self.shown.contains(word)
            || EXAMPLES.split_whitespace().any(|example| example == word)
            || self.sources.open.contains(word)
            || self.sources.words.may_have(word)
            || self.sources.more.iter().any(|more| more.eq_ignore_ascii_case(word))
    }

    /// A text in quotes: each word of it is known, or it is not told.
    fn quoted(&self, text: &str) -> String {
        let low = text.trim().to_lowercase();
        if low.is_empty() {
            return text.to_owned();
        }
        let mut all = self.here.iter().chain(&self.near);
        if let Some(veiled) = all.find(|veiled| veiled.kept == Kept::Everywhere && veiled.is(&low)) {
            return veiled.written.to_owned();
        }
        let mut words = parts(&low).peekable();
        if words.peek().is_none() {
            let is_part = self.here.iter().any(|veiled| veiled.forms.iter().any(|form| form.contains(&low)));
            return if is_part { self.instead().to_owned() } else { text.to_owned() };
        }
        match words.all(|word| self.may_tell(word, true)) {
            true => text.to_owned(),
            false => self.instead().to_owned(),
        }
    }

    /// A text of ours, with what others may have put into it.
    fn plain(&self, text: &str) -> String {
        let mut told = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(is_of_word) {
            let (before, from) = rest.split_at_checked(start).unwrap_or((rest, ""));
            let (word, after) = from
                .split_at_checked(from.find(|c| !is_of_word(c)).unwrap_or(from.len()))
                .unwrap_or((from, ""));
            told.push_str(before);
            told.push_str(if self.may_tell(word, false) { word } else { self.instead() });
            rest = after;
        }
        told.push_str(rest);
        told
    }

    fn may_tell(&self, word: &str, is_quoted: bool) -> bool {
        let low = word.to_lowercase();
        let is_number = number(&low).is_some();
        let is_whole =
            |veiled: &Veiled<'_>| veiled.is_put_in() && veiled.is(&low) && (is_quoted || is_long(&low));
        if self.here.iter().any(is_whole) {
            return false;
        }
        if !is_number && self.is_known(&low) {
            return true;
        }
        let is_odd = is_quoted || word.chars().any(|c| !c.is_ascii_lowercase());
        let is_part = self.here.iter().any(|veiled| veiled.has(&low, is_odd))
            || self.near.iter().any(|veiled| veiled.has(&low, false));
        !is_part && (!is_quoted || !self.is_strict || is_number)
    }
}

/// What a number begins with, also before a unit.
fn number(word: &str) -> Option<u64> {
    let end = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let unit = word.get(end..)?;
    let is_unit = unit.len() <= 3 && unit.bytes().all(|b| b.is_ascii_lowercase());
    word.get(..end).filter(|_| is_unit)?.parse().ok()
}

/// A text, and what is made of it when it is read; in lower case.
pub(super) fn forms(text: &str) -> Vec<Zeroizing<String>> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut forms = vec![text.trim().to_lowercase()];
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8_lossy();
    forms.push(decoded.to_lowercase());
    forms.push(text.escape_debug().to_string().to_lowercase());
    match typed(text) {
        Typed::Whole(number) => forms.push(number.to_string()),
        Typed::Negative(number) => forms.push(number.to_string()),
        Typed::Fraction(number) => forms.push(number.to_string()),
        Typed::Null | Typed::Bool(_) | Typed::Text(_) => {}
    }
    forms.extend(Time::parse(text).map(|time| time.to_string()));
    forms.extend(Size::parse(text).map(|size| size.to_string().to_lowercase()));
    forms.extend(Speed::parse(text).map(|speed| speed.to_string().to_lowercase()));
    forms.extend(Percent::parse(text).map(|share| share.to_string()));
    forms.extend(Rate::parse(text).map(|rate| rate.to_string()));
    let address = text.split(['/', '%']).next().unwrap_or_default();
    forms.extend(address.parse().map(|address: IpAddr| address.to_canonical().to_string()).ok());
    forms.dedup();
    forms.into_iter().map(Zeroizing::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Errors, Site};

    /// What is told of `cause`, where a value was put in.
    fn told(value: &str, cause: &str) -> String {
        let mut sources = Sources::default();
        sources.hide(value, "${env:A}", &Site::new("a.yaml", 3, 1), "a.b");
        let mut errors = Errors::default();
        errors.push(&Site::new("a.yaml", 3, 1), "a.b", cause.to_owned(), "");
        let said = errors.render(&sources);
        said.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    }

    #[test]
    fn nothing_that_was_put_in_is_told_in_whatever_form() {
        for (value, cause, expected) in [
            ("007", "7 is out of range: write 1 to 250", "${env:A} is out of range: write 1 to 250"),
            ("0x1F", "`31` is out of range", "`${env:A}` is out of range"),
            ("90000ms", "`90s` is more than `1h`", "`${env:A}` is more than `1h`"),
            (
                "https://Me:Pw1@Inner7.test/x",
                "the host `inner7.test` of `me`",
                "the host `${env:A}` of `${env:A}`",
            ),
            ("a%2Fsecret", "`a/secret` is no path", "`${env:A}` is no path"),
            ("::ffff:10.1.2.3", "`10.1.2.3` is inner", "`${env:A}` is inner"),
            ("Sword Fish", "mismatched input 'Fish' expecting", "mismatched input '${env:A}' expecting"),
            ("S3", "a token at S3 was not expected", "a token at ${env:A} was not expected"),
            ("x", "`x` is no word; write `key`", "`${env:A}` is no word; write `key`"),
            ("hunter", "`HUNTER-2` is near", "`${env:A}` is near"),
            ("a`b c`d", "`a`b c`d` is odd", "`${env:A}` is odd"),
        ] {
            assert_eq!(told(value, cause), expected, "{value}");
        }
    }

    #[test]
    fn what_is_harmless_is_a_few_plain_words() {
        for text in ["nosniff", "no-store, max-age=0", "production", "x"] {
            assert!(is_harmless(text), "{text}");
        }
        for text in [
            "hunter2",
            "Bearer",
            "86400000",
            "thisislongerthanaword",
            "é",
            "a b c d e f g h i j k l m n o p q",
        ] {
            assert!(!is_harmless(text), "{text}");
        }
    }
}
