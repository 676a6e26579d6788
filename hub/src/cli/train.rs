//! `fieldcast-hub train`: owns its options and output, never the work behind them.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fieldcast_store::Store;
use fieldcast_store::decisions::NewDecision;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::tables::read_config;
use super::who::user;
use crate::features;
use crate::jobs::Worker;
use crate::training::{KIND, Request};

/// A job that nobody has claimed after this long is done by the command itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// Options of `train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Forecaster.
    #[arg(required_unless_present = "run")]
    name: Option<String>,
    /// Train once more from the snapshot, cut, seed and settings of this training run; equal programs make equal models.
    #[arg(long, value_name = "N", conflicts_with_all = ["name", "seed", "onset", "config"])]
    run: Option<i64>,
    /// Why, for the record.
    #[arg(long, default_value = "asked for by a person")]
    reason: String,
    /// Seed of the random numbers; the database keeps none above 2^63 - 1.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=i64::MAX.unsigned_abs()))]
    seed: u64,
    /// Since when the world is different (data time, RFC 3339), not after the newest reading; rows after it count more.
    #[arg(long, value_name = "TIME")]
    onset: Option<chrono::DateTime<chrono::Utc>>,
    /// Settings of the training, TOML or JSON, such as `search` found; those it leaves out keep their defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// Only enqueue; do not wait for the end.
    #[arg(long)]
    detach: bool,
}

/// Runs the command.
///
/// # Errors
/// An unknown forecaster, a failed training, or the database.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let database = ctx.database().await?;
    let store = database.store();
    let (detach, reason, onset) = (args.detach, args.reason.clone(), args.onset);
    let (name, request) = request(store, args).await?;
    let Some(forecaster) = store.forecaster(&name).await? else {
        bail!(
            "forecaster `{name}` is not defined; define it with `fieldcast-hub forecaster apply FILE`"
        );
    };
    let newest = features::newest(store, &forecaster.spec).await?;
    let newest = newest.and_then(chrono::DateTime::from_timestamp_millis);
    // A clock that was ahead may have left readings of a time that has not come.
    let now = crate::clock::now();
    let known = newest.map_or(now, |newest| newest.min(now));
    if let Some(onset) = onset.filter(|onset| *onset > known) {
        bail!(
            "--onset {onset} lies after {known}, until when `{name}` has readings: nothing is known yet of a world that begins then; \
             name an earlier time, or leave --onset out"
        );
    }
    let person = user();
    // A word of its own: what a person asks for spends no budget and starts no cool-down.
    let decision = NewDecision {
        forecaster: &name,
        decision: "train",
        reason: &reason,
        data_time: newest,
        decided_by: &person,
        ..NewDecision::default()
    };
    let request = json!(request);
    let asked = store.enqueue_decided(KIND, &request, &decision);
    let (job, new) = asked.await?;
    // What is asked twice is done once, and followed twice.
    if !new && store.job(job).await?.is_some_and(|j| j.payload != request) {
        bail!(
            "training run {job} of `{name}` is under way and was asked something else, so nothing of this is done; wait for its \
             end (`fieldcast-hub run show {job}`), or `fieldcast-hub run cancel {job}` first"
        );
    }
    if detach {
        return ctx.print(&json!({"training_run": job}), || {
            format!("training run {job} is queued")
        });
    }
    tokio::select! {
        done = follow(ctx, store, job) => done,
        Err(failed) = stand_in(ctx, store, job) => Err(failed),
    }
}

/// Does the job whenever nobody else does: there may be no worker, or the one that had it may have died.
async fn stand_in(ctx: &Context, store: &Store, job: i64) -> Result<Infallible> {
    let cancel = CancellationToken::new();
    loop {
        tokio::time::sleep(PATIENCE).await;
        store.requeue_expired().await?;
        if store.job(job).await?.is_some_and(|j| j.status == "queued") {
            let worker = Worker::new(store.clone(), ctx.signer(store).await?);
            worker.once(Some(job), &cancel).await?;
        }
    }
}

/// The forecaster and what is asked of it.
async fn request(store: &Store, args: Args) -> Result<(String, Request)> {
    let person = || "person".to_owned();
    let Some(run) = args.run else {
        let request = Request {
            trigger: person(),
            reason: args.reason,
            onset: args.onset.map(|t| t.timestamp_millis()),
            seed: args.seed,
            config: args.config.as_deref().map(read_config).transpose()?,
            again: None,
        };
        return Ok((args.name.unwrap_or_default(), request));
    };
    let Some(job) = store.job(run).await?.filter(|j| j.kind == KIND) else {
        bail!("there is no training run {run}; see `fieldcast-hub run list`")
    };
    let earlier: Request = serde_json::from_value(job.payload)
        .with_context(|| format!("read what training run {run} was asked; train without --run"))?;
    let request = Request {
        trigger: person(),
        reason: args.reason,
        again: Some(earlier.again.unwrap_or(run)),
        ..earlier
    };
    Ok((job.subject, request))
}

async fn follow(ctx: &Context, store: &Store, id: i64) -> Result<()> {
    let mut after = 0;
    let mut said = String::new();
    loop {
        for line in store.job_lines(id, after).await? {
            after = line.id;
            tell(ctx, &line.line);
        }
        let Some(job) = store.job(id).await? else {
            bail!("training run {id} is gone from the database")
        };
        if job.progress_text != said && job.finished_at.is_none() {
            said.clone_from(&job.progress_text);
            tell(ctx, &format!("{:3.0} % {said}", 100.0 * job.progress));
        }
        if job.finished_at.is_some() {
            for line in store.job_lines(id, after).await? {
                tell(ctx, &line.line);
            }
            if job.status != "succeeded" {
                bail!(
                    "training run {id} {}: {}",
                    job.status,
                    job.error.unwrap_or_default()
                );
            }
            let result = job.result.unwrap_or_default();
            let answer = json!({"training_run": id, "result": result});
            return ctx.print(&answer, || {
                let text = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
                let version = result["model_version"].as_i64().unwrap_or(0);
                format!("version {version} ({}): {}", text("chosen"), text("reason"))
            });
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn tell(ctx: &Context, line: &str) {
    use std::io::Write as _;
    if !ctx.json {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}
