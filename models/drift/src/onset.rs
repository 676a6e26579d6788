//! Since when values are others than they were: owns the estimate of a change's beginning, never whether there was one.

use crate::window::Season;

/// The beginning (ms UTC) of the part of `recent` that parts the parts best: by their means, or by their scatter, whichever parts them
/// more (the maximum of the likelihood ratio of one change: Hinkley, 1970). Both by ascending times; hours of the day or the week that the
/// reference knows are compared with their like. `part_ms` long are the parts, a day say: within one nothing is told.
#[must_use]
pub fn onset(reference: &[(i64, f64)], recent: &[(i64, f64)], part_ms: i64) -> Option<i64> {
    let times = |of: &[(i64, f64)]| of.iter().map(|(t, _)| *t).collect::<Vec<i64>>();
    let season = Season::of(&times(reference), None);
    let slots = |of: &[(i64, f64)]| {
        let grid = season.as_ref().map(|s| s.grid(&times(of)));
        grid.map_or_else(Vec::new, |grid| grid.slots)
    };
    let own = slots(reference);
    let means = slot_means(reference, &own);
    let part_ms = part_ms.max(1);
    let parts = |of: &[(i64, f64)], slots: &[usize]| {
        let mut parts: Vec<(i64, f64, f64)> = Vec::new();
        for (i, (time, value)) in of.iter().enumerate().filter(|(_, (_, v))| v.is_finite()) {
            let part = (time - 1).div_euclid(part_ms);
            let slot = slots.get(i).copied().unwrap_or(0);
            let left = value - means.get(slot).copied().unwrap_or(0.0);
            match parts.last_mut() {
                Some(last) if last.0 == part => *last = (part, last.1 + left, last.2 + 1.0),
                _ => parts.push((part, left, 1.0)),
            }
        }
        let mean = |(part, sum, n): (i64, f64, f64)| (part, sum / n);
        parts.into_iter().map(mean).collect::<Vec<_>>()
    };
    let (before, since) = (parts(reference, &own), parts(recent, &slots(recent)));
    let level = before.iter().map(|p| p.1).sum::<f64>() / before.len().max(1) as f64;
    let scatter = |parts: &[(i64, f64)]| -> Vec<(i64, f64)> {
        let one = |(part, value): &(i64, f64)| (*part, (value - level).abs());
        parts.iter().map(one).collect()
    };
    let found = [
        parted(&before, &since),
        parted(&scatter(&before), &scatter(&since)),
    ];
    let best = found
        .into_iter()
        .flatten()
        .max_by(|a, b| a.1.total_cmp(&b.1));
    best.map(|(part, _)| part * part_ms)
}

fn slot_means(values: &[(i64, f64)], slots: &[usize]) -> Vec<f64> {
    let mut sums = vec![(0.0, 0.0_f64); slots.iter().max().map_or(1, |s| s + 1)];
    for (i, (_, value)) in values.iter().enumerate() {
        if value.is_finite() {
            let sum = &mut sums[slots.get(i).copied().unwrap_or(0)];
            *sum = (sum.0 + value, sum.1 + 1.0);
        }
    }
    sums.into_iter().map(|(sum, n)| sum / n.max(1.0)).collect()
}

/// The part of `since` from which on parts differ most from all before, and by how many standard errors.
fn parted(before: &[(i64, f64)], since: &[(i64, f64)]) -> Option<(i64, f64)> {
    let n = before.len() as f64;
    let mean = before.iter().map(|d| d.1).sum::<f64>() / n;
    let std = (before.iter().map(|d| (d.1 - mean).powi(2)).sum::<f64>() / n).sqrt();
    let total: f64 = since.iter().map(|d| d.1).sum();
    let (mut passed, mut best) = (0.0, None::<(i64, f64)>);
    for (i, (part, value)) in since.iter().enumerate() {
        let (earlier, later) = (n + i as f64, (since.len() - i) as f64);
        let gap = (total - passed) / later - (mean * n + passed) / earlier;
        let t = gap.abs() / (std.max(f64::MIN_POSITIVE) * (1.0 / earlier + 1.0 / later).sqrt());
        if t.is_finite() && best.is_none_or(|b| t > b.1) {
            best = Some((*part, t));
        }
        passed += value;
    }
    best
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_shift_and_a_wider_scatter_are_found_where_they_begin_whatever_the_hour() {
        let hour = 3_600_000;
        let value = |i: i64| {
            let noise = 2.0 * (i as f64 * 0.618_033_988_749_895).fract() - 1.0;
            (
                10.0 * (i as f64 / 24.0 * std::f64::consts::TAU).sin(),
                noise,
            )
        };
        let reference: Vec<_> = (1..=1_000)
            .map(|i| (i * hour, value(i).0 + value(i).1))
            .collect();
        for (shift, wider) in [(2.0, 1.0), (0.0, 6.0)] {
            let recent: Vec<_> = (1_001..=1_100)
                .map(|i| {
                    let (course, noise) = value(i);
                    let changed = i > 1_060;
                    let noise = if changed {
                        shift + wider * noise
                    } else {
                        noise
                    };
                    (i * hour, course + noise)
                })
                .collect();
            let found = onset(&reference, &recent, 4 * hour).unwrap();
            assert_eq!(found, 1_060 * hour, "{shift} {wider}");
        }
        assert_eq!(onset(&reference, &[], hour), None);
    }
}
