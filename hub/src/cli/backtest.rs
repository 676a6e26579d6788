//! `fieldcast-hub backtest`: owns its options, files and table, never a split, a model or a measure.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fieldcast_features::ForecasterSpec;
use fieldcast_train::backtest::{self, BacktestConfig, Report};
use fieldcast_train::evaluate::{Case, Scores, pairs};
use fieldcast_train::plot::{self, Shown};
use fieldcast_train::{Prediction, Progress, TrainingData};
use indicatif::{ProgressBar, ProgressStyle};

use super::Context;
use super::tables::Tables;

/// Panels of the plot.
const PANELS: usize = 4;
/// Steps of history in the plot, at most, for each step of the horizon.
const HISTORY: usize = 4;

/// Options of `backtest`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    tables: Tables,
    /// Percent of the time to learn from, to choose and calibrate on, and to judge on.
    #[arg(long, default_value = "80/10/10", value_parser = split)]
    split: (f64, f64),
    /// Judge every so many origins.
    #[arg(long, default_value_t = 1)]
    stride: usize,
    /// Write the report here, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write a picture of some forecasts here, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Write the chosen model's graph here, as ONNX; a hub signs one of its own making only.
    #[arg(long, value_name = "FILE")]
    onnx: Option<PathBuf>,
    /// Write every judged forecast here, as CSV.
    #[arg(long, value_name = "FILE")]
    forecasts: Option<PathBuf>,
}

