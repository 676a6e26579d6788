//! What a sensor's values were over a span, in little room: owns sketches that can be merged, never the values.
//!
//! Quantiles are kept by KLL (Karnin, Lang and Liberty, 2016) as Apache DataSketches has it, with a k of 112: a rank is
//! off by less than 2.4 % with 99 % probability. Count, mean and scatter are exact.
//! Sketches of many devices merge into one of the fleet without any reading leaving its place.

use datasketches::common::SearchCriteria;
use datasketches::kll::{KllFloat, KllSketch};
use serde::{Deserialize, Serialize};

/// How fine quantiles are: the usual 200 would take more than half of the 8 KB that a sensor has.
const K: u16 = 112;
/// Most bytes of a sketch that is read, however many values it has seen.
pub const MAX_BYTES: usize = 6 * 1024;

/// Values of a span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Sketch {
    count: u64,
    mean: f64,
    squares: f64,
    kll: KllSketch<KllFloat<f64>>,
}

/// What is kept of a [`Sketch`]: its numbers, and KLL's compact form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Sum of squared distances from it.
    pub squares: f64,
    /// Quantiles, in the compact form of Apache DataSketches for doubles.
    pub kll: Vec<u8>,
}

/// Why a sketch cannot be read or merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read a sketch: {0}; the device's program is damaged or of another make, install it again")]
pub struct SketchError(String);

impl Default for Sketch {
    fn default() -> Self {
        Self {
            count: 0,
            mean: 0.0,
            squares: 0.0,
            kll: KllSketch::new(K).unwrap_or_default(),
        }
    }
}

impl Sketch {
    /// Takes a value; one that is not finite, or whose square would leave f64, is passed over.
    pub fn add(&mut self, value: f64) {
        let count = self.count + 1;
        let apart = value - self.mean;
        let mean = self.mean + apart / count as f64;
        let squares = self.squares + apart * (value - mean);
        let Ok(item) = KllFloat::<f64>::new(value) else {
            return;
        };
        if mean.is_finite() && squares.is_finite() {
            (self.count, self.mean, self.squares) = (count, mean, squares);
            self.kll.update(item);
        }
    }

    /// Takes in another's values.
    ///
    /// # Errors
    /// More values than can be counted.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        let count = self.count.checked_add(other.count);
        let count = count.ok_or_else(|| SketchError("too many values to count".into()))?;
        self.kll
            .merge(&other.kll)
            .map_err(|e| SketchError(e.to_string()))?;
        if count > 0 {
            let (n, m) = (self.count as f64, other.count as f64);
            let apart = other.mean - self.mean;
            self.mean += apart * m / count as f64;
            self.squares += other.squares + apart * apart * n * m / count as f64;
        }
        self.count = count;
        Ok(())
    }

    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean; none without any.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    /// Their deviation; none without any.
    #[must_use]
    pub fn deviation(&self) -> Option<f64> {
        (self.count > 0).then(|| (self.squares / self.count as f64).max(0.0).sqrt())
    }

    /// Smallest and largest value.
    #[must_use]
    pub fn range(&self) -> Option<(f64, f64)> {
        let (low, high) = (self.kll.min_item()?, self.kll.max_item()?);
        Some((low.into_inner(), high.into_inner()))
    }

    /// The value that a share `level` (0 to 1) of all does not exceed; none without any.
    #[must_use]
    pub fn quantile(&self, level: f64) -> Option<f64> {
        let found = self.kll.quantile(level, SearchCriteria::Inclusive);
        found.ok().flatten().map(KllFloat::into_inner)
    }
}

impl From<Sketch> for Stored {
    fn from(sketch: Sketch) -> Self {
        Self {
            count: sketch.count,
            mean: sketch.mean,
            squares: sketch.squares,
            kll: sketch.kll.serialize(),
        }
    }
}

impl TryFrom<Stored> for Sketch {
    type Error = SketchError;

