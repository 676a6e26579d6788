//! `cargo xtask bench drift`: owns the figures of drift and their goals, never a statistic; it runs examples of the crate.

mod streams;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::median;
use crate::command::{cargo, execute, output, target_dir};
use crate::conformance::drift as conformance;

/// Rows of the reference, rows of the current table and columns of the timed check.
const SIZE: [&str; 3] = ["500", "30", "5"];
/// How much quicker than Evidently a check has to be: goal and aim.
const QUICKER: &str = "(100; 1000)";
/// Longest update of a detector, nanoseconds.
const UPDATE: f64 = 1_000.0;
/// Largest state of a sensor, bytes.
const STATE: f64 = 8_192.0;

/// Options of `bench drift`.
#[derive(Debug, clap::Args)]
pub(crate) struct DriftArgs {
    /// Simulated windows for each rate.
    #[arg(long, default_value_t = 2_000)]
    windows: usize,
    /// Simulated windows of several columns for each rate; each takes about half a second.
    #[arg(long, default_value_t = 200)]
    together: usize,
    /// Made streams of each kind.
    #[arg(long, default_value_t = 100)]
    streams: usize,
    /// References of each process whose run times are measured.
    #[arg(long, default_value_t = 200)]
    references: usize,
    /// Turns that ours and theirs take, one after the other.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Leave the peers out: nothing is installed.
    #[arg(long)]
    alone: bool,
}

pub(crate) fn run(args: &DriftArgs) -> Result<()> {
    ensure!(
        [
            args.windows,
            args.together,
            args.streams,
            args.references,
            args.rounds
        ]
        .iter()
        .all(|n| *n > 0),
        "--windows, --together, --streams, --references and --rounds are at least 1"
    );
    // With the features of the whole workspace, so that nothing is built twice.
    let examples = [
        "--example=window",
        "--example=cost",
        "--example=multivariate",
        "--example=streams",
        "--example=run",
        "--example=planted",
        "--example=fleet",
        "--bin=fieldcast-hub",
    ];
    execute(
        cargo()?
            .args(["build", "--release", "--workspace"])
            .args(examples),
    )?;
    let release = target_dir()?.join("release");
    println!(
        "{:34}{:>10} {:8}{:>10} to what (goal)",
        "figure", "value", "unit", "ratio"
    );
    rates(&release, args.windows)?;
    together(&release, args.together)?;
    detectors(&release)?;
    streams::streams(&release, args.streams)?;
    streams::run_times(&release, args.references)?;
    streams::planted(&release)?;
    streams::fleet(&release)?;
    if !args.alone {
        check(&release, args.rounds)?;
    }
    Ok(())
}

fn line(name: &str, value: f64, unit: &str, ratio: f64, of: &str) {
    // Nothing over nothing is no ratio, and what was never found has no delay.
    let shown = |number: f64, end: &str| {
        if number.is_finite() {
            format!("{number:.2}{end}")
        } else {
            "-".into()
        }
    };
    println!(
        "{name:34}{:>10} {unit:8}{:>10} {of}",
        shown(value, ""),
        shown(ratio, "x")
    );
}

