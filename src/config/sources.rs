//! The texts of a configuration's files, and what of them no message may show.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::secrecy::user;
use super::{Diagnostic, Site};

/// The texts of a configuration's files, and what of them must not be shown.
#[derive(Clone, Default)]
pub struct Sources {
    texts: BTreeMap<Arc<str>, Arc<str>>,
    hidden: Vec<Hidden>,
    /// The paths of values that something was put into.
    filled: BTreeSet<Box<str>>,
    /// Secrets that stand in the files themselves.
    literal: Vec<Zeroizing<String>>,
    /// Where such stand, in bytes.
    covered: BTreeMap<Arc<str>, Vec<Range<usize>>>,
    /// Keys that are or may be secrets.
    names: Vec<Zeroizing<String>>,
}

/// What a `${…}` stood for, or a secret that stands in a file itself.
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

impl Sources {
    /// Keeps the text of a file.
    pub(super) fn add(&mut self, file: &Arc<str>, text: &str) {
        self.texts.insert(Arc::clone(file), text.into());
    }

    /// Keeps a substituted value, put in at this place, out of every message.
    pub(super) fn hide(&mut self, value: &str, written: &str, site: &Site, path: &str) {
        self.filled.insert(path.into());
        if is_long(value) {
            self.keep_back(value, written, site, path);
        }
    }

    fn keep_back(&mut self, value: &str, written: &str, site: &Site, path: &str) {
        let hidden = Hidden {
            value: Zeroizing::new(value.to_owned()),
            written: written.to_owned(),
            site: site.clone(),
            path: path.to_owned(),
        };
        // The longest first: one secret may be part of another.
        let at = self.hidden.partition_point(|other| other.value.len() >= value.len());
        self.hidden.insert(at, hidden);
    }

    /// Keeps what stands in a file, at this place, out of every message: a secret, or what may be one.
    pub(super) fn conceal(&mut self, value: &str, site: &Site, path: &str) {
        if value.trim().is_empty() {
            return;
        }
        self.keep_back(value, HIDDEN, site, path);
        // Messages are of one line.
        let plain: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if plain != value {
            self.keep_back(plain.trim_end(), HIDDEN, site, path);
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
        let concealed = self.hidden.iter().filter(|hidden| hidden.is_concealed() && is_long(&hidden.value));
        hidden.extend(concealed.flat_map(|hidden| places_of(&hidden.value, line)));
        // An old value, or a note of what it was.
        hidden.extend(comment(line));
        Some(self.shown(line, at, hidden))
    }

    /// A message without the values that `${…}` stands for.
    pub fn discreet(&self, message: &str) -> String {
        let long = self.hidden.iter().filter(|hidden| is_long(&hidden.value));
        long.fold(message.to_owned(), |text, hidden| text.replace(&*hidden.value, &hidden.written))
    }

    /// A message about a place. Where something was put in there, its parts are not shown either: a message quotes the host of an
    /// address, the word of a list, often in lower case.
    pub(super) fn discreet_at(&self, message: &str, diagnostic: &Diagnostic) -> String {
        let here = |hidden: &&Hidden| {
            hidden.site.file == diagnostic.site.file
                && (hidden.site.line == diagnostic.site.line || hidden.path == diagnostic.path)
        };
        let whole = self.discreet(message);
        let text = self.hidden.iter().filter(here).fold(whole, |text, hidden| {
            let value = Zeroizing::new(hidden.value.to_lowercase());
            let quoted = |(index, part): (usize, &str)| {
                let low = part.trim().to_lowercase();
                // Quoted is every second part.
                let is_part = match is_long(&value) {
                    true => value.contains(&low) || low.contains(&*value),
                    false => low == *value,
                };
                if is_part && index % 2 == 1 && !low.is_empty() {
                    hidden.written.clone()
                } else {
                    part.to_owned()
                }
            };
            text.split('`').enumerate().map(quoted).collect::<Vec<_>>().join("`")
        });
        // What is quoted of an address, or of what was meant as one.
        let is_hidden = self.hidden.iter().filter(here).any(Hidden::is_concealed);
        let cut = |(index, part): (usize, &str)| match user(part).filter(|_| is_hidden && index % 2 == 1) {
            Some(user) => {
                let (before, after) = (part.get(..user.start), part.get(user.end..));
                format!("{}{HIDDEN}{}", before.unwrap_or_default(), after.unwrap_or_default())
            }
            None => part.to_owned(),
        };
        let text = text.split('`').enumerate().map(cut).collect::<Vec<_>>().join("`");
        self.shown(&text, 0, Vec::new()).0.into_owned()
    }

    /// A path without keys that may be secrets.
    pub(super) fn discreet_path(&self, path: &str) -> String {
        self.names.iter().fold(path.to_owned(), |path, name| path.replace(name.as_str(), HIDDEN))
    }

    /// A text without secrets and without what URLs in it have before `@` (RFC 3986 §3.2.1), a password mostly, nor what is hidden besides;
    /// and where a place of it is then, in bytes.
    fn shown<'t>(&self, text: &'t str, at: usize, hidden: Vec<Range<usize>>) -> (Cow<'t, str>, usize) {
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

impl Hidden {
    /// Whether it stands in the file itself.
    fn is_concealed(&self) -> bool {
        self.written == HIDDEN
    }
}

fn is_long(value: &str) -> bool {
    value.chars().nth(SECRET_CHARACTERS_MIN - 1).is_some()
}

fn places_of<'t>(part: &'t str, text: &'t str) -> impl Iterator<Item = Range<usize>> + 't {
    text.match_indices(part).map(|(at, part)| at..at + part.len())
}

/// Where the comment of a line stands, without its mark.
fn comment(line: &str) -> Option<Range<usize>> {
    let (mut quote, mut before) = (None, ' ');
    for (at, c) in line.char_indices() {
        match quote {
            Some(open) if open == c && (c == '\'' || before != '\\') => quote = None,
            Some(_) => {}
            None if c == '#' && before.is_whitespace() => return Some(at + 1..line.len()),
            None if matches!(c, '"' | '\'') && matches!(before, ' ' | ',' | '[' | '{') => quote = Some(c),
            None => {}
        }
        before = c;
    }
    None
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
            assert_eq!(Sources::default().shown(text, 0, Vec::new()).0, expected, "{text}");
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
}
