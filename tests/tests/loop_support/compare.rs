//! What the end-to-end test compares: stored readings with the CSV, device with hub, model with naive.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{DEVICES, Fleet, HOURS_A_DAY, SENSORS, all_items, forecaster_of, series};

impl Fleet {
    /// Every reading of the CSV is stored exactly once with its value, and nothing else is.
    pub fn audit_readings(&self, days: usize) -> Result<()> {
        for (device, _) in DEVICES {
            let rows = series::rows(&self.feeds[device])?;
            for (channel, sensor) in SENSORS.iter().enumerate() {
                let stored = all_items(
                    self.hub(),
                    &format!("/v1/readings?device={device}&sensor={sensor}"),
                )?;
                let expected = &rows[..days * HOURS_A_DAY];
                ensure!(
                    stored.len() == expected.len(),
                    "{device} {sensor}: {} readings stored, {} were read from the CSV",
                    stored.len(),
                    expected.len()
                );
                for (got, (time, values)) in stored.iter().zip(expected) {
                    let value = got["value"].as_f64().context("a value")?;
                    ensure!(
                        got["time"] == time.as_str()
                            && value.to_bits() == values[channel].to_bits(),
                        "{device} {sensor}: stored {got}, the CSV says {} at {time}",
                        values[channel]
                    );
                }
            }
        }
        Ok(())
    }

    /// The device's forecasts equal what the hub computes for the same windows and model version.
    pub fn compare_with_hub(&self, forecaster: &str, count: usize) -> Result<()> {
        for (device, _) in DEVICES.iter().filter(|(_, f)| *f == forecaster) {
            let all = self.bundle_forecasts(device)?;
            ensure!(
                all.len() >= count,
                "{device} made only {} forecasts with a bundle",
                all.len()
            );
            for forecast in all.iter().rev().take(count) {
                let ask = json!({
                    "forecaster": forecaster, "device": device,
                    "origin": forecast["origin"], "model_version": forecast["model_version"],
                });
                let (status, answer) = self.hub().post("/v1/predict", &ask)?;
                ensure!(status == 200, "/v1/predict answered {status}: {answer}");
                let (device_says, hub_says) =
                    (numbers(&forecast["mean"])?, numbers(&answer["mean"])?);
                ensure!(device_says.len() == HOURS_A_DAY && hub_says.len() == HOURS_A_DAY);
                for (a, b) in device_says.iter().zip(&hub_says) {
                    ensure!(
                        (a - b).abs() <= 1e-5 * (b.abs() + 1.0),
                        "device {a}, hub {b} at {}",
                        forecast["origin"]
                    );
                }
            }
        }
        Ok(())
    }

    /// MAE over all steps of the forecasts whose actuals lie in the last `hours`: the model's, seasonal naive's.
    pub fn errors_of_last(&self, forecaster: &str, hours: usize) -> Result<(f64, f64)> {
        let (mut model, mut naive, mut count) = (0.0, 0.0, 0.0);
        for (device, _) in DEVICES.iter().filter(|(_, f)| *f == forecaster) {
            let rows = series::rows(&self.feeds[device])?;
            let index: BTreeMap<&str, usize> = rows
                .iter()
                .enumerate()
                .map(|(i, r)| (r.0.as_str(), i))
                .collect();
            for forecast in self.bundle_forecasts(device)? {
                let origin = forecast["origin"].as_str().context("an origin")?;
                let at = *index
                    .get(origin)
                    .with_context(|| format!("{origin} is a time of the CSV"))?;
                if at + HOURS_A_DAY >= rows.len() || at + hours < rows.len() {
                    continue;
                }
                for (h, mean) in numbers(&forecast["mean"])?.iter().enumerate() {
                    let actual = rows[at + 1 + h].1[2];
                    model += (mean - actual).abs();
                    naive += (rows[at + 1 + h - HOURS_A_DAY].1[2] - actual).abs();
                    count += 1.0;
                }
            }
        }
        ensure!(
            count > 0.0,
            "no forecast of {forecaster} falls into the last {hours} hours"
        );
        Ok((model / count, naive / count))
    }

    fn bundle_forecasts(&self, device: &str) -> Result<Vec<Value>> {
        let forecaster = forecaster_of(device);
        let all = all_items(
            self.hub(),
            &format!("/v1/forecasts?device={device}&forecaster={forecaster}"),
        )?;
        Ok(all
            .into_iter()
            .filter(|f| f["made_by"] == "bundle" && f["shadow"] != true)
            .collect())
    }
}

fn numbers(value: &Value) -> Result<Vec<f64>> {
    value
        .as_array()
        .context("a list of numbers")?
        .iter()
        .map(|v| v.as_f64().context("a number"))
        .collect()
}
