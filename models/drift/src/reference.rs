//! Reference statistics of a bundle: owns the bounded summary of the training rows, never the rows.

use serde::{Deserialize, Serialize};

use crate::StatError;
use crate::bins::normalise;
use crate::days::{DayFold, DayReference};
use crate::inputs::Aspect;
use crate::ks::{Ks, ks};
use crate::run::RunReference;
use crate::run::channel::learn;
use crate::two_sample::{finite, js_shares, psi_shares, wasserstein};

/// Most values of the sorted sample a channel.
pub const SAMPLE: usize = 500;

/// One channel's summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelReference {
    /// The channel's name.
    pub name: String,
    /// Finite values.
    pub count: u64,
    /// Missing values.
    pub missing: u64,
    /// Mean (0 where there is no value).
    pub mean: f64,
    /// Deviation (ddof 0).
    pub std: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Ascending inner edges at the deciles (at most 9, equal ones once); bin `i` is `(edge[i-1], edge[i]]`.
    pub edges: Vec<f64>,
    /// Values by bin; one more than edges.
    pub histogram: Vec<u64>,
    /// At most [`SAMPLE`] values at even ranks, ascending.
    pub sample: Vec<f64>,
    /// What its days look like, by aspect; empty where nothing is known of days.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<(Aspect, DayReference)>,
    /// What its rows look like to a detector of sudden shifts, in deviations of the days' means; none where too few are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RunReference>,
}

/// One device's rows: its name, and (time ms, one value a channel) in ascending order.
pub type DeviceRows<'a> = (&'a str, Vec<(i64, &'a [f64])>);

/// How far a current sample lies from a channel's reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distances {
    /// Finite values that were compared.
    pub count: u64,
    /// Kolmogorov-Smirnov's D against the reference's sample.
    pub ks_d: f64,
    /// Its p-value, as if values were independent (they are not: judge by thresholds made for the series).
    pub ks_p: f64,
    /// Wasserstein-1 over the deviation of the reference's sample.
    pub wasserstein: f64,
    /// PSI over the decile bins.
    pub psi: f64,
    /// Jensen-Shannon distance over the decile bins.
    pub js: f64,
}

impl ChannelReference {
    /// Summarises a channel's values; NaN and infinities count as missing.
    #[must_use]
    pub fn from_values(name: &str, values: &[f64]) -> Self {
        let sorted = finite(values, "reference", "reference").unwrap_or_default();
        let n = sorted.len();
        let count = n.max(1) as f64;
        // About the smallest value, so that a constant has exactly its value as mean and no deviation.
        let base = sorted.first().copied().unwrap_or(0.0);
        let mean = base + sorted.iter().map(|v| v / count - base / count).sum::<f64>();
        let std = sorted
            .iter()
            .map(|v| (v - mean).powi(2) / count)
            .sum::<f64>()
            .sqrt()
            .min(f64::MAX);
        let rank = |part: f64| {
            sorted
                .get((part * (n.max(1) - 1) as f64).round() as usize)
                .copied()
        };
        let mut edges: Vec<f64> = (1..10).filter_map(|d| rank(f64::from(d) / 10.0)).collect();
        edges.dedup();
        edges.retain(|e| sorted.last().is_some_and(|max| e < max));
        let kept = n.min(SAMPLE);
        let sample = (0..kept)
            .filter_map(|i| rank((i as f64 + 0.5) / kept as f64))
            .collect();
        Self {
            name: name.to_owned(),
            count: n as u64,
            missing: (values.len() - n) as u64,
            mean,
            std,
            min: sorted.first().copied().unwrap_or(0.0),
            max: sorted.last().copied().unwrap_or(0.0),
            histogram: bin_counts(&sorted, &edges),
            edges,
            sample,
            days: Vec::new(),
            rows: None,
        }
    }

    /// What an aspect of its days looks like, where it is known.
    #[must_use]
    pub fn days(&self, aspect: Aspect) -> Option<&DayReference> {
        let found = self.days.iter().find(|(a, _)| *a == aspect);
        found.map(|(_, days)| days)
    }

    /// Distances of a current sample to this reference.
    ///
    /// # Errors
    /// [`StatError::Empty`] where either side holds no finite value.
    pub fn compare(&self, current: &[f64]) -> Result<Distances, StatError> {
        let sorted = finite(current, "distances", "current")?;
        let Ks { d, p } = ks(&self.sample, &sorted)?;
        let (r, c) = (
            normalise(&self.histogram),
            normalise(&bin_counts(&sorted, &self.edges)),
        );
        Ok(Distances {
            count: sorted.len() as u64,
            ks_d: d,
            ks_p: p,
            wasserstein: wasserstein(&self.sample, &sorted)?,
            psi: psi_shares(&r, &c),
            js: js_shares(&r, &c),
        })
    }
}

