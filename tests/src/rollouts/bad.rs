//! The figure of bad models: real agents are ordered models that are no number, slow, deadly or tampered with; owns what each rollout
//! must come to, never what is wrong with a model.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::bed::{Bed, FORECASTER, LONG, stage, text};
use super::forge::{Forge, Harm, Wrong, tampered};
use super::line;
use crate::scenario::wait_for;

/// One of them is the canary.
const AGENTS: u32 = 2;
/// What devices say ends a stage long before.
const DEADLINE_S: u32 = 600;
/// Bytes that are not the ordered ones are asked for again and again.
const SHORT_S: u32 = 30;
/// As a person may set it: the default spares what takes less than 10 ms, also where it is many times slower.
const SETTINGS: &str = "[latency]\nfloor_ms = 1\n";

/// Where how long it takes is not what it is on trial for.
const PATIENT: &str = "[latency]\nfloor_ms = 60000\n";

/// How a model is bad.
#[derive(Debug, Clone, Copy)]
enum Bad {
    /// It is signed as any other.
    Model(Harm),
    /// Whoever can write to the database has put it in the place of a good one, with its own digest.
    Stored(Wrong),
    /// The ordered bundle is a good one, and other bytes come of it.
    Served,
}

/// Each way, its name, and what devices say of it.
const ALL: [(Bad, &str, &str); 6] = [
    (
        Bad::Model(Harm::NotANumber),
        "not_a_number",
        "`mean` holds NaN or infinity",
    ),
    (Bad::Model(Harm::Slow), "slow", "slow: a forecast takes"),
    (
        Bad::Model(Harm::Deadly),
        "deadly",
        "while this model made a forecast",
    ),
    (Bad::Stored(Wrong::Graph), "changed_graph", "V7: "),
    (Bad::Stored(Wrong::Signature), "wrong_signature", "V2: "),
    (
        Bad::Served,
        "other_bytes_served",
        "still downloading in stage canary",
    ),
];

/// Rolls out each bad model so many times; how many rollouts that were.
pub(super) fn measure(bed: &mut Bed, times: u32) -> Result<u32> {
    bed.versions(FORECASTER, 1)?;
    bed.start_agents(AGENTS, &[FORECASTER], SETTINGS)?;
    let forge = Forge::open(bed, FORECASTER)?;
    let mut version = 1;
    for (bad, name, says) in ALL {
        let deadly = matches!(bad, Bad::Model(Harm::Deadly));
        bed.set_agents(if deadly { PATIENT } else { SETTINGS })?;
        let mut longest: f64 = 0.0;
        for _ in 0..times {
            version += 1;
            longest = longest.max(rolled_out(bed, &forge, version, bad, says)?);
        }
        line(
            &format!("bad_{name}_back_longest"),
            longest,
            "s",
            "of rollouts",
        );
    }
    let rollouts = version - 1;
    let past = bed.postgres.number(
        "SELECT count(*) FROM rollouts WHERE model_version > 1 AND ((machine->>'stage')::int > 0 OR status <> 'rolled_back')",
    )?;
    line(
        "bad_past_canary",
        past as f64,
        "",
        &format!("of {rollouts}: 0; 0"),
    );
    ensure!(past == 0, "{past} bad models came past the canaries");
    Ok(rollouts)
}

/// One rollout of a bad model, until every agent runs the champion; how long that took.
fn rolled_out(bed: &mut Bed, forge: &Forge, version: u32, bad: Bad, says: &str) -> Result<f64> {
    runs_champion(bed)?;
    put(bed, forge, version, bad)?;
    let deadline = if matches!(bad, Bad::Served) {
        SHORT_S
    } else {
        DEADLINE_S
    };
    let plan = [stage("canary", 50, deadline), stage("all", 100, DEADLINE_S)].concat();
    let began = Instant::now();
    let rollout = bed.roll_out(FORECASTER, version, &plan)?;
    let deadly = match bad {
        Bad::Model(Harm::Deadly) => Some(bed.digest(FORECASTER, version)?),
        _ => None,
    };
    wait_for("the rollout to end", LONG, || {
        bed.tick()?;
        if let Some(sha) = &deadly {
            bed.kill_where(sha)?;
        }
        let ended = matches!(bed.status(rollout)?.as_str(), "rolled_back" | "succeeded");
        Ok(ended.then_some(()))
    })?;
    runs_champion(bed)?;
    let took = began.elapsed().as_secs_f64();
    let reason = bed.text(&format!(
        "SELECT status || ': ' || reason FROM rollouts WHERE id = {rollout}"
    ))?;
    println!("version {version}: {reason}");
    ensure!(
        reason.starts_with("rolled_back: ")
            && reason.contains("in stage canary")
            && reason.contains(says),
        "version {version}, {bad:?}, was to go back with `{says}`: {reason}"
    );
    let ordered = bed.postgres.number(&format!(
        "SELECT count(*) FROM deployments WHERE rollout = {rollout} AND generation > 0"
    ))?;
    ensure!(
        ordered == 1,
        "{ordered} devices were ordered version {version}, one is the canary"
    );
    ensure!(bed.champion(FORECASTER)? == Some(1), "the title has moved");
    Ok(took)
}

fn runs_champion(bed: &mut Bed) -> Result<()> {
    bed.wait("every agent to run the champion", |bed| {
        Ok(bed.healthy(FORECASTER, 1)? == u64::from(AGENTS))
    })
}

/// Makes it a version here.
fn put(bed: &Bed, forge: &Forge, version: u32, bad: Bad) -> Result<()> {
    let Bad::Model(harm) = bad else {
        return put_tampered(bed, forge, version, bad);
    };
    bed.import(FORECASTER, &forge.harmful(version, harm)?)
}

fn put_tampered(bed: &Bed, forge: &Forge, version: u32, bad: Bad) -> Result<()> {
    let good = forge.harmless(version)?;
    let wrong = match bad {
        Bad::Stored(wrong) => wrong,
        _ => Wrong::Graph,
    };
    let other = tampered(&good, wrong)?;
    let refused = bed.import(FORECASTER, &other).err();
    refused.context("the hub took a bundle that was tampered with")?;
    bed.import(FORECASTER, &good)?;
    let file = bed.dir.join("tampered.bundle");
    std::fs::write(&file, &other)?;
    let other = format!("pg_read_binary_file('{}')", text(&file)?);
    let version = format!("forecaster = '{FORECASTER}' AND version = {version}");
    bed.postgres.execute(&match bad {
        Bad::Stored(_) => format!(
            "INSERT INTO bundles (sha, bytes) SELECT sha256({other}), {other};
             UPDATE model_versions SET bundle = sha256({other}) WHERE {version}"
        ),
        _ => format!(
            "UPDATE bundles SET bytes = {other} WHERE sha = (SELECT bundle FROM model_versions WHERE {version})"
        ),
    })
}
