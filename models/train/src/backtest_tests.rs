//! A whole backtest on a small world: what it knew, what it judged, and what it refuses.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;
use crate::fixture;

fn quick() -> BacktestConfig {
    BacktestConfig {
        train: TrainConfig {
            max_epochs: 2,
            hidden: 8,
            ..TrainConfig::default()
        },
        ..BacktestConfig::default()
    }
}

#[test]
fn the_newest_part_is_judged_to_its_last_origin_and_was_not_known() {
    let mut spec = fixture::spec();
    spec.quantiles = vec![0.1, 0.5, 0.9];
    let data = fixture::data(60, 5);
    let mut seen = Vec::new();
    let mut each = |case: &Case, _: &Prediction| seen.push(case.window.origin);
    let mut quiet = |_| ControlFlow::Continue(());
    let (report, _) = run(&spec, &data, &quick(), &mut quiet, &mut each).unwrap();
    let last = data
        .series
        .iter()
        .flat_map(|s| &s.rows)
        .map(|r| r.time)
        .max()
        .unwrap();
    assert_eq!(report.test_until, last);
    let reach = spec.horizon as Millis * fixture::HOUR_MS;
    assert_eq!(
        seen.iter().max(),
        Some(&(last - reach)),
        "the last whole horizon counts"
    );
    assert_eq!(
        seen.iter().min(),
        Some(&(report.test_from - fixture::HOUR_MS))
    );
    assert!(report.split.until + reach < report.test_from);
    let names: Vec<&str> = report.models.iter().map(|m| m.model.as_str()).collect();
    assert_eq!(names[..3], ["last_value", "seasonal_naive", "ridge"]);
    assert!(names.contains(&report.chosen.as_str()));
    // What chose among them is judged, every one.
    let chose = report.selection.iter();
    assert!(
        chose
            .clone()
            .all(|line| names.contains(&line.model.as_str()))
    );
    let mase = |name: &str| {
        let judged = report.models.iter().find(|m| m.model == name);
        let before = report.selection.iter().find(|line| line.model == name);
        (judged.unwrap().scores.mase, before.unwrap().mase)
    };
    let ((forest, before), naive) = (mase("forest"), mase("seasonal_naive").0);
    assert!(
        forest < naive && (forest / before - 1.0).abs() < 0.3,
        "{forest} {before} {naive}"
    );
    // The world's levels are three; a report speaks of 80 % and 95 % whatever the levels.
    assert_eq!(report.levels, LEVELS);
    for model in &report.models {
        assert_eq!(model.scores.windows, seen.len());
        assert_eq!(model.scores.per_horizon[5].coverage.len(), 2);
    }
    let chosen = report
        .models
        .iter()
        .find(|m| m.model == report.chosen)
        .unwrap();
    assert_eq!(chosen.scores.rmse, report.adaptive.rmse);
    assert_ne!(
        chosen.scores.intervals[1], report.adaptive.intervals[1],
        "they have learnt"
    );
    assert!((report.adaptive.intervals[1].coverage - 0.8).abs() < 0.05);
    assert_eq!(
        chosen.scores.rmse, report.plain.rmse,
        "plain intervals, equal means"
    );
    assert!((report.plain.intervals[1].coverage - 0.8).abs() < 0.15);
}

#[test]
fn what_is_changed_in_the_judged_part_changes_no_model() {
    let spec = fixture::spec();
    let mut quiet = |_| ControlFlow::Continue(());
    let mut split = |data: &TrainingData| {
        let (report, params) = run(&spec, data, &quick(), &mut quiet, &mut |_, _| ()).unwrap();
        (report.selection, report.split, params)
    };
    let data = fixture::data(60, 5);
    let mut other = data.clone();
    let from = fixture::START + 54 * 24 * fixture::HOUR_MS;
    for row in other
        .series
        .iter_mut()
        .flat_map(|s| &mut s.rows)
        .filter(|r| r.time > from)
    {
        row.values[0] *= 3.0;
    }
    assert_eq!(split(&data), split(&other));
}

