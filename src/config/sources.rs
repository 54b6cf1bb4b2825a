//! The texts of a configuration's files, and what of them no message may show.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Site;
use super::discreet::forms;
use super::secrecy::{Words, parts};
use super::tree::shortened;

/// The texts of a configuration's files, and what of them must not be shown.
#[derive(Clone, Default)]
pub struct Sources {
    texts: BTreeMap<Arc<str>, Arc<str>>,
    pub(super) hidden: Vec<Hidden>,
    /// The paths of values that something was put into.
    filled: BTreeSet<Box<str>>,
    /// Secrets that stand in the files themselves.
    literal: Vec<Zeroizing<String>>,
    /// Where such stand, in bytes.
    covered: BTreeMap<Arc<str>, Vec<Range<usize>>>,
    /// Keys that are or may be secrets.
    names: Vec<Zeroizing<String>>,
    /// The words that may always be shown.
    pub(super) words: Arc<Words>,
    /// More of them.
    pub(super) more: Vec<&'static str>,
    /// Words that the files show of themselves, in lower case.
    pub(super) open: HashSet<String>,
    /// Files that are no configurations.
    pub(super) distrusted: BTreeSet<Arc<str>>,
}

/// What a `${…}` stood for, or what stands in a file itself and is not shown.
#[derive(Clone)]
pub(super) struct Hidden {
    /// Empty where only words of it may be shown.
    pub(super) value: Zeroizing<String>,
    /// How it was written, and where.
    pub(super) written: String,
    pub(super) kept: Kept,
    pub(super) site: Site,
    pub(super) path: String,
    /// Words that are shown of it, in lower case.
    pub(super) shown: Vec<String>,
}

/// How far a text is kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// In messages about its place.
    Here,
    /// In every message, and in every line that a message shows.
    Everywhere,
}

/// Below this many characters a value is no secret, and blotting it out would spoil messages.
const SECRET_CHARACTERS_MIN: usize = 4;
/// What stands in a message for the user and the password of a URL, and for a secret.
pub(super) const HIDDEN: &str = "…";

impl Sources {
    /// Keeps the text of a file.
    pub(super) fn add(&mut self, file: &Arc<str>, text: &str) {
        self.texts.insert(Arc::clone(file), text.into());
    }

    /// The words of the configuration's language, which may always be shown.
    pub(super) fn know(&mut self, words: &Arc<Words>) {
        self.words = Arc::clone(words);
    }

    /// More such words: those of a language within the configuration's, as of templates.
    pub fn know_more(&mut self, words: impl IntoIterator<Item = &'static str>) {
        self.more.extend(words.into_iter().flat_map(parts));
    }

    /// What a file shows of itself anyway.
    pub(super) fn open(&mut self, text: &str) {
        self.open.extend(parts(text).map(str::to_lowercase));
    }

    /// Keeps all of a file out of messages but for words of the language: it is no configuration.
    pub(super) fn distrust(&mut self, file: &Arc<str>) {
        self.distrusted.insert(Arc::clone(file));
    }

    /// Keeps a substituted value, put in at this place, out of every message.
    pub(super) fn hide(&mut self, value: &str, written: &str, site: &Site, path: &str) {
        self.filled.insert(path.into());
        // Messages about other places say it as it was read: a host in lower case.
        for form in forms(value).iter().filter(|form| is_long(form) && form.as_str() != value) {
            self.insert(form, written, Kept::Everywhere, site, path, Vec::new());
        }
        self.insert(value, written, Kept::Everywhere, site, path, Vec::new());
    }

    fn insert(
        &mut self,
        value: &str,
        written: &str,
        kept: Kept,
        site: &Site,
        path: &str,
        shown: Vec<String>,
    ) {
        let hidden = Hidden {
            value: Zeroizing::new(value.to_owned()),
            written: written.to_owned(),
            kept,
            site: site.clone(),
            path: path.to_owned(),
            shown,
        };
        self.hidden.push(hidden);
    }

    /// Keeps what stands in a file, at this place, out of messages; but for these words of it.
    pub(super) fn keep(&mut self, value: &str, kept: Kept, site: &Site, path: &str, shown: Vec<String>) {
        let value = value.trim();
        self.insert(value, HIDDEN, kept, site, path, shown);
        if kept == Kept::Everywhere && !value.is_empty() {
            // Messages are of one line, and say the beginning of what is long.
            let plain: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            for part in [plain.trim_end(), shortened(value).trim_end_matches('…')] {
                if part != value {
                    self.insert(part, HIDDEN, kept, site, path, Vec::new());
                }
            }
        }
    }

    /// Keeps a key that is or may be a secret out of the paths that messages name.
    pub(super) fn conceal_name(&mut self, name: &str) {
        if is_long(name) {
            self.names.push(Zeroizing::new(name.to_owned()));
        }
    }

    /// Keeps a part of a file out of the lines that messages show.
    pub(super) fn cover(&mut self, file: &Arc<str>, range: Range<usize>) {
        if !range.is_empty() {
            self.covered.entry(Arc::clone(file)).or_default().push(range);
        }
    }

    /// Keeps a secret that stands in a file out of every message, and out of the lines that they show.
    pub fn withhold(&mut self, secret: &str) {
        if is_long(secret) {
            self.literal.push(Zeroizing::new(secret.to_owned()));
        }
    }

