//! The loop on real data: bike-sharing hours, imported, learnt from, replayed, forecast on the device, compared with the hub.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fieldcast_tests::scenario::{
    AgentOptions, AgentProcess, Broker, Feed, HubOptions, HubProcess, wait_for,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(240);
const HORIZON: usize = 24;
/// Rows imported before the agent starts, and rows it replays.
const HISTORY: usize = 13_000;
const REPLAYED: usize = 20 * 24;
const SPEC: &str = "name = \"bikes\"\ntarget = \"cnt\"\ninputs = [\"cnt\", \"temp\", \"hum\"]\nperiod = \"1h\"\n\
                    lookback = 168\nhorizon = 24\ntimezone = \"America/New_York\"\n";

#[test]
fn bike_sharing_hours_are_learnt_and_forecast_on_the_device_as_on_the_hub() -> Result<()> {
    let Some(data) = std::env::var_os("FIELDCAST_DATA") else {
        println!(
            "skipped: FIELDCAST_DATA is not set; the same loop runs on generated data in whole_loop"
        );
        return Ok(());
    };
    let dir = tempfile::Builder::new()
        .prefix("fieldcast-bikes-")
        .tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let at = |name: &str| dir.path().join(name);
    let mut feed = Feed::new(
        &Path::new(&data).join("bike_sharing_hour.csv"),
        &at("bikes.csv"),
    )?;
    feed.split_history(HISTORY, &at("history.csv"))?;
    let rows = rows(&feed)?;

    let broker = Broker::chosen()?;
    let hub = HubProcess::start(HubOptions {
        data_dir: at("hub"),
        broker: broker.hub_url(),
        site: broker.site(),
        ..HubOptions::default()
    })?;
    std::fs::write(at("bikes.toml"), SPEC)?;
    let (spec, history, identity) = (at("bikes.toml"), at("history.csv"), at("identity.toml"));
    hub.cli(&["forecaster", "apply", text(&spec)?])?;
    hub.cli(&["device", "add", "dock", "--out", text(&identity)?])?;
    broker.readdress(&identity)?;
    hub.cli(&[
        "import",
        "csv",
        text(&history)?,
        "--device",
        "dock",
        "--time-column",
        "dteday",
        "--time-column",
        "hr",
        "--column",
        "cnt=cnt",
        "--column",
        "temp=temp",
        "--column",
        "hum=hum",
    ])?;
    hub.cli(&["train", "bikes"])?;

    let config = format!(
        "data_dir = \"{}\"\nidentity = \"{}\"\nforecasters = [\"{}\"]\n[[source]]\ntype = \"replay\"\npath = \"{}\"\n\
         time_columns = [\"dteday\", \"hr\"]\nspeed = 0.0\nfollow = true\n[source.columns]\ncnt = \"cnt\"\ntemp = \"temp\"\n\
         hum = \"hum\"\n[status]\nlisten = \"127.0.0.1:0\"\n",
        at("data").display(),
        identity.display(),
        spec.display(),
        at("bikes.csv").display()
    );
    let mut agent = AgentProcess::start(AgentOptions {
        dir: at("dock"),
        config,
    })?;
    // A week fills the device's window. What runs is told by the path that forecasts, so time goes on meanwhile.
    let mut shown = HISTORY + 7 * 24;
    wait_for("the bundle to run on the device", PATIENCE, || {
        agent.check_alive()?;
        shown = (shown + 1).min(HISTORY + REPLAYED / 2);
        feed.show_until(shown)?;
        let page = hub.get("/v1/devices")?;
        let running = &page["items"][0]["forecasters"][0]["running"];
        Ok(running
            .as_str()
            .is_some_and(|sha| !sha.is_empty())
            .then_some(()))
    })
    .with_context(|| format!("{}\n{}", hub.log_tail(), agent.log_tail()))?;
    feed.show_until(HISTORY + REPLAYED)?;
    let last = &rows[HISTORY + REPLAYED - 1].0;
    wait_for("the last reading to be stored", PATIENCE, || {
        let page = hub.get(&format!("/v1/readings?device=dock&sensor=cnt&from={last}"))?;
        Ok(page["items"]
            .as_array()
            .is_some_and(|i| !i.is_empty())
            .then_some(()))
    })
    .with_context(|| format!("{}\n{}", hub.log_tail(), agent.log_tail()))?;

    let stored = all(&hub, "/v1/readings?device=dock&sensor=cnt")?;
    ensure!(
        stored.len() == HISTORY + REPLAYED,
        "{} readings are stored",
        stored.len()
    );
    for (got, (time, value)) in stored.iter().zip(&rows) {
        ensure!(
            got["time"] == time.as_str() && got["value"].as_f64() == Some(*value),
            "stored {got}, the CSV says {value} at {time}"
        );
    }

    let forecasts = all(&hub, "/v1/forecasts?device=dock&forecaster=bikes")?;
    let by_bundle: Vec<&Value> = forecasts
        .iter()
        .filter(|f| f["made_by"] == "bundle")
        .collect();
    ensure!(
        by_bundle.len() >= 10 * HORIZON,
        "only {} forecasts by the bundle",
        by_bundle.len()
    );
    for forecast in by_bundle.iter().rev().take(24) {
        let ask = json!({"forecaster": "bikes", "device": "dock", "origin": forecast["origin"]});
        let (status, answer) = hub.post("/v1/predict", &ask)?;
        ensure!(status == 200, "/v1/predict answered {status}: {answer}");
        for (device, hub) in numbers(&forecast["mean"])?
            .iter()
            .zip(numbers(&answer["mean"])?)
        {
            ensure!(
                (device - hub).abs() <= 1e-5 * (hub.abs() + 1.0),
                "device {device}, hub {hub} at {}",
                forecast["origin"]
            );
        }
    }
    let (model, naive) = errors(&by_bundle, &rows)?;
    println!(
        "bike sharing: MAE {model:.1}, seasonal naive {naive:.1}, ratio {:.3}",
        model / naive
    );
    ensure!(
        model < naive,
        "MAE {model:.1}, seasonal naive has {naive:.1}"
    );
    agent.stop()?;
    hub.stop().map(drop)
}

