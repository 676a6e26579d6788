//! `fieldcast-hub consumer`: adds, lists and removes readers of the hub's JSON; owns their tokens' making, never who is let in.

use anyhow::{Result, bail};
use fieldcast_wire::{DeviceId, Sha256, Topics};
use serde_json::json;

use super::Context;
use super::device::running_broker;
use crate::broker::{CONSUMER, random_token};

/// Options of `consumer`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Add a consumer and print its token, once.
    Add {
        /// Name, by the rule of a device's.
        name: String,
    },
    /// List consumers.
    List,
    /// Remove a consumer: it can no longer connect. A connection that stands is not cut.
    Remove {
        /// Name.
        name: String,
    },
}

/// Runs the command.
///
/// # Errors
/// A name that breaks its rule or is taken, or the database.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let database = ctx.database().await?;
    let store = database.store();
    match args.command {
        Command::Add { name } => {
            DeviceId::new(name.as_str())?;
            let token = random_token()?;
            let hash = Sha256::of(token.as_bytes());
            if !store.add_consumer(&name, &hash.0).await? {
                bail!(
                    "add consumer {name}: there is one of that name; `consumer remove {name}` first, or choose another"
                );
            }
            let user = format!("{CONSUMER}{name}");
            let topics = format!("{}/out/#", Topics::new(&ctx.config.site).root());
            let broker = running_broker(ctx);
            ctx.print(
                &json!({"user": user, "token": token, "topics": topics, "broker": broker}),
                || {
                    format!(
                        "{name} may read {topics} as user {user} with the token {token} at {}; the token is not shown again",
                        broker.as_deref().unwrap_or("the hub's broker")
                    )
                },
            )?;
        }
        Command::List => {
            let all = store.consumers().await?;
            ctx.print(&all, || {
                let names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
                names.join("\n")
            })?;
        }
        Command::Remove { name } => {
            if !store.remove_consumer(&name).await? {
                bail!(
                    "remove consumer {name}: there is none of that name; `consumer list` shows them"
                );
            }
            ctx.print(&json!({"removed": name}), || {
                format!("{name} can no longer connect")
            })?;
        }
    }
    database.close().await
}
