//! `fieldcast-hub worker`: owns its options and output, never the work behind them.

use anyhow::{Result, bail};

use super::Context;

/// Options of `worker`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// Always: this version cannot do it yet.
pub async fn run(_ctx: &Context, _args: Args) -> Result<()> {
    bail!("`worker` is not part of this version")
}
