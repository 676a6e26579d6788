//! The files of a clean Debian: owns making them from the machine's own mirror, once, and saying why that cannot be.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::output;

/// Cargo's folder for what it builds: the test's own executable lies in `debug/deps` of it.
pub(super) fn target() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the test's own executable")?;
    let target = own.ancestors().nth(3).context("find the target folder")?;
    Ok(target.to_path_buf())
}

/// A minimal root with systemd, made at the first call; none, said aloud, where it cannot be made.
pub(super) fn tarball() -> Result<Option<PathBuf>> {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return Ok(None);
    }
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let Some(codename) = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
    else {
        println!("skipped: /etc/os-release names no release of Debian or Ubuntu");
        return Ok(None);
    };
    let made = target()?.join(format!("package-root-{codename}.tar"));
    if made.is_file() {
        return Ok(Some(made));
    }
    let work = tempfile::Builder::new()
        .prefix("package-root-")
        .tempdir_in(target()?)?;
    let part = work.path().join("root.tar");
    let mut make = Command::new("mmdebstrap");
    // The binary needs the machine's own glibc or an older one: the same release has it.
    make.args(["--variant=minbase", "--include=systemd", codename])
        .arg(&part);
    let sources = sources(Path::new("/etc/apt"), codename);
    if sources.is_empty() {
        println!("skipped: /etc/apt names no source of {codename}");
        return Ok(None);
    }
    make.args(sources);
    // How this machine reaches its mirror (a proxy, an old snapshot) is how the root is made too.
    let settings = work.path().join("apt.conf");
    let dump = output(Command::new("apt-config").args(["dump", "Acquire"]))?;
    std::fs::write(&settings, dump)?;
    make.arg(format!("--aptopt={}", settings.display()));
    if let Err(error) = output(&mut make) {
        println!("skipped: no clean root could be made: {error:#}");
        return Ok(None);
    }
    std::fs::rename(&part, &made)?;
    Ok(Some(made))
}

/// Why this machine cannot make or boot a system.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("installing a package needs root; run the tests as root".into());
    }
    for program in [
        "mmdebstrap",
        "systemd-nspawn",
        "unshare",
        "nsenter",
        "dpkg-deb",
    ] {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
            return Some(format!(
                "{program} is not installed (cargo xtask test installs it on Debian)"
            ));
        }
    }
    let mut probe = Command::new("unshare");
    probe.args([
        "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "true",
    ]);
    let refused = output(&mut probe).err()?;
    Some(format!("this root may not make namespaces: {refused:#}"))
}

/// The machine's source files that name this release; other publishers' files name other suites.
fn sources(apt: &Path, codename: &str) -> Vec<PathBuf> {
    let parts = std::fs::read_dir(apt.join("sources.list.d"));
    let parts = parts.into_iter().flatten().flatten().map(|f| f.path());
    let mut files: Vec<PathBuf> = parts
        .filter(|f| f.extension().is_some_and(|e| e == "list" || e == "sources"))
        .chain([apt.join("sources.list")])
        .filter(|f| {
            let text = std::fs::read_to_string(f).unwrap_or_default();
            let mut lines = text
                .lines()
                .filter(|line| !line.trim_start().starts_with('#'));
            lines.any(|line| line.split_whitespace().any(|word| word == codename))
        })
        .collect();
    files.sort();
    files
}
