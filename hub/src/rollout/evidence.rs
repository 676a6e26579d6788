//! Evidence of a rollout: owns which blocks of paired losses count and when, never the test that judges them.
//!
//! A bet is made on a block once, so a block must be complete before it counts, and what comes later must not change it. Both
//! follow from the order in which rows came, so that every hub that reads the table finds the same:
//! ```text
//! open -> closed   every watcher has sent this block or a later one,
//!                  or half of those that ever sent one are two blocks ahead,
//!                  or some are so far ahead that nobody is waited for
//! closed: what still comes for it, or for an earlier one, is left out
//! ```
//! Of three watchers or more it takes two that are ahead: one clock that is wrong, or one device that makes blocks up, would otherwise
//! close them all before the others are heard. Where only one is left that sends, the rollout pauses for want of evidence.
//! The champion is what a new model is compared with. A device may have given it up by itself, for being far worse than nothing:
//! in a block in which it ran nowhere, what devices run instead takes its place, as nobody would ever be shown anything otherwise.
//! A version that devices still run and nobody has accepted stands in for nothing.
//! Data time passes with what is sent, not with what counts: a rollout none of whose blocks counts ends by its plan, too.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use fieldcast_drift::paired::{Row, Settings, Test, Verdict};
use fieldcast_features::ForecasterSpec;
use fieldcast_store::Store;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::paired_losses::{Pair, PairedRow};
use fieldcast_store::rollouts::RolloutRow;
use fieldcast_wire::Sha256;

use super::machine::{Evidence, Rollout};

/// What devices compare models over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocks {
    /// Length, milliseconds.
    pub(super) ms: i64,
    /// Pairs of a forecast's steps and actual values in one, at most.
    pub(super) pairs: usize,
}

impl Blocks {
    pub(super) fn of(spec: &ForecasterSpec) -> Self {
        Self {
            ms: spec.block_ms(),
            pairs: spec.block_pairs(),
        }
    }
}

/// Blocks by which half of the reporters must be ahead for a block to close without the others.
const AHEAD: i64 = 2;
/// Blocks by which some must be ahead for nobody to be waited for.
const FAR_AHEAD: i64 = 14;
/// Of so many watchers or more, one that is ahead says nothing of the others.
const SEVERAL: usize = 3;

/// What is known of the new model beside the old one, where that is more than the rollout knows already.
///
/// # Errors
/// The database, or a malformed digest.
pub(super) async fn look(
    store: &Store,
    row: &RolloutRow,
    rollout: &Rollout,
    target: &ModelVersionRow,
    champion: &ModelVersionRow,
    blocks: Blocks,
) -> Result<Option<Evidence>> {
    let digest = |hex: &str| Sha256::from_hex(hex).context("the bundle's digest is malformed");
    let (running, watching) = (digest(&champion.bundle)?, digest(&target.bundle)?);
    let pair = Pair {
        forecaster: &row.forecaster,
        running_version: champion.version,
        running: &running.0,
        watching_version: target.version,
        watching: &watching.0,
        since: row.created_at,
    };
    let newest = store.newest_paired_losses(&pair).await?;
    if newest == rollout.evidence.as_ref().map_or(0, |e| e.newest) {
        return Ok(None);
    }
    let rows = store.paired_losses(&pair).await?;
    let stage = rollout.stage;
    let watchers = rollout.devices.iter();
    let watchers = watchers.filter(|(_, d)| d.generation > 0 && d.stages.contains(&stage));
    let watchers: BTreeSet<&str> = watchers.map(|(name, _)| name.as_str()).collect();
    let challenger = u32::try_from(store.challenger_number(row).await?)?.max(1);
    let mut known = judge(&rows, &watchers, blocks, challenger)?;
    known.newest = newest;
    Ok(Some(known))
}

/// The verdict on what is complete.
fn judge(
    rows: &[PairedRow],
    watchers: &BTreeSet<&str>,
    blocks: Blocks,
    challenger: u32,
) -> Result<Evidence> {
    let block_ms = blocks.ms;
    let closed = closed(rows, watchers, block_ms);
    let settings = Settings::of_challenger(challenger).with_pairs(blocks.pairs);
    let verdict = Test::new(settings)?.verdict(closed.iter().map(|r| losses(r, block_ms)));
    let instead = closed.iter().filter(|r| !r.beside_champion);
    let instead: BTreeSet<i64> = instead.map(|r| block_of(r, block_ms)).collect();
    Ok(Evidence {
        challenger,
        span_ms: span(rows, watchers, block_ms),
        // A device's first block is none that is judged.
        instead: u32::try_from(instead.len())
            .unwrap_or(u32::MAX)
            .min(verdict.blocks),
        ..told(&verdict, &settings)
    })
}

