//! `cargo xtask dist`: owns building the agent as shipped, its size budget and its package; the package's files lie in cross/.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use crate::command::{cargo, execute, find_program, output, root, target_dir};

/// What to ship.
#[derive(Debug, Args)]
pub(crate) struct DistArgs {
    /// Pack the agent of the dev profile: tries the packaging in seconds, says nothing about size.
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Deserialize)]
struct Targets {
    target: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    triple: String,
    deb: String,
    linker: String,
}

/// Program -> Debian architecture -> most bytes.
type Budget = BTreeMap<String, BTreeMap<String, u64>>;

/// Builds, measures and packs the agent for every target whose tools are there.
pub(crate) fn run(args: &DistArgs) -> Result<()> {
    let cross = root()?.join("cross");
    let targets: Targets = read_toml(&cross.join("targets.toml"))?;
    let budget: Budget = read_toml(&cross.join("budget.toml"))?;
    let host = host_triple()?;
    let cargo_deb = cargo_deb()?;
    let mut made = Vec::new();
    for target in &targets.target {
        let native = target.triple == host;
        if !native && let Some(missing) = missing_tools(target)? {
            eprintln!(
                "dist: {} is skipped: {missing}; cross/README.md says how to get it",
                target.triple
            );
            continue;
        }
        made.push(one(args, target, native, &budget, &cargo_deb)?);
    }
    ensure!(
        !made.is_empty(),
        "no target of cross/targets.toml is {host}: add it, or install a cross toolchain (cross/README.md)"
    );
    for file in made {
        println!("{}", file.display());
    }
    Ok(())
}

fn one(
    args: &DistArgs,
    target: &Target,
    native: bool,
    budget: &Budget,
    cargo_deb: &Path,
) -> Result<PathBuf> {
    let (profile, folder) = if args.quick {
        ("dev", "debug")
    } else {
        ("dist", "dist")
    };
    let mut build = cargo()?;
    build.args(["build", "--package=fieldcast-agent", "--profile", profile]);
    let mut output_dir = target_dir()?;
    if !native {
        build.args(["--target", &target.triple]);
        build.env(linker_variable(&target.triple), &target.linker);
        output_dir.push(&target.triple);
    }
    execute(&mut build)?;
    let binary = output_dir.join(folder).join("fieldcast-agent");
    let bytes = std::fs::metadata(&binary)
        .with_context(|| format!("measure {}", binary.display()))?
        .len();
    eprintln!(
        "dist: fieldcast-agent for {} is {bytes} bytes (profile {profile})",
        target.deb
    );
    if !args.quick {
        let most = budget
            .get("fieldcast-agent")
            .and_then(|by| by.get(&target.deb))
            .copied();
        within_budget(bytes, most, &target.deb)?;
    }
    let mut deb = Command::new(cargo_deb);
    // A cargo subcommand expects its own name as the first argument.
    deb.current_dir(root()?).args([
        "deb",
        "--package=fieldcast-agent",
        "--no-build",
        "--profile",
        profile,
    ]);
    if !native {
        deb.args(["--target", &target.triple]);
    }
    if args.quick {
        deb.arg("--fast");
    }
    deb.arg("--output")
        .arg(output_dir.join("debian"))
        .arg("--quiet");
    std::fs::create_dir_all(output_dir.join("debian"))?;
    execute(&mut deb)?;
    newest_deb(&output_dir.join("debian"), &target.deb)
}

fn within_budget(bytes: u64, most: Option<u64>, arch: &str) -> Result<()> {
    let most = most.with_context(|| {
        format!("cross/budget.toml has no line `{arch}` under [fieldcast-agent]: add one")
    })?;
    if bytes > most {
        bail!(
            "the agent for {arch} is {bytes} bytes, {most} are allowed: find the crate that grew \
             (cross/agent-allowed.txt in the change's diff), or raise cross/budget.toml with a decision in docs/decisions"
        );
    }
    Ok(())
}

/// What a cross build lacks, in words.
fn missing_tools(target: &Target) -> Result<Option<String>> {
    if find_program(&target.linker).is_none() {
        return Ok(Some(format!("there is no {}", target.linker)));
    }
    let library = output(Command::new("rustc").args([
        "--print",
        "target-libdir",
        "--target",
        &target.triple,
    ]))?;
    let has_core = std::fs::read_dir(library.trim()).is_ok_and(|mut files| {
        files
            .any(|file| file.is_ok_and(|f| f.file_name().to_string_lossy().starts_with("libcore-")))
    });
    Ok((!has_core).then(|| format!("rustc has no standard library for {}", target.triple)))
}

fn linker_variable(triple: &str) -> String {
    format!(
        "CARGO_TARGET_{}_LINKER",
        triple.to_uppercase().replace('-', "_")
    )
}

fn host_triple() -> Result<String> {
    let text = output(Command::new("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .context("`rustc -vV` names its host")
}

/// The installed cargo-deb, or one built under the target directory.
fn cargo_deb() -> Result<PathBuf> {
    if let Some(installed) = find_program("cargo-deb") {
        return Ok(installed);
    }
    let tools = target_dir()?.join("tools");
    let own = tools.join("bin/cargo-deb");
    if !own.is_file() {
        eprintln!(
            "dist: cargo-deb is not installed: building it once, under {}",
            tools.display()
        );
        execute(
            cargo()?
                .args(["install", "cargo-deb", "--locked", "--root"])
                .arg(&tools),
        )?;
    }
    Ok(own)
}

fn newest_deb(dir: &Path, arch: &str) -> Result<PathBuf> {
    let ending = format!("_{arch}.deb");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(&ending) {
            found.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    found.sort();
    found
        .pop()
        .map(|(_, path)| path)
        .with_context(|| format!("cargo-deb left no *{ending} in {}", dir.display()))
}

fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn targets_and_budget_are_readable_and_belong_together() {
        let cross = root().unwrap().join("cross");
        let targets: Targets = read_toml(&cross.join("targets.toml")).unwrap();
        let budget: Budget = read_toml(&cross.join("budget.toml")).unwrap();
        for target in targets.target {
            assert!(
                budget["fieldcast-agent"].contains_key(&target.deb),
                "{} has no budget",
                target.deb
            );
        }
    }

    #[test]
    fn a_binary_over_its_budget_is_refused_with_what_to_do() {
        within_budget(10, Some(10), "amd64").unwrap();
        let error = within_budget(11, Some(10), "amd64")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("11 bytes") && error.contains("budget.toml"),
            "{error}"
        );
        assert!(
            within_budget(1, None, "armhf")
                .unwrap_err()
                .to_string()
                .contains("armhf")
        );
    }

    #[test]
    fn the_linker_is_named_as_cargo_reads_it() {
        assert_eq!(
            linker_variable("aarch64-unknown-linux-gnu"),
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER"
        );
    }
}
