//! Which bundles may go: owns the choice and its limits, never the SQL that removes them.

use std::collections::{BTreeMap, BTreeSet};

use fieldcast_store::bundles::{HeldRow, OrderedRow, StateRow};
use fieldcast_store::{Result, Store};
use fieldcast_wire::{message, pb};

use super::worlds;

/// The newest are kept in any case: what is made now is judged beside what was made before.
const AT_LEAST: usize = 2;

/// What devices have, as far as they said, of one forecaster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnDevices {
    /// Bundles that run, and those that devices fall back to by themselves.
    pub bundles: BTreeSet<Vec<u8>>,
    /// By device the generation of the newest order that it answers.
    pub answered: BTreeMap<String, u64>,
}

/// What devices say of a forecaster. None where a device's word cannot be read: then anything may run there.
#[must_use]
pub fn on_devices(states: &[StateRow], forecaster: &str) -> Option<OnDevices> {
    let mut there = OnDevices::default();
    for row in states {
        let state: pb::State = message::decode("state", &row.raw).ok()?;
        for f in state.forecasters {
            if f.forecaster == forecaster {
                there.bundles.extend([f.running, f.last_good, f.before]);
                there.answered.insert(row.device.clone(), f.generation);
            }
        }
    }
    Some(there)
}

/// Versions of orders that a device was connected to obey, and that it has not answered.
#[must_use]
pub fn unanswered(ordered: &[OrderedRow], devices: &OnDevices) -> BTreeSet<i64> {
    let open = ordered.iter().filter(|o| {
        let answered = devices.answered.get(&o.device).copied().unwrap_or(0);
        u64::try_from(o.generation).unwrap_or(0) > answered
    });
    open.flat_map(|o| [Some(o.version), o.previous])
        .flatten()
        .collect()
}

/// Versions, newest first, whose bundles nobody needs: beyond the newest, named by no title, order, rollout or person who gave
/// them back, and on no device.
#[must_use]
pub fn choose<'a>(
    held: &'a [HeldRow],
    named: &BTreeSet<i64>,
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
        let wanted = wanted_back(store, &forecaster).await?;
        let locked = store.lock_bundles(&forecaster).await?;
        let Some(devices) = on_devices(&locked.states, &forecaster) else {
            tracing::warn!(
                forecaster,
                "no bundle removed: a device's state cannot be read; a newer hub can, or the device reports again"
            );
            continue;
        };
        let mut named = unanswered(&locked.ordered, &devices);
        named.extend(&locked.named);
        named.extend(wanted);
        let gone = choose(&locked.held, &named, &devices.bundles, newest);
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

/// Versions that a world of before may want back.
async fn wanted_back(store: &Store, forecaster: &str) -> Result<Vec<i64>> {
    let known = store.forecaster(forecaster).await?;
    let Some((known, champion)) = known.zip(store.champion(forecaster).await?) else {
        return Ok(Vec::new());
    };
    let rows = worlds::before(store, &champion, &known.spec).await?;
    Ok(rows.iter().map(|row| row.version).collect())
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
            count in 0_i64..30, named in prop::collection::btree_set(0_i64..30, 0..4),
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

    #[test]
    fn an_order_counts_until_the_device_answers_it() {
        let order = |device: &str, generation, version, previous| OrderedRow {
            device: device.to_owned(),
            generation,
            version,
            previous,
        };
        let ordered = [
            order("a", 3, 2, Some(1)),
            order("a", 5, 4, Some(2)),
            order("b", 4, 3, None),
            order("new", 1, 6, None),
        ];
        let state = |generation| pb::State {
            forecasters: vec![
                pb::ForecasterState {
                    forecaster: "f".into(),
                    generation,
                    running: vec![9],
                    ..Default::default()
                },
                pb::ForecasterState {
                    forecaster: "another".into(),
                    generation: 99,
                    running: vec![8],
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        let row = |device: &str, generation| StateRow {
            device: device.to_owned(),
            raw: message::encode(&state(generation)),
        };
        let mut states = vec![row("a", 3), row("b", 4)];
        let devices = on_devices(&states, "f").unwrap();
        assert_eq!(unanswered(&ordered, &devices), BTreeSet::from([2, 4, 6]));
        assert_eq!(devices.bundles, BTreeSet::from([vec![], vec![9]]));
        states[1].raw = vec![0xff];
        assert_eq!(on_devices(&states, "f"), None);
    }
}
