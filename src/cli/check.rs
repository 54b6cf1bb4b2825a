//! `portcullis check`: is this configuration good?

use std::io::{self, Write};
use std::path::Path;

use crate::config::{self, Build};
use crate::gateway::Gateway;
use crate::gateway::document::Document;
use crate::state::Live;

/// Loads and compiles a configuration without serving it. What is wrong goes to `err`; one line of summary to `out`.
///
/// The exit status: 0 good (there may be warnings), 64 not.
///
/// # Errors
/// Where `out` or `err` cannot be written to.
pub fn check(path: &Path, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let mut build = Build::default();
    let environment = |name: &str| std::env::var(name).ok();
    let document: Option<Document> = config::load(path, &environment, &mut build);
    if let Some(document) = &document {
        Gateway::compile(document, &Live::default(), 1, &mut build);
    }
    err.write_all(build.errors.render(&build.sources).as_bytes())?;
    match document {
        Some(document) if build.errors.is_empty() => {
            let (routes, upstreams) = (document.routes.len(), document.upstreams.len());
            writeln!(out, "{}: good; routes: {routes}, upstreams: {upstreams}", path.display())?;
            Ok(0)
        }
        _ => Ok(64),
    }
}
