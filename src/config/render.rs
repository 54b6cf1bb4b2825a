//! Errors as they are printed: the place, the line itself, the cause, the cure.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Diagnostic, Errors, Site};

/// The texts of a configuration's files, and what of them must not be shown.
#[derive(Clone, Default)]
pub struct Sources {
    texts: BTreeMap<Arc<str>, Arc<str>>,
    hidden: Vec<Hidden>,
    /// The paths of values that something was put into.
    filled: BTreeSet<Box<str>>,
    /// Secrets that stand in the files themselves.
    literal: Vec<Zeroizing<String>>,
}

/// What a `${…}` stood for.
#[derive(Clone)]
struct Hidden {
    value: Zeroizing<String>,
    /// How it was written, and where.
    written: String,
    site: Site,
    path: String,
}

/// Below this many characters a value is no secret, and blotting it out would spoil messages.
const SECRET_CHARACTERS_MIN: usize = 4;
/// What stands in a message for the user and the password of a URL, and for a secret.
const HIDDEN: &str = "…";
/// More of a line is not shown.
const LINE_CHARACTERS_MAX: usize = 160;

impl Sources {
    /// Keeps the text of a file.
    pub(super) fn add(&mut self, file: &Arc<str>, text: &str) {
        self.texts.insert(Arc::clone(file), text.into());
    }

    /// Keeps a substituted value, put in at this place, out of every message.
    pub(super) fn hide(&mut self, value: &str, written: &str, site: &Site, path: &str) {
        self.filled.insert(path.into());
        if value.chars().nth(SECRET_CHARACTERS_MIN - 1).is_some() {
            self.hidden.push(Hidden {
                value: Zeroizing::new(value.to_owned()),
                written: written.to_owned(),
                site: site.clone(),
                path: path.to_owned(),
            });
            // The longest first: one secret may be part of another.
            self.hidden.sort_by_key(|hidden| std::cmp::Reverse(hidden.value.len()));
        }
    }

    /// Keeps a secret that stands in a file out of every message, and out of the lines that they show.
    pub fn withhold(&mut self, secret: &str) {
        if secret.chars().nth(SECRET_CHARACTERS_MIN - 1).is_some() {
            self.literal.push(Zeroizing::new(secret.to_owned()));
        }
    }

    /// Whether the value at this path has `${…}` in it, and so does not stand in the file itself.
    pub fn is_put_in(&self, path: &str) -> bool {
        self.filled.contains(path)
    }

    /// The line a site names, where its file was read.
    pub fn line(&self, site: &Site) -> Option<&str> {
        let index = usize::try_from(site.line.checked_sub(1)?).ok()?;
        self.texts.get(&site.file)?.lines().nth(index)
    }

    /// A message without the values that `${…}` stands for.
    pub fn discreet(&self, message: &str) -> String {
        self.hidden
            .iter()
            .fold(message.to_owned(), |text, hidden| text.replace(&*hidden.value, &hidden.written))
    }

