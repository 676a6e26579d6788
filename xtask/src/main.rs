//! `cargo xtask`: owns the chores around the product (test, lint, bench, soak, fuzz, dist, demo), never links any of it.

mod bench;
mod command;
mod conformance;
mod demo;
mod dist;
mod fuzz;
mod install;
mod lint;
mod soak;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores around Fieldcast.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// The whole loop on this machine: hub, three agents, drift, retraining, rollout.
    Demo(demo::DemoArgs),
    /// Installs what the tests need, builds the programs and runs every test.
    Test(test::TestArgs),
    /// Format, clippy, documentation, dependency rules and file rules.
    Lint(lint::LintArgs),
    /// Figures against their goals, beside what others made.
    Bench(bench::BenchArgs),
    /// Numbers beside those of the programs that others trust.
    Conformance(conformance::ConformanceArgs),
    /// Faults for as long as wanted, and whether any reading was lost or came twice.
    Soak(soak::SoakArgs),
    /// Random input for the decoders, with a nightly compiler.
    Fuzz(fuzz::FuzzArgs),
    /// The agent as shipped: a small binary within its budget, and a .deb of it.
    Dist(dist::DistArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().chore {
        Chore::Demo(args) => demo::run(&args),
        Chore::Test(args) => test::run(&args),
        Chore::Lint(args) => lint::run(&args),
        Chore::Bench(args) => bench::run(&args),
        Chore::Conformance(args) => conformance::run(&args),
        Chore::Soak(args) => soak::run(&args),
        Chore::Fuzz(args) => fuzz::run(&args),
        Chore::Dist(args) => dist::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
