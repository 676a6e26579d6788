//! The public series of the accuracy figures: owns reading and laying out their tables, never a forecast.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A table with named columns of numbers; NaN is a missing value.
pub(crate) struct Table {
    pub(crate) names: Vec<String>,
    /// Cells as they were written, row by row.
    cells: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "read {}; set FIELDCAST_DATA to the folder of the public series",
                path.display()
            )
        })?;
        let mut lines = text.lines();
        let split = |line: &str| {
            line.split(',')
                .map(|c| c.trim().to_owned())
                .collect::<Vec<_>>()
        };
        let names = split(lines.next().context("an empty table")?);
        let cells: Vec<Vec<String>> = lines.filter(|l| !l.is_empty()).map(split).collect();
        if let Some(bad) = cells.iter().position(|row| row.len() != names.len()) {
            bail!(
                "{} line {}: {} fields, not {}",
                path.display(),
                bad + 2,
                cells[bad].len(),
                names.len()
            );
        }
        Ok(Self { names, cells })
    }

    pub(crate) fn text(&self, name: &str) -> Result<Vec<&str>> {
        let at = self.names.iter().position(|n| n == name);
        let at = at.with_context(|| format!("there is no column `{name}`"))?;
        Ok(self.cells.iter().map(|row| row[at].as_str()).collect())
    }

    pub(crate) fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        let parse = |text: &&str| {
            text.parse::<f64>()
                .with_context(|| format!("column `{name}`: `{text}`"))
        };
        self.text(name)?.iter().map(parse).collect()
    }

    pub(crate) fn truncate(&mut self, rows: usize) {
        self.cells.truncate(rows);
    }
}

/// Centred and scaled by mean and deviation of the first `train` values.
pub(crate) fn z_scored(values: &[f64], train: usize) -> Vec<f64> {
    let known = &values[..train.min(values.len())];
    let n = known.len() as f64;
    let mean = known.iter().sum::<f64>() / n;
    let deviation = (known.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    values.iter().map(|v| (v - mean) / deviation).collect()
}

/// Writes `time` and the given columns as CSV.
pub(crate) fn write(path: &Path, times: &[&str], columns: &[(&str, Vec<f64>)]) -> Result<()> {
    let mut text = String::from("time");
    columns.iter().for_each(|(name, _)| {
        let _ = write!(text, ",{name}");
    });
    text.push('\n');
    for (i, time) in times.iter().enumerate() {
        text.push_str(time);
        for (_, values) in columns {
            match values[i] {
                v if v.is_nan() => text.push(','),
                v => {
                    let _ = write!(text, ",{v}");
                }
            }
        }
        text.push('\n');
    }
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Ridge in closed form from the last `lookback` values minus the last of them to the next `horizon` minus the same: the
/// mean square error of every window whose target lies in the test part, in time order.
///
/// `parts` are the ends of train and validation part; the penalty (relative to the mean diagonal) is the validation part's choice.
pub(crate) fn ridge_errors(
    values: &[f64],
    (train, validate): (usize, usize),
    lookback: usize,
    horizon: usize,
) -> Result<Vec<f64>> {
    let origins = |from: usize, until: usize| from.max(lookback)..until + 1 - horizon;
    let d = lookback + 1;
    let x = |origin: usize, out: &mut Vec<f64>| {
        let last = values[origin - 1];
        out.clear();
        out.extend(values[origin - lookback..origin].iter().map(|v| v - last));
        out.push(1.0);
    };
    let mut gram = vec![0.0; d * d];
    let mut cross = vec![0.0; d * horizon];
    let mut row = Vec::with_capacity(d);
    for origin in origins(lookback, train) {
        x(origin, &mut row);
        for (i, a) in row.iter().enumerate() {
            for (g, b) in gram[i * d..i * d + i + 1].iter_mut().zip(&row) {
                *g += a * b;
            }
            let targets = &values[origin..origin + horizon];
            for (c, y) in cross[i * horizon..(i + 1) * horizon]
                .iter_mut()
                .zip(targets)
            {
                *c += a * (y - values[origin - 1]);
            }
        }
    }
    let mean = (0..lookback).map(|i| gram[i * d + i]).sum::<f64>() / lookback as f64;
    let errors = |weights: &[f64], from: usize, until: usize| {
        let mut row = Vec::with_capacity(d);
        let mut out = Vec::new();
        for origin in origins(from, until) {
            x(origin, &mut row);
            let mut forecast = vec![values[origin - 1]; horizon];
            for (a, w) in row.iter().zip(weights.chunks_exact(horizon)) {
                forecast.iter_mut().zip(w).for_each(|(f, w)| *f += a * w);
            }
            let square = forecast
                .iter()
                .zip(&values[origin..])
                .map(|(f, y)| (f - y).powi(2))
                .sum::<f64>();
            out.push(square / horizon as f64);
        }
        out
    };
    let mut best: Option<(f64, Vec<f64>)> = None;
    for penalty in [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0] {
        let mut factor = gram.clone();
        (0..lookback).for_each(|i| factor[i * d + i] += penalty * mean);
        let mut weights = cross.clone();
        solve(&mut factor, d, &mut weights, horizon)?;
        let list = errors(&weights, train, validate);
        let error = list.iter().sum::<f64>() / list.len() as f64;
        if best.as_ref().is_none_or(|(least, _)| error < *least) {
            best = Some((error, weights));
        }
    }
    let (_, weights) = best.context("no penalty was tried")?;
    Ok(errors(&weights, validate, values.len()))
}

/// Solves `A X = B` by Cholesky in place; `a` holds the lower triangle of the `n` x `n` matrix, `b` is `n` x `m`.
fn solve(a: &mut [f64], n: usize, b: &mut [f64], m: usize) -> Result<()> {
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum();
            let rest = a[i * n + j] - dot;
            if i == j && rest <= 0.0 {
                bail!("the normal equations are singular");
            }
            a[i * n + j] = if i == j {
                rest.sqrt()
            } else {
                rest / a[j * n + j]
            };
        }
    }
    for i in 0..n {
        let (above, row) = b.split_at_mut(i * m);
        for (k, x) in above.chunks_exact(m).enumerate() {
            row[..m]
                .iter_mut()
                .zip(x)
                .for_each(|(r, x)| *r -= a[i * n + k] * x);
        }
        row[..m].iter_mut().for_each(|r| *r /= a[i * n + i]);
    }
    for i in (0..n).rev() {
        let (head, below) = b.split_at_mut((i + 1) * m);
        let row = &mut head[i * m..];
        for (k, x) in below.chunks_exact(m).enumerate() {
            row.iter_mut()
                .zip(x)
                .for_each(|(r, x)| *r -= a[(i + 1 + k) * n + i] * x);
        }
        row.iter_mut().for_each(|r| *r /= a[i * n + i]);
    }
    Ok(())
}

