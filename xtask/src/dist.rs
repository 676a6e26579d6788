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
    /// Only for this target of cross/targets.toml, which must not lack anything then; else every one whose tools are here.
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
}

/// Packs the relative relocations: a seventieth of their bytes, and the loader reads that much less. Needs glibc 2.36; where the
/// linker does not know it for a target, it says so and leaves them as they are.
const LINK: &str = "link-arg=-Wl,-z,pack-relative-relocs";

/// The packer's version, so that a package is made alike everywhere.
const CARGO_DEB: &str = "3.8.0";

#[derive(Debug, Deserialize)]
struct Targets {
    target: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    triple: String,
    deb: String,
    linker: String,
    get_linker: String,
    /// Program and arguments that run its binaries on another machine.
    #[serde(default)]
    runner: Vec<String>,
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
    for target in chosen(&targets.target, args.target.as_deref())? {
        let native = target.triple == host;
        if !native && let Some(missing) = missing_tools(target)? {
            ensure!(
                args.target.is_none(),
                "{}: {missing} (cross/README.md)",
                target.triple
            );
            eprintln!(
                "dist: {} is skipped: {missing} (cross/README.md)",
                target.triple
            );
            continue;
        }
        let profile = if args.quick {
            Profile::Quick
        } else {
            Profile::Shipped
        };
        let output_dir = build(profile, target, native, &budget)?;
        made.push(pack(profile, target, native, &output_dir, &cargo_deb)?);
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

/// The package of the agent that `cargo build --workspace` has left in the dev profile, for the test that installs it.
///
/// # Errors
/// The agent is not built, or cannot be packed.
pub(crate) fn pack_built(cargo_deb: &Path) -> Result<PathBuf> {
    let targets: Targets = read_toml(&root()?.join("cross/targets.toml"))?;
    let host = host_triple()?;
    let target = targets.target.iter().find(|t| t.triple == host);
    let target =
        target.with_context(|| format!("no target of cross/targets.toml is {host}: add it"))?;
    pack(Profile::Quick, target, true, &target_dir()?, cargo_deb)
}

fn chosen<'a>(all: &'a [Target], triple: Option<&str>) -> Result<Vec<&'a Target>> {
    let found: Vec<&Target> = all
        .iter()
        .filter(|t| triple.is_none_or(|wanted| t.triple == wanted))
        .collect();
    let known: Vec<&str> = all.iter().map(|t| t.triple.as_str()).collect();
    ensure!(
        !found.is_empty(),
        "--target {}: cross/targets.toml has {}",
        triple.unwrap_or_default(),
        known.join(", ")
    );
    Ok(found)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Profile {
    Quick,
    Shipped,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Quick => "dev",
            Self::Shipped => "dist",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Quick => "debug",
            Self::Shipped => "dist",
        }
    }
}

/// Builds and measures; where cargo has put it.
fn build(profile: Profile, target: &Target, native: bool, budget: &Budget) -> Result<PathBuf> {
    let mut build = cargo()?;
    match profile {
        // With the features of the whole workspace: what a developer has built already is not built again.
        Profile::Quick => build.args(["build", "--workspace"]),
        Profile::Shipped => build.args(["rustc", "--package=fieldcast-agent"]),
    };
    build.arg("--bin=fieldcast-agent");
    build.args(["--profile", profile.name()]);
    let mut output_dir = target_dir()?;
    if !native {
        build.args(["--target", &target.triple]);
        build.env(linker_variable(&target.triple), &target.linker);
        output_dir.push(&target.triple);
    }
    if profile == Profile::Shipped {
        build.args(["--", "-C", LINK]);
    }
    execute(&mut build)?;
    let agent = output_dir.join(profile.folder()).join("fieldcast-agent");
    if !native {
        start(target, &agent)?;
    }
    let bytes = size(&agent)?;
    let of = format!("dist: fieldcast-agent for {} is {bytes} bytes", target.deb);
    match profile {
        Profile::Quick => eprintln!("{of} in the dev profile, which has no budget"),
        Profile::Shipped => {
            let most = budget
                .get("fieldcast-agent")
                .and_then(|by| by.get(&target.deb))
                .copied();
            eprintln!("{of} stripped, {} are allowed", most.unwrap_or_default());
            within_budget(bytes, most, &target.deb)?;
        }
    }
    Ok(output_dir)
}

/// Whether a foreign binary starts at all, where this machine can run it.
fn start(target: &Target, agent: &Path) -> Result<()> {
    let Some((runner, arguments)) = target.runner.split_first() else {
        return Ok(());
    };
    if find_program(runner).is_none() {
        eprintln!(
            "dist: the agent for {} is not started here: there is no {runner} (cross/README.md)",
            target.deb
        );
        return Ok(());
    }
    let said = output(
        Command::new(runner)
            .args(arguments)
            .arg(agent)
            .arg("--version"),
    )?;
    eprintln!("dist: {} starts under {runner}", said.trim());
    Ok(())
}

/// Packs what is built.
fn pack(
    profile: Profile,
    target: &Target,
    native: bool,
    output_dir: &Path,
    cargo_deb: &Path,
) -> Result<PathBuf> {
    let into = output_dir.join(match profile {
        // Never mistaken for what is shipped.
        Profile::Quick => "debian-quick",
        Profile::Shipped => "debian",
    });
    std::fs::create_dir_all(&into).with_context(|| format!("create {}", into.display()))?;
    let mut deb = Command::new(cargo_deb);
    // A cargo subcommand expects its own name as the first argument.
    deb.current_dir(root()?).args([
        "deb",
        "--package=fieldcast-agent",
        "--no-build",
        "--profile",
        profile.name(),
    ]);
    if !native {
        deb.args(["--target", &target.triple]);
    }
    if profile == Profile::Quick {
        deb.arg("--fast");
    }
    execute(deb.arg("--quiet").arg("--output").arg(&into))?;
    let deb = newest_deb(&into, &target.deb)?;
    eprintln!("dist: {} has {} bytes", deb.display(), size(&deb)?);
    Ok(deb)
}

fn size(file: &Path) -> Result<u64> {
    let metadata =
        std::fs::metadata(file).with_context(|| format!("measure {}", file.display()))?;
    Ok(metadata.len())
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

/// What a cross build lacks, and the command that brings it.
fn missing_tools(target: &Target) -> Result<Option<String>> {
    if find_program(&target.linker).is_none() {
        return Ok(Some(format!(
            "there is no {}; run `{}`",
            target.linker, target.get_linker
        )));
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
    Ok((!has_core).then(|| {
        format!(
            "rustc has no standard library for it; run `rustup target add {}`",
            target.triple
        )
    }))
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
///
/// # Errors
/// It is not there and cannot be built here.
pub(crate) fn cargo_deb() -> Result<PathBuf> {
    // With the system's xz: half a minute instead of several, and packing waits for xz anyway.
    crate::install::cargo_tool("cargo-deb", CARGO_DEB, &["--no-default-features"])
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
    fn one_target_can_be_chosen_and_an_unknown_one_is_told_with_the_known() {
        let cross = root().unwrap().join("cross");
        let targets: Targets = read_toml(&cross.join("targets.toml")).unwrap();
        let all = &targets.target;
        assert_eq!(chosen(all, None).unwrap().len(), all.len());
        let one = chosen(all, Some("aarch64-unknown-linux-gnu")).unwrap();
        assert_eq!((one.len(), one[0].deb.as_str()), (1, "arm64"));
        let error = chosen(all, Some("vax")).unwrap_err().to_string();
        assert!(
            error.contains("vax") && error.contains("aarch64-unknown-linux-gnu"),
            "{error}"
        );
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
