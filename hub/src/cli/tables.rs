//! CSV files as the data of one training: owns the options that name them and the way to rows, never what is learnt from them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use fieldcast_features::resample::resample_all;
use fieldcast_features::{ForecasterSpec, Sample};
use fieldcast_train::backtest;
use fieldcast_train::{Series, TrainConfig, TrainingData};

use super::device::pair;
use super::forecaster;
use crate::import::{Options, Table};

/// Options of every command that reads a table of readings.
#[derive(Debug, clap::Args)]
pub(super) struct Columns {
    /// Column with the time, or two: a date and an hour.
    #[arg(long = "time-column", value_name = "COLUMN")]
    pub(super) time_columns: Vec<String>,
    /// Sensor and its column; may be given again. None: `import` takes every column whose first value is a number, the others
    /// those that are called as the sensors.
    #[arg(long = "column", value_name = "SENSOR=COLUMN", value_parser = pair)]
    pub(super) columns: Vec<(String, String)>,
    /// Number that stands for a missing value.
    #[arg(long, allow_negative_numbers = true)]
    pub(super) missing: Option<f64>,
}

/// Options of every command that learns from files.
#[derive(Debug, clap::Args)]
pub(super) struct Tables {
    /// Table of readings with a header, one device a file; may be given again.
    #[arg(long = "csv", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The forecaster's definition, TOML or JSON.
    #[arg(long, value_name = "FILE")]
    forecaster: PathBuf,
    #[command(flatten)]
    columns: Columns,
    /// Seed of the random numbers, instead of the configuration's.
    #[arg(long)]
    seed: Option<u64>,
    /// Settings of the training, TOML or JSON; those it leaves out keep their defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Tables {
    /// Refuses to write over what is read.
    ///
    /// # Errors
    /// A file that is named as both.
    pub(super) fn spare<'a>(
        &'a self,
        written: impl IntoIterator<Item = &'a PathBuf>,
    ) -> Result<()> {
        let own = [&self.forecaster].into_iter().chain(&self.config);
        spare(self.files.iter().chain(own), written)
    }

    /// The definition, the settings and the data; what is odd about the data is said on standard error.
    pub(super) fn read(&self) -> Result<(ForecasterSpec, TrainConfig, TrainingData)> {
        let spec = forecaster::read(&self.forecaster)?.spec;
        let mut train = match &self.config {
            Some(file) => read_config(file)?,
            None => TrainConfig::default(),
        };
        train.seed = self.seed.unwrap_or(train.seed);
        let mut data = TrainingData::default();
        for file in &self.files {
            let series = read(file, &spec, self)?;
            ensure!(
                data.series.iter().all(|s| s.device != series.device),
                "read {}: another file is called `{}` too, and the name is the device's; rename one",
                file.display(),
                series.device
            );
            data.series.push(series);
        }
        for warning in backtest::warnings(&spec, &data) {
            let _ = writeln!(std::io::stderr(), "warning: {warning}");
        }
        Ok((spec, train, data))
    }
}

/// Refuses to write over what is read.
///
/// # Errors
/// A file that is named as both.
pub(super) fn spare<'a>(
    read: impl IntoIterator<Item = &'a PathBuf>,
    written: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<()> {
    let read: Vec<PathBuf> = read
        .into_iter()
        .filter_map(|f| f.canonicalize().ok())
        .collect();
    for file in written {
        ensure!(
            !file.canonicalize().is_ok_and(|f| read.contains(&f)),
            "write {}: it is one of the files to read and would be lost; name another",
            file.display()
        );
    }
    Ok(())
}

pub(super) fn read_config(file: &Path) -> Result<TrainConfig> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let config = if file.extension().is_some_and(|e| e == "json") {
        serde_json::from_str(&text).map_err(anyhow::Error::from)
    } else {
        toml::from_str(&text).map_err(anyhow::Error::from)
    };
    config.with_context(|| format!("read training settings from {}", file.display()))
}

/// One device's rows, made from the file as a device would make them from its readings.
fn read(file: &Path, spec: &ForecasterSpec, args: &Tables) -> Result<Series> {
    let named: BTreeMap<_, _> = args.columns.columns.iter().cloned().collect();
    let sensors = spec
        .channels()
        .into_iter()
        .map(|c| spec.sensor_of(c).to_owned());
    let columns: Vec<(String, String)> = sensors
        .map(|s| (s.clone(), named.get(&s).cloned().unwrap_or(s)))
        .collect();
    let options = Options {
        time_columns: args.columns.time_columns.clone(),
        columns,
        missing: args.columns.missing,
    };
    let mut table = Table::open(file, &options)?;
    let mut samples = Vec::new();
    let (mut rows, mut doubled, mut before) = (0_usize, 0_usize, None);
    while let Some(row) = table.next_row()? {
        rows += 1;
        doubled += usize::from(before == Some(row.time));
        before = Some(row.time);
        samples.extend(
            row.values
                .iter()
                .enumerate()
                .map(|(channel, value)| Sample {
                    channel,
                    time: row.time,
                    value: value.unwrap_or(f64::NAN),
                }),
        );
    }
    if rows == 0 {
        bail!("{} has no row below its header", file.display());
    }
    if doubled > 0 {
        let _ = writeln!(
            std::io::stderr(),
            "warning: {} repeats the time of {doubled} rows; their mean counts",
            file.display()
        );
    }
    Ok(Series {
        device: file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        rows: resample_all(spec, &samples),
        weight_from: None,
    })
}