#[test]
fn parts_that_leave_nothing_to_judge_are_refused() {
    let (spec, data) = (fixture::spec(), fixture::data(60, 5));
    let mut quiet = |_| ControlFlow::Continue(());
    let config = BacktestConfig {
        select_share: 0.3,
        ..quick()
    };
    let error = run(&spec, &data, &config, &mut quiet, &mut |_, _| ()).unwrap_err();
    assert!(matches!(error, TrainError::Config { .. }), "{error}");
    let mut trained = |_: Progress| -> ControlFlow<()> { panic!("training began") };
    for stride in [100, usize::MAX] {
        let config = BacktestConfig { stride, ..quick() };
        let error = run(&spec, &data, &config, &mut trained, &mut |_, _| ()).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, TrainError::NothingToJudge { found: 0..20, .. })
                && text.contains(&format!("one origin in {stride}"))
                && text.contains("10.0 %")
                && text.contains("horizon of 6"),
            "{text}"
        );
    }
    let none = TrainingData::default();
    let error = run(&spec, &none, &quick(), &mut quiet, &mut |_, _| ()).unwrap_err();
    assert!(
        matches!(error, TrainError::PartTooSmall { part: "train", .. }),
        "{error}"
    );
}

#[test]
fn an_input_that_knows_the_future_and_one_that_never_moves_are_named() {
    let (spec, mut data) = (fixture::spec(), fixture::data(30, 5));
    assert!(warnings(&spec, &data).is_empty());
    for series in &mut data.series {
        let next: Vec<f64> = series.rows.iter().skip(1).map(|r| r.values[0]).collect();
        series.rows.pop();
        series
            .rows
            .iter_mut()
            .zip(next)
            .for_each(|(r, v)| r.values[1] = v);
    }
    let told = warnings(&spec, &data);
    assert!(told.len() == 1 && told[0].contains("`heat`"), "{told:?}");
    data.series
        .iter_mut()
        .flat_map(|s| &mut s.rows)
        .for_each(|r| r.values[1] = 4.0);
    assert!(warnings(&spec, &data)[0].contains("is 4 in every row"));
}

#[test]
fn the_target_is_repeated_also_where_the_model_never_sees_it() {
    let mut spec = fixture::spec();
    let data = fixture::data(60, 5);
    let target = spec.target.clone();
    spec.inputs.retain(|i| *i != target);
    spec.preset = fieldcast_features::Preset::Classic;
    (spec.horizon, spec.lookback) = (1, 10);
    // The definition's channels are its inputs, then the target.
    let order: Vec<usize> = spec
        .channels()
        .iter()
        .map(|name| {
            fixture::spec()
                .channels()
                .iter()
                .position(|c| c == name)
                .unwrap()
        })
        .collect();
    let mut moved = data.clone();
    for row in moved.series.iter_mut().flat_map(|s| &mut s.rows) {
        row.values = order.iter().map(|i| row.values[*i]).collect();
    }
    let mut config = quick();
    config.train.classic_batch = Some(32);
    let mut cases: Vec<Case> = Vec::new();
    let mut each = |case: &Case, _: &Prediction| cases.push(case.clone());
    let mut quiet = |_| ControlFlow::Continue(());
    let (report, _) = run(&spec, &moved, &config, &mut quiet, &mut each).unwrap();
    let last = report.models.iter().find(|m| m.model == "last_value");
    let (mut sum, mut count) = (0.0, 0.0);
    for case in cases.iter().filter(|c| !c.actual[0].is_nan()) {
        let rows = &moved.series[case.series].rows;
        let mut past = rows
            .iter()
            .rev()
            .skip_while(|r| r.time > case.window.origin);
        let before = past.find_map(|r| r.value(spec.target_channel()).filter(|v| !v.is_nan()));
        sum += (case.actual[0] - before.unwrap()).powi(2);
        count += 1.0;
    }
    // Of the mean: the error of the median has the middle level's offset in it.
    let (rmse, expected) = (last.unwrap().scores.rmse, (sum / count).sqrt());
    assert!(
        (rmse - expected).abs() < 1e-9 * expected,
        "{rmse} {expected}"
    );
}

#[test]
fn levels_find_their_complements_wherever_those_stand() {
    let found: Vec<_> = crate::evaluate::pairs(&[0.01, 0.025, 0.1, 0.5, 0.9, 0.975]).collect();
    assert_eq!(found, [(1, 5), (2, 4)]);
    let mut spec = fixture::spec();
    spec.quantiles = (1..=30).map(|i| f64::from(i) / 31.0).collect();
    assert_eq!(with_levels(&spec).quantiles, LEVELS);
    spec.quantiles = vec![0.01, 0.5];
    assert_eq!(
        with_levels(&spec).quantiles,
        [0.01, 0.025, 0.1, 0.5, 0.9, 0.975]
    );
}
