//! The whole loop with real processes: readings to forecasts, drift, retraining, rollout, and back on the device.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod loop_support;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fieldcast_tests::scenario::Broker;
use loop_support::{Fleet, HOURS_A_DAY};
use serde_json::json;

/// A year and more, so that no season is new to the model.
const HISTORY_DAYS: usize = 370;
/// Days on which the relation of weather and demand becomes another.
const CHANGES: [usize; 2] = [400, 470];
const END: usize = 560;
/// The hub looks for the day of a change in daily errors that also change by chance: so many days too early may be.
const EARLY: i64 = 10;

/// What the walking skeleton promises, in the order in which a user would see it.
#[test]
fn two_cycles_of_drift_retraining_and_rollout_and_a_quiet_control() -> Result<()> {
    let mut fleet = Fleet::start("loop", Broker::chosen()?, HISTORY_DAYS, &CHANGES, END)?;

    // The first model reaches every device and answers from there.
    let first = fleet.train_first("demand")?;
    fleet.train_first("control")?;
    fleet.show_until(HISTORY_DAYS + 2)?;
    fleet.live_until_running("demand", first, HISTORY_DAYS + 20)?;

    // Undrifted weeks: no drift report, and device and hub say the same.
    fleet.show_until(CHANGES[0])?;
    fleet.wait_stored(CHANGES[0])?;
    fleet.compare_with_hub("demand", 20)?;
    ensure!(
        fleet.drift_reports("demand")?.is_empty(),
        "drift was reported before anything changed"
    );

    // Each change: found where it was, retrained, judged, rolled out, running.
    let mut champion = first;
    for (change, until) in CHANGES.into_iter().zip([CHANGES[1], END - 15]) {
        let next = fleet.live_until_champion_after(champion, "demand", until)?;
        fleet.wait_running("demand", next)?;
        let onsets = fleet.drift_reports("demand")?;
        let found = onsets.iter().any(|(version, day)| {
            *version >= champion && *version < next && day + EARLY >= change as i64
        });
        ensure!(
            found,
            "the world changed on day {change}; confirmed reports (version, day): {onsets:?}"
        );
        println!(
            "day {change}: version {next} runs since day {}",
            fleet.day()
        );
        champion = next;
        fleet.show_until(change + 50)?;
        fleet.wait_stored(change + 50)?;
    }
    let rolled_out = fleet.succeeded_rollouts("demand")?;
    ensure!(
        rolled_out >= 3,
        "{rolled_out} rollouts succeeded: the first model's and two more were due"
    );

    fleet.show_until(END)?;

    // Nothing lost, nothing twice; the model is worth its place; the control stayed quiet.
    fleet.wait_stored(END)?;
    fleet.audit_readings(END)?;
    let (model, naive) = fleet.errors_of_last("demand", 10 * HOURS_A_DAY)?;
    ensure!(
        model < naive,
        "MAE of the last part is {model:.3}, seasonal naive has {naive:.3}"
    );
    println!(
        "last 10 days: MAE {model:.3}, seasonal naive {naive:.3}, ratio {:.3}",
        model / naive
    );
    let control = fleet.drift_reports("control")?;
    ensure!(control.is_empty(), "the control drifted: {control:?}");

    // `/predict` as the replaced system answered it.
    let (status, body) = fleet
        .hub()
        .post("/predict", &json!({"temperature": 24.0, "humidity": 55.0}))?;
    ensure!(status == 200, "/predict answered {status}: {body}");
    body["predicted_demand"]
        .as_f64()
        .context("predicted_demand is a number")?;
    fleet.stop()
}

/// kill -9 of agent and hub in the middle of the stream, on a broker that is not ours.
#[test]
fn nothing_is_lost_or_doubled_through_kills_on_mosquitto() -> Result<()> {
    let Some(broker) = Broker::mosquitto()? else {
        return Ok(());
    };
    let days = 30;
    let mut fleet = Fleet::start("mosquitto", broker, 10, &[], days)?;
    for (step, day) in (10..=days).step_by(4).enumerate() {
        fleet.show_until(day)?;
        match step % 3 {
            0 => fleet.kill_agents()?,
            1 => fleet.kill_hub()?,
            _ => fleet.wait_stored_within(day, Duration::from_secs(120))?,
        }
    }
    fleet.show_until(days)?;
    fleet.wait_stored(days)?;
    fleet.audit_readings(days)?;
    fleet.stop()
}

/// Readings, a first model, forecasts and kills on whatever MQTT 5 broker somebody runs.
#[test]
fn the_loop_goes_over_any_broker_given_by_its_address() -> Result<()> {
    let Some(broker) = Broker::given()? else {
        return Ok(());
    };
    let days = HISTORY_DAYS + 30;
    let mut fleet = Fleet::start("given", broker, HISTORY_DAYS, &[], days)?;
    let first = fleet.train_first("demand")?;
    fleet.show_until(HISTORY_DAYS + 2)?;
    fleet.live_until_running("demand", first, HISTORY_DAYS + 20)?;
    fleet.kill_agents()?;
    fleet.show_until(HISTORY_DAYS + 25)?;
    fleet.kill_hub()?;
    fleet.show_until(days)?;
    fleet.wait_stored(days)?;
    fleet.wait_running("demand", first)?;
    fleet.audit_readings(days)?;
    fleet.compare_with_hub("demand", 20)?;
    fleet.stop()
}
