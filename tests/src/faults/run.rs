//! A run from its first step to the verdict: owns the clock of the steps and the lines that tell of progress.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::bed::Bed;
use super::oracle::Verdict;
use super::plan::{Plan, Step, steps};
use crate::scenario::wait_for;

/// What a run ended with.
#[derive(Debug, Clone)]
pub struct Report {
    /// The oracle's last word.
    pub verdict: Verdict,
    /// Processes killed.
    pub kills: u64,
    /// Readings that agents said they had accepted.
    pub readings: u64,
    /// From the end of the faults until a fresh reading of each device was in the database.
    pub fresh: Duration,
}

impl Report {
    /// Whether nothing is lost, twice or made up.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let v = &self.verdict;
        v.lost == 0 && v.twice == 0 && v.made_up == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = &self.verdict;
        write!(
            f,
            "lost {} twice {} kills {} readings {}",
            v.lost, v.twice, self.kills, self.readings
        )
    }
}

const LOOK: Duration = Duration::from_millis(20);
const PROGRESS: Duration = Duration::from_secs(15);
/// A device may wait a minute before it connects again, and repeats what had no answer.
const FRESH_WITHIN: Duration = Duration::from_secs(120);
const DRAINED_WITHIN: Duration = Duration::from_secs(300);

/// Runs a plan; what the processes wrote stays where a run fails.
///
/// # Errors
/// The testbed cannot be had, a process ended by itself, or no fresh reading passed after the faults.
pub fn run(plan: &Plan) -> Result<Report> {
    println!("seed {} for {:?}: {:?}", plan.seed, plan.duration, plan);
    let dir = tempfile::Builder::new()
        .prefix("fieldcast-faults-")
        .tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let report = Bed::start(plan, dir.path()).and_then(|mut bed| whole(plan, &mut bed));
    if !report.as_ref().is_ok_and(Report::is_good) {
        let kept = dir.keep();
        println!("logs, buffers and database are kept in {}", kept.display());
    }
    report.with_context(|| format!("a run with seed {}", plan.seed))
}

fn whole(plan: &Plan, bed: &mut Bed) -> Result<Report> {
    let began = Instant::now();
    let mut due = steps(plan, bed.has_broker()).into_iter().peekable();
    let mut told = began;
    // A trial stops the clock of the plan.
    let mut trials = Duration::ZERO;
    while began.elapsed().saturating_sub(trials) < plan.duration {
        let now = began.elapsed().saturating_sub(trials);
        if let Some((_, step)) = due.next_if(|(at, _)| *at <= now) {
            say(plan, began, step);
            let start = Instant::now();
            bed.step(step)?;
            if matches!(step, Step::Try(_)) {
                trials += start.elapsed();
            }
            continue;
        }
        bed.tend()?;
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            progress(bed, began)?;
        }
        std::thread::sleep(LOOK);
    }
    bed.heal()?;
    let fresh = fresh(bed)?;
    for device in &bed.devices {
        device.source.pause()?;
    }
    bed.wait_drained(DRAINED_WITHIN)?;
    let verdict = bed.judge()?;
    bed.oracle.numbers(&bed.postgres)?;
    let report = Report {
        verdict,
        kills: bed.kills,
        readings: bed.accepted(),
        fresh,
    };
    println!(
        "{} rows compared, {} readings under gap records, a fresh reading of each device after {:.1} s",
        report.verdict.rows,
        report.verdict.under_gaps,
        fresh.as_secs_f64()
    );
    for example in &report.verdict.examples {
        println!("  {example}");
    }
    Ok(report)
}

fn say(plan: &Plan, began: Instant, step: Step) {
    if plan.talk {
        println!("{:8.2} {step:?}", began.elapsed().as_secs_f64());
    }
}

/// A checkpoint: what is on its way may be missing, but nothing may be twice or made up. The database may be down.
fn progress(bed: &mut Bed, began: Instant) -> Result<()> {
    let (kills, readings) = (bed.kills, bed.accepted());
    let seconds = began.elapsed().as_secs();
    match bed.look() {
        Ok(v) if v.twice > 0 || v.made_up > 0 => bail!("after {seconds} s: {v:?}"),
        Ok(v) => println!(
            "{seconds:6} s: kills {kills} readings {readings} on their way {}",
            v.lost
        ),
        Err(_) => {
            println!("{seconds:6} s: kills {kills} readings {readings}, the database is away")
        }
    }
    Ok(())
}

/// How long it takes until a reading of each device that was accepted from now on is in the database.
fn fresh(bed: &mut Bed) -> Result<Duration> {
    let began = Instant::now();
    let numbers: Vec<(String, u64)> = bed
        .devices
        .iter()
        .map(|d| (d.name.clone(), d.source.log.next()))
        .collect();
    wait_for("a fresh reading of each device", FRESH_WITHIN, || {
        bed.tend()?;
        for (name, n) in &numbers {
            if !bed.oracle.is_there(&bed.postgres, name, *n)? {
                return Ok(None);
            }
        }
        Ok(Some(began.elapsed()))
    })
}
