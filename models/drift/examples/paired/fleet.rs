//! Two models' losses on a fleet: owns how errors are made, never a test.
//!
//! An error is a sum of autoregressions of weight 0.9: shocks that both models share and shocks of one model, each both of
//! the whole fleet and of a device; its deviation has a daily season. Forecasts are made each step, 24 steps ahead, and a
//! block holds those of 24 origins, as devices send them: neighbouring blocks share actual values.

use std::f64::consts::{PI, TAU};

use fieldcast_drift::paired::Row;
use fieldcast_drift::special::gamma_q;

use crate::splitmix::Random;

/// Steps of a season, of the horizon and of a block.
pub(crate) const DAY: usize = 24;
pub(crate) const BLOCK_MS: i64 = 86_400_000;
/// Weight of an error's past.
const PAST: f64 = 0.9;
/// Bias of a model in deviations, in daylight.
const BIAS: f64 = 0.6;
/// How much the deviation of heavy errors varies, as a logarithm.
const HEAVY: f64 = 0.6;

/// Two different models of equal expected loss, champion first.
#[derive(Clone, Copy)]
pub(crate) enum Pair {
    /// The same but for their own shocks, 30 % of the variance.
    Alike,
    /// As these, 10 % of the variance.
    Close,
    /// One is biased by day, the other noisier at night.
    DayNight,
    /// The other way round.
    NightDay,
    /// The challenger's errors have heavy tails: mostly smaller, seldom much larger.
    Heavy,
    /// The champion's have.
    Light,
}

impl Pair {
    pub(crate) const ALL: [Self; 6] = [
        Self::Alike,
        Self::Close,
        Self::DayNight,
        Self::NightDay,
        Self::Heavy,
        Self::Light,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Alike => "alike",
            Self::Close => "close",
            Self::DayNight => "day_night",
            Self::NightDay => "night_day",
            Self::Heavy => "heavy",
            Self::Light => "light",
        }
    }

    fn own(self) -> f64 {
        if matches!(self, Self::Alike) {
            0.3
        } else {
            0.1
        }
    }

    fn shapes(self) -> [Shape; 2] {
        match self {
            Self::Alike | Self::Close => [Shape::Plain; 2],
            Self::DayNight => [Shape::Biased, Shape::Noisy(noise())],
            Self::NightDay => [Shape::Noisy(noise()), Shape::Biased],
            Self::Heavy => [Shape::Plain, Shape::Heavy],
            Self::Light => [Shape::Heavy, Shape::Plain],
        }
    }
}

#[derive(Clone, Copy)]
enum Shape {
    Plain,
    Biased,
    Noisy(f64),
    Heavy,
}

fn daylight(hour: usize) -> bool {
    (6..18).contains(&hour)
}

fn deviation(hour: usize) -> f64 {
    1.0 + 0.5 * (TAU * hour as f64 / DAY as f64).sin()
}

/// Mean absolute value of a unit normal shifted by `bias`.
fn folded(bias: f64) -> f64 {
    let inside = 1.0 - gamma_q(0.5, bias * bias / 2.0);
    (2.0 / PI).sqrt() * (-bias * bias / 2.0).exp() + bias * inside
}

/// The factor on the nights' errors that makes a day's loss that of a model biased by day.
fn noise() -> f64 {
    let of = |day: bool| {
        (0..DAY)
            .filter(|h| daylight(*h) == day)
            .map(deviation)
            .sum::<f64>()
    };
    let plain = folded(0.0);
    1.0 + of(true) * (folded(BIAS) - plain) / (of(false) * plain)
}

/// A fleet that two models run on.
#[derive(Clone, Copy)]
pub(crate) struct Fleet {
    pub(crate) pair: Pair,
    pub(crate) devices: usize,
    /// The challenger's expected loss over the champion's.
    pub(crate) factor: f64,
}

/// Unit autoregressions.
struct Shocks(Vec<f64>);

impl Shocks {
    fn new(steps: usize, random: &mut Random) -> Self {
        let fresh = (1.0 - PAST * PAST).sqrt();
        let mut x = random.normal();
        Self(
            (0..steps)
                .map(|_| {
                    x = PAST * x + fresh * random.normal();
                    x
                })
                .collect(),
        )
    }
}

/// What all devices share of a model's errors, and their volatility.
struct Common {
    both: Shocks,
    own: [Shocks; 2],
    /// Of heavy errors only.
    volatility: Option<Shocks>,
}

