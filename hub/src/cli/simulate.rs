//! `fieldcast-hub simulate`: writes generated data as CSV; owns its options and files, never the numbers; hands a fleet on.

use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use fieldcast_sim::{Period, SimSpec, csv};
use serde_json::json;

use super::{Context, simulate_fleet};

/// Options of `simulate`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Folder for one CSV file a device.
    #[arg(long, value_name = "DIR", required = true)]
    out: Option<PathBuf>,
    /// Devices.
    #[arg(long, default_value_t = 3)]
    devices: u32,
    /// Days.
    #[arg(long, default_value_t = 730)]
    days: u32,
    /// `1h` or `1d`.
    #[arg(long, default_value = "1h", value_parser = period)]
    period: Period,
    /// Midnight UTC of the first day.
    #[arg(long, default_value = "2024-01-01T00:00:00Z")]
    start: DateTime<Utc>,
    /// Day from which the relation between weather and demand is another; may be given again. None: a control.
    #[arg(long = "change-day", value_name = "DAY")]
    change_days: Vec<u32>,
    /// Decides all that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Let thousands of made devices speak to a hub.
    Fleet(Box<simulate_fleet::Args>),
}

fn period(text: &str) -> Result<Period, String> {
    match text {
        "1h" => Ok(Period::Hour),
        "1d" => Ok(Period::Day),
        _ => Err("allowed are `1h` and `1d`".to_owned()),
    }
}

/// Writes the files, or runs a fleet.
///
/// # Errors
/// A specification that cannot be generated, or a file that cannot be written.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let out = match (args.command, args.out) {
        (Some(Command::Fleet(fleet)), _) => return simulate_fleet::run(ctx, *fleet).await,
        (None, Some(out)) => out,
        (None, None) => bail!("name a folder with --out"),
    };
    let spec = SimSpec {
        seed: args.seed,
        start: args.start.timestamp_millis(),
        days: args.days,
        period: args.period,
        devices: args.devices,
        changes: args.change_days,
    };
    spec.validate()?;
    std::fs::create_dir_all(&out).with_context(|| format!("create folder {}", out.display()))?;
    let mut files = Vec::new();
    for device in 0..spec.devices {
        let path = out.join(csv::file_name(device));
        let file =
            std::fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
        csv::write(BufWriter::new(file), spec.rows(device))
            .with_context(|| format!("write {}", path.display()))?;
        files.push(path.display().to_string());
    }
    ctx.print(&json!({"files": files}), || files.join("\n"))
}
