//! Which model a forecaster runs: a pure state machine over orders, downloads, checks and forecasts; does no I/O.
//!
//! ```text
//!              Ordered                Fetched              Loaded (active)        probation forecasts
//!   any phase ---------> Downloading ---------> Verified ------------------> Active -----------------> Healthy
//!                            |                     |  \                        |                          |
//!               Unfetchable  |             Refused |   \ Loaded (shadow)       | Failed, or the process   | 3 failed
//!                            v                     v    v                      v died in it twice         v
//!                          Failed              Rejected  Shadowing         RolledBack / Failed          Failed
//! ```
//!
//! Expiry keeps new bundles out; what is in place, or proved itself, is held against no clock.
//! The state is written before an output is carried out, so that a process that dies finds out what it was doing.

use serde::{Deserialize, Serialize};

pub use super::words::{Event, Installed, Output, Phase, Target};

/// Forecasts in a row that a proven model may fail before the baselines take over.
const MAX_FAILED: u32 = 3;
/// Times a process may die while a bundle is on trial.
const MAX_INTERRUPTED: u32 = 2;

/// State of one forecaster's model, persisted as JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Where the newest order stands.
    pub phase: Phase,
    /// Why, where it did not go well.
    pub reason: String,
    /// The newest order.
    pub target: Option<Target>,
    /// The bundle in place.
    pub active: Option<Installed>,
    /// The last one that proved itself.
    pub last_good: Option<Installed>,
    /// The watching bundle.
    pub shadow: Option<Installed>,
    /// Forecasts by `active` since it is in place.
    pub forecasts: u64,
    /// Forecasts by `shadow`.
    pub shadow_forecasts: u64,
    /// Processes that died while the target was on trial.
    pub interrupted: u32,
    /// Forecasts that `active` failed in a row.
    pub failed: u32,
    /// What keeps a bundle that is in place from forecasting; not about the newest order.
    #[serde(default)]
    pub hindrance: String,
    /// Why the last order that was not obeyed was not.
    #[serde(default)]
    pub disobeyed: String,
}

fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

impl Machine {
    /// State key of a forecaster's machine.
    #[must_use]
    pub fn key(forecaster: &str) -> String {
        format!("model/{forecaster}")
    }