/// False alarms and power of the default policy, beside plain Kolmogorov-Smirnov at the same rate.
fn rates(release: &Path, windows: usize) -> Result<()> {
    let text = output(Command::new(release.join("examples/window")).arg(windows.to_string()))?;
    for row in text.lines() {
        let mut words = row.split(' ');
        let (Some(name), Some(ours), Some(plain)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (ours, plain): (f64, f64) = (ours.parse()?, plain.parse()?);
        let goal = match name {
            "false_ar_0.9" | "false_sine_ar_0.9" => "(at most 7; 4-6)",
            "power_iid_0.3" | "power_iid_0.5" => "(within 10 points; within 3)",
            _ => "",
        };
        let of = format!("plain KS {plain:.2} % {goal}");
        line(&format!("window_{name}"), ours, "%", ours / plain, &of);
    }
    Ok(())
}

/// False alarms, power and time of the columns together; the ratio is to the columns each by itself.
fn together(release: &Path, windows: usize) -> Result<()> {
    let text =
        output(Command::new(release.join("examples/multivariate")).arg(windows.to_string()))?;
    for row in text.lines() {
        let mut words = row.split(' ');
        let name = words.next().unwrap_or_default();
        let figures = words.map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        let [joint, all, single, _, _, time] = figures.as_slice() else {
            continue;
        };
        let goal = if name.starts_with("false") {
            "(at most 7)"
        } else {
            ""
        };
        let of = |what: &str| format!("{what}, {time:.0} ms each {goal}");
        let alone = format!("columns by themselves {single:.2} %");
        line(
            &format!("together_{name}"),
            *joint,
            "%",
            joint / single,
            &of(&alone),
        );
        line(
            &format!("check_{name}"),
            *all,
            "%",
            all / single,
            &of("the whole check"),
        );
    }
    Ok(())
}

/// Time and state of the streaming detectors.
fn detectors(release: &Path) -> Result<()> {
    for row in output(Command::new(release.join("examples/cost")).arg("detectors"))?.lines() {
        let words: Vec<_> = row.split(' ').collect();
        let [name, nanoseconds, bytes] = words.as_slice() else {
            continue;
        };
        let (time, state): (f64, f64) = (nanoseconds.parse()?, bytes.parse()?);
        line(
            &format!("update_{name}"),
            time,
            "ns",
            time / UPDATE,
            "the limit (1000 ns)",
        );
        line(
            &format!("state_{name}"),
            state,
            "bytes",
            state / STATE,
            "a sensor's limit (8192 bytes)",
        );
    }
    Ok(())
}

/// A check of two tables: the computation alone, then whole processes from files to an answer.
fn check(release: &Path, rounds: usize) -> Result<()> {
    let dir = target_dir()?.join("bench-drift");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    output(
        Command::new(release.join("examples/cost"))
            .arg("write")
            .args(SIZE)
            .arg(&dir),
    )?;
    let files = [dir.join("reference.csv"), dir.join("current.csv")];
    for (version, old) in [("0.4", true), ("0.7", false)] {
        let python = conformance::evidently(old)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let (mut policy, mut own_process, mut peer_process) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let times = numbers(&output(
                Command::new(release.join("examples/cost"))
                    .arg("check")
                    .args(SIZE),
            )?)?;
            ours.push(times.first().copied().context("our time")?);
            policy.push(times.get(1).copied().context("our policy's time")?);
            theirs.push(compute(&python)?);
            let mut own = Command::new(release.join("fieldcast-hub"));
            own.args([
                "--json",
                "drift",
                "check",
                "--preset",
                "evidently",
                "--layout",
                version,
            ]);
            own.arg("--reference")
                .arg(&files[0])
                .arg("--current")
                .arg(&files[1]);
            own_process.push(seconds(&mut own)?);
            let mut peer = peer(&python)?;
            peer_process.push(seconds(peer.arg("process").args(&files))?);
        }
        let [ours, theirs, policy, own, peer] =
            [ours, theirs, policy, own_process, peer_process].map(|mut v| median(&mut v));
        let of = |t: f64| format!("Evidently {version} {:.1} ms {QUICKER}", t * 1e3);
        line(
            &format!("check_compute_{version}"),
            ours * 1e3,
            "ms",
            theirs / ours,
            &of(theirs),
        );
        line(
            &format!("check_default_policy_{version}"),
            policy * 1e3,
            "ms",
            theirs / policy,
            &of(theirs),
        );
        line(
            &format!("check_process_{version}"),
            own * 1e3,
            "ms",
            peer / own,
            &of(peer),
        );
    }
    Ok(())
}

fn peer(python: &PathBuf) -> Result<Command> {
    let mut command = Command::new(python);
    command.arg(conformance::script()?);
    // What else the machine has for Python is none of a measurement's business.
    command.env_remove("PYTHONPATH");
    Ok(command)
}

/// The median of Evidently's runs in one process.
fn compute(python: &PathBuf) -> Result<f64> {
    let mut peer = peer(python)?;
    let text = output(peer.arg("time").args(SIZE).arg("9"))?;
    let mut times: Vec<f64> = serde_json::from_str(&text).context("read Evidently's times")?;
    Ok(median(&mut times))
}

fn numbers(text: &str) -> Result<Vec<f64>> {
    text.split_whitespace()
        .map(|w| w.parse().with_context(|| format!("read `{w}` as a time")))
        .collect()
}

/// Wall time of a process, whose exit code may say drift.
fn seconds(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    let out = command.output().context("start a check")?;
    let took = began.elapsed().as_secs_f64();
    ensure!(
        out.status.code().is_some_and(|code| code < 2),
        "a check ended with {}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(took)
}
