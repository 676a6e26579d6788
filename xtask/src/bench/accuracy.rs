//! `cargo xtask bench accuracy`: owns the figures and their goals, never a model; it runs `fieldcast-hub backtest`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::series::{Table, bootstrap_ratio, ridge_errors, write, z_scored};
use crate::command::{cargo, execute, output, target_dir};

/// ETTh1's 12, 4 and 4 months of 30 days, in hours.
const ETT_PARTS: (usize, usize, usize) = (8_640, 11_520, 14_400);
const ETT_SPLIT: &str = "60/20/20";

/// Options of `bench accuracy`.
#[derive(Debug, clap::Args)]
pub(crate) struct AccuracyArgs {
    /// Folder of the public series; by default what `FIELDCAST_DATA` says.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Only figures whose name begins so.
    #[arg(long, default_value = "")]
    only: String,
    /// A hub that is built already, instead of building one.
    #[arg(long, value_name = "FILE")]
    hub: Option<PathBuf>,
    /// Settings of the training, as `fieldcast-hub backtest --config` takes them.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn run(args: &AccuracyArgs) -> Result<()> {
    let hub = match &args.hub {
        Some(hub) => hub.clone(),
        None => {
            execute(cargo()?.args(["build", "--release", "--package=fieldcast-hub"]))?;
            target_dir()?.join("release/fieldcast-hub")
        }
    };
    let dir = target_dir()?.join("bench-accuracy");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let data = args
        .data
        .clone()
        .or_else(|| std::env::var_os("FIELDCAST_DATA").map(PathBuf::from))
        .context("name the folder of the public series with --data or FIELDCAST_DATA")?;
    let bench = Bench {
        hub,
        dir,
        data,
        args,
    };
    println!(
        "{:38}{:>10} {:8}{:>10} of what (goal; aim)",
        "figure", "value", "unit", "ratio"
    );
    for horizon in [24, 48, 96, 168] {
        bench.ett_univariate(horizon)?;
    }
    bench.ett_multivariate()?;
    bench.bike_sharing()?;
    bench.air_quality()
}

struct Bench<'a> {
    hub: PathBuf,
    dir: PathBuf,
    data: PathBuf,
    args: &'a AccuracyArgs,
}

/// What one backtest said.
struct Outcome {
    report: Value,
    /// Mean square error of every window, in time order (devices one after the other at equal times).
    squares: Vec<f64>,
}

