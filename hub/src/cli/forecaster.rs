//! `fieldcast-hub forecaster`: owns its options and output, never the work behind them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use fieldcast_features::ForecasterSpec;
use serde_json::{Value, json};

use super::Context;
use crate::triggers::policy::Policy;

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

/// Reads and checks a definition: what is forecast, and when it is retrained (the table `retraining`).
///
/// # Errors
/// The file, its syntax with the place, or the first field that breaks its rule.
pub fn read(file: &PathBuf) -> Result<(ForecasterSpec, Policy)> {
    let text = std::fs::read_to_string(file).with_context(|| {
        format!(
            "read {}; give the path of a TOML or JSON file",
            file.display()
        )
    })?;
    let json = file.extension().is_some_and(|e| e == "json");
    let (spec, policy) = if json {
        parts(
            &text,
            |t| Ok(serde_json::from_str(t)?),
            |t| Ok(serde_json::from_str(t)?),
        )
    } else {
        parts(
            &text,
            |t| Ok(toml::from_str(t)?),
            |t| Ok(toml::from_str(t)?),
        )
    }
    .with_context(|| format!("read forecaster from {}", file.display()))?;
    spec.validate()
        .with_context(|| format!("in {}", file.display()))?;
    policy
        .validate()
        .with_context(|| format!("in {}", file.display()))?;
    Ok((spec, policy))
}

/// The usual policy is stored as nothing, so that it follows what is usual.
fn stored(policy: &Policy) -> Value {
    if *policy == Policy::default() {
        json!({})
    } else {
        json!(policy)
    }
}

/// Both parts of a definition; without a policy its own reader names the place of what is wrong.
fn parts(
    text: &str,
    whole: impl Fn(&str) -> Result<ForecasterSpec>,
    table: impl Fn(&str) -> Result<serde_json::Map<String, Value>>,
) -> Result<(ForecasterSpec, Policy)> {
    let Ok(mut fields) = table(text) else {
        return Ok((whole(text)?, Policy::default()));
    };
    let Some(policy) = fields.remove("retraining") else {
        return Ok((whole(text)?, Policy::default()));
    };
    let policy = serde_json::from_value(policy).context("in its table `retraining`")?;
    Ok((serde_json::from_value(Value::Object(fields))?, policy))
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
            let Some((spec, policy)) = spec else {
                return Ok(());
            };
            let (version, new) = store.apply_forecaster(&spec, &stored(&policy)).await?;
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
            let policy: Policy = serde_json::from_value(row.retraining.clone()).unwrap_or_default();
            ctx.print(&row, || {
                let spec = toml::to_string(&row.spec).unwrap_or_default();
                let policy = toml::to_string(&policy).unwrap_or_default();
                format!("{spec}\n[retraining]\n{policy}")
            })
        }
    }
}
