//! Whitening: owns the seasonal means and the autoregression of a reference and what they leave of other rows, never a test.

/// Highest order of the autoregression.
pub(crate) const MOST_LAGS: usize = 8;
/// Rows a coefficient needs at least.
const ROWS_PER_LAG: usize = 25;
/// Seasons that a reference must hold before its slots have means.
const FEWEST_SEASONS: usize = 4;
/// How much farther from the reference's mean a window may lie than any window of the reference did, and still be excused by
/// what the reference does not know.
const FARTHER: f64 = 2.0;
/// How many times as unequal as chance makes them the slots' deviations must be to be evened out.
const UNEQUAL: f64 = 4.0;

/// Where rows stand in time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grid {
    /// Slot of the season of each row; empty = no season.
    pub slots: Vec<usize>,
    /// Rows that do not follow the row before by one step.
    pub breaks: Vec<usize>,
}

impl Grid {
    /// Rows one step apart, with a season of `season` rows that begins with the first one (0 or 1 = none).
    #[must_use]
    pub fn regular(rows: usize, season: usize) -> Self {
        let slots = if season > 1 {
            (0..rows).map(|i| i % season).collect()
        } else {
            Vec::new()
        };
        Self {
            slots,
            breaks: Vec::new(),
        }
    }
}

/// What a reference expects of its next value: means by slot of the season, and an autoregression.
#[derive(Debug, Clone, PartialEq)]
pub struct Whitener {
    means: Vec<f64>,
    scales: Vec<f64>,
    past: Past,
}

/// An autoregression.
#[derive(Debug, Clone, PartialEq)]
struct Past {
    /// Intercept and coefficients by lag.
    weights: Vec<f64>,
    /// Mean that the lags were centred at.
    mean: f64,
    /// Cholesky's lower triangle of the lags' products.
    lower: Vec<Vec<f64>>,
}

impl Whitener {
    /// Learns from rows, of which non-finite ones are missing.
    #[must_use]
    pub fn fit(values: &[f64], grid: &Grid) -> Self {
        let means = slot_means(values, grid).unwrap_or_default();
        let mut whitener = Self {
            means,
            scales: Vec::new(),
            past: Past::level(0.0),
        };
        let flat = whitener.without_season(values, grid);
        whitener.past = autoregression(&flat, grid);
        whitener.scales = scales(&whitener.innovations(&flat, grid), grid).unwrap_or_default();
        whitener
    }

    /// How many past values it looks at.
    #[must_use]
    pub fn lags(&self) -> usize {
        self.past.weights.len() - 1
    }

    /// About how many rows it takes until a value is forgotten: the sum of what one shock leaves behind; at most 1,000.
    #[must_use]
    pub fn memory(&self) -> usize {
        let kept: f64 = self.past.weights[1..].iter().sum();
        (1.0 / (1.0 - kept).max(1e-3)).ceil() as usize
    }

    /// Whether the season has means.
    #[must_use]
    pub fn seasonal(&self) -> bool {
        !self.means.is_empty()
    }

    /// Means and deviations by slot (empty = none), intercept and weights of the lags.
    pub(crate) fn into_parts(self) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        (self.means, self.scales, self.past.weights)
    }

    /// What each row brought that its slot and the rows before it did not say; NaN where they are missing.
    #[must_use]
    pub fn apply(&self, values: &[f64], grid: &Grid) -> Vec<f64> {
        let mut out = self.innovations(&self.without_season(values, grid), grid);
        if !self.scales.is_empty() {
            for (value, slot) in out.iter_mut().zip(&grid.slots) {
                *value /= self.scales.get(*slot).copied().unwrap_or(1.0);
            }
        }
        out
    }

    /// The variance that the coefficients' own error gives the mean of what is left of a window, in variances of one value:
    /// rows far from where the reference's past was are judged by coefficients that it says little about. No more than
    /// [`FARTHER`] times what any window of the reference itself has, or the farthest values would be excused the most.
    pub(super) fn leverage(&self, reference: (&[f64], &Grid), window: (&[f64], &Grid)) -> f64 {
        let (flat, rows) = self.complete(window);
        let own = self.coefficient_error(&flat, &rows);
        let size = rows.len().max(1);
        let (flat, rows) = self.complete(reference);
        let starts = (0..rows.len()).step_by((size / 4).max(1));
        let known = starts.filter_map(|start| {
            let rows = rows.get(start..start + size)?;
            Some(self.coefficient_error(&flat, rows))
        });
        own.min(FARTHER * known.fold(0.0, f64::max))
    }

    /// Values without season, and the rows whose lags are all there.
    fn complete(&self, (values, grid): (&[f64], &Grid)) -> (Vec<f64>, Vec<usize>) {
        let flat = self.without_season(values, grid);
        let lags = self.lags();
        let rows = followed(flat.len(), grid, lags)
            .filter(|i| (0..=lags).all(|k| flat[i - k].is_finite()))
            .collect();
        (flat, rows)
    }

    fn coefficient_error(&self, flat: &[f64], rows: &[usize]) -> f64 {
        let gap = |k: usize| {
            let sum: f64 = rows.iter().map(|i| flat[i - k] - self.past.mean).sum();
            sum / rows.len().max(1) as f64
        };
        let gaps: Vec<f64> = (1..=self.lags()).map(gap).collect();
        let half = forward(&self.past.lower, &gaps);
        half.iter().map(|v| v * v).sum()
    }

    fn without_season(&self, values: &[f64], grid: &Grid) -> Vec<f64> {
        let level = |i: usize| {
            let slot = grid.slots.get(i)?;
            self.means.get(*slot).copied()
        };
        let one = |(i, v): (usize, &f64)| {
            if v.is_finite() {
                v - level(i).unwrap_or(0.0)
            } else {
                f64::NAN
            }
        };
        values.iter().enumerate().map(one).collect()
    }

    fn innovations(&self, flat: &[f64], grid: &Grid) -> Vec<f64> {
        let lags = self.lags();
        let mut out = vec![f64::NAN; flat.len()];
        for row in followed(flat.len(), grid, lags) {
            let past = (1..=lags).map(|k| self.past.weights[k] * flat[row - k]);
            out[row] = flat[row] - self.past.weights[0] - past.sum::<f64>();
        }
        out
    }
}

