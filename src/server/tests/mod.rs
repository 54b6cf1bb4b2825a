//! The rim, in process.
