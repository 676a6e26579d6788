//! Hyperbolic tangent and logistic function in f32: owns their approximation, never a layer.

/// An odd function as `x p(x^2) / q(x^2)`.
pub(crate) struct Rational {
    /// Beyond this x the function is taken as constant.
    pub(crate) limit: f32,
    /// Coefficients over x^6, x^4 .. of the numerator divided by x.
    pub(crate) p: [f32; 4],
    /// Coefficients over x^8, x^6 .. of the denominator.
    pub(crate) q: [f32; 5],
}

/// tanh(x): the fraction of these degrees whose largest relative error up to `limit` is least, 1.2e-7 before rounding.
pub(crate) const TANH: Rational = Rational {
    limit: 7.8,
    p: [
        1.163_556_95e-5,
        2.969_874_3e-3,
        1.294_310_1e-1,
        9.999_999e-1,
    ],
    q: [
        2.526_190_3e-7,
        2.413_525_8e-4,
        2.389_233_6e-2,
        4.627_634e-1,
        1.0,
    ],
};

/// tanh(x / 2) / 2, which is the logistic function less a half: the same to the last bit, as only powers of two differ.
pub(crate) const LOGISTIC: Rational = TANH.halved();

impl Rational {
    /// f(x / 2) / 2
    const fn halved(self) -> Self {
        let Self { limit, p, q } = self;
        Self {
            limit: 2.0 * limit,
            p: [p[0] / 256.0, p[1] / 64.0, p[2] / 16.0, p[3] / 4.0],
            q: [q[0] / 256.0, q[1] / 64.0, q[2] / 16.0, q[3] / 4.0, q[4]],
        }
    }

    #[inline]
    fn at(&self, x: f32) -> f32 {
        let x = x.clamp(-self.limit, self.limit);
        let s = x * x;
        let horner = |c: &[f32]| c.iter().fold(0.0, |sum, c| sum * s + c);
        let (p, q) = (horner(&self.p), horner(&self.q));
        x * p / q
    }
}

/// tanh by a 7/8 rational function: within 5e-7 of the true value, and, unlike the libm call, it vectorises.
#[inline]
#[must_use]
pub fn tanh(x: f32) -> f32 {
    TANH.at(x)
}

/// 1 / (1 + e^-x), as [`tanh`] of half of it.
#[inline]
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    LOGISTIC.at(x) + 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_follow_the_exact_functions() {
        let mut worst = [0.0_f64; 2];
        for i in -40_000..=40_000 {
            let x = i as f32 * 5e-4;
            let wide = f64::from(x);
            worst[0] = worst[0].max((f64::from(tanh(x)) - wide.tanh()).abs());
            worst[1] = worst[1].max((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-wide).exp())).abs());
        }
        assert!(worst[0] < 5e-7 && worst[1] < 3e-7, "{worst:?}");
    }

    #[test]
    fn extremes_saturate_and_nan_stays_visible() {
        assert_eq!(tanh(f32::INFINITY), tanh(8.0));
        assert!((tanh(f32::MAX) - 1.0).abs() < 1e-6 && sigmoid(f32::NEG_INFINITY).abs() < 1e-6);
        assert!(tanh(f32::NAN).is_nan());
    }
}