/// `80/10/10` as the shares of the first two parts.
fn split(text: &str) -> Result<(f64, f64), String> {
    let parts: Result<Vec<f64>, _> = text.split('/').map(|p| p.trim().parse()).collect();
    let parts = parts.unwrap_or_default();
    match parts.as_slice() {
        [a, b, c] if (a + b + c - 100.0).abs() < 0.01 && parts.iter().all(|p| *p > 0.0) => {
            Ok((a / 100.0, b / 100.0))
        }
        _ => Err("give three numbers above 0 that sum to 100, such as 80/10/10".into()),
    }
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be read, data that nothing can be learnt from, or an output that cannot be written.
pub fn run(ctx: &Context, args: &Args) -> Result<()> {
    let (spec, train, data) = args.tables.read()?;
    let config = BacktestConfig {
        train_share: args.split.0,
        select_share: args.split.1,
        stride: args.stride,
        train,
    };
    let mut forecasts = match &args.forecasts {
        Some(path) => Some(Dump::create(path)?),
        None => None,
    };
    let mut cases: Vec<(Case, Prediction)> = Vec::new();
    let mut failed = None;
    let bar = progress_bar(ctx)?;
    let report = backtest::run(
        &spec,
        &data,
        &config,
        &mut |p| {
            bar.set_message(say(&p));
            bar.tick();
            ControlFlow::Continue(())
        },
        &mut |case, forecast| {
            if args.plot.is_some() {
                cases.push((case.clone(), forecast.clone()));
            }
            if let Some(dump) = &mut forecasts {
                let device = &data.series[case.series].device;
                failed = failed
                    .take()
                    .or(dump.add(device, &spec, case, forecast).err());
            }
        },
    );
    bar.finish_and_clear();
    let (report, params) = report?;
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(dump) = forecasts {
        dump.finish()?;
    }
    if let Some(path) = &args.plot {
        let shown = shown(&spec, &data, &report, &cases);
        write_file(
            path,
            &plot::svg(&format!("{}: {}", spec.name, report.chosen), &shown),
        )?;
    }
    if let Some(path) = &args.onnx {
        let metadata = [
            ("forecaster".to_owned(), spec.name.clone()),
            ("chosen".to_owned(), report.chosen.clone()),
        ];
        let graph = fieldcast_onnx::build(&params, &metadata)?;
        std::fs::write(path, graph).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &args.report {
        write_file(path, &serde_json::to_string_pretty(&report)?)?;
    }
    ctx.print(&report, || table(&report))
}

pub(super) fn progress_bar(ctx: &Context) -> Result<ProgressBar> {
    if ctx.json {
        return Ok(ProgressBar::hidden());
    }
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}, {elapsed}")?);
    Ok(bar)
}

pub(super) fn say(p: &Progress) -> String {
    let loss = p
        .loss
        .map_or_else(String::new, |l| format!(", loss {l:.4}"));
    let left = p
        .remaining
        .map_or_else(String::new, |r| format!(", {} s left", r.as_secs()));
    match p.epochs {
        0 => format!("{:?}", p.stage),
        epochs => format!("{:?}: epoch {} of {epochs}{loss}{left}", p.stage, p.epoch),
    }
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// The CSV of all judged forecasts.
struct Dump {
    path: PathBuf,
    writer: csv::Writer<std::fs::File>,
    headed: bool,
}

impl Dump {
    fn create(path: &Path) -> Result<Self> {
        let writer =
            csv::Writer::from_path(path).with_context(|| format!("write {}", path.display()))?;
        Ok(Self {
            path: path.to_path_buf(),
            writer,
            headed: false,
        })
    }

    fn add(
        &mut self,
        device: &str,
        spec: &ForecasterSpec,
        case: &Case,
        forecast: &Prediction,
    ) -> Result<()> {
        let q = forecast.quantiles.len() / case.actual.len().max(1);
        if !self.headed {
            self.headed = true;
            let levels = (0..q).map(|i| format!("quantile_{i}"));
            let names =
                ["device", "origin_ms", "step", "time_ms", "actual", "mean"].map(String::from);
            self.writer.write_record(names.into_iter().chain(levels))?;
        }
        for (step, (actual, mean)) in case.actual.iter().zip(&forecast.mean).enumerate() {
            let time = case.window.horizon_time(step, spec.period_ms());
            let actual = if actual.is_nan() {
                String::new()
            } else {
                actual.to_string()
            };
            let known = [
                device.to_owned(),
                case.window.origin.to_string(),
                (step + 1).to_string(),
                time.to_string(),
                actual,
                mean.to_string(),
            ];
            let quantiles = forecast.quantiles[step * q..][..q]
                .iter()
                .map(f64::to_string);
            self.writer
                .write_record(known.into_iter().chain(quantiles))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.writer
            .flush()
            .with_context(|| format!("write {}", self.path.display()))
    }
}

/// Forecasts spread evenly over the judged part.
fn shown(
    spec: &ForecasterSpec,
    data: &TrainingData,
    report: &Report,
    cases: &[(Case, Prediction)],
) -> Vec<Shown> {
    let q = report.levels.len();
    let panels = PANELS.min(cases.len());
    let at = |i: usize| &cases[(2 * i + 1) * cases.len() / (2 * panels)];
    let panel = |(case, forecast): &(Case, Prediction)| {
        let w = &case.window;
        let steps = w.lookback.min(HISTORY * w.horizon.max(6));
        let past = backtest::target_past(spec, data, case).split_off(w.lookback - steps);
        let bound = |i: usize| {
            forecast
                .quantiles
                .iter()
                .skip(i)
                .step_by(q)
                .copied()
                .collect::<Vec<_>>()
        };
        let time = chrono::DateTime::from_timestamp_millis(w.origin).unwrap_or_default();
        Shown {
            title: format!(
                "{} from {}",
                data.series[case.series].device,
                time.format("%Y-%m-%d %H:%M UTC")
            ),
            history: past,
            actual: case.actual.clone(),
            mean: forecast.mean.clone(),
            bands: pairs(&report.levels)
                .map(|(low, high)| (bound(low), bound(high)))
                .collect(),
        }
    };
    (0..panels).map(at).map(panel).collect()
}

/// The report as text: every model over all steps, then the chosen one step by step.
fn table(report: &Report) -> String {
    let time = |ms: i64| {
        let time = chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default();
        time.format("%Y-%m-%d %H:%M").to_string()
    };
    let mut out = format!(
        "{}: judged {} to {} UTC; chosen before that: {}\n\n",
        report.forecaster,
        time(report.test_from),
        time(report.test_until),
        report.chosen
    );
    let _ = writeln!(
        out,
        "{:26}{:>9}{:>11}{:>11}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "model", "windows", "MAE", "RMSE", "MASE", "sMAPE", "wQL", "in 80 %", "in 95 %"
    );
    let line = |name: &str, s: &Scores, out: &mut String| {
        let coverage = [0.8, 0.95].map(|level| coverage(s, level));
        let _ = writeln!(
            out,
            "{name:26}{:>9}{:>11.4}{:>11.4}{:>9.4}{:>9.4}{:>9.4}{:>9}{:>9}",
            s.windows, s.mae, s.rmse, s.mase, s.smape, s.wql, coverage[0], coverage[1]
        );
    };
    for model in &report.models {
        let mark = if model.model == report.chosen {
            " *"
        } else {
            ""
        };
        line(&format!("{}{mark}", model.model), &model.scores, &mut out);
    }
    line("  with adaptive intervals", &report.adaptive, &mut out);
    line("  with plain intervals", &report.plain, &mut out);
    if !report.importance.is_empty() {
        let each = report.importance.iter();
        let each: Vec<String> = each
            .map(|i| format!("{} {:+.0} %", i.input, 100.0 * i.error_increase))
            .collect();
        let _ = writeln!(
            out,
            "\nerror with another window's values of an input: {}",
            each.join(", ")
        );
    }
    let Some(chosen) = report.models.iter().find(|m| m.model == report.chosen) else {
        return out;
    };
    let _ = writeln!(
        out,
        "\n{:>5}{:>11}{:>11}{:>9}{:>9}{:>9}  inside, widest interval first",
        "step", "MAE", "RMSE", "MASE", "sMAPE", "wQL"
    );
    for (h, s) in chosen.scores.per_horizon.iter().enumerate() {
        let inside: Vec<String> = s
            .coverage
            .iter()
            .map(|c| format!("{:.1} %", 100.0 * c))
            .collect();
        let _ = writeln!(
            out,
            "{:>5}{:>11.4}{:>11.4}{:>9.4}{:>9.4}{:>9.4}  {}",
            h + 1,
            s.mae,
            s.rmse,
            s.mase,
            s.smape,
            s.wql,
            inside.join("  ")
        );
    }
    out
}

fn coverage(scores: &Scores, level: f64) -> String {
    let interval = scores
        .intervals
        .iter()
        .find(|i| (i.upper - i.lower - level).abs() < 1e-6);
    interval.map_or_else(|| "-".into(), |i| format!("{:.1} %", 100.0 * i.coverage))
}