fn bin_counts(sorted: &[f64], edges: &[f64]) -> Vec<u64> {
    let mut before = 0;
    let mut out: Vec<u64> = edges
        .iter()
        .map(|edge| {
            let through = sorted.partition_point(|v| v <= edge);
            let count = through.saturating_sub(before);
            before = through;
            count as u64
        })
        .collect();
    out.push((sorted.len() - before) as u64);
    out
}

/// The reference statistics a bundle carries, one entry a channel in the forecaster's order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReferenceStats {
    /// Summaries in the order of the forecaster's channels.
    pub channels: Vec<ChannelReference>,
}

impl ReferenceStats {
    /// Summarises rows (each with one value a channel, NaN = missing; a short row counts as missing at its end).
    #[must_use]
    pub fn from_rows<'a>(names: &[&str], rows: impl Iterator<Item = &'a [f64]>) -> Self {
        let mut columns = vec![Vec::new(); names.len()];
        for row in rows {
            for (c, column) in columns.iter_mut().enumerate() {
                column.push(row.get(c).copied().unwrap_or(f64::NAN));
            }
        }
        let channels = names
            .iter()
            .zip(&columns)
            .map(|(n, v)| ChannelReference::from_values(n, v))
            .collect();
        Self { channels }
    }

    /// Adds what the days and rows of each channel look like, from the same rows by device; `period` is their distance, ms.
    #[must_use]
    pub fn with_days(mut self, period: i64, devices: &[DeviceRows<'_>]) -> Self {
        let count = self.channels.len();
        for (c, channel) in self.channels.iter_mut().enumerate() {
            let mut aspects = Aspect::ALL.map(|aspect| (aspect, Vec::new()));
            for (device, rows) in devices {
                let mut fold = DayFold::default();
                let value = |row: &[f64]| row.get(c).copied().unwrap_or(f64::NAN);
                let mut days: Vec<_> = rows
                    .iter()
                    .filter_map(|(time, row)| fold.push(period, *time, value(row)))
                    .collect();
                days.extend(fold.close(period));
                for (aspect, series) in &mut aspects {
                    let values = days.iter().filter_map(|d| Some((d.day, aspect.of(d)?)));
                    series.push((*device, values.collect()));
                }
            }
            channel.days = aspects
                .into_iter()
                .filter_map(|(aspect, series)| Some((aspect, DayReference::fit(&series)?)))
                .collect();
            let value = |row: &[f64]| row.get(c).copied().unwrap_or(f64::NAN);
            let rows: Vec<(&str, Vec<(i64, f64)>)> = devices
                .iter()
                .map(|(device, rows)| (*device, rows.iter().map(|(t, r)| (*t, value(r))).collect()))
                .collect();
            channel.rows = channel
                .days(Aspect::Mean)
                .and_then(|days| learn(period, days, &rows, count));
        }
        self
    }

    /// A channel by name.
    #[must_use]
    pub fn channel(&self, name: &str) -> Option<&ChannelReference> {
        self.channels.iter().find(|c| c.name == name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_summary_knows_its_rows_and_a_shift_shows() {
        let rows: Vec<Vec<f64>> = (0..5_000)
            .map(|i| vec![f64::from(i), 3.0, f64::NAN])
            .collect();
        let stats = ReferenceStats::from_rows(&["a", "b", "c"], rows.iter().map(Vec::as_slice));
        let a = stats.channel("a").unwrap();
        assert_eq!(
            (a.count, a.min, a.max, a.sample.len(), a.edges.len()),
            (5_000, 0.0, 4_999.0, SAMPLE, 9)
        );
        assert!(
            (a.mean - 2_499.5).abs() < 1e-6 && a.histogram.iter().all(|c| c.abs_diff(500) <= 1)
        );
        let same: Vec<f64> = (0..1_000).map(|i| f64::from(i) * 5.0).collect();
        let near = a.compare(&same).unwrap();
        assert!(
            near.ks_p > 0.9 && near.psi < 0.01 && near.wasserstein < 0.01,
            "{near:?}"
        );
        let moved: Vec<f64> = same.iter().map(|v| v + 1_500.0).collect();
        let far = a.compare(&moved).unwrap();
        assert!(
            far.ks_p < 1e-6 && far.psi > 0.25 && far.wasserstein > 0.9 && far.js > 0.1,
            "{far:?}"
        );
        let b = stats.channel("b").unwrap();
        assert_eq!((b.std, b.edges.len(), b.histogram.len()), (0.0, 0, 1));
        assert!(
            b.compare(&[3.0]).unwrap().psi.abs() < 1e-12 && b.compare(&[9.0]).unwrap().ks_d == 1.0
        );
        let c = stats.channel("c").unwrap();
        assert_eq!((c.count, c.missing), (0, 5_000));
        assert!(c.compare(&[1.0]).is_err() && a.compare(&[f64::NAN]).is_err());
        let json = serde_json::to_string(&stats).unwrap();
        assert_eq!(
            serde_json::from_str::<ReferenceStats>(&json).unwrap(),
            stats
        );
    }
}
