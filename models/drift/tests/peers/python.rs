//! Python's random numbers: owns its Mersenne Twister and how `sample` draws from it, never a seed.

/// Python's `random.Random(seed).sample(range(n), k)`: MT19937 seeded by array, pool method.
pub(crate) struct Python {
    state: Vec<u32>,
    at: usize,
}

impl Python {
    /// As `random.Random(seed)` begins.
    pub(crate) fn seeded(seed: u32) -> Self {
        let mut s = vec![19_650_218u32];
        for i in 1..624u32 {
            let before = s[i as usize - 1];
            s.push(
                1_812_433_253u32
                    .wrapping_mul(before ^ (before >> 30))
                    .wrapping_add(i),
            );
        }
        let (mut i, mut rounds) = (1, 0);
        let mix = |s: &[u32], i: usize, factor: u32| {
            s[i] ^ (s[i - 1] ^ (s[i - 1] >> 30)).wrapping_mul(factor)
        };
        while rounds < 624 {
            s[i] = mix(&s, i, 1_664_525).wrapping_add(seed);
            i += 1;
            if i == 624 {
                s[0] = s[623];
                i = 1;
            }
            rounds += 1;
        }
        for _ in 0..623 {
            s[i] = mix(&s, i, 1_566_083_941).wrapping_sub(i as u32);
            i += 1;
            if i == 624 {
                s[0] = s[623];
                i = 1;
            }
        }
        s[0] = 0x8000_0000;
        Self { state: s, at: 624 }
    }

    fn next(&mut self) -> u32 {
        if self.at == 624 {
            for i in 0..624 {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % 624] ^ (y >> 1) ^ twist;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let r = (self.next() >> (32 - bits)) as usize;
            if r < n {
                return r;
            }
        }
    }

    /// As `sample(range(n), k)` draws.
    pub(crate) fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut pool: Vec<usize> = (0..n).collect();
        (0..k)
            .map(|i| {
                let j = self.below(n - i);
                let picked = pool[j];
                pool[j] = pool[n - i - 1];
                picked
            })
            .collect()
    }
}
