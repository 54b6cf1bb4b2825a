//! `portcullis check`: is this configuration good?

use std::io::{self, Write};
use std::path::Path;

use crate::config::{self, Build};
use crate::gateway::document::Document;
use crate::gateway::{Gateway, state_directory};
use crate::state::Live;

/// Loads and compiles a configuration without serving it. What is wrong goes to `err`; one line of summary to `out`.
///
/// The exit status: 0 good (there may be warnings), 64 not.
///
/// # Errors
/// Where `out` cannot be written to.
pub(super) fn check(path: &Path, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let mut build = Build::default();
    let environment = |name: &str| std::env::var(name).ok();
    let counted = config::load_then(path, &environment, &mut build, |document: &Document, build| {
        let live = Live::new(state_directory(document, build));
        Gateway::compile(document, &live, 1, build)?;
        Some((document.routes.len(), document.upstreams.len()))
    });
    // Nobody may be listening there; the verdict stands all the same.
    let _ = err.write_all(build.errors.render(&build.sources).as_bytes());
    match counted {
        Some((routes, upstreams)) => {
            writeln!(out, "{}: good; routes: {routes}, upstreams: {upstreams}", path.display())?;
            Ok(0)
        }
        None => Ok(64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(path: &Path) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = check(path, &mut out, &mut err).unwrap();
        (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_good_file_is_counted() {
        let (status, out, err) = checked(Path::new("conf/examples/minimal.yaml"));
        assert_eq!((status, err.as_str()), (0, ""));
        assert_eq!(out, "conf/examples/minimal.yaml: good; routes: 1, upstreams: 1\n");
    }

    #[test]
    fn a_bad_file_is_64_and_told_on_the_error_stream() {
        let (status, out, err) = checked(Path::new("no/such/file.yaml"));
        assert_eq!((status, out.as_str()), (64, ""));
        assert!(err.starts_with("error: cannot read `no/such/file.yaml`: no such file\n"), "{err}");
        assert!(err.ends_with("\n1 error\n"), "{err}");
    }

    /// What is wrong with a policy, and words that the message must have all the same.
    const INTROSPECTION: [(&str, &str); 42] = [
        ("client_secrt: HUNTER2", "did you mean `client_secret`?"),
        ("cleint_secrt: HUNTER2", "unknown key `cleint_secrt`"),
        ("clientSecret: HUNTER2", "unknown key `clientSecret`"),
        ("password: HUNTER2 # or HUNTER2", "unknown key `password`"),
        ("whatever: HUNTER2", "unknown key `whatever`"),
        ("client_secret:HUNTER2", "client_secret"),
        ("client_secret HUNTER2", "neither a key"),
        ("client_secret: [HUNTER2]", "a list is written where a text is wanted"),
        ("client_secret: [HUNTER2, HUNTER3]", "a list is written where a text is wanted"),
        ("client_secret: [[HUNTER2]]", "a list is written where a text is wanted"),
        ("client_secret: {value: HUNTER2}", "a mapping is written where a text is wanted"),
        ("client_secret: {HUNTER2}", "write it in quotes"),
        (
            "client_secret: {HUNTER2: HUNTER3, HUNTER4: HUNTER5}",
            "a mapping is written where a text is wanted",
        ),
        ("client_secret:\n        - HUNTER2\n        - HUNTER3", "a list is written where a text is wanted"),
        ("client_secret:\n      - HUNTER2", "no key stands where one is wanted"),
        ("client_secret: !HUNTER2", "tags"),
        ("client_secret: !HUNTER2 HUNTER3", "tags"),
        ("client_secret: *HUNTER2", "an anchor that is not there"),
        ("client_secret: &HUNTER2 [a]", "a list is written where a text is wanted"),
        ("client_secret: a\n        client_secret: HUNTER2", "given twice; first in line 9"),
        ("client_secret: HUNTER2\n        client_secret: HUNTER3", "given twice"),
        ("'client_secret': HUNTER2\n        \"client_secret\": HUNTER3", "given twice"),
        ("{client_secret: HUNTER2}: a", "a key is a list or a mapping"),
        ("<<: {client_secret: HUNTER2}", "merge keys"),
        ("\"client\\x5fsecrt\": HUNTER2", "unknown key `client_secrt`"),
        ("? client_secrt\n        : HUNTER2", "unknown key `client_secrt`"),
        ("url: &s HUNTER2\n        client_secret: *s", "HIDDEN"),
        ("client_secret: \"HUN\\x54ER2\"\n        client_secret: b", "given twice"),
        ("client_secret: 'HUNTER2' x", "text follows the closing quote"),
        ("client_secret: \"HUNTER2", "a quote is never closed"),
        ("client_secret: \"HUN\n TER2\"", "HIDDEN"),
        ("client_secret: [HUNTER2] HUNTER3", "write it in quotes"),
        ("client_secret: HUNTER2: HUNTER3", "a second `: ` in one line"),
        ("client_secret: {a: HUNTER2", "within brackets"),
        ("client_secret: @HUNTER2", "a text cannot begin with `@`"),
        ("client_secret: \"${HUNTER2}\"", "where its value comes from"),
        ("client_secret: \"${env:ABSENT}HUNTER2\"", "is not set"),
        ("client_secrt: |\n          HUNTER2\n          HUNTER3", "unknown key `client_secrt`"),
        ("client_secrt: >-\n          HUNTER2", "unknown key `client_secrt`"),
        ("authorization: Basic HUNTER2", "unknown key `authorization`"),
        ("client_secret=HUNTER2: a", "unknown key `…`"),
        ("timeout: 1ms # HUNTER2", "out of range"),
    ];

    fn said_of(policy: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("portcullis.yaml");
        let text = format!(
            "listeners: [{{address: 127.0.0.1:8080}}]\nroutes:\n  - {{name: r, auth: none, respond: {{body: x}}}}\n\
             policies:\n  auth:\n    a:\n{policy}\n"
        );
        std::fs::write(&path, text).unwrap();
        let (status, _, said) = checked(&path);
        assert!(status == 64 || said.contains("warning: "), "{policy}\n{said}");
        said
    }

    /// What is wrong with what is said; nothing where nothing is.
    fn shown(policy: &str, expected: &str) -> String {
        let said = said_of(policy);
        let low = said.to_lowercase();
        let hides = !["hunter", "ter2", "ter3"].iter().any(|part| low.contains(part));
        let tells = said.contains("--> ") && (expected == "HIDDEN" || said.contains(expected));
        if hides && tells { String::new() } else { format!("{policy}\n(wanted: {expected})\n{said}\n") }
    }

    #[test]
    fn no_secret_is_shown_in_whatever_form_it_is_written() {
        let mut wrong = String::new();
        for (line, expected) in INTROSPECTION {
            let policy = format!(
                "      introspection:\n        client_id: b\n        {line}\n        url: https://id.example.com/introspect"
            );
            wrong += &shown(&policy, expected);
        }
        for (policy, expected) in [
            (
                "      {introspection: {client_id: b, client_secrt: HUNTER2, url: 'https://id.example.com', cach: 1s}}",
                "did you mean `cache`?",
            ),
            (
                "      introspection: {client_id: b, client_secret: a, HUNTER2, url: 'https://id.example.com'}",
                "unknown key",
            ),
            ("      introspection: {HUNTER2}", "unknown key `…`"),
            ("      api_key: {key: HUNTER2}", "unknown key `key`"),
            ("      api_key: {header: x, keys: [HUNTER2]}", "unknown key `keys`"),
            ("      api_key: HUNTER2", "is a text"),
            ("      basic: {users: {alice: HUNTER2}}", "unknown key `users`"),
            ("      introspection: HUNTER2", "is a text"),
            ("      introspection: client_secret:HUNTER2", "introspection"),
            ("      introspection: [client_secret: HUNTER2]", "a list is written"),
            (
                "      jwt: {issuer: a, audiences: [b], secret: HUNTER2, keys: {discovery: true}}",
                "unknown key `secret`",
            ),
            (
                "      jwt: {issuer: a, audiences: [b], keys: {secret: {value: HUNTER2}}}",
                "a mapping is written",
            ),
            ("      jwt: {issuer: a, audiences: [b], keys: {secrets: HUNTER2}}", "did you mean `secret`?"),
            ("      jwt: {issuer: a, audiences: [b], keys: HUNTER2}", "is a text"),
            ("      jwt: {issuer: a, audiences: [b], keys: [HUNTER2]}", "a list is written"),
            ("      jwt: {issuer: a, audiences: [b], algorithms: [HS256], keys: {secret: HUNTER2}}", "HS256"),
            (
                "      jwt: {issuer: a, audiences: [b], algorithms: [HS256], keys: {secret: 'HUNTER2 HUNTER3 HUNTER4 HUNTER5 HUNTER6'}}",
                "the secret stands in the file itself",
            ),
        ] {
            wrong += &shown(policy, expected);
        }
        assert!(wrong.is_empty(), "{wrong}");
    }

    #[test]
    fn no_password_is_shown_in_what_was_meant_as_an_address() {
        let mut wrong = String::new();
        for url in [
            "https://me:HUNTER2@id.example.com/x",
            "me:HUNTER2@id.example.com",
            "https:/me:HUNTER2@id.example.com",
            r"https:\\me:HUNTER2@id.example.com",
            "//me:HUNTER2@id.example.com",
            "ftp//me:HUNTER2@id.example.com",
            "ftp://me:HUNTER2@id.example.com",
            "https://me%3AHUNTER2%40id.example.com",
            "https://me:HUN@HUNTER2@id.example.com",
            "https://me:HUNTER2/HUNTER3@id.example.com",
            "https://me:a HUNTER2@id.example.com",
            "https://me:a\"HUNTER2@id.example.com",
            "https://me:a`HUNTER2`b@id.example.com",
            "http://id.example.com/?password=HUNTER2",
            "http://id.example.com/#token=HUNTER2",
            "id.example.com?key=HUNTER2",
            "https://me:HUNTER2-and-so-on-until-it-is-longer-than-a-message-shows-of-any-text@id.example.com:x",
            "https://me:HUNTER2@id.example.com:99999/",
            "https://[me:HUNTER2@id.example.com/",
        ] {
            for (before, after) in
                [("'", "'"), ("\"", "\""), ("[\"", "\"]"), ("", ""), ("", " # HUNTER2:x"), ("{a: '", "'}")]
            {
                let escaped = match before.chars().last() {
                    Some('"') => url.replace('\\', "\\\\").replace('"', "\\\""),
                    _ => url.to_owned(),
                };
                let value = format!("{before}{escaped}{after}");
                let policy = format!(
                    "      introspection:\n        client_id: b\n        client_secret: '${{env:PATH}}'\n        url: {value}\n        cache: 9h"
                );
                let said = said_of(&policy);
                let tells = ["at most `1h`", "cache", "url"].iter().any(|word| said.contains(word));
                if said.to_lowercase().contains("hunter") || !tells {
                    wrong += &format!("{value}\n{said}\n");
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    }

    #[test]
    fn a_file_that_is_no_configuration_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("portcullis.yaml");
        for text in ["HUNTER2", "- HUNTER2\n- b", "\"HUNTER2\""] {
            std::fs::write(directory.path().join("password.yaml"), text).unwrap();
            for whole in [text, "include: [password.yaml]\n"] {
                std::fs::write(&path, whole).unwrap();
                let (status, _, said) = checked(&path);
                assert!(status == 64 && !said.contains("HUNTER") && said.contains("yaml:1:1"), "{said}");
            }
        }
    }
}
