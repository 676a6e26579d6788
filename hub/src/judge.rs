//! Challenger against champion: owns the rules over losses that neither could learn from, and the verdict; never a forecast.

use serde::{Deserialize, Serialize};

use fieldcast_train::diebold_mariano;

/// What a challenger must show.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Smallest share by which the champion's loss must fall.
    pub min_gain: f64,
    /// Largest one-sided p-value of the Diebold-Mariano test.
    pub max_p: f64,
    /// Fewest origins behind a verdict.
    pub min_origins: usize,
    /// Bounds of the share of actual values inside the challenger's 80 % interval.
    pub coverage: [f64; 2],
    /// Largest share by which the loss on older windows may rise.
    pub max_old_loss: f64,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            min_gain: 0.01,
            max_p: 0.05,
            min_origins: 5,
            coverage: [0.65, 0.95],
            max_old_loss: 0.1,
        }
    }
}

/// How a rule came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not: the champion stays.
    Failed,
    /// There is nothing to judge it by: it decides nothing.
    NotJudged,
}

/// One rule of the gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// `origins`, `gain`, `chance`, `coverage` or `old_windows`.
    pub rule: String,
    /// How it came out.
    pub outcome: Outcome,
    /// What was measured and what is asked.
    pub words: String,
}

/// Losses on windows of older times that neither model learnt from.
#[derive(Debug, Clone, Copy)]
pub enum Old<'a> {
    /// Losses by origin.
    Losses {
        /// The champion's.
        champion: &'a [f64],
        /// The challenger's.
        challenger: &'a [f64],
        /// The seasonal naive forecast's, in the same unit; given where the world is known to have changed since.
        naive: Option<&'a [f64]>,
    },
    /// There are none; why.
    Nothing(&'a str),
}

/// The document of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The challenger replaces the champion.
    pub better: bool,
    /// Why, in words.
    pub reason: String,
    /// Every rule with its outcome, in the order in which they are asked.
    pub rules: Vec<Rule>,
    /// Origins compared.
    pub origins: usize,
    /// Champion's mean loss over origins (MAE in units of the seasonal difference).
    pub champion_loss: f64,
    /// Challenger's.
    pub challenger_loss: f64,
    /// Share by which the loss falls; negative: it rises.
    pub gain: f64,
    /// Diebold-Mariano with Harvey's factor; positive speaks for the challenger. None: it has no variance to speak of.
    pub dm: Option<f64>,
    /// One-sided p-value that the challenger is not better.
    pub p: Option<f64>,
    /// The limits.
    pub gate: Gate,
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len().max(1) as f64
}

/// Compares origin-averaged losses of both models on the same newest origins, in time order.
#[must_use]
pub fn verdict(champion: &[f64], challenger: &[f64], horizon: usize, gate: Gate) -> Verdict {
    let (old, new) = (mean(champion), mean(challenger));
    let gain = if old > 0.0 { 1.0 - new / old } else { 0.0 };
    // Fewer origins than the horizon leave the small-sample factor without meaning: then neighbours count as the lag.
    let steps = horizon.min(champion.len() / 3).max(1);
    let dm = diebold_mariano(champion, challenger, steps);
    let p = dm.map(|d| {
        if d.harvey > 0.0 {
            d.p / 2.0
        } else {
            1.0 - d.p / 2.0
        }
    });
    let n = champion.len().min(challenger.len());
    let said = p.map_or_else(|| "without a p-value".to_owned(), |p| format!("p = {p:.4}"));
    let finite = |x: f64| Some(x).filter(|x| x.is_finite());
    let mut verdict = Verdict {
        better: true,
        reason: format!(
            "loss falls by {:.1} % on {n} origins unseen by both ({said})",
            100.0 * gain
        ),
        rules: Vec::new(),
        origins: n,
        champion_loss: old,
        challenger_loss: new,
        gain,
        dm: dm.and_then(|d| finite(d.harvey)),
        p,
        gate,
    };
    let words = if n < gate.min_origins {
        format!(
            "only {n} origins unseen by both, {} are needed; wait for more data",
            gate.min_origins
        )
    } else {
        format!(
            "{n} origins unseen by both, {} are needed",
            gate.min_origins
        )
    };
    verdict.ask("origins", Some(n >= gate.min_origins), words);
    let words = format!(
        "loss changes by {:+.1} %, at least -{:.1} % is asked",
        -100.0 * gain,
        100.0 * gate.min_gain
    );
    verdict.ask("gain", Some(gain >= gate.min_gain), words);
    let sure = p.is_some_and(|p| p <= gate.max_p);
    let words = if sure {
        format!("{said}, at most {} is asked", gate.max_p)
    } else {
        format!(
            "loss changes by {:+.1} %, but that may be chance ({said}, at most {} is asked)",
            -100.0 * gain,
            gate.max_p
        )
    };
    verdict.ask("chance", Some(sure), words);
    verdict
}

