//! Is the running model far worse than the simplest forecast: owns the sums of a day of rows; never decides what runs.

use fieldcast_wire::Sha256;
use serde::{Deserialize, Serialize};

/// Rows with an actual value that are judged together.
pub const ROWS: u32 = 24;
/// So many times the seasonal naive forecast's error is far worse ...
const TIMES: f64 = 3.0;
/// ... if it is also this part of the target's deviation in training: where hardly anything moves, nothing is far.
const LEAST: f64 = 0.25;

/// Errors of one bundle's forecasts and of the seasonal naive ones for the same times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NaiveBound {
    bundle: String,
    rows: u32,
    model: f64,
    naive: f64,
}

impl NaiveBound {
    /// One row: mean absolute errors of the forecasts that spoke of it. Why the model should not go on, at the end of a run of
    /// rows in which it was far worse. `deviation` is the target's in training.
    pub fn add(
        &mut self,
        bundle: &Sha256,
        deviation: f64,
        (model, naive): (f64, f64),
    ) -> Option<String> {
        let bundle = bundle.to_string();
        if self.bundle != bundle {
            *self = Self {
                bundle,
                ..Self::default()
            };
        }
        if !model.is_finite() || !naive.is_finite() {
            return None;
        }
        self.rows += 1;
        // What is stored must stay a number.
        self.model = (self.model + model).min(f64::MAX);
        self.naive = (self.naive + naive).min(f64::MAX);
        if self.rows < ROWS {
            return None;
        }
        let n = f64::from(self.rows);
        let (model, naive) = (self.model / n, self.naive / n);
        (self.rows, self.model, self.naive) = (0, 0.0, 0.0);
        let far = model > TIMES * naive && model > LEAST * deviation;
        far.then(|| {
            format!(
                "worse than the device's own naive forecast: over {ROWS} rows its mean absolute error is {model:.4}, that of last season's values {naive:.4}; look at the sensors, then train a new model"
            )
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn day(bound: &mut NaiveBound, name: &str, row: (f64, f64)) -> Vec<String> {
        let sha = Sha256::of(name.as_bytes());
        let rows = 0..ROWS;
        let found = rows.filter_map(|_| {
            *bound = serde_json::from_slice(&serde_json::to_vec(&bound).unwrap()).unwrap();
            bound.add(&sha, 10.0, row)
        });
        found.collect()
    }

    #[test]
    fn far_worse_for_a_day_is_told_once_a_day_in_words() {
        let mut bound = NaiveBound::default();
        assert!(day(&mut bound, "a", (11.9, 4.0)).is_empty());
        let told = day(&mut bound, "a", (12.1, 4.0));
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("12.1000") && told[0].contains("4.0000"));
        // Far, but of next to nothing.
        assert!(day(&mut bound, "a", (2.4, 0.0)).is_empty());
        assert_eq!(day(&mut bound, "a", (2.6, 0.0)).len(), 1);
        assert_eq!(day(&mut bound, "a", (1e308, 1.0)).len(), 1);
        assert!(day(&mut bound, "a", (f64::NAN, 1.0)).is_empty());
    }

    #[test]
    fn another_model_begins_anew() {
        let mut bound = NaiveBound::default();
        let sha = Sha256::of(b"a");
        for _ in 1..ROWS {
            assert_eq!(bound.add(&sha, 1.0, (100.0, 1.0)), None);
        }
        assert_eq!(bound.add(&Sha256::of(b"b"), 1.0, (100.0, 1.0)), None);
        assert_eq!(bound.add(&sha, 1.0, (100.0, 1.0)), None);
    }
}
