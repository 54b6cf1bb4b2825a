//! Configuration machinery: no policy lives here.

mod build;
mod decode;
mod errors;
mod schema;
mod shapes;
mod site;
pub mod units;

pub use build::{Build, Files};
pub use errors::{Diagnostic, Errors};
pub use shapes::{OrNone, Pattern};
pub use site::{Site, Spanned};
