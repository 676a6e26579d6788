//! Trains preset `default` on the bike-sharing series and judges it on its last tenth.
//!
//! `FIELDCAST_DATA=<folder with bike_sharing_hour.csv> cargo run --release -p fieldcast-train --example bike_sharing`

use std::error::Error;
use std::ops::ControlFlow;
use std::time::Instant;

use fieldcast_features::{FeatureRow, ForecasterSpec};
use fieldcast_train::{Series, TrainConfig, TrainingData, evaluate, fit, predict};

const HOUR_MS: i64 = 3_600_000;

fn main() -> Result<(), Box<dyn Error>> {
    let Ok(folder) = std::env::var("FIELDCAST_DATA") else {
        println!("skipped: FIELDCAST_DATA is not set");
        return Ok(());
    };
    let text = std::fs::read_to_string(format!("{folder}/bike_sharing_hour.csv"))?;
    let mut rows = Vec::new();
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let number = |i: usize| cells.get(i).unwrap_or(&"").parse::<f64>();
        let day: chrono::NaiveDate = cells.get(1).unwrap_or(&"").parse()?;
        let midnight = day
            .and_time(chrono::NaiveTime::MIN)
            .and_utc()
            .timestamp_millis();
        let time = midnight + number(5)? as i64 * HOUR_MS;
        rows.push(FeatureRow {
            time,
            values: vec![number(16)?, number(10)?, number(12)?],
        });
    }
    let spec: ForecasterSpec = serde_json::from_value(serde_json::json!({
        "name": "bikes", "target": "cnt", "inputs": ["cnt", "temp", "hum"],
        "period": "1h", "lookback": 168, "horizon": 24
    }))?;
    let setting = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<f64>().ok());
    let mut config = TrainConfig {
        forest: setting("FOREST").is_some(),
        ..TrainConfig::default()
    };
    config.seed = setting("SEED").map_or(config.seed, |v| v as u64);
    config.max_epochs = setting("EPOCHS").map_or(config.max_epochs, |v| v as usize);
    config.hidden = setting("HIDDEN").map_or(config.hidden, |v| v as usize);
    config.learning_rate = setting("RATE").map_or(config.learning_rate, |v| v as f32);
    config.highway_rate = setting("HIGHWAY_RATE").map_or(config.highway_rate, |v| v as f32);
    config.weight_decay = setting("DECAY").map_or(config.weight_decay, |v| v as f32);
    config.train_share = setting("TRAIN").map_or(config.train_share, |v| v);
    config.select_share = setting("SELECT").map_or(config.select_share, |v| v);

    let (first, last) = (rows[0].time, rows[rows.len() - 1].time);
    let test_from = first + (last - first) / 10 * 9 / HOUR_MS * HOUR_MS;
    let all = TrainingData {
        series: vec![Series {
            device: "bikes".into(),
            rows,
            weight_from: None,
        }],
    };
    let mut known = all.clone();
    known.series[0].rows.retain(|r| r.time < test_from);

    let began = Instant::now();
    let trained = fit(&spec, &known, &config, &mut |p| {
        println!(
            "{:?} {}/{} loss {:?} select {:?} {:.1?}",
            p.stage, p.epoch, p.epochs, p.loss, p.selection_mase, p.elapsed
        );
        ControlFlow::Continue(())
    })?;
    println!(
        "trained in {:.1?}; chosen {} (ridge penalty {:?})",
        began.elapsed(),
        trained.chosen,
        trained.penalty
    );
    for line in &trained.table {
        println!(
            "  {:15} mae {:7.2} rmse {:7.2} mase {:.4}",
            line.model, line.mae, line.rmse, line.mase
        );
    }
    println!("split {:?}", trained.split);
    println!("calibration coverage {:?}", trained.calibration.coverage);

    let cases = evaluate::cases(&spec, &all, (test_from, last + HOUR_MS), 1)?;
    let scores = evaluate::backtest(&cases, &spec.quantiles, |w| predict(&trained.params, w))?;
    println!(
        "test: {} windows mae {:.2} rmse {:.2} mase {:.4} smape {:.4}",
        scores.windows, scores.mae, scores.rmse, scores.mase, scores.smape
    );
    println!("  intervals {:?}", scores.intervals);
    let naive = |w: &fieldcast_features::Window| {
        let day = (0..24)
            .map(|h| w.window[(168 - 24 + h) * 3])
            .collect::<Vec<_>>();
        let quantiles = day.iter().flat_map(|v| vec![*v; 5]).collect();
        Ok::<_, std::convert::Infallible>(fieldcast_train::Prediction {
            mean: day,
            quantiles,
        })
    };
    let complete: Vec<_> = cases
        .iter()
        .filter(|c| c.window.window.iter().all(|v| !v.is_nan()))
        .cloned()
        .collect();
    let (ours, theirs) = (
        evaluate::backtest(&complete, &spec.quantiles, |w| predict(&trained.params, w))?,
        evaluate::backtest(&complete, &spec.quantiles, naive)?,
    );
    println!(
        "complete windows: {}: mae {:.2}, seasonal naive {:.2}",
        ours.windows, ours.mae, theirs.mae
    );
    let losses = |s: &evaluate::Scores| s.origin_losses.iter().map(|(_, l)| *l).collect::<Vec<_>>();
    println!(
        "  Diebold-Mariano {:?}",
        fieldcast_train::diebold_mariano(&losses(&ours), &losses(&theirs), 24)
    );
    Ok(())
}
