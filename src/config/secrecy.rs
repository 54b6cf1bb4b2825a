//! Which keys hold secrets, and where in a text one stands: told by names and forms, also where a key is misspelt or an address is none.
//! Rather too much is taken for a secret than too little: what is hidden costs a message a word, what is shown may cost everything.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value as Schema;

/// What names of secrets have in them, in lower case and without punctuation.
const WORDS: [&str; 13] = [
    "secret",
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "token",
    "credential",
    "privatekey",
    "apikey",
    "accesskey",
    "signingkey",
    "authorization",
    "authorisation",
];
/// What a part of such a name is, as a whole.
const PARTS: [&str; 4] = ["pass", "pwd", "pw", "psk"];
/// What stands before the host of an address, and as itself at the end of a user and a password: as `@`, escaped once and twice, and wide.
const AT: [&str; 4] = ["@", "%40", "%2540", "\u{ff20}"];

/// The names of a document's keys.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Of keys whose type is a secret.
    secret: Vec<String>,
    /// What is no secret of anybody.
    pub(super) words: Arc<Words>,
}

impl Names {
    /// Those of a schema.
    pub(super) fn of(schema: &Schema) -> Self {
        let (mut secret, mut words) = (Vec::new(), Words::default());
        collect(schema, &mut secret, &mut words);
        Self { secret, words: Arc::new(words) }
    }

    /// Whether a key that is not known where it stands holds a secret by its name, or by what the name was meant to be.
    pub(super) fn is_secret(&self, name: &str) -> bool {
        let whole = plain(name);
        is_secret_name(name) || self.secret.iter().any(|known| is_near(&whole, &plain(known)))
    }
}

fn collect(schema: &Schema, secret: &mut Vec<String>, words: &mut Words) {
    match schema {
        Schema::Object(map) => {
            if let Some(properties) = map.get("properties").and_then(Schema::as_object) {
                for (name, property) in properties {
                    if is_secret(property) {
                        secret.push(name.clone());
                    }
                    words.keys.insert(name.clone());
                    words.add(name);
                }
            }
            let options = map.get("enum").and_then(Schema::as_array).into_iter().flatten();
            options.chain(map.get("const")).filter_map(Schema::as_str).for_each(|word| words.add(word));
            map.values().for_each(|value| collect(value, secret, words));
        }
        Schema::Array(items) => items.iter().for_each(|item| collect(item, secret, words)),
        Schema::Null | Schema::Bool(_) | Schema::Number(_) | Schema::String(_) => {}
    }
}

/// The words of a document's language: its keys, and those that they take.
#[derive(Debug, Default)]
pub(super) struct Words {
    keys: HashSet<String>,
    /// In lower case, and in parts.
    all: HashSet<String>,
}

impl Words {
    fn add(&mut self, text: &str) {
        self.all.extend(parts(text).map(str::to_lowercase));
    }

    /// Whether this is a key, somewhere.
    pub(super) fn is_key(&self, word: &str) -> bool {
        self.keys.contains(word)
    }

    /// Whether this is a word of the language.
    pub(super) fn has(&self, word: &str) -> bool {
        self.all.contains(&word.to_lowercase())
    }

    /// The same, also where it is misspelt.
    pub(super) fn may_have(&self, word: &str) -> bool {
        self.has(word) || self.all.iter().any(|known| is_slip(&word.to_lowercase(), known))
    }
}

/// Whether a word was meant to be this one: what is shown of it then is no more than that.
pub(super) fn is_slip(word: &str, known: &str) -> bool {
    let most = match known.len() {
        0..=3 => return false,
        4..=7 => 1,
        _ => 2,
    };
    word.len().abs_diff(known.len()) <= most && strsim::osa_distance(word, known) <= most
}

/// The words of a text, as far as it is told word by word.
pub(super) fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !is_of_word(c)).filter(|part| part.contains(char::is_alphanumeric))
}

pub(super) fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The keyword of a schema whose texts may have secrets in them: a header field's value, a body. Its value is `text`, or `expression`
/// for what is a language of its own.
pub(super) const GUARDED: &str = "x-guarded";

/// Whether a schema is that of a secret.
pub(super) fn is_secret(schema: &Schema) -> bool {
    schema.get("writeOnly").and_then(Schema::as_bool) == Some(true)
}

/// Whether a name is that of a secret: `client_secret`, `x-auth-token`, `pw`.
pub fn is_secret_name(name: &str) -> bool {
    let whole = plain(name);
    let is_one = |part: &str| PARTS.contains(&part) || WORDS.iter().any(|word| is_near(part, word));
    WORDS.iter().any(|word| whole.contains(word))
        || is_one(&whole)
        || name.split(|c: char| !c.is_alphanumeric()).any(|part| is_one(&plain(part)))
}

