//! Seasons by the clock: owns which hours are alike, learnt from the distance and span of times, never what was measured in them.

use super::whiten::Grid;

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;
const WEEK: i64 = 7 * DAY;
/// Weeks a reference must span before the hours of the week are compared: fewer know too little of 168 means.
const WEEKS: i64 = 12;

/// Which rows are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Season {
    /// In words; none where every row is like every other.
    pub name: Option<String>,
    step: i64,
    length: i64,
    slots: i64,
}

impl Season {
    /// By ascending times (ms UTC) of a reference: hours of the week from twelve weeks on, else hours of the day; weekdays
    /// of daily rows. `rows` names the length of a season instead. None without two different times.
    #[must_use]
    pub fn of(times: &[i64], rows: Option<usize>) -> Option<Self> {
        let step = step(times)?;
        let span = times.last()? - times.first()?;
        let named = |name: &str, length, slots| Self {
            name: Some(name.to_owned()),
            step,
            length,
            slots,
        };
        Some(if let Some(rows) = rows {
            let slots = i64::try_from(rows).unwrap_or(i64::MAX);
            named(&format!("{rows} rows"), slots.saturating_mul(step), slots)
        } else if step < DAY && span >= WEEKS * WEEK {
            named("hours of the week", WEEK, 7 * (DAY / step).clamp(1, 24))
        } else if step < DAY {
            named("hours of the day", DAY, (DAY / step).clamp(1, 96))
        } else if step == DAY {
            named("days of the week", WEEK, 7)
        } else {
            Self {
                name: None,
                step,
                length: 1,
                slots: 0,
            }
        })
    }

    /// Where rows at ascending times stand.
    #[must_use]
    pub fn grid(&self, times: &[i64]) -> Grid {
        let slot = |time: &i64| {
            // Half a step of grace, so that times that tremble stay in their slot.
            let phase = (time + self.step / 2).rem_euclid(self.length);
            (i128::from(phase) * i128::from(self.slots) / i128::from(self.length)) as usize
        };
        Grid {
            slots: if self.slots > 1 {
                times.iter().map(slot).collect()
            } else {
                Vec::new()
            },
            breaks: (1..times.len())
                .filter(|i| {
                    let gap = times[*i] - times[i - 1];
                    2 * gap > 3 * self.step || 2 * gap < self.step
                })
                .collect(),
        }
    }
}

/// The usual distance of two rows.
fn step(times: &[i64]) -> Option<i64> {
    let mut gaps: Vec<i64> = times
        .windows(2)
        .map(|w| w[1] - w[0])
        .filter(|g| *g > 0)
        .collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied()
}
