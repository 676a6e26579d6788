//! Jumps of a device's wall clock: owns when and whither, and the library that makes an agent believe it.
//!
//! The machine's own clock is left alone: libfaketime stands between the agent and the C library. Process time goes on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::plan::{Plan, Step, Timed, around};
use super::random::Random;

/// Where a clock jumps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Jump {
    /// So many seconds off the machine's clock.
    Off(i64),
    /// As a device without a battery-backed clock wakes up.
    To1970,
}

impl Jump {
    fn text(self) -> String {
        match self {
            Self::Off(seconds) => format!("{seconds:+}\n"),
            Self::To1970 => "@1970-01-01 00:00:10\n".to_owned(),
        }
    }
}

/// The library; none, said aloud, where it is not installed.
pub(crate) fn library() -> Option<PathBuf> {
    let found = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|file| file.is_file());
    if found.is_none() {
        println!(
            "skipped: clocks do not jump, since libfaketime is not installed (apt-get install faketime)"
        );
    }
    found
}

/// The environment in which an agent's wall clock is what `file` says, read anew every second.
pub(crate) fn environment(library: &Path, file: &Path) -> Result<Vec<(String, String)>> {
    set(file, Jump::Off(0))?;
    Ok([
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .to_vec())
}

pub(crate) fn set(file: &Path, jump: Jump) -> Result<()> {
    // Replaced as a whole: a reader must not see half of it.
    let new = file.with_extension("new");
    std::fs::write(&new, jump.text())?;
    Ok(std::fs::rename(&new, file)?)
}

pub(crate) fn steps(plan: &Plan, random: &mut Random) -> Vec<Timed> {
    let mut steps = Vec::new();
    let every = (plan.duration / 4).min(Duration::from_secs(40));
    let mut at = around(every / 2, random);
    while at < plan.duration {
        let device = random.index(plan.devices);
        let jump = match random.below(4) {
            0 => Jump::To1970,
            1 => Jump::Off(0),
            _ => Jump::Off(i64::try_from(random.below(20 * 3_600)).unwrap_or(0) - 10 * 3_600),
        };
        steps.push((at, Step::Jump(device, jump)));
        at += around(every, random);
    }
    steps
}
