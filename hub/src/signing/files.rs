//! The files of the private keys: owns reading, making and moving them, never what is signed.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::{hex, key_id, unhex32};

/// The root's private half; away where it is kept offline.
const ROOT: &str = "root.pk8";
/// Its public half, which stays.
const ROOT_PUBLIC: &str = "root.pub";
/// The first hub key. Later ones have their ids in their names.
const FIRST: &str = "hub.pk8";

/// The folder of the keys.
#[derive(Debug, Clone)]
pub(super) struct KeyFiles {
    pub(super) dir: PathBuf,
}

/// The root as far as it is here.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) public: [u8; 32],
    pub(super) private: Option<Ed25519KeyPair>,
}

impl KeyFiles {
    /// The folder, made where it is not there; in a new one a root and a first hub key are made.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("create key directory {}", dir.display()))?;
        let files = Self {
            dir: dir.to_path_buf(),
        };
        let away = files.path(ROOT_PUBLIC).exists();
        if !away {
            make(&files.path(ROOT))?;
        }
        if !away || files.hub_paths()?.is_empty() {
            make(&files.path(FIRST))?;
        }
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn hub_paths(&self) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        let entries = std::fs::read_dir(&self.dir)
            .with_context(|| format!("list the keys in {}", self.dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            if name.starts_with("hub") && name.ends_with(".pk8") {
                paths.push(path);
            }
        }
        paths.sort_by_key(|path| (!path.ends_with(FIRST), path.clone()));
        Ok(paths)
    }

    pub(super) fn root(&self) -> Result<Root> {
        let private = self.path(ROOT);
        if private.exists() {
            let key = read(&private)?;
            return Ok(Root {
                public: public(&key),
                private: Some(key),
            });
        }
        let file = self.path(ROOT_PUBLIC);
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("read the root's public key in {}", file.display()))?;
        let public = unhex32(text.trim())
            .with_context(|| format!("{} holds no public key of 64 hex digits", file.display()))?;
        Ok(Root {
            public,
            private: None,
        })
    }

    /// All hub keys whose private half is here.
    pub(super) fn hub_keys(&self) -> Result<Vec<Ed25519KeyPair>> {
        self.hub_paths()?.iter().map(|path| read(path)).collect()
    }

    /// Makes another hub key.
    pub(super) fn make_hub_key(&self) -> Result<[u8; 32]> {
        let fresh = self.path("hub-new.pk8.part");
        let _ = std::fs::remove_file(&fresh);
        make(&fresh)?;
        let key = public(&read(&fresh)?);
        let path = self.path(&format!("hub-{}.pk8", key_id(&key)));
        std::fs::rename(&fresh, &path)
            .with_context(|| format!("keep the new hub key as {}", path.display()))?;
        Ok(key)
    }

    /// Moves the root's private half into a file elsewhere; its public half stays.
    pub(super) fn export_root(&self, to: &Path) -> Result<()> {
        let from = self.path(ROOT);
        ensure!(
            from.exists(),
            "the root key is not in {}; it was moved away before",
            self.dir.display()
        );
        let bytes = std::fs::read(&from).with_context(|| format!("read {}", from.display()))?;
        let root = public(&read(&from)?);
        write_new(to, &bytes)?;
        ensure!(
            public(&read(to)?) == root,
            "{} does not read back as it was written; the root key stays where it is",
            to.display()
        );
        let public_file = self.path(ROOT_PUBLIC);
        if !public_file.exists() {
            write_new(&public_file, format!("{}\n", hex(&root)).as_bytes())?;
        }
        std::fs::remove_file(&from)
            .with_context(|| format!("remove {}; it must not stay here", from.display()))
    }

    /// Takes the root's private half back.
    pub(super) fn import_root(&self, from: &Path) -> Result<()> {
        let root = self.root()?;
        ensure!(
            root.private.is_none(),
            "the root key is in {} already",
            self.dir.display()
        );
        let key = read(from)?;
        if public(&key) != root.public {
            bail!(
                "{} holds the key {}, this hub's root is {}",
                from.display(),
                hex(&public(&key)),
                hex(&root.public)
            );
        }
        let bytes = std::fs::read(from).with_context(|| format!("read {}", from.display()))?;
        write_new(&self.path(ROOT), &bytes)
    }
}

pub(super) fn public(key: &Ed25519KeyPair) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(key.public_key().as_ref());
    out
}

/// Reads a private key.
pub(super) fn read(path: &Path) -> Result<Ed25519KeyPair> {
    let bytes =
        std::fs::read(path).with_context(|| format!("read signing key {}", path.display()))?;
    Ed25519KeyPair::from_pkcs8(&bytes).map_err(|e| {
        anyhow!(
            "{} holds no Ed25519 key ({e}); restore it from a backup",
            path.display()
        )
    })
}

/// Makes a key where there is none: written beside and linked, so that a half-written key is never read and the first of two
/// makers wins.
fn make(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .map_err(|_| anyhow!("make a signing key: the system gives no randomness; try again"))?;
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    write_new(&fresh, made.as_ref())?;
    let _ = std::fs::hard_link(&fresh, path);
    let _ = std::fs::remove_file(&fresh);
    Ok(())
}

/// Writes a file that nobody else may read; one that is there stays as it is.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut out| out.write_all(bytes).and_then(|()| out.sync_all()))
        .with_context(|| {
            format!(
                "write {}; name a file that is not there yet",
                path.display()
            )
        })
}
