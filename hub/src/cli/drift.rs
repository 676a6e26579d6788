//! `fieldcast-hub drift`: owns its options, output and exit codes, never the work behind them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use fieldcast_drift::preset::Version;
use fieldcast_drift::preset::layout::{Report as Layout, report};
use fieldcast_drift::window::Options;
use md5::Digest as _;

use super::Context;
use super::tables::spare;
use crate::check::{self, Line, Pair, Request};
use crate::page::{Panel, page};
use crate::signing::hex;

/// Exit code of a check that found drift.
const DRIFT: u8 = 1;
/// Exit code of a check that could not be made.
pub(super) const FAILED: u8 = 2;

/// Options of `drift`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Compare two CSV files; needs no database. Exit code 0: stable, 1: drift, 2: error.
    Check(Check),
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Preset {
    /// Evidently's default tests, thresholds and column types.
    Evidently,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LayoutVersion {
    /// Evidently 0.4.
    #[value(name = "0.4")]
    V04,
    /// Evidently 0.7.
    #[value(name = "0.7")]
    V07,
}

#[derive(Debug, clap::Args)]
struct Check {
    /// Rows that are as they should be.
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// Rows to compare with them.
    #[arg(long, value_name = "FILE")]
    current: PathBuf,
    /// Decide by another's rules instead of the default policy.
    #[arg(long)]
    preset: Option<Preset>,
    /// Whose rules and layout of the JSON report.
    #[arg(long, requires = "preset", default_value = "0.7")]
    layout: LayoutVersion,
    /// Also write the report as an HTML page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Column to compare; may be given again. None: all, which must then be the same in both files.
    #[arg(long = "column", value_name = "NAME")]
    columns: Vec<String>,
    /// Column with the time.
    #[arg(long, value_name = "NAME")]
    time_column: Option<String>,
    /// Rows of a season, instead of hours of the day or the week by the time column.
    #[arg(long, value_name = "ROWS", conflicts_with = "preset")]
    season: Option<usize>,
    /// Share of undrifted windows that may be called drifted.
    #[arg(long, default_value_t = 0.05, conflicts_with = "preset")]
    rate: f64,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 1, conflicts_with = "preset")]
    seed: u64,
    /// Compare columns each by itself only, not together too.
    #[arg(long, conflicts_with = "preset")]
    no_multivariate: bool,
}

/// Runs the command; drift is an exit code, not an error.
///
/// # Errors
/// Files that cannot be read or compared.
pub fn run(ctx: &Context, args: &Args) -> Result<ExitCode> {
    let Command::Check(args) = &args.command;
    let request = Request {
        reference: args.reference.clone(),
        current: args.current.clone(),
        columns: args.columns.clone(),
        time_column: args.time_column.clone(),
        season: args.season,
        alone: args.no_multivariate,
    };
    spare([&args.reference, &args.current], &args.html)?;
    let pair = check::read(&request)?;
    let drift = match args.preset {
        None => default(ctx, args, &request, &pair)?,
        Some(Preset::Evidently) => evidently(ctx, args, &request, &pair)?,
    };
    Ok(ExitCode::from(if drift { DRIFT } else { 0 }))
}

fn default(ctx: &Context, args: &Check, request: &Request, pair: &Pair) -> Result<bool> {
    let options = Options {
        rate: args.rate,
        seed: args.seed,
    };
    let (report, lines) = check::judge(request, pair, options)?;
    let drift = report.check.drift;
    let season = match &report.season {
        Some(season) => format!("Compared with like: {season}."),
        None => "No season: give a time column or --season, where there is one.".to_owned(),
    };
    let rate = args.rate * 100.0;
    let promise = format!(
        "Of undrifted windows, {rate} % may be called drifted. Drift of inputs warns; it says nothing of forecasts."
    );
    let panels = check::panels(pair, &lines);
    html(args, request, drift, &[season, promise], (&lines, &panels))?;
    ctx.print(&report, || text(&lines, drift))?;
    Ok(drift)
}

fn evidently(ctx: &Context, args: &Check, request: &Request, pair: &Pair) -> Result<bool> {
    let version = match args.layout {
        LayoutVersion::V04 => Version::V04,
        LayoutVersion::V07 => Version::V07,
    };
    let (decision, lines) = check::as_evidently(request, pair, version)?;
    let known =
        "By Evidently's defaults, which know neither autocorrelation nor the sample's size.";
    let panels = check::panels(pair, &lines);
    html(
        args,
        request,
        decision.drift,
        &[known.to_owned()],
        (&lines, &panels),
    )?;
    let mut layout = report(&decision, &pair.columns, md5);
    if let Layout::V04(layout) = &mut layout {
        let now = crate::clock::now().format("%Y-%m-%d %H:%M:%S%.6f");
        layout.timestamp = Some(now.to_string());
    }
    ctx.print(&layout, || text(&lines, decision.drift))?;
    Ok(decision.drift)
}

/// MD5 in hexadecimal, by which Evidently names metrics.
fn md5(text: &str) -> String {
    hex(&md5::Md5::digest(text))
}

fn text(lines: &[Line], drift: bool) -> String {
    let lines: Vec<_> = lines.iter().map(|l| format!("  {}", l.words)).collect();
    let first = if drift { "drift" } else { "stable" };
    format!("{first}\n{}", lines.join("\n"))
}

fn html(
    args: &Check,
    request: &Request,
    drift: bool,
    about: &[String],
    (lines, panels): (&[Line], &[Panel]),
) -> Result<()> {
    let Some(file) = &args.html else {
        return Ok(());
    };
    for other in [&request.reference, &request.current] {
        if file == other {
            bail!(
                "write the page to {}: that is one of the compared files; name another",
                file.display()
            );
        }
    }
    let files = format!(
        "{} compared with {}.",
        request.current.display(),
        request.reference.display()
    );
    let about = [&[files], about].concat();
    let page = page(&check::said(lines, drift), drift, &about, panels);
    std::fs::write(file, page).with_context(|| format!("write {}", file.display()))
}
