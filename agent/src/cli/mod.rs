//! Command line: parses arguments and prints; the work is done elsewhere.

mod memory;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Config;
use crate::control::Control;
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
        Command::CompareEngines => engine_check::be_asked(),
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

/// Levels by target, such as `debug` or `info,fieldcast_agent::uplink=trace`; `info` where nothing is asked for, or
/// nothing that can be read: a typing error must not keep a device from its work.
fn log_filter(text: &str) -> (Targets, Option<String>) {
    let info = || Targets::new().with_default(LevelFilter::INFO);
    if text.trim().is_empty() {
        return (info(), None);
    }
    match text.parse() {
        Ok(filter) => (filter, None),
        Err(e) => {
            let problem = format!(
                "`{text}` is no log filter ({e}); write `debug`, or `info,fieldcast_agent::uplink=trace`"
            );
            (info(), Some(problem))
        }
    }
}

fn run(config: &std::path::Path) -> anyhow::Result<()> {
    memory::settle();
    let format = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false);
    let asked = std::env::var("FIELDCAST_LOG").unwrap_or_default();
    let (filter, problem) = log_filter(&asked);
    let (filter, changing) = reload::Layer::new(filter);
    tracing_subscriber::registry()
        .with(format.with_filter(filter))
        .init();
    let set = move |text: &str| {
        let text = if text.is_empty() { &asked } else { text };
        match log_filter(text) {
            (filter, None) => changing.reload(filter).map_err(|e| e.to_string()),
            (_, Some(problem)) => Err(format!("{problem}; nothing was changed")),
        }
    };
    if let Some(problem) = problem {
        tracing::warn!("{problem}; `info` is taken");
    }
    let config = Config::load(config)?;
    let control = Control::new(CancellationToken::new(), Arc::new(set));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()?;
    runtime.block_on(async {
        let (mut term, mut int) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let stop = control.stop().clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            stop.cancel();
        });
        crate::app::run(config, control.clone()).await
    })?;
    drop(runtime);
    if control.restarts() {
        return Err(memory::again([]))
            .context("start again; start the agent with `fieldcast-agent run`");
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_told_and_info_taken() {
        let info = Targets::new().with_default(LevelFilter::INFO);
        assert_eq!(log_filter(" "), (info.clone(), None));
        let (filter, problem) = log_filter("info,fieldcast_agent::uplink=loud");
        assert_eq!(filter, info);
        assert!(problem.is_some_and(|p| p.contains("loud") && p.contains("write `debug`")));
        let (filter, problem) = log_filter("warn,rumqttc=debug");
        let debug = LevelFilter::DEBUG;
        assert_eq!(problem, None);
        assert_eq!(
            filter,
            Targets::new()
                .with_default(LevelFilter::WARN)
                .with_target("rumqttc", debug)
        );
    }
}
