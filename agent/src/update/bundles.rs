//! Bundles on disk: owns their files and the way from a file to a model that may forecast; never decides which one runs.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fieldcast_bundle::{Caps, DailyErrors, Expected, KeyRing, UnverifiedBundle, VerifiedBundle};
use fieldcast_drift::monitor::ErrorCalibration;
use fieldcast_drift::reference::ReferenceStats;
use fieldcast_features::window::Window;
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_runtime::{Group, LoadedModel, Part, RunsBy, RuntimeError};
use fieldcast_wire::{Sha256, caps};

use super::download::read_capped;
use super::engine_check;
use super::witness::{Doing, Witness};
use super::words::Installed;
use crate::clock;
use crate::pipeline::drift::ErrorWatch;
use crate::pipeline::inputs::InputWatch;
use crate::pipeline::model::{Computed, Influence};
use crate::pipeline::{Model, Slot};

/// Data span whose mean absolute error is one value of the drift monitor: the calibration counts UTC days.
const DAY_MS: Millis = 86_400_000;

/// A model that passed every check, with all that the pipeline needs to run it.
#[derive(Debug)]
pub struct Loaded {
    /// The forecaster as it was trained.
    pub spec: ForecasterSpec,
    /// The model.
    pub slot: Slot,
    /// The watch over its errors.
    pub watch: ErrorWatch,
    /// The watch over its inputs.
    pub inputs: InputWatch,
}

/// Why a bundle is not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotLoaded {
    /// It did not pass a check; the text begins with the number of the check.
    Refused(String),
    /// It could not be checked now, which says nothing about it.
    Unchecked(String),
}

/// A loaded model whose work is witnessed.
struct Runs {
    model: LoadedModel,
    golden_us: u32,
    sha: Sha256,
    witness: Witness,
}

impl Runs {
    fn work<T>(&self, work: impl FnOnce(&LoadedModel) -> Result<T, String>) -> Result<T, String> {
        guarded(&self.witness, self.sha, || work(&self.model))
    }
}

/// A panic is the model's failure like any other where the program unwinds; where it aborts, the witness has seen it.
fn guarded<T>(
    witness: &Witness,
    sha: Sha256,
    work: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    let work = AssertUnwindSafe(work);
    witness
        .during(Doing::Forecasting, sha, || catch_unwind(work))
        .unwrap_or_else(|_| Err("the model panicked".to_owned()))
}

impl Model for Runs {
    fn forecast(&self, window: &Window) -> Result<Computed, String> {
        let began = clock::processor_us();
        let p = self.work(|m| m.forecast(window).map_err(|e| e.to_string()))?;
        Ok(Computed {
            mean: p.mean,
            quantiles: p.quantiles,
            took_us: since(began),
        })
    }

    fn explain(&self, spec: &ForecasterSpec, window: &Window) -> Vec<Influence> {
        let season = spec.season_steps();
        let explained = self.work(|m| m.explain(window, season).map_err(|e| e.to_string()));
        let Ok(explained) = explained else {
            return Vec::new();
        };
        let told = |part: &Part| Influence {
            of: match &part.group {
                Group::Inputs(inputs) => {
                    let names = spec.inputs.get(inputs.clone()).unwrap_or_default();
                    format!("input {}", names.join(", "))
                }
                Group::Steps(steps) if *steps == (0..1) => "newest step".to_owned(),
                Group::Steps(steps) => format!("steps {} to {} back", steps.start + 1, steps.end),
                Group::Calendar => "calendar".to_owned(),
            },
            size: part.size(),
            change: part.effect.iter().sum::<f64>() / part.effect.len().max(1) as f64,
        };
        explained.parts.iter().map(told).collect()
    }
}

/// The folder of bundles.
#[derive(Debug, Clone)]
pub struct Bundles {
    folder: PathBuf,
    device: String,
    checker: Option<PathBuf>,
    witness: Witness,
    reserve: u64,
}

