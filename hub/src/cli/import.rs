//! `fieldcast-hub import`: owns its options, progress and output, never the work behind them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use fieldcast_wire::DeviceId;
use indicatif::{ProgressBar, ProgressStyle};

use super::Context;
use super::tables::Columns;
use crate::import::{Imported, Options, import};

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
                spoilt(&done)
            )
        })
    });
    database.close().await?;
    printed
}

/// What faults of sensors spoilt, in words.
fn spoilt(done: &Imported) -> String {
    let mut said = String::new();
    if done.spoilt > 0 {
        let of = |(sensor, faults): (&String, &BTreeMap<&str, u64>)| {
            let each = faults
                .iter()
                .map(|(fault, times)| format!("{fault} {times}x"));
            format!("{sensor} {}", each.collect::<Vec<_>>().join(", "))
        };
        let faults: Vec<String> = done.faults.iter().map(of).collect();
        said = format!(
            "; {} of a broken sensor, stored as bad and not learnt from ({})",
            done.spoilt,
            faults.join("; ")
        );
    }
    for (sensor, fault) in &done.usual {
        said.push_str(&format!(
            "; {sensor} looks like {fault} in more than a fifth of its readings, which is taken for how it is"
        ));
    }
    said
}
