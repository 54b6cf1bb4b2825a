//! Configuration machinery: no policy lives here.
//!
//! A load has two passes. The first reads text into a tree that knows the place of every value ([`parse`] and
//! [`includes`]), puts `${…}` in, and checks the whole against the schema of the document, collecting every error; the
//! second decodes the tree by its types. Both see one schema: that of the types.

mod build;
mod decode;
mod decoder;
mod discreet;
mod errors;
mod formats;
mod includes;
mod join;
mod load;
mod parse;
mod pieces;
mod places;
mod render;
mod scalars;
mod schema;
mod secrecy;
mod secret;
mod shape;
mod shapes;
mod site;
mod sources;
mod substitute;
mod syntax;
#[cfg(test)]
mod tests;
mod tree;
pub mod units;
mod unread;
mod validate;
mod veil;
mod wording;

pub use build::{Build, Files, unreadable};
pub use errors::{Diagnostic, Errors};
pub use load::{load, load_sections, load_text, load_then};
pub use schema::schema;
pub use secrecy::is_secret_name;
pub use secret::Secret;
pub use shapes::{OrNone, Pattern};
pub use site::{Site, Spanned};
pub use sources::Sources;
