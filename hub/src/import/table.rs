//! A CSV of readings: owns finding its columns and reading its rows, never the database.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use fieldcast_features::time_text;
use fieldcast_wire::SensorName;
use fieldcast_wire::caps::{MAX_TIME_MS, MIN_TIME_MS};

/// Which columns mean what.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// One column with the time, or a date and an hour; empty: `time` or `timestamp`.
    pub time_columns: Vec<String>,
    /// Sensor and column; empty: every column that is not a time and whose first value is a number.
    pub columns: Vec<(String, String)>,
    /// A number that stands for a missing value.
    pub missing: Option<f64>,
}

/// A row: its time, and a value (or none) for each sensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Data time, milliseconds UTC.
    pub time: i64,
    /// In the order of [`Table::sensors`].
    pub values: Vec<Option<f64>>,
}

/// An open file.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    reader: csv::Reader<File>,
    time_at: Vec<usize>,
    value_at: Vec<usize>,
    names: Vec<String>,
    /// Sensors, in the order of a row's values.
    pub sensors: Vec<String>,
    /// Columns that are no sensors, because their first value is no number or they have none.
    pub skipped: Vec<String>,
    missing: Option<f64>,
}

impl Table {
    /// Opens a file and finds its columns.
    ///
    /// # Errors
    /// Not readable, no header, or a column that is not there; names those that are.
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new()
            .flexible(true)
            .from_path(path)
            .with_context(|| format!("open {}", path.display()))?;
        let header = reader
            .headers()
            .with_context(|| format!("read the header of {}", path.display()))?
            .clone();
        let names: Vec<String> = header.iter().map(|h| h.trim().to_owned()).collect();
        let find = |name: &str| {
            names.iter().position(|n| n == name).with_context(|| {
                format!(
                    "{} has no column `{name}`; it has {}",
                    path.display(),
                    names.join(", ")
                )
            })
        };
        let time_at = if options.time_columns.is_empty() {
            let found = names
                .iter()
                .position(|n| ["time", "timestamp", "date"].contains(&n.as_str()));
            vec![found.with_context(|| {
                format!(
                    "{} has no column `time`; name it with --time-column ({})",
                    path.display(),
                    names.join(", ")
                )
            })?]
        } else {
            options
                .time_columns
                .iter()
                .map(|c| find(c))
                .collect::<Result<_>>()?
        };
        if time_at.len() > 2 {
            bail!(
                "{} time columns: name one, or a date and an hour",
                time_at.len()
            );
        }
        let mut skipped = Vec::new();
        let columns: Vec<(String, usize)> = if options.columns.is_empty() {
            let numeric = numeric_columns(path, &time_at, names.len())?;
            let (of_numbers, others): (Vec<usize>, Vec<usize>) = (0..names.len())
                .filter(|i| !time_at.contains(i))
                .partition(|i| numeric.contains(i));
            skipped.extend(others.into_iter().map(|i| names[i].clone()));
            of_numbers
                .into_iter()
                .map(|i| (names[i].clone(), i))
                .collect()
        } else {
            options
                .columns
                .iter()
                .map(|(s, c)| Ok((s.clone(), find(c)?)))
                .collect::<Result<_>>()?
        };
        if columns.is_empty() {
            bail!(
                "{} has no numeric column beside the time; name them with --column SENSOR=COLUMN",
                path.display()
            );
        }
        for (sensor, _) in &columns {
            SensorName::new(sensor.as_str()).with_context(|| {
                format!("column of {}; use --column SENSOR=COLUMN", path.display())
            })?;
        }
        let (sensors, value_at) = columns.into_iter().unzip();
        Ok(Self {
            path: path.to_path_buf(),
            reader,
            time_at,
            value_at,
            names,
            sensors,
            skipped,
            missing: options.missing,
        })
    }

    /// The next row; none at the end.
    ///
    /// # Errors
    /// A malformed row: line, column and what was expected.
    pub fn next_row(&mut self) -> Result<Option<Row>> {
        let mut record = csv::StringRecord::new();
        if !self
            .reader
            .read_record(&mut record)
            .with_context(|| format!("read {}", self.path.display()))?
        {
            return Ok(None);
        }
        let line = record.position().map_or(0, csv::Position::line);
        if record.len() != self.names.len() {
            bail!(
                "{} line {line}: {} fields, the header has {}",
                self.path.display(),
                record.len(),
                self.names.len()
            );
        }
        let fields: Vec<&str> = self.time_at.iter().map(|i| &record[*i]).collect();
        let place = || {
            let column = &self.names[self.time_at[0]];
            format!("{} line {line}, column `{column}`", self.path.display())
        };
        let time = time_text::parse_fields(&fields).with_context(place)?;
        if !(MIN_TIME_MS..=MAX_TIME_MS).contains(&time) {
            bail!(
                "{}: `{}` is out of bounds; allowed are the years 1900 to 2199",
                place(),
                fields.join(" ")
            );
        }
        let values = self
            .value_at
            .iter()
            .map(|i| self.value(&record[*i], *i, line))
            .collect::<Result<_>>()?;
        Ok(Some(Row { time, values }))
    }

    fn value(&self, text: &str, column: usize, line: u64) -> Result<Option<f64>> {
        let text = text.trim();
        if absent(text) {
            return Ok(None);
        }
        let value: f64 = text.parse().ok().filter(|v: &f64| v.is_finite()).with_context(|| {
            format!(
                "{} line {line}, column `{}`: `{text}` is no finite number; leave a missing value empty",
                self.path.display(),
                self.names[column]
            )
        })?;
        Ok((self.missing != Some(value)).then_some(value))
    }
}

