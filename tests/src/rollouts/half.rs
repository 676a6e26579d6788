//! A bundle that a power cut stops half way: owns the proof that what was there is not fetched again, never a figure.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fieldcast_wire::caps::BLOCK;

use super::bed::{Bed, FORECASTER, LONG, stage, text};
use super::forge::{Forge, Harm};

/// How long a forecast takes is not what the model is on trial for.
const PATIENT: &str = "[latency]\nfloor_ms = 60000\n";
/// Of more than two hundred.
const BLOCKS: usize = 16;

/// Fails where the agent asks again for what it had.
pub(super) fn prove(bed: &mut Bed) -> Result<()> {
    bed.versions(FORECASTER, 1)?;
    bed.start_agents(1, &[FORECASTER], PATIENT)?;
    bed.wait("the agent to run the champion", |bed| {
        Ok(bed.healthy(FORECASTER, 1)? == 1)
    })?;
    // Large, and with so much patience as good as any.
    let large = Forge::open(bed, FORECASTER)?.harmful(2, Harm::Slow)?;
    bed.import(FORECASTER, &large)?;
    bed.roll_out(FORECASTER, 2, &stage("all", 100, 600))?;
    let folder = bed.dir.join("agent-0/data/bundles");
    let map = folder.join(format!("{}.map", bed.digest(FORECASTER, 2)?));
    let since = Instant::now();
    while blocks(&map).0 < BLOCKS {
        ensure!(since.elapsed() < LONG, "no bundle is fetched");
        std::thread::sleep(Duration::from_millis(2));
    }
    bed.kill_agent(0)?;
    let (here, all) = blocks(&map);
    ensure!(here < all, "the bundle was there before the process ended");

    // From now on the hub has only what the agent lacks.
    bed.hub.kill()?;
    let file = bed.dir.join("second-half.bundle");
    let kept = std::fs::read(&map)?;
    let mut rest = large;
    for (block, here) in rest.chunks_mut(BLOCK).zip(kept) {
        if here == 1 {
            block.fill(0);
        }
    }
    std::fs::write(&file, &rest)?;
    bed.postgres.execute(&format!(
        "UPDATE bundles SET bytes = pg_read_binary_file('{}')
         WHERE sha = (SELECT bundle FROM model_versions WHERE forecaster = '{FORECASTER}' AND version = 2)",
        text(&file)?
    ))?;
    bed.hub.start()?;
    bed.hub.wait_ready()?;
    bed.revive_agents()?;
    bed.wait("the agent to run what it began to fetch", |bed| {
        Ok(bed.healthy(FORECASTER, 2)? == 1)
    })
    .context("it fetched anew what it had, or did not go on")
}

/// How many are there, and how many there are; none where the download has ended.
fn blocks(map: &Path) -> (usize, usize) {
    let map = std::fs::read(map).unwrap_or_default();
    (map.iter().filter(|here| **here == 1).count(), map.len())
}
