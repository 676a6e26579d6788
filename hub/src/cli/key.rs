//! `fieldcast-hub key`: owns its options and output, never a private key.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use fieldcast_store::Store;
use serde_json::json;

use super::Context;
use super::who::user;
use crate::keys;
use crate::signing::{Listed, Signer, hex, sign_list_offline};

/// Options of `key`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the list of hub keys in force, which key signs, and which devices know which list.
    List,
    /// Make another hub key and put it on the list: from then on it signs. The others stay on the list.
    Rotate {
        /// Write the list for an offline root here; by default it goes beside the keys.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Take a key off the list: what it signed is refused from then on.
    Revoke {
        /// The key, as `key list` names it.
        id: String,
        /// Also while a champion or challenger was signed by it; devices fall back to their baselines.
        #[arg(long)]
        force: bool,
        /// Write the list for an offline root here; by default it goes beside the keys.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Sign a list where the root key is kept; needs no database.
    SignList {
        /// The list.
        file: PathBuf,
        /// The root's private key.
        #[arg(long, value_name = "FILE")]
        root: PathBuf,
        /// Write the signed list here.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Put a list in force that was signed elsewhere.
    Install {
        /// The signed list.
        file: PathBuf,
    },
    /// Move the root's private key away, or back.
    #[command(subcommand)]
    Root(Root),
}

#[derive(Debug, clap::Subcommand)]
enum Root {
    /// Move the root's private key into a file; keep it offline, and twice.
    Export {
        /// A file that is not there yet.
        file: PathBuf,
    },
    /// Take it back.
    Import {
        /// The file.
        file: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// A key that is none, a list that does not follow the one in force, keys that are not the database's, or the database.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    if let Command::SignList { file, root, out } = &args.command {
        return sign_list(ctx, file, root, out);
    }
    let database = ctx.database().await?;
    let store = database.store();
    let signer = ctx.signer(store).await?;
    match args.command {
        Command::SignList { .. } => Ok(()),
        Command::List => list(ctx, store, &signer).await,
        Command::Rotate { out } => {
            let next = signer.listed()?.with(&signer.make_hub_key()?)?;
            put(ctx, store, &signer, next, out).await
        }
        Command::Revoke { id, force, out } => {
            let next = signer.listed()?.without(&id)?;
            let lost = keys::signed_by(store, &id).await?;
            if let (Some((name, version)), false) = (lost.first(), force) {
                bail!(
                    "key `{id}` signed version {version} of `{name}`, which devices run or may come to run; `model sign-anew \
                     {name} {version}` and `model promote {name} VERSION --champion` first, or --force: devices then fall back to \
                     their baselines"
                );
            }
            put(ctx, store, &signer, next, out).await
        }
        Command::Install { file } => {
            let list = Listed::read(&file)?;
            install(ctx, store, &signer, &list).await
        }
        Command::Root(Root::Export { file }) => {
            signer.export_root(&file)?;
            ctx.print(&json!({"root": hex(&signer.root_public()), "file": file}), || {
                format!(
                    "the root key is in {} alone; keep it offline, and a copy elsewhere: without it no hub key can ever be added or \
                     revoked",
                    file.display()
                )
            })
        }
        Command::Root(Root::Import { file }) => {
            signer.import_root(&file)?;
            ctx.print(&json!({"root": hex(&signer.root_public())}), || {
                "the root key is here again".to_owned()
            })
        }
    }?;
    database.close().await
}

fn sign_list(ctx: &Context, file: &Path, root: &Path, out: &Path) -> Result<()> {
    let signed = sign_list_offline(root, &Listed::read(file)?)?;
    signed.write(out)?;
    ctx.print(&signed, || {
        let ids: Vec<&str> = signed.keys.iter().map(|k| k.id.as_str()).collect();
        format!(
            "list {} with {} is signed; `fieldcast-hub key install {}` at the hub puts it in force",
            signed.version,
            ids.join(", "),
            out.display()
        )
    })
}

/// Signs the next list and puts it in force, or writes it for a root that is elsewhere.
async fn put(
    ctx: &Context,
    store: &Store,
    signer: &Signer,
    next: Listed,
    out: Option<PathBuf>,
) -> Result<()> {
    if signer.root_is_here() && out.is_none() {
        let list = signer.sign_list(&next)?;
        return install(ctx, store, signer, &list).await;
    }
    let file = out.unwrap_or_else(|| {
        let name = format!("key-list-{}.json", next.version);
        ctx.config.keys_dir().join(name)
    });
    next.write(&file)?;
    ctx.print(&json!({"version": next.version, "unsigned": file}), || {
        format!(
            "list {} waits for the root: where its key is, `fieldcast-hub key sign-list {} --root ROOT --out SIGNED`; then here \
             `fieldcast-hub key install SIGNED`",
            next.version,
            file.display()
        )
    })
}

async fn install(ctx: &Context, store: &Store, signer: &Signer, list: &Listed) -> Result<()> {
    signer
        .install(store, list, &user())
        .await
        .context("put the list of hub keys in force")?;
    let key = signer.key_id();
    ctx.print(&json!({"version": list.version, "signs": key}), || {
        format!(
            "list {} is in force, key {key} signs; `serve` brings it to every device. Copy new files of {} to every hub and worker",
            list.version,
            ctx.config.keys_dir().display()
        )
    })
}

async fn list(ctx: &Context, store: &Store, signer: &Signer) -> Result<()> {
    let (listed, signs) = (signer.listed()?, signer.key_id());
    let here: Vec<String> = signer.here()?.iter().map(|k| hex(k)).collect();
    let devices = store.devices_by_key_list().await?;
    let keys: Vec<_> = listed
        .keys
        .iter()
        .map(|k| json!({"id": k.id, "public": k.public, "here": here.contains(&k.public), "signs": k.id == signs}))
        .collect();
    let answer = json!({"version": listed.version, "root": listed.root, "root_is_here": signer.root_is_here(), "keys": keys,
        "devices": devices.iter().map(|(v, n)| json!({"version": v, "devices": n})).collect::<Vec<_>>()});
    ctx.print(&answer, || {
        let place = if signer.root_is_here() {
            "here"
        } else {
            "elsewhere"
        };
        let mut lines = vec![format!(
            "list {}, root {} ({place})",
            listed.version, listed.root
        )];
        lines.extend(listed.keys.iter().map(|k| {
            let signs = if k.id == signs { ", signs" } else { "" };
            let place = if here.contains(&k.public) {
                "here"
            } else {
                "elsewhere"
            };
            format!("  {}  {place}{signs}", k.id)
        }));
        lines.extend(
            devices
                .iter()
                .map(|(v, n)| format!("{n} devices know list {v}")),
        );
        lines.join("\n")
    })
}
