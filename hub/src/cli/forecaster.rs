//! `fieldcast-hub forecaster`: owns its options and output, never the work behind them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use fieldcast_features::ForecasterSpec;
use serde_json::json;

use super::Context;

/// Options of `forecaster`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Define a forecaster, or change its definition, from a TOML or JSON file.
    Apply {
        /// The file.
        file: PathBuf,
    },
    /// List forecasters.
    List,
    /// Show one definition.
    Show {
        /// Forecaster.
        name: String,
    },
}

/// Reads and checks a definition.
///
/// # Errors
/// The file, its syntax with the place, or the first field that breaks its rule.
pub fn read(file: &PathBuf) -> Result<ForecasterSpec> {
    let text = std::fs::read_to_string(file).with_context(|| {
        format!(
            "read {}; give the path of a TOML or JSON file",
            file.display()
        )
    })?;
    let json = file.extension().is_some_and(|e| e == "json");
    let spec: ForecasterSpec = if json {
        serde_json::from_str(&text)
            .with_context(|| format!("read forecaster from {}", file.display()))?
    } else {
        toml::from_str(&text).with_context(|| format!("read forecaster from {}", file.display()))?
    };
    spec.validate()
        .with_context(|| format!("in {}", file.display()))?;
    Ok(spec)
}

/// Runs the command.
///
/// # Errors
/// A definition that does not hold, or the database.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let spec = match &args.command {
        Command::Apply { file } => Some(read(file)?),
        _ => None,
    };
    let database = ctx.database().await?;
    let store = database.store();
    match args.command {
        Command::Apply { .. } => {
            let Some(spec) = spec else { return Ok(()) };
            let (version, new) = store.apply_forecaster(&spec).await?;
            let answer = json!({"name": spec.name, "version": version, "changed": new});
            ctx.print(&answer, || {
                let what = if new { "applied" } else { "unchanged" };
                format!("forecaster {} version {version} {what}", spec.name)
            })
        }
        Command::List => {
            let rows = store.forecasters().await?;
            ctx.print(&rows, || {
                let line = |r: &fieldcast_store::forecasters::ForecasterRow| {
                    format!(
                        "{}\tversion {}\t{} from {} every {}, {} steps -> {}",
                        r.name,
                        r.version,
                        r.spec.target,
                        r.spec.inputs.join(", "),
                        r.spec.period,
                        r.spec.lookback,
                        r.spec.horizon
                    )
                };
                rows.iter().map(line).collect::<Vec<_>>().join("\n")
            })
        }
        Command::Show { name } => {
            let Some(row) = store.forecaster(&name).await? else {
                bail!("forecaster `{name}` is not defined; see `fieldcast-hub forecaster list`")
            };
            ctx.print(&row, || toml::to_string(&row.spec).unwrap_or_default())
        }
    }
}
