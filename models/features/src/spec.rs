//! What is forecast from what: owns the forecaster's definition and its validation, never any data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Longest window, in grid steps, that a forecaster may ask for.
pub const MAX_LOOKBACK: usize = 2_048;
/// Longest horizon, in grid steps.
pub const MAX_HORIZON: usize = 1_024;
/// Most observed inputs of one forecaster.
pub const MAX_INPUTS: usize = 64;
/// Most quantile levels of one forecaster; with [`MAX_HORIZON`] steps they still fit into one forecast record.
pub const MAX_QUANTILES: usize = 32;

/// Which model family is trained (see the design, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The replaced system's model: MinMax scaling, one LSTM, one step ahead.
    Classic,
    /// Instance-normalised window, ridge highway, LSTM beside it, quantiles.
    Default,
}

/// Which devices a forecaster serves and how their sensors map to its inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Labels a device must carry; empty selects every device.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Channel name -> sensor name on the device, where the two differ.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sensors: BTreeMap<String, String>,
}

/// A forecaster: the data from which windows, training and forecasts follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForecasterSpec {
    /// Name, unique at a hub: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// The channel that is forecast.
    pub target: String,
    /// Observed inputs, in the order of the window's features.
    pub inputs: Vec<String>,
    /// Distance of grid times, for example `15m`, `1h`, `1d`.
    pub period: String,
    /// Steps of the window.
    pub lookback: usize,
    /// Steps that are forecast.
    pub horizon: usize,
    /// Steps of one season (the seasonal-naive distance); by default one day, or one week for daily data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub season: Option<usize>,
    /// Quantile levels, ascending, strictly between 0 and 1, 0.5 among them.
    #[serde(default = "default_quantiles")]
    pub quantiles: Vec<f64>,
    /// Model family.
    #[serde(default = "default_preset")]
    pub preset: Preset,
    /// IANA time zone of the calendar features.
    #[serde(default = "default_timezone")]
    pub timezone: String,
    /// Days (`YYYY-MM-DD`, local) that the calendar counts as not working.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holidays: Vec<chrono::NaiveDate>,
    /// Devices and sensor mapping.
    #[serde(default)]
    pub selector: Selector,
}

fn default_quantiles() -> Vec<f64> {
    vec![0.025, 0.1, 0.5, 0.9, 0.975]
}
fn default_preset() -> Preset {
    Preset::Default
}
fn default_timezone() -> String {
    "UTC".into()
}

/// Why a forecaster's definition cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("forecaster `{forecaster}`: `{field}` {problem}")]
pub struct SpecError {
    /// The forecaster's name as given.
    pub forecaster: String,
    /// The key that is wrong.
    pub field: &'static str,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl ForecasterSpec {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field that breaks its rule, with the rule.
    pub fn validate(&self) -> Result<(), SpecError> {
        let fail = |field, problem: String| {
            Err(SpecError {
                forecaster: self.name.clone(),
                field,
                problem,
            })
        };
        let name_ok = !self.name.is_empty()
            && self.name.len() <= 64
            && self
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if !name_ok {
            return fail("name", "must be 1 to 64 of a-z, 0-9, `-`, `_`".into());
        }
        if self.inputs.is_empty() || self.inputs.len() > MAX_INPUTS {
            return fail("inputs", format!("must name 1 to {MAX_INPUTS} channels"));
        }
        for (i, input) in self.inputs.iter().enumerate() {
            if self.inputs[..i].contains(input) {
                return fail(
                    "inputs",
                    format!("names `{input}` twice; name each channel once"),
                );
            }
        }
        if self.preset == Preset::Default && !self.inputs.contains(&self.target) {
            return fail(
                "inputs",
                format!(
                    "must include the target `{}`: its own past is what forecasts it best",
                    self.target
                ),
            );
        }
        if self.preset == Preset::Classic && self.horizon != 1 {
            return fail("horizon", "must be 1 with preset `classic`".into());
        }
        if let Err(problem) = crate::grid::parse_period(&self.period) {
            return fail("period", problem);
        }
        if self.lookback == 0 || self.lookback > MAX_LOOKBACK {
            return fail("lookback", format!("must be 1 to {MAX_LOOKBACK} steps"));
        }
        if self.horizon == 0 || self.horizon > MAX_HORIZON {
            return fail("horizon", format!("must be 1 to {MAX_HORIZON} steps"));
        }
        if self.season.is_some_and(|s| s == 0 || s > MAX_LOOKBACK) {
            return fail("season", format!("must be 1 to {MAX_LOOKBACK} steps"));
        }
        if self.quantiles.len() > MAX_QUANTILES {
            return fail(
                "quantiles",
                format!("must be at most {MAX_QUANTILES} levels"),
            );
        }
        let ascending = self.quantiles.windows(2).all(|w| w[0] < w[1]);
        if !ascending
            || !self.quantiles.iter().all(|q| *q > 0.0 && *q < 1.0)
            || !self.quantiles.contains(&0.5)
        {
            return fail(
                "quantiles",
                "must ascend strictly between 0 and 1 and contain 0.5".into(),
            );
        }
        if self.timezone.parse::<chrono_tz::Tz>().is_err() {
            return fail(
                "timezone",
                format!(
                    "`{}` is not an IANA time zone such as `Europe/Berlin`",
                    self.timezone
                ),
            );
        }
        Ok(())
    }

