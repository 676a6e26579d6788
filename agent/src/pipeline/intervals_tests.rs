//! Intervals along a timeline of hours: what teaches them, when, and what does not; owns no product code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::ops::Range;

use fieldcast_features::window::Window;
use fieldcast_wire::{RecordBody, Sha256, message};

use super::*;
use crate::pipeline::forecaster::tests::spec;
use crate::pipeline::forecaster::{Forecaster, Step, Stored};
use crate::pipeline::model::{Computed, Model};

const HOUR: Millis = 3_600_000;
const ROW: [f64; 5] = [80.0, 90.0, 100.0, 110.0, 120.0];
const HORIZON: usize = 24;

struct Always;

impl Model for Always {
    fn forecast(&self, window: &Window) -> Result<Computed, String> {
        Ok(Computed {
            mean: vec![100.0; window.horizon],
            quantiles: ROW.repeat(window.horizon),
            took_us: 0,
        })
    }
}

fn slot(name: &str, version: u64) -> Slot {
    Slot {
        sha: Sha256::of(name.as_bytes()),
        version,
        levels: spec().quantiles,
        train_dev: 10.0,
        least_observed: 0.9,
        engine: String::new(),
        golden_us: 0,
        model: Box::new(Always),
    }
}

/// A device whose model has made its first forecast at hour 60.
fn begun() -> Forecaster {
    let mut f = Forecaster::new(spec()).unwrap();
    drive(&mut f, 0..60, 100.0);
    f.set_active(Some(slot("a", 7)));
    let first = drive(&mut f, 60..61, 100.0);
    assert_eq!(
        shown(&first),
        [ROW.repeat(HORIZON)],
        "as it was calibrated at first"
    );
    f
}

fn drive(f: &mut Forecaster, hours: Range<i64>, actual: f64) -> Step {
    let mut step = Step::default();
    for hour in hours {
        f.reading("sold", hour * HOUR, actual);
        f.reading("temperature", hour * HOUR, 20.0);
        f.advance(&mut step);
    }
    step
}

/// Quantiles of the running model's forecasts.
fn shown(step: &Step) -> Vec<Vec<f64>> {
    let of = |r: &RecordBody| match r {
        RecordBody::Forecast(f) if f.made_by == "bundle" && !f.shadow => Some(f.quantiles.clone()),
        _ => None,
    };
    step.records.iter().filter_map(of).collect()
}

fn state(step: &Step) -> BTreeMap<String, Vec<u8>> {
    step.state.iter().cloned().collect()
}

fn stored(step: &Step) -> Intervals {
    stored_in(&state(step))
}

fn stored_in(state: &BTreeMap<String, Vec<u8>>) -> Intervals {
    Intervals::read(&state[&Intervals::key("demand")], Some(Millis::MAX)).unwrap()
}

fn restarted(state: &BTreeMap<String, Vec<u8>>) -> Forecaster {
    let mut f = Forecaster::new(spec()).unwrap();
    let get = |keys: Vec<String>| keys.iter().filter_map(|k| state.get(k).cloned()).collect();
    f.restore(&Stored {
        kept: state.get(&Forecaster::state_key("demand")).cloned(),
        rows: get(f.row_keys()),
        pending: get(f.pending_keys()),
        intervals: state.get(&Intervals::key("demand")).cloned(),
        ..Stored::default()
    });
    f
}

#[test]
fn a_step_learns_once_its_own_actual_has_come_and_not_before() {
    let mut f = begun();
    for hour in 61..61 + 24 {
        let step = drive(&mut f, hour..hour + 1, 100.0);
        let now = stored(&step).shown(ROW.repeat(HORIZON));
        let come = usize::try_from(hour - 60).unwrap();
        for (h, row) in now.chunks(5).enumerate() {
            assert_eq!(row != ROW, h < come, "step {h} at hour {hour}: {row:?}");
        }
        assert_eq!(
            shown(&step),
            [now],
            "what is learnt is shown from the next forecast on"
        );
    }
}

#[test]
fn misses_widen_most_the_side_they_are_on_and_leave_the_forecast_itself() {
    let mut f = begun();
    let step = drive(&mut f, 61..64, 200.0);
    let last = shown(&step).pop().unwrap();
    assert!(
        last[3] > 110.0 && last[4] > 120.0,
        "wider above: {:?}",
        &last[..5]
    );
    let above = [last[3] - 110.0, last[4] - 120.0];
    let below = [90.0 - last[1], 80.0 - last[0]];
    assert!(
        below.iter().zip(&above).all(|(b, a)| *b > 0.0 && b < a),
        "less so below: {:?}",
        &last[..5]
    );
    assert_eq!(last[2], 100.0);
    assert_eq!(last[15..20], ROW, "three hours say nothing of a fourth");
    let mean = step.records.iter().find_map(|r| match r {
        RecordBody::Forecast(f) => Some(f.mean.clone()),
        _ => None,
    });
    assert_eq!(mean, Some(vec![100.0; HORIZON]));
}

