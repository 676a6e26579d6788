//! Challenger against champion: owns the verdict on losses over the same unseen windows, never makes a forecast.

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
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            min_gain: 0.01,
            max_p: 0.05,
            min_origins: 5,
        }
    }
}

/// The document of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The challenger replaces the champion.
    pub better: bool,
    /// Why, in words.
    pub reason: String,
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

/// Compares origin-averaged losses of both models on the same origins, in time order.
#[must_use]
pub fn verdict(champion: &[f64], challenger: &[f64], horizon: usize, gate: Gate) -> Verdict {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len().max(1) as f64;
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
    let (better, reason) = if n < gate.min_origins {
        (
            false,
            format!(
                "only {n} origins unseen by both, {} are needed; wait for more data",
                gate.min_origins
            ),
        )
    } else if gain < gate.min_gain {
        (
            false,
            format!(
                "loss changes by {:+.1} %, at least -{:.1} % is asked",
                -100.0 * gain,
                100.0 * gate.min_gain
            ),
        )
    } else if p.is_none_or(|p| p > gate.max_p) {
        let p = p.map_or_else(|| "without a p-value".to_owned(), |p| format!("p = {p:.3}"));
        (
            false,
            format!(
                "loss falls by {:.1} %, but that may be chance ({p})",
                100.0 * gain
            ),
        )
    } else {
        let p = p.unwrap_or(1.0);
        (
            true,
            format!(
                "loss falls by {:.1} % on {n} origins unseen by both (p = {p:.4})",
                100.0 * gain
            ),
        )
    };
    let finite = |x: f64| Some(x).filter(|x| x.is_finite());
    Verdict {
        better,
        reason,
        origins: n,
        champion_loss: old,
        challenger_loss: new,
        gain,
        dm: dm.and_then(|d| finite(d.harvey)),
        p,
        gate,
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
}
