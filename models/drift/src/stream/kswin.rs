//! KSWIN: owns a sliding window whose newest part is compared with a sample of the older one, never a global random state.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::StatError;
use crate::ks::ks;
use crate::window::random::Random;

/// KSWIN (Raab et al. 2020) with River's defaults: alpha 0.005, window 100, newest 30; an alarm needs p <= alpha and
/// D > 0.1. The window then holds the newest part until the next update, which begins an empty one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kswin {
    alpha: f64,
    size: usize,
    newest: usize,
    window: VecDeque<f64>,
    random: u64,
    #[serde(default)]
    fired: bool,
}

impl Kswin {
    /// River's defaults and a seed for the sampling.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            alpha: 0.005,
            size: 100,
            newest: 30,
            window: VecDeque::new(),
            random: seed,
            fired: false,
        }
    }

    /// With parameters of one's own; `newest` values are compared with as many older ones.
    ///
    /// # Errors
    /// [`StatError::Parameter`] unless 0 < alpha < 1 and 1 <= newest <= size / 2 <= 5000.
    pub fn new(alpha: f64, size: usize, newest: usize, seed: u64) -> Result<Self, StatError> {
        let fail = |parameter, problem: &str| {
            Err(StatError::Parameter {
                subject: "KSWIN",
                parameter,
                problem: problem.into(),
            })
        };
        if !(alpha > 0.0 && alpha < 1.0) {
            return fail("alpha", "must lie between 0 and 1");
        }
        if newest == 0 || newest > size / 2 || size > 10_000 {
            return fail(
                "newest",
                "must be 1 to half the window, the window at most 10000",
            );
        }
        Ok(Self {
            alpha,
            size,
            newest,
            window: VecDeque::new(),
            random: seed,
            fired: false,
        })
    }

    /// Takes a value; true = alarm.
    pub fn update(&mut self, x: f64) -> bool {
        let mut random = Random(self.random);
        let fired = self.update_with(x, |population, count| {
            sample(&mut random, population, count)
        });
        self.random = random.0;
        fired
    }

    /// As [`Self::update`], with `pick(population, count)` choosing `count` different indices below `population`.
    pub fn update_with(&mut self, x: f64, pick: impl FnOnce(usize, usize) -> Vec<usize>) -> bool {
        if !x.is_finite() {
            return false;
        }
        if self.fired {
            self.window.clear();
            self.fired = false;
        }
        if self.window.len() == self.size {
            self.window.pop_front();
        }
        self.window.push_back(x);
        if self.window.len() < self.size {
            return false;
        }
        let older = self.size - self.newest;
        let drawn: Vec<f64> = pick(older, self.newest)
            .into_iter()
            .filter_map(|i| self.window.get(i).copied())
            .collect();
        let recent: Vec<f64> = self.window.range(older..).copied().collect();
        self.fired = ks(&drawn, &recent).is_ok_and(|r| r.p <= self.alpha && r.d > 0.1);
        if self.fired {
            self.window = recent.into();
        }
        self.fired
    }
}

/// Without replacement: a partial Fisher-Yates shuffle.
fn sample(random: &mut Random, population: usize, count: usize) -> Vec<usize> {
    let mut pool: Vec<usize> = (0..population).collect();
    let count = count.min(population);
    for i in 0..count {
        pool.swap(i, i + random.below(population - i));
    }
    pool.truncate(count);
    pool
}
