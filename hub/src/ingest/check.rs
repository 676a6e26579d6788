//! Which records of a batch count: owns the rules, pure, never writes.

use fieldcast_drift::sketch::{Sketch, Stored};
use fieldcast_features::spec::{MAX_HORIZON, MAX_QUANTILES};
use fieldcast_wire::caps::{MAX_FORECAST_VALUES, MAX_NAME, MAX_TEXT, MAX_TIME_MS, MIN_TIME_MS};
use fieldcast_wire::{RecordBody, SensorName, pb};

// Whatever definition is valid, its forecasts fit into a record.
const _: () = assert!(MAX_HORIZON * MAX_QUANTILES <= MAX_FORECAST_VALUES);

/// Why a record is refused; none where it counts.
#[must_use]
pub fn refusal(record: &RecordBody) -> Option<String> {
    match record {
        RecordBody::Reading(r) => SensorName::new(r.sensor.clone())
            .err()
            .map(|e| e.to_string())
            .or_else(|| time("time", r.time))
            .or_else(|| finite("value", &[r.value]))
            .or_else(|| (r.quality > 2).then(|| format!("quality {} is not 0, 1 or 2", r.quality))),
        RecordBody::Forecast(m) => name("forecaster", &m.forecaster)
            .or_else(|| name("made_by", &m.made_by))
            .or_else(|| time("origin", m.origin_ms))
            .or_else(|| (m.period_ms <= 0).then(|| "period must be above 0".to_owned()))
            .or_else(|| m.mean.is_empty().then(|| "no steps".to_owned()))
            .or_else(|| shape(m))
            .or_else(|| finite("mean", &m.mean))
            .or_else(|| finite("quantile", &m.quantiles))
            .or_else(|| finite("quantile level", &m.quantile_levels))
            .or_else(|| number("model version", m.model_version)),
        RecordBody::Residual(m) => name("forecaster", &m.forecaster)
            .or_else(|| name("made_by", &m.made_by))
            .or_else(|| time("from", m.from_ms))
            .or_else(|| time("to", m.to_ms))
            .or_else(|| {
                finite(
                    "error",
                    &[
                        m.mean_error,
                        m.mean_abs_error,
                        m.mean_squared_error,
                        m.naive_mean_abs_error.unwrap_or(0.0),
                    ],
                )
            })
            .or_else(|| number("model version", m.model_version)),
        RecordBody::Gap(m) => text("reason", &m.reason)
            .or_else(|| time("from", m.from_ms))
            .or_else(|| time("to", m.to_ms))
            .or_else(|| number("first record", m.first_seq))
            .or_else(|| number("last record", m.last_seq)),
        RecordBody::Drift(m) => text("forecaster", &m.forecaster)
            .or_else(|| text("sensor", &m.sensor))
            .or_else(|| name("detector", &m.detector))
            .or_else(|| time("time", m.time_ms))
            .or_else(|| time("onset", m.onset_ms))
            .or_else(|| finite("statistic", &[m.statistic, m.threshold, m.severity]))
            .or_else(|| number("model version", m.model_version))
            .or_else(|| number("data count", m.data_count)),
        RecordBody::Alarm(m) => name("code", &m.code)
            .or_else(|| text("sensor", &m.sensor))
            .or_else(|| text("message", &m.message))
            .or_else(|| time("time", m.time_ms)),
        RecordBody::Clock(m) => text("boot id", &m.boot_id),
        RecordBody::Sketch(m) => name("sensor", &m.sensor)
            .or_else(|| time("from", m.from_ms))
            .or_else(|| time("to", m.to_ms))
            .or_else(|| number("count", m.count))
            .or_else(|| number("left out", m.left_out))
            .or_else(|| Sketch::try_from(stored(m)).err().map(|e| e.to_string())),
        RecordBody::Paired(m) => name("forecaster", &m.forecaster)
            .or_else(|| time("from", m.from_ms))
            .or_else(|| time("to", m.to_ms))
            .or_else(|| (m.to_ms <= m.from_ms).then(|| "a block without length".to_owned()))
            .or_else(|| (m.steps == 0).then(|| "no pairs of steps".to_owned()))
            .or_else(|| (m.watching.len() != 32).then(|| "no bundle that watches".to_owned()))
            .or_else(|| losses(m))
            .or_else(|| number("running version", m.running_version))
            .or_else(|| number("watching version", m.watching_version)),
        RecordBody::Outcome(m) => text("subject", &m.subject)
            .or_else(|| text("message", &m.message))
            .or_else(|| time("time", m.time_ms)),
    }
}

fn stored(m: &pb::SensorSketch) -> Stored {
    Stored {
        count: m.count,
        mean: m.mean,
        squares: m.squares,
        kll: m.kll.clone(),
    }
}

