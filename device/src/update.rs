//! Which model a forecaster runs: a pure state machine over orders, downloads, checks and forecasts; does no I/O.
//!
//! ```text
//!              Ordered                Fetched              Loaded (active)        probation forecasts
//!   any phase ---------> Downloading ---------> Verified ------------------> Active -----------------> Healthy
//!                            |                     |  \                        |                          |
//!               Unfetchable  |             Refused |   \ Loaded (shadow)       | Failed, slow             | Failed three times, slow, worse
//!                            v                     v    v                      v or two deaths            v or three deaths
//!                          Failed              Rejected  Shadowing         RolledBack          RolledBack, or Failed
//!                                                           |                           where no good bundle is left
//!                                                           v Failed, slow, or two deaths
//!                                                         Failed
//! ```
//!
//! What is in place, is what is ordered, and cannot be loaded at a start goes back to Downloading: the disk may have damaged it.
//! Expiry keeps new bundles out; what is in place, or proved itself, is held against no clock.
//! The state is written before an output is carried out. A death counts only where a model was at work ([`crate::death`]): a
//! power cut, or a process that is ended at another moment, says nothing about a model.

use fieldcast_wire::caps::MAX_TEXT;
use serde::{Deserialize, Serialize};

use crate::death::Death;
use crate::pace::{Pace, Terms, Took};
pub use crate::words::{Event, Installed, Output, Phase, Target};

/// Forecasts in a row that a proven model may fail before the baselines take over.
const MAX_FAILED: u32 = 3;
/// Times the process may die with a model at work that is on trial.
const MAX_DEATHS_ON_TRIAL: u32 = 2;
/// The same with a proven one.
const MAX_DEATHS: u32 = 3;
/// After so many forecasts without a death those of before count no more.
const CALM: u32 = 100;

