//! How the next configuration is made.

use std::path::PathBuf;
use std::sync::Arc;

use crate::gateway::Gateway;

/// A configuration that can be served.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration, compiled.
    pub gateway: Arc<Gateway>,
    /// What it was made of.
    pub files: Vec<PathBuf>,
    /// What is worth saying, a line each.
    pub warnings: Vec<String>,
}

/// A configuration that cannot be served.
#[derive(Debug)]
pub struct Refused {
    /// What is wrong, a line each or several.
    pub errors: Vec<String>,
    /// What was read on the way: a change of one of them is another try.
    pub files: Vec<PathBuf>,
}

/// Makes the configuration of this generation. Called on a blocking thread of the back office, one at a time.
pub type Reload = Box<dyn FnMut(u64) -> Result<Loaded, Refused> + Send>;

/// Told of a configuration that is put in force.
pub type Adopted = Box<dyn Fn(&Arc<Gateway>) + Send + Sync>;
