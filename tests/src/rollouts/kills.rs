//! Rollouts while processes are killed: owns which are started, who is killed when, and what each must have come to.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::bed::{BESIDE, Bed, stage};
use super::forge::{Forge, Harm};
use crate::faults::random::Random;
use crate::scenario::wait_for;

/// Versions 1 and 2 are good, this one is not: it is no number on agents and some made devices, and kills the others.
const BAD: u32 = 3;
/// Made ones, in one process.
const MADE: u32 = 8;
/// Real ones, each with a process of its own.
const AGENTS: u32 = 2;
/// Who is killed.
const VICTIMS: usize = 4;
const AN_AGENT: usize = 3;
/// A rollout that has not ended after so long counts as stuck. A device may wait a minute before it connects again.
const STUCK: Duration = Duration::from_secs(300);
const CALM: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(100);

/// How many and how hard.
#[derive(Debug, Clone, Copy)]
pub struct Kills {
    /// Rollouts.
    pub rollouts: u32,
    /// Forecasters whose rollouts go on side by side.
    pub side_by_side: usize,
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// Longest time between two kills; the shortest is a quarter of it.
    pub every: Duration,
}

/// What the rollouts came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Ended.
    pub ended: u32,
    /// Of these, with the version as champion.
    pub succeeded: u32,
    /// Processes killed: hub, worker, the made fleet, agents.
    pub kills: [u32; VICTIMS],
    /// What was wrong or stuck, in words.
    pub wrong: Vec<String>,
}

/// What a rollout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Bad,
    /// A good one that a person ends after so long.
    Aborted(Duration),
}

struct Rollout {
    id: u64,
    version: u32,
    kind: Kind,
    began: Instant,
    aborted: bool,
}

struct Lane {
    forecaster: String,
    champion: u32,
    rollout: Option<Rollout>,
}

/// Who is down, and until when.
struct Down {
    victim: usize,
    until: Instant,
}

/// Runs rollouts of good and bad models, some of them aborted, while hub, worker, made devices and agents are killed.
///
/// # Errors
/// The testbed cannot be had, or a process ended by itself.
pub fn kills(plan: Kills) -> Result<Report> {
    super::kept(|bed| {
        let report = run(bed, plan)?;
        ensure!(report.wrong.is_empty(), "{report:#?}");
        Ok(report)
    })
}

fn run(bed: &mut Bed, plan: Kills) -> Result<Report> {
    let mut random = Random::new(plan.seed);
    let mut lanes = Vec::new();
    for number in 0..plan.side_by_side {
        let forecaster = format!("f{number}");
        bed.versions(&forecaster, BAD - 1)?;
        let bad = Forge::open(bed, &forecaster)?.harmful(BAD, Harm::NotANumber)?;
        bed.import(&forecaster, &bad)?;
        lanes.push(Lane {
            forecaster,
            champion: 1,
            rollout: None,
        });
    }
    bed.define(BESIDE)?;
    bed.start_worker()?;
    start_fleet(bed)?;
    let forecasters: Vec<&str> = lanes.iter().map(|l| l.forecaster.as_str()).collect();
    bed.start_agents(AGENTS, &forecasters, "")?;
    calm(bed, &lanes)?;
    let mut report = Report::default();
    let mut started = 0;
    let mut down: Option<Down> = None;
    let mut next = Instant::now();
    let mut told = Instant::now();
    while report.ended < plan.rollouts {
        for lane in &mut lanes {
            if lane.rollout.is_none() && started < plan.rollouts {
                lane.rollout = Some(start(bed, lane, &mut random)?);
                started += 1;
            }
            look(bed, lane, &mut report)?;
        }
        if down.as_ref().is_some_and(|d| d.until <= Instant::now()) {
            revive(bed, down.take())?;
        } else if down.is_none() && next <= Instant::now() {
            down = Some(kill(bed, &mut random, &mut report)?);
            let every = u64::try_from(plan.every.as_millis())?;
            next = Instant::now() + Duration::from_millis(random.between(every / 4, every));
        }
        bed.tick()?;
        if told.elapsed() > Duration::from_secs(15) {
            told = Instant::now();
            println!("{} ended, kills {:?}", report.ended, report.kills);
        }
        std::thread::sleep(LOOK);
    }
    revive(bed, down)?;
    // Every device runs the champion of each forecaster, and no training is left behind.
    if let Err(error) = calm(bed, &lanes) {
        report.wrong.push(format!("{error:#}"));
    }
    Ok(report)
}

fn start_fleet(bed: &mut Bed) -> Result<()> {
    bed.start_fleet(&format!(
        "--devices {MADE} --sensors 1 --rate 4 --batch-every 250ms --speed 57600 --ack-deadline 3s \
         --fault nan=0.5@{BAD} --fault crash=1@{BAD}"
    ))
}

