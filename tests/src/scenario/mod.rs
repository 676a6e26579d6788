//! Real hub and agent processes for end-to-end tests: owns starting, feeding, asking and ending them.

mod agent;
mod broker;
mod feed;
mod hub;
mod mosquitto;
pub(crate) mod process;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use agent::{AgentOptions, AgentProcess};
pub(crate) use agent::{tail, terminate};
pub use broker::Broker;
pub use feed::Feed;
pub use hub::{HubOptions, HubProcess};
pub use mosquitto::Mosquitto;

/// Where the programs under test are: `FIELDCAST_BIN_DIR`, or beside the test's own executable.
///
/// # Errors
/// Where the program was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("FIELDCAST_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let own = std::env::current_exe().context("find the test's own executable")?;
            // A program lies in the folder of the build, a test one below it.
            own.ancestors()
                .skip(1)
                .take(2)
                .find(|dir| dir.join(name).is_file())
                .or_else(|| own.parent())
                .context("find the build directory")?
                .to_path_buf()
        }
    };
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "{} is not built: run `cargo xtask test`, or `cargo build --workspace --bins` first",
            path.display()
        );
    }
    Ok(path)
}

/// Asks until there is an answer; the last refusal is part of the error.
///
/// # Errors
/// No answer before the deadline, or the question itself failed for good.
pub fn wait_for<T>(
    what: &str,
    within: Duration,
    ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    wait_calmly(what, within, Duration::from_millis(100), ask)
}

/// The same with a pause of that length between two questions, where they cost what is measured.
///
/// # Errors
/// As above.
pub fn wait_calmly<T>(
    what: &str,
    within: Duration,
    pause: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut refusal = None;
    loop {
        match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(e) => refusal = Some(e),
        }
        if start.elapsed() > within {
            return match refusal {
                Some(e) => Err(e.context(format!("waited {within:?} for {what}"))),
                None => bail!("waited {within:?} in vain for {what}"),
            };
        }
        std::thread::sleep(pause);
    }
}
