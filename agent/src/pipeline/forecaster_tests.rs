//! A forecaster driven along a timeline; owns no product code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeMap;

use fieldcast_drift::monitor::ErrorCalibration;
use fieldcast_features::window::Window;
use fieldcast_wire::pb;

use super::*;
use crate::pipeline::model::{Computed, Model};

const HOUR: Millis = 3_600_000;

/// Two channels, a day's horizon.
pub(crate) fn spec() -> ForecasterSpec {
    let text = "name = \"demand\"\ntarget = \"demand\"\ninputs = [\"demand\", \"temperature\"]\nperiod = \"1h\"\nlookback = 48\nhorizon = 24\n";
    let mut spec: ForecasterSpec = toml::from_str(text).unwrap();
    spec.selector.sensors.insert("demand".into(), "sold".into());
    spec
}

struct Constant(f64);

impl Model for Constant {
    fn forecast(&self, window: &Window) -> Result<Computed, String> {
        Ok(Computed {
            mean: vec![self.0; window.horizon],
            quantiles: vec![self.0; window.horizon * 5],
            took_us: 7,
        })
    }
}

pub(crate) fn slot(name: &str, value: f64) -> Slot {
    Slot {
        sha: Sha256::of(name.as_bytes()),
        version: 7,
        levels: spec().quantiles,
        train_dev: 300.0,
        least_observed: 0.9,
        engine: String::new(),
        golden_us: 9,
        model: Box::new(Constant(value)),
    }
}

fn value(hour: i64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "tests")]
    let phase = (hour % 24) as f64;
    100.0 + 10.0 * phase
}

fn feed(f: &mut Forecaster, hours: std::ops::Range<i64>) -> Step {
    let mut step = Step::default();
    for hour in hours {
        f.reading("sold", hour * HOUR, value(hour));
        f.reading("temperature", hour * HOUR, 20.0);
        f.reading("unknown", hour * HOUR, 1.0);
        f.advance(&mut step);
    }
    step
}

fn forecasts(step: &Step) -> Vec<&pb::Forecast> {
    step.records
        .iter()
        .filter_map(|r| match r {
            RecordBody::Forecast(f) => Some(f),
            _ => None,
        })
        .collect()
}

#[test]
fn without_a_bundle_it_forecasts_with_ever_better_baselines_and_sums_up_their_errors() {
    let mut f = Forecaster::new(spec()).unwrap();
    let step = feed(&mut f, 0..24 * 30);
    let made: Vec<&str> = forecasts(&step)
        .iter()
        .map(|f| f.made_by.as_str())
        .collect();
    assert_eq!(
        made.len(),
        24 * 30 - 2,
        "one for each hour from the third on"
    );
    assert_eq!(made[0], "last_value");
    assert!(made.contains(&"seasonal_naive"));
    let last = forecasts(&step).last().copied().unwrap().clone();
    assert_eq!(last.origin_ms, (24 * 30 - 1) * HOUR);
    assert!((last.mean[0] - value(0)).abs() < 1.0, "{:?}", last.mean);
    let summaries: Vec<_> = step
        .records
        .iter()
        .filter_map(|r| match r {
            RecordBody::Residual(r) => Some(r),
            _ => None,
        })
        .collect();
    assert!(summaries.len() >= 29, "{}", summaries.len());
    assert!(
        summaries
            .iter()
            .all(|s| s.count > 0 && s.to_ms >= s.from_ms)
    );
    assert!(summaries.last().unwrap().mean_abs_error < 1.0);
}

