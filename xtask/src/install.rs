//! Installs what the system lacks from Debian's packages, saying what it does; never anything that is there already.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{cargo, execute, find_program, target_dir};

/// Something a chore needs from the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The server's own programs; `psql` alone does not count.
    Postgres,
    /// The MQTT broker.
    Mosquitto,
    /// Makes a clean Debian root.
    Mmdebstrap,
    /// Boots one with a systemd of its own.
    Nspawn,
    /// Lets a process believe another time.
    Faketime,
}

impl Need {
    fn package(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Mosquitto => "mosquitto",
            Self::Mmdebstrap => "mmdebstrap",
            Self::Nspawn => "systemd-container",
            Self::Faketime => "faketime",
        }
    }

    fn is_there(self) -> bool {
        match self {
            Self::Postgres => find_program("initdb").is_some() || !postgres_folders().is_empty(),
            Self::Mosquitto => find_program("mosquitto").is_some(),
            Self::Mmdebstrap => find_program("mmdebstrap").is_some(),
            Self::Nspawn => find_program("systemd-nspawn").is_some(),
            Self::Faketime => find_program("faketime").is_some(),
        }
    }
}

/// Debian keeps each PostgreSQL's programs in a folder of its version.
fn postgres_folders() -> Vec<PathBuf> {
    let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") else {
        return Vec::new();
    };
    versions
        .flatten()
        .map(|v| v.path().join("bin"))
        .filter(|bin| bin.join("initdb").is_file())
        .collect()
}

/// Installs every missing need, as root or through `sudo -n`.
///
/// # Errors
/// Something is missing and cannot be installed here; says what to run.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&str> = needs
        .iter()
        .filter(|need| !need.is_there())
        .map(|need| need.package())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    let by_hand =
        format!("install it by hand: `sudo apt-get update && sudo apt-get install -y {packages}`");
    if find_program("apt-get").is_none() {
        bail!(
            "{packages} missing, and there is no apt-get here: install it with the system's package manager"
        );
    }
    let Some(prefix) = privileged() else {
        bail!("{packages} missing, and this is neither root nor a user with `sudo -n`; {by_hand}");
    };
    eprintln!("installing {packages} from the system's packages");
    let apt = |args: &[&str]| execute(privileged_command(prefix).args(args));
    let installed = apt(&["update", "-q"]).and_then(|()| {
        apt(&[
            &["install", "-q", "-y", "--no-install-recommends"],
            &missing[..],
        ]
        .concat())
    });
    if let Err(error) = installed {
        bail!("{error}; {by_hand}");
    }
    match needs.iter().find(|need| !need.is_there()) {
        None => Ok(()),
        Some(need) => bail!(
            "{} was installed but its programs are not found; {by_hand}",
            need.package()
        ),
    }
}

/// Installs one where it can, else says what is left out.
pub(crate) fn or_skip(need: Need, left_out: &str) {
    if let Err(error) = ensure(&[need]) {
        eprintln!("skipped: {left_out}: {error:#}");
    }
}

/// A program of crates.io: this machine's, or one built once in the target directory, unoptimised.
///
/// # Errors
/// It cannot be built.
pub(crate) fn cargo_tool(name: &str, version: &str, flags: &[&str]) -> Result<PathBuf> {
    if let Some(installed) = find_program(name) {
        return Ok(installed);
    }
    let tools = target_dir()?.join("tools");
    let own = tools.join("bin").join(name);
    if !own.is_file() {
        eprintln!(
            "{name} is not installed: building it once, under {}",
            tools.display()
        );
        execute(
            cargo()?
                .args(["install", name, "--version", version, "--locked", "--debug"])
                .args(flags)
                .arg("--root")
                .arg(&tools),
        )?;
    }
    Ok(own)
}

/// Whether and how commands can run as root: directly, or through sudo without a question.
pub(crate) fn privileged() -> Option<&'static [&'static str]> {
    if rustix::process::geteuid().is_root() {
        return Some(&[]);
    }
    let asks_nothing = Path::new("/usr/bin/sudo").is_file()
        && Command::new("sudo")
            .args(["-n", "true"])
            .output()
            .is_ok_and(|out| out.status.success());
    asks_nothing.then_some(&["sudo", "-n"])
}

fn privileged_command(prefix: &[&str]) -> Command {
    let words: Vec<&str> = [
        prefix,
        &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"],
    ]
    .concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}