fn told(verdict: &Verdict, settings: &Settings) -> Evidence {
    let gain = verdict.gain;
    let finite = |v: f64| if v.is_finite() { v } else { v.signum() };
    let of = |part: fn(&fieldcast_drift::paired::Gain) -> f64| {
        gain.as_ref().map_or(0.0, |g| finite(part(g)))
    };
    Evidence {
        blocks: verdict.blocks,
        devices: verdict.devices,
        gain: of(|g| g.estimate),
        lower: of(|g| g.lower),
        upper: of(|g| g.upper),
        bet_better: verdict.e_superior,
        needed_better: 1.0 / settings.alpha,
        bet_worse: verdict.e_harm,
        needed_worse: 1.0 / settings.harm_alpha,
        better: verdict.superior,
        harmful: verdict.harmful,
        ..Evidence::default()
    }
}

/// Quantile losses, where both models have levels in common; the errors of their means otherwise.
fn losses(row: &PairedRow, block_ms: i64) -> Row<&str> {
    let quantiles = row.running_quantile > 0.0 || row.watching_quantile > 0.0;
    let (running, watching) = if quantiles {
        (row.running_quantile, row.watching_quantile)
    } else {
        (row.running_abs, row.watching_abs)
    };
    Row {
        from_ms: block_of(row, block_ms),
        device: row.device.as_str(),
        running,
        watching,
        steps: u32::try_from(row.steps).unwrap_or(u32::MAX),
    }
}

/// Begin of the block that a row belongs to: a device may begin within one.
fn block_of(row: &PairedRow, block_ms: i64) -> i64 {
    row.from_time.timestamp_millis().div_euclid(block_ms.max(1)) * block_ms.max(1)
}

/// Data time that has passed since watching began, whether its blocks count or not: a rollout of which none counts must end, too.
/// Of several watchers the middle one's first and newest block, so that a single clock decides nothing.
fn span(rows: &[PairedRow], watchers: &BTreeSet<&str>, block_ms: i64) -> i64 {
    let mut seen: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for row in rows.iter().filter(|r| watchers.contains(r.device.as_str())) {
        let block = block_of(row, block_ms);
        let (first, last) = seen.entry(&row.device).or_insert((block, block));
        (*first, *last) = ((*first).min(block), (*last).max(block));
    }
    let (mut first, mut last): (Vec<i64>, Vec<i64>) = seen.into_values().unzip();
    first.sort_unstable();
    last.sort_unstable();
    let begin = first.get(first.len().saturating_sub(1) / 2);
    let end = last.get(last.len() / 2);
    begin.zip(end).map_or(0, |(begin, end)| {
        (end - begin).saturating_add(block_ms).max(0)
    })
}

/// The rows of closed blocks; `rows` in the order in which they came.
fn closed<'r>(
    rows: &'r [PairedRow],
    watchers: &BTreeSet<&str>,
    block_ms: i64,
) -> Vec<&'r PairedRow> {
    let mut open: BTreeMap<i64, Vec<&PairedRow>> = BTreeMap::new();
    // Each watcher's newest block, and whether the champion ran in it.
    let mut newest: BTreeMap<&str, (i64, bool)> = BTreeMap::new();
    let (mut closed, mut until) = (Vec::new(), i64::MIN);
    for row in rows {
        let (device, block) = (row.device.as_str(), block_of(row, block_ms));
        if !watchers.contains(device) {
            continue;
        }
        let last = newest.entry(device).or_insert((block, row.beside_champion));
        if block >= last.0 {
            *last = (block, row.beside_champion);
        }
        if block > until {
            open.entry(block).or_default().push(row);
        }
        while let Some(first) = open.first_entry() {
            if !is_complete(*first.key(), &newest, watchers.len(), block_ms) {
                break;
            }
            until = *first.key();
            let rows = first.remove();
            let champion = rows.iter().any(|r| r.beside_champion);
            // Where it still runs somewhere whose row is only late, what stands in for it elsewhere is no measure. Who has been silent
            // for long says nothing of where it runs.
            let awaited = until.saturating_sub(FAR_AHEAD.saturating_mul(block_ms));
            if champion || newest.values().all(|(n, beside)| !beside || *n <= awaited) {
                let counts =
                    |r: &&PairedRow| r.beside_champion == champion && (champion || r.stands_in);
                closed.extend(rows.into_iter().filter(counts));
            }
        }
    }
    closed
}

fn is_complete(
    block: i64,
    newest: &BTreeMap<&str, (i64, bool)>,
    watchers: usize,
    block_ms: i64,
) -> bool {
    let at = |ahead: i64| {
        let from = block.saturating_add(ahead.saturating_mul(block_ms));
        newest.values().filter(|(n, _)| *n >= from).count()
    };
    let fewest = if watchers < SEVERAL { 1 } else { 2 };
    let half = newest.len().div_ceil(2).max(fewest);
    at(0) == watchers || at(AHEAD) >= half || at(FAR_AHEAD) >= fewest
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