impl Verdict {
    /// Asks whether the challenger's 80 % interval holds about that share on the same windows; none: it has no such interval.
    /// One outside the bounds, but nearer to 80 % than the champion's, is no reason to keep that.
    #[must_use]
    pub fn with_coverage(mut self, coverage: Option<f64>, champion: Option<f64>) -> Self {
        let [low, high] = self.gate.coverage;
        let off = |share: f64| (share - 0.8).abs();
        let nearer = |share: f64| champion.is_some_and(|champion| off(share) < off(champion));
        let words = coverage.map_or_else(
            || "the forecaster has no 80 % interval".to_owned(),
            |share| {
                format!(
                    "{:.1} % of the actual values are inside the 80 % interval ({} inside the champion's), {:.0} to {:.0} % are \
                     asked, or nearer to 80 % than the champion's",
                    100.0 * share,
                    champion.map_or_else(|| "none known".to_owned(), |c| format!("{:.1} %", 100.0 * c)),
                    100.0 * low,
                    100.0 * high
                )
            },
        );
        self.ask(
            "coverage",
            coverage.map(|share| (low..=high).contains(&share) || nearer(share)),
            words,
        );
        self
    }

    /// Asks what was forgotten. After a change of the world the old answers are wrong today, and a model that follows the
    /// change must lose on them: there its loss is measured from what repeating the last season loses, where that is more.
    #[must_use]
    pub fn with_old(mut self, old: Old<'_>) -> Self {
        let (champion, challenger, naive) = match old {
            Old::Losses {
                champion,
                challenger,
                naive,
            } if champion.len().min(challenger.len()) >= self.gate.min_origins => {
                (champion, challenger, naive)
            }
            Old::Losses { champion, .. } => {
                let words = format!(
                    "only {} older origins that neither learnt from, {} are needed",
                    champion.len(),
                    self.gate.min_origins
                );
                self.ask("old_windows", None, words);
                return self;
            }
            Old::Nothing(why) => {
                self.ask("old_windows", None, why.to_owned());
                return self;
            }
        };
        let (before, after) = (mean(champion), mean(challenger));
        let naive = naive.map(mean).filter(|naive| *naive > before);
        let most = naive.unwrap_or(before) * (1.0 + self.gate.max_old_loss);
        let words = format!(
            "on {} older origins that neither learnt from, loss goes from {before:.3} to {after:.3} ({:+.1} %), at most \
             {most:.3} is allowed ({})",
            champion.len(),
            100.0 * (after / before.max(f64::MIN_POSITIVE) - 1.0),
            match naive {
                Some(naive) => format!(
                    "{:+.1} % of the seasonal naive forecast's {naive:.3}, as the world has changed since",
                    100.0 * self.gate.max_old_loss
                ),
                None => format!("{:+.1} %", 100.0 * self.gate.max_old_loss),
            }
        );
        self.ask("old_windows", Some(after <= most), words);
        self
    }

