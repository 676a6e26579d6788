//! `fieldcast-hub migrate`: owns its options and output, never the migrations.

use anyhow::Result;

use super::Context;
use crate::signing::Signer;

/// Options of `migrate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The database was restored from a backup: devices send again what it may lack. With every hub stopped, once.
    #[arg(long)]
    restored: bool,
    /// The keys of this data directory replace those the database goes by; devices then need new identities.
    #[arg(long)]
    new_keys: bool,
}

/// Brings the database to this version; with options, tells it what happened to it or to its keys.
///
/// # Errors
/// No database, or one that is newer than this version.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let database = ctx.new_database().await?;
    let store = database.store();
    let mut said = vec!["the database is at this version"];
    if args.restored {
        store.renew_instance().await?;
        said.push("devices will send again what it may lack");
    }
    if args.new_keys {
        Signer::open(&ctx.config.keys_dir())?.adopt(store).await?;
        said.push("it goes by the keys of this data directory: add every device again");
    }
    let done = serde_json::json!({
        "migrated": true, "restored": args.restored, "new_keys": args.new_keys,
    });
    ctx.print(&done, || said.join("; "))?;
    database.close().await
}
