//! `fieldcast-hub simulate fleet`: owns its options and output, never what devices do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use fieldcast_device::uplink::Settings;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::device::{pair, running_broker};
use crate::mqtt::Link;
use crate::simulate::plan::{Faults, Plan, millis, span};
use crate::simulate::{fleet, verify};

/// Options of `simulate fleet`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Devices. The embedded broker takes 9,999 unless told otherwise.
    #[arg(long, default_value_t = 100)]
    devices: u32,
    /// Names of devices begin so.
    #[arg(long, default_value = "sim-", value_name = "TEXT")]
    prefix: String,
    /// Label of every device, `key=value`; may be given again.
    #[arg(long = "label", value_name = "K=V", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Readings a second of each device, of all its sensors together.
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Sensors of each device, `s00`, `s01`, ...
    #[arg(long, default_value_t = 4)]
    sensors: u32,
    /// Between two batches of a device, such as 10s.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = span)]
    batch_every: Duration,
    /// Seconds of data in one second; above 1 the data brings its own time, from --start on.
    #[arg(long, default_value_t = 1)]
    speed: u32,
    /// Data time of the first reading with --speed above 1.
    #[arg(long, default_value = "2025-01-01T00:00:00Z")]
    start: DateTime<Utc>,
    /// Readings are taken for this long.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = span)]
    duration: Duration,
    /// Then unacknowledged readings are waited for this long at most.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = span)]
    drain: Duration,
    /// Devices connect one after the other over this span; by default 500 a second.
    #[arg(long, value_name = "TIME", value_parser = span)]
    ramp: Option<Duration>,
    /// Decides all that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// After this time all values are shifted.
    #[arg(long, value_name = "TIME", value_parser = span)]
    drift: Option<Duration>,
    /// What goes wrong: drop-acks=P, repeat=P, cut=P, offline=SHARE, storm=TIME, or nan, crash, slow, refuse as
    /// KIND=SHARE[@VERSION]; may be given again.
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<String>,
    /// How much smaller a watching model's losses are than the running one's, as a share.
    #[arg(long, default_value_t = 0.1, allow_hyphen_values = true)]
    gain: f64,
    /// Forecasts that prove a model.
    #[arg(long, default_value_t = 3)]
    probation: u32,
    /// Bytes that a device keeps unacknowledged.
    #[arg(long, default_value_t = 4 << 20, value_name = "BYTES")]
    buffer: u64,
    /// A device takes no readings while so many of its batches wait.
    #[arg(long, value_name = "BATCHES")]
    waiting: Option<usize>,
    /// A batch that is not acknowledged in time is sent again.
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = span)]
    ack_deadline: Duration,
    /// Broker as the devices reach it, mqtt://host:port or mqtts://...; by default the running hub's.
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// PEM file of the authority that signed the broker's certificate.
    #[arg(long, value_name = "FILE")]
    broker_ca: Option<PathBuf>,
    /// At the end, ask the database whether every reading is there exactly once; fails where one is not.
    #[arg(long)]
    verify: bool,
    /// A line about progress this often.
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = span)]
    progress: Duration,
}

impl Args {
    fn plan(&self) -> Result<Plan> {
        let mut faults = Faults::default();
        for fault in &self.faults {
            faults.add(fault)?;
        }
        let batch = self.rate * self.batch_every.as_secs_f64() / f64::from(self.sensors.max(1));
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded just here"
        )]
        let per_batch = batch.round().clamp(1.0, 1e6) as u32;
        let start = if self.speed > 1 {
            self.start.timestamp_millis()
        } else {
            crate::clock::now().timestamp_millis()
        };
        let ramp = Duration::from_millis(u64::from(self.devices) * 2);
        Ok(Plan {
            devices: self.devices,
            prefix: self.prefix.clone(),
            seed: self.seed,
            sensors: self.sensors,
            per_batch,
            every: self.batch_every,
            speed: self.speed,
            start,
            duration: self.duration,
            drain: self.drain,
            ramp: self.ramp.unwrap_or(ramp),
            drift: self.drift,
            faults,
            gain: self.gain,
            probation: self.probation.max(1),
            buffer_bytes: self.buffer,
            waiting: self.waiting,
            settings: Settings {
                ack_deadline: millis(self.ack_deadline),
                ..Settings::default()
            },
        })
    }
}

/// Runs a fleet to its end.
///
/// # Errors
/// Options that do not go together, no hub, and with `--verify` a reading that is lost or twice.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let plan = args.plan()?;
    plan.validate()?;
    let url = args.broker.clone().or_else(|| running_broker(ctx));
    let url = url.context(
        "no hub runs on this data directory; start `serve`, or name a broker with --broker",
    )?;
    let broker = Link::parse(&url, args.broker_ca.clone())?;
    let database = ctx.database().await?;
    let signer = ctx.signer(database.store()).await?;
    let labels: BTreeMap<String, String> = args.labels.iter().cloned().collect();
    let known = fleet::provision(database.store(), plan.clone(), &labels).await?;
    eprintln!("{} devices may connect to {url}", plan.devices);
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });
    let tell = |summary: &crate::simulate::tally::Summary| eprintln!("{}", summary.line());
    let site = &ctx.config.site;
    let (summary, reports) =
        fleet::run(known, site, &broker, &signer, stop, args.progress, tell).await?;
    let verdict = if args.verify {
        Some(verify::verify(database.store(), &plan, &reports).await?)
    } else {
        None
    };
    ctx.print(
        &json!({"broker": url, "fleet": summary, "verify": verdict}),
        || {
            let found = verdict.as_ref().map(|v| {
                format!(
                    "\nof {} acknowledged readings {} lost, {} twice, {} with another value; {} open",
                    v.required, v.lost, v.twice, v.other, v.open
                )
            });
            format!("{}{}", summary.line(), found.unwrap_or_default())
        },
    )?;
    database.close().await?;
    match verdict {
        Some(v) if !v.holds() => bail!(
            "the database does not have each reading once: {}; keep it and report this",
            v.examples.join("; ")
        ),
        _ => Ok(()),
    }
}
