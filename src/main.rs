//! Command line → command.

use std::process::ExitCode;

/// Gives memory back after a flood (ARCHITECTURE.md, "The allocator").
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    portcullis::cli::main()
}