#[test]
fn a_restart_goes_on_with_the_same_factors() {
    let whole = shown(&drive(&mut begun(), 61..120, 130.0));
    let mut first = Forecaster::new(spec()).unwrap();
    let mut state = state(&drive(&mut first, 0..60, 100.0));
    first.set_active(Some(slot("a", 7)));
    drive(&mut first, 60..61, 100.0)
        .state
        .into_iter()
        .for_each(|(k, v)| drop(state.insert(k, v)));
    let before = drive(&mut first, 61..90, 130.0);
    let mut both = shown(&before);
    state.extend(before.state);
    let mut second = restarted(&state);
    second.set_active(Some(slot("a", 7)));
    both.extend(shown(&drive(&mut second, 90..120, 130.0)));
    assert_eq!(both, whole);
    assert!(whole.last().unwrap()[3] > 115.0);
    // While the model is not back yet, what it has shown before still teaches.
    let mut late = restarted(&state);
    let meanwhile = stored(&drive(&mut late, 90..92, 130.0));
    assert_ne!(meanwhile.adaptive, stored_in(&state).adaptive);
}

#[test]
fn another_model_begins_anew_and_learns_nothing_from_what_was_shown_before_it() {
    let mut f = begun();
    let old = shown(&drive(&mut f, 61..90, 200.0)).pop().unwrap();
    assert_ne!(old, ROW.repeat(HORIZON));
    f.set_active(Some(slot("b", 8)));
    let step = drive(&mut f, 90..91, 200.0);
    assert_eq!(shown(&step), [ROW.repeat(HORIZON)]);
    let step = drive(&mut f, 91..92, 200.0);
    let now = shown(&step).pop().unwrap();
    assert!(now[3] > 110.0 && now[5..] == ROW.repeat(HORIZON - 1));
    // Back to the first: its forecasts that still wait were shown by factors that are gone.
    f.set_active(Some(slot("a", 7)));
    let step = drive(&mut f, 92..93, 200.0);
    assert_eq!(shown(&step), [ROW.repeat(HORIZON)]);
    // The same file of another version, other levels, another horizon.
    let kept = || Some(stored(&step));
    let same = |slot: &Slot, horizon| Intervals::of(slot, horizon, None, kept()).since.is_some();
    assert!(same(&slot("a", 7), HORIZON));
    assert!(!same(&slot("a", 9), HORIZON) && !same(&slot("a", 7), HORIZON + 1));
    let levels = vec![0.1, 0.2, 0.5, 0.8, 0.9];
    let other = Slot {
        levels,
        ..slot("a", 7)
    };
    assert!(!same(&other, HORIZON));
}

#[test]
fn missing_unusable_and_late_actuals_teach_nothing() {
    let mut f = begun();
    let before = stored(&drive(&mut f, 61..70, 100.0));
    let mut missing = Step::default();
    f.reading("temperature", 70 * HOUR, 20.0);
    f.complete(&["sold", "temperature"].map(str::to_owned), 70 * HOUR + 1);
    f.advance(&mut missing);
    assert_eq!(f.closed_through(), Some(70 * HOUR));
    assert_eq!(stored(&missing), before);
    f.reading("sold", 70 * HOUR, 900.0);
    let unusable = drive(&mut f, 71..72, f64::NAN);
    assert_eq!(f.closed_through(), Some(71 * HOUR));
    assert_eq!(stored(&unusable), before);
    let mut own = before;
    let forecast = pb::Forecast {
        origin_ms: 70 * HOUR,
        mean: vec![100.0; HORIZON],
        quantiles: ROW.repeat(HORIZON),
        quantile_levels: spec().quantiles,
        bundle: own.bundle.clone(),
        model_version: own.version,
        ..pb::Forecast::default()
    };
    let as_before = own.clone();
    own.learn(&forecast, 0, f64::INFINITY, 1);
    own.learn(&forecast, HORIZON, 100.0, 1);
    let shadow = pb::Forecast {
        shadow: true,
        ..forecast.clone()
    };
    let foreign = pb::Forecast {
        bundle: vec![1; 32],
        ..forecast.clone()
    };
    // As agents before this one stored what waits.
    let narrow = pb::Forecast {
        quantiles: [80.0, 120.0].repeat(HORIZON),
        quantile_levels: vec![0.025, 0.975],
        ..forecast.clone()
    };
    for other in [shadow, foreign, narrow] {
        own.learn(&other, 0, 100.0, 1);
    }
    assert_eq!(own, as_before);
    own.learn(&forecast, 0, 100.0, 1);
    assert_ne!(own, as_before);
}

