//! ADWIN: owns an adaptive window as exponential buckets, never the values themselves.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Bucket {
    total: f64,
    variance: f64,
}

/// ADWIN (Bifet and Gavaldà 2007) with River's defaults: delta 0.002, clock 32, 5 buckets a row, shortest part 5,
/// grace 10. About 2 KB of state after a million values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adwin {
    delta: f64,
    clock: u64,
    max_buckets: usize,
    min_part: f64,
    grace: f64,
    /// Row `i` holds buckets of 2^i values, oldest first.
    rows: Vec<VecDeque<Bucket>>,
    tick: u64,
    width: f64,
    total: f64,
    variance: f64,
    fired: bool,
}

impl Default for Adwin {
    fn default() -> Self {
        Self::new(0.002)
    }
}

impl Adwin {
    /// With a confidence of one's own (0 < delta < 1; smaller is more careful).
    #[must_use]
    pub fn new(delta: f64) -> Self {
        Self {
            delta: if delta > 0.0 && delta < 1.0 {
                delta
            } else {
                0.002
            },
            clock: 32,
            max_buckets: 5,
            min_part: 5.0,
            grace: 10.0,
            rows: vec![VecDeque::new()],
            tick: 0,
            width: 0.0,
            total: 0.0,
            variance: 0.0,
            fired: false,
        }
    }

    /// Values in the window.
    #[must_use]
    pub fn width(&self) -> f64 {
        self.width
    }

    /// Mean of the window, 0 when it is empty.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.width > 0.0 {
            self.total / self.width
        } else {
            0.0
        }
    }

    /// Sum of squared deviations in the window.
    #[must_use]
    pub fn variance_sum(&self) -> f64 {
        self.variance
    }

    /// Memory of the state, its rows included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let rows = self.rows.iter().map(VecDeque::capacity).sum::<usize>();
        size_of::<Self>()
            + self.rows.capacity() * size_of::<VecDeque<Bucket>>()
            + rows * size_of::<Bucket>()
    }

    /// Takes a value; true = alarm. The window then holds what came after the change, until the next update.
    pub fn update(&mut self, x: f64) -> bool {
        if x.is_nan() || x.abs() > 1e150 {
            return false;
        }
        if self.fired {
            *self = Self::new(self.delta);
        }
        self.width += 1.0;
        if self.width > 1.0 {
            let gap = x - self.total / (self.width - 1.0);
            self.variance += (self.width - 1.0) * gap * gap / self.width;
        }
        self.total += x;
        self.rows[0].push_back(Bucket {
            total: x,
            variance: 0.0,
        });
        self.compress();
        self.tick += 1;
        self.fired =
            self.tick.is_multiple_of(self.clock) && self.width > self.grace && self.shrink();
        self.fired
    }

    fn compress(&mut self) {
        let mut row = 0;
        let mut size = 1.0;
        while self.rows[row].len() > self.max_buckets {
            let (Some(a), Some(b)) = (self.rows[row].pop_front(), self.rows[row].pop_front())
            else {
                return;
            };
            let gap = a.total / size - b.total / size;
            let variance = a.variance + b.variance + size * size * gap * gap / (size + size);
            if row + 1 == self.rows.len() {
                self.rows.push(VecDeque::new());
            }
            row += 1;
            size *= 2.0;
            self.rows[row].push_back(Bucket {
                total: a.total + b.total,
                variance,
            });
        }
    }

    /// Drops oldest buckets as long as some split of the window shows a change.
    fn shrink(&mut self) -> bool {
        let mut changed = false;
        while self.has_cut() {
            changed = true;
            self.drop_oldest();
        }
        changed
    }

    fn has_cut(&self) -> bool {
        let (mut n0, mut n1, mut u0, mut u1) = (0.0, self.width, 0.0, self.total);
        for (i, row) in self.rows.iter().enumerate().rev() {
            let size = 2f64.powi(i as i32);
            for (k, bucket) in row.iter().enumerate() {
                n0 += size;
                n1 -= size;
                u0 += bucket.total;
                u1 -= bucket.total;
                if i == 0 && k + 1 == row.len() {
                    return false;
                }
                if n0 >= self.min_part
                    && n1 >= self.min_part
                    && self.is_cut(n0, n1, u0 / n0 - u1 / n1)
                {
                    return true;
                }
            }
        }
        false
    }

    fn is_cut(&self, n0: f64, n1: f64, gap: f64) -> bool {
        let d = (2.0 * self.width.ln() / self.delta).ln();
        let m = 1.0 / (n0 - self.min_part + 1.0) + 1.0 / (n1 - self.min_part + 1.0);
        let variance = self.variance / self.width;
        gap.abs() > (2.0 * m * variance * d).sqrt() + 2.0 / 3.0 * d * m
    }

    fn drop_oldest(&mut self) {
        while self.rows.len() > 1 && self.rows.last().is_some_and(VecDeque::is_empty) {
            self.rows.pop();
        }
        let last = self.rows.len() - 1;
        let Some(bucket) = self.rows[last].pop_front() else {
            return;
        };
        let n = 2f64.powi(last as i32);
        self.width -= n;
        self.total -= bucket.total;
        if self.width > 0.0 {
            let gap = bucket.total / n - self.total / self.width;
            self.variance -= bucket.variance + n * self.width * gap * gap / (n + self.width);
        }
        if self.rows[last].is_empty() && last > 0 {
            self.rows.pop();
        }
    }
}
