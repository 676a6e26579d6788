//! Training data laid onto the grid: owns the check and layout of feature rows, never a window or a split.

use std::ops::Range;

use fieldcast_features::{Calendar, FeatureRow, ForecasterSpec, Millis, Preset};

use crate::TrainError;

/// What a model is trained from.
#[derive(Debug, Clone, Default)]
pub struct TrainingData {
    /// One entry a device; a model is fitted to all of them together.
    pub series: Vec<Series>,
}

/// One device's feature rows.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// The device, for error messages.
    pub device: String,
    /// Rows in any order, values in the order of the forecaster's channels, NaN where missing; of two rows at one
    /// time the later in the list counts. Absent rows are missing values.
    pub rows: Vec<FeatureRow>,
    /// Rows after this time count [`crate::TrainConfig::recent_weight`] times (the world changed here).
    pub weight_from: Option<Millis>,
}

/// A gapless stretch of one device.
#[derive(Debug)]
pub(crate) struct Track {
    /// Index of the device's [`Series`].
    pub(crate) series: usize,
    /// Time of the first row.
    pub(crate) start: Millis,
    /// `[rows, channels]`, NaN where missing.
    pub(crate) values: Vec<f64>,
    /// `[rows, K]`: the calendar at each row's time.
    pub(crate) calendar: Vec<f32>,
    /// Observed target values before each row, `rows + 1` entries.
    pub(crate) target_before: Vec<u32>,
    /// Observed input values before each row, `rows + 1` entries.
    pub(crate) inputs_before: Vec<u32>,
}

/// All tracks with the sizes that give them meaning.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) period: Millis,
    pub(crate) lookback: usize,
    pub(crate) horizon: usize,
    pub(crate) season: usize,
    /// Features of a window: the first channels.
    pub(crate) inputs: usize,
    pub(crate) channels: usize,
    /// Channel of the target.
    pub(crate) target: usize,
    pub(crate) future_width: usize,
    /// Calendar columns that tell the seasons of the year apart.
    pub(crate) year_columns: Range<usize>,
    /// Windows may hold missing values.
    pub(crate) tolerant: bool,
    pub(crate) tracks: Vec<Track>,
    /// Rows that were given, also those in stretches too short for any window.
    pub(crate) given: usize,
    /// Name of each series.
    pub(crate) devices: Vec<String>,
    /// Time after which a series' rows count more.
    pub(crate) weight_from: Vec<Option<Millis>>,
}

impl Panel {
    /// Checks the data and lays it out.
    pub(crate) fn new(spec: &ForecasterSpec, data: &TrainingData) -> Result<Self, TrainError> {
        spec.validate()?;
        let calendar = Calendar::new(spec);
        let channels = spec.channels().len();
        let mut panel = Self {
            period: spec.period_ms(),
            lookback: spec.lookback,
            horizon: spec.horizon,
            season: spec.season_steps(),
            inputs: spec.inputs.len(),
            channels,
            target: spec.target_channel(),
            future_width: calendar.width(),
            year_columns: calendar.year_columns(),
            tolerant: spec.preset == Preset::Default,
            tracks: Vec::new(),
            given: data.series.iter().map(|s| s.rows.len()).sum(),
            devices: data.series.iter().map(|s| s.device.clone()).collect(),
            weight_from: data.series.iter().map(|s| s.weight_from).collect(),
        };
        for (index, series) in data.series.iter().enumerate() {
            panel.add(spec, &calendar, index, series)?;
        }
        panel.check_target(&spec.target)?;
        panel.blank_calendar(&calendar);
        Ok(panel)
    }

    fn add(
        &mut self,
        spec: &ForecasterSpec,
        calendar: &Calendar,
        index: usize,
        series: &Series,
    ) -> Result<(), TrainError> {
        for row in &series.rows {
            let (device, time) = (series.device.clone(), row.time);
            if row.values.len() != self.channels {
                return Err(TrainError::RowWidth {
                    device,
                    time,
                    found: row.values.len(),
                    expected: self.channels,
                });
            }
            if time.rem_euclid(self.period) != 0 {
                return Err(TrainError::OffGrid {
                    device,
                    time,
                    period: self.period,
                });
            }
            if let Some(c) = row.values.iter().position(|v| v.is_infinite()) {
                let channel = spec
                    .channels()
                    .get(c)
                    .map_or_else(String::new, ToString::to_string);
                return Err(TrainError::NotFinite {
                    device,
                    time,
                    channel,
                });
            }
        }
        let mut rows: Vec<&FeatureRow> = series.rows.iter().collect();
        rows.sort_by_key(|r| r.time);
        // A hole that no usable window can span ends the track: it costs no memory and no time.
        let longest = (self.lookback + self.horizon) as Millis * self.period;
        let mut track: Option<(Millis, Vec<f64>)> = None;
        for row in rows {
            match &mut track {
                Some((start, values)) if row.time - self.end(*start, values) <= longest => {
                    let at = ((row.time - *start) / self.period) as usize * self.channels;
                    values.resize(at.max(values.len().saturating_sub(self.channels)), f64::NAN);
                    values.extend_from_slice(&row.values);
                }
                _ => {
                    let done = track.replace((row.time, row.values.clone()));
                    self.finish(calendar, index, done);
                }
            }
        }
        self.finish(calendar, index, track);
        Ok(())
    }

