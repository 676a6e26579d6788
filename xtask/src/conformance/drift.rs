//! `cargo xtask conformance drift`: owns the peers' versions, the stored golden values and what is compared, never a statistic.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::bench::peers;
use crate::command::{cargo, execute, output, root, target_dir};

const EVIDENTLY_07: (&str, &[&str]) = (
    "evidently-07",
    &[
        "evidently==0.7.21",
        "scipy==1.17.1",
        "numpy==2.4.6",
        "pandas==2.3.3",
    ],
);
const EVIDENTLY_04: (&str, &[&str]) = (
    "evidently-04",
    &[
        "evidently==0.4.40",
        "scipy==1.17.1",
        "numpy==2.0.2",
        "pandas==2.3.3",
        "plotly==5.24.1",
    ],
);
const RIVER: (&str, &[&str]) = (
    "river",
    &[
        "river==0.23.0",
        "scipy==1.17.1",
        "numpy==2.4.6",
        "pandas==2.3.3",
        "typing_extensions==4.16.0",
    ],
);
/// The golden file may be this large.
const LARGEST: usize = 400_000;
/// Where random cases begin: the stored ones are below.
const RANDOM: usize = 10_000;
/// Relative difference from which a regenerated number counts as changed.
const SAME: f64 = 1e-12;

/// Options of `conformance drift`.
#[derive(Debug, clap::Args)]
pub(crate) struct DriftArgs {
    /// Write the golden file anew, to be read in the change's diff.
    #[arg(long)]
    bless: bool,
    /// Random cases: pairs of samples and tables together.
    #[arg(long, default_value_t = 500)]
    cases: usize,
}

/// The Python of one version of Evidently, made where it is not there yet.
pub(crate) fn evidently(version_04: bool) -> Result<PathBuf> {
    let (name, packages) = if version_04 {
        EVIDENTLY_04
    } else {
        EVIDENTLY_07
    };
    peers::python(name, packages)
}

/// The script that asks the peers.
pub(crate) fn script() -> Result<PathBuf> {
    Ok(root()?.join("models/drift/tests/peers/peers.py"))
}

pub(crate) fn run(args: &DriftArgs) -> Result<()> {
    let golden = root()?.join("models/drift/tests/golden/peers.json");
    let made = ask(0, [80, 12, 3, 21])?;
    if args.bless {
        let text = write(&made)?;
        ensure!(
            text.len() <= LARGEST,
            "the golden file would hold {} bytes, {LARGEST} are allowed: ask for fewer cases",
            text.len()
        );
        std::fs::write(&golden, text).with_context(|| format!("write {}", golden.display()))?;
        println!("written: {}", golden.display());
    } else {
        let text = std::fs::read_to_string(&golden)
            .with_context(|| format!("read {}", golden.display()))?;
        let stored = serde_json::from_str(&text)
            .with_context(|| format!("read {} as JSON", golden.display()))?;
        let mut differ = Vec::new();
        differences(&stored, &made, "", &mut differ);
        for line in differ.iter().take(20) {
            println!("differs: {line}");
        }
        if !differ.is_empty() {
            bail!(
                "{} stored values differ from the peers' today; run with --bless and read the diff",
                differ.len()
            );
        }
        println!("golden values: all as the peers compute them today");
    }
    let tables = args.cases / 10;
    let random = ask(RANDOM, [args.cases - 2 * tables, tables, 0, tables])?;
    let dir = target_dir()?.join("conformance");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let file = dir.join("drift.json");
    std::fs::write(&file, random.to_string())
        .with_context(|| format!("write {}", file.display()))?;
    println!("random cases: {} in all", args.cases);
    compare(&file)
}

/// Runs the crate's own comparison on a file of cases.
fn compare(file: &Path) -> Result<()> {
    let mut test = cargo()?;
    test.args([
        "test",
        "--quiet",
        "--package=fieldcast-drift",
        "--test=peers",
    ]);
    execute(
        test.args(["--", "--nocapture", "--test-threads=1"])
            .env("FIELDCAST_PEERS", file),
    )
    .context("compare with the peers; what differs is named above, mend models/drift")
}

/// What the peers say of (pairs of samples, tables, whole reports among them, streams) from a seed on.
fn ask(first: usize, [pairs, tables, whole, streams]: [usize; 4]) -> Result<Value> {
    let script = script()?;
    let say = |python: &Path, what: &str, numbers: &[usize]| -> Result<Value> {
        let mut command = Command::new(python);
        command.arg(&script).arg(what);
        command.args(numbers.iter().map(usize::to_string));
        // What else the machine has for Python is none of a comparison's business.
        command
            .env_remove("PYTHONPATH")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        serde_json::from_str(&output(&mut command)?)
            .with_context(|| format!("read what {} says", python.display()))
    };
    let new = evidently(false)?;
    let old = evidently(true)?;
    let river = peers::python(RIVER.0, RIVER.1)?;
    let mut all = Map::new();
    all.insert(
        "two_sample".into(),
        say(&new, "two_sample", &[first, pairs])?,
    );
    let asked = [first, tables, whole];
    all.insert("evidently_07".into(), say(&new, "evidently", &asked)?);
    all.insert("evidently_04".into(), say(&old, "evidently", &asked)?);
    all.insert("river".into(), say(&river, "river", &[first, streams])?);
    Ok(Value::Object(all))
}

/// One case a line, so that a diff shows which.
fn write(made: &Value) -> Result<String> {
    let parts = made.as_object().context("the peers' answers are one map")?;
    let part = |(key, cases): (&String, &Value)| {
        let lines = cases.as_array().map(Vec::as_slice).unwrap_or_default();
        let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
        format!("\"{key}\": [\n{}\n]", lines.join(",\n"))
    };
    let parts: Vec<_> = parts.iter().map(part).collect();
    Ok(format!("{{\n{}\n}}\n", parts.join(",\n")))
}

fn differences(stored: &Value, made: &Value, at: &str, into: &mut Vec<String>) {
    match (stored, made) {
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            for (key, a) in a {
                let b = b.get(key).unwrap_or(&Value::Null);
                differences(a, b, &format!("{at}/{key}"), into);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differences(a, b, &format!("{at}/{i}"), into);
            }
        }
        (Value::Number(a), Value::Number(b)) => {
            let (x, y) = (a.as_f64().unwrap_or(0.0), b.as_f64().unwrap_or(0.0));
            // The last bits of a library depend on the machine's vectors.
            if (x - y).abs() > SAME * x.abs() + 1e-14 {
                into.push(format!("{at}: stored {a}, now {b}"));
            }
        }
        (a, b) if a != b => into.push(format!("{at}: stored {a}, now {b}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_by_its_place() {
        let a = serde_json::json!({"x": [{"p": 0.5, "at": [1, 2]}]});
        let mut found = Vec::new();
        differences(&a, &a, "", &mut found);
        assert!(found.is_empty());
        let b = serde_json::json!({"x": [{"p": 0.500_001, "at": [1]}]});
        differences(&a, &b, "", &mut found);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|f| f.starts_with("/x/0/p")), "{found:?}");
    }
}
