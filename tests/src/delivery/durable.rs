//! The figure of readings a second that an agent makes durable: handed over to its port by several callers, each answered after COMMIT.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::DateTime;

use super::bed::{Bed, Made};
use super::{Plan, line};

const CALLERS: u64 = 4;
/// Rows of a call, of ten sensors each.
const ROWS: u64 = 50;
/// Readings a second that are asked for.
const GOAL: f64 = 20_000.0;

pub(super) fn measure(plan: &Plan) -> Result<()> {
    let bed = Bed::make()?;
    let device = bed.agent("")?;
    let (begun, time) = (Instant::now(), Duration::from_secs(plan.seconds.into()));
    let taken = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let source = device.source.clone();
                scope.spawn(move || -> Result<u64> {
                    // Each caller brings days of its own.
                    let begin = DateTime::from_timestamp(1_700_000_000, 0).context("a time")?
                        + chrono::Duration::days(1_000 * i64::try_from(caller)?);
                    let made = Made {
                        sensors: 10,
                        begin,
                        step_ms: 1_000,
                    };
                    let (mut row, mut taken) = (0, 0);
                    while begun.elapsed() < time {
                        taken += source.rows(made, row..row + ROWS)?;
                        row += ROWS;
                    }
                    Ok(taken)
                })
            })
            .collect();
        callers.into_iter().try_fold(0, |sum, caller| {
            let taken = caller.join().ok().context("a caller ended badly")??;
            anyhow::Ok(sum + taken)
        })
    })?;
    let rate = taken as f64 / begun.elapsed().as_secs_f64();
    line(
        "device_durable",
        rate,
        "1/s",
        rate / GOAL,
        "readings a second asked for (20000; 50000)",
    );
    Ok(())
}