impl Bench<'_> {
    fn wanted(&self, name: &str) -> bool {
        name.starts_with(&self.args.only)
    }

    fn ett(&self) -> Result<Table> {
        let mut table = Table::read(&self.data.join("ETTh1.csv"))?;
        table.truncate(ETT_PARTS.2);
        Ok(table)
    }

    fn ett_univariate(&self, horizon: usize) -> Result<()> {
        let name = format!("etth1_ot_{horizon}");
        if !self.wanted(&name) {
            return Ok(());
        }
        let table = self.ett()?;
        let values = z_scored(&table.numbers("OT")?, ETT_PARTS.0);
        let file = self.dir.join("etth1_ot.csv");
        write(&file, &table.text("date")?, &[("OT", values.clone())])?;
        let spec = json!({"name": name, "target": "OT", "inputs": ["OT"], "period": "1h", "lookback": 336, "horizon": horizon});
        let ours = self.backtest(&name, &[file], &spec, ETT_SPLIT)?;
        let ridge = ridge_errors(&values, (ETT_PARTS.0, ETT_PARTS.1), 336, horizon)?;
        if ridge.len() != ours.squares.len() {
            bail!(
                "{name}: {} windows were judged where there are {}",
                ours.squares.len(),
                ridge.len()
            );
        }
        let (mse, theirs) = (mean(&ours.squares), mean(&ridge));
        let (low, high) = bootstrap_ratio(&ours.squares, &ridge, horizon.max(168));
        line(
            &format!("{name}_mse"),
            mse,
            "z²",
            Some(mse / theirs),
            &format!("closed-form ridge {theirs:.5}, 95 % {low:.3} to {high:.3} (1.02; 0.98)"),
        );
        intervals(&name, &ours.report);
        Ok(())
    }

    fn ett_multivariate(&self) -> Result<()> {
        let name = "etth1_all_96";
        if !self.wanted(name) {
            return Ok(());
        }
        let table = self.ett()?;
        let mut files = Vec::new();
        for column in ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"] {
            let file = self.dir.join(format!("etth1_{column}.csv"));
            write(
                &file,
                &table.text("date")?,
                &[("value", z_scored(&table.numbers(column)?, ETT_PARTS.0))],
            )?;
            files.push(file);
        }
        let spec = json!({"name": name, "target": "value", "inputs": ["value"], "period": "1h", "lookback": 336, "horizon": 96});
        let ours = self.backtest(name, &files, &spec, ETT_SPLIT)?;
        let mse = mean(&ours.squares);
        line(
            &format!("{name}_mse"),
            mse,
            "z²",
            Some(mse / 0.374),
            "NLinear as published, 0.374 (0.374; 0.360)",
        );
        intervals(name, &ours.report);
        Ok(())
    }

    fn bike_sharing(&self) -> Result<()> {
        let name = "bike_sharing";
        if !self.wanted(name) {
            return Ok(());
        }
        let table = Table::read(&self.data.join("bike_sharing_hour.csv"))?;
        let (days, hours) = (table.text("dteday")?, table.text("hr")?);
        let times: Vec<String> = days
            .iter()
            .zip(&hours)
            .map(|(d, h)| format!("{d} {h:0>2}:00"))
            .collect();
        let inputs = [
            "cnt",
            "casual",
            "temp",
            "atemp",
            "hum",
            "windspeed",
            "weathersit",
        ];
        let columns: Vec<(&str, Vec<f64>)> = inputs
            .iter()
            .map(|n| Ok((*n, table.numbers(n)?)))
            .collect::<Result<_>>()?;
        let file = self.dir.join("bike_sharing.csv");
        write(
            &file,
            &times.iter().map(String::as_str).collect::<Vec<_>>(),
            &columns,
        )?;
        let mut holidays: Vec<&str> = days
            .iter()
            .zip(table.numbers("holiday")?)
            .filter(|(_, h)| *h > 0.0)
            .map(|(d, _)| *d)
            .collect();
        holidays.dedup();
        let spec = json!({"name": name, "target": "cnt", "inputs": inputs, "period": "1h", "lookback": 168, "horizon": 24, "holidays": holidays});
        let ours = self.backtest(name, &[file], &spec, "80/10/10")?;
        let chosen = chosen(&ours.report)?;
        for (step, ridge, goals) in [(0, 32.3, "(30; 27)"), (23, 55.9, "(54; 52)")] {
            let mae = number(&chosen["per_horizon"][step]["mae"])?;
            line(
                &format!("{name}_hour_{}_mae", step + 1),
                mae,
                "rentals",
                Some(mae / ridge),
                &format!("ridge with lags and calendar, {ridge} {goals}"),
            );
        }
        intervals(name, &ours.report);
        Ok(())
    }

    fn air_quality(&self) -> Result<()> {
        let name = "air_quality";
        if !self.wanted(name) {
            return Ok(());
        }
        let table = Table::read(&self.data.join("uci_air_quality.csv"))?;
        let sensors: Vec<(String, &str)> = table
            .names
            .iter()
            .filter(|n| *n != "timestamp")
            .map(|n| (n.to_lowercase().replace(['(', ')', '.'], "_"), n.as_str()))
            .collect();
        let mut columns = Vec::new();
        for (sensor, column) in &sensors {
            let values = table.numbers(column)?;
            columns.push((
                sensor.as_str(),
                values
                    .iter()
                    .map(|v| if *v == -200.0 { f64::NAN } else { *v })
                    .collect(),
            ));
        }
        let file = self.dir.join("air_quality.csv");
        write(&file, &table.text("timestamp")?, &columns)?;
        let inputs: Vec<&String> = sensors.iter().map(|(s, _)| s).collect();
        let spec = json!({"name": name, "target": "c6h6_gt_", "inputs": inputs, "period": "1h", "lookback": 168, "horizon": 24,
            "timezone": "Europe/Rome"});
        let ours = self.backtest(name, &[file], &spec, "80/10/10")?;
        let mae = number(&chosen(&ours.report)?["mae"])?;
        let ridge = number(&model(&ours.report, "ridge")?["mae"])?;
        line(
            &format!("{name}_mae"),
            mae,
            "ug/m3",
            Some(mae / ridge),
            &format!("ridge on the same inputs, {ridge:.3} (1.0; 0.93)"),
        );
        intervals(name, &ours.report);
        Ok(())
    }

    fn backtest(
        &self,
        name: &str,
        files: &[PathBuf],
        spec: &Value,
        split: &str,
    ) -> Result<Outcome> {
        let (definition, forecasts) = (
            self.dir.join(format!("{name}.json")),
            self.dir.join(format!("{name}_forecasts.csv")),
        );
        std::fs::write(&definition, spec.to_string())
            .with_context(|| format!("write {}", definition.display()))?;
        let mut command = Command::new(&self.hub);
        command
            .args(["--json", "backtest", "--split", split, "--forecaster"])
            .arg(&definition);
        command
            .arg("--forecasts")
            .arg(&forecasts)
            .arg("--report")
            .arg(self.dir.join(format!("{name}_report.json")));
        command
            .arg("--plot")
            .arg(self.dir.join(format!("{name}.svg")));
        files.iter().for_each(|f| {
            command.arg("--csv").arg(f);
        });
        if let Some(config) = &self.args.config {
            command.arg("--config").arg(config);
        }
        let began = std::time::Instant::now();
        let report: Value =
            serde_json::from_str(&output(&mut command)?).context("read the report")?;
        eprintln!(
            "# {name}: {} chosen, {:.0} s; {}",
            report["chosen"],
            began.elapsed().as_secs_f64(),
            selection(&report)
        );
        Ok(Outcome {
            report,
            squares: squares(&forecasts)?,
        })
    }
}

