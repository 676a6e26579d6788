//! `cargo xtask lint`: owns the list of checks and their report; each check says itself what to do.

mod agent;
mod files;
mod graph;
mod house;

use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::command::{self, cargo, find_program, root};

/// How to lint.
#[derive(Debug, Args)]
pub(crate) struct LintArgs {
    /// Write the agent's list of linked crates anew, to be read in the change's diff.
    #[arg(long)]
    bless_agent: bool,
    /// Only the rules about dependencies and files: seconds instead of minutes.
    #[arg(long)]
    fast: bool,
}

type Check = (&'static str, fn() -> Result<()>);

/// Runs every check and reports all that failed, not only the first.
fn run_all(checks: &[Check]) -> Result<()> {
    let mut failed = Vec::new();
    for (name, check) in checks {
        match check() {
            Ok(()) => eprintln!("lint: {name}: ok"),
            Err(error) => {
                eprintln!("lint: {name}: FAILED\n{error:#}");
                failed.push(*name);
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!(
        "{} of {} checks failed: {}; each says above what to do",
        failed.len(),
        checks.len(),
        failed.join(", ")
    )
}

/// Lints the workspace.
pub(crate) fn run(args: &LintArgs) -> Result<()> {
    if args.bless_agent {
        return agent::bless();
    }
    let rules: [Check; 4] = [
        ("files", || files::check(&root()?)),
        (
            "dependency rules, positive control",
            house::positive_control,
        ),
        ("dependency rules", house::check),
        ("what the agent links", agent::check),
    ];
    let tools: [Check; 4] = [
        ("format", || {
            with_fix(
                cargo()?.args(["fmt", "--all", "--check"]),
                "run `cargo fmt`",
            )
        }),
        ("clippy", || {
            with_fix(
                cargo()?.args([
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--",
                    "-D",
                    "warnings",
                ]),
                "mend what clippy names; an `allow` needs a reason",
            )
        }),
        ("documentation", || {
            with_fix(
                cargo()?
                    .args(["doc", "--workspace", "--no-deps"])
                    .env("RUSTDOCFLAGS", "-Dwarnings"),
                "mend the links and items that rustdoc names",
            )
        }),
        ("cargo-deny", deny),
    ];
    if args.fast {
        run_all(&rules)
    } else {
        run_all(&[&rules[..], &tools[..]].concat())
    }
}

fn with_fix(command: &mut Command, fix: &str) -> Result<()> {
    command::execute(command).map_err(|error| error.context(format!("to fix: {fix}")))
}

fn deny() -> Result<()> {
    if find_program("cargo-deny").is_none() {
        eprintln!(
            "lint: cargo-deny is not installed: licences and bans of deny.toml are not checked"
        );
        return Ok(());
    }
    // Advisories need a database from outside; they are the business of a scheduled run.
    with_fix(
        cargo()?.args(["deny", "check", "licenses", "bans", "sources"]),
        "remove the crate, or change deny.toml with a reason",
    )
}
