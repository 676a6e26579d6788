//! Names the commit that the hub is built from: owns asking git for it, never fails a build that has no git.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The log grows with every commit and checkout; HEAD names another branch without it.
    for path in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", path])
            && std::path::Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    // A package unpacked inside some other repository is not that repository's commit.
    let own = git(&["ls-files", "--error-unmatch", "build.rs"]).is_some();
    let version = match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(commit) if own => format!("{version}+{commit}"),
        _ => version,
    };
    println!("cargo::rustc-env=FIELDCAST_CODE_VERSION={version}");
}

/// What git says in the crate's folder; none where there is no git, no repository, or it refuses.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
