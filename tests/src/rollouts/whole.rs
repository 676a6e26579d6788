//! The figure of a whole rollout: time, processor time of hub and PostgreSQL, and queries, beyond those of the same fleet at rest.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::bed::{Bed, FORECASTER, stage};
use super::{Scale, line};
use crate::scenario::{Mosquitto, wait_calmly};

/// Linux tells processor times in hundredths of a second, whatever its own clock is.
const USER_HZ: f64 = 100.0;
const LONG: Duration = Duration::from_secs(1_200);
/// Between two questions: each is a process and a session of its own.
const PAUSE: Duration = Duration::from_secs(1);
/// Our own questions, which are asked with COPY, do not count.
const STATEMENTS: &str = "pg_stat_statements WHERE query NOT LIKE 'COPY%'";

/// What was used until a moment.
#[derive(Clone, Copy)]
struct Used {
    at: Instant,
    hub: f64,
    postgres: f64,
    /// Of a broker that is not the hub's own.
    broker: f64,
    queries: f64,
}

pub(super) fn measure(bed: &mut Bed, scale: Scale) -> Result<()> {
    bed.versions(FORECASTER, 2)?;
    bed.postgres
        .execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")?;
    let devices = scale.devices;
    // Each forecasts, and sends, twice a minute: a stage takes that long at least.
    bed.start_fleet(&format!(
        "--devices {devices} --ramp {}s --sensors 1 --rate 0.1 --batch-every 30s --speed 1440 --fault offline=0.1 --progress 10s",
        devices.div_ceil(100)
    ))?;
    let mut before = 0;
    wait_calmly("the fleet to run the champion", LONG, PAUSE, || {
        bed.check()?;
        let healthy = bed.healthy(FORECASTER, 1)?;
        let all = bed
            .postgres
            .number("SELECT count(*) FROM devices WHERE session > 0")?;
        let settled = healthy == all && healthy == before && healthy * 10 >= u64::from(devices) * 8;
        before = healthy;
        Ok(settled.then_some(()))
    })?;
    println!("{before} of {devices} devices are connected and run version 1");
    let resting = rest(bed, scale)?;
    say(bed, scale, "at rest")?;

    bed.postgres.execute("SELECT pg_stat_statements_reset()")?;
    let begin = used(bed)?;
    // Through another's broker blocks go at the pace that it takes besides everything else.
    let last = if scale.mosquitto { 160 } else { 80 };
    let plan = [
        stage("canary", 5, 40),
        stage("quarter", 25, 45),
        stage("all", 100, last),
    ]
    .concat();
    let rollout = bed.roll_out(FORECASTER, 2, &plan)?;
    wait_calmly("the rollout to end", LONG, PAUSE, || {
        bed.check()?;
        Ok(matches!(
            bed.status(rollout)?.as_str(),
            "succeeded" | "rolled_back" | "paused"
        )
        .then_some(()))
    })?;
    let took = used(bed)?.since(begin);
    let reason = bed.text(&format!(
        "SELECT status || ': ' || reason FROM rollouts WHERE id = {rollout}"
    ))?;
    println!("{reason}");
    if !reason.starts_with("succeeded") {
        bail!("the rollout did not succeed: {reason}");
    }
    let arrived = bed.healthy(FORECASTER, 2)?;
    if arrived < before {
        bail!(
            "only {arrived} of {before} connected devices run version 2: what was used is not that of a whole rollout"
        );
    }
    say(bed, scale, "during the rollout")?;
    // What the same fleet takes at rest grows with its tables: the rollout lies between two halves of it.
    let rest = resting.and(rest(bed, scale)?);
    let idle = rest.seconds;
    let size = bed
        .postgres
        .number("SELECT length(bytes) FROM bundles LIMIT 1")?;
    let each = |used: f64, rest: f64| (used - rest / idle * took.seconds) / f64::from(devices);
    line("rollout_whole", took.seconds, "s", "300; 60");
    line(
        "rollout_hub_cpu",
        each(took.hub, rest.hub) * 1e3,
        "ms",
        "a device: 1; 0.3",
    );
    line(
        "rollout_postgres_cpu",
        each(took.postgres, rest.postgres) * 1e3,
        "ms",
        "a device",
    );
    if scale.mosquitto {
        line(
            "rollout_broker_cpu",
            each(took.broker, rest.broker) * 1e3,
            "ms",
            "a device",
        );
    }
    line(
        "rollout_queries",
        each(took.queries, rest.queries),
        "",
        "a device: 10; 4",
    );
    line(
        "rollout_rest_hub_cpu",
        rest.hub / idle,
        "s/s",
        "hub at rest, taken off",
    );
    line(
        "rollout_rest_queries",
        rest.queries / idle,
        "1/s",
        "queries at rest, taken off",
    );
    line(
        "rollout_bundle",
        size as f64 / 1e3,
        "kB",
        if scale.mosquitto {
            "to each connected device, by Mosquitto"
        } else {
            "to each connected device, by the hub's own broker"
        },
    );
    Ok(())
}

