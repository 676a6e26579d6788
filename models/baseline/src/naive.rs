//! Forecasts without parameters: owns last value and seasonal naive over histories with holes, never an interval.

/// The last observed value, `horizon` times; NaN where the history holds no value at all.
#[must_use]
pub fn last_value(history: &[f64], horizon: usize) -> Vec<f64> {
    let last = history
        .iter()
        .rev()
        .copied()
        .find(|v| v.is_finite())
        .unwrap_or(f64::NAN);
    vec![last; horizon]
}

/// The value one season before; where that is missing the one a further season back, and so on; where none of them
/// is there, the last observed value; NaN where the history holds no value at all.
///
/// `history` ends at the origin, oldest first, NaN = missing; `season` in steps (0 counts as 1).
#[must_use]
pub fn seasonal_naive(history: &[f64], season: usize, horizon: usize) -> Vec<f64> {
    let season = season.max(1);
    let last = last_value(history, 1)[0];
    (0..horizon)
        .map(|step| {
            let back = season - step % season;
            (0..)
                .map_while(|seasons| history.len().checked_sub(back + seasons * season))
                .map(|i| history[i])
                .find(|v| v.is_finite())
                .unwrap_or(last)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: f64 = f64::NAN;

    #[test]
    fn the_season_repeats_beyond_its_length() {
        assert_eq!(
            seasonal_naive(&[9.0, 1.0, 2.0, 3.0], 3, 5),
            [1.0, 2.0, 3.0, 1.0, 2.0]
        );
    }

    #[test]
    fn a_hole_is_filled_from_a_season_before_then_from_the_last_value() {
        assert_eq!(
            seasonal_naive(&[7.0, X, 5.0, X, X, 6.0], 3, 3),
            [7.0, 6.0, 6.0]
        );
        assert_eq!(seasonal_naive(&[4.0], 3, 3), [4.0, 4.0, 4.0]);
    }

    #[test]
    fn nothing_observed_is_nan_and_no_panic() {
        assert!(seasonal_naive(&[], 0, 2).iter().all(|v| v.is_nan()));
        assert!(last_value(&[X, f64::INFINITY], 1)[0].is_nan());
        assert_eq!(last_value(&[1.0, X], 2), [1.0, 1.0]);
    }
}