impl Past {
    fn level(mean: f64) -> Self {
        Self {
            weights: vec![mean],
            mean,
            lower: Vec::new(),
        }
    }
}

/// Rows that have `lags` rows right before them.
fn followed(rows: usize, grid: &Grid, lags: usize) -> impl Iterator<Item = usize> + use<> {
    let mut alone = vec![false; rows];
    for start in grid.breaks.iter().copied().chain([0]) {
        for row in alone.iter_mut().skip(start).take(lags) {
            *row = true;
        }
    }
    (0..rows).filter(move |i| !alone[*i])
}

/// Means by slot, about the whole mean, so that the autoregression's intercept keeps the level.
fn slot_means(values: &[f64], grid: &Grid) -> Option<Vec<f64>> {
    let sums = by_slot(values, grid, |v| v)?;
    let (all, count) = sums
        .iter()
        .fold((0.0, 0), |(s, n), (sum, c)| (s + sum, n + c));
    let mean = all / count.max(1) as f64;
    let slots = sums.iter().map(|(sum, n)| sum / *n as f64 - mean);
    Some(slots.collect())
}

/// Sum and count of each slot; none where a slot has too few values.
fn by_slot(values: &[f64], grid: &Grid, of: impl Fn(f64) -> f64) -> Option<Vec<(f64, usize)>> {
    let slots = grid.slots.iter().max()? + 1;
    let mut sums = vec![(0.0, 0); slots];
    for (value, slot) in values.iter().zip(&grid.slots) {
        if value.is_finite() {
            sums[*slot].0 += of(*value);
            sums[*slot].1 += 1;
        }
    }
    let fewest = sums.iter().map(|(_, n)| *n).min().unwrap_or(0);
    (fewest >= FEWEST_SEASONS).then_some(sums)
}

/// Deviations by slot, where they differ more than chance would have them.
fn scales(innovations: &[f64], grid: &Grid) -> Option<Vec<f64>> {
    let sums = by_slot(innovations, grid, |v| v * v)?;
    let count = sums.iter().map(|(_, n)| n).sum::<usize>() as f64;
    let all = sums.iter().map(|(s, _)| s).sum::<f64>() / count;
    if all.is_nan() || all <= 0.0 {
        return None;
    }
    // A few values' worth of the whole, so that a slot that never moved has a scale.
    let variance = |(sum, n): &(f64, usize)| (sum + 2.0 * all) / (*n as f64 + 2.0);
    let logs: Vec<f64> = sums.iter().map(|s| variance(s).ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let spread = logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / logs.len() as f64;
    let chance = 2.0 * logs.len() as f64 / count;
    (spread > UNEQUAL * chance).then(|| sums.iter().map(|s| variance(s).sqrt()).collect())
}

/// Least squares of each order on the same rows; the order by the Bayesian information criterion.
fn autoregression(flat: &[f64], grid: &Grid) -> Past {
    let finite = || flat.iter().copied().filter(|v| v.is_finite());
    let count = finite().count();
    let mean = finite().sum::<f64>() / count.max(1) as f64;
    let most = MOST_LAGS.min(count / ROWS_PER_LAG);
    let rows: Vec<usize> = followed(flat.len(), grid, most)
        .filter(|i| (0..=most).all(|k| flat[i - k].is_finite()))
        .collect();
    let n = rows.len() as f64;
    if rows.len() < ROWS_PER_LAG * (most + 1) {
        return Past::level(mean);
    }
    let width = most + 1;
    // Products of the value and its lags about the mean: row and column k belong to lag k.
    let mut products = vec![0.0; width * width];
    for row in &rows {
        for a in 0..width {
            for b in 0..=a {
                products[a * width + b] += (flat[row - a] - mean) * (flat[row - b] - mean);
            }
        }
    }
    let at = |a: usize, b: usize| products[a.max(b) * width + a.min(b)];
    let mut best = (f64::INFINITY, Past::level(mean));
    for order in 0..=most {
        let Some(lower) = cholesky(order, &at) else {
            break;
        };
        let weights = solve(&lower, &at);
        let explained: f64 = (0..order).map(|k| weights[k] * at(0, k + 1)).sum();
        let left = (at(0, 0) - explained).max(f64::MIN_POSITIVE);
        let score = n * (left / n).ln() + order as f64 * n.ln();
        if score < best.0 {
            let intercept = mean * (1.0 - weights.iter().sum::<f64>());
            let weights = [vec![intercept], weights].concat();
            best = (
                score,
                Past {
                    weights,
                    mean,
                    lower,
                },
            );
        }
    }
    best.1
}

/// The lower triangle of the lags' products; none where the lags say the same.
fn cholesky(order: usize, at: &impl Fn(usize, usize) -> f64) -> Option<Vec<Vec<f64>>> {
    let mut lower = vec![vec![0.0; order]; order];
    for i in 0..order {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| lower[i][k] * lower[j][k]).sum();
            let left = at(i + 1, j + 1) - known;
            if i == j {
                if left.is_nan() || left <= 1e-10 * at(i + 1, i + 1) {
                    return None;
                }
                lower[i][i] = left.sqrt();
            } else {
                lower[i][j] = left / lower[j][j];
            }
        }
    }
    Some(lower)
}

