//! Random numbers: owns the seeded stream behind every generated value, never the operating system's entropy.

/// `SplitMix64` (Steele, Lea, Flood 2014): small, and the same on every machine for ever.
#[derive(Debug, Clone)]
pub struct Stream {
    state: u64,
    spare: Option<f64>,
}

impl Stream {
    /// A stream of its own for each (seed, purpose).
    #[must_use]
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut stream = Self {
            state: seed ^ purpose.wrapping_mul(0xA076_1D64_78BD_642F),
            spare: None,
        };
        // Neighbouring seeds differ in few bits: one step spreads them before the first use.
        stream.state = stream.next_u64();
        stream
    }

    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1): never 0, so that its logarithm is finite.
    pub fn uniform(&mut self) -> f64 {
        #[allow(
            clippy::cast_precision_loss,
            reason = "53 bits are exactly what an f64 holds"
        )]
        let mantissa = (self.next_u64() >> 11) as f64;
        (mantissa + 0.5) / 9_007_199_254_740_992.0
    }

    /// Standard normal (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}

/// First-order autoregression with a stated stationary deviation; starts in its stationary state.
#[derive(Debug, Clone)]
pub(crate) struct Persistent {
    stream: Stream,
    keep: f64,
    kick: f64,
    value: f64,
}

impl Persistent {
    /// `memory`: steps until a deviation has faded to 1/e; `deviation`: stationary standard deviation.
    pub(crate) fn new(mut stream: Stream, memory: f64, deviation: f64) -> Self {
        let keep = (-1.0 / memory).exp();
        let value = deviation * stream.normal();
        Self {
            stream,
            keep,
            kick: deviation * (1.0 - keep * keep).sqrt(),
            value,
        }
    }

    pub(crate) fn step(&mut self) -> f64 {
        self.value = self.keep * self.value + self.kick * self.stream.normal();
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_have_mean_zero_and_deviation_one() {
        let mut stream = Stream::new(7, 1);
        let draws: Vec<f64> = (0..100_000).map(|_| stream.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let var = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(
            mean.abs() < 0.015 && (var - 1.0).abs() < 0.03,
            "mean {mean}, variance {var}"
        );
    }

    #[test]
    fn purposes_of_one_seed_differ() {
        assert_ne!(Stream::new(7, 1).next_u64(), Stream::new(7, 2).next_u64());
    }

    #[test]
    fn persistent_noise_keeps_its_stated_deviation() {
        let mut noise = Persistent::new(Stream::new(3, 9), 10.0, 2.0);
        let n = 200_000;
        let square = (0..n).map(|_| noise.step().powi(2)).sum::<f64>() / f64::from(n);
        assert!(
            (square.sqrt() - 2.0).abs() < 0.1,
            "deviation {}",
            square.sqrt()
        );
    }
}
