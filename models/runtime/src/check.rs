//! Fused kernels against plain tract: owns the windows that both must answer alike, never which of them runs.

use fieldcast_bundle::GoldenVector;
use fieldcast_features::ForecasterSpec;
use fieldcast_kernel::Rng;
use fieldcast_onnx::{DefaultParams, EnsembleParams, ModelParams, Shape};

use crate::Prediction;
use crate::fused::Fused;
use crate::plain::Plain;

/// Two engines are equal where they differ by no more than this x (|value| + training deviation).
pub const EQUAL: f64 = 1e-5;
/// Made-up windows that are run beside the golden vectors.
const WINDOWS: usize = 160;

/// Why the fused kernels may not run a model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CheckError {
    /// The file is not one that the kernels know.
    #[error(transparent)]
    NotOurs(#[from] fieldcast_onnx::NotOurs),
    /// The file's sizes are not the forecaster's.
    #[error(
        "checking the fused kernels: the graph is for {found:?}, the forecaster calls for {expected:?}; build the graph with this forecaster"
    )]
    Shape {
        /// Sizes of the graph.
        found: Shape,
        /// Sizes of the forecaster.
        expected: Shape,
    },
    /// tract does not run it.
    #[error("checking the fused kernels: tract says: {0}; build the graph again with this version")]
    Plain(String),
    /// They compute different numbers.
    #[error(
        "checking the fused kernels: output {at} of window {window} is {fused}, tract computes {plain}, {allowed} apart is allowed; report this machine's CPU"
    )]
    Differs {
        /// Which window, golden vectors first, from 0.
        window: usize,
        /// Position among mean and quantiles, from 0.
        at: usize,
        /// By the fused kernels.
        fused: f64,
        /// By tract.
        plain: f64,
        /// Largest difference allowed.
        allowed: f64,
    },
}

/// How far two engines that agree were apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Windows that both have run.
    pub windows: usize,
    /// Largest difference, in units of |value| + training deviation.
    pub worst: f64,
}

/// Runs a model's golden vectors and made-up windows with gaps, jumps, spikes and offsets through the fused kernels and through
/// plain tract. `train_dev` is the target's training deviation, where it is known better than from the graph.
///
/// # Errors
/// The model is not one that the kernels know, does not run, or comes out differently.
pub fn compare(
    onnx: &[u8],
    spec: &ForecasterSpec,
    train_dev: Option<f64>,
    golden: &[GoldenVector],
) -> Result<Agreement, CheckError> {
    let (params, shape) = recognise(onnx, spec)?;
    let fused = Fused::new(&params);
    let plain = Plain::load(onnx, shape).map_err(CheckError::Plain)?;
    let train_dev = train_dev.unwrap_or_else(|| ranges(&params).1);
    let kept = golden.iter().map(|g| (g.window.clone(), g.future.clone()));
    let mut worst = 0.0_f64;
    let (mut ours, mut theirs) = (Prediction::default(), Prediction::default());
    let made_up = Windows::new(&params, golden.first().map(|g| &g.window[..]));
    let mut count = 0;
    for (window, (values, future)) in kept.chain(made_up.take(WINDOWS)).enumerate() {
        if values.len() != shape.lookback * shape.inputs
            || future.len() != shape.horizon * shape.future_width
        {
            return Err(CheckError::Plain(format!(
                "golden vector {window} is of another size"
            )));
        }
        fused.run(&values, &future, &mut ours);
        let ran = plain.run(&values, &future, &mut theirs);
        ran.map_err(CheckError::Plain)?;
        let apart = apart(&ours, &theirs, train_dev);
        worst = worst.max(apart.map_err(|(at, fused, plain)| CheckError::Differs {
            window,
            at,
            fused,
            plain,
            allowed: EQUAL * (plain.abs() + train_dev),
        })?);
        count += 1;
    }
    Ok(Agreement {
        windows: count,
        worst,
    })
}

/// The parameters of a graph that the fused kernels know and that fits the forecaster.
pub(crate) fn recognise(
    onnx: &[u8],
    spec: &ForecasterSpec,
) -> Result<(ModelParams, Shape), CheckError> {
    let params = fieldcast_onnx::read(onnx)?;
    let (found, expected) = (params.shape(), crate::shape(spec));
    if found != expected {
        return Err(CheckError::Shape { found, expected });
    }
    Ok((params, found))
}

