//! Entry point of the device's program; everything else is in the library.

fn main() -> std::process::ExitCode {
    fieldcast_agent::cli::main()
}
