//! A bundle on its way: owns which blocks are there, over restarts too; never asks the network itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fieldcast_wire::Sha256;
use fieldcast_wire::caps::{BLOCK, MAX_BLOCKS_ASKED};

/// Blocks of one bundle; the bitmap lies beside the part file and is written after the block it speaks of.
#[derive(Debug)]
pub struct Download {
    sha: Sha256,
    size: usize,
    part: PathBuf,
    map: PathBuf,
    here: Vec<bool>,
}

/// What became of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is on disk; more are missing.
    More,
    /// It was there already, or is no block of this bundle.
    Ignored,
    /// It was the last one and the whole file has the right digest.
    Complete,
    /// It was the last one, but the file is another: everything begins anew.
    WrongDigest,
}

impl Download {
    /// Begins or goes on.
    ///
    /// # Errors
    /// Where the part file cannot be made.
    pub fn open(folder: &Path, sha: Sha256, size: usize) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let part = folder.join(format!("{sha}.part"));
        let map = folder.join(format!("{sha}.map"));
        let blocks = size.div_ceil(BLOCK);
        let mut here = vec![false; blocks];
        let stored = std::fs::read(&map).unwrap_or_default();
        let fits = std::fs::metadata(&part).is_ok_and(|m| m.len() == size as u64);
        if fits && stored.len() == blocks {
            for (block, byte) in here.iter_mut().zip(stored) {
                *block = byte == 1;
            }
        } else {
            File::create(&part)?.set_len(size as u64)?;
            std::fs::write(&map, vec![0; blocks])?;
        }
        Ok(Self {
            sha,
            size,
            part,
            map,
            here,
        })
    }

    /// The bundle's digest.
    #[must_use]
    pub fn sha(&self) -> Sha256 {
        self.sha
    }

    /// The next blocks to ask for; empty where none is missing.
    #[must_use]
    pub fn missing(&self) -> Vec<u32> {
        self.here
            .iter()
            .enumerate()
            .filter(|(_, here)| !**here)
            .filter_map(|(i, _)| u32::try_from(i).ok())
            .take(MAX_BLOCKS_ASKED)
            .collect()
    }

    /// Blocks there and in all.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        (self.here.iter().filter(|h| **h).count(), self.here.len())
    }

    /// Takes a block.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn take(&mut self, n: u32, bytes: &[u8]) -> io::Result<Taken> {
        let i = usize::try_from(n).unwrap_or(usize::MAX);
        let expected = self.size.saturating_sub(i.saturating_mul(BLOCK)).min(BLOCK);
        if self.here.get(i) != Some(&false) || bytes.len() != expected {
            return Ok(Taken::Ignored);
        }
        let mut file = OpenOptions::new().write(true).open(&self.part)?;
        file.seek(SeekFrom::Start((i * BLOCK) as u64))?;
        file.write_all(bytes)?;
        file.sync_data()?;
        let mut map = OpenOptions::new().write(true).open(&self.map)?;
        map.seek(SeekFrom::Start(i as u64))?;
        map.write_all(&[1])?;
        self.here[i] = true;
        self.check()
    }

    /// Checks the digest once no block is missing: after the last one, and where a process ended right after it.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn check(&mut self) -> io::Result<Taken> {
        if self.here.iter().any(|here| !here) {
            return Ok(Taken::More);
        }
        let whole = read_capped(&self.part, self.size)?;
        if Sha256::of(&whole) == self.sha {
            return Ok(Taken::Complete);
        }
        self.here.fill(false);
        std::fs::write(&self.map, vec![0; self.here.len()])?;
        Ok(Taken::WrongDigest)
    }

    /// Gives the complete file its final name.
    ///
    /// # Errors
    /// Where it cannot be renamed.
    pub fn finish(self, to: &Path) -> io::Result<()> {
        File::open(&self.part)?.sync_all()?;
        std::fs::rename(&self.part, to)?;
        if let Some(folder) = to.parent() {
            File::open(folder)?.sync_all()?;
        }
        // It is in place; what is left of the way there is removed with old bundles.
        let _ = std::fs::remove_file(&self.map);
        Ok(())
    }
}

/// Reads a file of at most `cap` bytes.
///
/// # Errors
/// Unreadable or larger.
pub fn read_capped(path: &Path, cap: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > cap {
        let problem = format!("is larger than {cap} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn blocks_in_any_order_and_over_restarts_become_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..2 * BLOCK + 100).map(|i| (i % 251) as u8).collect();
        let sha = Sha256::of(&bytes);
        let mut d = Download::open(dir.path(), sha, bytes.len()).unwrap();
        assert_eq!(d.missing(), [0, 1, 2]);
        let block = |n: usize| &bytes[n * BLOCK..bytes.len().min((n + 1) * BLOCK)];
        assert_eq!(d.take(2, block(2)).unwrap(), Taken::More);
        assert_eq!(d.take(2, block(2)).unwrap(), Taken::Ignored);
        assert_eq!(d.take(7, block(0)).unwrap(), Taken::Ignored);
        assert_eq!(d.take(0, &block(0)[1..]).unwrap(), Taken::Ignored);
        let mut d = Download::open(dir.path(), sha, bytes.len()).unwrap();
        assert_eq!(d.missing(), [0, 1]);
        d.take(0, block(0)).unwrap();
        assert_eq!(d.take(1, block(1)).unwrap(), Taken::Complete);
        let path = dir.path().join("done");
        d.finish(&path).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), bytes);
    }

    #[test]
    fn a_file_that_was_complete_when_the_process_ended_is_checked_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |bytes: &[u8]| {
            let mut d = Download::open(dir.path(), Sha256::of(b"right"), 5).unwrap();
            d.here.fill(true);
            std::fs::write(&d.part, bytes).unwrap();
            std::fs::write(&d.map, [1]).unwrap();
            Download::open(dir.path(), Sha256::of(b"right"), 5).unwrap()
        };
        let mut whole = begin(b"right");
        assert!(whole.missing().is_empty());
        assert_eq!(whole.check().unwrap(), Taken::Complete);
        let mut other = begin(b"wrong");
        assert_eq!(other.check().unwrap(), Taken::WrongDigest);
        assert_eq!(other.missing(), [0]);
    }

    #[test]
    fn a_tampered_block_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut d = Download::open(dir.path(), Sha256::of(b"right"), 5).unwrap();
        assert_eq!(d.take(0, b"wrong").unwrap(), Taken::WrongDigest);
        assert_eq!(d.missing(), [0]);
        assert_eq!(d.take(0, b"right").unwrap(), Taken::Complete);
    }
}
