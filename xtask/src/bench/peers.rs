//! What others made and we are measured against: owns their virtual environments outside the repository, never a measurement.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::execute;

/// A Python that can import `packages` (`name==version`), in an environment of its own called `name` in the user's cache.
///
/// # Errors
/// No Python, or PyPI does not give the packages.
pub(crate) fn python(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let room = cache()?.join("fieldcast/peers").join(name);
    let python = room.join("bin/python");
    // Written last, so that half an environment is made again.
    let list = room.join("packages.txt");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&list).is_ok_and(|made| made == wanted) && python.exists() {
        return Ok(python);
    }
    eprintln!(
        "bench: making {} with {}",
        room.display(),
        packages.join(", ")
    );
    let base = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    std::fs::create_dir_all(&room).with_context(|| format!("create {}", room.display()))?;
    execute(
        Command::new(base)
            .args(["-m", "venv", "--clear"])
            .arg(&room),
    )
    .context("make a Python environment; install python3-venv, or name another Python in PYTHON")?;
    execute(
        Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(packages),
    )?;
    std::fs::write(&list, wanted).with_context(|| format!("write {}", list.display()))?;
    Ok(python)
}

/// The user's cache, as the XDG base directory specification has it.
fn cache() -> Result<PathBuf> {
    cache_of(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))
}

fn cache_of(xdg: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> Result<PathBuf> {
    let absolute = |dir: std::ffi::OsString| {
        let dir = PathBuf::from(dir);
        dir.is_absolute().then_some(dir)
    };
    let dir = match xdg.and_then(absolute) {
        Some(dir) => dir,
        None => {
            let home = home.and_then(absolute);
            home.context("find a cache; set HOME or XDG_CACHE_HOME")?
                .join(".cache")
        }
    };
    let root = crate::command::root()?;
    ensure!(
        !inside(&dir, &root),
        "the cache {} lies in the repository: set XDG_CACHE_HOME to another folder",
        dir.display()
    );
    Ok(dir)
}

fn inside(dir: &Path, of: &Path) -> bool {
    dir.starts_with(of)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn the_cache_is_where_the_specification_says_and_never_in_the_repository() {
        let of = |xdg: Option<&str>, home: Option<&str>| {
            cache_of(xdg.map(Into::into), home.map(Into::into))
        };
        assert_eq!(of(Some("/c"), Some("/h")).unwrap(), Path::new("/c"));
        assert_eq!(of(None, Some("/h")).unwrap(), Path::new("/h/.cache"));
        assert_eq!(of(Some("c"), Some("/h")).unwrap(), Path::new("/h/.cache"));
        assert!(of(None, None).is_err());
        let root = crate::command::root().unwrap();
        assert!(of(root.join("c").to_str(), None).is_err());
    }
}