/// Largest difference in units of |value| + training deviation, or the first that is too large.
fn apart(ours: &Prediction, theirs: &Prediction, train_dev: f64) -> Result<f64, (usize, f64, f64)> {
    let values = |p: &Prediction| [&p.mean[..], &p.quantiles[..]].concat();
    let (ours, theirs) = (values(ours), values(theirs));
    let mut worst = 0.0_f64;
    if ours.len() != theirs.len() {
        return Err((theirs.len(), f64::NAN, f64::NAN));
    }
    for (at, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        // What neither can compute is no forecast, whatever it is.
        if !a.is_finite() && !b.is_finite() {
            continue;
        }
        let allowed = EQUAL * (b.abs() + train_dev);
        let difference = (a - b).abs();
        let equal = difference <= allowed;
        if !equal {
            return Err((at, *a, *b));
        }
        if difference > 0.0 {
            worst = worst.max(difference / allowed * EQUAL);
        }
    }
    Ok(worst)
}

/// Centre and scale of each input, and the target's deviation, as far as the parameters know them.
fn ranges(params: &ModelParams) -> (Vec<(f64, f64)>, f64) {
    match params {
        ModelParams::Classic(p) => {
            let inputs = p.x_min.iter().zip(&p.x_max);
            let inputs = inputs.map(|(low, high)| (0.5 * (low + high), 0.25 * (high - low)));
            (inputs.collect(), 0.1 * (p.y_max - p.y_min))
        }
        ModelParams::Default(DefaultParams {
            train_dev,
            target_input,
            ..
        })
        | ModelParams::Ensemble(EnsembleParams {
            train_dev,
            target_input,
            ..
        }) => {
            let target = train_dev.get(*target_input).copied();
            let inputs = train_dev.iter().map(|dev| (3.0 * dev, *dev));
            (inputs.collect(), target.unwrap_or_default())
        }
        // It only copies.
        ModelParams::SeasonalNaive(p) => (vec![(10.0, 1.0); p.inputs], 1.0),
    }
}

/// Windows of eight kinds in turn, the same for the same model.
struct Windows {
    rng: Rng,
    shape: Shape,
    /// Centre and scale of each input.
    inputs: Vec<(f64, f64)>,
    made: usize,
}

impl Windows {
    /// `near` is a real window: its values are where the made-up ones lie.
    fn new(params: &ModelParams, near: Option<&[f64]>) -> Self {
        let mut inputs = ranges(params).0;
        let features = inputs.len();
        for (f, (centre, _)) in inputs.iter_mut().enumerate() {
            let column = near.into_iter().flatten().skip(f).step_by(features.max(1));
            if let Some(value) = column.copied().find(|v| v.is_finite()) {
                *centre = value;
            }
        }
        Self {
            rng: Rng::new(23),
            shape: params.shape(),
            inputs,
            made: 0,
        }
    }

    fn noise(&mut self, n: usize) -> Vec<f64> {
        let noise = self.rng.symmetric(n, 1.0);
        noise.into_iter().map(f64::from).collect()
    }
}

impl Iterator for Windows {
    type Item = (Vec<f64>, Vec<f64>);

    fn next(&mut self) -> Option<Self::Item> {
        let Shape {
            lookback, inputs, ..
        } = self.shape;
        let noise = self.noise(lookback * inputs);
        let luck = self.noise(lookback * inputs);
        let mut values = Vec::with_capacity(noise.len());
        for (i, (noise, luck)) in noise.into_iter().zip(luck).enumerate() {
            let (row, feature) = (i / inputs, i % inputs);
            let (centre, scale) = self.inputs[feature];
            let plain = centre + scale * noise;
            values.push(match self.made % 8 {
                // A third is missing.
                1 if luck > 0.33 => f64::NAN,
                2 => centre,
                3 => plain + 1e7,
                // An input that never came.
                4 if feature == 0 => f64::NAN,
                // A jump of many deviations, then silence.
                5 if row + 3 >= lookback && row > 0 => f64::NAN,
                5 if row < lookback / 2 => plain - 40.0 * scale,
                5 => plain + 40.0 * scale,
                6 if luck > 0.95 => plain + 1e6 * scale,
                7 => centre + 1e-6 * scale * noise,
                _ => plain,
            });
        }
        self.made += 1;
        let future = self.noise(self.shape.horizon * self.shape.future_width);
        Some((values, future))
    }
}
