//! Command line: parses arguments and prints; the work is done elsewhere.

mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::update::engine_check;

/// Reads sensors, buffers, forecasts and measures drift on the device, with and without its hub.
#[derive(Debug, Parser)]
#[command(name = "fieldcast-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent until SIGTERM or SIGINT.
    Run {
        /// The configuration file.
        #[arg(long, default_value = "/etc/fieldcast/agent.toml")]
        config: PathBuf,
    },
    /// Check a configuration and the files it names, without running.
    Check {
        /// The configuration file.
        #[arg(long, default_value = "/etc/fieldcast/agent.toml")]
        config: PathBuf,
    },
    /// Show what a running agent does.
    Status {
        /// The configuration file.
        #[arg(long, default_value = "/etc/fieldcast/agent.toml")]
        config: PathBuf,
        /// Print the facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Compare what can run a model; the agent asks itself.
    #[command(name = engine_check::COMMAND, hide = true)]
    CompareEngines,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run { config } => run(&config),
        Command::Check { config } => check(&config),
        Command::Status { config, json } => status::show(&config, json),
        Command::CompareEngines => engine_check::serve(std::io::stdin(), &mut std::io::stdout()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&mut std::io::stderr(), &format!("fieldcast-agent: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line; a closed pipe is no reason to fail.
fn say(to: &mut impl std::io::Write, line: &str) {
    let _ = writeln!(to, "{line}");
}

fn run(config: &std::path::Path) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FIELDCAST_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
    let config = Config::load(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let (mut term, mut int) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let asked = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            asked.cancel();
        });
        crate::app::run(config, stop).await
    })
}

fn check(file: &std::path::Path) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    if let Some(identity) = &config.identity {
        let (_, warning) = crate::identity::Identity::read(identity)?;
        if let Some(warning) = warning {
            say(&mut std::io::stderr(), &warning);
        }
    }
    let line = format!(
        "{} is in order: {} sources, {} forecasters, {}",
        file.display(),
        config.sources.len(),
        config.forecasters.len(),
        if config.identity.is_some() {
            "with an identity"
        } else {
            "without an identity (unconnected)"
        }
    );
    say(&mut std::io::stdout(), &line);
    Ok(())
}
