//! `fieldcast-hub migrate`: owns its options and output, never the migrations.

use anyhow::Result;

use super::Context;

/// Options of `migrate`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Brings the database to this version.
///
/// # Errors
/// No database, or one that is newer than this version.
pub async fn run(ctx: &Context, _args: Args) -> Result<()> {
    let database = ctx.database().await?;
    ctx.print(&serde_json::json!({"migrated": true}), || {
        "the database is at this version".to_owned()
    })?;
    database.close().await
}
