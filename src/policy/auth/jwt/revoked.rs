//! Tokens that are no longer good, by their id or whose they are.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use serde_json::Value;

use super::feed::{Feed, Times};
use super::json;
use crate::config::{Spanned, unreadable};
use crate::policy::auth::config::RevocationConfig;
use crate::policy::auth::{Context, Denial, Figure, fetching};

const REFRESH_MIN: Duration = Duration::from_secs(1);
const REFRESH_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const STALE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A policy's list.
#[derive(Debug)]
pub(super) enum Revoked {
    /// From a file: another file is another snapshot.
    Fixed(Lists),
    /// Fetched in the background.
    Live(Arc<Feed>),
}

/// What is revoked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    /// Lines of a text: an id or a subject.
    either: HashSet<Box<str>, RandomState>,
    jti: HashSet<Box<str>, RandomState>,
    sub: HashSet<Box<str>, RandomState>,
}

impl Revoked {
    /// From what was written. None when `build.errors` says why.
    pub(super) fn compile(config: &Spanned<RevocationConfig>, context: &mut Context<'_>) -> Option<Self> {
        let errors = &mut context.build.errors;
        if !(REFRESH_MIN..=REFRESH_MAX).contains(&config.refresh.0) {
            let cause = format!("{} is out of range", config.refresh);
            let path = format!("{}.refresh", config.path);
            errors.push(&config.site, path, cause, "write a duration from `1s` to `1d`");
        }
        if config.stale_max.0 > STALE_MAX {
            let cause = format!("{} is out of range", config.stale_max);
            let path = format!("{}.stale_max", config.path);
            errors.push(&config.site, path, cause, "write a duration from `0ms` to `30d`");
        }
        match (&config.file, &config.url) {
            (Some(file), None) => read(file, context).map(Self::Fixed),
            (None, Some(url)) => {
                fetching::may_be_fetched(url, context)?;
                let times = Times { refresh: config.refresh.0, stale_max: config.stale_max.0 };
                Some(Self::Live(Feed::find(url, times, context)))
            }
            _ => {
                let cause = "a list of revoked tokens comes from exactly one place";
                errors.push(
                    &config.site,
                    &*config.path,
                    cause,
                    "write `{file: revoked.txt}` or `{url: https://…}`",
                );
                None
            }
        }
    }

    /// What it counts by itself.
    pub(super) fn figures(&self) -> Vec<Figure> {
        match self {
            Self::Fixed(_) => Vec::new(),
            Self::Live(feed) => feed.age().map(Figure::RevokedListAge).into_iter().collect(),
        }
    }

    /// Whether a token is still good. No allocation.
    ///
    /// # Errors
    /// It is revoked, or that is not known yet.
    pub(super) fn check(&self, jti: Option<&str>, subject: &str) -> Result<(), Denial> {
        match self {
            Self::Fixed(lists) => lists.check(jti, subject),
            Self::Live(feed) => match &*feed.current() {
                Some(lists) => lists.check(jti, subject),
                None => {
                    let why =
                        "the list of revoked tokens has not been fetched yet, or is older than `stale_max`";
                    Err(Denial::unavailable("revocations_unavailable", why))
                }
            },
        }
    }
}

impl Lists {
    /// From a document: one id or subject a line, `#` begins a comment; or JSON `{"jti": […], "sub": […]}`.
    ///
    /// # Errors
    /// It is neither.
    pub(super) fn parse(document: &[u8]) -> Result<Self, &'static str> {
        // An editor may have begun it with a mark of the byte order.
        let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
        let text = std::str::from_utf8(document).map_err(|_| "it is not UTF-8")?;
        let mut own = Self::default();
        if !text.trim_start().starts_with('{') {
            let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
            own.either = lines.filter(|line| !line.is_empty()).map(Into::into).collect();
            // Another form would be taken for ids that nobody has, and revoke nothing.
            let is_odd = |c: char| {
                c.is_whitespace()
                    || c.is_control()
                    || matches!(c, '"' | '\'' | ',' | '[' | ']' | '{' | '}' | '<' | '>')
            };
            let is_other = |line: &str| line.contains(is_odd) || matches!(line, "null" | "true" | "false");
            return match own.either.iter().any(|line| is_other(line)) {
                true => Err(
                    "a line is one id or subject; with spaces, commas or quotes it is written in JSON, `{\"jti\": […], \"sub\": […]}`",
                ),
                false => Ok(own),
            };
        }
        for (name, list) in &json::object(document)? {
            let list = list.as_array().filter(|list| list.iter().all(Value::is_string));
            let list = list.ok_or("`jti` and `sub` are lists of texts")?;
            let texts = list.iter().filter_map(Value::as_str).map(Into::into).collect();
            match name.as_str() {
                "jti" => own.jti = texts,
                "sub" => own.sub = texts,
                _ => return Err("it has another name than `jti` and `sub`"),
            }
        }
        Ok(own)
    }

    fn check(&self, jti: Option<&str>, subject: &str) -> Result<(), Denial> {
        let has = |list: &HashSet<Box<str>, RandomState>, text: &str| !list.is_empty() && list.contains(text);
        let by_id = jti.is_some_and(|jti| has(&self.either, jti) || has(&self.jti, jti));
        if by_id || has(&self.either, subject) || has(&self.sub, subject) {
            return Err(Denial::invalid(
                "revoked",
                "the token, or its subject, is on the list of revoked ones",
            ));
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.either.len() + self.jti.len() + self.sub.len()
    }
}

