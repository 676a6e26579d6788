//! `fieldcast-hub device`: adds, labels and lists devices; owns the identity file's text, never who is let in.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fieldcast_wire::{DeviceId, Sha256};
use serde_json::{Value, json};

use super::Context;
use crate::broker::random_token;
use crate::signing::hex;

/// Options of `device`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Add a device and write its identity; an existing one gets new labels and a new token.
    Add(Add),
    /// Change labels; the token stays.
    Label(Label),
    /// List devices.
    List,
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Name: MQTT user name, client id and topic level.
    name: String,
    /// Label that selectors ask for, `key=value`; may be given again.
    #[arg(long = "label", value_name = "K=V", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// File for the identity; it holds a secret.
    #[arg(long, value_name = "FILE", default_value = "identity.toml")]
    out: PathBuf,
    /// Broker as the device reaches it; by default the one of the running hub.
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// CA certificates for `mqtts://`, as a path on the device.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Label {
    /// Name.
    name: String,
    /// Labels to set, `key=value`.
    #[arg(value_name = "K=V", value_parser = pair, required_unless_present = "remove")]
    set: Vec<(String, String)>,
    /// Label to take away; may be given again.
    #[arg(long, value_name = "KEY")]
    remove: Vec<String>,
}

/// Parses `key=value`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((k, v)) if !k.is_empty() && !v.is_empty() => Ok((k.to_owned(), v.to_owned())),
        _ => Err(format!("`{text}` must be key=value")),
    }
}

/// Runs the command.
///
/// # Errors
/// A name that breaks its rule, no database, a file that cannot be written.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    match args.command {
        Command::Add(add) => run_add(ctx, add).await,
        Command::Label(label) => run_label(ctx, label).await,
        Command::List => run_list(ctx).await,
    }
}

async fn run_add(ctx: &Context, add: Add) -> Result<()> {
    let device = DeviceId::new(add.name.as_str())?;
    let broker = add
        .broker
        .or_else(|| running_broker(ctx))
        .unwrap_or_else(|| "mqtt://127.0.0.1:1883".to_owned());
    let database = ctx.new_database().await?;
    let signer = ctx.signer(database.store()).await?;
    let token = random_token()?;
    let labels: BTreeMap<String, String> = add.labels.into_iter().collect();
    let mut text = format!(
        "site = {}\ndevice = {}\nbroker = {}\ntoken = \"{token}\"\nroot_public_key = \"{}\"\n",
        quoted(ctx.config.site.as_str()),
        quoted(device.as_str()),
        quoted(&broker),
        hex(&signer.root_public()),
    );
    if let Some(ca) = &add.ca_file {
        text.push_str(&format!("ca_file = {}\n", quoted(ca)));
    }
    // The file first: a token that nobody holds would lock the device out.
    write_secret(&add.out, &text)?;
    let hash = Sha256::of(token.as_bytes());
    let new = database
        .store()
        .put_device(device.as_str(), &labels, Some(&hash.0))
        .await?;
    ctx.print(
        &json!({"device": device.as_str(), "new": new, "identity": add.out.display().to_string(), "broker": broker}),
        || format!("{device} may connect to {broker}; copy {} to the device", add.out.display()),
    )?;
    database.close().await
}

async fn run_label(ctx: &Context, label: Label) -> Result<()> {
    let database = ctx.database().await?;
    let set = label.set.into_iter().collect();
    let labels = database
        .store()
        .label_device(&label.name, &set, &label.remove)
        .await?
        .with_context(|| {
            format!(
                "label device {}: there is none of that name; `device list` shows them",
                label.name
            )
        })?;
    ctx.print(&json!({"device": label.name, "labels": labels}), || {
        format!("{} {}", label.name, pairs(&labels))
    })?;
    database.close().await
}

fn pairs(labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    labels.join(" ")
}

async fn run_list(ctx: &Context) -> Result<()> {
    let database = ctx.database().await?;
    let mut all = Vec::new();
    loop {
        let after = all
            .last()
            .map_or(String::new(), |d: &fieldcast_store::devices::DeviceRow| {
                d.id.clone()
            });
        let page = database.store().devices(&after, 1_000).await?;
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    ctx.print(&all, || {
        let line = |d: &fieldcast_store::devices::DeviceRow| {
            let online = if d.online { "online" } else { "offline" };
            format!("{:<24} {online:<8} {}", d.id, pairs(&d.labels))
        };
        all.iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    database.close().await
}

/// Broker of the hub that runs on this data directory.
pub(super) fn running_broker(ctx: &Context) -> Option<String> {
    let text = std::fs::read_to_string(ctx.config.serve_file()).ok()?;
    let serve: Value = serde_json::from_str(&text).ok()?;
    serve["broker"].as_str().map(str::to_owned)
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("new");
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut out| out.write_all(text.as_bytes()).and_then(|()| out.sync_all()))
        .and_then(|()| std::fs::rename(&fresh, path))
        .with_context(|| {
            format!(
                "write identity {}; name a writable file with --out",
                path.display()
            )
        })
}
