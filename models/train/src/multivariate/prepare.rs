//! From two tables to comparable rows: owns which columns take part, what season and past leave of them, and gaps; never a test.

use fieldcast_drift::preset::{Column, Values};
use fieldcast_drift::window::{FEW, Grid, Skipped, Whitener};
use fieldcast_kernel::Rng;

use super::rows::Rows;

/// Fewest rows of the reference and of the current table.
pub(super) const FEWEST: (usize, usize) = (200, 40);
/// Most rows of each that are compared.
pub(super) const MOST: (usize, usize) = (1_500, 400);
/// The current rows are at most this part of the reference, from which as many must be cut to see what is chance.
const PART: usize = 3;
/// Blocks of the reference, each of which is freed of season and past by what the others know: what was learnt from a row
/// fits it better than any new row.
const FOLDS: usize = 10;
/// Blocks are so many times as long as the slowest column remembers: what the error of its coefficients does to a window
/// lasts as long.
const MEMORIES: usize = 4;
/// Farthest that a value may lie, in deviations: one torn reading is no change of the whole.
const FARTHEST: f64 = 5.0;

/// What is compared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prepared {
    pub(super) names: Vec<String>,
    pub(super) left_out: Vec<Skipped>,
    pub(super) reference: Rows,
    pub(super) current: Rows,
    /// Slot of the season of each row; empty: no season.
    pub(super) slots: (Vec<usize>, Vec<usize>),
    /// Fewest rows of a block that holds what order may be left.
    pub(super) block: usize,
    /// Share of the cells that were filled with the reference's median.
    pub(super) filled: f64,
}

/// A column freed of season and past, in deviations of the reference; NaN = missing.
struct Freed {
    reference: Vec<f64>,
    current: Vec<f64>,
    lags: usize,
    memory: usize,
}

pub(super) fn prepare(
    columns: &[Column],
    (reference, current): (&Grid, &Grid),
    seed: u64,
) -> Result<Prepared, String> {
    let (mut names, mut left_out, mut freed) = (Vec::new(), Vec::new(), Vec::new());
    for column in columns {
        match free(column, reference, current) {
            Ok(one) => {
                names.push(column.name.clone());
                freed.push(one);
            }
            Err(reason) => left_out.push(Skipped {
                name: column.name.clone(),
                reason: reason.to_owned(),
            }),
        }
    }
    let mut rng = Rng::new(seed);
    gaps(&mut freed, &mut rng);
    let mut at = 0;
    freed.retain(|one| {
        let keep = [&one.reference, &one.current]
            .iter()
            .all(|side| 2 * side.iter().filter(|v| v.is_finite()).count() >= side.len().max(1));
        if keep {
            at += 1;
        } else {
            left_out.push(Skipped {
                name: names.remove(at),
                reason: "has gaps in half of the rows of one of the files, or more".into(),
            });
        }
        keep
    });
    if freed.len() < 2 {
        return Err(format!(
            "columns of numbers that vary and have few gaps: {}, two are needed",
            freed.len()
        ));
    }
    let (rows, fresh) = (
        complete(&freed, |one| &one.reference),
        complete(&freed, |one| &one.current),
    );
    for (n, fewest, side) in [
        (rows.len(), FEWEST.0, "reference"),
        (fresh.len(), FEWEST.1, "current file"),
    ] {
        if n < fewest {
            return Err(format!("{n} rows in the {side}, {fewest} are needed"));
        }
    }
    let most = MOST.1.min(rows.len().min(MOST.0) / PART);
    let thinning = rows.len().div_ceil(MOST.0);
    let (rows, fresh) = (thin(rows, MOST.0, &mut rng), thin(fresh, most, &mut rng));
    let season = reference.slots.iter().max().map_or(1, |s| s + 1);
    let memory = freed.iter().map(|one| one.memory).max().unwrap_or(1);
    let slots = |grid: &Grid, rows: &[usize]| -> Vec<usize> {
        rows.iter()
            .filter_map(|i| grid.slots.get(*i).copied())
            .collect()
    };
    let mut filled = 0;
    let medians: Vec<f64> = freed.iter().map(|one| median(&one.reference)).collect();
    let mut fill = |rows: &[usize], side: fn(&Freed) -> &Vec<f64>| {
        let mut values = Vec::with_capacity(rows.len() * freed.len());
        for row in rows {
            for (one, median) in freed.iter().zip(&medians) {
                let value = side(one).get(*row).copied().unwrap_or(f64::NAN);
                filled += usize::from(value.is_nan());
                values.push(if value.is_nan() { *median } else { value });
            }
        }
        Rows {
            values,
            width: freed.len(),
        }
    };
    let (all, new) = (
        fill(&rows, |one| &one.reference),
        fill(&fresh, |one| &one.current),
    );
    Ok(Prepared {
        names,
        left_out,
        filled: filled as f64 / (all.values.len() + new.values.len()) as f64,
        slots: (slots(reference, &rows), slots(current, &fresh)),
        block: season.max(MEMORIES * memory).div_ceil(thinning),
        reference: all,
        current: new,
    })
}

