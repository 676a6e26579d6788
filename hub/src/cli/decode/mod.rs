//! `fieldcast-hub decode`: prints any payload as JSON; owns the choice of the kind, never the formats.

mod show;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use fieldcast_wire::message::{self, Capped};
use fieldcast_wire::{batch, pb};
use serde_json::{Value, json};

use super::Context;
use crate::leader::state_json;

/// Options of `decode`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the payload is: a kind (batch, sync, state, presence, blob, block, ack, desired, json, bundle), the topic that
    /// it came on, or `auto`.
    #[arg(value_parser = kind)]
    kind: Kind,
    /// File with the payload; `-` or nothing: standard input.
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Whichever it fits.
    Auto,
    /// `up/t/live`, `up/t/back`.
    Batch,
    /// `up/sync`.
    Sync,
    /// `up/state`.
    State,
    /// `up/presence`.
    Presence,
    /// `up/blob`.
    Blob,
    /// `dn/blob`, `dn/blob/<sha256>/<n>`.
    Block,
    /// `dn/ack`.
    Ack,
    /// `dn/desired`.
    Desired,
    /// `up/json`, `dn/json` and what consumers read under `out`.
    Json,
    /// A model's file.
    Bundle,
}

/// A kind by its name or by a topic's end.
fn kind(text: &str) -> Result<Kind, String> {
    let topic = text.split_once("/up/").or(text.split_once("/dn/"));
    let name = match topic.map(|(_, leaf)| leaf) {
        Some("t/live" | "t/back") => "batch",
        Some(leaf) if text.contains("/dn/blob/") && !leaf.is_empty() => "block",
        Some(_) if text.ends_with("/dn/blob") => "block",
        Some(leaf) => leaf,
        None if text.contains("/out/") => "json",
        None => text,
    };
    Kind::from_str(name, false)
        .map_err(|_| format!("`{text}` is neither a kind of payload nor a topic that has one"))
}

/// Decodes and prints.
///
/// # Errors
/// The file cannot be read, or is not such a payload.
pub async fn run(_ctx: &Context, args: Args) -> Result<()> {
    let bytes = read(args.file)?;
    let value = decoded(args.kind, &bytes)?;
    writeln!(std::io::stdout(), "{value:#}")?;
    Ok(())
}

fn read(file: Option<PathBuf>) -> Result<Vec<u8>> {
    match file.filter(|f| f.as_os_str() != "-") {
        Some(file) => {
            std::fs::read(&file).with_context(|| format!("read payload {}", file.display()))
        }
        None => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .context("read the payload from standard input")?;
            Ok(bytes)
        }
    }
}

fn decoded(kind: Kind, bytes: &[u8]) -> Result<Value> {
    Ok(match kind {
        Kind::Auto => return guessed(bytes),
        Kind::Batch => show::batch(&batch::decode(bytes)?, bytes),
        Kind::Sync => show::sync(&message::receive(bytes)?),
        Kind::State => state_json(&message::receive(bytes)?),
        Kind::Presence => show::presence(&message::receive(bytes)?),
        Kind::Blob => show::blocks(&message::receive(bytes)?),
        Kind::Block => show::block(bytes),
        Kind::Ack => show::ack(&message::receive(bytes)?),
        Kind::Desired => show::desired(&message::receive(bytes)?)?,
        Kind::Json => serde_json::from_slice(bytes).context("read the payload as JSON")?,
        Kind::Bundle => show::bundle(bytes)?,
    })
}

/// As the one kind that it fits. A message fits where it encodes to these very bytes again: unknown fields are lost there.
fn guessed(bytes: &[u8]) -> Result<Value> {
    fn same<M: Capped>(bytes: &[u8]) -> bool {
        message::receive::<M>(bytes).is_ok_and(|m| message::encode(&m) == bytes)
    }
    for kind in [Kind::Json, Kind::Batch, Kind::Bundle] {
        if let Ok(value) = decoded(kind, bytes) {
            return Ok(json!({"kind": name(kind), "payload": value}));
        }
    }
    let fits = [
        (Kind::Ack, same::<pb::Ack>(bytes)),
        (Kind::Sync, same::<pb::Sync>(bytes)),
        (Kind::State, same::<pb::State>(bytes)),
        (Kind::Presence, same::<pb::Presence>(bytes)),
        (Kind::Blob, same::<pb::BlobRequest>(bytes)),
        (Kind::Desired, same::<pb::Desired>(bytes)),
    ];
    let fits: Vec<Kind> = fits
        .into_iter()
        .filter(|(kind, fits)| *fits && decoded(*kind, bytes).is_ok())
        .map(|(kind, _)| kind)
        .collect();
    match fits[..] {
        [kind] => Ok(json!({"kind": name(kind), "payload": decoded(kind, bytes)?})),
        [] => bail!("the payload fits no kind; name one to see what is wrong with it"),
        _ => {
            let names: Vec<String> = fits.into_iter().map(name).collect();
            bail!("the payload fits {}; name one", names.join(" and "))
        }
    }
}

fn name(kind: Kind) -> String {
    kind.to_possible_value()
        .map_or_else(String::new, |v| v.get_name().to_owned())
}

#[cfg(test)]
mod tests;
