//! Configurations. The bytes are a file.

use portcullis::config::{Build, load_text};
use portcullis::gateway::document::Document;

/// Whatever stands in a file, loading it ends with a document or with errors that name cause and cure, and never otherwise.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Nothing of this machine shall be read: other files are the loader's own tests' business.
    if text.contains("include") || text.contains("${file") {
        return;
    }
    let mut build = Build::default();
    let env = |name: &str| (name == "A").then(|| "1".to_owned());
    let document = load_text::<Document>("fuzz.yaml", text, &env, &mut build);
    assert_eq!(document.is_none(), !build.errors.is_empty(), "a document or errors");
    for error in build.errors.errors() {
        assert!(!error.cause.is_empty() && !error.cure.is_empty(), "{error:?}");
    }
    build.errors.render(&build.sources);
}
