//! Whole training runs on a small synthetic world: what is chosen, what is refused, and that it is the same every time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::ops::ControlFlow;

use fieldcast_features::{FeatureRow, ForecasterSpec};
use fieldcast_kernel::Rng;
use fieldcast_onnx::ModelParams;
use fieldcast_train::{
    Progress, Series, Stage, TrainConfig, TrainError, Trained, TrainingData, evaluate, fit, predict,
};

const HOUR_MS: i64 = 3_600_000;
const START: i64 = 1_704_067_200_000;

fn spec(text: &str) -> ForecasterSpec {
    serde_json::from_str(text).unwrap()
}

fn default_spec() -> ForecasterSpec {
    spec(
        r#"{"name": "load", "target": "load", "inputs": ["load", "heat"], "period": "1h", "lookback": 96, "horizon": 6,
            "quantiles": [0.1, 0.5, 0.9]}"#,
    )
}

fn rows(days: usize, mut value: impl FnMut(usize) -> Vec<f64>) -> Vec<FeatureRow> {
    (0..days * 24)
        .map(|hour| FeatureRow {
            time: START + hour as i64 * HOUR_MS,
            values: value(hour),
        })
        .collect()
}

/// A daily cycle whose height follows the heat of the hour before, bent: a line cannot learn all of it.
fn bent_world(days: usize) -> TrainingData {
    let device = |name: &str, seed: u64, size: f64| {
        let mut rng = Rng::new(seed);
        let mut heat = 0.0_f64;
        let list = rows(days, |hour| {
            let before = heat;
            heat = 0.97 * heat + 0.25 * f64::from(rng.normal());
            let cycle = (std::f64::consts::TAU * (hour % 24) as f64 / 24.0).sin();
            let load =
                size * (10.0 + 3.0 * cycle + 2.0 * before.abs() + 0.3 * f64::from(rng.normal()));
            vec![load, heat]
        });
        Series {
            device: name.into(),
            rows: list,
            weight_from: None,
        }
    };
    TrainingData {
        series: vec![device("north", 1, 1.0), device("south", 2, 40.0)],
    }
}

fn quick() -> TrainConfig {
    TrainConfig {
        max_epochs: 4,
        hidden: 12,
        ..TrainConfig::default()
    }
}