impl Bundles {
    /// In the data folder.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self {
            folder: data_dir.join("bundles"),
            device: String::new(),
            checker: None,
            witness: Witness::default(),
            reserve: 0,
        }
    }

    /// Leaves so much free disk to others, bytes.
    #[must_use]
    pub fn leaving(mut self, reserve: u64) -> Self {
        self.reserve = reserve;
        self
    }

    /// Whether a bundle of this size may be fetched.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn room(&self, sha: &str, size: usize) -> Result<(), String> {
        let here = std::fs::metadata(self.folder.join(format!("{sha}.part")));
        // What blocks of it are on the disk already takes no more room.
        let here = here.map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
        let more = u64::try_from(size).unwrap_or(u64::MAX).saturating_sub(here);
        let folder = [Some(self.folder.as_path()), self.folder.parent()];
        let disk = folder
            .into_iter()
            .flatten()
            .find_map(|f| rustix::fs::statvfs(f).ok());
        // A disk that says nothing may have room: writing the blocks will tell.
        let free = disk.map_or(u64::MAX, |d| d.f_bavail.saturating_mul(d.f_frsize));
        enough(free, more, self.reserve)
    }

    /// Names who notes that a model is at work.
    #[must_use]
    pub fn witnessed_by(mut self, witness: Witness) -> Self {
        self.witness = witness;
        self
    }

    /// Names the agent's program, for a process that is not it: `checker` compares the engines that can run a model.
    #[must_use]
    pub fn checked_by(mut self, checker: &Path) -> Self {
        self.checker = Some(checker.to_owned());
        self
    }

    /// Names the device, whose own error level a bundle may hold.
    #[must_use]
    pub fn for_device(mut self, device: &str) -> Self {
        device.clone_into(&mut self.device);
        self
    }

    /// Where parts and bundles lie.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A bundle's file.
    #[must_use]
    pub fn path(&self, sha: &str) -> PathBuf {
        self.folder.join(format!("{sha}.bundle"))
    }

    /// Whether a bundle is here; its digest is checked again when it is loaded.
    #[must_use]
    pub fn has(&self, sha: &str) -> bool {
        self.path(sha).is_file()
    }

    /// Removes every bundle and part that is not needed any more.
    pub fn keep_only(&self, needed: &[String]) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        for path in entries.flatten().map(|e| e.path()) {
            let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("");
            if !needed.iter().any(|n| n == stem)
                && let Err(e) = std::fs::remove_file(&path)
            {
                tracing::warn!(file = %path.display(), "remove an old bundle: {e}");
            }
        }
    }

    /// Reads, verifies and loads a bundle; its golden vectors are reproduced on this machine. Where `now` is none its expiry does
    /// not count.
    ///
    /// # Errors
    /// The check that failed, or why none could be made, in words.
    pub fn load(
        &self,
        forecaster: &str,
        installed: &Installed,
        ring: &KeyRing,
        now: Option<Millis>,
    ) -> Result<Loaded, NotLoaded> {
        let sha = installed.sha.as_str();
        let refused = |step: &str, why: String| NotLoaded::Refused(format!("{step}: {why}"));
        let digest = Sha256::from_hex(sha)
            .ok_or_else(|| refused("V7", "the bundle's digest is not one".to_owned()))?;
        let bytes = self.read(sha).map_err(|e| {
            let why = format!("the bundle's file cannot be read: {e}");
            // A file that is gone or too large will not read better later.
            match e.kind() {
                io::ErrorKind::NotFound => refused("V7", why),
                io::ErrorKind::FileTooLarge => refused("V6", why),
                _ => NotLoaded::Unchecked(format!("{why}; it is tried again")),
            }
        })?;
        if Sha256::of(&bytes) != digest {
            // Otherwise it would be taken for here whenever it is ordered.
            let gone = std::fs::remove_file(self.path(sha));
            let why = match gone {
                Ok(()) => "the bundle's file was damaged and is removed; ordered again, it is fetched again".to_owned(),
                Err(e) => format!("the bundle's file is damaged and cannot be removed: {e}"),
            };
            return Err(refused("V7", why));
        }
        let expected = Expected {
            sha256: digest,
            forecaster,
            agent_version: crate::VERSION,
        };
        let bundle = UnverifiedBundle::parse(&bytes, &Caps::default())
            .and_then(|b| b.verify(ring, &expected, now.unwrap_or(Millis::MIN)))
            .map_err(|e| refused(e.step(), e.to_string()))?;
        let version = bundle.manifest().version;
        if version != installed.version {
            let why = format!(
                "the order is for model version {}, the bundle is version {version}; order it with its own version",
                installed.version
            );
            return Err(refused("V7", why));
        }
        drop(bytes);
        let load = || {
            let model = fieldcast_runtime::load_with(&bundle, |b| self.engines_agree(sha, b))?;
            let golden_us = golden_us(&model, &bundle);
            Ok((model, golden_us))
        };
        let (model, golden_us) = self
            .witness
            .during(Doing::Loading, digest, load)
            .map_err(|e: RuntimeError| refused(e.step(), e.to_string()))?;
        match model.runs_by() {
            RunsBy::Fused => tracing::info!(forecaster, bundle = sha, "runs by fused kernels"),
            RunsBy::Plain(why) => {
                tracing::warn!(forecaster, bundle = sha, "runs by tract: {why}");
            }
        }
        let model = Runs {
            model,
            golden_us,
            sha: digest,
            witness: self.witness.clone(),
        };
        Ok(loaded(&bundle, model, &self.device))
    }

    /// Whether the fused kernels compute what tract does: asked once of this program on this machine, and then remembered.
    fn engines_agree(&self, sha: &str, bundle: &VerifiedBundle) -> Result<(), String> {
        let note = self.folder.join(format!("{sha}.agrees"));
        let here = engine_check::identity(self.checker.as_deref());
        if here.is_some() && std::fs::read_to_string(&note).ok() == here {
            return Ok(());
        }
        engine_check::ask(self.checker.as_deref(), bundle)?;
        if let Some(here) = here
            && let Err(e) = std::fs::write(&note, here)
        {
            tracing::warn!(file = %note.display(), "remember that the engines agree: {e}; checked again at the next start");
        }
        Ok(())
    }

    fn read(&self, sha: &str) -> io::Result<Vec<u8>> {
        read_capped(&self.path(sha), caps::MAX_BUNDLE)
    }
}