/// MAE over all steps with an actual and a value a day before it: the model's, seasonal naive's.
fn errors(forecasts: &[&Value], rows: &[(String, f64)]) -> Result<(f64, f64)> {
    let actual: BTreeMap<i64, f64> = rows
        .iter()
        .take(HISTORY + REPLAYED)
        .map(|(time, value)| Ok((hour(time)?, *value)))
        .collect::<Result<_>>()?;
    let (mut model, mut naive, mut count) = (0.0, 0.0, 0.0);
    for forecast in forecasts {
        let origin = hour(forecast["origin"].as_str().context("an origin")?)?;
        for (step, mean) in (1..).zip(numbers(&forecast["mean"])?) {
            if let (Some(came), Some(before)) = (
                actual.get(&(origin + step)),
                actual.get(&(origin + step - 24)),
            ) {
                model += (mean - came).abs();
                naive += (before - came).abs();
                count += 1.0;
            }
        }
    }
    ensure!(count > 1_000.0, "only {count} steps have an actual");
    Ok((model / count, naive / count))
}

fn rows(feed: &Feed) -> Result<Vec<(String, f64)>> {
    let row = |line: &String| {
        let cells: Vec<&str> = line.split(',').collect();
        let hour: u32 = cells[5].parse()?;
        Ok((
            format!("{}T{hour:02}:00:00Z", cells[1]),
            cells[16].trim().parse()?,
        ))
    };
    feed.rows().iter().map(row).collect()
}

fn hour(time: &str) -> Result<i64> {
    let parsed = chrono::DateTime::parse_from_rfc3339(time);
    Ok(parsed
        .with_context(|| format!("{time} is a time"))?
        .timestamp()
        / 3_600)
}

fn numbers(value: &Value) -> Result<Vec<f64>> {
    let list = value.as_array().context("a list of numbers")?;
    list.iter()
        .map(|v| v.as_f64().context("a number"))
        .collect()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

fn all(hub: &HubProcess, path: &str) -> Result<Vec<Value>> {
    let (mut out, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = hub.get(&format!("{path}&limit=1000{cursor}"))?;
        out.extend(page["items"].as_array().context("a page")?.iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(out),
        }
    }
}