fn free(column: &Column, reference: &Grid, current: &Grid) -> Result<Freed, &'static str> {
    let (Values::Numbers { values: r, .. }, Values::Numbers { values: c, .. }) =
        (&column.reference, &column.current)
    else {
        return Err("does not hold numbers");
    };
    let mut different: Vec<f64> = r.iter().copied().filter(|v| v.is_finite()).collect();
    different.sort_by(f64::total_cmp);
    different.dedup();
    if different.len() <= FEW {
        return Err("has too few different values in the reference");
    }
    let whole = Whitener::fit(r, reference);
    let mut left = vec![f64::NAN; r.len()];
    for fold in 0..FOLDS {
        let block = r.len() * fold / FOLDS..r.len() * (fold + 1) / FOLDS;
        let mut others = r.clone();
        others[block.clone()].fill(f64::NAN);
        let mut whitener = Whitener::fit(&others, reference);
        if whitener.seasonal() != whole.seasonal() {
            whitener = whole.clone();
        }
        left[block.clone()].copy_from_slice(&whitener.apply(r, reference)[block]);
    }
    let mut fresh = whole.apply(c, current);
    let known: Vec<f64> = left.iter().copied().filter(|v| v.is_finite()).collect();
    let n = known.len().max(1) as f64;
    let mean = known.iter().sum::<f64>() / n;
    let deviation = (known.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    if deviation.is_nan() || deviation <= 0.0 {
        return Err("says nothing new from row to row in the reference");
    }
    for value in left.iter_mut().chain(&mut fresh) {
        *value = ((*value - mean) / deviation).clamp(-FARTHEST, FARTHEST);
    }
    Ok(Freed {
        reference: left,
        current: fresh,
        lags: whole.lags(),
        memory: whole.memory(),
    })
}

/// Lays each side's gaps over the other too, so that where values are missing tells nothing.
fn gaps(freed: &mut [Freed], rng: &mut Rng) {
    let lags = freed.iter().map(|one| one.lags).max().unwrap_or(0);
    let begin = freed.first().map_or(0, |one| {
        rng.below(one.reference.len().saturating_sub(lags).max(1))
    });
    for one in freed {
        // The first rows have no past; that is no gap, they are left out on both sides.
        for side in [&mut one.reference, &mut one.current] {
            let first = lags.min(side.len());
            side[..first].fill(f64::NAN);
        }
        let (n, m) = (one.reference.len(), one.current.len());
        if n <= lags || m <= lags {
            continue;
        }
        let missing =
            |side: &[f64]| -> Vec<bool> { side[lags..].iter().map(|v| v.is_nan()).collect() };
        let (before, after) = (missing(&one.reference), missing(&one.current));
        for (i, value) in one.reference[lags..].iter_mut().enumerate() {
            if after[i % after.len()] {
                *value = f64::NAN;
            }
        }
        for (i, value) in one.current[lags..].iter_mut().enumerate() {
            if before[(begin + i) % before.len()] {
                *value = f64::NAN;
            }
        }
    }
}

/// Rows in which at least half of the columns, and two, have a value.
fn complete(freed: &[Freed], side: fn(&Freed) -> &Vec<f64>) -> Vec<usize> {
    let fewest = freed.len().div_ceil(2).max(2);
    let rows = freed.first().map_or(0, |one| side(one).len());
    let present = |i: usize| {
        freed
            .iter()
            .filter(|one| side(one).get(i).is_some_and(|v| v.is_finite()))
            .count()
    };
    (0..rows).filter(|i| present(*i) >= fewest).collect()
}

/// At most `most` rows, one from each of as many equal stretches: somewhere in it, for a fixed step may always meet the same hour.
fn thin(rows: Vec<usize>, most: usize, rng: &mut Rng) -> Vec<usize> {
    if rows.len() <= most {
        return rows;
    }
    let at = |k: usize| rows.len() * k / most;
    (0..most)
        .map(|k| rows[at(k) + rng.below(at(k + 1) - at(k))])
        .collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
