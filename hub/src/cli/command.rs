//! `fieldcast-hub command`: owns its options and output, never what may be commanded or how it is told.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use chrono::TimeDelta;
use fieldcast_features::grid::parse_period;
use uuid::Uuid;

use super::Context;
use super::who::user;
use crate::commands::{self, Asked};

const LOOK: Duration = Duration::from_millis(300);

/// Options of `command`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Tell a device to do something, once, as soon as it is there.
    Give {
        /// Device.
        device: String,
        /// `restart`: the agent starts again. `report`: it says how it is. `log`: it logs by another filter until its next start.
        name: String,
        /// The filter of `log`, such as `debug`; without one that of the start is in force again.
        #[arg(default_value = "")]
        argument: String,
        /// From then on the device refuses it: such as `90s`, `30m`, `2h` or `7d`.
        #[arg(long = "for", value_name = "TIME", default_value = "1h")]
        holds: String,
        /// Wait for its outcome; exit code 1 where it failed or expired.
        #[arg(long)]
        wait: bool,
    },
    /// List commands, newest first.
    List {
        /// Only those to this device.
        device: Option<String>,
    },
    /// Show one command and what became of it.
    Show {
        /// Its id.
        id: Uuid,
    },
}

/// Runs the command.
///
/// # Errors
/// A device or command that is none, one that failed while it was waited for, or the database.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let database = ctx.database().await?;
    let store = database.store();
    match args.command {
        Command::Give {
            device,
            name,
            argument,
            holds,
            wait,
        } => {
            let holds = parse_period(&holds).map_err(anyhow::Error::msg)?;
            let asked = Asked {
                device: &device,
                name: &name,
                argument: &argument,
                holds: TimeDelta::milliseconds(holds),
            };
            let id = commands::give(store, asked, &user()).await?;
            if wait {
                waited(ctx, store, id).await?;
            } else {
                ctx.print(&serde_json::json!({"command": id}), || {
                    format!(
                        "{id} is on its way to `serve`; `command show {id}` says what became of it"
                    )
                })?;
            }
        }
        Command::List { device } => {
            let rows = store.commands(device.as_deref(), 0, 1_000).await?;
            ctx.print(&rows, || {
                let lines: Vec<String> = rows.iter().map(commands::line).collect();
                lines.join("\n")
            })?;
        }
        Command::Show { id } => {
            let row = store.command(id).await?;
            let row =
                row.with_context(|| format!("there is no command {id}; see `command list`"))?;
            ctx.print(&row, || commands::line(&row))?;
        }
    }
    database.close().await
}

async fn waited(ctx: &Context, store: &fieldcast_store::Store, id: Uuid) -> Result<()> {
    loop {
        let row = store.command(id).await?;
        let row = row.with_context(|| format!("command {id} is gone"))?;
        match row.state.as_str() {
            "waiting" | "sent" => tokio::time::sleep(LOOK).await,
            "done" => return ctx.print(&row, || commands::line(&row)),
            _ => bail!("{}", commands::line(&row)),
        }
    }
}
