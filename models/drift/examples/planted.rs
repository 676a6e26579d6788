//! Planted faults for `cargo xtask bench drift`: owns what is printed of them, never how they are planted.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared with the tests"
)]

#[path = "../tests/planted/faults.rs"]
mod faults;

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(columns) = faults::columns() else {
        return ExitCode::FAILURE;
    };
    for c in faults::plant(&columns) {
        let name = format!("{:?}", c.fault).to_lowercase();
        println!(
            "{name} {} {} {} {} {} {}",
            c.planted, c.found, c.drift, c.drift_anyway, c.told, c.told_anyway
        );
    }
    ExitCode::SUCCESS
}
