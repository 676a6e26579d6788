//! `fieldcast-hub search`: owns its options, the file of trials and the table, never what is tried.

use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fieldcast_train::search::{self, Found, SearchConfig, Settings, Trial};

use super::Context;
use super::backtest::{progress_bar, say};
use super::tables::Tables;

/// Options of `search`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    tables: Tables,
    /// Settings that are tried, those of the definition and the configuration among them.
    #[arg(long, default_value_t = 12)]
    trials: usize,
    /// Time it may take.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Keep every trial here, a line of JSON each; a search that was interrupted goes on from it.
    #[arg(long, value_name = "FILE", default_value = "trials.jsonl")]
    keep: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Files that cannot be read or written, data that nothing can be learnt from, or too little time.
pub fn run(ctx: &Context, args: &Args) -> Result<()> {
    args.tables.spare([&args.keep])?;
    let (spec, base, data) = args.tables.read()?;
    let earlier = kept(&args.keep)?;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&args.keep)
        .with_context(|| {
            format!(
                "write {}; name another file with --keep",
                args.keep.display()
            )
        })?;
    let config = SearchConfig {
        trials: args.trials,
        seconds: 60.0 * args.minutes,
        seed: base.seed,
        base,
    };
    let bar = progress_bar(ctx)?;
    let mut failed = None;
    let found = search::search(
        &spec,
        &data,
        &config,
        &earlier,
        &mut |trial| {
            let line = serde_json::to_string(trial).map_err(std::io::Error::from);
            let written = line.and_then(|line| writeln!(file, "{line}"));
            failed = failed.take().or(written.err());
            bar.println(format!("{:>4} epochs  {}", trial.epochs, told(trial)));
        },
        &mut |settings, p| {
            bar.set_message(format!("{}; {}", short(settings), say(&p)));
            bar.tick();
            ControlFlow::Continue(())
        },
    );
    bar.finish_and_clear();
    let found = found?;
    if let Some(error) = failed {
        return Err(error).with_context(|| {
            format!("write {}; free space and search again", args.keep.display())
        });
    }
    ctx.print(&found, || table(&found))
}

/// Trials of an earlier search; a last line that a kill cut short is none.
fn kept(file: &Path) -> Result<Vec<Trial>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("read {}; name another file with --keep", file.display()))?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

fn short(s: &Settings) -> String {
    format!(
        "lookback {}, hidden {}, seeds {}, learning_rate {}, weight_decay {}, dropout {}",
        s.lookback, s.hidden, s.seeds, s.learning_rate, s.weight_decay, s.dropout
    )
}

fn told(trial: &Trial) -> String {
    let outcome = match (&trial.mase, &trial.error) {
        (Some(mase), _) => format!(
            "MASE {mase:.4} ({})",
            trial.chosen.as_deref().unwrap_or_default()
        ),
        (None, error) => error.clone().unwrap_or_default(),
    };
    format!(
        "{}: {outcome}, {:.1} s",
        short(&trial.settings),
        trial.seconds
    )
}

fn table(found: &Found) -> String {
    let mut trials: Vec<&Trial> = found.trials.iter().collect();
    let error = |t: &Trial| t.mase.unwrap_or(f64::INFINITY);
    trials.sort_by(|a, b| b.epochs.cmp(&a.epochs).then(error(a).total_cmp(&error(b))));
    let mut text = String::new();
    for trial in trials {
        let _ = writeln!(text, "{:>4} epochs  {}", trial.epochs, told(trial));
    }
    let change = 100.0 * (found.mase / found.given - 1.0);
    let _ = writeln!(
        text,
        "best: {}\nMASE {:.4}, given settings {:.4} ({change:+.1} %)",
        short(&found.settings),
        found.mase,
        found.given
    );
    if found.cut_short {
        let _ = writeln!(text, "the time ran out; run it again to go on");
    }
    text.push_str(
        "lookback belongs into the forecaster's definition, the others into the file that `--config` names; what was chosen \
         among many looks better here than it will be: judge it with `backtest` on data that this search has not seen",
    );
    text
}
