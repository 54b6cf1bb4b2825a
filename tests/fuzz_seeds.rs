//! Every seed of the fuzz targets, the regressions among them, through the target it belongs to: what a fuzzer has found once is
//! asked again by an ordinary `cargo test`.

#![expect(clippy::unwrap_used, reason = "a test may panic; clippy knows only functions marked as tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

#[path = "../fuzz/src/lib.rs"]
pub mod fuzz;

/// What has panicked anywhere in the process: a panic of a worker is as much a finding as one of the target.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[test]
fn every_seed_passes_its_target() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.lock().unwrap().push(panic.to_string());
        told(panic);
    }));
    let mut failed = Vec::new();
    for (name, run) in fuzz::TARGETS {
        for seed in files(&folder().join("seeds").join(name)) {
            let bytes = fs::read(&seed).unwrap();
            // The target's own panic ends only this seed; one elsewhere has been noted by the hook.
            let _ = std::panic::catch_unwind(|| run(&bytes));
            for panic in PANICS.lock().unwrap().drain(..) {
                failed.push(format!("{}: {panic}", seed.display()));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_target_has_its_program_its_seeds_and_its_entry() {
    let named: BTreeSet<_> = fuzz::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let stems = |folder: &Path| -> BTreeSet<_> {
        files(folder).iter().map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(stems(&folder().join("targets")), named);
    assert_eq!(stems(&folder().join("seeds")), named);
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for name in &named {
        assert!(
            manifest.contains(&format!("path = \"targets/{name}.rs\"")),
            "{name} is not in fuzz/Cargo.toml"
        );
        assert!(!files(&folder().join("seeds").join(name)).is_empty(), "{name} has no seed");
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
