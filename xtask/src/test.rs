//! `cargo xtask test`: owns the order of installing, building and testing; the tests themselves lie with the code.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::command::{self, cargo, find_program, output, root, target_dir};
use crate::dist;
use crate::install::{self, Need};

/// What to test.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Only the tests with real hubs and agents, over this broker: `mosquitto`, or with an address (mqtt://user:password@host:port)
    /// the loop's smoke test over any broker of MQTT 5.
    #[arg(long, value_name = "BROKER")]
    broker: Option<String>,
    /// Handed to the test runner, for example `-p fieldcast-wire`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    runner_args: Vec<String>,
}

/// Installs, builds, tests.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    install::ensure(&[Need::Postgres, Need::Mosquitto])?;
    install::or_skip(
        Need::Faketime,
        "no device's clock jumps in the tests of faults",
    );
    match std::env::var_os("FIELDCAST_DATA") {
        Some(dir) if Path::new(&dir).is_dir() => {
            eprintln!("real data: {}", Path::new(&dir).display())
        }
        Some(dir) => anyhow::bail!(
            "FIELDCAST_DATA is `{}`, which is no folder: correct it, or unset it to skip the tests on real data",
            Path::new(&dir).display()
        ),
        None => eprintln!(
            "FIELDCAST_DATA is not set: tests on real data say `skipped`; set it to a folder with the data sets to run them"
        ),
    }
    command::execute(cargo()?.args(["build", "--workspace", "--bins"]))?;
    let package = package()?;
    let with_programs = |command: &mut Command| -> Result<()> {
        if let Some(package) = &package {
            command.env("FIELDCAST_DEB", package);
        }
        command::execute(command.env("FIELDCAST_BIN_DIR", target_dir()?.join("debug")))
    };
    if let Some(broker) = &args.broker {
        let named = matches!(broker.as_str(), "embedded" | "mosquitto");
        let tests: &[&str] = if named {
            &[
                "--test",
                "whole_loop",
                "--test",
                "trust",
                "--test",
                "bike_hours",
            ]
        } else {
            &["--test", "whole_loop", "over_any_broker"]
        };
        let mut run = cargo()?;
        run.args(["test", "--workspace"])
            .args(tests)
            .args(&args.runner_args);
        return with_programs(run.env("FIELDCAST_TEST_BROKER", broker));
    }
    // Doc tests first: the runner's closing lines shall be the last of the tests'.
    if args.runner_args.is_empty() && has_doc_tests(&root()?)? {
        with_programs(cargo()?.args(["test", "--workspace", "--doc"]))?;
    }
    let runner: &[&str] = if find_program("cargo-nextest").is_some() {
        &["nextest", "run", "--workspace"]
    } else {
        &["test", "--workspace"]
    };
    with_programs(cargo()?.args(runner).args(&args.runner_args))
}

/// The package for the test that installs it; none, said aloud, where this machine cannot run that test.
///
/// # Errors
/// The tools are there, and the package cannot be made.
fn package() -> Result<Option<PathBuf>> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("this is not root: the test that installs the package says `skipped`");
        return Ok(None);
    }
    let tools = install::ensure(&[Need::Mmdebstrap, Need::Nspawn]).and_then(|()| dist::cargo_deb());
    match tools {
        Ok(cargo_deb) => dist::pack_built(&cargo_deb).map(Some),
        Err(error) => {
            eprintln!("the test that installs the package says `skipped`: {error:#}");
            Ok(None)
        }
    }
}

/// Whether any documentation holds a code block; `cargo test --doc` over none costs minutes for nothing.
fn has_doc_tests(root: &Path) -> Result<bool> {
    let files = output(
        Command::new("git")
            .current_dir(root)
            .args(["ls-files", "*.rs"]),
    )?;
    for file in files.lines() {
        let path = root.join(file);
        if !path.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {file}"))?;
        if opens_doc_test(&text) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn opens_doc_test(source: &str) -> bool {
    let mut inside = false;
    source.lines().any(|line| {
        let line = line.trim_start();
        let Some(doc) = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"))
        else {
            return false;
        };
        let Some(language) = doc.trim_start().strip_prefix("```") else {
            return false;
        };
        inside = !inside;
        inside && matches!(language.trim(), "" | "rust" | "should_panic" | "no_run")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rust_blocks_are_doc_tests() {
        assert!(opens_doc_test(
            "/// Adds.\n/// ```\n/// assert!(true);\n/// ```\nfn f() {}"
        ));
        assert!(!opens_doc_test(
            "/// A frame:\n/// ```text\n/// a b\n/// ```\nfn f() {}"
        ));
        assert!(!opens_doc_test("let x = \"/// ```\";"));
    }
}