impl Common {
    fn new(steps: usize, heavy: bool, random: &mut Random) -> Self {
        Self {
            both: Shocks::new(steps, random),
            own: [Shocks::new(steps, random), Shocks::new(steps, random)],
            volatility: heavy.then(|| Shocks::new(steps, random)),
        }
    }
}

impl Fleet {
    /// What a device's errors are multiplied by.
    pub(crate) fn level(device: usize) -> f64 {
        1.0 + (device % 7) as f64
    }

    /// The difference of mean losses at level 1, champion's less challenger's.
    pub(crate) fn expected_gain(&self) -> f64 {
        let level: f64 = (0..DAY).map(deviation).sum::<f64>() / DAY as f64;
        let shape = |hour| {
            if daylight(hour) {
                folded(BIAS)
            } else {
                folded(0.0)
            }
        };
        let biased = (0..DAY).map(|h| deviation(h) * shape(h)).sum::<f64>() / DAY as f64;
        let loss = match self.pair {
            Pair::DayNight | Pair::NightDay => biased,
            _ => level * folded(0.0),
        };
        loss * (1.0 - self.factor)
    }

    /// What its devices report over so many blocks.
    pub(crate) fn rows(&self, seed: u64, blocks: usize) -> Vec<Row<usize>> {
        self.made(seed, blocks, |_, _| {})
    }

    /// The same; each device's level is shown with the champion's and the challenger's losses by time.
    pub(crate) fn made(
        &self,
        seed: u64,
        blocks: usize,
        mut show: impl FnMut(f64, &[Vec<f64>; 2]),
    ) -> Vec<Row<usize>> {
        let mut random = Random(seed.wrapping_mul(0x9E6C_63D0_876A_3F6B));
        let steps = (blocks + 1) * DAY;
        let heavy = matches!(self.pair, Pair::Heavy | Pair::Light);
        let shared = Common::new(steps, heavy, &mut random);
        let mut rows = Vec::with_capacity(blocks * self.devices);
        for device in 0..self.devices {
            let alone = Common::new(steps, heavy, &mut random);
            let level = Self::level(device);
            let mut losses = [0, 1].map(|model| self.losses(model, level, &shared, &alone));
            for loss in &mut losses[1] {
                *loss *= self.factor;
            }
            show(level, &losses);
            for block in 0..blocks {
                rows.push(Row {
                    from_ms: block as i64 * BLOCK_MS,
                    device,
                    running: mean(&losses[0], block),
                    watching: mean(&losses[1], block),
                    steps: (DAY * DAY) as u32,
                });
            }
        }
        rows
    }

    fn losses(&self, model: usize, level: f64, shared: &Common, alone: &Common) -> Vec<f64> {
        let (shape, own) = (self.pair.shapes()[model], self.pair.own());
        let weights = [((1.0 - own) / 2.0).sqrt(), (own / 2.0).sqrt()];
        let at = |t: usize| {
            let both = shared.both.0[t] + alone.both.0[t];
            let e =
                weights[0] * both + weights[1] * (shared.own[model].0[t] + alone.own[model].0[t]);
            let hour = t % DAY;
            let e = match shape {
                Shape::Plain => e,
                Shape::Biased if daylight(hour) => e + BIAS,
                Shape::Noisy(factor) if !daylight(hour) => e * factor,
                Shape::Biased | Shape::Noisy(_) => e,
                Shape::Heavy => {
                    let part = |c: &Common| c.volatility.as_ref().map_or(0.0, |v| v.0[t]);
                    let v = (part(shared) + part(alone)) / 2f64.sqrt();
                    e * (HEAVY * v - HEAVY * HEAVY / 2.0).exp()
                }
            };
            level * deviation(hour) * e.abs()
        };
        (0..shared.both.0.len()).map(at).collect()
    }
}

/// Mean loss of all forecasts whose origin is in the block: step `h` of origin `o` speaks of `o + h`.
fn mean(losses: &[f64], block: usize) -> f64 {
    let from = block * DAY;
    let weighted = (1..2 * DAY).map(|k| {
        let times = k.min(2 * DAY - k) as f64;
        times * losses.get(from + k).copied().unwrap_or(0.0)
    });
    weighted.sum::<f64>() / (DAY * DAY) as f64
}
