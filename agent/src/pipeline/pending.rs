//! Forecasts whose actuals are still to come: owns a bounded ring of them and its stored form; never judges them.

use std::collections::BTreeMap;

use fieldcast_features::Millis;
use fieldcast_wire::{message, pb};

/// Most forecasts of one kind that wait at the same time; longer horizons keep every n-th origin.
const RING: i64 = 64;

/// Forecasts of the running and the watching model from the same origin, both of which speak of one time.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// Place in the ring, below 64.
    pub place: u32,
    /// Index of the step.
    pub step: usize,
    /// Of the model in charge, or the baseline.
    pub running: &'a pb::Forecast,
    /// Of the shadow.
    pub watching: &'a pb::Forecast,
}

/// Forecasts by ring place, active and shadow apart.
#[derive(Debug, Clone)]
pub struct Pending {
    name: String,
    period: Millis,
    stride: i64,
    waiting: BTreeMap<(bool, u32), pb::Forecast>,
}

impl Pending {
    /// For one forecaster's grid.
    #[must_use]
    pub fn new(name: &str, period: Millis, horizon: usize) -> Self {
        let horizon = i64::try_from(horizon).unwrap_or(1);
        Self {
            name: name.to_owned(),
            period: period.max(1),
            stride: (horizon + RING - 1) / RING,
            waiting: BTreeMap::new(),
        }
    }

    /// How many origins there are for each one that is kept.
    #[must_use]
    pub fn stride(&self) -> usize {
        usize::try_from(self.stride).unwrap_or(1)
    }

    /// State keys that may hold a waiting forecast.
    #[must_use]
    pub fn keys(name: &str) -> Vec<String> {
        let key = |shadow, place| key(name, shadow, place);
        (0..u32::try_from(RING).unwrap_or(0))
            .flat_map(|place| [key(false, place), key(true, place)])
            .collect()
    }

    /// Place of an origin in the ring; none where the horizon is so long that this origin is not kept.
    #[must_use]
    pub fn place(&self, origin: Millis) -> Option<u32> {
        let step = origin.div_euclid(self.period);
        if step.rem_euclid(self.stride) != 0 {
            return None;
        }
        let place = step.div_euclid(self.stride).rem_euclid(RING);
        u32::try_from(place).ok()
    }

    /// Takes a forecast: whole where something is learnt from all its levels, otherwise cut to mean and widest interval; gives
    /// the state entry that stores it. None where the origin has no place.
    pub fn push(&mut self, forecast: &pb::Forecast, whole: bool) -> Option<(String, Vec<u8>)> {
        let place = self.place(forecast.origin_ms)?;
        let kept = if whole {
            forecast.clone()
        } else {
            narrow(forecast)
        };
        let entry = (
            key(&self.name, forecast.shadow, place),
            message::encode(&kept),
        );
        self.waiting.insert((forecast.shadow, place), kept);
        Some(entry)
    }

    /// Takes up a stored forecast; anything unreadable or of another grid is ignored.
    pub fn restore(&mut self, bytes: &[u8]) {
        if let Ok(forecast) = message::decode::<pb::Forecast>("pending forecast", bytes)
            && forecast.period_ms == self.period
            && forecast.quantiles.len() == forecast.mean.len() * forecast.quantile_levels.len()
        {
            self.push(&forecast, true);
        }
    }

    /// The forecasts that speak of `time`, each with the index of its step.
    pub fn speaking_of(&self, time: Millis) -> impl Iterator<Item = (&pb::Forecast, usize)> {
        let all = self.waiting.values();
        all.filter_map(move |f| Some((f, self.step(f, time)?)))
    }