    /// A message about a place. Where something was put in there, its parts are not shown either: a message quotes the host of an
    /// address, the word of a list, often in lower case.
    fn discreet_at(&self, message: &str, diagnostic: &Diagnostic) -> String {
        let here = |hidden: &&Hidden| {
            hidden.site.file == diagnostic.site.file
                && (hidden.site.line == diagnostic.site.line || hidden.path == diagnostic.path)
        };
        let text = self.hidden.iter().filter(here).fold(message.to_owned(), |text, hidden| {
            let value = Zeroizing::new(hidden.value.to_lowercase());
            let quoted = |(index, part): (usize, &str)| {
                let low = part.trim().to_lowercase();
                // Quoted is every second part.
                let is_part =
                    index % 2 == 1 && !low.is_empty() && (value.contains(&low) || low.contains(&*value));
                if is_part { hidden.written.clone() } else { part.to_owned() }
            };
            text.split('`').enumerate().map(quoted).collect::<Vec<_>>().join("`")
        });
        self.discreet(&text)
    }
    /// A text without secrets and without what URLs in it have before `@` (RFC 3986 §3.2.1), a password mostly; and where a place of it
    /// is then, in bytes.
    fn shown<'t>(&self, text: &'t str, at: usize) -> (Cow<'t, str>, usize) {
        let literal = self.literal.iter().flat_map(|secret| text.match_indices(secret.as_str()));
        let literal = literal.map(|(at, secret)| at..at + secret.len());
        let mut all: Vec<Range<usize>> = passwords(text).chain(literal).collect();
        all.sort_by_key(|hidden| (hidden.start, std::cmp::Reverse(hidden.end)));
        let (mut shown, mut shown_at, mut from) = (String::new(), at, 0);
        for hidden in all {
            // One within another is hidden with it.
            let Some(before) = text.get(from..hidden.start) else { continue };
            shown.push_str(before);
            if hidden.contains(&at) {
                shown_at = shown.len();
            }
            shown.push_str(HIDDEN);
            from = hidden.end;
            if from <= at {
                shown_at = shown.len() + (at - from);
            }
        }
        if from == 0 {
            return (Cow::Borrowed(text), at);
        }
        shown.push_str(text.get(from..).unwrap_or_default());
        (Cow::Owned(shown), shown_at)
    }
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("files", &self.texts.keys()).finish_non_exhaustive()
    }
}

impl Errors {
    /// All errors and warnings as text for a terminal or a log, sorted by place, with their count at the end; empty where
    /// there are none.
    pub fn render(&self, sources: &Sources) -> String {
        let mut all: Vec<(&str, &Diagnostic)> = Vec::new();
        all.extend(self.errors().iter().map(|error| ("error", error)));
        all.extend(self.warnings().iter().map(|warning| ("warning", warning)));
        all.sort_by(|(_, a), (_, b)| place(a).cmp(&place(b)));
        let mut text = String::new();
        for (severity, diagnostic) in all {
            diagnostic.render(severity, sources, &mut text);
        }
        let count = |n, noun| match n {
            0 => None,
            1 => Some(format!("1 {noun}")),
            n => Some(format!("{n} {noun}s")),
        };
        let counts = [count(self.errors().len(), "error"), count(self.warnings().len(), "warning")];
        let counts: Vec<String> = counts.into_iter().flatten().collect();
        if !counts.is_empty() {
            let _ = writeln!(text, "{}", counts.join(", "));
        }
        text
    }
}

fn place(diagnostic: &Diagnostic) -> (&str, u32, u32) {
    (&diagnostic.site.file, diagnostic.site.line, diagnostic.site.column)
}

impl Diagnostic {
    fn render(&self, severity: &str, sources: &Sources, out: &mut String) {
        let Site { file, line, column } = &self.site;
        let told = |text: &str| printable(&sources.shown(&sources.discreet_at(text, self), 0).0);
        let _ = writeln!(out, "{severity}: {}", told(&self.cause));
        let margin = " ".repeat(line.to_string().len());
        let _ = match line {
            0 => write!(out, "{margin}--> {file}"),
            _ => write!(out, "{margin}--> {file}:{line}:{column}"),
        };
        if !self.path.is_empty() {
            let _ = write!(out, "  ({})", printable(&self.path));
        }
        out.push('\n');
        if let Some(snippet) = sources.line(&self.site) {
            let at = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
            let at = snippet.char_indices().nth(at).map_or(snippet.len(), |(at, _)| at);
            let (snippet, at) = sources.shown(snippet, at);
            let at = snippet.get(..at).unwrap_or_default().chars().count();
            let (shown, before, length) = window(&snippet, at);
            let _ = writeln!(out, "{margin} |\n{line} | {shown}");
            let _ = writeln!(out, "{margin} | {}{}", " ".repeat(before), "^".repeat(length));
        }
        if !self.cure.is_empty() {
            let _ = writeln!(out, "{margin} = help: {}", told(&self.cure));
        }
        out.push('\n');
    }
}

