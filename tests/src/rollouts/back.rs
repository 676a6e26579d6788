//! The figure of going back: from the hub's decision until every canary runs the champion again.

use anyhow::{Result, ensure};

use super::bed::{Bed, FORECASTER, stage};
use super::line;

/// Of these a tenth are canaries, and the new model fails on half of them.
const DEVICES: u32 = 200;

pub(super) fn measure(bed: &mut Bed, times: u32) -> Result<()> {
    bed.versions(FORECASTER, 2)?;
    bed.start_fleet(&format!(
        "--devices {DEVICES} --sensors 1 --rate 1 --batch-every 1s --speed 14400 --fault nan=0.5@2"
    ))?;
    let mut took = Vec::new();
    for _ in 0..times {
        bed.wait("the fleet to run the champion", |bed| {
            Ok(bed.healthy(FORECASTER, 1)? == u64::from(DEVICES))
        })?;
        let plan = [stage("canary", 10, 60), stage("all", 100, 60)].concat();
        let rollout = bed.roll_out(FORECASTER, 2, &plan)?;
        bed.wait("the rollout to go back", |bed| {
            Ok(bed.status(rollout)? == "rolled_back")
        })?;
        let decided = bed.postgres.number(&format!(
            "SELECT machine->>'since' FROM rollouts WHERE id = {rollout}"
        ))?;
        // Whoever was ordered anything: what it said last that was not the champion's, and the answer after it.
        let back = format!(
            "FROM deployments p JOIN device_states s USING (device), jsonb_array_elements(s.state->'forecasters') f
             WHERE p.rollout = {rollout} AND p.generation > 0 AND (f->>'generation')::bigint >= p.generation
             AND (f->>'model_version')::bigint = 1"
        );
        let ordered = bed.postgres.number(&format!(
            "SELECT count(*) FROM deployments WHERE rollout = {rollout} AND generation > 0"
        ))?;
        bed.wait("the canaries to be back", |bed| {
            Ok(bed.postgres.number(&format!("SELECT count(*) {back}"))? == ordered)
        })?;
        let last = bed.postgres.number(&format!(
            "SELECT (extract(epoch FROM max(s.received_at)) * 1000)::bigint {back}"
        ))?;
        ensure!(ordered == u64::from(DEVICES / 10), "{ordered} were ordered");
        took.push(last.saturating_sub(decided) as f64 / 1e3);
    }
    took.sort_by(f64::total_cmp);
    line(
        "canaries_back_median",
        took.get(took.len() / 2).copied().unwrap_or(f64::NAN),
        "s",
        "30; 5",
    );
    line(
        "canaries_back_longest",
        took.last().copied().unwrap_or(f64::NAN),
        "s",
        "30; 5",
    );
    Ok(())
}
