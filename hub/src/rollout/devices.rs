//! The devices of a rollout: owns what stands of each and which have changed since they were stored, never why one changes.

use std::collections::BTreeMap;
use std::ops::Deref;

use serde::Serializer;

use super::machine::Deployment;

/// Devices by name. There may be thousands, and few change at a time: only those are kept twice, compared and written.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    all: BTreeMap<String, Deployment>,
    /// As they were stored, of those that may have changed.
    stored: BTreeMap<String, Deployment>,
}

impl Devices {
    /// A device to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Deployment> {
        let device = self.all.get_mut(name)?;
        remember(&mut self.stored, name, device);
        Some(device)
    }

    /// Changes the devices of which `which` holds.
    pub fn change(
        &mut self,
        which: impl Fn(&Deployment) -> bool,
        mut how: impl FnMut(&str, &mut Deployment),
    ) {
        for (name, device) in self.all.iter_mut().filter(|(_, d)| which(d)) {
            remember(&mut self.stored, name, device);
            how(name, device);
        }
    }

    /// Those that are not as they were stored.
    pub fn changed(&self) -> impl Iterator<Item = (&String, &Deployment)> {
        let stored = self.stored.iter();
        stored.filter_map(|(name, before)| {
            let (name, now) = self.all.get_key_value(name)?;
            (now != before).then_some((name, now))
        })
    }

    /// All are stored as they are.
    pub fn now_stored(&mut self) {
        self.stored.clear();
    }
}

fn remember(stored: &mut BTreeMap<String, Deployment>, name: &str, device: &Deployment) {
    if !stored.contains_key(name) {
        stored.insert(name.to_owned(), device.clone());
    }
}

impl Deref for Devices {
    type Target = BTreeMap<String, Deployment>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl PartialEq for Devices {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

/// Devices as they are stored.
impl FromIterator<(String, Deployment)> for Devices {
    fn from_iter<T: IntoIterator<Item = (String, Deployment)>>(devices: T) -> Self {
        Self {
            all: devices.into_iter().collect(),
            stored: BTreeMap::new(),
        }
    }
}

/// In place of devices among the rest of a rollout, where hubs of before look for them.
pub(super) fn apart<S: Serializer>(_: &Devices, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(std::iter::empty::<((), ())>())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::machine::DeviceState;
    use super::*;

    fn named(name: &str) -> (String, Deployment) {
        let device = Deployment {
            state: DeviceState::Pending,
            reason: String::new(),
            stages: vec![0],
            generation: 0,
            online: true,
            online_since: None,
            waited_ms: 0,
            back: false,
            stripped: false,
        };
        (name.to_owned(), device)
    }

    fn changed(devices: &Devices) -> Vec<&str> {
        devices.changed().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn what_changed_is_known_until_it_is_stored_and_what_changed_back_did_not() {
        let mut devices: Devices = ["a", "b", "c"].map(named).into_iter().collect();
        assert!(devices.get_mut("d").is_none());
        devices.get_mut("a").unwrap().generation = 1;
        devices.get_mut("b").unwrap().online = false;
        devices.change(|d| d.online, |_, d| d.generation += 1);
        assert_eq!(changed(&devices), ["a", "b", "c"]);
        devices.get_mut("b").unwrap().online = true;
        assert_eq!(changed(&devices), ["a", "c"]);
        devices.now_stored();
        assert_eq!(changed(&devices), [""; 0]);
        devices.get_mut("a").unwrap().generation = 0;
        assert_eq!(changed(&devices), ["a"], "it was stored with another one");
    }
}