/// Where users and passwords of URLs stand in a text.
fn passwords(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(|(at, mark)| {
        let start = at + mark.len();
        let rest = text.get(start..)?;
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>');
        let url = rest.get(..rest.find(ends).unwrap_or(rest.len()))?;
        let authority = url.get(..url.find(['/', '?', '#']).unwrap_or(url.len()))?;
        // A slash in a password makes another host of what stands before it: `https://me:a/b@example.com`.
        let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
        let is_cut =
            authority.split_once(':').is_some_and(|(host, port)| !host.starts_with('[') && !is_port(port));
        let end = if is_cut { url.rfind('@')? } else { authority.rfind('@')? };
        (end > 0).then(|| start..start + end)
    })
}

/// The part of a line to show, how many characters of it stand before the caret, and how many are meant; `at` counts characters.
fn window(line: &str, at: usize) -> (String, usize, usize) {
    let skipped = at.saturating_sub(LINE_CHARACTERS_MAX / 2);
    let shown: String = line.chars().skip(skipped).take(LINE_CHARACTERS_MAX).collect();
    let before = (at - skipped).min(shown.chars().count());
    let meant: String = shown.chars().skip(before).collect();
    (printable(&shown).trim_end().to_owned(), before, word_length(&meant))
}

/// How many characters the key, or the value, at the beginning of a text has; at least one.
fn word_length(text: &str) -> usize {
    let mut characters = text.chars();
    let Some(first) = characters.next() else {
        return 1;
    };
    if matches!(first, '"' | '\'') {
        return characters.position(|c| c == first).map_or(1, |at| at + 2);
    }
    if matches!(first, '[' | '{') {
        return 1;
    }
    let mut length = 1;
    let mut rest = characters.peekable();
    while let Some(c) = rest.next() {
        let ends = c.is_whitespace() || matches!(c, ',' | ']' | '}');
        if ends || (c == ':' && rest.peek().is_none_or(|next| next.is_whitespace())) {
            break;
        }
        length += 1;
    }
    length
}

