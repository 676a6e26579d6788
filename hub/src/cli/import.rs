//! `fieldcast-hub import`: owns its options, progress and output, never the work behind them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use fieldcast_wire::DeviceId;
use indicatif::{ProgressBar, ProgressStyle};

use super::Context;
use super::tables::Columns;
use crate::import::{Findings, Options, import};

/// Options of `import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Import a CSV file with a header; run again it goes on where it was, and writes nothing twice.
    Csv(Csv),
}

#[derive(Debug, clap::Args)]
struct Csv {
    /// The file.
    file: PathBuf,
    /// Device whose readings they are; added (without access) where it is not known.
    #[arg(long)]
    device: String,
    #[command(flatten)]
    columns: Columns,
}

/// Runs the command.
///
/// # Errors
/// A malformed row (line, column, what was expected), no database.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let Command::Csv(args) = args.command;
    let device = DeviceId::new(args.device.as_str())?;
    let options = Options {
        time_columns: args.columns.time_columns,
        columns: args.columns.columns,
        missing: args.columns.missing,
    };
    if !args.file.is_file() {
        bail!(
            "{} is no file; name a CSV file with a header",
            args.file.display()
        );
    }
    let database = ctx.new_database().await?;
    if database.store().device(device.as_str()).await?.is_none() {
        database
            .store()
            .put_device(device.as_str(), &Default::default(), None)
            .await?;
    }
    let bar = if ctx.json {
        ProgressBar::hidden()
    } else {
        ProgressBar::new_spinner()
    };
    bar.set_style(ProgressStyle::with_template(
        "{spinner} {pos} readings, {elapsed}",
    )?);
    let done = import(
        database.store(),
        device.as_str(),
        &args.file,
        &options,
        |n| bar.set_position(n),
    )
    .await;
    bar.finish_and_clear();
    let done = done.with_context(|| {
        format!(
            "import {} for {device}; what is before it is stored, run it again once mended",
            args.file.display()
        )
    });
    let printed = done.and_then(|done| {
        ctx.print(&done, || {
            let skipped = match done.skipped.as_slice() {
                [] => String::new(),
                names => format!(
                    "; left out, their first value is no number: {}",
                    names.join(", ")
                ),
            };
            format!(
                "{}: {} readings, {} of them new{skipped}{}",
                args.file.display(),
                done.readings,
                done.written,
                found(&done.findings)
            )
        })
    });
    database.close().await?;
    printed
}

/// What was found of the sensors, in words.
fn found(findings: &Findings) -> String {
    let mut said = String::new();
    for (sensor, faults) in &findings.faults {
        let each: Vec<String> = faults.iter().map(|(f, n)| format!("{f} {n}x")).collect();
        said += &format!(
            "\n{sensor}: {}; what that spoilt is not learnt from",
            each.join(", ")
        );
    }
    for sensor in &findings.still {
        said += &format!(
            "\n{sensor}: stands still for long or again and again, which is taken for how it is"
        );
    }
    if findings.unordered {
        said += "\nnot in order of time: faults of sensors were not looked for; sort the file for that and import it again";
    }
    said
}
