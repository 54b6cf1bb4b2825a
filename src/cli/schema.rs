//! `portcullis schema`: the JSON Schema of a configuration, for editors.

use std::io::{self, Write};

use crate::config;
use crate::gateway::document::Document;

/// Prints the schema.
///
/// # Errors
/// Where `out` cannot be written to.
pub(super) fn schema(out: &mut dyn Write) -> io::Result<u8> {
    out.write_all(config::schema::<Document>().as_bytes())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_schema_is_json_with_a_title() {
        let mut out = Vec::new();
        assert_eq!(super::schema(&mut out).unwrap(), 0);
        let schema: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(schema["title"], "Portcullis configuration");
    }
}