#[test]
fn a_restart_goes_on_without_repeating_or_losing_a_forecast() {
    let mut whole = Forecaster::new(spec()).unwrap();
    let expected = feed(&mut whole, 0..24 * 20);
    let mut first = Forecaster::new(spec()).unwrap();
    let mut step = feed(&mut first, 0..200);
    let state: BTreeMap<String, Vec<u8>> = std::mem::take(&mut step.state).into_iter().collect();
    let mut second = Forecaster::new(spec()).unwrap();
    let get = |keys: Vec<String>| keys.iter().filter_map(|k| state.get(k).cloned()).collect();
    second.restore(&Stored {
        kept: state.get(&Forecaster::state_key("demand")).cloned(),
        rows: get(second.row_keys()),
        pending: get(second.pending_keys()),
        ..Stored::default()
    });
    let rest = feed(&mut second, 199..24 * 20);
    let origins = |s: &Step| forecasts(s).iter().map(|f| f.origin_ms).collect::<Vec<_>>();
    let mut both = origins(&step);
    both.extend(origins(&rest));
    assert_eq!(both, origins(&expected));
    let residuals = |s: &Step| {
        s.records
            .iter()
            .filter_map(|r| match r {
                RecordBody::Residual(r) => Some((r.from_ms, r.to_ms, r.count)),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    let mut counted = residuals(&step);
    counted.extend(residuals(&rest));
    let total = |r: &[(i64, i64, u32)]| r.iter().map(|r| r.2).sum::<u32>();
    assert_eq!(total(&counted), total(&residuals(&expected)));
}

#[test]
fn a_bundle_forecasts_in_place_of_the_baseline_and_a_shadow_beside_it() {
    let mut f = Forecaster::new(spec()).unwrap();
    feed(&mut f, 0..100);
    f.set_active(Some(slot("a", 150.0)));
    f.set_shadow(Some(slot("b", 160.0)));
    let step = feed(&mut f, 100..101);
    let made = forecasts(&step);
    assert_eq!(made.len(), 1, "the shadow's goes nowhere");
    assert_eq!(
        (made[0].shadow, made[0].mean[0], made[0].model_version),
        (false, 150.0, 7)
    );
    let noted = |shadow: bool| {
        let noted = step.notes.iter();
        noted
            .filter(|n| matches!(n, Note::Forecasted { shadow: s, .. } if *s == shadow))
            .count()
    };
    assert_eq!((noted(false), noted(true)), (1, 1));
    let later = feed(&mut f, 101..150);
    let of_shadow = |r: &RecordBody| matches!(r, RecordBody::Residual(r) if r.shadow);
    assert!(!later.records.iter().any(of_shadow));
}

fn paired(step: &Step) -> Vec<&pb::PairedLosses> {
    let records = step.records.iter();
    let found = records.filter_map(|r| match r {
        RecordBody::Paired(p) => Some(p),
        _ => None,
    });
    found.collect()
}

/// The mean distance of a level from a day's values.
fn distance(level: f64) -> f64 {
    (0..24).map(|h| (value(h) - level).abs()).sum::<f64>() / 24.0
}

#[test]
fn paired_losses_of_both_go_up_a_day_at_a_time_whatever_is_restarted() {
    let mut f = Forecaster::new(spec()).unwrap();
    let first = feed(&mut f, 0..100);
    f.set_active(Some(slot("a", 150.0)));
    f.set_shadow(Some(slot("b", 160.0)));
    let mut found = Vec::new();
    let mut state: BTreeMap<String, Vec<u8>> = first.state.into_iter().collect();
    for hour in 100..200 {
        let step = feed(&mut f, hour..hour + 1);
        found.extend(paired(&step).into_iter().cloned());
        state.extend(step.state);
        if hour % 7 == 0 {
            let get =
                |keys: Vec<String>| keys.iter().filter_map(|k| state.get(k).cloned()).collect();
            let mut again = Forecaster::new(spec()).unwrap();
            again.restore(&Stored {
                kept: state.get(&Forecaster::state_key("demand")).cloned(),
                rows: get(again.row_keys()),
                pending: get(again.pending_keys()),
                paired: state.get(&Paired::key("demand")).cloned(),
                ..Stored::default()
            });
            // The reading of the open hour comes back from the buffer.
            again.bootstrap(vec![(0, hour * HOUR, value(hour)), (1, hour * HOUR, 20.0)]);
            again.set_active(Some(slot("a", 150.0)));
            again.set_shadow(Some(slot("b", 160.0)));
            f = again;
        }
    }
    // The day in which the shadow came, and the two that it saw from beginning to end.
    let days: Vec<i64> = found.iter().map(|p| p.from_ms / HOUR).collect();
    assert_eq!(days, [96, 120, 144], "{found:?}");
    for p in &found[1..] {
        assert_eq!((p.origins, p.steps), (24, 24 * 24));
        assert_eq!(
            (p.running.as_slice(), p.watching.as_slice()),
            (&Sha256::of(b"a").0[..], &Sha256::of(b"b").0[..])
        );
        assert!((p.running_abs - distance(150.0)).abs() < 1e-9, "{p:?}");
        assert!((p.watching_abs - distance(160.0)).abs() < 1e-9, "{p:?}");
        assert!(p.running_quantile > 0.0 && p.watching_quantile > 0.0);
    }
    let bytes = state[&Paired::key("demand")].len();
    assert!(bytes < 2_000, "{bytes} bytes for each row");
}

#[test]
fn another_model_on_either_side_or_none_begins_the_pairs_anew() {
    let mut f = Forecaster::new(spec()).unwrap();
    feed(&mut f, 0..100);
    f.set_shadow(Some(slot("b", 160.0)));
    // Beside the baseline first: the day of hour 120 would close at 167, but a bundle takes over.
    let step = feed(&mut f, 100..165);
    assert!(paired(&step).iter().all(|p| p.running.is_empty()));
    assert_eq!(paired(&step).len(), 1);
    f.set_active(Some(slot("a", 150.0)));
    let step = feed(&mut f, 165..220);
    let found = paired(&step);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].from_ms, found[0].running.len()), (144 * HOUR, 32));
    assert!(found[0].origins < 5, "{found:?}");
    f.set_shadow(None);
    assert!(paired(&feed(&mut f, 220..300)).is_empty());
}

