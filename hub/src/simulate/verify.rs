//! Whether the database has what a fleet made, each reading once and with its value: owns the comparison, changes nothing.

use anyhow::Result;
use fieldcast_features::Millis;
use fieldcast_store::Store;
use serde::Serialize;

use super::fleet::Report;
use super::plan::Plan;

/// What the database has against what was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Readings that must be there: acknowledged ones.
    pub required: u64,
    /// Readings found, once each.
    pub once: u64,
    /// Required and not there.
    pub lost: u64,
    /// There more than once, or never made.
    pub twice: u64,
    /// There with another value.
    pub other: u64,
    /// Neither acknowledged nor there, or given up under a gap record.
    pub open: u64,
    /// The first of what is wrong, in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Whether nothing is lost, twice or another.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.lost + self.twice + self.other == 0
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < 10 {
            self.examples.push(text());
        }
    }
}

/// Asks the database about every reading of every device.
///
/// # Errors
/// The database.
pub async fn verify(store: &Store, plan: &Plan, reports: &[Report]) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for report in reports {
        device(store, plan, report, &mut verdict).await?;
    }
    Ok(verdict)
}

async fn device(store: &Store, plan: &Plan, report: &Report, verdict: &mut Verdict) -> Result<()> {
    let name = plan.name(report.device);
    let sensors = u64::from(plan.sensors);
    let names: Vec<String> = (0..plan.sensors).map(Plan::sensor).collect();
    let steps = report.made / sensors.max(1);
    let (from, to) = (
        plan.time(report.device, 0) - 1,
        plan.time(report.device, steps),
    );
    let mut found = store
        .readings_between(&name, &names, from, to)
        .await?
        .into_iter()
        .map(|r| (r.time, r.sensor, r.value))
        .peekable();
    let mut channels = plan.channels(report.device);
    let optional = |place: u64| {
        let mut spans = report.dropped.iter().chain(&report.open);
        spans.any(|span| span.contains(&place))
    };
    for step in 0..steps {
        let time = plan.time(report.device, step);
        let shift = plan.shift(time);
        for ((sensor, channel), place) in names.iter().zip(&mut channels).zip(step * sensors..) {
            let value = channel.next(time, shift);
            let required = !optional(place);
            verdict.required += u64::from(required);
            let here = |r: &(Millis, String, f64)| r.0 == time && r.1 == *sensor;
            // By time and sensor, as they were made: what comes before its turn was never made.
            while let Some(odd) = found.next_if(|r| (r.0, &r.1) < (time, sensor)) {
                verdict.twice += 1;
                verdict.example(|| format!("{name}: {odd:?} was never made, or is there twice"));
            }
            match found.next_if(here) {
                Some((_, _, stored)) if stored.to_bits() == value.to_bits() => verdict.once += 1,
                Some((_, _, stored)) => {
                    verdict.other += 1;
                    verdict.example(|| {
                        format!("{name}: {sensor} at {time} is {stored}, made was {value}")
                    });
                }
                None if required => {
                    verdict.lost += 1;
                    verdict.example(|| format!("{name}: {sensor} at {time} is lost"));
                }
                None => verdict.open += 1,
            }
            while found.next_if(here).is_some() {
                verdict.twice += 1;
                verdict.example(|| format!("{name}: {sensor} at {time} is there twice"));
            }
        }
    }
    let beyond = found.count() as u64;
    verdict.twice += beyond;
    if beyond > 0 {
        verdict.example(|| format!("{name}: {beyond} readings are there that were never made"));
    }
    Ok(())
}
