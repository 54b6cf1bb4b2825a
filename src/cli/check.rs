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
}
