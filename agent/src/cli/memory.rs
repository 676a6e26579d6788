//! How the allocator of a running agent keeps its memory: owns these settings, never what is allocated.
//!
//! glibc keeps freed memory, for each thread apart, and more of it the larger the pieces were: fitting a ridge or reading a file
//! once would cost megabytes for good. It reads its settings from the environment at the start of a program only, and setting
//! them later takes unsafe code; so the agent starts itself once more, in place.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// One heap for all threads; pieces of 32 KiB lie outside of it, its end goes back above 16 KiB, and no thread keeps freed pieces
/// to itself, which would hold that end where it is.
const SETTINGS: [(&str, &str); 5] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "32768"),
    ("MALLOC_TRIM_THRESHOLD_", "16384"),
    ("MALLOC_TOP_PAD_", "8192"),
    ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"),
];

/// Goes on as the same process with the settings; returns where somebody has made some, or where that is not possible here: more
/// memory is no reason to stop.
pub(super) fn settle() {
    if made(|name| std::env::var_os(name)) {
        return;
    }
    let error = again(SETTINGS);
    super::say(
        &mut std::io::stderr(),
        &format!("starting with smaller memory: {error}; the agent runs with more"),
    );
}

/// Starts the program again as the same process, with more in its environment; returns only where that is not possible.
pub(super) fn again<const N: usize>(more: [(&str, &str); N]) -> std::io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(e) => return e,
    };
    let mut arguments = std::env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    again.args(arguments).envs(more).exec()
}

fn made(environment: impl Fn(&str) -> Option<OsString>) -> bool {
    SETTINGS.iter().any(|(name, _)| environment(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_made_once_and_somebody_elses_are_kept() {
        assert!(!made(|_| None));
        assert!(made(|name| (name == "MALLOC_ARENA_MAX").then(|| "4".into())));
        let ours = |name: &str| SETTINGS.iter().find(|s| s.0 == name).map(|s| s.1.into());
        assert!(made(ours));
    }
}