    fn try_from(stored: Stored) -> Result<Self, SketchError> {
        if stored.kll.len() > MAX_BYTES {
            return Err(SketchError(format!(
                "{} bytes, at most {MAX_BYTES} are allowed",
                stored.kll.len()
            )));
        }
        let kll: KllSketch<KllFloat<f64>> =
            KllSketch::deserialize(&stored.kll).map_err(|e| SketchError(e.to_string()))?;
        let fits = kll.n() == stored.count
            && stored.mean.is_finite()
            && stored.squares.is_finite()
            && stored.squares >= 0.0
            && kll.min_item().is_none_or(|v| v.into_inner().is_finite())
            && kll.max_item().is_none_or(|v| v.into_inner().is_finite());
        if !fits {
            return Err(SketchError("its numbers do not fit each other".into()));
        }
        Ok(Self {
            count: stored.count,
            mean: stored.mean,
            squares: stored.squares,
            kll,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::window::random::Random;

    fn of(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::default();
        values.iter().for_each(|v| sketch.add(*v));
        sketch
    }

    #[test]
    fn devices_merge_into_what_all_their_values_would_give() {
        let mut random = Random::new(3);
        let mut all = Vec::new();
        let mut merged = Sketch::default();
        for device in 0..40 {
            let values: Vec<f64> = (0..5_000)
                .map(|_| 1e7 + f64::from(device) * 0.1 + random.normal())
                .collect();
            let stored = Stored::from(of(&values));
            assert!(stored.kll.len() < MAX_BYTES, "{}", stored.kll.len());
            let json = serde_json::to_vec(&stored).unwrap();
            let read: Sketch = serde_json::from_slice(&json).unwrap();
            merged.merge(&read).unwrap();
            all.extend(values);
        }
        all.sort_by(f64::total_cmp);
        let n = all.len() as f64;
        let mean = all.iter().map(|v| v / n).sum::<f64>();
        let deviation = (all.iter().map(|v| (v - mean).powi(2) / n).sum::<f64>()).sqrt();
        assert_eq!(merged.count(), 200_000);
        assert!((merged.mean().unwrap() - mean).abs() < 1e-6);
        assert!((merged.deviation().unwrap() - deviation).abs() < 1e-6);
        assert_eq!(merged.range(), Some((all[0], all[all.len() - 1])));
        for level in [0.01, 0.1, 0.5, 0.9, 0.99] {
            let found = merged.quantile(level).unwrap();
            let rank = all.partition_point(|v| *v <= found) as f64 / n;
            assert!((rank - level).abs() < 0.03, "{level}: {rank}");
        }
        assert!(Stored::from(merged).kll.len() < MAX_BYTES);
    }

    #[test]
    fn what_is_no_value_costs_nothing_and_damage_is_told() {
        let sketch = of(&[1.0, f64::NAN, f64::INFINITY, 3.0, 1e200]);
        assert_eq!((sketch.count(), sketch.range()), (2, Some((1.0, 3.0))));
        assert_eq!(Sketch::default().quantile(0.5), None);
        assert_eq!(sketch.quantile(2.0), None);
        let stored = Stored::from(sketch);
        let damaged = [
            Stored {
                count: 9,
                ..stored.clone()
            },
            Stored {
                mean: f64::NAN,
                ..stored.clone()
            },
            Stored {
                kll: stored.kll[..5].to_vec(),
                ..stored.clone()
            },
            Stored {
                kll: vec![0; MAX_BYTES + 1],
                ..stored.clone()
            },
            Stored {
                kll: Vec::new(),
                ..stored
            },
        ];
        for one in damaged {
            assert!(Sketch::try_from(one.clone()).is_err(), "{one:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn damaged_bytes_are_read_or_refused(
            values in proptest::collection::vec(-1e6_f64..1e6, 0..700),
            flips in proptest::collection::vec((0_usize..6_000, 0_u8..=255), 0..4),
            cut in 0_usize..6_000,
        ) {
            let mut stored = Stored::from(of(&values));
            let length = stored.kll.len().max(1);
            for (at, byte) in flips {
                if let Some(place) = stored.kll.get_mut(at % length) {
                    *place = byte;
                }
            }
            stored.kll.truncate(if cut < 5_000 { length } else { cut % length });
            if let Ok(mut sketch) = Sketch::try_from(stored) {
                let whole = of(&[1.0, 2.0]);
                let _ = (sketch.merge(&whole), sketch.quantile(0.5), sketch.range());
            }
        }
    }
}
