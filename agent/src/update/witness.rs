//! Which model was at work when its process died: owns the small file that says it; never judges a model.
//!
//! A mark stands in the file only while a model is loaded or makes a forecast. It is never synced: what a dying process wrote
//! stays in the kernel's memory, and what a power cut takes away, or leaves from another boot, blames nobody.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

pub use fieldcast_device::death::{Death, Doing};
use fieldcast_wire::Sha256;

/// The file, in the data folder.
pub const FILE: &str = "witness";
/// Bytes of a mark: digest, boot id, number of the start, spaces up to here.
const LEN: usize = 128;

/// Where the mark of what a model is at stands in the file.
fn place(doing: Doing) -> u64 {
    match doing {
        Doing::Forecasting => 0,
        Doing::Loading => LEN as u64,
    }
}

#[derive(Debug)]
struct Open {
    file: File,
    boot_id: String,
    start: u64,
}

/// The file of the running process; clones share it. Without one (a read-only folder, say) nothing is witnessed.
#[derive(Debug, Clone, Default)]
pub struct Witness(Option<Arc<Open>>);

impl Witness {
    /// Opens the file and says with what the last process of this boot of the machine died. `start` is a number that no
    /// other start of the agent has.
    #[must_use]
    pub fn open(data_dir: &Path, boot_id: &str, start: u64) -> (Self, Option<Death>) {
        let path = data_dir.join(FILE);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(e) => {
                tracing::warn!(file = %path.display(), "note which model is at work: {e}; one that ends the process is not recognised");
                return (Self::default(), None);
            }
        };
        let open = Open {
            file,
            boot_id: boot_id.to_owned(),
            start,
        };
        // The one that is loaded is the newer one, and the first to be blamed.
        let death = [Doing::Loading, Doing::Forecasting]
            .into_iter()
            .find_map(|doing| open.death(doing));
        (Self(Some(Arc::new(open))), death)
    }

    /// Does something with a model, with its mark in the file meanwhile.
    pub fn during<T>(&self, doing: Doing, sha: Sha256, work: impl FnOnce() -> T) -> T {
        let _mark = self.0.as_deref().map(|open| Mark::set(open, doing, sha));
        work()
    }
}

impl Open {
    fn write(&self, doing: Doing, mark: &str) {
        let mark = format!("{mark:<width$}\n", width = LEN - 1);
        if let Err(e) = self.file.write_all_at(mark.as_bytes(), place(doing)) {
            tracing::debug!("note which model is at work: {e}");
        }
    }

    fn death(&self, doing: Doing) -> Option<Death> {
        let mut bytes = [0; LEN];
        self.file.read_exact_at(&mut bytes, place(doing)).ok()?;
        let mut words = std::str::from_utf8(&bytes).ok()?.split_whitespace();
        let sha = Sha256::from_hex(words.next()?)?;
        let same_boot = words.next()? == self.boot_id;
        let start = words.next()?.parse().ok()?;
        same_boot.then(|| Death {
            sha: sha.to_string(),
            start,
            doing,
        })
    }
}

/// Goes away with the work, also where that unwinds.
struct Mark<'a> {
    open: &'a Open,
    doing: Doing,
}

impl<'a> Mark<'a> {
    fn set(open: &'a Open, doing: Doing, sha: Sha256) -> Self {
        open.write(doing, &format!("{sha} {} {}", open.boot_id, open.start));
        Self { open, doing }
    }
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.open.write(self.doing, "");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_at_work_in_this_boot_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let sha = Sha256::of(b"a");
        let (witness, none) = Witness::open(dir.path(), "boot-1", 1);
        assert_eq!(none, None);
        let seen = witness.during(Doing::Forecasting, sha, || {
            let died = |boot| Witness::open(dir.path(), boot, 2).1;
            assert_eq!(died("boot-2"), None, "the power was cut since");
            died("boot-1").unwrap()
        });
        assert_eq!(seen.sha, sha.to_string());
        assert_eq!((seen.start, seen.doing), (1, Doing::Forecasting));
        assert_eq!(Witness::open(dir.path(), "boot-1", 2).1, None);
        let loading = witness.during(Doing::Forecasting, sha, || {
            witness.during(Doing::Loading, Sha256::of(b"b"), || {
                Witness::open(dir.path(), "boot-1", 3).1.unwrap()
            })
        });
        assert_eq!(loading.sha, Sha256::of(b"b").to_string());
        std::fs::write(dir.path().join(FILE), [b'\xff'; 3 * LEN]).unwrap();
        assert_eq!(Witness::open(dir.path(), "boot-1", 4).1, None);
    }

    #[test]
    fn a_mark_goes_away_where_the_work_unwinds() {
        let dir = tempfile::tempdir().unwrap();
        let (witness, _) = Witness::open(dir.path(), "boot", 1);
        let work = std::panic::AssertUnwindSafe(|| {
            witness.during(Doing::Loading, Sha256::of(b"a"), || {
                std::panic::resume_unwind(Box::new(()))
            })
        });
        assert!(std::panic::catch_unwind(work).is_err());
        assert_eq!(Witness::open(dir.path(), "boot", 2).1, None);
    }
}
