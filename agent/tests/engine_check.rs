//! Which engine runs a bundle's model: what the other process says, what is remembered of it, and what happens without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "tests; not all of the support is used here"
)]

mod update_support;

use std::path::{Path, PathBuf};

use fieldcast_agent::update::bundles::{Bundles, Loaded};
use fieldcast_agent::update::{Installed, engine_check};
use fieldcast_bundle::KeyRing;
use fieldcast_wire::Sha256;
use ring::signature::KeyPair;
use update_support::{bundle, key, key_list, naive};

const AGENT: &str = env!("CARGO_BIN_EXE_fieldcast-agent");

/// A bundle on disk, and how it is loaded.
struct Stored {
    dir: tempfile::TempDir,
    sha: String,
}

impl Stored {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bytes = bundle(&naive(0.0), 1, 0.0);
        let sha = Sha256::of(&bytes).to_string();
        let bundles = Bundles::new(dir.path());
        std::fs::create_dir_all(bundles.folder()).unwrap();
        std::fs::write(bundles.path(&sha), bytes).unwrap();
        Self { dir, sha }
    }

    fn load(&self, checker: &Path) -> Loaded {
        let mut ring = KeyRing::new(key(1).public_key().as_ref().try_into().unwrap());
        ring.accept(&key_list()).unwrap();
        let bundles = Bundles::new(self.dir.path()).checked_by(checker);
        let installed = Installed {
            sha: self.sha.clone(),
            version: 1,
        };
        bundles.load("demand", &installed, &ring, Some(1)).unwrap()
    }

    fn note(&self) -> PathBuf {
        let folder = Bundles::new(self.dir.path()).folder().to_owned();
        folder.join(format!("{}.agrees", self.sha))
    }

    /// A program that answers every question by running `script`.
    fn program(&self, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let program = self.dir.path().join("checker");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }
}

#[test]
fn kernels_run_what_the_other_process_has_compared_once() {
    let stored = Stored::new();
    assert_eq!(stored.load(Path::new(AGENT)).slot.engine, "fused kernels");
    let note = std::fs::read_to_string(stored.note()).unwrap();
    assert!(!note.is_empty());
    // The same program is believed without being asked again ...
    let silent = stored.program("exit 1");
    let here = engine_check::identity(Some(&silent)).unwrap();
    std::fs::write(stored.note(), here).unwrap();
    assert_eq!(stored.load(&silent).slot.engine, "fused kernels");
    // ... and another one is not.
    std::fs::write(stored.note(), note).unwrap();
    assert!(stored.load(&silent).slot.engine.starts_with("tract ("));
}

#[test]
fn without_an_answer_tract_runs_the_model() {
    let stored = Stored::new();
    for (script, why) in [
        (
            "cat > /dev/null; echo they differ >&2; exit 1",
            "they differ",
        ),
        (
            "cat > /dev/null; echo the engines agree on nothing",
            "no word",
        ),
        ("exit 0", "the process that checks"),
        ("kill -9 $$", "the process that checks"),
    ] {
        let loaded = stored.load(&stored.program(script));
        let engine = &loaded.slot.engine;
        assert!(
            engine.starts_with("tract (") && engine.contains(why),
            "{engine}"
        );
        assert!(!stored.note().exists());
    }
    let nobody = stored.dir.path().join("nobody");
    assert!(stored.load(&nobody).slot.engine.contains("No such file"));
}

#[test]
fn a_question_that_is_none_gets_no_answer() {
    let mut said = Vec::new();
    assert!(engine_check::serve(&b""[..], &mut said).is_err());
    assert!(engine_check::serve(&b"{}\nonnx"[..], &mut said).is_err());
    assert!(said.is_empty());
}
