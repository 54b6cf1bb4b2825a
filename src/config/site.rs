//! Where a value was written.

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// A place in a configuration file; printed as `file:line`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// The file as it was named on the command line or by an `include`.
    pub file: Arc<str>,
    /// From 1; 0 for what no file says (a default, `run --to`).
    pub line: u32,
    /// From 1, in characters; 0 as above.
    pub column: u32,
}

impl Site {
    /// A place in `file`.
    pub fn new(file: impl Into<Arc<str>>, line: u32, column: u32) -> Self {
        Self { file: file.into(), line, column }
    }

    /// For values that no file says.
    pub fn default_value() -> Self {
        Self::new("default", 0, 0)
    }

    /// The directory of the file: relative paths start here.
    pub fn directory(&self) -> &Path {
        Path::new(&*self.file).parent().unwrap_or_else(|| Path::new(""))
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// A value, the place it was written at, and the path of its key (`routes[3].cors`).
///
/// The site of a value in a mapping is the place of its key; in a list, of the value itself.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub site: Site,
    /// Under which key.
    pub path: Arc<str>,
}

impl<T> Spanned<T> {
    /// A value that no file says.
    pub fn unwritten(value: T) -> Self {
        Self { value, site: Site::default_value(), path: "".into() }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Default> Default for Spanned<T> {
    fn default() -> Self {
        Self::unwritten(T::default())
    }
}
