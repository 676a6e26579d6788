//! `fieldcast-hub device`: adds devices with their identities and lists them, never talks to one.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use fieldcast_wire::{DeviceId, Sha256};
use serde_json::{Value, json};

use super::Context;
use crate::broker::random_token;
use crate::signing::{Signer, hex};

/// Options of `device`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a device and write its identity.toml.
    Add(Add),
    /// List devices.
    List,
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Name of the device.
    name: String,
    /// A label, `key=value`; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// File for the identity; none: the device gets no token and is only known by name.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Broker address that the device connects to; by default that of the running hub.
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A name or label that breaks its rule, a file that cannot be written, or the database.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    match args.command {
        Command::Add(add) => run_add(ctx, add).await,
        Command::List => list(ctx).await,
    }
}

/// Labels from `key=value` arguments.
///
/// # Errors
/// An argument without `=`.
pub fn labels(given: &[String]) -> Result<BTreeMap<String, String>> {
    given
        .iter()
        .map(|label| match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => bail!("label `{label}` must be KEY=VALUE"),
        })
        .collect()
}

async fn run_add(ctx: &Context, add: Add) -> Result<()> {
    let device = DeviceId::new(add.name)?;
    let labels = labels(&add.labels)?;
    let database = ctx.database().await?;
    let token = match &add.out {
        Some(_) => Some(random_token()?),
        None => None,
    };
    let hash = token.as_ref().map(|t| Sha256::of(t.as_bytes()));
    let hash = hash.as_ref().map(|h| &h.0[..]);
    let new = database
        .store()
        .put_device(device.as_str(), &labels, hash)
        .await?;
    if let (Some(path), Some(token)) = (&add.out, &token) {
        let signer = Signer::open(&ctx.config.keys_dir())?;
        let broker = match add.broker {
            Some(url) => url,
            None => running_broker(ctx).unwrap_or_else(|| "mqtt://127.0.0.1:1883".to_owned()),
        };
        let text = format!(
            "# Who this device is to its hub. Keep it secret: whoever has the token is this device.\n\
             site = \"{}\"\ndevice = \"{device}\"\nbroker = \"{broker}\"\ntoken = \"{token}\"\nroot_public_key = \"{}\"\n",
            ctx.config.site,
            hex(&signer.root_public()),
        );
        std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut out| out.write_all(text.as_bytes()))
            .with_context(|| format!("write identity {}", path.display()))?;
    }
    database.close().await?;
    let said = json!({ "device": device, "new": new, "labels": labels, "identity": add.out });
    ctx.print(&said, || match (&add.out, new) {
        (Some(path), true) => format!(
            "Device {device} added; its identity is in {}.",
            path.display()
        ),
        (Some(path), false) => format!(
            "Device {device} has a new token; its identity is in {}.",
            path.display()
        ),
        (None, true) => format!("Device {device} added, without a token."),
        (None, false) => format!("Device {device} updated."),
    })
}

/// The running hub says where devices connect.
fn running_broker(ctx: &Context) -> Option<String> {
    let text = std::fs::read_to_string(ctx.config.serve_file()).ok()?;
    let value: Value = serde_json::from_str(&text).ok()?;
    value["broker"].as_str().map(str::to_owned)
}

async fn list(ctx: &Context) -> Result<()> {
    let database = ctx.database().await?;
    let mut devices = Vec::new();
    let mut after = String::new();
    loop {
        let page = database.store().devices(&after, 1_000).await?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.id);
        devices.extend(page);
    }
    database.close().await?;
    ctx.print(&devices, || {
        if devices.is_empty() {
            return "No devices yet; `fieldcast-hub device add NAME --out identity.toml` adds one."
                .to_owned();
        }
        let lines = devices.iter().map(|d| {
            let labels: Vec<String> = d.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let state = if d.online { "online" } else { "offline" };
            format!(
                "{:<24} {state:<8} {:<10} {}",
                d.id,
                d.agent_version,
                labels.join(" ")
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}
