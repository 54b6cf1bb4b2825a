//! No secret is shown, however broken a file is: a marker stands where secrets do, in every example in turn, whole and damaged.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use portcullis::config::{self, Build};
use portcullis::gateway::Gateway;
use portcullis::gateway::document::Document;
use portcullis::state::Live;
use serde_json::Value;

/// What must not be shown, in none of its parts and in no spelling.
const MARKER: &str = "Mk7zQx9w";
const PARTS: [&str; 4] = ["mk7z", "qx9w", "7zqx", "8675309"];
/// What a variable may have: the marker in all that is read as something else.
const VALUES: [&str; 9] = [
    MARKER,
    "8675309",
    "08675309",
    "8675309ms",
    "Mk7zQx9w.example:99999",
    "https://Mk7zQx9w:Mk7zQx9w@Mk7zQx9w.example/Mk7zQx9w?k=Mk7zQx9w",
    "%4d%6b7z%51x9w /Mk7zQx9w",
    "{Mk7zQx9w} == \"Mk7zQx9w\"",
    "[Mk7zQx9w",
];
/// At most this long, and at least so many files.
const TIME_MAX: Duration = Duration::from_secs(4);
const FILES_MIN: usize = 150;

/// A file with a marker in it.
struct Marked {
    text: String,
    variable: &'static str,
}

#[test]
fn no_secret_is_shown_of_whatever_file() {
    let directory = super::published();
    let examples = directory.path().join("examples");
    let mut files = Vec::new();
    for path in super::yaml_files(examples.to_str().unwrap()) {
        let text = super::with_alternatives(&fs::read_to_string(&path).unwrap());
        files.extend(marked(&text));
    }
    assert!(files.len() > 300, "only {} places are marked", files.len());
    let (mut random, begun, mut asked, mut told) = (Random(0x9E37_79B9_7F4A_7C15), Instant::now(), 0, 0);
    let path = examples.join("portcullis.yaml");
    let mut wrong = String::new();
    while asked < FILES_MIN || begun.elapsed() < TIME_MAX && asked < 4 * files.len() {
        let Some(file) = files.get(random.below(files.len())) else { break };
        let text = (0..asked % 3).fold(file.text.clone(), |text, _| broken(&text, &mut random));
        fs::write(&path, &text).unwrap();
        let said = said_of(&path, file.variable);
        asked += 1;
        told += usize::from(said.contains("error: "));
        if shows_marker(&said) {
            wrong += &format!("── {}\n{said}", difference(&text));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(told * 3 > asked, "only {told} of {asked} files were wrong");
}

fn shows_marker(said: &str) -> bool {
    let low = said.to_lowercase();
    PARTS.iter().any(|part| low.contains(part))
}

#[test]
fn a_marker_in_a_place_of_no_secret_is_seen() {
    let directory = super::published();
    let path = directory.path().join("examples/portcullis.yaml");
    for (text, is_seen) in [
        (format!("server: {{drain: {MARKER}}}"), true),
        (format!("server: {{colour: {MARKER}}}"), false),
        ("server: {drain: \"${env:MARKED}\"}".to_owned(), false),
        (format!("server: {{drain: {MARKER}"), false),
    ] {
        fs::write(&path, &text).unwrap();
        let said = said_of(&path, MARKER);
        assert!(said.contains("portcullis.yaml:1:") && shows_marker(&said) == is_seen, "{said}");
    }
}

/// The lines that have the marker in them.
fn difference(text: &str) -> String {
    let is_marked = |line: &&str| {
        let low = line.to_lowercase();
        PARTS.iter().chain(&["marked"]).any(|part| low.contains(part))
    };
    text.lines().filter(is_marked).collect::<Vec<_>>().join("\n")
}

fn said_of(path: &Path, variable: &str) -> String {
    let mut build = Build::default();
    let environment = |name: &str| (name == "MARKED").then(|| variable.to_owned());
    config::load_then(path, &environment, &mut build, |document: &Document, build| {
        Gateway::compile(document, &Live::default(), 1, build)
    });
    build.errors.render(&build.sources)
}

/// An example with a marker: for every value a variable in its place, and the marker itself where secrets stand.
fn marked(text: &str) -> Vec<Marked> {
    let value = regex::Regex::new(
        r#"(?m)(^|[\s{,])([A-Za-z_-]+): +("[^"\n]*"|'[^'\n]*'|[^\s,\[\]{}#&*"'|>][^,\[\]{}#\n]*)"#,
    )
    .unwrap();
    let (mut files, mut section) = (Vec::new(), "");
    for found in value.captures_iter(text) {
        let (key, old) = (found.get(2).unwrap(), found.get(3).unwrap());
        let line = text.get(..key.start()).unwrap().lines().last().unwrap_or_default();
        if line.trim_start().starts_with('#') {
            continue;
        }
        // The section that a value is in: the last key without a value of its own.
        let before = text.get(..key.start()).unwrap();
        let opened = before.rmatch_indices(": {").chain(before.rmatch_indices(":\n")).map(|(at, _)| at).max();
        if let Some(at) = opened {
            section = before.get(..at).unwrap().rsplit([' ', '{', '\n']).next().unwrap_or_default();
        }
        let with = |new: &str, variable| {
            let (before, after) = (text.get(..old.start()).unwrap(), text.get(old.end()..).unwrap());
            Marked { text: format!("{before}{new}{after}"), variable }
        };
        let variable = VALUES.get(files.len() % VALUES.len()).copied().unwrap();
        files.push(with("\"${env:MARKED}\"", variable));
        let old = old.as_str();
        if old.trim_matches(['"', '\'']).starts_with("http") {
            let url = old.replacen("://", &format!("://{MARKER}:{MARKER}@"), 1);
            files.push(with(&url, ""));
            files.push(with(&format!("\"{}?key={MARKER}\"", old.trim_matches(['"', '\''])), ""));
        }
        let is_secret = ["client_secret", "secret", "password", "equals", "body"].contains(&key.as_str());
        if is_secret || ["set", "add"].contains(&section) {
            for new in [
                MARKER.to_owned(),
                format!("\"{MARKER}\""),
                format!("Bearer {MARKER} {{x}}"),
                format!("[{MARKER}]"),
            ] {
                files.push(with(&new, ""));
            }
        }
        if key.as_str() == "when" {
            for new in [
                format!("'jwt.claims.x == \"{MARKER}\"'"),
                format!("'jwt.claims.x == {MARKER}'"),
                format!("'{MARKER}('"),
            ] {
                files.push(with(&new, ""));
            }
        }
    }
    files
}

/// Damages a text in one place, mostly near the marker.
fn broken(text: &str, random: &mut Random) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    let marker = ["MARKED", MARKER].iter().find_map(|mark| text.find(mark)).unwrap_or_default();
    let marker = text.get(..marker).map_or(0, |before| before.chars().count());
    let at = match random.below(3) {
        0 => random.below(characters.len().max(1)),
        _ => (marker + random.below(60)).saturating_sub(40).min(characters.len().saturating_sub(1)),
    };
    let line = characters.iter().take(at).rposition(|c| *c == '\n').map_or(0, |at| at + 1);
    match random.below(9) {
        0 => drop(characters.remove(at)),
        1 => characters.insert(at, *characters.get(at).unwrap()),
        2 => characters.insert(line, ' '),
        3 => characters.insert(line, '\t'),
        4 => characters.insert(at, '\t'),
        5 => characters.insert(at, ':'),
        6 => characters.insert(at, '\n'),
        7 if characters.get(line) == Some(&' ') => drop(characters.drain(line..=line)),
        // The marker stays.
        _ if at > marker + 12 => characters.truncate(at),
        _ => characters.insert(at, *[',', '{', ']', '"', '\'', '#', ' '].get(random.below(7)).unwrap()),
    }
    characters.into_iter().collect()
}

/// Numbers that are the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or_default() % bound
    }
}

