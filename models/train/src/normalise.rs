//! Instance normalisation of a window: owns the arithmetic that the ONNX graph repeats, never a model's weights.

use fieldcast_onnx::params::{DEV_FLOOR, DEV_MIN, Z_CLIP};

/// What normalising took away from each feature, to be given back to the forecast.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scale {
    /// Last observed value, `[F]`, raw units; 0 where there is none.
    pub(crate) last: Vec<f64>,
    /// Deviation in the window with its floor, `[F]`, raw units.
    pub(crate) dev: Vec<f64>,
}

/// Smallest deviation a window may have for a feature of this training deviation.
pub(crate) fn floor_of(train_dev: f64) -> f64 {
    (DEV_FLOOR * train_dev).max(DEV_MIN)
}

/// Normalises `window` (steps of `stride` values, of which the first F = `floors.len()` are features) into `z` `[T, F]`, f32 or f64.
///
/// The formulas are those of `fieldcast_onnx::params::DefaultParams`.
pub(crate) fn normalise<Z: Narrowed>(
    window: &[f64],
    stride: usize,
    floors: &[f64],
    z: &mut [Z],
    scale: &mut Scale,
) {
    let features = floors.len();
    scale.last.clear();
    scale.dev.clear();
    for (f, floor) in floors.iter().enumerate() {
        let values = || window.iter().skip(f).step_by(stride);
        let last = values().rev().copied().find(|x| !x.is_nan()).unwrap_or(0.0);
        let (mut sum, mut count) = (0.0, 0.0_f64);
        for x in values() {
            if !x.is_nan() {
                sum += x - last;
                count += 1.0;
            }
        }
        let count = count.max(1.0);
        let mean = sum / count;
        let mut square = 0.0;
        for x in values() {
            if !x.is_nan() {
                let d = x - last - mean;
                square += d * d;
            }
        }
        let dev = (square / count).sqrt().max(*floor);
        for (x, z) in values().zip(z.iter_mut().skip(f).step_by(features)) {
            *z = Z::narrowed(if x.is_nan() {
                0.0
            } else {
                ((x - last) / dev).clamp(-Z_CLIP, Z_CLIP)
            });
        }
        scale.last.push(last);
        scale.dev.push(dev);
    }
}

/// The widths in which a normalised window is wanted.
pub(crate) trait Narrowed: Copy + Into<f64> {
    /// The nearest value of this width.
    fn narrowed(z: f64) -> Self;
}

impl Narrowed for f32 {
    fn narrowed(z: f64) -> Self {
        z as f32
    }
}

impl Narrowed for f64 {
    fn narrowed(z: f64) -> Self {
        z
    }
}

/// Takes from z `[T, F]` its mean over the window, feature by feature; missing steps count as 0.
pub(crate) fn centre<Z: Narrowed>(z: &mut [Z], features: usize) {
    let steps = (z.len() / features.max(1)).max(1) as f64;
    for f in 0..features {
        let values = z.iter().skip(f).step_by(features);
        let mean = values.map(|v| (*v).into()).sum::<f64>() / steps;
        let values = z.iter_mut().skip(f).step_by(features);
        values.for_each(|v| *v = Z::narrowed((*v).into() - mean));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_centred_on_its_last_value_and_scaled_by_its_deviation() {
        let nan = f64::NAN;
        let window = [1.0, 5.0, 9.0, nan, 5.0, 9.0, 3.0, nan, 9.0];
        let mut z = [7.0_f64; 6];
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
        let mut z = vec![0.0_f32; 400];
        let mut scale = Scale::default();
        normalise(&window, 1, &[1e-9], &mut z, &mut scale);
        assert_eq!(f64::from(z[0]), Z_CLIP);
        normalise(&vec![f64::NAN; 400], 1, &[0.25], &mut z, &mut scale);
        assert!(z.iter().all(|v| *v == 0.0));
        assert_eq!((scale.last[0], scale.dev[0]), (0.0, 0.25));
    }
}
