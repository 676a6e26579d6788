//! `cargo xtask demo`: owns the story told on one machine; the product is driven as processes and over REST only.

mod http;
mod process;
mod progress;
mod report;
mod series;
mod stage;
mod story;
mod table;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::command::{self, cargo, target_dir};
use crate::install::{self, Need};
use process::{Group, Interrupt};
use progress::Progress;
use stage::Stage;

/// How the demonstration runs.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// End after the summary instead of keeping the page running until Ctrl-C.
    #[arg(long)]
    exit: bool,
    /// Real data instead of generated: one series as CSV.
    #[arg(long, requires = "forecaster")]
    csv: Option<PathBuf>,
    /// The forecaster's definition for `--csv` (TOML).
    #[arg(long, requires = "csv")]
    forecaster: Option<PathBuf>,
    /// Column of the time in `--csv`; twice for a date column and one of hours.
    #[arg(long = "time-column", default_value = "time")]
    time_columns: Vec<String>,
    /// Generated data without any change of the world: nothing should drift.
    #[arg(long, conflicts_with = "csv")]
    control: bool,
    /// Seconds over which the agents replay what is not history.
    #[arg(long, default_value_t = 100.0)]
    replay_seconds: f64,
    /// Share of the rows that is imported as history before the agents start.
    #[arg(long, default_value_t = 0.6)]
    history: f64,
}

/// An empty folder that the private database's own user can reach, unlike one below a home directory: the database then
/// lives inside it and goes with it.
fn folder() -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!(
        "fieldcast-demo-{}",
        rustix::process::geteuid().as_raw()
    ));
    if dir.exists() {
        if let Some(pid) = running_hub(&dir) {
            anyhow::bail!(
                "a demonstration runs already (its hub is process {pid}); end it with Ctrl-C first"
            );
        }
        std::fs::remove_dir_all(&dir).with_context(|| format!("clear {}", dir.display()))?;
    }
    // Not with its parents: in a folder that all may write to, a name that somebody else made is refused.
    std::fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("open {} to the database's user", dir.display()))?;
    Ok(dir)
}

/// The hub that `serve.json` names, if it lives.
fn running_hub(dir: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(dir.join("hub/serve.json")).ok()?;
    let pid = serde_json::from_str::<serde_json::Value>(&text).ok()?["pid"].as_u64()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    name.starts_with("fieldcast-hub").then_some(pid)
}

/// How long the slowest steps may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs the demonstration.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    anyhow::ensure!(
        args.history > 0.0 && args.history < 1.0,
        "--history must lie between 0 and 1, such as 0.6"
    );
    anyhow::ensure!(
        args.replay_seconds > 0.0,
        "--replay-seconds must be above 0, such as 100"
    );
    install::ensure(&[Need::Postgres])?;
    command::execute(cargo()?.args([
        "build",
        "--release",
        "--bins",
        "-p",
        "fieldcast-hub",
        "-p",
        "fieldcast-agent",
    ]))?;

    let interrupt = Interrupt::listen()?;
    let target = target_dir()?;
    let dir = folder()?;
    let mut progress = Progress::new();
    let mut group = Group::new(&dir, interrupt.clone());
    let mut stage = Stage::new(&target.join("release"), &dir, args)?;

    stage.start_hub(&mut group)?;
    progress.say(&format!(
        "hub up with its own PostgreSQL and MQTT broker: {}",
        stage.client()?.url("/")
    ));
    stage.prepare_data()?;
    for line in stage.describe() {
        progress.say(&line);
    }
    stage.import()?;
    progress.say("history imported");
    let name = stage.definition.name.clone();
    stage.hub(&["train", &name])?;
    let first = stage
        .champion()?
        .context("`fieldcast-hub train` ended without a champion")?;
    progress.say(&format!("first model trained: version {first} of `{name}`"));

    stage.start_agents(&mut group)?;
    progress.say(&format!("{} agents replay the rest", stage.devices().len()));
    stage.watch(
        &mut group,
        &mut progress,
        Duration::from_secs_f64(args.replay_seconds),
        PATIENCE,
    )?;
    println!("\n{}", report::summary(&stage)?);
    println!(
        "\n{:.0} s after the build; logs and data are in {}",
        progress.seconds(),
        dir.display()
    );
    if args.exit {
        return Ok(());
    }
    println!(
        "the hub and its agents keep running: {} (Ctrl-C ends them)",
        stage.client()?.url("/")
    );
    while !interrupt.raised() {
        group.check()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("ending");
    Ok(())
}
