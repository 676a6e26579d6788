//! Drawn histograms: owns the bins of two samples and their bars, never a verdict.

use std::fmt::Write as _;

use fieldcast_drift::preset::{Column, Values};
use serde::{Deserialize, Serialize};

use super::{HEIGHT, WIDTH, escape};
use crate::check::words::short;

const BINS: usize = 24;
/// Most categories that are drawn.
const CATEGORIES: usize = 12;

/// Shares of a reference and of what is compared with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bars {
    /// Of the reference, by bin.
    reference: Vec<f64>,
    /// Of the current values.
    current: Vec<f64>,
    /// What stands below, with its place from 0 to 1.
    labels: Vec<(f64, String)>,
}

impl Bars {
    /// Of a column that holds the same on both sides and any value.
    #[must_use]
    pub fn of(column: &Column) -> Option<Self> {
        match (&column.reference, &column.current) {
            (Values::Numbers { values: r, .. }, Values::Numbers { values: c, .. }) => {
                Self::numbers(r, c)
            }
            (Values::Words(r), Values::Words(c)) => Some(Self::words(r, c)),
            _ => None,
        }
    }

    /// Of numbers; none where no value is finite.
    #[must_use]
    pub fn numbers(r: &[f64], c: &[f64]) -> Option<Self> {
        let finite = |of: &[f64]| -> Vec<f64> {
            let mut all: Vec<f64> = of.iter().copied().filter(|v| v.is_finite()).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let (r, c) = (finite(r), finite(c));
        let low = r.iter().chain(&c).copied().fold(f64::INFINITY, f64::min);
        let high = r
            .iter()
            .chain(&c)
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        if !(high - low).is_finite() {
            return None;
        }
        let width = if high > low { high - low } else { 1.0 };
        let share = |of: &[f64]| -> Vec<f64> {
            let mut bins = vec![0.0; BINS];
            for v in of {
                let at = ((v - low) / width * BINS as f64) as usize;
                bins[at.min(BINS - 1)] += 1.0 / of.len() as f64;
            }
            bins
        };
        let labels = vec![(0.0, short(low)), (1.0, short(high))];
        Some(Self {
            reference: share(&r),
            current: share(&c),
            labels,
        })
    }

    fn words(r: &[Option<String>], c: &[Option<String>]) -> Self {
        let count = |of: &[Option<String>], word: &str| {
            let all = of.iter().flatten().count().max(1) as f64;
            of.iter().flatten().filter(|w| *w == word).count() as f64 / all
        };
        let mut names: Vec<&str> = r.iter().chain(c).flatten().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        let mut shares: Vec<(f64, f64, &str)> = names
            .into_iter()
            .map(|name| (count(r, name), count(c, name), name))
            .collect();
        shares.sort_by(|a, b| (b.0 + b.1).total_cmp(&(a.0 + a.1)));
        shares.truncate(CATEGORIES);
        let step = 1.0 / shares.len().max(1) as f64;
        let labels: Vec<(f64, String)> = shares
            .iter()
            .enumerate()
            .map(|(i, s)| ((i as f64 + 0.5) * step, s.2.chars().take(12).collect()))
            .collect();
        let (reference, current) = shares.iter().map(|s| (s.0, s.1)).unzip();
        Self {
            reference,
            current,
            labels,
        }
    }

    /// As SVG.
    pub(super) fn svg(&self) -> String {
        let most = self
            .reference
            .iter()
            .chain(&self.current)
            .copied()
            .fold(f64::MIN_POSITIVE, f64::max);
        let step = WIDTH / self.reference.len().max(1) as f64;
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"reference and current shares\">",
            HEIGHT + 18.0
        );
        for (class, shares) in [("r", &self.reference), ("c", &self.current)] {
            for (i, share) in shares.iter().enumerate() {
                let height = share / most * HEIGHT;
                let _ = write!(
                    out,
                    "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
                    i as f64 * step + 0.5,
                    HEIGHT - height,
                    step - 1.0
                );
            }
        }
        for (place, text) in &self.labels {
            let anchor = match *place {
                x if x <= 0.0 => "start",
                x if x >= 1.0 => "end",
                _ => "middle",
            };
            let x = place * WIDTH;
            let _ = write!(
                out,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
                HEIGHT + 13.0,
                escape(text)
            );
        }
        out.push_str("</svg>");
        out
    }
}