    /// Generation of the newest order, 0 for none.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.target.as_ref().map_or(0, |t| t.generation)
    }

    /// Bundles that must stay on disk.
    #[must_use]
    pub fn needed(&self) -> Vec<&str> {
        let target = self.target.as_ref().map(|t| t.bundle.as_ref());
        [&self.active, &self.last_good, &self.shadow]
            .into_iter()
            .flatten()
            .chain(target.flatten())
            .map(|i| i.sha.as_str())
            .collect()
    }

    /// All that is to be told about it, in words; empty where all is well.
    #[must_use]
    pub fn told(&self) -> String {
        let parts = [&self.reason, &self.hindrance, &self.disobeyed];
        let said: Vec<&str> = parts.into_iter().map(String::as_str).collect();
        let said: Vec<&str> = said.into_iter().filter(|p| !p.is_empty()).collect();
        said.join("; ")
    }

    /// One step; `probation` is how many forecasts prove a model.
    pub fn step(&mut self, event: Event, probation: u32) -> Vec<Output> {
        match event {
            Event::Started { clean } => self.started(clean),
            Event::Ordered(target) => self.ordered(target),
            Event::Fetched(sha) if self.awaits(&sha, Phase::Downloading) => {
                self.phase = Phase::Verified;
                self.load_target()
            }
            Event::Unfetchable(sha, reason) if self.awaits(&sha, Phase::Downloading) => {
                self.end(Phase::Failed, reason)
            }
            Event::Loaded(sha) => self.loaded(sha),
            Event::Refused(sha, reason) => self.refused(&sha, reason),
            Event::Forecasted(sha) => self.forecasted(&sha, probation),
            Event::Failed(sha, reason) => self.failed(&sha, reason),
            Event::Unchecked(sha, reason) => self.unchecked(&sha, &reason),
            Event::NoWindow(sha, reason) => {
                if Self::is(self.active.as_ref(), &sha) || Self::is(self.shadow.as_ref(), &sha) {
                    self.hindrance = cut(&reason);
                }
                Vec::new()
            }
            Event::NotObeyed(reason) => {
                self.disobeyed = cut(&reason);
                Vec::new()
            }
            Event::Fetched(_) | Event::Unfetchable(..) => Vec::new(),
        }
    }

    fn is(installed: Option<&Installed>, sha: &str) -> bool {
        installed.is_some_and(|i| i.sha == sha)
    }

    fn awaits(&self, sha: &str, phase: Phase) -> bool {
        self.phase == phase && self.orders(sha)
    }

    fn orders(&self, sha: &str) -> bool {
        self.target.as_ref().is_some_and(|t| t.names(sha))
    }

    fn on_probation(&self) -> bool {
        self.active.is_some() && self.active != self.last_good
    }

    fn load_target(&self) -> Vec<Output> {
        let target = self.target.as_ref();
        let bundle = target.and_then(|t| t.bundle.clone());
        let load = |bundle| {
            if self.last_good.as_ref() == Some(&bundle) {
                Output::Load(bundle)
            } else {
                Output::Take(bundle)
            }
        };
        bundle.map(load).into_iter().collect()
    }

    fn outcome(&self, ok: bool, message: &str) -> Option<Output> {
        self.target.as_ref().map(|t| Output::Outcome {
            generation: t.generation,
            attempt: t.attempt,
            ok,
            message: message.to_owned(),
        })
    }

    fn end(&mut self, phase: Phase, reason: String) -> Vec<Output> {
        self.phase = phase;
        self.reason = reason.chars().take(500).collect();
        self.interrupted = 0;
        self.outcome(false, &self.reason).into_iter().collect()
    }

    /// A bundle came to its end: that ends the newest order only where it is the one ordered.
    fn give_up(&mut self, sha: &str, phase: Phase, reason: String) -> Vec<Output> {
        if self.orders(sha) {
            return self.end(phase, reason);
        }
        self.hindrance = cut(&reason);
        self.interrupted = 0;
        Vec::new()
    }

    fn started(&mut self, clean: bool) -> Vec<Output> {
        let shadow_trial = self.phase == Phase::Shadowing && self.shadow_forecasts == 0;
        let trial = self.phase == Phase::Verified || shadow_trial || self.on_probation();
        let mut out = Vec::new();
        if trial && !clean {
            self.interrupted += 1;
            if self.interrupted >= MAX_INTERRUPTED {
                let reason = format!(
                    "the process died {MAX_INTERRUPTED} times while this bundle was on trial; the last good one runs"
                );
                // The newest one on trial is the first to be blamed.
                if self.phase == Phase::Verified {
                    out.extend(self.end(Phase::Failed, reason));
                } else if shadow_trial {
                    self.shadow = None;
                    out.extend(self.end(Phase::Failed, reason));
                } else if let Some(active) = self.active.take() {
                    self.active = self.last_good.clone();
                    self.forecasts = 0;
                    out.extend(self.give_up(&active.sha, Phase::Failed, reason));
                }
            }
        }
        if self.phase == Phase::Downloading {
            out.extend(self.target.clone().map(Output::Fetch));
        }
        if self.phase == Phase::Verified {
            out.extend(self.load_target());
        }
        out.extend(self.active.clone().map(Output::Load));
        out.extend(self.shadow.clone().map(Output::Load));
        out
    }

    fn ordered(&mut self, target: Target) -> Vec<Output> {
        if let Some(old) = &self.target {
            let (new, old) = (
                (target.generation, target.attempt),
                (old.generation, old.attempt),
            );
            // Retained orders come again with every connection.
            if new <= old {
                self.disobeyed.clear();
                return Vec::new();
            }
        }
        self.reason.clear();
        self.disobeyed.clear();
        self.interrupted = 0;
        self.target = Some(target.clone());
        let Some(sha) = target.bundle.as_ref().map(|b| b.sha.clone()) else {
            return self.without_model();
        };
        let runs = Self::is(self.active.as_ref(), &sha);
        let shadow = target.shadow;
        let mut out = Vec::new();
        if self.shadow.is_some() && !Self::is(self.shadow.as_ref(), &sha) {
            self.shadow = None;
            out.push(Output::Unwatch);
        }
        if runs {
            let proven = self.last_good == self.active;
            self.phase = if proven {
                Phase::Healthy
            } else {
                Phase::Active
            };
            if proven {
                out.extend(self.outcome(true, "this bundle runs already"));
            }
            return out;
        }
        if shadow && Self::is(self.shadow.as_ref(), &sha) {
            self.phase = Phase::Shadowing;
            return out;
        }
        self.phase = Phase::Downloading;
        out.push(Output::Fetch(target));
        out
    }

    /// The hub wants no model: what ran or proved itself before must not come back by itself either.
    fn without_model(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        if self.shadow.take().is_some() {
            out.push(Output::Unwatch);
        }
        (self.active, self.last_good) = (None, None);
        (self.forecasts, self.failed) = (0, 0);
        self.hindrance.clear();
        self.phase = Phase::None;
        out.push(Output::Baseline);
        out.extend(self.outcome(true, "no model runs; the device's own baselines forecast"));
        out
    }

    fn loaded(&mut self, sha: String) -> Vec<Output> {
        if self.awaits(&sha, Phase::Verified)
            && let Some(target) = self.target.clone()
            && let Some(bundle) = target.bundle
        {
            self.hindrance.clear();
            if target.shadow {
                self.shadow = Some(bundle);
                self.shadow_forecasts = 0;
                self.phase = Phase::Shadowing;
                return vec![Output::Watch(sha)];
            }
            let mut out = Vec::new();
            if self.shadow.take().is_some() {
                out.push(Output::Unwatch);
            }
            self.active = Some(bundle);
            (self.forecasts, self.failed) = (0, 0);
            self.phase = Phase::Active;
            out.push(Output::Activate(sha));
            return out;
        }
        if Self::is(self.active.as_ref(), &sha) {
            self.hindrance.clear();
            return vec![Output::Activate(sha)];
        }
        if Self::is(self.shadow.as_ref(), &sha) {
            self.hindrance.clear();
            return vec![Output::Watch(sha)];
        }
        Vec::new()
    }

    fn refused(&mut self, sha: &str, reason: String) -> Vec<Output> {
        if self.awaits(sha, Phase::Verified) {
            return self.end(Phase::Rejected, reason);
        }
        if Self::is(self.active.as_ref(), sha) {
            let reason = format!("the bundle in place cannot be loaded any more: {reason}");
            return self.go_back(sha, Phase::RolledBack, reason);
        }
        if Self::is(self.shadow.as_ref(), sha) {
            self.shadow = None;
            let mut out = vec![Output::Unwatch];
            out.extend(self.give_up(sha, Phase::Failed, reason));
            return out;
        }
        Vec::new()
    }

    fn unchecked(&mut self, sha: &str, reason: &str) -> Vec<Output> {
        let in_place = [&self.active, &self.shadow];
        if self.awaits(sha, Phase::Verified)
            || in_place.into_iter().any(|i| Self::is(i.as_ref(), sha))
        {
            self.hindrance = cut(reason);
            // A bundle whose check never began cannot have ended the process.
            self.interrupted = 0;
        }
        Vec::new()
    }

    fn forecasted(&mut self, sha: &str, probation: u32) -> Vec<Output> {
        if Self::is(self.active.as_ref(), sha) {
            self.forecasts += 1;
            self.failed = 0;
            self.hindrance.clear();
            if self.on_probation() && self.forecasts >= u64::from(probation) {
                self.last_good = self.active.clone();
                if self.phase != Phase::Active {
                    // Another order is on its way: this bundle has proved itself all the same.
                    return Vec::new();
                }
                self.phase = Phase::Healthy;
                self.interrupted = 0;
                let message = format!("{} forecasts were made", self.forecasts);
                return self.outcome(true, &message).into_iter().collect();
            }
        } else if Self::is(self.shadow.as_ref(), sha) {
            self.shadow_forecasts += 1;
            self.hindrance.clear();
            if self.shadow_forecasts == u64::from(probation) {
                self.interrupted = 0;
                return self
                    .outcome(true, "the model watches")
                    .into_iter()
                    .collect();
            }
        }
        Vec::new()
    }

    fn failed(&mut self, sha: &str, reason: String) -> Vec<Output> {
        if Self::is(self.active.as_ref(), sha) {
            self.failed += 1;
            if self.on_probation() {
                return self.go_back(sha, Phase::RolledBack, reason);
            }
            if self.failed >= MAX_FAILED {
                return self.go_back(sha, Phase::Failed, reason);
            }
        } else if Self::is(self.shadow.as_ref(), sha) {
            self.shadow = None;
            let mut out = vec![Output::Unwatch];
            out.extend(self.give_up(sha, Phase::Failed, reason));
            return out;
        }
        Vec::new()
    }

    /// To the last good bundle, or to the baselines where that is the one that failed.
    fn go_back(&mut self, sha: &str, phase: Phase, reason: String) -> Vec<Output> {
        if Self::is(self.last_good.as_ref(), sha) {
            self.last_good = None;
        }
        self.active = self.last_good.clone();
        (self.forecasts, self.failed) = (0, 0);
        let mut out = vec![Output::Baseline];
        out.extend(self.active.clone().map(Output::Load));
        out.extend(self.give_up(sha, phase, reason));
        out
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
