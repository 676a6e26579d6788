//! `fieldcast-hub migrate`: owns its options, never the migrations.

use anyhow::Result;

use super::Context;

/// Options of `migrate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The database was restored from a backup: devices send what they still hold again.
    #[arg(long)]
    restored: bool,
}

/// Brings the database to this version.
///
/// # Errors
/// No database, or one of a newer version.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let database = ctx.database().await?;
    if args.restored {
        database.store().renew_instance().await?;
    }
    database.close().await?;
    ctx.print(
        &serde_json::json!({ "migrated": true, "restored": args.restored }),
        || "The database is at this version.".to_owned(),
    )
}
