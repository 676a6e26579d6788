//! The command line: owns the options shared by all commands and their dispatch, never does their work.

pub mod backtest;
pub mod command;
pub mod consumer;
pub mod decode;
pub mod device;
pub mod drift;
pub mod experiment;
pub mod forecaster;
pub mod import;
pub mod key;
pub mod migrate;
pub mod model;
pub mod rollout;
pub mod run;
pub mod search;
pub mod serve;
pub mod simulate;
pub mod simulate_fleet;
mod tables;
pub mod train;
mod who;
pub mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use fieldcast_store::Store;
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::pg::Database;
use crate::signing::Signer;

/// Forecasting that lives on the device: the hub of a fleet.
#[derive(Debug, Parser)]
#[command(
    name = "fieldcast-hub",
    version,
    after_help = "FIELDCAST_LOG=debug says more of what it does, or by module: info,fieldcast_hub::drift=trace"
)]
struct Cli {
    /// Keys, private database and everything else the hub keeps; by default /var/lib/fieldcast-hub of root, for others
    /// fieldcast-hub in $XDG_DATA_HOME or ~/.local/share.
    #[arg(long, global = true, value_name = "DIR", env = "FIELDCAST_HUB_DIR")]
    data_dir: Option<PathBuf>,
    /// A PostgreSQL to use instead of the private one.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "DATABASE_URL",
        hide_env_values = true
    )]
    database_url: Option<String>,
    /// Site name, the topic level above the devices.
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "FIELDCAST_SITE",
        default_value = "main"
    )]
    site: String,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub: ingest, REST, web page, workers.
    Serve(serve::Args),
    /// Run only a worker that takes jobs from the database.
    Worker(worker::Args),
    /// Bring the database to this version.
    Migrate(migrate::Args),
    /// Add and list devices.
    Device(device::Args),
    /// Let programs read what the hub republishes as JSON; at the embedded broker.
    Consumer(consumer::Args),
    /// Import history from files.
    Import(import::Args),
    /// Write generated data as CSV, or let a made fleet connect.
    Simulate(simulate::Args),
    /// Print a binary payload as JSON.
    Decode(decode::Args),
    /// Compare files for drift; needs no database.
    Drift(drift::Args),
    /// Define and list forecasters.
    Forecaster(forecaster::Args),
    /// Train a forecaster's next model.
    Train(train::Args),
    /// Judge a forecaster on the newest part of a CSV file, beside the baselines; needs no database.
    Backtest(backtest::Args),
    /// Try settings of the training on CSV files within a budget, keeping every trial; needs no database.
    Search(search::Args),
    /// Show model versions and champions.
    Model(model::Args),
    /// Show training runs.
    Run(run::Args),
    /// Show and steer rollouts.
    Rollout(rollout::Args),
    /// Compare two versions on randomised devices for a stated time.
    Experiment(experiment::Args),
    /// Show and change the keys by which devices know this hub.
    Key(key::Args),
    /// Tell a device to do something, and show what became of it.
    #[command(name = "command")]
    Tell(command::Args),
}

/// What every command gets.
#[derive(Debug, Clone)]
pub struct Context {
    /// Options shared by all commands.
    pub config: Config,
    /// Whether to print JSON.
    pub json: bool,
}

impl Context {
    /// The database of a hub that is there, migrated; keep the handle for as long as its store is used.
    ///
    /// # Errors
    /// A data directory without a hub, no PostgreSQL to start, or none that answers; says what to do.
    pub async fn database(&self) -> Result<Database> {
        Database::ensure_made(&self.config)?;
        self.new_database().await
    }

    /// The same, made where there is none: for what a hub may begin with.
    ///
    /// # Errors
    /// No PostgreSQL to start, or none that answers; says what to do.
    pub async fn new_database(&self) -> Result<Database> {
        let database = Database::open(&self.config).await?;
        database.store().migrate().await?;
        Ok(database)
    }

    /// The signing keys, where they are the database's.
    ///
    /// # Errors
    /// Keys that cannot be read or are not the database's; the database.
    pub async fn signer(&self, store: &Store) -> Result<Arc<Signer>> {
        let signer = Signer::open(&self.config.keys_dir())?;
        match signer.foreign(store).await? {
            None => Ok(Arc::new(signer)),
            Some(why) => bail!(why),
        }
    }

    /// Prints a value as JSON, or the text where `--json` was not given.
    ///
    /// # Errors
    /// The value cannot be written as JSON, or standard output is closed.
    pub fn print(
        &self,
        value: &impl serde::Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        let text = if self.json {
            serde_json::to_string_pretty(value)?
        } else {
            text()
        };
        Self::say(&text)
    }

    /// The same as one line of several: JSON without line breaks.
    ///
    /// # Errors
    /// As [`Self::print`].
    pub fn line(&self, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<()> {
        let text = if self.json {
            serde_json::to_string(value)?
        } else {
            text()
        };
        Self::say(&text)
    }

    fn say(text: &str) -> Result<()> {
        use std::io::Write as _;
        writeln!(std::io::stdout(), "{}", text.trim_end())?;
        Ok(())
    }
}

/// Parses the arguments, runs the command, and prints its error.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Where 1 means drift, an error must be another number.
    let failed = match cli.command {
        Command::Drift(_) => ExitCode::from(drift::FAILED),
        _ => ExitCode::FAILURE,
    };
    let serving = matches!(cli.command, Command::Serve(_) | Command::Worker(_));
    start_log(serving);
    // Two TLS stacks in one process need a provider named before the first handshake.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli)));
    match result {
        Ok(code) => code,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "fieldcast-hub: {error:#}");
            failed
        }
    }
}

fn start_log(serving: bool) {
    // The broker's library warns of each client that is refused; the hub itself says why, and when there are too many.
    let default = if serving {
        "info,mqtt5=error,rumqttc=warn,sqlx=warn,tract=warn"
    } else {
        "warn"
    };
    let filter =
        EnvFilter::try_from_env("FIELDCAST_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let ctx = Context {
        config: Config::new(cli.data_dir, cli.database_url, cli.site)?,
        json: cli.json,
    };
    let done = match cli.command {
        Command::Drift(args) => return drift::run(&ctx, &args),
        Command::Serve(args) => serve::run(&ctx, args).await,
        Command::Worker(args) => worker::run(&ctx, args).await,
        Command::Migrate(args) => migrate::run(&ctx, args).await,
        Command::Device(args) => device::run(&ctx, args).await,
        Command::Consumer(args) => consumer::run(&ctx, args).await,
        Command::Import(args) => import::run(&ctx, args).await,
        Command::Simulate(args) => simulate::run(&ctx, args).await,
        Command::Decode(args) => decode::run(&ctx, args).await,
        Command::Forecaster(args) => forecaster::run(&ctx, args).await,
        Command::Train(args) => train::run(&ctx, args).await,
        Command::Backtest(args) => backtest::run(&ctx, &args),
        Command::Search(args) => search::run(&ctx, &args),
        Command::Model(args) => model::run(&ctx, args).await,
        Command::Run(args) => run::run(&ctx, args).await,
        Command::Experiment(args) => experiment::run(&ctx, args).await,
        Command::Key(args) => key::run(&ctx, args).await,
        Command::Tell(args) => command::run(&ctx, args).await,
        Command::Rollout(args) => return rollout::run(&ctx, args).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