    /// The first rule that fails says why the champion stays.
    fn ask(&mut self, rule: &str, holds: Option<bool>, words: String) {
        let outcome = match holds {
            Some(true) => Outcome::Passed,
            Some(false) => Outcome::Failed,
            None => Outcome::NotJudged,
        };
        if outcome == Outcome::Failed && self.better {
            self.better = false;
            self.reason.clone_from(&words);
        }
        self.rules.push(Rule {
            rule: rule.to_owned(),
            outcome,
            words,
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn wave(level: f64, phase: f64) -> Vec<f64> {
        (0..200)
            .map(|i| level + 0.1 * (f64::from(i) * 0.7 + phase).sin())
            .collect()
    }

    #[test]
    fn a_clear_gain_passes_and_says_by_how_much() {
        let v = verdict(&wave(1.0, 0.0), &wave(0.8, 1.0), 24, Gate::default());
        assert!(v.better, "{}", v.reason);
        assert!((v.gain - 0.2).abs() < 0.01);
        assert!(v.reason.contains('%'));
    }

    #[test]
    fn equal_worse_or_too_few_do_not_pass() {
        assert!(!verdict(&wave(1.0, 0.0), &wave(1.0, 0.0), 24, Gate::default()).better);
        assert!(!verdict(&wave(0.8, 0.0), &wave(1.0, 1.0), 24, Gate::default()).better);
        let few = verdict(&[1.0; 3], &[0.5; 3], 1, Gate::default());
        assert!(!few.better && few.reason.contains("only 3"));
    }

    #[test]
    fn a_gain_that_rests_on_one_origin_is_chance() {
        let old = wave(1.0, 0.0);
        let mut new = old.clone();
        new[7] -= 8.0 * 0.6;
        let v = verdict(&old, &new, 1, Gate::default());
        assert!(v.gain > 0.01 && !v.better, "{}", v.reason);
    }

    fn outcome(v: &Verdict, rule: &str) -> Outcome {
        v.rules.iter().find(|r| r.rule == rule).unwrap().outcome
    }

    #[test]
    fn coverage_outside_its_bounds_keeps_the_champion_and_every_rule_is_told() {
        let clear = || verdict(&wave(1.0, 0.0), &wave(0.8, 1.0), 24, Gate::default());
        for (coverage, better) in [(0.6, false), (0.65, true), (0.95, true), (0.96, false)] {
            let v = clear().with_coverage(Some(coverage), None);
            assert_eq!(v.better, better, "{coverage}: {}", v.reason);
        }
        let v = clear()
            .with_coverage(Some(0.5), Some(0.6))
            .with_old(Old::Nothing("none yet"));
        assert!(v.reason.contains("50.0 %"), "{}", v.reason);
        assert_eq!(v.rules.len(), 5);
        assert_eq!(outcome(&v, "chance"), Outcome::Passed);
        assert_eq!(outcome(&v, "coverage"), Outcome::Failed);
        assert_eq!(outcome(&v, "old_windows"), Outcome::NotJudged);
        assert!(clear().with_coverage(None, Some(0.1)).better);
        // Too narrow, but less so than what it replaces.
        assert!(clear().with_coverage(Some(0.6), Some(0.4)).better);
    }

    #[test]
    fn what_was_forgotten_keeps_the_champion_unless_the_world_has_changed() {
        let judge = |after: f64, naive: Option<f64>| {
            let (champion, challenger) = (vec![0.5; 40], vec![after; 40]);
            let naive = naive.map(|n| vec![n; 40]);
            verdict(&wave(1.0, 0.0), &wave(0.8, 1.0), 24, Gate::default()).with_old(Old::Losses {
                champion: &champion,
                challenger: &challenger,
                naive: naive.as_deref(),
            })
        };
        assert!(judge(0.549, None).better);
        let v = judge(0.56, None);
        assert!(!v.better && v.reason.contains("+12.0 %"), "{}", v.reason);
        assert!(judge(0.9, Some(1.0)).better);
        assert!(judge(1.09, Some(1.0)).better);
        assert!(!judge(1.11, Some(1.0)).better);
        // A champion that is worse than naive itself is no reason to ask for more.
        assert!(judge(0.549, Some(0.4)).better);
        let few =
            verdict(&wave(1.0, 0.0), &wave(0.8, 1.0), 24, Gate::default()).with_old(Old::Losses {
                champion: &[1.0; 4],
                challenger: &[9.0; 4],
                naive: None,
            });
        assert!(few.better);
        assert_eq!(outcome(&few, "old_windows"), Outcome::NotJudged);
    }
}
