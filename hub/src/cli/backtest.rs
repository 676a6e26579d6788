//! `fieldcast-hub backtest`: owns its options and files, never a split, a model or a measure.

mod table;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fieldcast_features::ForecasterSpec;
use fieldcast_onnx::ModelParams;
use fieldcast_train::backtest::{self, BacktestConfig, Report};
use fieldcast_train::evaluate::{Case, pairs};
use fieldcast_train::plot::{self, Shown};
use fieldcast_train::{Prediction, Progress, TrainingData};
use indicatif::{ProgressBar, ProgressStyle};

use super::Context;
use super::tables::Tables;
use crate::training::make;

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
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    stride: u32,
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
    let written = [&args.report, &args.plot, &args.onnx, &args.forecasts];
    args.tables.spare(written.into_iter().flatten())?;
    let stride = usize::try_from(args.stride)?;
    let (spec, train, data) = args.tables.read()?;
    let config = BacktestConfig {
        train_share: args.split.0,
        select_share: args.split.1,
        stride,
        train,
    };
    let mut forecasts = match &args.forecasts {
        Some(path) => Some(Dump::create(path)?),
        None => None,
    };
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
        let shown = shown(&spec, &data, (&report, &params), stride)?;
        write_file(
            path,
            &plot::svg(&format!("{}: {}", spec.name, report.chosen), &shown),
        )?;
    }
    if let Some(path) = &args.onnx {
        let metadata = make::metadata(&spec, &report.chosen)?;
        let graph = fieldcast_onnx::build(&params, &metadata)?;
        std::fs::write(path, graph).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &args.report {
        write_file(path, &serde_json::to_string_pretty(&report)?)?;
    }
    ctx.print(&report, || table::text(&report))
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

/// Forecasts spread evenly over the judged part, made once more: all of them would not fit into memory.
fn shown(
    spec: &ForecasterSpec,
    data: &TrainingData,
    (report, params): (&Report, &ModelParams),
    stride: usize,
) -> Result<Vec<Shown>> {
    let judged = report.adaptive.windows;
    let panels = PANELS.min(judged);
    let wanted = |i: &usize| (0..panels).any(|p| (2 * p + 1) * judged / (2 * panels) == *i);
    let cases = report.cases(spec, data, stride)?;
    let cases = cases.iter().enumerate().filter(|(i, _)| wanted(i));
    cases
        .map(|(_, case)| panel(spec, data, (report, params), &case))
        .collect()
}

fn panel(
    spec: &ForecasterSpec,
    data: &TrainingData,
    (report, params): (&Report, &ModelParams),
    case: &Case,
) -> Result<Shown> {
    let forecast = fieldcast_train::predict(params, &case.window)?;
    let w = &case.window;
    let steps = w.lookback.min(HISTORY * w.horizon.max(6));
    let bound = |i: usize| {
        let quantiles = forecast.quantiles.iter().skip(i);
        quantiles
            .step_by(report.levels.len())
            .copied()
            .collect::<Vec<_>>()
    };
    let time = chrono::DateTime::from_timestamp_millis(w.origin).unwrap_or_default();
    Ok(Shown {
        title: format!(
            "{} from {}",
            data.series[case.series].device,
            time.format("%Y-%m-%d %H:%M UTC")
        ),
        history: backtest::target_past(spec, data, case).split_off(w.lookback - steps),
        actual: case.actual.clone(),
        bands: pairs(&report.levels)
            .map(|(low, high)| (bound(low), bound(high)))
            .collect(),
        mean: forecast.mean,
    })
}
