//! Command line: parses arguments and prints; the work is done elsewhere.

/// Runs the program.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