#[test]
fn a_damaged_or_foreign_state_begins_anew() {
    let mut f = Forecaster::new(spec()).unwrap();
    let mut state = state(&drive(&mut f, 0..60, 100.0));
    f.set_active(Some(slot("a", 7)));
    state.extend(drive(&mut f, 60..90, 200.0).state);
    let key = Intervals::key("demand");
    let good = String::from_utf8(state[&key].clone()).unwrap();
    let value = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut v: serde_json::Value = serde_json::from_str(&good).unwrap();
        edit(&mut v);
        v.to_string()
    };
    let bad = [
        "no JSON".to_owned(),
        good[..good.len() / 2].to_owned(),
        value(&|v| v["format"] = 2.into()),
        value(&|v| v["horizon"] = u64::MAX.into()),
        value(&|v| v["adaptive"]["log_factor"][0] = 99.0.into()),
        value(&|v| v["adaptive"]["log_factor"][0] = serde_json::Value::Null),
        value(&|v| v["adaptive"]["seen"] = serde_json::json!([])),
        value(&|v| v["since"] = (1_000 * HOUR).into()),
    ];
    for text in bad {
        let now = Some(89 * HOUR);
        let why = Intervals::read(text.as_bytes(), now).unwrap_err();
        assert!(why.contains("begin anew"), "{why}");
        state.insert(key.clone(), text.into_bytes());
        let mut again = restarted(&state);
        assert_eq!(again.closed_through(), now, "nothing else is lost");
        again.set_active(Some(slot("a", 7)));
        // Forecasts of before wait still: what they teach would be of factors that are gone.
        let step = drive(&mut again, 90..91, 200.0);
        assert_eq!(shown(&step), [ROW.repeat(HORIZON)]);
    }
}

#[test]
fn a_watching_model_and_the_cold_start_show_their_own_intervals() {
    let mut f = begun();
    f.set_shadow(Some(slot("b", 8)));
    let step = drive(&mut f, 61..90, 200.0);
    // They go nowhere, but wait for their actuals.
    let waiting = step.state.iter();
    let shadows: Vec<Vec<f64>> = waiting
        .filter(|(key, _)| key.starts_with("pending/demand/shadow/"))
        .map(|(_, bytes)| message::decode::<pb::Forecast>("forecast", bytes).unwrap())
        .map(|f| f.quantiles)
        .collect();
    assert_eq!(shadows.len(), 29);
    assert!(shadows.iter().all(|q| *q == ROW.repeat(HORIZON)));
    let mut cold = Forecaster::new(spec()).unwrap();
    let step = drive(&mut cold, 0..60, 100.0);
    assert!(!state(&step).contains_key(&Intervals::key("demand")));
}

#[test]
fn a_kept_origin_stands_for_the_others_that_share_its_error() {
    let horizon = 168;
    let slot = slot("a", 7);
    let forecast = |origin| pb::Forecast {
        origin_ms: origin,
        quantiles: ROW.repeat(horizon),
        quantile_levels: slot.levels.clone(),
        bundle: slot.sha.to_vec(),
        model_version: 7,
        ..pb::Forecast::default()
    };
    let after = |stride: usize, step: usize| {
        let mut intervals = Intervals::of(&slot, horizon, None, None);
        for origin in (0..24 * 90_i64).step_by(stride) {
            // Weeks of too high and of fitting values in turn, as errors of a far step come.
            let actual = if origin / 168 % 3 == 0 { 130.0 } else { 100.0 };
            intervals.learn(&forecast(origin), step, actual, stride);
        }
        intervals.shown(ROW.repeat(horizon))[step * 5 + 3] - 100.0
    };
    let (all, third) = (after(1, 167), after(3, 167));
    assert!((third / all - 1.0).abs() < 0.03, "{third} {all}");
    assert!(all > 11.0, "{all}");
    let mut once = Intervals::of(&slot, horizon, None, None);
    let mut thrice = once.clone();
    once.learn(&forecast(0), 0, 130.0, 1);
    thrice.learn(&forecast(0), 0, 130.0, 3);
    assert_eq!(
        once, thrice,
        "the next hour's error is shared by no other origin"
    );
}
