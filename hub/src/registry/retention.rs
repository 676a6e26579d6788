//! Which bundles may go: owns the choice and its limits, never the SQL that removes them.

use std::collections::BTreeSet;

use fieldcast_store::bundles::HeldRow;
use fieldcast_store::{Result, Store};
use fieldcast_wire::{message, pb};

/// The newest are kept in any case: what is made now is judged beside what was made before.
const AT_LEAST: usize = 2;

/// What devices say of bundles of a forecaster: those that run, and those that they fall back to by themselves. None where a
/// device's word cannot be read: then anything may run there.
#[must_use]
pub fn on_devices(states: &[Vec<u8>], forecaster: &str) -> Option<BTreeSet<Vec<u8>>> {
    let mut there = BTreeSet::new();
    for raw in states {
        let state = message::decode::<pb::State>("state", raw).ok()?;
        for f in state.forecasters {
            if f.forecaster == forecaster {
                there.extend([f.running, f.last_good]);
            }
        }
    }
    Some(there)
}

/// Versions, newest first, whose bundles nobody needs: beyond the newest, named by no title, order or rollout, and on no
/// device.
#[must_use]
pub fn choose<'a>(
    held: &'a [HeldRow],
    named: &[i64],
    on_devices: &BTreeSet<Vec<u8>>,
    newest: usize,
) -> Vec<&'a HeldRow> {
    let needed: BTreeSet<&Vec<u8>> = held
        .iter()
        .take(newest.max(AT_LEAST))
        .chain(held.iter().filter(|h| named.contains(&h.version)))
        .map(|h| &h.bundle)
        .chain(on_devices)
        .collect();
    held.iter()
        .filter(|h| !needed.contains(&h.bundle))
        .collect()
}

/// Removes the bundles that nobody needs, of every forecaster that has more than the newest; answers which versions.
///
/// # Errors
/// The database; what was removed until then stays so.
pub async fn apply(store: &Store, newest: u32) -> Result<Vec<(String, i64)>> {
    let mut removed = Vec::new();
    let newest = usize::try_from(newest).unwrap_or(usize::MAX).max(AT_LEAST);
    for forecaster in store
        .many_bundles(i64::try_from(newest).unwrap_or(i64::MAX))
        .await?
    {
        let locked = store.lock_bundles(&forecaster).await?;
        let Some(devices) = on_devices(&locked.states, &forecaster) else {
            tracing::warn!(
                forecaster,
                "no bundle removed: a device's state cannot be read; a newer hub can, or the device reports again"
            );
            continue;
        };
        let gone = choose(&locked.held, &locked.named, &devices, newest);
        if gone.is_empty() {
            continue;
        }
        let versions: Vec<i64> = gone.iter().map(|h| h.version).collect();
        let bundles: Vec<Vec<u8>> = gone.iter().map(|h| h.bundle.clone()).collect();
        locked.remove(&bundles).await?;
        removed.extend(versions.into_iter().map(|v| (forecaster.clone(), v)));
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(version: i64) -> HeldRow {
        HeldRow {
            version,
            bundle: vec![u8::try_from(version).unwrap_or(0)],
        }
    }

    proptest! {
        #[test]
        fn what_is_needed_stays_and_everything_else_goes(
            count in 0_i64..30, named in prop::collection::vec(0_i64..30, 0..4),
            running in prop::collection::btree_set(0_u8..30, 0..4), newest in 0_usize..6,
        ) {
            let all: Vec<HeldRow> = (1..=count).rev().map(held).collect();
            let on_devices: BTreeSet<Vec<u8>> = running.iter().map(|b| vec![*b]).collect();
            let gone: BTreeSet<i64> = choose(&all, &named, &on_devices, newest).iter().map(|h| h.version).collect();
            for version in 1..=count {
                let needed = count - version < i64::try_from(newest.max(2)).unwrap_or(0)
                    || named.contains(&version) || running.contains(&u8::try_from(version).unwrap_or(0));
                prop_assert_eq!(gone.contains(&version), !needed, "version {}", version);
            }
        }
    }
}
