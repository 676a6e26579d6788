//! Tests of the cold start on made series whose truth is known.

use super::*;

const H: Millis = 3_600_000;

fn spec(horizon: usize) -> ForecasterSpec {
    serde_json::from_value(serde_json::json!({
        "name": "load", "target": "load", "inputs": ["load"], "period": "1h", "lookback": 48, "horizon": horizon,
    }))
    .unwrap()
}

fn noise(i: i64) -> f64 {
    let mix = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mix = (mix ^ (mix >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((mix >> 11) as f64 / (1u64 << 53) as f64) - 0.5
}

/// A daily sine, a slow wander (AR 0.95) and noise.
fn series(n: i64) -> Vec<f64> {
    let mut wander = 0.0;
    (1..=n)
        .map(|t| {
            wander = 0.95 * wander + 2.0 * noise(t);
            50.0 + 10.0 * (std::f64::consts::TAU * t as f64 / 24.0).sin()
                + wander
                + 0.2 * noise(t + 1_000_000)
        })
        .collect()
}

fn row(t: i64, value: f64) -> FeatureRow {
    FeatureRow {
        time: t * H,
        values: vec![value],
    }
}

fn assert_sound(f: &ColdForecast, horizon: usize) {
    assert_eq!((f.mean.len(), f.quantiles.len()), (horizon, horizon * 5));
    assert!(f.mean.iter().chain(&f.quantiles).all(|v| v.is_finite()));
    assert!(
        f.quantiles
            .chunks(5)
            .all(|q| q.windows(2).all(|w| w[0] <= w[1]))
    );
}

#[test]
fn the_method_grows_with_the_history() {
    let mut cold = ColdStart::new(&spec(24)).unwrap();
    assert!(matches!(
        cold.forecast(),
        Err(ColdError::TooShort { observed: 0, .. })
    ));
    let mut seen = Vec::new();
    for (t, y) in (1..).zip(series(400)) {
        cold.push(&row(t, y)).unwrap();
        if let Ok(f) = cold.forecast() {
            assert_sound(&f, 24);
            if seen.last() != Some(&f.made_by) {
                seen.push(f.made_by);
            }
        }
    }
    // Between fits the newest quarter may once speak for the naive forecast.
    assert_eq!(
        seen[..3],
        [MadeBy::LastValue, MadeBy::SeasonalNaive, MadeBy::Ridge]
    );
    assert_eq!(seen.last(), Some(&MadeBy::Ridge), "{seen:?}");
}

#[test]
fn the_own_ridge_beats_seasonal_naive_and_its_intervals_cover() {
    let mut cold = ColdStart::new(&spec(24)).unwrap();
    let data = series(1_500);
    let (mut own, mut naive, mut inside, mut count) = (0.0, 0.0, 0, 0);
    for (i, y) in data.iter().enumerate() {
        cold.push(&row(i as i64 + 1, *y)).unwrap();
        if i < 500 || i + 24 >= data.len() || i % 7 != 0 {
            continue;
        }
        let f = cold.forecast().unwrap();
        for h in 0..24 {
            let actual = data[i + 1 + h];
            own += (actual - f.mean[h]).abs();
            naive += (actual - data[i + 1 + h - 24]).abs();
            inside +=
                usize::from((f.quantiles[h * 5 + 1]..=f.quantiles[h * 5 + 3]).contains(&actual));
            count += 1;
        }
    }
    assert!(own < 0.9 * naive, "{own} {naive}");
    let coverage = inside as f64 / count as f64;
    assert!(
        (0.68..0.9).contains(&coverage),
        "the 80 % interval covers {coverage}"
    );
}

#[test]
fn holes_constants_and_late_rows_do_no_harm() {
    let mut cold = ColdStart::new(&spec(24)).unwrap();
    for t in 1..=600 {
        if t % 5 != 0 {
            cold.push(&row(t, if t % 11 == 0 { f64::NAN } else { 7.0 }))
                .unwrap();
        }
        cold.push(&row(1, 1e9)).unwrap();
        if let Ok(f) = cold.forecast() {
            assert_sound(&f, 24);
            assert!(
                f.mean.iter().all(|v| (v - 7.0).abs() < 1e-6),
                "{:?}",
                f.mean
            );
        }
    }
    assert!(matches!(cold.push(&row(601, 1.0)), Ok(())));
    let off_grid = FeatureRow {
        time: 602 * H + 1,
        values: vec![1.0],
    };
    assert!(matches!(cold.push(&off_grid), Err(ColdError::Row { .. })));
    let wide = FeatureRow {
        time: 602 * H,
        values: vec![1.0, 2.0],
    };
    assert!(matches!(
        cold.push(&wide),
        Err(ColdError::Row { found: 2, .. })
    ));
    cold.push(&row(1_000_000, 3.0)).unwrap();
    assert!(
        matches!(
            cold.forecast(),
            Err(ColdError::TooShort { observed: 1, .. })
        ),
        "a long gap begins anew"
    );
}

#[test]
fn memory_and_work_stay_bounded_on_a_fine_grid_with_a_long_horizon() {
    let mut s = spec(1_024);
    s.period = "1s".into();
    let mut cold = ColdStart::new(&s).unwrap();
    for t in 1..=20_000i64 {
        cold.push(&FeatureRow {
            time: t * 1_000,
            values: vec![noise(t)],
        })
        .unwrap();
    }
    assert!(cold.values.len() <= MAX_ROWS);
    assert_sound(&cold.forecast().unwrap(), 1_024);
}

#[test]
fn the_same_rows_give_the_same_bits() {
    let run = || {
        let mut cold = ColdStart::new(&spec(6)).unwrap();
        for (t, y) in (1..).zip(series(300)) {
            cold.push(&row(t, y)).unwrap();
        }
        cold.forecast().unwrap()
    };
    assert_eq!(run(), run());
}
