//! The figure of a backlog: a million readings of three days without a hub, how fast they drain, and how long new ones wait meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, SecondsFormat, Utc};

use super::bed::{Bed, DEVICE, Made};
use super::{Plan, line};
use crate::scenario::HubProcess;

const SENSORS: u64 = 4;
/// Three days, each sensor once a second: 1,036,800 readings.
const ROWS: u64 = 3 * 86_400;
/// Rows of a call.
const CALL: u64 = 250;
/// Seconds allowed to drain, and for a new reading.
const DRAINED: f64 = 300.0;
const LAG: f64 = 2.0;
const PATIENCE: Duration = Duration::from_secs(900);

pub(super) fn measure(_: &Plan) -> Result<()> {
    let mut bed = Bed::make()?;
    let mut device = bed.agent("")?;
    let hub = bed.hub.take().context("the hub does not run")?;
    let broker = hub.broker().trim_start_matches("mqtt://").to_owned();
    hub.stop()?;
    let begin = now() - chrono::Duration::days(3);
    let made = Made {
        sensors: SENSORS,
        begin,
        step_ms: 1_000,
    };
    for row in (0..ROWS).step_by(usize::try_from(CALL)?) {
        device.source.rows(made, row..(row + CALL).min(ROWS))?;
    }
    let all = (ROWS * SENSORS) as f64;
    let waiting = crate::scenario::wait_for("all of it to wait", PATIENCE, || {
        Ok(Some(device.waiting()?).filter(|waiting| *waiting >= all))
    })?;
    bed.start_hub(Some(broker))?;
    let begun = Instant::now();
    // The wait until the device tries to connect again counts too.
    crate::scenario::wait_for("the backlog to begin to drain", PATIENCE, || {
        Ok((device.waiting()? < waiting).then_some(()))
    })?;
    let done = AtomicBool::new(false);
    let (hub, source) = (bed.hub()?, device.source.clone());
    let (seconds, lags) = std::thread::scope(|scope| {
        let live = scope.spawn(|| lags(hub, &source, &done));
        // What is live at the moment waits too.
        let drained = device.drained(20.0, PATIENCE);
        let seconds = begun.elapsed().as_secs_f64();
        done.store(true, Ordering::SeqCst);
        let lags = live
            .join()
            .ok()
            .context("the live readings ended badly")??;
        drained.map(|()| (seconds, lags))
    })?;
    line(
        "backlog_1_million_drained",
        seconds,
        "s",
        seconds / DRAINED,
        "seconds allowed (300)",
    );
    let rate = waiting / seconds;
    line(
        "backlog_rate",
        rate,
        "1/s",
        rate * DRAINED / 1e6,
        "a million readings in 300 s (1; 5)",
    );
    let longest = lags.iter().copied().fold(0.0, f64::max);
    line(
        "backlog_live_lag_longest",
        longest,
        "s",
        longest / LAG,
        &format!(
            "seconds allowed to each of {} live readings (2)",
            lags.len()
        ),
    );
    Ok(())
}

/// Hands a new reading over, again and again, and measures until the hub shows it; seconds.
fn lags(hub: &HubProcess, source: &super::bed::Source, done: &AtomicBool) -> Result<Vec<f64>> {
    let mut lags = Vec::new();
    while lags.is_empty() || !done.load(Ordering::SeqCst) {
        let (at, begun) = (now(), Instant::now());
        source.push(std::iter::once(("live".to_owned(), at, 1.0)))?;
        let at = at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let path = format!("/v1/readings?device={DEVICE}&sensor=live&from={at}&limit=1");
        crate::scenario::wait_for("a live reading", PATIENCE, || {
            let page = hub.get(&path)?;
            Ok(page["items"]
                .as_array()
                .is_some_and(|items| !items.is_empty())
                .then_some(()))
        })?;
        lags.push(begun.elapsed().as_secs_f64());
    }
    Ok(lags)
}

#[allow(clippy::disallowed_methods, reason = "the testbed's clock")]
fn now() -> DateTime<Utc> {
    Utc::now()
}