/// A letter wrong, too many, lacking or in its neighbour's place; two in long words.
fn is_near(name: &str, known: &str) -> bool {
    let most = if known.len() < 6 { 1 } else { 2 };
    name.len().abs_diff(known.len()) <= most && strsim::osa_distance(name, known) <= most
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Where in a text secrets stand by its form: what is before the last `@`, what an address has behind `?` or `#`, and what follows the
/// name of a secret.
pub(super) fn hidden_in(text: &str) -> Vec<Range<usize>> {
    let mut hidden: Vec<_> = user(text).into_iter().collect();
    let is_address = ["//", r"\\", ":/", r":\"].iter().any(|mark| text.contains(mark));
    if let Some(mark) = text.find(['?', '#']).map(|mark| mark + 1)
        // Paths are quoted where they are no paths for their `?`.
        && (is_address || !text.starts_with('/') && text.get(mark..).is_some_and(|query| query.contains('=')))
    {
        hidden.push(mark..text.len());
    }
    hidden.extend(named(text, is_secret_name).next().map(|(_, value)| value..text.len()));
    // A key in place of its file's name, or a token (RFC 7515: `{"` in base64url).
    hidden.extend(["PRIVATE KEY", "eyJ"].iter().filter_map(|mark| text.find(mark)).map(|at| at..text.len()));
    hidden.retain(|range| !range.is_empty());
    hidden
}

/// What stands before the last `@` of a text, but for the scheme of a web address.
fn user(text: &str) -> Option<Range<usize>> {
    let at = AT.iter().filter_map(|at| text.rfind(at)).max()?;
    let scheme =
        ["https://", "http://", "redis://", "rediss://"].into_iter().find(|scheme| text.starts_with(scheme));
    let start = scheme.map_or(0, str::len);
    (at > start).then_some(start..at)
}

/// The words of a text that are names of secrets, with something that follows them behind `:` or `=`: where each begins, and where what
/// follows does.
fn named(text: &str, is_secret: impl Fn(&str) -> bool) -> impl Iterator<Item = (usize, usize)> {
    words(text).filter_map(move |word| {
        let rest = text.get(word.end..)?;
        let behind = rest.trim_start_matches(['"', '\'', ' ', '\t']);
        let value = behind.strip_prefix([':', '='])?.trim_start();
        let name = text.get(word.clone())?;
        (!value.is_empty() && is_secret(name)).then(|| (word.start, text.len() - value.len()))
    })
}

/// Runs of what names are made of.
fn words(text: &str) -> impl Iterator<Item = Range<usize>> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + text.get(from..)?.find(is_part)?;
        let rest = text.get(start..)?;
        from = start + rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        Some(start..from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_known_also_where_they_are_misspelt() {
        let names = Names { secret: vec!["client_secret".into()], words: Arc::default() };
        for name in [
            "client_secret",
            "client_secrt",
            "cleint_secrt",
            "clientsecret",
            "clientSecret",
            "client-sekret",
            "SECRET",
            "db_pasword",
            "passwrd",
            "tokn",
            "refresh-tokens",
            "private_key",
            "x-api-key",
            "pw",
            "Authorization",
        ] {
            assert!(names.is_secret(name), "{name}");
        }
        for name in ["server", "issuer", "client_id", "url", "cache", "keys", "scopes"] {
            assert!(!names.is_secret(name), "{name}");
        }
    }

    #[test]
    fn secrets_are_found_by_the_form_of_a_text() {
        for (text, expected) in [
            ("https://me:hunter2@a.example/x", "https://…@a.example/x"),
            ("me:hunter2@a.example", "…@a.example"),
            ("https:/me:hunter2@a.example", "…@a.example"),
            (r"https:\\me:hunter2@a.example", "…@a.example"),
            ("//me:hun@ter2@a.example/", "…@a.example/"),
            ("ftp//me:hun/ter`2@a.example", "…@a.example"),
            ("https://me%3Ahunter2%40a.example", "https://…%40a.example"),
            ("https://a.example/x?password=hunter2", "https://a.example/x?…"),
            ("https://a.example/#token=hunter2", "https://a.example/#…"),
            ("a.example?x=hunter2", "a.example?…"),
            ("https://me:hun ter\"2@a.example?x@y#z", "https://…"),
            ("client_secret:hunter2", "client_secret:…"),
            ("host=a password = hunter2", "host=a password = …"),
            ("https://a.example:8443/x", "https://a.example:8443/x"),
            ("^/a?b$", "^/a?b$"),
            ("@x", "@x"),
            ("-----BEGIN PRIVATE KEY----- hunter2", "-----BEGIN …"),
            ("Bearer eyJhbGciOi.hunter2", "Bearer …"),
            ("a token", "a token"),
            ("/orders?x=1", "/orders?x=1"),
            ("/orders?token=hunter2", "/orders?token=…"),
        ] {
            let hidden = hidden_in(text);
            let is_hidden = |at: usize| hidden.iter().any(|range| range.contains(&at));
            let mut shown = String::new();
            for (at, c) in text.char_indices() {
                match is_hidden(at) {
                    false => shown.push(c),
                    true if shown.ends_with('…') => {}
                    true => shown.push('…'),
                }
            }
            assert_eq!(shown, expected, "{text}");
        }
    }
}
