//! `fieldcast-hub decode`: prints a binary payload as JSON, never changes anything.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Context;
use crate::leader::decode_payload;

/// Options of `decode`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// batch, state, ack, sync, presence or desired.
    kind: String,
    /// File with the payload; none: standard input.
    file: Option<PathBuf>,
}

/// Prints the payload.
///
/// # Errors
/// A file that cannot be read, or bytes that are not of this kind.
pub async fn run(_ctx: &Context, args: Args) -> Result<()> {
    use std::io::Write as _;
    let bytes = match &args.file {
        Some(file) => std::fs::read(file).with_context(|| format!("read {}", file.display()))?,
        None => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .read_to_end(&mut bytes)
                .context("read standard input")?;
            bytes
        }
    };
    let value = decode_payload(&args.kind, &bytes)?;
    writeln!(
        std::io::stdout(),
        "{}",
        serde_json::to_string_pretty(&value)?
    )?;
    Ok(())
}
