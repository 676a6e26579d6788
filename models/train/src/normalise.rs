//! Instance normalisation of a window: owns the arithmetic that the ONNX graph repeats, never a model's weights.

use fieldcast_onnx::params::{DEV_FLOOR, DEV_MIN, Z_CLIP};

/// What normalising took away from each feature, to be given back to the forecast.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scale {
    /// Last observed value, `[F]`, raw units; 0 where there is none.
    pub(crate) last: Vec<f64>,
    /// Deviation in the window with its floor, `[F]`, raw units.
    pub(crate) dev: Vec<f32>,
}

/// Smallest deviation a window may have for a feature of this training deviation.
pub(crate) fn floor_of(train_dev: f64) -> f32 {
    ((DEV_FLOOR * train_dev) as f32).max(DEV_MIN)
}

/// Normalises `window` (steps of `stride` values, of which the first F = `floors.len()` are features) into `z` `[T, F]`.
///
/// The formulas are those of `fieldcast_onnx::params::DefaultParams`.
pub(crate) fn normalise(
    window: &[f64],
    stride: usize,
    floors: &[f32],
    z: &mut [f32],
    scale: &mut Scale,
) {
    let features = floors.len();
    scale.last.clear();
    scale.dev.clear();
    for (f, floor) in floors.iter().enumerate() {
        let values = || window.iter().skip(f).step_by(stride);
        let last = values().rev().copied().find(|x| !x.is_nan()).unwrap_or(0.0);
        let (mut sum, mut count) = (0.0_f32, 0.0_f32);
        for x in values() {
            if !x.is_nan() {
                sum += (x - last) as f32;
                count += 1.0;
            }
        }
        let count = count.max(1.0);
        let mean = sum / count;
        let mut square = 0.0_f32;
        for x in values() {
            if !x.is_nan() {
                let d = (x - last) as f32 - mean;
                square += d * d;
            }
        }
        let dev = (square / count).sqrt().max(*floor);
        for (x, z) in values().zip(z.iter_mut().skip(f).step_by(features)) {
            *z = if x.is_nan() {
                0.0
            } else {
                ((x - last) as f32 / dev).clamp(-Z_CLIP, Z_CLIP)
            };
        }
        scale.last.push(last);
        scale.dev.push(dev);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_centred_on_its_last_value_and_scaled_by_its_deviation() {
        let nan = f64::NAN;
        let window = [1.0, 5.0, 9.0, nan, 5.0, 9.0, 3.0, nan, 9.0];
        let mut z = [7.0; 6];
        let mut scale = Scale::default();
        normalise(&window, 3, &[1e-9, 0.5], &mut z, &mut scale);
        assert_eq!(scale.last, [3.0, 5.0]);
        assert_eq!(scale.dev, [1.0, 0.5]);
        assert_eq!(z, [-2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn outliers_are_clipped_and_an_empty_feature_is_zero() {
        let mut window = vec![0.0; 400];
        window[0] = 1e6;
        let mut z = vec![0.0; 400];
        let mut scale = Scale::default();
        normalise(&window, 1, &[1e-9], &mut z, &mut scale);
        assert_eq!(z[0], Z_CLIP);
        normalise(&vec![f64::NAN; 400], 1, &[0.25], &mut z, &mut scale);
        assert!(z.iter().all(|v| *v == 0.0));
        assert_eq!((scale.last[0], scale.dev[0]), (0.0, 0.25));
    }
}