    /// What both models said of `time`, from the same origins.
    pub fn pairs(&self, time: Millis) -> impl Iterator<Item = Pair<'_>> {
        self.waiting.iter().filter_map(move |(key, watching)| {
            let (true, place) = *key else { return None };
            let running = self.waiting.get(&(false, place))?;
            let step = self.step(watching, time)?;
            (running.origin_ms == watching.origin_ms).then_some(Pair {
                place,
                step,
                running,
                watching,
            })
        })
    }

    /// Which step of a forecast `time` is.
    fn step(&self, forecast: &pb::Forecast, time: Millis) -> Option<usize> {
        let ahead = time - forecast.origin_ms;
        if ahead <= 0 || ahead % self.period != 0 {
            return None;
        }
        let step = usize::try_from(ahead / self.period - 1).ok()?;
        (step < forecast.mean.len()).then_some(step)
    }

    /// Lets go of forecasts whose last step is `time` or earlier.
    pub fn expire(&mut self, time: Millis) {
        let period = self.period;
        self.waiting.retain(|_, f| {
            let steps = i64::try_from(f.mean.len()).unwrap_or(0);
            f.origin_ms + steps * period > time
        });
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn key(name: &str, shadow: bool, place: u32) -> String {
    let kind = if shadow { "shadow" } else { "active" };
    format!("pending/{name}/{kind}/{place}")
}

fn narrow(forecast: &pb::Forecast) -> pb::Forecast {
    let width = forecast.quantile_levels.len();
    let mut kept = pb::Forecast {
        quantile_levels: Vec::new(),
        quantiles: Vec::new(),
        ..forecast.clone()
    };
    if let [first, .., last] = forecast.quantile_levels.as_slice() {
        kept.quantile_levels = vec![*first, *last];
        kept.quantiles = forecast
            .quantiles
            .chunks_exact(width)
            .flat_map(|q| [q[0], q[width - 1]])
            .collect();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(origin: Millis, steps: usize) -> pb::Forecast {
        #[allow(clippy::cast_precision_loss, reason = "tests")]
        let mean: Vec<f64> = (0..steps).map(|i| i as f64).collect();
        pb::Forecast {
            origin_ms: origin,
            period_ms: 10,
            quantiles: mean.iter().flat_map(|m| [m - 1.0, *m, m + 1.0]).collect(),
            quantile_levels: vec![0.1, 0.5, 0.9],
            mean,
            ..pb::Forecast::default()
        }
    }

    #[test]
    fn a_forecast_waits_for_each_of_its_steps_and_survives_storage() {
        let mut pending = Pending::new("demand", 10, 3);
        let stored = pending
            .push(&forecast(100, 3), false)
            .map(|(_, bytes)| bytes);
        let mut again = Pending::new("demand", 10, 3);
        again.restore(&stored.unwrap_or_default());
        again.restore(b"\xff\xff");
        for p in [&pending, &again] {
            let of = |t| {
                p.speaking_of(t)
                    .map(|(f, s)| (f.origin_ms, s))
                    .collect::<Vec<_>>()
            };
            assert_eq!(of(100), []);
            assert_eq!(of(110), [(100, 0)]);
            assert_eq!(of(130), [(100, 2)]);
            assert_eq!(of(140), []);
            assert_eq!(
                p.waiting.values().next().map(|f| f.quantiles[..2].to_vec()),
                Some(vec![-1.0, 1.0])
            );
        }
        pending.expire(129);
        assert_eq!(pending.len(), 1);
        pending.expire(130);
        assert!(pending.is_empty());
    }

    #[test]
    fn what_is_learnt_from_is_kept_whole() {
        let mut pending = Pending::new("demand", 10, 3);
        for whole in [false, true] {
            let shown = pb::Forecast {
                bundle: vec![1; 32],
                ..forecast(100, 3)
            };
            let stored = pending.push(&shown, whole).map(|(_, bytes)| bytes);
            let mut again = Pending::new("demand", 10, 3);
            again.restore(&stored.unwrap_or_default());
            let levels: Vec<usize> = again
                .speaking_of(110)
                .map(|(f, _)| f.quantile_levels.len())
                .collect();
            assert_eq!(levels, [if whole { 3 } else { 2 }]);
        }
    }

    #[test]
    fn long_horizons_stay_within_the_ring() {
        let mut pending = Pending::new("demand", 10, 1_000);
        for i in 0..2_000 {
            pending.push(&forecast(i * 10, 1_000), false);
            pending.expire(i * 10);
        }
        assert!(
            pending.len() <= 64 && pending.len() >= 60,
            "{}",
            pending.len()
        );
        assert_eq!(Pending::keys("demand").len(), 128);
    }
}