fn run(
    spec: &ForecasterSpec,
    data: &TrainingData,
    config: &TrainConfig,
) -> Result<Trained, TrainError> {
    fit(spec, data, config, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn the_best_of_the_table_is_chosen_and_its_intervals_hold_on_unseen_data() {
    let (spec, data) = (default_spec(), bent_world(120));
    let cut = START + 100 * 24 * HOUR_MS;
    let mut known = data.clone();
    known
        .series
        .iter_mut()
        .for_each(|s| s.rows.retain(|r| r.time < cut));
    let trained = run(&spec, &known, &quick()).unwrap();
    let names: Vec<&str> = trained.table.iter().map(|l| l.model.as_str()).collect();
    assert_eq!(
        names,
        [
            "last_value",
            "seasonal_naive",
            "ridge",
            "forest",
            "lstm",
            "ensemble"
        ]
    );
    let mase = |name: &str| trained.table.iter().find(|l| l.model == name).unwrap().mase;
    let best = trained
        .table
        .iter()
        .filter(|l| !l.refused)
        .map(|l| l.mase)
        .fold(f64::INFINITY, f64::min);
    assert_eq!(mase(&trained.chosen), best);
    assert!(
        mase("ridge") < 0.8 * mase("seasonal_naive"),
        "{:?}",
        trained.table
    );
    assert!(
        mase("lstm") <= 1.01 * mase("ridge"),
        "starts at ridge, keeps its best epoch: {:?}",
        trained.table
    );
    trained.params.check().unwrap();
    assert_eq!(trained.reference.channels.len(), 2);
    assert_eq!(trained.calibration.residual_std.len(), 6);
    assert!(trained.calibration.daily.days > 10 && trained.calibration.daily.std > 0.0);

    let cases = evaluate::cases(&spec, &data, (cut, i64::MAX), 1).unwrap();
    let scores =
        evaluate::backtest(&cases, &spec.quantiles, |w| predict(&trained.params, w)).unwrap();
    assert!(
        scores.windows > 500 && scores.mase < 1.1 * best,
        "{} {best}",
        scores.mase
    );
    assert!(
        (scores.intervals[0].coverage - 0.8).abs() < 0.08,
        "{:?}",
        scores.intervals
    );
}

#[test]
fn equal_arguments_give_equal_models_and_another_seed_another() {
    let (spec, data) = (default_spec(), bent_world(40));
    let config = TrainConfig {
        max_epochs: 2,
        ..quick()
    };
    let lstm = |config: &TrainConfig| {
        let trained = run(&spec, &data, config).unwrap();
        trained
            .table
            .iter()
            .find(|l| l.model == "lstm")
            .unwrap()
            .clone()
    };
    assert_eq!(
        run(&spec, &data, &config).unwrap(),
        run(&spec, &data, &config).unwrap()
    );
    assert_ne!(
        lstm(&config),
        lstm(&TrainConfig {
            seed: 2,
            ..config.clone()
        })
    );
}

#[test]
fn noise_without_memory_is_left_to_a_baseline_or_forecast_no_worse() {
    let mut rng = Rng::new(5);
    let mut level = 0.0;
    let walk = rows(60, |_| {
        level += f64::from(rng.normal());
        vec![level, 0.0]
    });
    let data = TrainingData {
        series: vec![Series {
            device: "walk".into(),
            rows: walk,
            weight_from: None,
        }],
    };
    let trained = run(&default_spec(), &data, &quick()).unwrap();
    let line = |name: &str| trained.table.iter().find(|l| l.model == name).unwrap();
    assert!(
        line(&trained.chosen).mase <= line("last_value").mase,
        "{:?}",
        trained.table
    );
    if trained.chosen == "last_value" {
        assert!(matches!(&trained.params, ModelParams::SeasonalNaive(p) if p.season == 1));
    }
}

#[test]
fn recent_rows_that_count_more_pull_the_model_to_the_new_world() {
    // The load answers to the heat of six hours before, which every step of the forecast has seen, and turns round on day 55.
    let mut rng = Rng::new(6);
    let mut heat = vec![0.0_f64];
    let turned = rows(90, |hour| {
        let before = heat[heat.len().saturating_sub(6)];
        let now = 0.9 * heat[heat.len() - 1] + f64::from(rng.normal());
        heat.push(now);
        let sign = if hour < 55 * 24 { 1.0 } else { -1.0 };
        vec![
            20.0 + sign * 3.0 * before + 0.1 * f64::from(rng.normal()),
            now,
        ]
    });
    let error = |weight_from: Option<i64>| {
        let series = Series {
            device: "d".into(),
            rows: turned.clone(),
            weight_from,
        };
        let config = TrainConfig {
            max_epochs: 0,
            recent_weight: 50.0,
            ..TrainConfig::default()
        };
        let trained = run(
            &default_spec(),
            &TrainingData {
                series: vec![series],
            },
            &config,
        )
        .unwrap();
        trained
            .table
            .iter()
            .find(|l| l.model == "ridge")
            .unwrap()
            .mae
    };
    let (plain, weighted) = (error(None), error(Some(START + 55 * 24 * HOUR_MS)));
    assert!(weighted < 0.8 * plain, "{weighted} {plain}");
}

#[test]
fn the_forest_joins_the_table_when_asked_for() {
    let config = TrainConfig {
        max_epochs: 0,
        forest: true,
        ..TrainConfig::default()
    };
    let trained = run(&default_spec(), &bent_world(40), &config).unwrap();
    let forest = trained.table.iter().find(|l| l.model == "forest").unwrap();
    let naive = trained
        .table
        .iter()
        .find(|l| l.model == "last_value")
        .unwrap();
    assert!(forest.mase < naive.mase, "{:?}", trained.table);
}

#[test]
fn the_classic_preset_learns_a_relation_without_seeing_the_targets_past() {
    let classic = spec(
        r#"{"name": "old", "target": "y", "inputs": ["a", "b"], "period": "1h", "lookback": 10, "horizon": 1,
            "preset": "classic", "quantiles": [0.1, 0.5, 0.9]}"#,
    );
    let mut rng = Rng::new(7);
    let mut before = [0.0_f64; 2];
    let list = rows(40, |_| {
        let y = 100.0 + 20.0 * before[0] - 10.0 * before[1];
        before = [f64::from(rng.uniform()), f64::from(rng.uniform())];
        vec![before[0], before[1], y]
    });
    let data = TrainingData {
        series: vec![Series {
            device: "d".into(),
            rows: list,
            weight_from: None,
        }],
    };
    let config = TrainConfig {
        classic_batch: Some(32),
        ..TrainConfig::default()
    };
    let mut losses = Vec::new();
    let trained = fit(&classic, &data, &config, &mut |p: Progress| {
        losses.extend(p.loss);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(losses.len(), 20);
    assert!(losses[19] < 0.1 * losses[0], "{losses:?}");
    assert_eq!(trained.chosen, "classic");
    let mae = |name: &str| trained.table.iter().find(|l| l.model == name).unwrap().mae;
    assert!(
        mae("classic") < 0.3 * mae("last_value"),
        "{:?}",
        trained.table
    );
    let cases =
        evaluate::cases(&classic, &data, (trained.split.calibrate_from, i64::MAX), 1).unwrap();
    let scores =
        evaluate::backtest(&cases, &classic.quantiles, |w| predict(&trained.params, w)).unwrap();
    assert!(
        (scores.intervals[0].coverage - 0.8).abs() < 0.03,
        "{:?}",
        scores.intervals
    );
    let full = run(&classic, &data, &TrainConfig::default()).unwrap();
    assert!(
        matches!(full.params, ModelParams::Classic(p) if p.lstm.hidden == 50 && p.y_max > p.y_min)
    );
}

#[test]
fn a_run_can_be_cancelled_in_any_epoch() {
    let (spec, data) = (default_spec(), bent_world(40));
    let result = fit(&spec, &data, &quick(), &mut |p| {
        if p.stage == Stage::Lstm && p.epoch == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!(result.unwrap_err(), TrainError::Cancelled { epoch: 2 });
    let result = fit(&spec, &data, &quick(), &mut |_| ControlFlow::Break(()));
    assert_eq!(result.unwrap_err(), TrainError::Cancelled { epoch: 0 });
}

#[test]
fn what_cannot_be_trained_is_told_before_it_starts() {
    let spec = default_spec();
    let attempt = |change: &dyn Fn(&mut FeatureRow)| {
        let mut data = bent_world(40);
        data.series
            .iter_mut()
            .flat_map(|s| &mut s.rows)
            .for_each(change);
        fit(&spec, &data, &quick(), &mut |_| panic!("training began")).unwrap_err()
    };
    assert!(matches!(
        attempt(&|r| r.values[0] = 7.0),
        TrainError::ConstantTarget { value: 7.0, .. }
    ));
    // The sensor was stuck for all of the time that would be learnt from.
    let day = |n: i64| START + n * 24 * HOUR_MS;
    let stuck = attempt(&|r| {
        if r.time < day(36) {
            r.values[0] = 3.0;
        }
    });
    assert!(
        matches!(stuck, TrainError::ConstantTarget { value: 3.0, from: START, until, .. } if until > day(20) && until < day(36)),
        "{stuck}"
    );
    assert!(matches!(
        attempt(&|r| r.values[0] = f64::NAN),
        TrainError::MissingTarget { .. }
    ));
    assert!(
        matches!(attempt(&|r| r.values[1] = f64::INFINITY), TrainError::NotFinite { channel, .. } if channel == "heat")
    );
    assert!(matches!(
        attempt(&|r| r.time += 1),
        TrainError::OffGrid { .. }
    ));
    assert!(matches!(
        attempt(&|r| r.values.truncate(1)),
        TrainError::RowWidth {
            found: 1,
            expected: 2,
            ..
        }
    ));
    let error = run(&spec, &bent_world(5), &quick()).unwrap_err();
    assert!(matches!(error, TrainError::TooFewRows { .. }), "{error}");
    assert!(matches!(
        run(&spec, &TrainingData::default(), &quick()),
        Err(TrainError::TooFewRows { found: 0, .. })
    ));
    assert!(matches!(
        run(&spec, &bent_world(2), &quick()),
        Err(TrainError::TooFewRows {
            rows: 96,
            found: 0,
            ..
        })
    ));
    let config = TrainConfig {
        train_share: 1.2,
        ..quick()
    };
    assert!(matches!(
        run(&spec, &bent_world(40), &config),
        Err(TrainError::Config { .. })
    ));
    let config = TrainConfig {
        learning_rate: f32::NAN,
        ..quick()
    };
    assert!(matches!(
        run(&spec, &bent_world(40), &config),
        Err(TrainError::Config { .. })
    ));
}

#[test]
fn after_a_change_the_chosen_ridge_learns_from_the_days_that_chose_it_too() {
    let (spec, mut data) = (default_spec(), bent_world(90));
    // From day 60 on the cycle is turned upside down.
    let day = |n: i64| START + n * 24 * HOUR_MS;
    let turn = |size: f64, row: &mut FeatureRow| {
        let hour = (row.time - START) / HOUR_MS % 24;
        let cycle = (std::f64::consts::TAU * hour as f64 / 24.0).sin();
        row.values[0] -= 6.0 * size * cycle;
    };
    for (series, size) in data.series.iter_mut().zip([1.0, 40.0]) {
        let changed = series.rows.iter_mut().filter(|r| r.time >= day(60));
        changed.for_each(|row| turn(size, row));
        series.weight_from = Some(day(60));
    }
    let mut known = data.clone();
    for series in &mut known.series {
        series.rows.retain(|r| r.time < day(70));
    }
    let config = TrainConfig {
        max_epochs: 0,
        forest: false,
        train_share: 0.9,
        select_share: 0.05,
        recent_weight: 40.0,
        refit: true,
        ..TrainConfig::default()
    };
    let trained = run(&spec, &known, &config).unwrap();
    assert_eq!(trained.chosen, "ridge", "{:?}", trained.table);
    assert!(trained.refitted);
    let (_, before) = trained.models.iter().find(|(n, _)| n == "ridge").unwrap();
    let cases = evaluate::cases(&spec, &data, (day(71), day(90)), 1).unwrap();
    let error = |params: &ModelParams| {
        evaluate::backtest(&cases, &spec.quantiles, |w| predict(params, w))
            .unwrap()
            .mase
    };
    let (before, after) = (error(before), error(&trained.params));
    assert!(after < before, "{after} after, {before} before");
    // Where nobody asks for it the model is the one that was chosen.
    let config = TrainConfig {
        refit: false,
        ..config
    };
    let usual = run(&spec, &known, &config).unwrap();
    assert!(!usual.refitted);
    let of_chosen = usual.models.iter().find(|(n, _)| *n == usual.chosen);
    assert_eq!(of_chosen.unwrap().1, usual.params);
}

#[test]
fn ridge_and_forest_tell_of_their_progress_and_end_when_they_are_cancelled() {
    let (spec, data) = (default_spec(), bent_world(120));
    let config = TrainConfig {
        max_epochs: 0,
        ..quick()
    };
    let told = |stop: usize| {
        let mut told = 0;
        let outcome = fit(&spec, &data, &config, &mut |p: Progress| {
            told += usize::from(p.stage == Stage::Baselines);
            match told >= stop {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        (outcome, told)
    };
    let (whole, all) = told(usize::MAX);
    assert!(whole.is_ok() && all > 3, "{all}");
    let (cut, told) = told(3);
    assert_eq!(cut.unwrap_err(), TrainError::Cancelled { epoch: 0 });
    assert_eq!(told, 3);
}