fn losses(m: &pb::PairedLosses) -> Option<String> {
    let losses = [
        m.running_abs,
        m.watching_abs,
        m.running_quantile,
        m.watching_quantile,
    ];
    let negative = losses.iter().find(|v| **v < 0.0);
    finite("loss", &losses).or_else(|| negative.map(|v| format!("loss {v} is negative")))
}

fn shape(m: &pb::Forecast) -> Option<String> {
    let (steps, levels) = (m.mean.len(), m.quantile_levels.len());
    let values = steps.saturating_mul(levels);
    (values.max(steps) > MAX_FORECAST_VALUES || m.quantiles.len() != values).then(|| {
        format!(
            "{steps} steps and {levels} levels with {} quantiles, at most {MAX_FORECAST_VALUES} are allowed",
            m.quantiles.len()
        )
    })
}

fn time(what: &str, millis: i64) -> Option<String> {
    (!(MIN_TIME_MS..=MAX_TIME_MS).contains(&millis))
        .then(|| format!("{what} {millis} ms is not between the years 1900 and 2200"))
}

fn finite(what: &str, values: &[f64]) -> Option<String> {
    values
        .iter()
        .find(|v| !v.is_finite())
        .map(|v| format!("{what} {v} is not a finite number"))
}

fn number(what: &str, n: u64) -> Option<String> {
    i64::try_from(n)
        .is_err()
        .then(|| format!("{what} {n} is too large"))
}

fn name(what: &str, value: &str) -> Option<String> {
    if value.is_empty() || value.len() > MAX_NAME {
        return Some(format!("{what} must have 1 to {MAX_NAME} bytes"));
    }
    text(what, value)
}

/// PostgreSQL's text holds no NUL.
fn text(what: &str, value: &str) -> Option<String> {
    if value.len() > MAX_TEXT {
        return Some(format!("{what} is longer than {MAX_TEXT} bytes"));
    }
    value
        .contains('\0')
        .then(|| format!("{what} contains a NUL character"))
}

#[cfg(test)]
mod tests {
    use fieldcast_wire::{Reading, pb};

    use super::*;

    #[test]
    fn a_bad_record_says_why() {
        let good = Reading {
            sensor: "t".into(),
            time: 0,
            value: 1.0,
            quality: 0,
            time_source: pb::TimeSource::External,
        };
        let refused = |reading: Reading| refusal(&RecordBody::Reading(reading));
        assert_eq!(refused(good.clone()), None);
        assert!(
            refused(Reading {
                value: f64::NAN,
                ..good.clone()
            })
            .is_some_and(|r| r.contains("finite"))
        );
        assert!(
            refused(Reading {
                time: i64::MAX,
                ..good.clone()
            })
            .is_some_and(|r| r.contains("years"))
        );
        assert!(
            refused(Reading {
                sensor: "a/b".into(),
                ..good.clone()
            })
            .is_some()
        );
        assert!(refused(Reading { quality: 9, ..good }).is_some());
        let forecast = pb::Forecast {
            forecaster: "f".into(),
            made_by: "ridge".into(),
            ..Default::default()
        };
        assert!(refusal(&RecordBody::Forecast(forecast)).is_some_and(|r| r.contains("period")));
        let forecast = pb::Forecast {
            forecaster: "f".into(),
            made_by: "ridge".into(),
            period_ms: 1,
            mean: vec![0.0; 2],
            quantile_levels: vec![0.5],
            quantiles: vec![0.0; 2],
            ..Default::default()
        };
        assert_eq!(refusal(&RecordBody::Forecast(forecast.clone())), None);
        let odd = pb::Forecast {
            quantiles: vec![0.0; 3],
            ..forecast
        };
        assert!(refusal(&RecordBody::Forecast(odd)).is_some_and(|r| r.contains("3 quantiles")));
        let alarm = pb::Alarm {
            code: "x".into(),
            message: "a\0b".into(),
            ..Default::default()
        };
        assert!(refusal(&RecordBody::Alarm(alarm)).is_some_and(|r| r.contains("NUL")));
    }

    #[test]
    fn a_sketch_must_be_readable() {
        let mut sketch = Sketch::default();
        [1.0, 2.0, 5.0].into_iter().for_each(|v| sketch.add(v));
        let whole = Stored::from(sketch);
        let record = |kll: Vec<u8>, count| {
            RecordBody::Sketch(pb::SensorSketch {
                sensor: "t".into(),
                count,
                mean: whole.mean,
                squares: whole.squares,
                kll,
                ..pb::SensorSketch::default()
            })
        };
        assert_eq!(refusal(&record(whole.kll.clone(), 3)), None);
        for (kll, count) in [
            (whole.kll.clone(), 4),
            (vec![7; 100_000], 3),
            (Vec::new(), 0),
        ] {
            assert!(refusal(&record(kll, count)).is_some_and(|r| r.contains("sketch")));
        }
    }
}
