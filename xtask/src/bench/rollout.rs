//! `cargo xtask bench rollout`: owns which figures of rollouts there are and the goals of verdicts, never a test; it runs
//! examples of `models/drift` and the hub, and `fieldcast-rollouts` of the testbed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{cargo, execute, output, target_dir};
use crate::install::{self, Need};

/// Sizes of the made fleets, and the blocks that a better challenger is watched for: about twice what a fixed sample needs for
/// the hardest pair, or more.
const FLEETS: [(&str, u32); 3] = [("_1", 1_080), ("_5", 720), ("_50", 720)];
/// Blocks that an equal and a worse challenger are watched for: half a year of days.
const WATCHED: u32 = 180;

/// Options of `bench rollout`.
#[derive(Debug, clap::Args)]
pub(crate) struct RolloutArgs {
    /// Only these figures: evidence, successors, whole, back, bad, kills, cycles; by default all. May be given again.
    #[arg(long = "figure", value_name = "NAME")]
    figures: Vec<String>,
    /// Devices of `whole`.
    #[arg(long, default_value_t = 10_000)]
    devices: u32,
    /// Measure `whole` over a Mosquitto in place of the hub's own broker.
    #[arg(long)]
    mosquitto: bool,
    /// Rollouts of `kills`.
    #[arg(long, default_value_t = 200)]
    rollouts: u32,
    /// Days between two changes of the world of `cycles`.
    #[arg(long, default_value_t = 120, value_name = "DAYS")]
    change_every: u32,
    /// Most epochs of each training of `cycles`; 0: ridge alone.
    #[arg(long, default_value_t = 20, value_name = "N")]
    epochs: u32,
    /// With the unoptimised build where processes are measured: tells whether a figure works, not how large it is.
    #[arg(long)]
    debug: bool,
    /// Made rollouts of an equal and of a worse challenger, of each kind and fleet.
    #[arg(long, default_value_t = 1_000)]
    runs: u32,
    /// Of a better one.
    #[arg(long, default_value_t = 300)]
    better: u32,
    /// Seed of all runs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Figures that `fieldcast-rollouts` measures.
const PROCESSES: [&str; 5] = ["whole", "back", "bad", "kills", "cycles"];
const EVIDENCE: &str = "evidence";
const SUCCESSORS: &str = "successors";

pub(crate) fn run(args: &RolloutArgs) -> Result<()> {
    for name in &args.figures {
        ensure!(
            [EVIDENCE, SUCCESSORS].contains(&name.as_str()) || PROCESSES.contains(&name.as_str()),
            "there is no figure `{name}`; there are {EVIDENCE}, {SUCCESSORS}, {}",
            PROCESSES.join(", ")
        );
    }
    let asked = |name: &str| args.figures.is_empty() || args.figures.iter().any(|f| f == name);
    if asked(EVIDENCE) {
        verdicts(args)?;
    }
    if asked(SUCCESSORS) {
        successors(args)?;
    }
    let figures: Vec<&str> = PROCESSES.into_iter().filter(|f| asked(f)).collect();
    processes(args, &figures)
}

fn processes(args: &RolloutArgs, figures: &[&str]) -> Result<()> {
    if figures.is_empty() {
        return Ok(());
    }
    install::ensure(&[Need::Postgres])?;
    if args.mosquitto {
        install::ensure(&[Need::Mosquitto])?;
    }
    // With the features of the whole workspace, so that nothing is built twice.
    let mut build = cargo()?;
    build.args(["build", "--workspace", "--bins"]);
    if !args.debug {
        build.arg("--release");
    }
    execute(&mut build)?;
    let programs = target_dir()?.join(if args.debug { "debug" } else { "release" });
    for figure in figures {
        let mut measure = Command::new(programs.join("fieldcast-rollouts"));
        measure.arg(figure).env("FIELDCAST_BIN_DIR", &programs);
        measure.args(["--devices", &args.devices.to_string()]);
        measure.args(["--rollouts", &args.rollouts.to_string()]);
        measure.args(["--seed", &args.seed.to_string()]);
        measure.args(["--change-every", &args.change_every.to_string()]);
        measure.args(["--epochs", &args.epochs.to_string()]);
        if args.mosquitto {
            measure.arg("--mosquitto");
        }
        execute(&mut measure)?;
    }
    Ok(())
}

fn verdicts(args: &RolloutArgs) -> Result<()> {
    ensure!(
        args.runs > 0 && args.better > 0,
        "--runs and --better are at least 1"
    );
    execute(cargo()?.args([
        "build",
        "--release",
        "--package=fieldcast-drift",
        "--example=paired",
    ]))?;
    let release = target_dir()?.join("release");
    head();
    for (fleet, blocks) in FLEETS {
        equal(&cases(&release, args, args.runs, WATCHED, "equal_", fleet)?);
        better(&cases(
            &release,
            args,
            args.better,
            blocks,
            "better_",
            fleet,
        )?);
        worse(&cases(&release, args, args.runs, WATCHED, "worse_", fleet)?);
    }
    Ok(())
}

/// What an example's line says.
struct Case {
    name: String,
    /// Percent called.
    superior: f64,
    harmful: f64,
    /// Median blocks until it was called.
    promoted_at: f64,
    harmful_at: f64,
    /// Blocks that a fixed-sample test needs.
    fixed: f64,
}

fn cases(
    release: &Path,
    args: &RolloutArgs,
    runs: u32,
    blocks: u32,
    begin: &str,
    end: &str,
) -> Result<Vec<Case>> {
    let numbers = [args.seed.to_string(), runs.to_string(), blocks.to_string()];
    let mut command = Command::new(release.join("examples/paired"));
    output(command.args(numbers).args([begin, end]))?
        .lines()
        .map(case)
        .collect()
}

/// Successors of a failing champion (`need = "not_harmful"`), by the hub's judge and by the shadow behind it.
fn successors(args: &RolloutArgs) -> Result<()> {
    // With the features of the whole workspace, so that nothing is built twice.
    execute(cargo()?.args([
        "build",
        "--release",
        "--workspace",
        "--bins",
        "--example=successors",
    ]))?;
    let mut command = Command::new(target_dir()?.join("release/examples/successors"));
    let told = output(command.args([args.seed.to_string(), args.runs.to_string()]))?;
    head();
    for row in told.lines() {
        let (name, [judge, shadow, both, median]) = numbers(row)?;
        let goal = if name.starts_with("worse") {
            "(at most 1; 0.1)"
        } else {
            ""
        };
        for (of, value, unit, goal) in [
            ("judge", judge, "%", ""),
            ("shadow", shadow, "%", ""),
            ("both", both, "%", goal),
            ("median", median, "blocks", ""),
        ] {
            line(&format!("{name}_{of}"), value, unit, None, goal);
        }
    }
    Ok(())
}

/// A row's name and numbers.
fn numbers<const N: usize>(row: &str) -> Result<(&str, [f64; N])> {
    let (name, numbers) = row
        .split_once(' ')
        .with_context(|| format!("read `{row}` as a case: it has no numbers"))?;
    let numbers = numbers
        .split(' ')
        .map(|w| {
            w.parse()
                .with_context(|| format!("read `{w}` of `{row}` as a number"))
        })
        .collect::<Result<Vec<f64>>>()?;
    let numbers = numbers[..]
        .try_into()
        .with_context(|| format!("read `{row}` as a case: it has no {N} numbers"))?;
    Ok((name, numbers))
}

fn case(row: &str) -> Result<Case> {
    let (name, [superior, harmful, promoted_at, harmful_at, fixed, _]) = numbers(row)?;
    Ok(Case {
        name: name.into(),
        superior,
        harmful,
        promoted_at,
        harmful_at,
        fixed,
    })
}

fn head() {
    println!(
        "{:34}{:>10} {:8}{:>10} to what (goal; aim)",
        "figure", "value", "unit", "ratio"
    );
}

/// How many of those that are no better are called so, each way.
fn called(case: &Case, goal: &str) {
    let name = format!("{}_promoted", case.name);
    line(&name, case.superior, "%", None, goal);
    let name = format!("{}_harmful", case.name);
    line(&name, case.harmful, "%", None, "");
}

fn equal(cases: &[Case]) {
    for case in cases {
        called(case, "(at most 5; 2)");
    }
}

fn better(cases: &[Case]) {
    for case in cases {
        line(
            &format!("{}_promoted", case.name),
            case.superior,
            "%",
            None,
            "(at least 95; 99)",
        );
        let of = format!("a fixed sample {:.1} (at most 2; 1.3)", case.fixed);
        let ratio = Some(case.promoted_at / case.fixed);
        line(
            &format!("{}_median", case.name),
            case.promoted_at,
            "blocks",
            ratio,
            &of,
        );
    }
}

fn worse(cases: &[Case]) {
    for case in cases {
        called(case, "(at most 1; 0.1)");
        let name = format!("{}_median", case.name);
        line(&name, case.harmful_at, "blocks", None, "");
    }
}

fn line(name: &str, value: f64, unit: &str, ratio: Option<f64>, of: &str) {
    // More than half of the runs were never called.
    let shown = if value.is_finite() {
        format!("{value:.2}")
    } else {
        "-".into()
    };
    let ratio = ratio
        .filter(|r| r.is_finite())
        .map_or("-".into(), |r| format!("{r:.2}x"));
    println!("{name:34}{shown:>10} {unit:8}{ratio:>10} {of}");
}
