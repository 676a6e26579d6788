//! The program `fieldcast-hub`: hands its arguments to the command line of the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fieldcast_hub::cli::main()
}
