//! Golden configurations: the refused ones with their exact message, the accepted ones as they are published.
//!
//! `GOLDEN=update cargo test --test golden` writes the messages anew; read the difference before committing it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis::config::{self, Build};
use portcullis::gateway::document::Document;
use serde_json::Value;

/// What an operator is told about a file; empty where nothing is wrong.
fn check_file(path: &Path) -> String {
    let mut build = Build::default();
    let _: Option<Document> = config::load(path, &environment, &mut build);
    build.errors.render(&build.sources)
}

/// The variables that the golden files use.
fn environment(name: &str) -> Option<String> {
    let value = match name {
        "PORT" => "9001",
        "SECRET" => "correct horse battery staple",
        "NUMBER" => "31",
        "EMPTY" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

/// The `.yaml` files of a directory, sorted.
fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the directory of the golden files is part of the repository");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

#[test]
fn refused_configurations_say_what_is_wrong() {
    let update = std::env::var_os("GOLDEN").is_some_and(|word| word == "update");
    let files = yaml_files("tests/golden/refused");
    let mut differences = Vec::new();
    for path in &files {
        let said = check_file(path);
        let expected_at = path.with_extension("expected");
        if update {
            fs::write(&expected_at, &said).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&expected_at).unwrap_or_default();
        if said != expected {
            differences.push(format!("── {}\n{said}── expected\n{expected}", path.display()));
        } else if !said.contains("error: ") {
            differences.push(format!("── {} is accepted", path.display()));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(files.len() >= 70, "only {} refused configurations", files.len());
}
