//! Full disks: owns small file systems that can be filled to the last byte, and when they are; never what is on them.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::plan::{Disk, Plan, Step, Timed, around};
use super::random::Random;

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// In memory, of so many MiB, on the folder `at`; none, said aloud, where this machine does not permit it.
    pub(crate) fn in_memory(at: &Path, mib: u32) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let size = format!("size={mib}m");
        Self::mounted(
            at,
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
                .arg(at),
        )
    }

    /// In a sparse file beside `at`.
    pub(crate) fn in_file(at: &Path, mib: u64) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let file = at.with_extension("image");
        File::create(&file)?.set_len(mib << 20)?;
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-m", "0", "-F"])
            .arg(&file)
            .output();
        if !made.is_ok_and(|out| out.status.success()) {
            println!("skipped: no file system can be made for a full disk of the database");
            return Ok(None);
        }
        Self::mounted(
            at,
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&file)
                .arg(at),
        )
    }

    fn mounted(at: &Path, mount: &mut Command) -> Result<Option<Self>> {
        let done = mount.stdin(Stdio::null()).output();
        if !rustix::process::geteuid().is_root() || !done.is_ok_and(|out| out.status.success()) {
            println!("skipped: no small disk can be mounted on {}", at.display());
            return Ok(None);
        }
        Ok(Some(Self {
            at: at.to_path_buf(),
        }))
    }

    /// Takes every free byte.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut file = File::create(self.at.join("filler")).context("create the filler")?;
        // In one go as far as it goes, then to the last byte.
        let free = rustix::fs::statvfs(&self.at).map(|s| s.f_bavail * s.f_frsize)?;
        let _ = rustix::fs::fallocate(
            &file,
            rustix::fs::FallocateFlags::empty(),
            0,
            free.saturating_sub(64 * 1024),
        );
        let end = file.metadata()?.len();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(end))?;
        for piece in [4_096, 1] {
            loop {
                match file.write(&vec![0; piece]) {
                    Ok(_) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::StorageFull => break,
                    Err(e) => bail!("fill {}: {e}", self.at.display()),
                }
            }
        }
        // Not written yet and refused later would be no full disk.
        let _ = file.sync_all();
        Ok(())
    }

    /// Gives all of it back.
    pub(crate) fn free(&self) -> Result<()> {
        match std::fs::remove_file(self.at.join("filler")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.at)
            .stderr(Stdio::null())
            .status();
    }
}

/// The last device's disk and the database's are full for a while, in turns.
pub(crate) fn steps(plan: &Plan, random: &mut Random) -> Vec<Timed> {
    let mut steps = Vec::new();
    let every = (plan.duration / 3).min(Duration::from_secs(100));
    let mut at = around(every / 2, random);
    let mut disks = [Disk::Device, Disk::Database].into_iter().cycle();
    while at < plan.duration {
        let Some(disk) = disks.next() else { break };
        let free = at + Duration::from_millis(random.between(1_500, 6_000));
        steps.extend([(at, Step::Fill(disk)), (free, Step::Free(disk))]);
        at += around(every, random);
    }
    steps
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_filled_disk_takes_nothing_and_a_freed_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("disk");
        let Some(disk) = SmallDisk::in_memory(&at, 2).unwrap() else {
            return;
        };
        disk.fill().unwrap();
        assert!(std::fs::write(at.join("x"), b"x").is_err());
        disk.free().unwrap();
        std::fs::write(at.join("x"), b"x").unwrap();
    }
}