fn start(bed: &Bed, lane: &Lane, random: &mut Random) -> Result<Rollout> {
    let other = 3 - lane.champion;
    let (version, kind) = match random.below(10) {
        0..5 => (other, Kind::Good),
        5..8 => (BAD, Kind::Bad),
        _ => (
            other,
            Kind::Aborted(Duration::from_millis(random.below(3_000))),
        ),
    };
    // Nobody who is only killed may be taken for one that does not settle.
    let plan = [stage("canary", 25, 600), stage("all", 100, 600)].concat();
    let id = bed.roll_out(&lane.forecaster, version, &plan)?;
    if random.below(2) == 0 {
        bed.enqueue()?;
    }
    Ok(Rollout {
        id,
        version,
        kind,
        began: Instant::now(),
        aborted: false,
    })
}

/// What became of a lane's rollout, and whether that is right.
fn look(bed: &Bed, lane: &mut Lane, report: &mut Report) -> Result<()> {
    let Some(rollout) = &mut lane.rollout else {
        return Ok(());
    };
    if let Kind::Aborted(after) = rollout.kind
        && !rollout.aborted
        && rollout.began.elapsed() >= after
    {
        rollout.aborted = true;
        let id = rollout.id.to_string();
        // Refused where it has ended meanwhile.
        let _ = bed.hub.cli(&["rollout", "abort", &id, "--by", "bench"]);
    }
    let status = bed.status(rollout.id)?;
    let said = || {
        bed.text(&format!(
            "SELECT status || ': ' || reason FROM rollouts WHERE id = {}",
            rollout.id
        ))
    };
    let ended = matches!(status.as_str(), "succeeded" | "rolled_back" | "superseded");
    if !ended {
        ensure!(
            rollout.began.elapsed() < STUCK,
            "rollout {} ({:?}) is stuck: {}",
            rollout.id,
            rollout.kind,
            said()?
        );
        return Ok(());
    }
    let right = match rollout.kind {
        Kind::Good => status == "succeeded",
        Kind::Bad => status == "rolled_back",
        Kind::Aborted(_) => status != "superseded",
    };
    if status == "succeeded" {
        lane.champion = rollout.version;
        report.succeeded += 1;
    }
    let champion = bed.champion(&lane.forecaster)?;
    if !right || champion != Some(lane.champion) {
        report.wrong.push(format!(
            "rollout {} of version {} ({:?}) is {}; champion is {champion:?}, was to be {}",
            rollout.id,
            rollout.version,
            rollout.kind,
            said()?,
            lane.champion
        ));
    }
    report.ended += 1;
    lane.rollout = None;
    Ok(())
}

fn kill(bed: &mut Bed, random: &mut Random, report: &mut Report) -> Result<Down> {
    // However short the run is, an agent is among them.
    let victim = match report.kills {
        [0, 0, 0, 0] => AN_AGENT,
        _ => random.index(VICTIMS),
    };
    match victim {
        0 => bed.hub.kill().map(drop),
        1 => bed.kill_worker(),
        AN_AGENT => bed.kill_agent(random.index(AGENTS as usize)),
        _ => bed.kill_fleet(),
    }?;
    if let Some(count) = report.kills.get_mut(victim) {
        *count += 1;
    }
    let until = Instant::now() + Duration::from_millis(random.below(1_000));
    Ok(Down { victim, until })
}

fn revive(bed: &mut Bed, down: Option<Down>) -> Result<()> {
    match down.map(|d| d.victim) {
        Some(0) => bed.hub.start(),
        Some(1) => bed.start_worker(),
        Some(AN_AGENT) => bed.revive_agents(),
        Some(_) => start_fleet(bed),
        None => Ok(()),
    }
}

/// Waits, with nobody being killed, until every device runs the champions, as it was ordered, and no job waits.
fn calm(bed: &mut Bed, lanes: &[Lane]) -> Result<()> {
    let mut left = String::new();
    let all = u64::from(MADE + AGENTS);
    let settled = wait_for("devices and jobs to settle", CALM, || {
        bed.tick()?;
        left.clear();
        for lane in lanes {
            let (name, version) = (&lane.forecaster, lane.champion);
            let healthy = bed.healthy(name, version)?;
            let ordered = bed.postgres.number(&format!(
                "SELECT count(*) FROM desired WHERE forecaster = '{name}' AND model_version = {version} AND stage = 'active'"
            ))?;
            if (healthy, ordered) != (all, all) {
                left = format!("{name}: {healthy} run version {version}, {ordered} are ordered it");
            }
        }
        let jobs = bed.postgres.number(
            "SELECT count(*) FROM jobs WHERE status NOT IN ('succeeded', 'failed', 'cancelled')",
        )?;
        if jobs > 0 {
            left = format!("{jobs} jobs have not ended");
        }
        Ok(left.is_empty().then_some(()))
    });
    settled.context(left)
}
