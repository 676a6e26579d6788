//! The program `fieldcast-hub`: hands its arguments to the command line of the library.

use std::process::ExitCode;

/// Thousands of connections keep small pieces of every age: the C library's allocator takes a quarter of the hub's time over them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fieldcast_hub::cli::main()
}