    /// Time of the row after the last.
    fn end(&self, start: Millis, values: &[f64]) -> Millis {
        start + (values.len() / self.channels) as Millis * self.period
    }

    fn finish(&mut self, calendar: &Calendar, series: usize, track: Option<(Millis, Vec<f64>)>) {
        let Some((start, values)) = track else { return };
        let rows = values.len() / self.channels;
        if rows < self.lookback + self.horizon {
            return;
        }
        let mut known = Vec::with_capacity(rows * self.future_width);
        let mut columns = Vec::with_capacity(self.future_width);
        let (mut target_before, mut inputs_before) = (vec![0], vec![0]);
        let (mut targets, mut inputs) = (0_u32, 0_u32);
        for (i, row) in values.chunks_exact(self.channels).enumerate() {
            let time = start + i as Millis * self.period;
            columns.clear();
            calendar.append(time, &mut columns);
            known.extend(columns.iter().map(|v| *v as f32));
            targets += u32::from(!row[self.target].is_nan());
            inputs += row[..self.inputs].iter().filter(|v| !v.is_nan()).count() as u32;
            target_before.push(targets);
            inputs_before.push(inputs);
        }
        self.tracks.push(Track {
            series,
            start,
            values,
            calendar: known,
            target_before,
            inputs_before,
        });
    }

    fn check_target(&self, target: &str) -> Result<(), TrainError> {
        let rows = self.tracks.iter().map(Track::rows).sum();
        let there = |t: &Track| t.target_before.last().is_some_and(|n| *n > 0);
        if rows > 0 && !self.tracks.iter().any(there) {
            return Err(TrainError::MissingTarget {
                target: target.into(),
                rows,
            });
        }
        self.check_moves(target, Millis::MAX)
    }

    /// Refuses a target that no device sees move until `until`.
    pub(crate) fn check_moves(&self, target: &str, until: Millis) -> Result<(), TrainError> {
        let mut values = vec![None; self.devices.len()];
        let (mut first, mut last) = (None::<(Millis, f64)>, Millis::MIN);
        for track in &self.tracks {
            for row in 0..self.rows_until(track, until) {
                let value = self.target_at(track, row);
                if value.is_nan() {
                    continue;
                }
                if *values[track.series].get_or_insert(value) != value {
                    return Ok(());
                }
                let time = track.start + row as Millis * self.period;
                last = last.max(time);
                first = first.filter(|(t, _)| *t <= time).or(Some((time, value)));
            }
        }
        match first {
            None => Ok(()),
            Some((from, value)) => Err(TrainError::ConstantTarget {
                target: target.into(),
                value,
                from,
                until: last,
            }),
        }
    }

    /// Rows of a track at or before `until`.
    pub(crate) fn rows_until(&self, track: &Track, until: Millis) -> usize {
        let rows = until.saturating_sub(track.start).div_euclid(self.period);
        usize::try_from(rows.saturating_add(1))
            .unwrap_or(0)
            .min(track.rows())
    }

    /// Zeroes the columns that so short a span of data cannot tell from chance; their weights then stay zero.
    fn blank_calendar(&mut self, calendar: &Calendar) {
        const DAY_MS: Millis = 86_400_000;
        let from = self.tracks.iter().map(|t| t.start).min().unwrap_or(0);
        let until = self
            .tracks
            .iter()
            .map(|t| t.start + t.rows() as Millis * self.period)
            .max()
            .unwrap_or(0);
        let blank = [
            (calendar.week_columns(), until - from < 14 * DAY_MS),
            (calendar.year_columns(), until - from < 730 * DAY_MS),
        ];
        for (columns, _) in blank.into_iter().filter(|(_, short)| *short) {
            for row in self
                .tracks
                .iter_mut()
                .flat_map(|t| t.calendar.chunks_exact_mut(self.future_width))
            {
                row[columns.clone()].fill(0.0);
            }
        }
    }

    /// The raw window that ends at row `origin`, steps of `channels` values.
    pub(crate) fn window<'a>(&self, track: &'a Track, origin: usize) -> &'a [f64] {
        &track.values[(origin + 1 - self.lookback) * self.channels..(origin + 1) * self.channels]
    }

    /// Share of the lookback up to row `origin` in which the target is there.
    pub(crate) fn observed(&self, track: &Track, origin: usize) -> f64 {
        let before = |row: usize| track.target_before[row];
        let there = before(origin + 1) - before(origin + 1 - self.lookback);
        f64::from(there) / self.lookback as f64
    }

    /// The target at `row`, NaN where missing.
    pub(crate) fn target_at(&self, track: &Track, row: usize) -> f64 {
        track.values[row * self.channels + self.target]
    }

    /// The calendar of the steps after `origin`, `[H, K]`.
    pub(crate) fn future<'a>(&self, track: &'a Track, origin: usize) -> &'a [f32] {
        &track.calendar
            [(origin + 1) * self.future_width..(origin + 1 + self.horizon) * self.future_width]
    }
}

impl Track {
    pub(crate) fn rows(&self) -> usize {
        self.target_before.len() - 1
    }
}