#[test]
fn a_shadow_beside_hears_what_is_said_for_the_device() {
    let wide = ForecasterSpec {
        lookback: 96,
        ..spec()
    };
    let mut main = Forecaster::new(spec()).unwrap();
    let mut beside = Forecaster::beside(wide).unwrap();
    assert!(beside.compares_with(&main));
    let short = ForecasterSpec {
        horizon: 12,
        ..spec()
    };
    assert!(!Forecaster::beside(short).unwrap().compares_with(&main));
    feed(&mut main, 0..110);
    feed(&mut beside, 0..110);
    main.set_active(Some(slot("a", 150.0)));
    beside.set_shadow(Some(slot("b", 160.0)));
    let mut found = Vec::new();
    for hour in 110..200 {
        let mut step = feed(&mut main, hour..hour + 1);
        let said = std::mem::take(&mut step.records);
        beside.hear(Some(main.in_charge()), &said, &mut step);
        let apart = feed(&mut beside, hour..hour + 1);
        assert!(
            apart
                .records
                .iter()
                .all(|r| matches!(r, RecordBody::Paired(_))),
            "{:?}",
            apart.records
        );
        let ours = |k: &str| k.starts_with("paired/") || k.starts_with("pending/demand/shadow/");
        assert!(
            apart.state.iter().all(|(k, _)| ours(k)),
            "{:?}",
            apart.state
        );
        found.extend(paired(&apart).into_iter().cloned());
    }
    assert_eq!(found.len(), 3);
    assert_eq!((found[1].origins, found[1].steps), (24, 576));
    assert!((found[1].running_abs - distance(150.0)).abs() < 1e-9);
    assert!((found[1].watching_abs - distance(160.0)).abs() < 1e-9);
}