fn read(file: &Spanned<String>, context: &mut Context<'_>) -> Option<Lists> {
    let path = context.build.files.resolve(&file.site, file);
    let lists = match context.build.files.read(&path) {
        Ok(content) => Lists::parse(&content).map_err(|why| format!("`{}`: {why}", path.display())),
        Err(error) => Err(format!("cannot read `{}`: {}", path.display(), unreadable(&error))),
    };
    lists
        .map_err(|cause| {
            let cure = "write one `jti` or `sub` a line, or `{\"jti\": [], \"sub\": []}`";
            context.build.errors.push(&file.site, &*file.path, cause, cure);
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lists: &Lists, jti: Option<&str>, subject: &str) -> &'static str {
        lists.check(jti, subject).map_or_else(|denial| denial.reason, |()| "good")
    }

    #[test]
    fn a_line_is_an_id_or_a_subject() {
        let lists = Lists::parse(b"# stolen\n id-1 \n\nbob # left\r\n").unwrap();
        assert_eq!(lists.len(), 2);
        for (jti, subject, expected) in [
            (Some("id-1"), "alice", "revoked"),
            (Some("id-2"), "bob", "revoked"),
            (None, "bob", "revoked"),
            (None, "alice", "good"),
            (Some("ID-1"), "alice", "good"),
            (Some("id-2"), "alice", "good"),
        ] {
            assert_eq!(told(&lists, jti, subject), expected, "{jti:?} {subject}");
        }
        assert_eq!(Lists::parse(b"").unwrap(), Lists::default());
        let marked = Lists::parse(b"\xef\xbb\xbfid-1\n").unwrap();
        assert_eq!(told(&marked, Some("id-1"), "alice"), "revoked");
        assert!(Lists::parse(b"\xef\xbb\xbf{\"jti\": []}").is_ok());
    }

    #[test]
    fn another_form_is_no_list_of_ids_that_nobody_has() {
        for text in [
            "[\"J1\"]",
            "[ \"J1\", \"J2\" ]",
            "\"J1\"",
            "J1,J2",
            "jti J1",
            "good\n- J1",
            "'J1'",
            "null",
            "a\nnull\n",
            "<html>oops</html>",
        ] {
            assert!(Lists::parse(text.as_bytes()).is_err(), "{text}");
        }
        for text in ["auth0|5f7c8ec7c33c6c004bbafe82", "a@b.example", "urn:x:y/z=1+2~"] {
            assert!(Lists::parse(text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn json_says_which_is_which() {
        let lists = Lists::parse(b" {\"jti\": [\"bob\"], \"sub\": [\"x\"]}").unwrap();
        assert_eq!(told(&lists, None, "bob"), "good");
        assert_eq!(told(&lists, Some("bob"), "alice"), "revoked");
        assert_eq!(told(&lists, Some("x"), "alice"), "good");
        assert_eq!(told(&lists, None, "x"), "revoked");
        for text in ["{", "{\"jti\": [1]}", "{\"jti\": \"a\"}", "{\"iss\": []}", "{\"jti\": [], \"jti\": []}"]
        {
            assert!(Lists::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Lists::parse(b"\xff").is_err());
    }

    #[test]
    fn nothing_is_good_before_the_first_list_and_a_bad_one_changes_nothing() {
        let feed = Arc::new(Feed::default());
        let revoked = Revoked::Live(Arc::clone(&feed));
        let reason =
            |jti: &str| revoked.check(Some(jti), "s").map_or_else(|denial| denial.reason, |()| "good");
        assert_eq!(reason("a"), "revocations_unavailable");
        assert_eq!(feed.take(b"a", 1), Ok(1));
        assert_eq!((reason("a"), reason("b")), ("revoked", "good"));
        for bad in ["{", "", " \r\n", "null", "<html>oops</html>"] {
            assert!(feed.take(bad.as_bytes(), 1).is_err(), "{bad:?}");
        }
        assert_eq!((reason("a"), reason("b")), ("revoked", "good"));
        assert_eq!(feed.take(b"b", 1), Ok(1));
        assert_eq!((reason("a"), reason("b")), ("good", "revoked"));
    }
}
