//! What is written down is held to the sources: a promise names tests that are there, a link leads somewhere, a reason for which
//! the gateway refuses has its series.

#![expect(clippy::unwrap_used, reason = "a test may panic; clippy knows only functions marked as tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// What is read by people.
const PAPERS: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "THREAT_MODEL.md",
    "load-tests/README.md",
    "docs/differential.md",
    "docs/limits.md",
];

#[test]
fn every_promise_names_a_test_that_exists() {
    let text = fs::read_to_string("THREAT_MODEL.md").unwrap();
    let promises = promises(&text);
    assert!(promises.len() > 80, "only {} rows were understood", promises.len());
    let mut missing = Vec::new();
    for (line, shown) in promises {
        let words = code_words(&shown);
        if words.is_empty() && !shown.contains("golden files") {
            missing.push(format!("THREAT_MODEL.md:{line}: no test is named"));
        }
        let mut before: Vec<PathBuf> = Vec::new();
        for word in words {
            match found(&word, &before) {
                Some(files) if files.is_empty() => {}
                Some(files) => before = files,
                None => missing.push(format!("THREAT_MODEL.md:{line}: `{word}` is not there")),
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_test_of_promises_can_fail() {
    let found = |word: &str| found(word, &[]);
    assert!(found("papers::the_test_of_promises_can_fail").is_none(), "this file is no chapter");
    assert!(found("canonical::the_origin_sees_the_canonical_target").is_some());
    assert!(found("canonical::the_origin_sees_no_such_target").is_none());
    assert!(found("canonical::tests::canonical_is_canonical").is_some());
    assert!(found("canonical::canonical_is_canonical").is_none(), "a unit test is no integration test");
    assert!(found("framing::response").is_some(), "a module with tests");
    assert!(found("framing::request").is_none());
    assert!(found("load-tests/abuse/fast").is_none());
    assert_eq!(promises("| promise | test |\n|---|---|\n| a \\| b | `c` |\n\n| x | y |\n").len(), 1);
}

#[test]
fn what_the_papers_point_at_is_there() {
    let mut missing = Vec::new();
    for paper in PAPERS {
        let text = fs::read_to_string(paper).unwrap();
        let beside = Path::new(paper).parent().unwrap();
        for (number, line) in text.lines().enumerate() {
            let links = between(line, "](", ")").into_iter().filter(|link| !link.contains("://"));
            let files =
                links.map(|link| link.split('#').next().unwrap().to_owned()).filter(|link| !link.is_empty());
            for file in files.filter(|file| !beside.join(file).exists()) {
                missing.push(format!("{paper}:{}: {file}", number + 1));
            }
            for file in commands(line).into_iter().filter(|file| !Path::new(file).exists()) {
                missing.push(format!("{paper}:{}: {file}", number + 1));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_reason_has_its_series_and_every_series_its_reason() {
    let list = fs::read_to_string("src/gateway/reasons.rs").unwrap();
    let (before, rest) = list.split_once("const GATEWAY_REASONS").unwrap();
    let (named, after) = rest.split_once("];").unwrap();
    let named: Vec<&str> = named.split('"').skip(1).step_by(2).collect();
    let mut wrong = Vec::new();
    for (index, word) in named.iter().enumerate() {
        if named.iter().take(index).any(|other| other == word) {
            wrong.push(format!("`{word}` is named twice"));
        }
    }
    let mut sources = sources(Path::new("src"));
    sources.retain(|(path, _)| path != Path::new("src/gateway/reasons.rs"));
    sources.push((PathBuf::from("src/gateway/reasons.rs"), format!("{before}{after}")));
    for word in &named {
        if !sources.iter().any(|(_, text)| text.contains(&format!("\"{word}\""))) {
            wrong.push(format!("`{word}` is nobody's reason"));
        }
    }
    let mut given = 0;
    // An upstream's denial is told as `bad_response`; the rest in its detail.
    for (path, text) in sources.iter().filter(|(path, _)| path != Path::new("src/framing/response.rs")) {
        for call in text.split("Refusal::new(").chain(text.split("Denial::new(")).skip(1) {
            let second = call.split(',').nth(1).unwrap_or_default().trim();
            let Some(word) = second.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
                continue;
            };
            given += 1;
            if !named.contains(&word) {
                wrong.push(format!("{}: `{word}` has no series", path.display()));
            }
        }
    }
    assert!(given > 30, "only {given} reasons were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The sources without their tests, policies (which name their own reasons) left out.
fn sources(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !matches!(&*name, "tests" | "policy") {
            files.extend(sources(&path));
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = fs::read_to_string(&path).unwrap();
            files.push((path, text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()));
        }
    }
    files
}

/// The rows of the tables headed `promise | test`: their line and what stands under `test`.
fn promises(text: &str) -> Vec<(usize, String)> {
    let mut rows = Vec::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        if line == "| promise | test |" {
            inside = true;
        } else if !line.starts_with('|') {
            inside = false;
        } else if inside && !line.starts_with("|---") {
            let cells = line.trim_end().trim_end_matches('|').replace("\\|", "/");
            let (_, shown) = cells.rsplit_once('|').unwrap();
            rows.push((index + 1, shown.to_owned()));
        }
    }
    rows
}

fn code_words(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What stands between two marks, each time.
fn between(text: &str, open: &str, close: &str) -> Vec<String> {
    text.split(open)
        .skip(1)
        .filter_map(|rest| rest.split_once(close))
        .map(|(inner, _)| inner.to_owned())
        .collect()
}

/// Words that are programs or files of the repository: `scripts/fuzz`, `load-tests/abuse/slow`, `conf/examples/`.
fn commands(line: &str) -> Vec<String> {
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)));
    let ours = words.filter(|word| {
        ["scripts/", "load-tests/", "conf/", "tests/", "fuzz/"].iter().any(|start| word.starts_with(start))
    });
    // `conf/mine.yaml` is what the reader makes of ours.
    let there = ours.map(|word| word.trim_end_matches(['.', '-'])).filter(|word| *word != "conf/mine.yaml");
    there.map(str::to_owned).collect()
}

/// Whether what a promise names is there, and the files in which names without a module, following it, are looked for.
fn found(word: &str, before: &[PathBuf]) -> Option<Vec<PathBuf>> {
    let Some((module, name)) = word.rsplit_once("::") else {
        let other = [
            PathBuf::from(word),
            Path::new("src").join(word),
            Path::new("tests/golden/refused").join(format!("{word}.yaml")),
            Path::new("fuzz/src").join(format!("{word}.rs")),
        ];
        let package = fs::read_to_string("Cargo.toml").unwrap();
        let known = other.iter().any(|path| path.exists())
            || package.lines().any(|line| line.starts_with(&format!("{word} =")))
            || before.iter().any(|file| has_test(file, word));
        return known.then(Vec::new);
    };
    let mut files = unit_files(module);
    files.push(Path::new("tests/integration").join(format!("{module}.rs")));
    if files.iter().any(|file| has_test(file, name)) {
        return Some(files);
    }
    // A module whose tests are meant as a whole, or a type that cannot be made without proof.
    let whole = module_files(word).iter().any(|file| tests(file).next().is_some());
    let is_type = |file: &PathBuf| fs::read_to_string(file).unwrap().contains(&format!("pub struct {name}"));
    (whole || module_files(module).iter().any(is_type)).then(Vec::new)
}

/// Where the unit tests of a module may stand: `a::b::tests` are in `a/b.rs` or in files of their own.
fn unit_files(module: &str) -> Vec<PathBuf> {
    let path = module.replace("::", "/");
    let mut candidates = vec![format!("src/{path}.rs"), format!("src/{path}/mod.rs")];
    if let Some(parent) = path.strip_suffix("/tests") {
        candidates.extend([format!("src/{parent}.rs"), format!("src/{parent}/mod.rs")]);
    }
    candidates.into_iter().map(PathBuf::from).filter(|path| path.exists()).collect()
}

/// All files of a module.
fn module_files(module: &str) -> Vec<PathBuf> {
    let path = Path::new("src").join(module.replace("::", "/"));
    let mut files: Vec<PathBuf> = vec![path.with_extension("rs")];
    files.extend(fs::read_dir(&path).into_iter().flatten().map(|entry| entry.unwrap().path()));
    files.retain(|file| file.is_file());
    files
}

fn has_test(file: &Path, name: &str) -> bool {
    tests(file).any(|test| test == name)
}

/// The functions of a file that are marked as tests.
fn tests(file: &Path) -> impl Iterator<Item = String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut marked = false;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((before, after)) = line.split_once("fn ").filter(|_| marked) {
            if matches!(before, "" | "async " | "pub ") {
                names.push(after.split(['(', '<']).next().unwrap().to_owned());
            }
            marked = false;
        }
    }
    names.into_iter()
}