/// The 2.5 and 97.5 % quantiles of `mean(a) / mean(b)` under a moving-block bootstrap (Künsch, 1989) of 2,000 draws.
pub(crate) fn bootstrap_ratio(a: &[f64], b: &[f64], block: usize) -> (f64, f64) {
    let n = a.len().min(b.len());
    let block = block.clamp(1, n.max(1));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut ratios: Vec<f64> = (0..2_000)
        .map(|_| {
            let (mut top, mut bottom, mut taken) = (0.0, 0.0, 0);
            while taken < n {
                // A 64-bit linear congruential generator (Knuth's MMIX constants), upper bits only.
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let from = (state >> 33) as usize % (n - block + 1);
                top += a[from..from + block].iter().sum::<f64>();
                bottom += b[from..from + block].iter().sum::<f64>();
                taken += block;
            }
            top / bottom
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    (ratios[49], ratios[1_949])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn ridge_forecasts_what_follows_a_linear_rule() {
        let values: Vec<f64> = (0..600)
            .map(|t| (f64::from(t) * 0.7).sin() + 0.01 * f64::from(t))
            .collect();
        let errors = ridge_errors(&values, (300, 450), 12, 3).unwrap();
        assert_eq!(errors.len(), 150 - 3 + 1);
        assert!(errors.iter().all(|e| *e < 1e-4), "{errors:?}");
    }

    #[test]
    fn a_bootstrap_of_a_constant_ratio_is_that_ratio() {
        let b: Vec<f64> = (1..400).map(f64::from).collect();
        let a: Vec<f64> = b.iter().map(|v| 0.9 * v).collect();
        let (low, high) = bootstrap_ratio(&a, &b, 24);
        assert!((low - 0.9).abs() < 1e-9 && (high - 0.9).abs() < 1e-9);
    }
}
