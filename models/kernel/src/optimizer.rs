//! Adam and gradient clipping: owns the optimiser's moments, never a layer.

use pulp::Arch;

/// First and second moment of a tensor's gradient.
pub type Moments = (Vec<f32>, Vec<f32>);

/// A tensor, its gradient, and whether weight decay applies to it.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// What is learnt.
    pub value: &'a mut [f32],
    /// The loss's derivative by it.
    pub grad: &'a mut [f32],
    /// False for biases.
    pub decays: bool,
}

/// Adam's settings; the defaults are PyTorch's, without decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    /// Step size.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Floor under the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay (AdamW: Loshchilov and Hutter, 2019); 0 is plain Adam.
    pub weight_decay: f32,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// Adam (Kingma and Ba, 2015), optionally with decoupled weight decay.
///
/// The tensors of each [`Adam::step`] must come in the same order and shapes as in the first one.
#[derive(Debug, Clone)]
pub struct Adam {
    /// Settings; the learning rate may change between steps.
    pub config: AdamConfig,
    steps: i32,
    moments: Vec<Moments>,
}

impl Adam {
    /// An optimiser that has seen no gradient.
    #[must_use]
    pub fn new(config: AdamConfig) -> Self {
        Self {
            config,
            steps: 0,
            moments: Vec::new(),
        }
    }

    /// Steps taken, and first and second moments tensor by tensor: what a checkpoint keeps.
    #[must_use]
    pub fn state(&self) -> (i32, &[Moments]) {
        (self.steps, &self.moments)
    }

    /// Goes on from a kept [`Self::state`].
    pub fn restore(&mut self, steps: i32, moments: Vec<Moments>) {
        (self.steps, self.moments) = (steps, moments);
    }

    /// Moves every tensor one step against its gradient.
    pub fn step(&mut self, parameters: &mut [Parameter<'_>]) {
        let AdamConfig {
            learning_rate,
            beta1,
            beta2,
            epsilon,
            weight_decay,
        } = self.config;
        self.steps = self.steps.saturating_add(1);
        let rate = learning_rate / (1.0 - beta1.powi(self.steps));
        let root = 1.0 / (1.0 - beta2.powi(self.steps)).sqrt();
        self.moments
            .resize_with(parameters.len(), || (Vec::new(), Vec::new()));
        for (parameter, (first, second)) in parameters.iter_mut().zip(&mut self.moments) {
            first.resize(parameter.value.len(), 0.0);
            second.resize(parameter.value.len(), 0.0);
            let keep = if parameter.decays {
                1.0 - learning_rate * weight_decay
            } else {
                1.0
            };
            let moments = first.iter_mut().zip(second.iter_mut());
            let tensors = parameter.value.iter_mut().zip(parameter.grad.iter());
            Arch::new().dispatch(|| {
                for ((p, g), (m, v)) in tensors.zip(moments) {
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    *p = *p * keep - rate * *m / (v.sqrt() * root + epsilon);
                }
            });
        }
    }
}

/// Scales all gradients together so that their common Euclidean norm is at most `limit`; returns the norm before.
///
/// A norm that is not finite is returned and the gradients stay as they are: the caller must not step.
pub fn clip_global_norm(parameters: &mut [Parameter<'_>], limit: f32) -> f32 {
    let square: f64 = parameters
        .iter()
        .flat_map(|p| p.grad.iter())
        .map(|g| f64::from(*g) * f64::from(*g))
        .sum();
    let norm = square.sqrt() as f32;
    if norm.is_finite() && norm > limit {
        let scale = limit / norm;
        for g in parameters.iter_mut().flat_map(|p| p.grad.iter_mut()) {
            *g *= scale;
        }
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter<'a>(value: &'a mut [f32], grad: &'a mut [f32]) -> Parameter<'a> {
        Parameter {
            value,
            grad,
            decays: true,
        }
    }

    #[test]
    fn first_steps_follow_the_paper() {
        let mut adam = Adam::new(AdamConfig {
            learning_rate: 0.1,
            ..AdamConfig::default()
        });
        let mut value = [1.0];
        adam.step(&mut [parameter(&mut value, &mut [0.5])]);
        assert!((value[0] - 0.9).abs() < 1e-6);
        // m = .9*.05 + .1*(-1) = -.055, v = .999*.00025 + .001 = .00124975; corrected by 1-.81 and 1-.998001
        adam.step(&mut [parameter(&mut value, &mut [-1.0])]);
        let expected = 0.9 + 0.1 * (0.055 / 0.19) / (0.001_249_75_f32 / 0.001_999).sqrt();
        assert!(
            (value[0] - expected).abs() < 1e-5,
            "{} {expected}",
            value[0]
        );
    }

    #[test]
    fn decay_is_decoupled_from_the_gradient() {
        let config = AdamConfig {
            learning_rate: 0.1,
            weight_decay: 0.5,
            ..AdamConfig::default()
        };
        let (mut decaying, mut bias) = ([2.0], [2.0]);
        Adam::new(config).step(&mut [
            parameter(&mut decaying, &mut [0.0]),
            Parameter {
                value: &mut bias,
                grad: &mut [0.0],
                decays: false,
            },
        ]);
        assert!((decaying[0] - 1.9).abs() < 1e-6);
        assert_eq!(bias[0], 2.0);
    }

    #[test]
    fn a_parabola_is_descended() {
        let mut adam = Adam::new(AdamConfig {
            learning_rate: 0.05,
            ..AdamConfig::default()
        });
        let mut value = [3.0, -2.0];
        for _ in 0..500 {
            let mut grad = value.map(|v| 2.0 * (v - 1.0));
            adam.step(&mut [parameter(&mut value, &mut grad)]);
        }
        assert!(value.iter().all(|v| (v - 1.0).abs() < 1e-2), "{value:?}");
    }

    #[test]
    fn clipping_keeps_the_direction_and_reports_the_norm() {
        let (mut a, mut b) = ([3.0], [4.0]);
        let (mut v, mut w) = ([0.0], [0.0]);
        let norm = clip_global_norm(
            &mut [parameter(&mut v, &mut a), parameter(&mut w, &mut b)],
            1.0,
        );
        assert!((norm - 5.0).abs() < 1e-6);
        assert!((a[0] - 0.6).abs() < 1e-6 && (b[0] - 0.8).abs() < 1e-6);
        assert!(clip_global_norm(&mut [parameter(&mut v, &mut [f32::NAN])], 1.0).is_nan());
    }
}
