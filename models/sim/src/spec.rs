//! What is generated: owns the specification, its validation and the rows that follow from it; never a file or a clock.

use fieldcast_features::Millis;

use crate::demand::DemandSource;
use crate::weather::WeatherSource;

/// One hour.
pub const HOUR_MS: Millis = 3_600_000;
/// One day.
pub const DAY_MS: Millis = 86_400_000;

/// Hours generated and thrown away before the first row, so that nothing remembers an arbitrary start.
const WARM_UP_HOURS: i64 = 7 * 24;

/// Distance of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// A row each hour, of that hour.
    Hour,
    /// A row each day at its end: means of the 24 hours before it.
    Day,
}

/// A fleet to generate. The same specification gives the same rows on every machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimSpec {
    /// Decides all that is random.
    pub seed: u64,
    /// Midnight UTC of the first day.
    pub start: Millis,
    /// Days generated, 1 to 36 500.
    pub days: u32,
    /// Distance of rows.
    pub period: Period,
    /// Devices, 1 to 100 000.
    pub devices: u32,
    /// Days (counted from 0, ascending) from which the relation between weather and demand is another; empty for a control.
    pub changes: Vec<u32>,
}

/// Why a specification cannot be generated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("simulate: `{field}` {problem}")]
pub struct SimError {
    /// The field that is wrong.
    pub field: &'static str,
    /// What is allowed.
    pub problem: String,
}

/// One row of one device; all numbers rounded as a file holds them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Milliseconds UTC.
    pub time: Millis,
    /// °C, 15 to 35.
    pub temperature: f64,
    /// Percent, 30 to 90.
    pub humidity: f64,
    /// Never negative; around 55 to 180 by device.
    pub demand: f64,
}

impl SimSpec {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field that breaks its rule, with the rule.
    pub fn validate(&self) -> Result<(), SimError> {
        let fail = |field, problem: &str| {
            Err(SimError {
                field,
                problem: problem.into(),
            })
        };
        if self.days == 0 || self.days > 36_500 {
            return fail("days", "must be 1 to 36500");
        }
        if self.devices == 0 || self.devices > 100_000 {
            return fail("devices", "must be 1 to 100000");
        }
        if self.start.rem_euclid(DAY_MS) != 0 {
            return fail(
                "start",
                "must be midnight UTC, such as 2023-01-01T00:00:00Z",
            );
        }
        if self.start.abs() > 100 * 366 * DAY_MS {
            return fail("start", "must lie between 1870 and 2070");
        }
        if !self.changes.windows(2).all(|w| w[0] < w[1]) {
            return fail("changes", "must ascend, such as 500,610");
        }
        if self
            .changes
            .iter()
            .any(|day| *day == 0 || *day >= self.days)
        {
            return fail("changes", "must be days after the first and before the end");
        }
        Ok(())
    }

    /// Name of a device, counted from 0: `sim-001`, `sim-002`, ...
    #[must_use]
    pub fn device_name(device: u32) -> String {
        format!("sim-{:03}", device + 1)
    }

    /// All rows of one device, oldest first.
    #[must_use]
    pub fn rows(&self, device: u32) -> Rows<'_> {
        let mut rows = Rows {
            spec: self,
            weather: WeatherSource::new(self.seed, device),
            demand: DemandSource::new(self.seed, device),
            hour: -WARM_UP_HOURS,
        };
        while rows.hour < 0 {
            rows.next_hour();
        }
        rows
    }

    fn regime_on(&self, day: i64) -> usize {
        self.changes
            .iter()
            .filter(|change| i64::from(**change) <= day)
            .count()
    }
}

/// The rows of one device, made as they are asked for.
#[derive(Debug, Clone)]
pub struct Rows<'a> {
    spec: &'a SimSpec,
    weather: WeatherSource,
    demand: DemandSource,
    hour: i64,
}

impl Rows<'_> {
    fn next_hour(&mut self) -> Row {
        let time = self.spec.start + self.hour * HOUR_MS;
        let weather = self.weather.step(time);
        let regime = self.spec.regime_on(self.hour.div_euclid(24));
        let demand = self.demand.step(time, weather, regime);
        self.hour += 1;
        Row {
            time,
            temperature: weather.temperature,
            humidity: weather.humidity,
            demand,
        }
    }

    fn next_day(&mut self) -> Row {
        let mut sum = Row {
            time: 0,
            temperature: 0.0,
            humidity: 0.0,
            demand: 0.0,
        };
        for _ in 0..24 {
            let hour = self.next_hour();
            sum.temperature += hour.temperature;
            sum.humidity += hour.humidity;
            sum.demand += hour.demand;
        }
        Row {
            time: self.spec.start + self.hour * HOUR_MS,
            temperature: sum.temperature / 24.0,
            humidity: sum.humidity / 24.0,
            demand: sum.demand / 24.0,
        }
    }
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        if self.hour >= i64::from(self.spec.days) * 24 {
            return None;
        }
        let row = match self.spec.period {
            Period::Hour => self.next_hour(),
            Period::Day => self.next_day(),
        };
        // Two decimals, so that the last bits of a machine's sine never reach a file.
        let round = |x: f64| (x * 100.0).round() / 100.0;
        Some(Row {
            time: row.time,
            temperature: round(row.temperature),
            humidity: round(row.humidity),
            demand: round(row.demand),
        })
    }
}