    /// Whether the value at this path has `${…}` in it, and so does not stand in the file itself.
    pub fn is_put_in(&self, path: &str) -> bool {
        self.filled.contains(path)
    }

    /// The line a site names, where its file was read, and where it begins in it.
    fn line(&self, site: &Site) -> Option<(&str, usize)> {
        let index = usize::try_from(site.line.checked_sub(1)?).ok()?;
        let text = self.texts.get(&site.file)?;
        let mut start = 0;
        let mut lines = text.split_inclusive('\n').map(|line| {
            start += line.len();
            (line.trim_end_matches(['\n', '\r']), start - line.len())
        });
        lines.nth(index)
    }

    /// The line a site names as it may be shown, and where in it the site's column is then, in bytes.
    pub(super) fn shown_line(&self, site: &Site) -> Option<(Cow<'_, str>, usize)> {
        let (line, start) = self.line(site)?;
        let at = usize::try_from(site.column.saturating_sub(1)).unwrap_or(usize::MAX);
        let at = line.char_indices().nth(at).map_or(line.len(), |(at, _)| at);
        let covered = self.covered.get(&site.file).map_or(&[][..], Vec::as_slice).iter();
        let within = |range: &Range<usize>| {
            range.start.clamp(start, start + line.len()) - start
                ..range.end.clamp(start, start + line.len()) - start
        };
        let mut hidden: Vec<_> = covered.map(within).filter(|range| !range.is_empty()).collect();
        let secrets = self.everywhere().filter(|hidden| hidden.written == HIDDEN);
        hidden.extend(secrets.flat_map(|hidden| places_of(&hidden.value, line)));
        Some(self.shown(line, at, hidden))
    }

    /// What no message may show, the longest first: one secret may be part of another.
    fn everywhere(&self) -> impl Iterator<Item = &Hidden> {
        let mut all: Vec<&Hidden> = self
            .hidden
            .iter()
            .filter(|hidden| hidden.kept == Kept::Everywhere && is_long(&hidden.value))
            .collect();
        all.sort_by_key(|hidden| std::cmp::Reverse(hidden.value.len()));
        all.into_iter()
    }

    /// A message without secrets, and without the values that `${…}` stands for.
    pub fn discreet(&self, message: &str) -> String {
        self.everywhere()
            .fold(message.to_owned(), |text, hidden| text.replace(&*hidden.value, &hidden.written))
    }

    /// A path without keys that may be secrets.
    pub(super) fn discreet_path(&self, path: &str, file: &Arc<str>) -> String {
        let shown = |part: &str| match part.split_once('[') {
            Some((key, index)) if self.words.is_key(key) || key.is_empty() => format!("{key}[{index}"),
            None if self.words.is_key(part) => part.to_owned(),
            _ => HIDDEN.to_owned(),
        };
        if self.distrusted.contains(file) {
            return path.split('.').map(shown).collect::<Vec<_>>().join(".");
        }
        self.names.iter().fold(path.to_owned(), |path, name| path.replace(name.as_str(), HIDDEN))
    }

    /// A text without secrets and without what URLs in it have before `@` (RFC 3986 §3.2.1), a password mostly, nor what is hidden besides;
    /// and where a place of it is then, in bytes.
    pub(super) fn shown<'t>(
        &self,
        text: &'t str,
        at: usize,
        hidden: Vec<Range<usize>>,
    ) -> (Cow<'t, str>, usize) {
        let mut all = hidden;
        all.extend(self.literal.iter().flat_map(|secret| places_of(secret, text)));
        all.extend(passwords(text));
        all.sort_by_key(|hidden| (hidden.start, hidden.end));
        all.dedup_by(|next, hidden| {
            let meets = next.start <= hidden.end;
            hidden.end = hidden.end.max(if meets { next.end } else { 0 });
            meets
        });
        let (mut shown, mut shown_at, mut from) = (String::new(), at, 0);
        for hidden in all {
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

pub(super) fn is_long(value: &str) -> bool {
    value.chars().nth(SECRET_CHARACTERS_MIN - 1).is_some()
}

fn places_of<'t>(part: &'t str, text: &'t str) -> impl Iterator<Item = Range<usize>> + 't {
    text.match_indices(part).map(|(at, part)| at..at + part.len())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Errors;

    fn sources(text: &str) -> Sources {
        let mut sources = Sources::default();
        sources.add(&"a.yaml".into(), text);
        sources
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
            errors.push(&Site::new("a.yaml", line, 1), path, cause.to_owned(), format!("not {cause}"));
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
            assert_eq!(Sources::default().shown(text, 0, Vec::new()).0, expected, "{text}");
        }
        let line = "a: {url: \"https://me:hunter2@a.example/\", cache: 2h}";
        let said = |column| {
            let mut errors = Errors::default();
            let (cause, cure) = ("no `http://x:y@z`".to_owned(), "not `ftp://x:y@z`".to_owned());
            errors.push(&Site::new("a.yaml", 1, column), "", cause, cure);
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
        errors.push(&Site::new("a.yaml", 1, 29), "c", "`hunter2` again".to_owned(), "");
        let said = errors.render(&sources);
        assert!(said.contains("error: `…` again") && said.contains("a: …, b: {…: 1, c: d}\n"), "{said}");
        assert!(said.ends_with(&format!("  | {}^\n\n1 error\n", " ".repeat(16))), "{said}");
    }
}
