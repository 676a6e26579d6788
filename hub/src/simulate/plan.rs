//! What a fleet is to do: owns its options, their rules and all that follows from them; never does any of it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use fieldcast_device::uplink::Settings;
use fieldcast_features::Millis;
use fieldcast_sim::{Channel, Stream};

/// How a model misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misdeed {
    /// Its forecast is not a number.
    Nan,
    /// The process dies in its first forecast.
    Crash,
    /// Its forecast takes too long.
    Slow,
    /// The device refuses its bundle.
    Refuse,
}

/// A share of the devices on which models misbehave, from a model version on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelFault {
    /// How.
    pub misdeed: Misdeed,
    /// Share of the devices.
    pub share: f64,
    /// First model version that does.
    pub from: u64,
}

/// What goes wrong, to order. Shares and probabilities are 0 to 1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// Acks that get lost on the way.
    pub drop_acks: f64,
    /// Batches that are published twice.
    pub repeat: f64,
    /// Chance that a connection is cut after a batch.
    pub cut: f64,
    /// Share of the devices that never connect.
    pub offline: f64,
    /// All connections are cut this often, together.
    pub storm: Option<Duration>,
    /// What models do.
    pub models: Vec<ModelFault>,
}

impl Faults {
    /// Adds `drop-acks=P`, `repeat=P`, `cut=P`, `offline=SHARE`, `storm=TIME`, or one of `nan`, `crash`, `slow`, `refuse`
    /// as `KIND=SHARE[@VERSION]`.
    ///
    /// # Errors
    /// Anything else, with the forms.
    pub fn add(&mut self, text: &str) -> Result<()> {
        const FORMS: &str = "use drop-acks=P, repeat=P, cut=P, offline=SHARE, storm=TIME, or nan, crash, slow, refuse as \
             KIND=SHARE[@VERSION]";
        let (kind, value) = text
            .split_once('=')
            .with_context(|| format!("fault `{text}`: {FORMS}"))?;
        let share = |text: &str| {
            let share: f64 = text
                .parse()
                .with_context(|| format!("fault `{kind}={text}`: {FORMS}"))?;
            ensure!(
                (0.0..=1.0).contains(&share),
                "fault `{kind}={text}`: a share lies between 0 and 1"
            );
            Ok(share)
        };
        let misdeed = match kind {
            "drop-acks" => {
                self.drop_acks = share(value)?;
                return Ok(());
            }
            "repeat" => {
                self.repeat = share(value)?;
                return Ok(());
            }
            "cut" => {
                self.cut = share(value)?;
                return Ok(());
            }
            "offline" => {
                self.offline = share(value)?;
                return Ok(());
            }
            "storm" => {
                self.storm = Some(span(value)?);
                return Ok(());
            }
            "nan" => Misdeed::Nan,
            "crash" => Misdeed::Crash,
            "slow" => Misdeed::Slow,
            "refuse" => Misdeed::Refuse,
            _ => bail!("fault `{text}`: {FORMS}"),
        };
        let (value, from) = match value.split_once('@') {
            Some((value, from)) => (value, from.parse().with_context(|| FORMS.to_owned())?),
            None => (value, 1),
        };
        self.models.push(ModelFault {
            misdeed,
            share: share(value)?,
            from,
        });
        Ok(())
    }
}

/// Reads `500ms`, `10s`, `5m` or `2h`.
///
/// # Errors
/// Anything else, and nothing at all.
pub fn span(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .with_context(|| format!("`{text}` is no time; use 500ms, 10s, 5m or 2h"))?;
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => bail!("`{text}` is no time; use 500ms, 10s, 5m or 2h"),
    };
    ensure!(number > 0, "`{text}`: a time is at least 1 ms");
    Ok(Duration::from_millis(number.saturating_mul(unit)))
}

/// A fleet.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Devices.
    pub devices: u32,
    /// Their names begin so.
    pub prefix: String,
    /// Decides all that is random but epochs, tokens and what the network does.
    pub seed: u64,
    /// Sensors of each device.
    pub sensors: u32,
    /// Readings of each sensor in one batch.
    pub per_batch: u32,
    /// Process time between two batches of a device.
    pub every: Duration,
    /// Data time that passes in one unit of process time; above 1 the data has a time of its own.
    pub speed: u32,
    /// Data time of the first reading.
    pub start: Millis,
    /// Readings are taken for this long.
    pub duration: Duration,
    /// Then, what is not acknowledged is waited for this long.
    pub drain: Duration,
    /// Devices connect over this span, one after the other.
    pub ramp: Duration,
    /// From this process time on, values are shifted.
    pub drift: Option<Duration>,
    /// What goes wrong.
    pub faults: Faults,
    /// How much smaller a watching model's losses are than the running one's, as a share of them.
    pub gain: f64,
    /// Forecasts that prove a model.
    pub probation: u32,
    /// Bytes that a device keeps unacknowledged.
    pub buffer_bytes: u64,
    /// No readings are taken while so many batches wait; none: they always are.
    pub waiting: Option<usize>,
    /// Limits of each uplink.
    pub settings: Settings,
}

