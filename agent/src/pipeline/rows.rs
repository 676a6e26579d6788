//! The newest rows of a forecaster and their stored form, in small chunks; never resamples.

use std::collections::{BTreeMap, VecDeque};

use fieldcast_features::{FeatureRow, ForecasterSpec, Millis};
use fieldcast_wire::Sha256;

/// Rows of one stored chunk: each new row writes its chunk again.
const CHUNK: i64 = 32;
/// Most rows kept for a restart.
const MAX_STORED: usize = 8_192;
/// Number of the chunk, then what the columns mean.
const CHUNK_HEAD: usize = 16;

/// Rows in memory (what windows and residuals need) and the chunks in which all are stored.
#[derive(Debug, Clone)]
pub struct Rows {
    prefix: String,
    meaning: [u8; 8],
    period: Millis,
    width: usize,
    keep: usize,
    chunks: i64,
    rows: VecDeque<FeatureRow>,
}

impl Rows {
    /// For one forecaster.
    #[must_use]
    pub fn new(spec: &ForecasterSpec) -> Self {
        let season = spec.season_steps();
        let keep = spec
            .lookback
            .max(spec.horizon + 2 * season)
            .max(2 * usize::try_from(CHUNK).unwrap_or(1));
        let stored = keep.max(28 * season).max(512).min(MAX_STORED.max(keep));
        Self {
            prefix: format!("rows/{}", spec.name),
            meaning: meaning(spec),
            period: spec.period_ms().max(1),
            width: spec.channels().len(),
            keep,
            chunks: i64::try_from(stored).unwrap_or(0) / CHUNK + 2,
            rows: VecDeque::new(),
        }
    }

    /// State keys of all chunks.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        (0..self.chunks)
            .map(|i| format!("{}/{i}", self.prefix))
            .collect()
    }

    /// The rows in memory, oldest first.
    pub fn all(&mut self) -> &[FeatureRow] {
        self.rows.make_contiguous()
    }

    /// The newest row's time.
    #[must_use]
    pub fn newest(&self) -> Option<Millis> {
        self.rows.back().map(|r| r.time)
    }

    /// The value of a channel at a time, where it is known.
    #[must_use]
    pub fn value(&self, time: Millis, channel: usize) -> Option<f64> {
        let newest = self.rows.back()?;
        let back = (newest.time - time) / self.period;
        let i = self
            .rows
            .len()
            .checked_sub(1 + usize::try_from(back).ok()?)?;
        let guess = self.rows.get(i).filter(|r| r.time == time);
        let row = guess.or_else(|| {
            let i = self.rows.partition_point(|r| r.time < time);
            self.rows.get(i).filter(|r| r.time == time)
        })?;
        row.value(channel)
    }

    /// Takes a row without storing it.
    pub fn push(&mut self, row: FeatureRow) {
        self.rows.push_back(row);
        while self.rows.len() > self.keep {
            self.rows.pop_front();
        }
    }

    fn body<'a>(&self, chunk: &'a [u8]) -> Option<&'a [u8]> {
        let (head, body) = chunk.split_at_checked(CHUNK_HEAD)?;
        (head[8..] == self.meaning).then_some(body)
    }

    /// The state entry of the newest row's chunk.
    #[must_use]
    pub fn newest_chunk(&self) -> Option<(String, Vec<u8>)> {
        let chunk = self.rows.back()?.time.div_euclid(self.period * CHUNK);
        let mut bytes = chunk.to_le_bytes().to_vec();
        bytes.extend(self.meaning);
        for row in self
            .rows
            .iter()
            .filter(|r| r.time.div_euclid(self.period * CHUNK) == chunk)
        {
            bytes.extend(row.time.to_le_bytes());
            bytes.extend(row.values.iter().flat_map(|v| v.to_le_bytes()));
        }
        Some((
            format!("{}/{}", self.prefix, chunk.rem_euclid(self.chunks)),
            bytes,
        ))
    }

    /// All rows up to `through` out of stored chunks, in order; what is unreadable, or was stored for other sensors, is
    /// left out.
    #[must_use]
    pub fn read(&self, chunks: &[Vec<u8>], through: Millis) -> Vec<FeatureRow> {
        let mut rows = BTreeMap::new();
        let size = 8 * (1 + self.width);
        let number = |b: &[u8]| b.try_into().map(i64::from_le_bytes).unwrap_or(i64::MAX);
        for bytes in chunks.iter().filter_map(|c| self.body(c)) {
            for row in bytes.chunks_exact(size) {
                let (time, values) = row.split_at(8);
                let time = number(time);
                if time > through || time.rem_euclid(self.period) != 0 {
                    continue;
                }
                let values = values
                    .chunks_exact(8)
                    .map(|v| v.try_into().map_or(f64::NAN, f64::from_le_bytes))
                    .collect();
                rows.insert(time, FeatureRow { time, values });
            }
        }
        // Chunks of an older round of the ring lie far behind; only the newest round is a history.
        let span = self.period.saturating_mul(self.chunks * CHUNK);
        let oldest = through.saturating_sub(span);
        rows.into_values().filter(|r| r.time > oldest).collect()
    }
}