#[test]
fn a_model_far_worse_than_the_naive_forecast_is_told_after_a_day_of_actuals() {
    for (level, worse) in [(1_000.0, true), (215.0, false)] {
        let mut f = Forecaster::new(spec()).unwrap();
        feed(&mut f, 0..100);
        f.set_active(Some(slot("a", level)));
        let step = feed(&mut f, 100..124);
        let told = |s: &Step| {
            s.notes
                .iter()
                .filter(|n| matches!(n, Note::Worse { .. }))
                .count()
        };
        assert_eq!(told(&step), 0, "23 rows with an actual");
        // The values repeat themselves, so the naive error is nothing: a fifth of a deviation is still no failure of a model.
        let next = feed(&mut f, 124..126);
        assert_eq!(told(&next), usize::from(worse), "{:?}", next.notes);
    }
}

/// Off by five where nine tenths of its window are there, by sixty where less is.
struct Thorough;

impl Model for Thorough {
    fn forecast(&self, window: &Window) -> Result<Computed, String> {
        let missing = window.window.iter().filter(|v| v.is_nan()).count();
        let full = 10 * missing <= window.window.len();
        let off = if full { 5.0 } else { 60.0 };
        let next = window.origin / HOUR + 1;
        let mean: Vec<f64> = (next..next + 24).map(|h| value(h) + off).collect();
        Ok(Computed {
            quantiles: mean.iter().flat_map(|m| [*m; 5]).collect(),
            mean,
            took_us: 7,
        })
    }
}

#[test]
fn a_window_that_fills_up_raises_no_drift_and_a_change_after_it_does() {
    let calibration = ErrorCalibration {
        mean_log: 5_f64.ln(),
        std_log: 0.2,
        lag1: 0.0,
        days: 60,
        level_std: 0.0,
    };
    let thorough = |least_observed| Slot {
        least_observed,
        model: Box::new(Thorough),
        ..slot("a", 0.0)
    };
    let begin = |least_observed, stored: &Stored| {
        let mut f = Forecaster::new(spec()).unwrap();
        f.restore(stored);
        f.set_active(Some(thorough(least_observed)));
        let watch = ErrorWatch::new(Sha256::of(b"a"), 7, 24 * HOUR, Some(&calibration));
        f.watch(watch, InputWatch::default());
        f
    };
    let raised = |step: &Step| -> Vec<i64> {
        let raised = step.records.iter().filter_map(|r| match r {
            RecordBody::Drift(d) if d.raised => Some(d.time_ms / HOUR / 24),
            _ => None,
        });
        raised.collect()
    };
    // As it was: by the second day of a device that knows only what it saw itself.
    let mut f = begin(0.0, &Stored::default());
    assert_eq!(raised(&feed(&mut f, 0..24 * 10)), [2]);

    let mut f = begin(0.9, &Stored::default());
    let step = feed(&mut f, 0..40);
    let made = forecasts(&step);
    assert!(
        made.iter().any(|f| f.made_by == "bundle"),
        "told all the same"
    );
    assert!(raised(&step).is_empty());
    let state: BTreeMap<String, Vec<u8>> = step.state.into_iter().collect();
    let get = |keys: Vec<String>| keys.iter().filter_map(|k| state.get(k).cloned()).collect();
    let stored = Stored {
        kept: state.get(&Forecaster::state_key("demand")).cloned(),
        rows: get(f.row_keys()),
        pending: get(f.pending_keys()),
        ..Stored::default()
    };
    let mut f = begin(0.9, &stored);
    assert!(raised(&feed(&mut f, 39..24 * 10)).is_empty());
    let mut step = Step::default();
    for hour in 24 * 10..24 * 20 {
        f.reading("sold", hour * HOUR, value(hour) + 60.0);
        f.reading("temperature", hour * HOUR, 20.0);
        f.advance(&mut step);
    }
    assert_eq!(raised(&step).len(), 1, "{:?}", raised(&step));
}

#[test]
fn a_sensor_that_sticks_is_not_blamed_on_the_model() {
    let mut f = Forecaster::new(spec()).unwrap();
    feed(&mut f, 0..100);
    f.set_active(Some(slot("a", 200.0)));
    let mut step = Step::default();
    for hour in 100..200 {
        f.reading("sold", hour * HOUR, 1_000.0);
        f.reading("temperature", hour * HOUR, 20.0);
        f.advance(&mut step);
    }
    let worse = |n: &Note| matches!(n, Note::Worse { .. });
    assert!(!step.notes.iter().any(worse));
}