/// Processes that died with a bundle's model at work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deaths {
    /// The bundle, hexadecimal.
    pub sha: String,
    /// How many.
    pub times: u32,
    /// Start of the last of them.
    pub start: u64,
    /// Forecasts since.
    pub calm: u32,
}

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
    /// The one that had proved itself before it.
    #[serde(default)]
    pub before: Option<Installed>,
    /// The watching bundle.
    pub shadow: Option<Installed>,
    /// Forecasts by `active` since it is in place.
    pub forecasts: u64,
    /// Forecasts by `shadow`.
    pub shadow_forecasts: u64,
    /// How long forecasts by `active` take.
    #[serde(default)]
    pub pace: Pace,
    /// How long those by `shadow` take.
    #[serde(default)]
    pub shadow_pace: Pace,
    /// What those by `last_good` took, microseconds; 0 where it is not known.
    #[serde(default)]
    pub good_us: u32,
    /// Bundles with which processes died lately.
    #[serde(default)]
    pub deaths: Vec<Deaths>,
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

    fn bundles(&self) -> impl Iterator<Item = &Installed> {
        let target = self.target.as_ref().and_then(|t| t.bundle.as_ref());
        [&self.active, &self.last_good, &self.before, &self.shadow]
            .into_iter()
            .flatten()
            .chain(target)
    }

    /// Bundles that must stay on disk.
    #[must_use]
    pub fn needed(&self) -> Vec<&str> {
        self.bundles().map(|i| i.sha.as_str()).collect()
    }

    /// Highest of the versions that were ordered, are kept or watch; 0 for none.
    #[must_use]
    pub fn newest_version(&self) -> u64 {
        self.bundles().map(|i| i.version).max().unwrap_or(0)
    }

    /// All that is to be told about it, in words; empty where all is well.
    #[must_use]
    pub fn told(&self) -> String {
        let parts = [&self.reason, &self.hindrance, &self.disobeyed];
        let said: Vec<&str> = parts.into_iter().map(String::as_str).collect();
        let said: Vec<&str> = said.into_iter().filter(|p| !p.is_empty()).collect();
        // It may quote what came: the hub takes no state that holds a NUL.
        let mut told = said.join("; ").replace('\0', "\u{fffd}");
        told.truncate(told.floor_char_boundary(MAX_TEXT));
        told
    }

    /// One step; `terms` are what a model is held to.
    pub fn step(&mut self, event: Event, terms: &Terms) -> Vec<Output> {
        match event {
            Event::Started(death) => self.started(death),
            Event::Ordered(target) => self.ordered(target),
            Event::Fetched(sha) if self.awaits(&sha, Phase::Downloading) => {
                self.phase = Phase::Verified;
                self.hindrance.clear();
                self.load_target()
            }
            Event::Waiting(sha, reason) if self.awaits(&sha, Phase::Downloading) => {
                self.hindrance = cut(&reason);
                Vec::new()
            }
            Event::Unfetchable(sha, reason) if self.awaits(&sha, Phase::Downloading) => {
                self.end(Phase::Failed, reason)
            }
            Event::Loaded(sha) => self.loaded(sha),
            Event::Refused(sha, reason) => self.refused(&sha, reason),
            Event::Forecasted(sha, took) => self.forecasted(&sha, took, terms),
            Event::Failed(sha, reason) => self.failed(&sha, reason),
            Event::Worse(sha, reason) if Self::is(self.active.as_ref(), &sha) => {
                self.go_back(&sha, reason)
            }
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
            Event::Fetched(_) | Event::Waiting(..) | Event::Unfetchable(..) | Event::Worse(..) => {
                Vec::new()
            }
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
        let mut proved = [&self.last_good, &self.before].into_iter().flatten();
        let load = |bundle: Installed| {
            if proved.any(|i| *i == bundle) {
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
        self.outcome(false, &self.reason).into_iter().collect()
    }

    /// A bundle came to its end: that ends the newest order only where it is the one ordered.
    fn give_up(&mut self, sha: &str, phase: Phase, reason: String) -> Vec<Output> {
        if self.orders(sha) {
            return self.end(phase, reason);
        }
        self.hindrance = cut(&reason);
        Vec::new()
    }

    fn started(&mut self, death: Option<Death>) -> Vec<Output> {
        let mut out = death.map_or_else(Vec::new, |death| self.died(death));
        // Whatever is in place is loaded below.
        out.retain(|o| !matches!(o, Output::Load(_)));
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

    /// A process died with one of the bundles at work: after a few times it must not have another chance to.
    fn died(&mut self, death: Death) -> Vec<Output> {
        let sha = death.sha.as_str();
        let runs = Self::is(self.active.as_ref(), sha);
        let watches = Self::is(self.shadow.as_ref(), sha);
        let arrives = self.awaits(sha, Phase::Verified);
        if !(runs || watches || arrives) {
            return Vec::new();
        }
        let most = match runs && !self.on_probation() {
            true => MAX_DEATHS,
            false => MAX_DEATHS_ON_TRIAL,
        };
        let times = self.count(&death);
        if times < most {
            return Vec::new();
        }
        self.deaths.retain(|d| d.sha != sha);
        let reason = format!(
            "the process died {times} times {}; the bundle is given up",
            death.words()
        );
        if runs {
            return self.go_back(sha, reason);
        }
        if watches {
            return self.unwatch(sha, reason);
        }
        self.give_up(sha, Phase::Failed, reason)
    }

    fn count(&mut self, death: &Death) -> u32 {
        let at = match self.deaths.iter().position(|d| d.sha == death.sha) {
            Some(at) => at,
            None => {
                self.deaths.push(Deaths {
                    sha: death.sha.clone(),
                    ..Deaths::default()
                });
                self.deaths.len() - 1
            }
        };
        let Some(deaths) = self.deaths.get_mut(at) else {
            return 0;
        };
        if deaths.start != death.start {
            deaths.times += 1;
            (deaths.start, deaths.calm) = (death.start, 0);
        }
        deaths.times
    }

    fn survived(&mut self, sha: &str) {
        for deaths in self.deaths.iter_mut().filter(|d| d.sha == sha) {
            deaths.calm += 1;
        }
        self.deaths.retain(|d| d.calm < CALM);
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
        self.hindrance.clear();
        self.target = Some(target.clone());
        let Some(sha) = target.bundle.as_ref().map(|b| b.sha.clone()) else {
            return self.without_model();
        };
        // Whoever orders a bundle once more gives it all its chances.
        self.deaths.retain(|d| d.sha != sha);
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
        (self.active, self.last_good, self.before) = (None, None, None);
        self.deaths.clear();
        self.begin_anew();
        self.good_us = 0;
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
                self.shadow_pace = Pace::default();
                self.phase = Phase::Shadowing;
                return vec![Output::Watch(sha)];
            }
            let mut out = Vec::new();
            if self.shadow.take().is_some() {
                out.push(Output::Unwatch);
            }
            if self.before.as_ref() == Some(&bundle) {
                // Ordered back to what had proved itself before: it needs no new proof, least of all beside a quicker one, and what it
                // takes the place of may be what was taken back, so nothing comes back to that by itself.
                self.last_good = self.before.take();
                self.good_us = 0;
            }
            self.active = Some(bundle);
            self.begin_anew();
            self.phase = Phase::Active;
            out.push(Output::Activate(sha));
            return out;
        }
        if Self::is(self.active.as_ref(), &sha) {
            self.unhindered();
            return vec![Output::Activate(sha)];
        }
        if Self::is(self.shadow.as_ref(), &sha) {
            self.unhindered();
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
            return self.fetch_again(sha, reason);
        }
        if Self::is(self.shadow.as_ref(), sha) {
            return self.unwatch(sha, reason);
        }
        Vec::new()
    }

    /// What is in place was damaged: where it is what is ordered it comes once more, and what comes is checked like anything new.
    fn fetch_again(&mut self, sha: &str, reason: String) -> Vec<Output> {
        let settled = matches!(self.phase, Phase::Active | Phase::Healthy);
        let ordered = |t: &Target| settled && !t.shadow && t.names(sha);
        let Some(target) = self.target.clone().filter(ordered) else {
            return self.go_back(sha, reason);
        };
        let mut out = self.step_back(sha);
        self.phase = Phase::Downloading;
        self.hindrance = cut(&reason);
        out.push(Output::Fetch(target));
        out
    }

    fn unchecked(&mut self, sha: &str, reason: &str) -> Vec<Output> {
        let in_place = [&self.active, &self.shadow];
        if self.awaits(sha, Phase::Verified)
            || in_place.into_iter().any(|i| Self::is(i.as_ref(), sha))
        {
            self.hindrance = cut(reason);
        }
        Vec::new()
    }

    fn forecasted(&mut self, sha: &str, took: Took, terms: &Terms) -> Vec<Output> {
        self.survived(sha);
        if Self::is(self.active.as_ref(), sha) {
            self.runs_well(sha, took, terms)
        } else if Self::is(self.shadow.as_ref(), sha) {
            self.watches_well(sha, took, terms)
        } else {
            Vec::new()
        }
    }

    fn runs_well(&mut self, sha: &str, took: Took, terms: &Terms) -> Vec<Output> {
        self.forecasts += 1;
        self.failed = 0;
        self.unhindered();
        if took.us > 0 {
            self.pace.add(took.us);
        }
        if !self.on_probation() {
            if let Some(reason) = self.pace.over_budget(terms) {
                return self.go_back(sha, reason);
            }
            self.good_us = self.pace.known().unwrap_or(self.good_us);
            // Ordered back to the last good bundle while another was on trial: it needs no new proof, the order an answer.
            return self.well(terms);
        }
        if let Some(reason) = self.pace.slow(terms, self.good_us, took.golden_us) {
            return self.go_back(sha, reason);
        }
        if self.forecasts < u64::from(terms.probation) {
            return Vec::new();
        }
        self.before = std::mem::replace(&mut self.last_good, self.active.clone());
        self.good_us = self.pace.p95().unwrap_or(0);
        self.well(terms)
    }

    /// What runs has made its forecasts. Where another order is on its way, this one is not answered any more.
    fn well(&mut self, terms: &Terms) -> Vec<Output> {
        if self.phase != Phase::Active || self.forecasts < u64::from(terms.probation) {
            return Vec::new();
        }
        self.phase = Phase::Healthy;
        let message = format!("{} forecasts were made", self.forecasts);
        self.outcome(true, &message).into_iter().collect()
    }

    /// What is in place works. What hinders a download has nothing to do with it.
    fn unhindered(&mut self) {
        if self.phase != Phase::Downloading {
            self.hindrance.clear();
        }
    }

    fn watches_well(&mut self, sha: &str, took: Took, terms: &Terms) -> Vec<Output> {
        self.shadow_forecasts += 1;
        self.unhindered();
        if took.us > 0 {
            self.shadow_pace.add(took.us);
        }
        let good_us = self.good_us;
        if let Some(reason) = self.shadow_pace.slow(terms, good_us, took.golden_us) {
            return self.unwatch(sha, reason);
        }
        if self.shadow_forecasts == u64::from(terms.probation) {
            let outcome = self.outcome(true, "the model watches");
            return outcome.into_iter().collect();
        }
        Vec::new()
    }

    /// A shadow came to its end.
    fn unwatch(&mut self, sha: &str, reason: String) -> Vec<Output> {
        self.shadow = None;
        let mut out = vec![Output::Unwatch];
        out.extend(self.give_up(sha, Phase::Failed, reason));
        out
    }

    fn failed(&mut self, sha: &str, reason: String) -> Vec<Output> {
        if Self::is(self.active.as_ref(), sha) {
            self.failed += 1;
            if self.on_probation() || self.failed >= MAX_FAILED {
                return self.go_back(sha, reason);
            }
        } else if Self::is(self.shadow.as_ref(), sha) {
            return self.unwatch(sha, reason);
        }
        Vec::new()
    }

    /// Another model is in place: what was counted of the one before says nothing of it.
    fn begin_anew(&mut self) {
        (self.forecasts, self.failed) = (0, 0);
        self.pace = Pace::default();
    }

    /// To the last good bundle, or the one before where that is the one that failed, or the baselines where there is none.
    fn go_back(&mut self, sha: &str, reason: String) -> Vec<Output> {
        let trial = self.on_probation();
        let mut out = self.step_back(sha);
        let phase = if trial || self.active.is_some() {
            Phase::RolledBack
        } else {
            Phase::Failed
        };
        out.extend(self.give_up(sha, phase, reason));
        out
    }

    fn step_back(&mut self, sha: &str) -> Vec<Output> {
        if Self::is(self.last_good.as_ref(), sha) {
            self.last_good = self.before.take().filter(|b| b.sha != sha);
            self.good_us = 0;
        }
        self.active = self.last_good.clone();
        self.begin_anew();
        let load = self.active.clone().map(Output::Load);
        std::iter::once(Output::Baseline).chain(load).collect()
    }
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
