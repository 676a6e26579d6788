//! The seeded random numbers of training: owns the generator, never reads entropy or a clock.

/// xoshiro256++ (Blackman and Vigna, 2019), seeded through splitmix64.
///
/// Same seed, same numbers, on every machine: initial weights and batch orders are part of a
/// model's lineage. Not for secrets.
#[derive(Debug, Clone)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// A generator whose whole sequence follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut x = seed;
        let state = std::array::from_fn(|_| splitmix64(&mut x));
        Self { state }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, 1), with 24 random bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [0, `n`); 0 for an empty range.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// `len` values, uniform in [-`bound`, `bound`).
    pub fn symmetric(&mut self, len: usize, bound: f32) -> Vec<f32> {
        (0..len)
            .map(|_| (2.0 * self.uniform() - 1.0) * bound)
            .collect()
    }

    /// Standard normal (Box-Muller, the cosine branch).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.uniform()).cos()
    }

    /// Fisher-Yates: every order equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

fn splitmix64(x: &mut u64) -> u64 {
    *x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *x;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_equals_its_published_sequence() {
        let mut x = 1_234_567;
        assert_eq!(splitmix64(&mut x), 6_457_827_717_110_365_317);
        assert_eq!(splitmix64(&mut x), 3_203_168_211_198_807_973);
    }

    #[test]
    fn same_seed_same_numbers_and_other_seed_others() {
        let take = |seed| {
            let mut rng = Rng::new(seed);
            (0..8).map(|_| rng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut rng = Rng::new(1);
        let n = 100_000;
        let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
        let uniform: Vec<f32> = (0..n).map(|_| rng.uniform()).collect();
        assert!((mean(&uniform) - 0.5).abs() < 0.005);
        let normal: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
        assert!(mean(&normal).abs() < 0.02);
        let square: Vec<f32> = normal.iter().map(|x| x * x).collect();
        assert!((mean(&square) - 1.0).abs() < 0.02);
    }

    #[test]
    fn shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..100).collect();
        Rng::new(3).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