/// Swings by which a drift shifts values.
const SHIFT: f64 = 2.0;

impl Plan {
    /// Checks what the options together ask for.
    ///
    /// # Errors
    /// The first that cannot be done, with what can.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            (1..=100_000).contains(&self.devices),
            "--devices must be 1 to 100000"
        );
        ensure!(
            (1..=256).contains(&self.sensors),
            "--sensors must be 1 to 256, as many as a device may register"
        );
        ensure!(self.per_batch > 0, "--rate gives no reading in a batch");
        ensure!(
            self.step() > 0,
            "--rate asks for more than one reading of a sensor in a millisecond; raise --sensors or --speed"
        );
        ensure!(self.speed > 0, "--speed is at least 1");
        ensure!(self.gain < 1.0, "--gain must be below 1");
        fieldcast_wire::DeviceId::new(self.name(0)).context("option --prefix")?;
        Ok(())
    }

    /// Name of a device, counted from 0.
    #[must_use]
    pub fn name(&self, device: u32) -> String {
        format!("{}{:05}", self.prefix, device + 1)
    }

    /// Name of a sensor, counted from 0.
    #[must_use]
    pub fn sensor(number: u32) -> String {
        format!("s{number:02}")
    }

    /// Data time between two readings of a sensor.
    #[must_use]
    pub fn step(&self) -> Millis {
        millis(self.every) * Millis::from(self.speed) / Millis::from(self.per_batch.max(1))
    }

    /// How long after the others a device takes its readings: evenly spread, so that the hub has no peaks.
    #[must_use]
    pub fn phase(&self, device: u32) -> Millis {
        millis(self.every) * Millis::from(device) / Millis::from(self.devices.max(1))
    }

    /// When a device connects first.
    #[must_use]
    pub fn joins(&self, device: u32) -> Millis {
        millis(self.ramp) * Millis::from(device) / Millis::from(self.devices.max(1))
    }

    /// Data time of a sensor's reading, counted from 0.
    #[must_use]
    pub fn time(&self, device: u32, reading: u64) -> Millis {
        let n = Millis::try_from(reading).unwrap_or(Millis::MAX / 2);
        self.start + self.phase(device) * Millis::from(self.speed) + (n + 1) * self.step()
    }

    /// By how many swings a value is shifted.
    #[must_use]
    pub fn shift(&self, time: Millis) -> f64 {
        let begins = self
            .drift
            .map(|after| self.start + millis(after) * Millis::from(self.speed));
        begins.map_or(0.0, |begins| if time >= begins { SHIFT } else { 0.0 })
    }

    /// The series of a device's sensors.
    #[must_use]
    pub fn channels(&self, device: u32) -> Vec<Channel> {
        let channel = |sensor| Channel::new(self.seed, device, sensor, self.step());
        (0..self.sensors).map(channel).collect()
    }

    /// When connections are cut next, after a moment.
    #[must_use]
    pub fn storm_after(&self, now: Millis) -> Millis {
        let every = self.faults.storm.map(millis);
        every.map_or(Millis::MAX, |every| (now / every + 1) * every)
    }

    /// Whether a device ever connects.
    #[must_use]
    pub fn offline(&self, device: u32) -> bool {
        self.chance(device, 1) < self.faults.offline
    }

    /// What a model version does on a device.
    #[must_use]
    pub fn misdeed(&self, device: u32, version: u64) -> Option<Misdeed> {
        let of = |(i, f): (usize, &ModelFault)| {
            let chosen = self.chance(device, 0x10 + i as u64) < f.share;
            (version >= f.from && chosen).then_some(f.misdeed)
        };
        self.faults.models.iter().enumerate().find_map(of)
    }

    fn chance(&self, device: u32, purpose: u64) -> f64 {
        Stream::new(
            self.seed,
            (1 << 61) | (u64::from(device) << 8) | (purpose & 0xff),
        )
        .uniform()
    }
}

/// As machines count.
#[must_use]
pub fn millis(span: Duration) -> Millis {
    Millis::try_from(span.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_or_refused_with_their_forms() {
        let mut faults = Faults::default();
        for text in ["drop-acks=0.2", "storm=20s", "nan=0.5@2", "refuse=1"] {
            faults.add(text).unwrap();
        }
        assert_eq!(faults.drop_acks, 0.2);
        assert_eq!(faults.storm, Some(Duration::from_secs(20)));
        assert_eq!(faults.models[0].from, 2);
        for wrong in [
            "nan", "nan=2", "storm=0s", "storm=5", "fire=1", "cut=x", "nan=1@x",
        ] {
            let said = faults.add(wrong).unwrap_err();
            assert!(
                format!("{said:#}").contains(if wrong.starts_with("storm") {
                    "time"
                } else {
                    "share"
                }) || format!("{said:#}").contains("SHARE"),
                "{wrong}: {said:#}"
            );
        }
        assert_eq!(span("2h").unwrap(), Duration::from_secs(7_200));
    }
}
