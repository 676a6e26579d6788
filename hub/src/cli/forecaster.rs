//! `fieldcast-hub forecaster`: owns its options and output, never the work behind them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use fieldcast_features::ForecasterSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Context;
use crate::rollout::policy::Policy as RolloutPolicy;
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

/// With its tables named as in the file.
#[derive(Serialize)]
struct Rendered {
    rollout: RolloutPolicy,
}

/// A definition as it is applied.
#[derive(Debug)]
pub struct Definition {
    /// What is forecast.
    pub spec: ForecasterSpec,
    /// When it is retrained: the table `retraining`.
    pub retraining: Policy,
    /// How new models reach devices: the table `rollout`.
    pub rollout: RolloutPolicy,
}

/// Reads and checks a definition.
///
/// # Errors
/// The file, its syntax with the place, or the first field that breaks its rule.
pub fn read(file: &PathBuf) -> Result<Definition> {
    let text = std::fs::read_to_string(file).with_context(|| {
        format!(
            "read {}; give the path of a TOML or JSON file",
            file.display()
        )
    })?;
    let json = file.extension().is_some_and(|e| e == "json");
    let definition = if json {
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
    let place = || format!("in {}", file.display());
    definition.spec.validate().with_context(place)?;
    definition.retraining.validate().with_context(place)?;
    definition.rollout.validate().with_context(place)?;
    Ok(definition)
}

/// The usual policy is stored as nothing, so that it follows what is usual.
fn stored<P: Default + PartialEq + Serialize>(policy: &P) -> Value {
    if *policy == P::default() {
        json!({})
    } else {
        json!(policy)
    }
}

/// All parts of a definition; without a policy its own reader names the place of what is wrong.
fn parts(
    text: &str,
    whole: impl Fn(&str) -> Result<ForecasterSpec>,
    table: impl Fn(&str) -> Result<serde_json::Map<String, Value>>,
) -> Result<Definition> {
    let mut fields = table(text).unwrap_or_default();
    let (retraining, rollout) = (fields.remove("retraining"), fields.remove("rollout"));
    let spec = if retraining.is_none() && rollout.is_none() {
        whole(text)?
    } else {
        serde_json::from_value(Value::Object(fields))?
    };
    Ok(Definition {
        spec,
        retraining: policy(retraining, "retraining")?,
        rollout: policy(rollout, "rollout")?,
    })
}

fn policy<P: Default + DeserializeOwned>(table: Option<Value>, name: &str) -> Result<P> {
    table.map_or_else(
        || Ok(P::default()),
        |value| serde_json::from_value(value).with_context(|| format!("in its table `{name}`")),
    )
}

/// Runs the command.
///
/// # Errors
/// A definition that does not hold, or the database.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let definition = match &args.command {
        Command::Apply { file } => Some(read(file)?),
        _ => None,
    };
    let database = match definition {
        Some(_) => ctx.new_database().await?,
        None => ctx.database().await?,
    };
    let store = database.store();
    match args.command {
        Command::Apply { .. } => {
            let Some(d) = definition else {
                return Ok(());
            };
            let (retraining, rollout) = (stored(&d.retraining), stored(&d.rollout));
            let spec = &d.spec;
            let (version, new) = store.apply_forecaster(spec, &retraining, &rollout).await?;
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
            let rollout: RolloutPolicy =
                serde_json::from_value(row.rollout.clone()).unwrap_or_default();
            ctx.print(&row, || {
                let spec = toml::to_string(&row.spec).unwrap_or_default();
                let policy = toml::to_string(&policy).unwrap_or_default();
                let rollout = Rendered { rollout };
                let rollout = toml::to_string(&rollout).unwrap_or_default();
                format!("{spec}\n[retraining]\n{policy}\n{rollout}")
            })
        }
    }
}