fn forward(lower: &[Vec<f64>], right: &[f64]) -> Vec<f64> {
    let mut half = vec![0.0; right.len()];
    for i in 0..right.len() {
        let known: f64 = (0..i).map(|k| lower[i][k] * half[k]).sum();
        half[i] = (right[i] - known) / lower[i][i];
    }
    half
}

/// Weights of the lags.
fn solve(lower: &[Vec<f64>], at: &impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let order = lower.len();
    let right: Vec<f64> = (1..=order).map(|k| at(0, k)).collect();
    let half = forward(lower, &right);
    let mut weights = vec![0.0; order];
    for i in (0..order).rev() {
        let known: f64 = (i + 1..order).map(|k| lower[k][i] * weights[k]).sum();
        weights[i] = (half[i] - known) / lower[i][i];
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::random::Random;

    fn ar(n: usize, phi: f64, seed: u64) -> Vec<f64> {
        let mut random = Random::new(seed);
        let mut x = 0.0;
        let mut next = || {
            x = phi * x + random.normal();
            x
        };
        (0..n + 200).map(|_| next()).skip(200).collect()
    }

    #[test]
    fn what_is_left_is_what_was_put_in() {
        let x = ar(2_000, 0.9, 1);
        let whitener = Whitener::fit(&x, &Grid::default());
        assert_eq!(whitener.lags(), 1);
        assert!((8..=13).contains(&whitener.memory()));
        assert!((whitener.past.weights[1] - 0.9).abs() < 0.03);
        let season = |i: usize| 5.0 * ((i % 24) as f64 / 24.0 * std::f64::consts::TAU).sin();
        let y: Vec<f64> = x.iter().enumerate().map(|(i, v)| v + season(i)).collect();
        let grid = Grid::regular(y.len(), 24);
        let seasonal = Whitener::fit(&y, &grid);
        assert!(seasonal.seasonal() && seasonal.scales.is_empty());
        let (a, b) = (
            whitener.apply(&x, &Grid::default()),
            seasonal.apply(&y, &grid),
        );
        let gap: f64 = (10..2_000).map(|i| (a[i] - b[i]).abs()).sum::<f64>() / 1_990.0;
        assert!(gap < 0.2, "{gap}");
    }

    #[test]
    fn gaps_and_breaks_are_not_bridged() {
        let mut x = ar(500, 0.9, 2);
        let whitener = Whitener::fit(&x, &Grid::default());
        x[100] = f64::NAN;
        let grid = Grid {
            slots: Vec::new(),
            breaks: vec![200],
        };
        let left = whitener.apply(&x, &grid);
        for row in [0, 100, 101, 200] {
            assert!(left[row].is_nan(), "{row}");
        }
        assert!(left[102].is_finite() && left[201].is_finite());
    }

    #[test]
    fn independent_values_stay_as_they_are() {
        let mut random = Random::new(5);
        let x: Vec<f64> = (0..1_000).map(|_| random.normal()).collect();
        assert_eq!(Whitener::fit(&x, &Grid::default()).lags(), 0);
        let constant = Whitener::fit(&[3.0; 200], &Grid::regular(200, 24));
        assert!(
            constant
                .apply(&[3.0; 10], &Grid::regular(10, 24))
                .iter()
                .all(|v| *v == 0.0)
        );
    }
}
