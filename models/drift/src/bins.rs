//! Shares by bin: owns Evidently's binning and its filling of empty bins, never a distance.

/// Most distinct reference values for which each value is its own bin.
pub const VALUES_AS_BINS: usize = 20;

/// Shares of reference and current by bin. Both samples ascend and are not empty.
///
/// More than [`VALUES_AS_BINS`] distinct reference values: NumPy's "sturges" edges over both samples; else one bin a
/// value that occurs in either.
#[must_use]
pub fn shares(reference: &[f64], current: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let distinct = 1 + reference.windows(2).filter(|w| w[0] != w[1]).count();
    if distinct > VALUES_AS_BINS {
        let edges = sturges_edges(reference, current, reference.len() + current.len());
        return (
            normalise(&histogram(reference, &edges)),
            normalise(&histogram(current, &edges)),
        );
    }
    let mut values: Vec<f64> = reference.iter().chain(current).copied().collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let count = |sample: &[f64]| -> Vec<u64> {
        values
            .iter()
            .map(|v| {
                (sample.partition_point(|s| s <= v) - sample.partition_point(|s| s < v)) as u64
            })
            .collect()
    };
    (normalise(&count(reference)), normalise(&count(current)))
}

/// As [`shares`], always by edges, whose number follows from how many different values there are: Evidently's bins for the
/// Hellinger distance.
#[must_use]
pub fn shares_of_distinct(reference: &[f64], current: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut values: Vec<f64> = reference.iter().chain(current).copied().collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let edges = sturges_edges(reference, current, values.len());
    let mean_width = (edges[edges.len() - 1] - edges[0]) / (edges.len() - 1) as f64;
    // Evidently takes densities by each bin's rounded width, and back by their mean.
    let of = |sample: &[f64]| -> Vec<f64> {
        let shares = normalise(&histogram(sample, &edges)).into_iter();
        let widths = edges.windows(2).map(|w| w[1] - w[0]);
        let scaled = shares.zip(widths).map(|(share, width)| {
            let by = mean_width / width;
            if by.is_finite() { share * by } else { share }
        });
        scaled.collect()
    };
    (of(reference), of(current))
}

/// NumPy's "sturges" edges for `count` values.
fn sturges_edges(a: &[f64], b: &[f64], count: usize) -> Vec<f64> {
    let low = a[0].min(b[0]);
    let high = a[a.len() - 1].max(b[b.len() - 1]);
    let range = high - low;
    let width = range / ((count as f64).log2() + 1.0);
    let bins = if width > 0.0 {
        (range / width).ceil().max(1.0) as usize
    } else {
        1
    };
    let step = range / bins as f64;
    let mut edges: Vec<f64> = (0..=bins).map(|i| low + i as f64 * step).collect();
    edges[bins] = high;
    edges
}

/// Counts by `[edge, next edge)`, the last bin with its upper edge; the sample ascends.
#[must_use]
pub fn histogram(sample: &[f64], edges: &[f64]) -> Vec<u64> {
    let last = edges.len().saturating_sub(1);
    let below = |i: usize| {
        sample.partition_point(|v| {
            if i == last {
                *v <= edges[i]
            } else {
                *v < edges[i]
            }
        })
    };
    (0..last)
        .map(|i| below(i + 1).saturating_sub(below(i)) as u64)
        .collect()
}

/// Counts as shares of their sum.
#[must_use]
pub fn normalise(counts: &[u64]) -> Vec<f64> {
    let total = counts.iter().sum::<u64>().max(1) as f64;
    counts.iter().map(|c| *c as f64 / total).collect()
}

/// Fills empty bins: a millionth of the smallest non-empty share where that is at most 1e-4, else 1e-4. The shares are
/// not normalised again.
pub fn fill_empty(shares: &mut [f64]) {
    let least = shares
        .iter()
        .copied()
        .filter(|s| *s > 0.0)
        .fold(f64::INFINITY, f64::min);
    let fill = if least <= 1e-4 { least / 1e6 } else { 1e-4 };
    for share in shares.iter_mut().filter(|s| **s == 0.0) {
        *share = fill;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_hold_everything_once() {
        let edges = [0.0, 1.0, 2.0];
        assert_eq!(histogram(&[0.0, 0.5, 1.0, 2.0], &edges), [2, 2]);
        let a: Vec<f64> = (0..30).map(f64::from).collect();
        let (r, c) = shares(&a, &[29.0]);
        assert!(
            (r.iter().sum::<f64>() - 1.0).abs() < 1e-12
                && (c.iter().sum::<f64>() - 1.0).abs() < 1e-12
        );
        assert_eq!(
            shares(&[1.0, 1.0, 2.0], &[3.0]),
            (vec![2.0 / 3.0, 1.0 / 3.0, 0.0], vec![0.0, 0.0, 1.0])
        );
        let mut s = [0.5, 0.0];
        fill_empty(&mut s);
        assert_eq!(s, [0.5, 1e-4]);
    }
}
