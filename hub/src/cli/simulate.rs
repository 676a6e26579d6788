//! `fieldcast-hub simulate`: writes generated data as CSV; owns its options and files, never the numbers.

use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use fieldcast_sim::{Period, SimSpec, csv};
use serde_json::json;

use super::Context;

/// Options of `simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for one CSV file a device.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
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

fn period(text: &str) -> Result<Period, String> {
    match text {
        "1h" => Ok(Period::Hour),
        "1d" => Ok(Period::Day),
        _ => Err("allowed are `1h` and `1d`".to_owned()),
    }
}

/// Writes the files.
///
/// # Errors
/// A specification that cannot be generated, or a file that cannot be written.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let spec = SimSpec {
        seed: args.seed,
        start: args.start.timestamp_millis(),
        days: args.days,
        period: args.period,
        devices: args.devices,
        changes: args.change_days,
    };
    spec.validate()?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("create folder {}", args.out.display()))?;
    let mut files = Vec::new();
    for device in 0..spec.devices {
        let path = args.out.join(csv::file_name(device));
        let file =
            std::fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
        csv::write(BufWriter::new(file), spec.rows(device))
            .with_context(|| format!("write {}", path.display()))?;
        files.push(path.display().to_string());
    }
    ctx.print(&json!({"files": files}), || files.join("\n"))
}
