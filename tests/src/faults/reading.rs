//! What a reading of a run looks like: owns how value, time and sensor tell which one it is, so that a wrong one is seen.

use chrono::{DateTime, SecondsFormat};

/// Sensors of each device.
const SENSORS: u64 = 4;
/// Data time from one reading of a device to the next.
const STEP_MS: i64 = 2;
/// Above every number of a reading.
const DEVICE: u64 = 1 << 32;

/// The form of all readings of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    /// Data time of reading 0.
    pub(crate) begin_ms: i64,
}

impl Form {
    pub(crate) fn sensor(n: u64) -> String {
        format!("s{}", n % SENSORS)
    }

    pub(crate) fn time_ms(self, n: u64) -> i64 {
        self.begin_ms
            .saturating_add(i64::try_from(n).unwrap_or(i64::MAX).saturating_mul(STEP_MS))
    }

    /// A fraction too, so that a value that was rounded on its way is not taken for itself.
    pub(crate) fn value(device: usize, n: u64) -> f64 {
        let whole = (device as u64 + 1) * DEVICE + n;
        whole as f64 + (n % SENSORS) as f64 / 8.0
    }

    /// Number of the reading, where a row is exactly one of this device's.
    pub(crate) fn number(
        self,
        device: usize,
        sensor: &str,
        time_us: i64,
        value: f64,
    ) -> Option<u64> {
        let whole = value.trunc();
        if !(0.0..9e15).contains(&whole) {
            return None;
        }
        let n = (whole as u64).checked_sub((device as u64 + 1) * DEVICE)?;
        let same = n < DEVICE
            && Self::value(device, n) == value
            && Self::sensor(n) == sensor
            && self.time_ms(n).saturating_mul(1_000) == time_us;
        same.then_some(n)
    }

    /// Readings `from..from + count` as the agent's port takes them.
    pub(crate) fn body(self, device: usize, from: u64, count: u64) -> String {
        let items: Vec<String> = (from..from + count)
            .map(|n| {
                let time = DateTime::from_timestamp_millis(self.time_ms(n))
                    .unwrap_or_default()
                    .to_rfc3339_opts(SecondsFormat::Millis, true);
                format!(
                    "{{\"sensor\":\"{}\",\"time\":\"{time}\",\"value\":{}}}",
                    Self::sensor(n),
                    Self::value(device, n)
                )
            })
            .collect();
        format!("{{\"readings\":[{}]}}", items.join(","))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_known_again_and_any_change_of_it_is_seen() {
        let form = Form {
            begin_ms: 1_800_000_000_000,
        };
        for n in [0, 1, 2, 3, 4_000_003] {
            let (sensor, time, value) =
                (Form::sensor(n), form.time_ms(n) * 1_000, Form::value(2, n));
            assert_eq!(form.number(2, &sensor, time, value), Some(n));
            assert_eq!(form.number(1, &sensor, time, value), None);
            assert_eq!(form.number(2, "s9", time, value), None);
            assert_eq!(form.number(2, &sensor, time + 1, value), None);
            assert_eq!(form.number(2, &sensor, time, value + 0.5), None);
            assert_eq!(form.number(2, &sensor, time, f64::NAN), None);
        }
    }
}
