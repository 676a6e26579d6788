//! `cargo xtask fuzz`: owns building the fuzz targets and how long and within which memory each runs; never what must hold.

use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::command::{execute, output, root, target_dir};
use crate::install;

/// The version that is built where the machine has none.
const CARGO_FUZZ: &str = "0.13.2";

/// Each target: its name, the longest input in bytes, and the most that one allocation may take in MiB.
const TARGETS: [(&str, u32, u32); 4] = [
    ("batch", 70_000, 16),
    ("messages", 40_000, 2),
    ("json", 20_000, 2),
    ("topics", 300, 2),
];

/// What to fuzz.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// How long each target runs.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// One target instead of all.
    #[arg(long, value_parser = PossibleValuesParser::new(TARGETS.map(|(name, ..)| name)))]
    target: Option<String>,
}

/// Runs the targets one after another; fails at the first input that one of them fails on.
pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    let chosen = TARGETS
        .iter()
        .filter(|(name, ..)| args.target.as_deref().is_none_or(|t| t == *name));
    output(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])).context(
        "fuzz targets need a nightly compiler: run `rustup toolchain install nightly --profile minimal`",
    )?;
    let cargo_fuzz = install::cargo_tool("cargo-fuzz", CARGO_FUZZ, &[])?;
    let (root, own) = (root()?, target_dir()?.join("fuzz"));
    for (name, longest, allocation) in chosen {
        let found = own.join("corpus").join(name);
        let failed = own.join("failed").join(name);
        for dir in [&found, &failed] {
            std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let mut fuzz = Command::new("rustup");
        // This program's own cargo is not the nightly one.
        fuzz.current_dir(&root)
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN");
        fuzz.args(["run", "nightly"]).arg(&cargo_fuzz);
        fuzz.args(["fuzz", "run", "--fuzz-dir", "fuzz", "--target-dir"])
            .arg(&own);
        // What is new goes to the first folder, the repository's stays as it is.
        fuzz.arg(name)
            .arg(&found)
            .arg(root.join("fuzz/corpus").join(name));
        fuzz.args([
            "--".to_owned(),
            format!("-max_total_time={:.0}", args.minutes * 60.0),
            format!("-max_len={longest}"),
            format!("-malloc_limit_mb={allocation}"),
            "-rss_limit_mb=512".to_owned(),
            "-print_final_stats=1".to_owned(),
            format!("-artifact_prefix={}/", failed.display()),
        ]);
        execute(&mut fuzz).with_context(|| {
            format!(
                "target {name} failed: mend it and move the input from {} to fuzz/corpus/{name}",
                failed.display()
            )
        })?;
    }
    Ok(())
}