    /// Grid period in milliseconds; 0 only for a spec that was never validated.
    #[must_use]
    pub fn period_ms(&self) -> i64 {
        crate::grid::parse_period(&self.period).unwrap_or(0)
    }

    /// Length of the blocks, milliseconds, over which two models are compared on the same windows: the longer of horizon and
    /// season. Blocks begin at multiples of it.
    #[must_use]
    pub fn block_ms(&self) -> i64 {
        i64::try_from(self.block_steps())
            .unwrap_or(i64::MAX)
            .saturating_mul(self.period_ms())
    }

    /// The same in steps of the grid.
    fn block_steps(&self) -> usize {
        self.horizon.max(self.season_steps())
    }

    /// Pairs of a forecast's step and its actual value in such a block, at most.
    #[must_use]
    pub fn block_pairs(&self) -> usize {
        self.block_steps().saturating_mul(self.horizon)
    }

    /// Steps of one season: as configured, or a day (a week for periods of a day and more).
    #[must_use]
    pub fn season_steps(&self) -> usize {
        const DAY_MS: i64 = 86_400_000;
        self.season.unwrap_or_else(|| match self.period_ms() {
            p if p >= DAY_MS => 7,
            p if p > 0 => usize::try_from(DAY_MS / p).unwrap_or(1).max(1),
            _ => 1,
        })
    }

    /// All channels a feature row carries: the inputs, then the target where it is not an input.
    #[must_use]
    pub fn channels(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.inputs.iter().map(String::as_str).collect();
        if !self.inputs.contains(&self.target) {
            all.push(&self.target);
        }
        all
    }

    /// Index of the target in [`Self::channels`].
    #[must_use]
    pub fn target_channel(&self) -> usize {
        self.inputs
            .iter()
            .position(|i| *i == self.target)
            .unwrap_or(self.inputs.len())
    }

    /// The device's sensor behind a channel.
    #[must_use]
    pub fn sensor_of<'a>(&'a self, channel: &'a str) -> &'a str {
        self.selector
            .sensors
            .get(channel)
            .map_or(channel, String::as_str)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn spec(period: &str, inputs: &[&str], target: &str) -> ForecasterSpec {
        ForecasterSpec {
            name: "test".into(),
            target: target.into(),
            inputs: inputs.iter().map(|i| (*i).to_owned()).collect(),
            period: period.into(),
            lookback: 4,
            horizon: 2,
            season: None,
            quantiles: default_quantiles(),
            preset: Preset::Default,
            timezone: default_timezone(),
            holidays: Vec::new(),
            selector: Selector::default(),
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        let good = spec("1h", &["a"], "a");
        assert_eq!(good.validate(), Ok(()));
        assert_eq!(good.season_steps(), 24);
        assert_eq!(good.block_ms(), 24 * 3_600_000);
        let field = |change: &dyn Fn(&mut ForecasterSpec)| {
            let mut s = good.clone();
            change(&mut s);
            s.validate().err().map(|e| e.field)
        };
        assert_eq!(field(&|s| s.name = "A b".into()), Some("name"));
        assert_eq!(field(&|s| s.target = "z".into()), Some("inputs"));
        assert_eq!(field(&|s| s.period = "0h".into()), Some("period"));
        assert_eq!(field(&|s| s.lookback = 0), Some("lookback"));
        assert_eq!(field(&|s| s.horizon = MAX_HORIZON + 1), Some("horizon"));
        assert_eq!(field(&|s| s.quantiles = vec![0.1, 0.9]), Some("quantiles"));
        let levels = |n: usize| (1..=n).map(|i| i as f64 / 64.0).collect::<Vec<_>>();
        assert_eq!(field(&|s| s.quantiles = levels(32)), None);
        assert_eq!(field(&|s| s.quantiles = levels(33)), Some("quantiles"));
        assert_eq!(
            field(&|s| s.timezone = "Mars/Olympus".into()),
            Some("timezone")
        );
        assert_eq!(field(&|s| s.preset = Preset::Classic), Some("horizon"));
    }
}