/// What rows depend on: another definition of these starts its history anew.
pub(super) fn fingerprint(spec: &ForecasterSpec) -> String {
    let sensors: Vec<&str> = spec
        .channels()
        .into_iter()
        .map(|c| spec.sensor_of(c))
        .collect();
    let parts = (
        spec.channels(),
        sensors,
        &spec.target,
        spec.period_ms(),
        Rows::new(spec).keys().len(),
    );
    let text = serde_json::to_string(&parts).unwrap_or_default();
    Sha256::of(text.as_bytes()).to_string()
}

/// Which sensors the columns hold, and on which grid.
fn meaning(spec: &ForecasterSpec) -> [u8; 8] {
    let channels = spec.channels();
    let sensors: Vec<&str> = channels.iter().map(|c| spec.sensor_of(c)).collect();
    let text = serde_json::to_string(&(&channels, sensors, spec.period_ms())).unwrap_or_default();
    let digest = Sha256::of(text.as_bytes()).0;
    std::array::from_fn(|i| digest[i])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::pipeline::forecaster::tests::spec;

    #[test]
    fn rows_come_back_from_their_chunks_after_any_number_of_rounds() {
        let spec = spec();
        let mut rows = Rows::new(&spec);
        let period = spec.period_ms();
        let mut stored = BTreeMap::new();
        for i in 0..3_000_i64 {
            #[allow(clippy::cast_precision_loss, reason = "tests")]
            let value = i as f64;
            rows.push(FeatureRow {
                time: i * period,
                values: vec![value, f64::NAN],
            });
            let (key, bytes) = rows.newest_chunk().unwrap();
            stored.insert(key, bytes);
        }
        assert!(stored.keys().all(|k| rows.keys().contains(k)));
        let chunks: Vec<Vec<u8>> = stored.into_values().collect();
        let back = rows.read(&chunks, 2_998 * period);
        assert!(back.len() >= 28 * 24, "{}", back.len());
        assert_eq!(back.last().unwrap().time, 2_998 * period);
        assert!(back.windows(2).all(|w| w[1].time == w[0].time + period));
        assert!(back[0].values[1].is_nan());
        assert_eq!(rows.value(2_990 * period, 0), Some(2_990.0));
        assert_eq!(rows.value(2_990 * period, 1), None);
        assert_eq!(rows.value(5, 0), None);
    }
    #[test]
    fn rows_of_other_sensors_never_come_back() {
        let old = spec();
        let mut rows = Rows::new(&old);
        rows.push(FeatureRow {
            time: 10 * old.period_ms(),
            values: vec![1.0, 2.0],
        });
        let chunk = rows.newest_chunk().unwrap().1;
        let mut new = spec();
        new.selector
            .sensors
            .insert("demand".into(), "bought".into());
        let through = 20 * old.period_ms();
        assert_eq!(
            Rows::new(&old)
                .read(std::slice::from_ref(&chunk), through)
                .len(),
            1
        );
        assert_eq!(Rows::new(&new).read(&[chunk, vec![1; 5]], through), []);
    }
}