/// The selection part's table in one line.
fn selection(report: &Value) -> String {
    let lines = report["selection"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let each = lines.iter().map(|l| {
        format!(
            "{} {:.4}",
            l["model"].as_str().unwrap_or("?"),
            l["mase"].as_f64().unwrap_or(f64::NAN)
        )
    });
    format!(
        "MASE on the selection part: {}",
        each.collect::<Vec<_>>().join(", ")
    )
}

/// Mean square error of each forecast of the file, missing actual values left out.
fn squares(forecasts: &Path) -> Result<Vec<f64>> {
    let table = Table::read(forecasts)?;
    let (origins, devices) = (table.text("origin_ms")?, table.text("device")?);
    let (actual, mean) = (table.text("actual")?, table.numbers("mean")?);
    let mut list: Vec<(f64, f64)> = Vec::new();
    for i in 0..mean.len() {
        if i == 0 || (origins[i], devices[i]) != (origins[i - 1], devices[i - 1]) {
            list.push((0.0, 0.0));
        }
        if let (Ok(actual), Some(last)) = (actual[i].parse::<f64>(), list.last_mut()) {
            *last = (last.0 + (actual - mean[i]).powi(2), last.1 + 1.0);
        }
    }
    Ok(list
        .into_iter()
        .filter(|(_, n)| *n > 0.0)
        .map(|(s, n)| s / n)
        .collect())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().context("the report lacks a number")
}

fn model<'v>(report: &'v Value, name: &str) -> Result<&'v Value> {
    let models = report["models"]
        .as_array()
        .context("the report has no models")?;
    let found = models.iter().find(|m| m["model"] == name);
    Ok(&found.with_context(|| format!("the report has no model `{name}`"))?["scores"])
}

fn chosen(report: &Value) -> Result<&Value> {
    model(report, report["chosen"].as_str().unwrap_or_default())
}

/// The 80 % interval's figures.
fn intervals(name: &str, report: &Value) {
    let of = |scores: &Value| {
        let list = scores["intervals"].as_array().cloned().unwrap_or_default();
        let width =
            |i: &Value| i["upper"].as_f64().unwrap_or(0.0) - i["lower"].as_f64().unwrap_or(0.0);
        list.into_iter()
            .find(|i| (width(i) - 0.8).abs() < 1e-6)
            .unwrap_or_default()
    };
    let fixed = of(chosen(report).unwrap_or(&Value::Null));
    let (ours, plain) = (of(&report["adaptive"]), of(&report["plain"]));
    let get = |v: &Value, key: &str| v[key].as_f64().unwrap_or(f64::NAN);
    // As calibrated, and as it is once each step has learnt from the actual values that have come.
    for (what, interval, goal) in [
        ("as_calibrated", &fixed, ""),
        ("adaptive", &ours, "(76-84; 78-82)"),
    ] {
        let coverage = 100.0 * get(interval, "coverage");
        line(
            &format!("{name}_coverage_80_{what}"),
            coverage,
            "%",
            None,
            goal,
        );
    }
    let (score, theirs) = (get(&ours, "score"), get(&plain, "score"));
    line(
        &format!("{name}_interval_score"),
        score,
        "",
        Some(score / theirs),
        &format!("plain split-conformal {theirs:.4} (1.05; 1.0)"),
    );
    let worst = 100.0 * get(&ours, "worst_coverage");
    line(
        &format!("{name}_worst_30_days"),
        worst,
        "%",
        None,
        "(65; 70)",
    );
}

fn line(name: &str, value: f64, unit: &str, ratio: Option<f64>, what: &str) {
    let ratio = ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.3}"));
    println!("{name:38}{value:>10.4} {unit:8}{ratio:>10} {what}");
}
