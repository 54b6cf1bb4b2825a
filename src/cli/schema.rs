//! `portcullis schema`: the JSON Schema of a configuration, for editors.

use std::io::{self, Write};

use crate::config;
use crate::gateway::document::Document;

/// Prints the schema.
///
/// # Errors
/// Where `out` cannot be written to.
pub fn schema(out: &mut dyn Write) -> io::Result<u8> {
    out.write_all(config::schema::<Document>().as_bytes())?;
    Ok(0)
}