/// What was used between two moments.
struct Between {
    seconds: f64,
    hub: f64,
    postgres: f64,
    broker: f64,
    queries: f64,
}

/// Half of the time at rest.
fn rest(bed: &Bed, scale: Scale) -> Result<Between> {
    let begin = used(bed)?;
    std::thread::sleep(scale.idle / 2);
    Ok(used(bed)?.since(begin))
}

impl Between {
    fn and(self, other: Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            hub: self.hub + other.hub,
            postgres: self.postgres + other.postgres,
            broker: self.broker + other.broker,
            queries: self.queries + other.queries,
        }
    }
}

impl Used {
    fn since(self, begin: Self) -> Between {
        Between {
            seconds: (self.at - begin.at).as_secs_f64(),
            hub: self.hub - begin.hub,
            postgres: self.postgres - begin.postgres,
            broker: self.broker - begin.broker,
            queries: self.queries - begin.queries,
        }
    }
}

fn used(bed: &Bed) -> Result<Used> {
    Ok(Used {
        at: Instant::now(),
        hub: cpu_s(bed.hub.pid()?)?,
        postgres: cpu_s(bed.postgres.pid()?)?,
        broker: bed
            .broker
            .as_ref()
            .and_then(Mosquitto::pid)
            .map_or(Ok(0.0), cpu_s)?,
        queries: bed.postgres.number(&format!(
            "SELECT coalesce(sum(calls), 0)::bigint FROM {STATEMENTS}"
        ))? as f64,
    })
}

/// The statements that were sent most since the counts were last forgotten.
fn say(bed: &Bed, scale: Scale, when: &str) -> Result<()> {
    if !scale.talk {
        return Ok(());
    }
    println!("{when}:");
    let most = format!(
        "SELECT calls || ' ' || round(total_exec_time) || ' ms ' || left(regexp_replace(query, '\\s+', ' ', 'g'), 100)
         FROM {STATEMENTS} ORDER BY calls DESC LIMIT 25"
    );
    bed.postgres.rows(&most, |row| {
        println!("  {row}");
        Ok(())
    })
}

/// Processor time of a process, its children, and those that ended, seconds.
fn cpu_s(pid: u32) -> Result<f64> {
    let mut sum = None;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        // One that ended meanwhile counts with its parent.
        let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // Behind the name, which may hold anything: the parent is field 4, the times are 14 to 17, counted from 1.
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<u32> = rest
            .split_whitespace()
            .map(|f| f.parse().unwrap_or(0))
            .collect();
        if id == pid || fields.get(1) == Some(&pid) {
            let times = fields.get(11..15).unwrap_or_default();
            *sum.get_or_insert(0.0) += times.iter().sum::<u32>() as f64 / USER_HZ;
        }
    }
    sum.with_context(|| format!("process {pid} does not run"))
}