fn absent(text: &str) -> bool {
    text.is_empty() || text.eq_ignore_ascii_case("nan") || text.eq_ignore_ascii_case("na")
}

/// Columns whose first value is a number; the file is read no further than that takes.
fn numeric_columns(path: &Path, time_at: &[usize], columns: usize) -> Result<Vec<usize>> {
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_path(path)
        .with_context(|| format!("open {}", path.display()))?;
    let mut open: Vec<usize> = (0..columns).filter(|i| !time_at.contains(i)).collect();
    let mut numeric = Vec::new();
    let mut record = csv::StringRecord::new();
    // What cannot be read ends the search here, and is told with its line when the rows are read.
    while !open.is_empty() && reader.read_record(&mut record).unwrap_or(false) {
        open.retain(|i| {
            let text = record.get(*i).unwrap_or_default().trim();
            if absent(text) {
                return true;
            }
            if text.parse::<f64>().is_ok() {
                numeric.push(*i);
            }
            false
        });
    }
    Ok(numeric)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn table(text: &str, options: &Options) -> Result<Vec<Row>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("a.csv");
        std::fs::write(&path, text)?;
        let mut table = Table::open(&path, options)?;
        let mut rows = Vec::new();
        while let Some(row) = table.next_row()? {
            rows.push(row);
        }
        Ok(rows)
    }

    #[test]
    fn rows_have_times_values_and_holes() {
        let rows = table(
            "time,a,note,b\n2012-01-01T03:00:00Z,1.5,x,2\n2012-01-01T04:00:00Z,,y,-200\n",
            &Options {
                missing: Some(-200.0),
                ..Options::default()
            },
        )
        .unwrap();
        assert_eq!(rows[0].values, vec![Some(1.5), Some(2.0)]);
        assert_eq!(
            rows[1],
            Row {
                time: 1_325_390_400_000,
                values: vec![None, None]
            }
        );
    }

    #[test]
    fn a_column_that_begins_with_holes_is_a_sensor_and_what_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        let text =
            "time,late,note,b,empty\n2012-01-01,,x,1,\n2012-01-02,NaN,y,2,\n2012-01-03,7,z,3,\n";
        std::fs::write(&path, text).unwrap();
        let mut table = Table::open(&path, &Options::default()).unwrap();
        assert_eq!(table.sensors, ["late", "b"]);
        assert_eq!(table.skipped, ["note", "empty"]);
        let mut values = Vec::new();
        while let Some(row) = table.next_row().unwrap() {
            values.push(row.values);
        }
        let expected = [
            vec![None, Some(1.0)],
            vec![None, Some(2.0)],
            vec![Some(7.0), Some(3.0)],
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let options = Options::default();
        for (text, says) in [
            ("time,a\nnow,1\n", "line 2, column `time`: `now`"),
            (
                "time,a\n2012-01-01,1\n2012-01-02,x\n",
                "line 3, column `a`: `x`",
            ),
            (
                "time,a\n2012-01-01,1\n2012-01-02\n",
                "line 3: 1 fields, the header has 2",
            ),
            (
                "time,a\n9000-01-01,1\n",
                "line 2, column `time`: `9000-01-01` is out of bounds",
            ),
            ("when,a\n1,1\n", "no column `time`"),
            ("time,a\n2012-01-01,x\n", "no numeric column"),
            (
                "time,a\n2012-01-01,1\n2012-01-02,inf\n",
                "line 3, column `a`",
            ),
        ] {
            let error = format!("{:#}", table(text, &options).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }
}