/// A thread that hangs in a model can only be ended with its process; the next start knows by the mark which model it was.
pub(super) fn hung(sha: &str) -> ! {
    tracing::error!(
        bundle = sha,
        "loading it does not come to an end; the agent ends, and the bundle is given up where the next start hangs as well"
    );
    std::process::abort()
}

fn since(began: u64) -> u32 {
    // A forecast below a microsecond was measured all the same.
    let took = clock::processor_us().saturating_sub(began).max(1);
    u32::try_from(took).unwrap_or(u32::MAX)
}

/// What a forecast takes at best: of a few, since the first ones find nothing in the caches.
fn golden_us(model: &LoadedModel, bundle: &VerifiedBundle) -> u32 {
    let Some(golden) = bundle.manifest().golden.first() else {
        return 0;
    };
    let time = |_| {
        let began = clock::processor_us();
        model.forecast_golden(golden).ok().map(|_| since(began))
    };
    (0..3).filter_map(time).min().unwrap_or(0)
}

fn enough(free: u64, more: u64, reserve: u64) -> Result<(), String> {
    if free >= more.saturating_add(reserve) {
        return Ok(());
    }
    Err(format!(
        "no room for the bundle: {free} bytes of the disk are free, it takes {more} more and {reserve} are left to others; free disk space, the download goes on by itself"
    ))
}

/// What the monitor begins with; none where too few days were measured. A device that was not learnt from has its level
/// from the others until it knows its own.
fn calibration_of(daily: &DailyErrors, device: &str) -> Option<ErrorCalibration> {
    let own = daily.levels.get(device);
    (daily.days >= 5).then(|| ErrorCalibration {
        mean_log: own.copied().unwrap_or(daily.mean),
        std_log: daily.std,
        lag1: daily.lag1,
        days: u32::try_from(daily.days).unwrap_or(u32::MAX),
        // One device's level says nothing of how far others lie apart.
        level_std: if own.is_some() {
            0.0
        } else {
            daily.between.max(daily.std)
        },
    })
}

fn loaded(bundle: &VerifiedBundle, runs: Runs, device: &str) -> Loaded {
    let manifest = bundle.manifest();
    let calibration = calibration_of(&manifest.calibration.daily, device);
    let sha = bundle.sha256();
    let spec = &manifest.forecaster;
    // A model runs without them; the device only cannot tell then whether its inputs are still the same.
    let reference: ReferenceStats = serde_json::from_slice(bundle.reference()).unwrap_or_else(|e| {
        tracing::warn!(bundle = %sha, "read the reference statistics: {e}; the inputs are not watched, train the model again");
        ReferenceStats::default()
    });
    Loaded {
        watch: ErrorWatch::new(sha, manifest.version, DAY_MS, calibration.as_ref()),
        inputs: InputWatch::new(sha, manifest.version, spec, &reference, device),
        slot: Slot {
            sha,
            version: manifest.version,
            levels: manifest.forecaster.quantiles.clone(),
            train_dev: manifest.train_dev,
            least_observed: manifest.calibration.daily.least_observed(),
            engine: runs.model.runs_by().to_string(),
            golden_us: runs.golden_us,
            model: Box::new(runs),
        },
        spec: manifest.forecaster.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_panics_has_failed_and_ends_nothing_else() {
        let bundle = Sha256::of(b"bundle");
        let panics = || -> Result<(), String> { panic!("index out of bounds") };
        let failed = guarded(&Witness::default(), bundle, panics);
        assert_eq!(failed, Err("the model panicked".to_owned()));
        assert_eq!(guarded(&Witness::default(), bundle, || Ok(7)), Ok(7));
    }

    #[test]
    fn half_a_bundle_that_is_needed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::new(dir.path());
        std::fs::create_dir(bundles.folder()).unwrap();
        for file in ["x.part", "x.map", "y.part"] {
            std::fs::write(bundles.folder().join(file), b"1").unwrap();
        }
        bundles.keep_only(&["x".to_owned()]);
        let there = |file: &str| bundles.folder().join(file).exists();
        assert!(there("x.part") && there("x.map") && !there("y.part"));
    }

    #[test]
    fn a_bundle_has_room_where_the_reserve_stays_free() {
        assert_eq!(enough(150, 100, 50), Ok(()));
        let why = enough(149, 100, 50).unwrap_err();
        assert!(
            why.contains("149") && why.contains("free disk space"),
            "{why}"
        );
        assert!(enough(u64::MAX - 1, 1, u64::MAX).is_err());
        // This very disk, which holds less than all that can be counted.
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::new(dir.path());
        assert_eq!(bundles.room("x", 1), Ok(()));
        let greedy = bundles.leaving(u64::MAX / 2);
        assert!(greedy.room("x", 1).is_err());
        // What is there already is not counted again.
        std::fs::create_dir(greedy.folder()).unwrap();
        std::fs::write(greedy.folder().join("x.part"), vec![1; 8_192]).unwrap();
        let why = greedy.room("x", 8_192).unwrap_err();
        assert!(why.contains("takes 0 more"), "{why}");
    }
}
