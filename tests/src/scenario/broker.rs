//! The broker that a test's processes speak over: owns which one it is and its address, never what is said.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::Mosquitto;

/// `embedded`, `mosquitto`, or a broker that runs already: `mqtt://user:password@host:port`. Its users are the one named and
/// every device of the test by its own name, all with this password; or it lets everyone in.
const VARIABLE: &str = "FIELDCAST_TEST_BROKER";

/// A broker of a test.
#[derive(Debug)]
pub enum Broker {
    /// The hub's own.
    Embedded,
    /// One that this test started, and its folder.
    Mosquitto(Mosquitto, tempfile::TempDir),
    /// One that somebody runs.
    Given(String),
}

impl Broker {
    /// The one that the variable `FIELDCAST_TEST_BROKER` asks for; without it the hub's own.
    ///
    /// # Errors
    /// What it says is nothing of the kind, or there is no such broker.
    pub fn chosen() -> Result<Self> {
        let Some(said) = std::env::var_os(VARIABLE) else {
            return Ok(Self::Embedded);
        };
        match said.to_str() {
            Some("embedded") => Ok(Self::Embedded),
            Some("mosquitto") => Self::mosquitto()?.context(
                "FIELDCAST_TEST_BROKER asks for mosquitto; install it (apt-get install mosquitto)",
            ),
            Some(url) if url.starts_with("mqtt") => Ok(Self::Given(url.to_owned())),
            _ => bail!(
                "{VARIABLE} is `{}`; use embedded, mosquitto or mqtt://user:password@host:port",
                said.display()
            ),
        }
    }

    /// A Mosquitto; none, said aloud, where it is not installed.
    ///
    /// # Errors
    /// It does not start.
    pub fn mosquitto() -> Result<Option<Self>> {
        let Some(program) = Mosquitto::program() else {
            println!("skipped: mosquitto is not installed (cargo xtask test installs it)");
            return Ok(None);
        };
        let dir = tempfile::tempdir()?;
        Mosquitto::make(program, dir.path()).map(|m| Some(Self::Mosquitto(m, dir)))
    }

    /// One that runs already, by its address; none, said aloud, where no address is given.
    ///
    /// # Errors
    /// As [`Self::chosen`].
    pub fn given() -> Result<Option<Self>> {
        match Self::chosen()? {
            given @ Self::Given(_) => Ok(Some(given)),
            _ => {
                println!(
                    "skipped: no broker is given; `cargo xtask test --broker mqtt://user:password@host:port` takes any of MQTT 5"
                );
                Ok(None)
            }
        }
    }

    /// For a hub's `--broker`; none: its own.
    #[must_use]
    pub fn hub_url(&self) -> Option<String> {
        match self {
            Self::Embedded => None,
            Self::Mosquitto(broker, _) => Some(format!("mqtt://127.0.0.1:{}", broker.port)),
            Self::Given(url) => Some(url.clone()),
        }
    }

    /// A site that no earlier test left retained messages of; none where the broker keeps none.
    #[must_use]
    pub fn site(&self) -> Option<String> {
        let fresh = || format!("test-{}", uuid::Uuid::new_v4().simple());
        matches!(self, Self::Given(_)).then(fresh)
    }

    /// Points a device's identity at this broker.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn readdress(&self, identity: &Path) -> Result<()> {
        let Some(url) = self.hub_url() else {
            return Ok(());
        };
        let (scheme, rest) = url.split_once("://").context("an address has a scheme")?;
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => (login.split_once(':'), host),
            None => (None, rest),
        };
        let mut table: toml::Table = std::fs::read_to_string(identity)?.parse()?;
        table.insert("broker".into(), format!("{scheme}://{host}").into());
        if let Some((_, password)) = login {
            table.insert("token".into(), password.into());
        }
        std::fs::write(identity, table.to_string())?;
        Ok(())
    }
}
