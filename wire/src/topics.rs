//! MQTT topics: owns their spelling and parsing, never what is published on them.

use crate::{DeviceId, Sha256, SiteId};

/// Topic names of one site.
#[derive(Debug, Clone)]
pub struct Topics {
    root: String,
}

/// A topic under one device, as parsed from a received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceTopic {
    /// Sealed batches with the newest records.
    Live,
    /// Sealed batches of the backlog.
    Back,
    /// What the device's buffer holds.
    Sync,
    /// What runs on the device.
    State,
    /// Birth and last will.
    Presence,
    /// A request for blocks of a bundle.
    Blob,
    /// Readings as JSON from things that run no agent.
    Json,
    /// What became of such readings, as JSON.
    JsonReceipt,
    /// Commit acknowledgements.
    Ack,
    /// Signed orders.
    Desired,
    /// Blocks of bundles.
    Blocks,
    /// One block of a bundle, for devices that ask so: those before there was [`DeviceTopic::Blocks`].
    Block(Sha256, u32),
}

impl Topics {
    /// Topics of a site.
    #[must_use]
    pub fn new(site: &SiteId) -> Self {
        Self {
            root: format!("fieldcast/v1/{site}"),
        }
    }

    /// A device's topic.
    #[must_use]
    pub fn device(&self, device: &DeviceId, topic: DeviceTopic) -> String {
        let leaf = match topic {
            DeviceTopic::Live => "up/t/live".to_owned(),
            DeviceTopic::Back => "up/t/back".to_owned(),
            DeviceTopic::Sync => "up/sync".to_owned(),
            DeviceTopic::State => "up/state".to_owned(),
            DeviceTopic::Presence => "up/presence".to_owned(),
            DeviceTopic::Blob => "up/blob".to_owned(),
            DeviceTopic::Json => "up/json".to_owned(),
            DeviceTopic::JsonReceipt => "dn/json".to_owned(),
            DeviceTopic::Ack => "dn/ack".to_owned(),
            DeviceTopic::Desired => "dn/desired".to_owned(),
            DeviceTopic::Blocks => "dn/blob".to_owned(),
            DeviceTopic::Block(sha, n) => format!("dn/blob/{sha}/{n}"),
        };
        format!("{}/d/{device}/{leaf}", self.root)
    }

    /// Filter of everything that goes down to a device.
    #[must_use]
    pub fn device_down(&self, device: &DeviceId) -> String {
        format!("{}/d/{device}/dn/#", self.root)
    }

    /// Topics that a device reads as long as it is connected. Exact ones: a broker finds their reader without comparing every
    /// message with a pattern of each device.
    #[must_use]
    pub fn device_standing(&self, device: &DeviceId) -> [String; 3] {
        [DeviceTopic::Ack, DeviceTopic::Desired, DeviceTopic::Blocks]
            .map(|topic| self.device(device, topic))
    }

    /// Prefix under which a device may publish.
    #[must_use]
    pub fn device_up_prefix(&self, device: &DeviceId) -> String {
        format!("{}/d/{device}/up/", self.root)
    }

    /// Filters of the telemetry that any hub may take, to be shared between hubs.
    #[must_use]
    pub fn telemetry_filters(&self) -> [String; 3] {
        ["t/live", "t/back", "json"].map(|leaf| format!("{}/d/+/up/{leaf}", self.root))
    }

    /// Filters of what only the leading hub reads: sync, state, presence, block requests.
    #[must_use]
    pub fn leader_filters(&self) -> [String; 4] {
        ["sync", "state", "presence", "blob"].map(|leaf| format!("{}/d/+/up/{leaf}", self.root))
    }

    /// Decoded readings for other consumers.
    #[must_use]
    pub fn out_reading(&self, device: &DeviceId, sensor: &str) -> String {
        format!("{}/out/{device}/{sensor}", self.root)
    }

    /// Decoded forecasts for other consumers.
    #[must_use]
    pub fn out_forecast(&self, device: &DeviceId, forecaster: &str) -> String {
        format!("{}/out/{device}/forecast/{forecaster}", self.root)
    }

    /// Alarms and drift for other consumers.
    #[must_use]
    pub fn out_alarm(&self, device: &DeviceId) -> String {
        format!("{}/out/{device}/alarm", self.root)
    }

    /// The root of the site, without a trailing slash.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Parses a received topic; none where it is not a device's topic of this site.
    #[must_use]
    pub fn parse(&self, topic: &str) -> Option<(DeviceId, DeviceTopic)> {
        let rest = topic.strip_prefix(&self.root)?.strip_prefix("/d/")?;
        let (device, leaf) = rest.split_once('/')?;
        let device = DeviceId::new(device).ok()?;
        let topic = match leaf {
            "up/t/live" => DeviceTopic::Live,
            "up/t/back" => DeviceTopic::Back,
            "up/sync" => DeviceTopic::Sync,
            "up/state" => DeviceTopic::State,
            "up/presence" => DeviceTopic::Presence,
            "up/blob" => DeviceTopic::Blob,
            "up/json" => DeviceTopic::Json,
            "dn/json" => DeviceTopic::JsonReceipt,
            "dn/ack" => DeviceTopic::Ack,
            "dn/desired" => DeviceTopic::Desired,
            "dn/blob" => DeviceTopic::Blocks,
            _ => {
                let (sha, n) = leaf.strip_prefix("dn/blob/")?.split_once('/')?;
                let (digest, number) = (Sha256::from_hex(sha)?, n.parse::<u32>().ok()?);
                // Each block has one topic: not `+7`, `007` or a digest in capitals.
                let same = digest.to_string() == sha && number.to_string() == n;
                same.then_some(DeviceTopic::Block(digest, number))?
            }
        };
        Some((device, topic))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_topic_parses_back_and_another_site_does_not() {
        let topics = Topics::new(&SiteId::new("plant").unwrap());
        let device = DeviceId::new("pi-7").unwrap();
        let sha = Sha256::of(b"x");
        for topic in [
            DeviceTopic::Live,
            DeviceTopic::Back,
            DeviceTopic::Sync,
            DeviceTopic::State,
            DeviceTopic::Presence,
            DeviceTopic::Blob,
            DeviceTopic::Json,
            DeviceTopic::JsonReceipt,
            DeviceTopic::Ack,
            DeviceTopic::Desired,
            DeviceTopic::Blocks,
            DeviceTopic::Block(sha, 12),
        ] {
            let text = topics.device(&device, topic);
            assert_eq!(topics.parse(&text), Some((device.clone(), topic)), "{text}");
        }
        assert_eq!(topics.parse("fieldcast/v1/other/d/pi-7/up/sync"), None);
        assert_eq!(topics.parse("fieldcast/v1/plant/d/a b/up/sync"), None);
        assert_eq!(topics.parse("fieldcast/v1/plant/d/pi-7/dn/blob/zz/1"), None);
        let block = |sha: &str, n: &str| {
            topics.parse(&format!("fieldcast/v1/plant/d/pi-7/dn/blob/{sha}/{n}"))
        };
        let sha = sha.to_string();
        assert!(block(&sha, "7").is_some());
        let plus = format!("+f{}", &sha[2..]);
        for (sha, n) in [
            (&*sha, "+7"),
            (&sha, "007"),
            (&sha.to_uppercase(), "7"),
            (&plus, "7"),
        ] {
            assert_eq!(block(sha, n), None);
        }
    }
}
