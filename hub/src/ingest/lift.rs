//! Readings that came before their boot was anchored: owns when they are vouched for, never how far they are off.

use std::collections::{BTreeMap, BTreeSet};

use fieldcast_store::{Result, Store};
use fieldcast_wire::pb;

use super::dating::{Dating, date};

/// Which devices may have readings to lift. It is made good after a crash: a new one looks at all.
#[derive(Debug)]
pub(super) struct Lift {
    devices: BTreeSet<String>,
    all: bool,
}

impl Lift {
    pub(super) fn new() -> Self {
        Self {
            devices: BTreeSet::new(),
            all: true,
        }
    }

    /// Remembers to look at a device.
    pub(super) fn look_at(&mut self, device: &str) {
        self.devices.insert(device.to_owned());
    }

    /// Lifts what can be lifted now; what fails is tried again with the next group.
    pub(super) async fn run(&mut self, store: &Store) {
        if !self.all && self.devices.is_empty() {
            return;
        }
        let devices: Vec<String> = self.devices.iter().cloned().collect();
        match lift(store, (!self.all).then_some(&devices)).await {
            Ok(()) => {
                self.devices.clear();
                self.all = false;
            }
            Err(error) => tracing::warn!(%error, "readings not anchored yet; trying again"),
        }
    }
}

async fn lift(store: &Store, devices: Option<&Vec<String>>) -> Result<()> {
    let mut after = 0;
    loop {
        let found = store.liftable(devices.map(Vec::as_slice), after).await?;
        let Some(last) = found.last() else {
            return Ok(());
        };
        after = last.id;
        let mut anchors = BTreeMap::new();
        for batch in &found {
            let boot = (batch.device.clone(), batch.boot_id.clone());
            if !anchors.contains_key(&boot) {
                let known = store.anchors(&boot.0, &boot.1).await?;
                anchors.insert(boot.clone(), known);
            }
            let clock = pb::ClockStamp {
                boot_id: batch.boot_id.clone(),
                monotonic_ms: batch.monotonic_ms,
                wall_ms: batch.wall_ms,
                synchronised: false,
            };
            let offset = match date(&clock, &anchors[&boot]) {
                Dating::Unknown => continue,
                Dating::Right => 0,
                Dating::Off(offset) => offset,
            };
            store.lift(batch, offset).await?;
        }
    }
}