#[test]
fn a_model_that_gives_nan_never_speaks_and_the_baseline_does() {
    let mut f = Forecaster::new(spec()).unwrap();
    feed(&mut f, 0..100);
    f.set_active(Some(slot("nan", f64::NAN)));
    let step = feed(&mut f, 100..101);
    let made = forecasts(&step);
    assert_eq!(made.len(), 1);
    assert_ne!(made[0].made_by, "bundle");
    assert!(matches!(&step.notes[0], Note::Failed { shadow: false, .. }));
}

#[test]
fn a_silent_channel_delays_by_one_period_and_one_wrong_time_does_not_end_the_stream() {
    let mut f = Forecaster::new(spec()).unwrap();
    feed(&mut f, 0..100);
    let mut step = Step::default();
    for hour in 100..110 {
        f.reading("sold", hour * HOUR, value(hour));
        f.advance(&mut step);
    }
    assert_eq!(f.closed_through(), Some(107 * HOUR));
    for wrong in [1_000_000, 110 + 30 * 24, 120] {
        f.reading("sold", wrong * HOUR, 1.0);
        f.complete(&["sold".to_owned()], wrong * HOUR + 1);
        f.advance(&mut step);
        assert_eq!(f.closed_through(), Some(107 * HOUR));
    }
    feed(&mut f, 110..112);
    assert_eq!(f.closed_through(), Some(111 * HOUR));
}

#[test]
fn after_one_wrong_time_slots_still_hold_all_their_readings() {
    let mut f = Forecaster::new(spec()).unwrap();
    feed(&mut f, 0..100);
    let mut step = Step::default();
    f.reading("sold", (100 + 30 * 24) * HOUR, 1.0);
    for hour in 100..104 {
        for part in 1..=4 {
            let time = (hour - 1) * HOUR + part * HOUR / 4;
            f.reading("sold", time, if part == 1 { 4.0 } else { 0.0 });
            f.reading("temperature", time, 20.0);
            f.advance(&mut step);
        }
    }
    assert_eq!(f.closed_through(), Some(103 * HOUR));
    assert_eq!(f.rows.value(103 * HOUR, 0), Some(1.0));
}

#[test]
fn a_long_silence_delays_the_stream_and_loses_no_row() {
    let mut f = Forecaster::new(spec()).unwrap();
    feed(&mut f, 0..100);
    let step = feed(&mut f, 150..153);
    let origins: Vec<i64> = forecasts(&step)
        .iter()
        .map(|f| f.origin_ms / HOUR)
        .collect();
    assert_eq!(origins, [150, 151, 152]);
}

#[test]
fn a_history_that_ends_with_a_wrong_time_ends_before_it() {
    let mut f = Forecaster::new(spec()).unwrap();
    let mut readings: Vec<_> = (0..100)
        .flat_map(|h| [(0, h * HOUR, value(h)), (1, h * HOUR, 20.0)])
        .collect();
    readings.push((0, (100 + 30 * 24) * HOUR, 1.0));
    f.bootstrap(readings);
    assert_eq!(f.closed_through(), Some(98 * HOUR));
}

#[test]
fn readings_of_before_become_a_history_without_forecasts() {
    let mut f = Forecaster::new(spec()).unwrap();
    let readings = (0..100)
        .flat_map(|h| [(0, h * HOUR, value(h)), (1, h * HOUR, 20.0)])
        .collect();
    let step = f.bootstrap(readings);
    assert!(step.records.is_empty());
    assert_eq!(f.closed_through(), Some(98 * HOUR));
    let next = feed(&mut f, 99..101);
    assert_eq!(forecasts(&next).len(), 2);
    assert_ne!(forecasts(&next)[0].made_by, "last_value");
}