/// What is neither a secret, nor guarded, nor of a form of its own: shown as it is written.
fn open_texts(root: &Value, schema: &Value, path: &str, open: &mut BTreeSet<String>) {
    let is_kept = |schema: &Value| schema.get("x-guarded").is_some() || schema.get("writeOnly").is_some();
    if is_kept(schema) {
        return;
    }
    for form in super::forms(root, schema).into_iter().filter(|form| !is_kept(form)) {
        let is_free = ["format", "enum", "const"].iter().all(|keyword| form.get(keyword).is_none());
        if is_free && form.get("type").is_some_and(|kind| kind == "string") {
            open.insert(path.trim_start_matches('.').to_owned());
        }
        for (key, below) in form.get("properties").and_then(Value::as_object).into_iter().flatten() {
            open_texts(root, below, &format!("{path}.{key}"), open);
        }
        for (keyword, mark) in [("additionalProperties", ".*"), ("items", "[]")] {
            if let Some(below) = form.get(keyword).filter(|below| below.is_object()) {
                open_texts(root, below, &format!("{path}{mark}"), open);
            }
        }
    }
}

#[test]
fn every_text_that_messages_show_is_listed() {
    let schema: Value = serde_json::from_str(&config::schema::<Document>()).unwrap();
    let mut open = BTreeSet::new();
    open_texts(&schema, &schema, "", &mut open);
    let list = open.into_iter().fold(String::new(), |list, path| list + &path + "\n");
    let path = "tests/golden/open-texts.txt";
    if std::env::var_os("GOLDEN").is_some_and(|word| word == "update") {
        fs::write(path, &list).unwrap();
    }
    let known = fs::read_to_string(path).unwrap_or_default();
    assert!(
        list == known,
        "messages would quote another key: is it one that may have a secret in it? Then mark it `x-guarded`; else write {path} anew with \
         GOLDEN=update\n{list}"
    );
}