/// Without control characters, which could play tricks on a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Sources {
        let mut sources = Sources::default();
        sources.add(&"a.yaml".into(), text);
        sources
    }

    #[test]
    fn an_error_names_place_line_cause_and_cure() {
        let mut errors = Errors::default();
        errors.push(&Site::new("a.yaml", 2, 3), "server.dran", "unknown key `dran`", "did you mean `drain`?");
        errors.warn(&Site::new("a.yaml", 1, 1), "", "odd", "");
        let expected = "warning: odd\n --> a.yaml:1:1\n  |\n1 | server:\n  | ^^^^^^\n\nerror: unknown key `dran`\n --> \
                        a.yaml:2:3  (server.dran)\n  |\n2 |   dran: 5s\n  |   ^^^^\n  = help: did you mean \
                        `drain`?\n\n1 error, 1 warning\n";
        assert_eq!(errors.render(&sources("server:\n  dran: 5s\n")), expected);
        assert_eq!(Errors::default().render(&sources("")), "");
    }

    #[test]
    fn what_was_put_in_is_not_shown() {
        let mut sources = sources("");
        let site = Site::new("a.yaml", 1, 1);
        sources.hide("hunter2", "${env:A}", &site, "a");
        sources.hide("hunter22", "${env:B}", &site, "b");
        sources.hide("1", "${env:C}", &site, "c");
        assert_eq!(sources.discreet("`hunter22` and hunter2, 1"), "`${env:B}` and ${env:A}, 1");
    }

    #[test]
    fn nor_are_its_parts_where_it_was_put_in() {
        let mut sources = sources("");
        sources.hide("Hunter2:Sword\nFish", "${env:A}", &Site::new("a.yaml", 3, 1), "a.b");
        let said = |line, path: &str, cause: &str| {
            let mut errors = Errors::default();
            errors.push(&Site::new("a.yaml", line, 1), path, cause, format!("not {cause}"));
            errors.render(&sources)
        };
        for (line, path) in [(3, "c"), (2, "a.b")] {
            for cause in [
                "`Hunter2` is no host",
                "`hunter2` and `fish`",
                "`x.hunter2:sword\nfish.y`",
                "Hunter2:Sword\nFish",
            ] {
                let said = said(line, path, cause).to_lowercase();
                assert!(
                    !said.contains("hunter") && !said.contains("fish") && said.contains("${env:a}"),
                    "{said}"
                );
            }
        }
        assert!(said(1, "c", "`Hunter2` is somebody else").contains("`Hunter2`"));
    }

    #[test]
    fn a_url_is_told_without_its_password() {
        for (text, expected) in [
            ("https://me:hunter2@a.example/x", "https://…@a.example/x"),
            (
                "`https://me@a.example` and http://a:b@[::1]:80/",
                "`https://…@a.example` and http://…@[::1]:80/",
            ),
            ("https://me:hun@ter2@a.example", "https://…@a.example"),
            ("https://me:hun/ter2@a.example/", "https://…@a.example/"),
            ("https://me:hun#ter2@a.example/", "https://…@a.example/"),
            // These have none.
            ("https://a.example/@scope/x", "https://a.example/@scope/x"),
            ("https://a.example:8443/me@x?a@b", "https://a.example:8443/me@x?a@b"),
            ("https://[fd00::7]/a@b", "https://[fd00::7]/a@b"),
            ("https://@a.example", "https://@a.example"),
            ("me:hunter2@a.example", "me:hunter2@a.example"),
        ] {
            assert_eq!(Sources::default().shown(text, 0).0, expected, "{text}");
        }
        let line = "a: {url: \"https://me:hunter2@a.example/\", cache: 2h}";
        let said = |column| {
            let mut errors = Errors::default();
            errors.push(&Site::new("a.yaml", 1, column), "", "no `http://x:y@z`", "not `ftp://x:y@z`");
            let said = errors.render(&sources(line));
            assert!(!said.contains("hunter") && !said.contains("x:y"), "{said}");
            let lines: Vec<_> = said.lines().map(str::to_owned).collect();
            let caret = lines[4].chars().position(|c| c == '^').unwrap();
            lines[3].chars().skip(caret).take(5).collect::<String>()
        };
        let column = |text: &str| u32::try_from(line.find(text).unwrap() + 1).unwrap();
        assert_eq!(said(column("url")), "url: ");
        assert_eq!(said(column("cache")), "cache");
        assert_eq!(said(column("unter2")), "…@a.e", "within what is hidden");
        let mut sources = sources("a: hunter2, b: {hunter2: 1, c: d}");
        sources.withhold("hunter2");
        let mut errors = Errors::default();
        errors.push(&Site::new("a.yaml", 1, 29), "c", "`hunter2` again", "");
        let said = errors.render(&sources);
        assert!(said.contains("error: `…` again") && said.contains("a: …, b: {…: 1, c: d}\n"), "{said}");
        assert!(said.ends_with(&format!("  | {}^\n\n1 error\n", " ".repeat(16))), "{said}");
    }

    #[test]
    fn a_caret_is_as_long_as_the_word() {
        for (text, length) in [
            ("key: value", 3),
            ("value", 5),
            ("\"a b\", c", 5),
            ("'open", 1),
            ("[::1]:80", 1),
            ("a:b c", 3),
            ("a, b", 1),
            ("x]", 1),
            ("", 1),
        ] {
            assert_eq!(word_length(text), length, "{text}");
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let line = format!("{}here{}", "a".repeat(1000), "b".repeat(1000));
        let (shown, before, _) = window(&line, 1000);
        assert_eq!(shown.chars().count(), 160);
        assert!(shown.chars().skip(before).collect::<String>().starts_with("here"));
    }

    #[test]
    fn a_terminal_is_not_played_tricks_on() {
        let mut errors = Errors::default();
        errors.push(&Site::new("a.yaml", 1, 1), "", "bad \u{1b}[31m", "");
        assert!(!errors.render(&sources("x\u{1b}[2J")).contains('\u{1b}'));
    }
}
