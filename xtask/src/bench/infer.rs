//! `cargo xtask bench infer`: owns the figures of one forecast and their goals, never a model; it runs an example of the runtime.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::peers;
use crate::command::{cargo, execute, output, root, target_dir};

const PACKAGES: &[&str] = &["onnxruntime==1.32.0", "numpy==2.4.6"];
/// Our forecasts may be this far from onnxruntime's, in units of |value| + training deviation.
const EQUAL: f64 = 1e-5;

/// Options of `bench infer`.
#[derive(Debug, clap::Args)]
pub(crate) struct InferArgs {
    /// Turns that ours and theirs take, one after the other.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Forecasts in a turn.
    #[arg(long, default_value_t = 2_000)]
    calls: usize,
}

/// A model of the figures: name, goal and aim of its latency's ratio.
const MODELS: &[(&str, f64, f64)] = &[("classic_30x2", 1.3, 1.7), ("lstm_168x8", 1.05, 1.4)];
/// Goal and aim of the memory's ratio.
const MEMORY: (f64, f64) = (3.0, 10.0);

pub(crate) fn run(args: &InferArgs) -> Result<()> {
    ensure!(
        args.rounds > 0 && args.calls > 0,
        "--rounds and --calls are at least 1"
    );
    let python = peers::python("onnxruntime", PACKAGES)?;
    // With the features of the whole workspace, so that nothing is built twice.
    execute(cargo()?.args(["build", "--release", "--workspace", "--example=infer"]))?;
    let target = target_dir()?;
    let dir = target.join("bench-infer");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let bench = Bench {
        python,
        script: root()?.join("xtask/src/bench/infer.py"),
        ours: target.join("release/examples/infer"),
        dir,
    };
    output(Command::new(&bench.ours).arg("write").arg(&bench.dir))?;
    println!(
        "{:34}{:>10} {:8}{:>10} of what (goal; aim)",
        "figure", "value", "unit", "ratio"
    );
    for (name, goal, aim) in MODELS {
        bench.equal(name)?;
        bench.latency(name, args, (*goal, *aim))?;
    }
    for (name, ..) in MODELS {
        bench.memory(name)?;
    }
    Ok(())
}

struct Bench {
    python: PathBuf,
    script: PathBuf,
    ours: PathBuf,
    dir: PathBuf,
}

/// The least and the median of a round, nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Times {
    least: f64,
    median: f64,
}

impl Bench {
    /// What is faster because it computes something else is not measured.
    fn equal(&self, name: &str) -> Result<()> {
        let worst = number(&self.theirs("check", name, None)?, "worst")?;
        ensure!(
            worst <= EQUAL,
            "{name}: our forecasts are {worst:e} from onnxruntime's, {EQUAL:e} is allowed: mend that before measuring"
        );
        Ok(())
    }

    fn latency(&self, name: &str, args: &InferArgs, goal: (f64, f64)) -> Result<()> {
        let calls = args.calls.to_string();
        let (mut fused, mut tract, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..args.rounds {
            fused.push(times(&self.own("time", name, "fused", Some(&calls))?, "")?);
            let round = self.theirs("time", name, Some(&calls))?;
            let (whole, call) = (times(&round, "")?, times(&round, "call_")?);
            theirs.push(Times {
                least: whole.least - call.least,
                median: whole.median - call.median,
            });
            tract.push(times(&self.own("time", name, "tract", Some(&calls))?, "")?);
        }
        let (fused, tract, theirs) = (summary(&fused), summary(&tract), summary(&theirs));
        for (what, of) in [
            ("min", (|t| t.least) as fn(&Times) -> f64),
            ("p50", |t| t.median),
        ] {
            let (ours, peer) = (of(&fused), of(&theirs));
            line(
                &format!("latency_{name}_{what}"),
                ours / 1e3,
                "us",
                peer / ours,
                &format!("onnxruntime {:.2} us ({}; {})", peer / 1e3, goal.0, goal.1),
            );
        }
        let ratio = tract.least / fused.least;
        let of = format!("tract {:.2} us (none)", tract.least / 1e3);
        line(
            &format!("latency_{name}_tract"),
            fused.least / 1e3,
            "us",
            ratio,
            &of,
        );
        Ok(())
    }

    fn memory(&self, name: &str) -> Result<()> {
        let added = |facts: &Value| Ok::<_, anyhow::Error>(number(facts, "added")? / 1e6);
        let ours = added(&self.own("memory", name, "fused", None)?)?;
        let peer = added(&self.theirs("memory", name, None)?)?;
        let of = format!("onnxruntime {peer:.2} MB ({}; {})", MEMORY.0, MEMORY.1);
        line(&format!("memory_{name}"), ours, "MB", peer / ours, &of);
        let tract = added(&self.own("memory", name, "tract", None)?)?;
        let of = format!("tract {tract:.2} MB (none)");
        line(
            &format!("memory_{name}_tract"),
            ours,
            "MB",
            tract / ours,
            &of,
        );
        Ok(())
    }

    fn own(&self, what: &str, name: &str, engine: &str, calls: Option<&str>) -> Result<Value> {
        let mut command = Command::new(&self.ours);
        command.arg(what).arg(&self.dir).args([name, engine]);
        answer(command.args(calls))
    }

    fn theirs(&self, what: &str, name: &str, calls: Option<&str>) -> Result<Value> {
        let mut command = Command::new(&self.python);
        command.arg(&self.script).arg(what).arg(&self.dir).arg(name);
        // What else the machine has for Python is none of a measurement's business.
        answer(command.args(calls).env_remove("PYTHONPATH"))
    }
}

fn answer(command: &mut Command) -> Result<Value> {
    let text = output(command)?;
    serde_json::from_str(&text).with_context(|| format!("read `{}`", text.trim()))
}

fn number(facts: &Value, name: &str) -> Result<f64> {
    let value = facts[name].as_f64();
    value.with_context(|| format!("`{name}` is missing in {facts}"))
}

fn times(facts: &Value, of: &str) -> Result<Times> {
    Ok(Times {
        least: number(facts, &format!("{of}min_ns"))?,
        median: number(facts, &format!("{of}median_ns"))?,
    })
}

/// The least of the least, and the median of the medians.
fn summary(rounds: &[Times]) -> Times {
    let mut medians: Vec<f64> = rounds.iter().map(|t| t.median).collect();
    medians.sort_by(f64::total_cmp);
    Times {
        least: rounds.iter().map(|t| t.least).fold(f64::INFINITY, f64::min),
        median: medians.get(medians.len() / 2).copied().unwrap_or(f64::NAN),
    }
}

fn line(figure: &str, value: f64, unit: &str, ratio: f64, of: &str) {
    println!("{figure:34}{value:>10.2} {unit:8}{ratio:>9.2}x {of}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_give_their_least_and_their_middle() {
        let rounds =
            [(3.0, 9.0), (1.0, 5.0), (2.0, 7.0)].map(|(least, median)| Times { least, median });
        let all = summary(&rounds);
        assert!((all.least - 1.0).abs() < 1e-12 && (all.median - 7.0).abs() < 1e-12);
    }
}
