//! Imports run one way: each room may use what stands below it, nothing above and nothing beside it.

#![expect(clippy::unwrap_used, reason = "a test may panic; clippy knows only functions marked as tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, from the top down; rooms of one row do not know each other.
///
/// `request` stands above `canonical` and `client`, whose results it shows: see `EXCEPTIONS`.
const ROWS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["server"],
    &["proxy"],
    &["gateway"],
    &["route", "policy", "upstream", "observe"],
    &["state", "egress"],
    &["reply"],
    &["template"],
    &["record"],
    &["canonical", "client", "framing", "proxy_protocol"],
    &["identity", "request"],
    &["config", "descriptors"],
];

/// Imports that the rows do not allow: the plain view of a request has the canonical target, the client and its certificate in it.
const EXCEPTIONS: &[(&str, &str)] =
    &[("request", "canonical"), ("request", "client"), ("request", "identity")];

/// Crates that know Pingora's session and connections, and the rooms they may be used in.
const PINGORA: &[(&str, &[&str])] = &[
    ("pingora_proxy", &["proxy"]),
    ("pingora_http", &["proxy"]),
    ("pingora_core", &["proxy", "server"]),
    ("pingora_timeout", &["proxy", "server"]),
    ("pingora_error", &["proxy", "server"]),
    ("pingora_limits", &["policy"]),
];

/// Policies do not know each other; these files of `policy` are what they share.
const POLICY_SHARED: &[&str] = &["mod", "turn", "verdict"];

#[test]
fn imports_run_one_way() {
    let mut breaches = Vec::new();
    for (path, text) in sources() {
        let room = room(&path);
        let Some(row) = row_of(&room) else {
            breaches.push(format!("{}: `{room}` stands in no row of this test", path.display()));
            continue;
        };
        for (line, used) in crate_paths(&text) {
            let Some(used_row) = row_of(&used) else {
                continue;
            };
            let allowed =
                used == room || used_row > row || EXCEPTIONS.contains(&(room.as_str(), used.as_str()));
            if !allowed {
                breaches.push(format!("{}:{line}: {room} uses {used}", path.display()));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn pingora_stays_in_its_rooms() {
    let mut breaches = Vec::new();
    for (path, text) in sources() {
        let room = room(&path);
        for (number, line) in code_lines(&text) {
            for (name, rooms) in PINGORA {
                if has_word(&line, name) && !rooms.contains(&room.as_str()) {
                    breaches.push(format!("{}:{number}: {room} uses {name}", path.display()));
                }
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn policies_do_not_know_each_other() {
    let mut breaches = Vec::new();
    let policies = policies();
    for (path, text) in sources() {
        let Some(own) = policy(&path) else { continue };
        if POLICY_SHARED.contains(&own.as_str()) {
            continue;
        }
        // Within a policy that is a directory, `super::x` is a part of it, and so on for directories in it.
        let is_root = path.file_name().is_some_and(|name| name == "mod.rs");
        let beside = "super::".repeat(path.components().count() - 2 - usize::from(is_root));
        for (line, used) in paths_after(&["crate::policy::", &beside], &text) {
            if used != own && policies.contains(&used) {
                breaches.push(format!("{}:{line}: {own} uses {used}", path.display()));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn the_test_sees_what_it_looks_for() {
    let text = "use crate::{a, b::{c, d}};\nuse crate::e::F;\nfn x() { crate::g::h() } // crate::i\n#[cfg(test)]\nmod \
                tests { use crate::j; }\n";
    let found: Vec<String> = crate_paths(text).into_iter().map(|(_, used)| used).collect();
    assert_eq!(found, ["a", "b", "e", "g"]);
    let rooms: BTreeMap<String, usize> = sources().iter().fold(BTreeMap::new(), |mut rooms, (path, text)| {
        *rooms.entry(room(path)).or_default() += crate_paths(text).len();
        rooms
    });
    assert!(rooms.get("gateway").is_some_and(|imports| *imports > 3), "{rooms:?}");
}

/// The files of `src` with their paths from there.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, files: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests.rs" {
                files.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut files = Vec::new();
    walk(Path::new("src"), &mut files);
    // The map of the house names every room and uses none.
    files.retain(|(path, _)| path != Path::new("src/lib.rs"));
    files.sort();
    files
}

/// `src/gateway/listener.rs` → `gateway`
fn room(path: &Path) -> String {
    let first = path.components().nth(1).unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// `src/policy/cors.rs` and `src/policy/cors/mod.rs` → `cors`
fn policy(path: &Path) -> Option<String> {
    let rest = path.strip_prefix("src/policy").ok()?;
    let first = rest.components().next()?.as_os_str().to_string_lossy().into_owned();
    Some(first.trim_end_matches(".rs").to_owned())
}

fn policies() -> Vec<String> {
    let mut names: Vec<String> = sources().iter().filter_map(|(path, _)| policy(path)).collect();
    names.retain(|name| !POLICY_SHARED.contains(&name.as_str()));
    names.dedup();
    names
}

fn row_of(room: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&room))
}

/// The lines of a file that are code and not its tests, with their numbers.
fn code_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut skipping: Option<String> = None;
    let mut test_next = false;
    for (index, line) in text.lines().enumerate() {
        let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
        if let Some(end) = &skipping {
            if line.trim_end() == format!("{end}}}") {
                skipping = None;
            }
            continue;
        }
        let code = line.split("//").next().unwrap_or_default();
        if code.trim_start().starts_with("#[cfg(test)]") {
            test_next = true;
            continue;
        }
        if test_next && !code.trim_start().starts_with("#[") {
            test_next = false;
            let one_line = code.trim_end().ends_with([';', '}']);
            skipping = (!one_line).then_some(indent);
            continue;
        }
        lines.push((index + 1, code.to_owned()));
    }
    lines
}

/// The modules that follow `crate::` (in the binary: `portcullis::`).
fn crate_paths(text: &str) -> Vec<(usize, String)> {
    paths_after(&["crate::", "portcullis::"], text)
}

/// The names that follow a marker, with their lines; braces at the first level are opened.
fn paths_after(markers: &[&str], text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let lines = code_lines(text);
    let code: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
    let number = |offset: usize| {
        let index = code.get(..offset).unwrap_or_default().matches('\n').count();
        lines.get(index).map_or(0, |(number, _)| *number)
    };
    for marker in markers {
        for (offset, _) in code.match_indices(marker) {
            let before = code.get(..offset).and_then(|text| text.chars().next_back());
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '"')) {
                continue;
            }
            let rest = code.get(offset + marker.len()..).unwrap_or_default();
            found.extend(first_names(rest).into_iter().map(|name| (number(offset), name)));
        }
    }
    found
}

/// `a::b` → `a`; `{a, b::{c, d}}` → `a`, `b`
fn first_names(path: &str) -> Vec<String> {
    let name =
        |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(inside) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let mut names = Vec::new();
    let (mut depth, mut at_start) = (0, true);
    for (offset, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                names.push(name(inside.get(offset..).unwrap_or_default()));
                at_start = false;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|text| text.chars().next());
        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !part(before) && !part(after)
    })
}
