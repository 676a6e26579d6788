//! Rows of a CSV file as readings: owns the columns, what a good row is and where to go on; never waits or sends.

use std::fs::File;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use csv::{ByteRecord, Position, Reader, ReaderBuilder};
use fieldcast_features::Millis;
use fieldcast_wire::{SensorName, Sha256};
use serde::{Deserialize, Serialize};

use super::tail::Tail;
use super::time;
use crate::config::ReplaySource;

/// Where a replay goes on, written with the readings it speaks of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Digest of the header line; another header is another file.
    pub header: String,
    /// Offset behind the last row taken.
    pub byte: u64,
    /// Its line.
    pub line: u64,
    /// Rows that were not well formed so far.
    pub malformed: u64,
    /// Whether the replay came to its end.
    pub ended: bool,
}

/// Why a file cannot be replayed at all.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not there or not readable.
    #[error("{} cannot be read ({source}); correct `path` or wait until the file is there", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// No usable header.
    #[error("{}, line 1: {problem}", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong and what was expected.
        problem: String,
    },
}

/// A row that is not well formed; the rows after it still count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}, line {line}, column {column}: {problem}; the row is skipped", file.display())]
pub struct RowError {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: u64,
    /// Name of the column.
    pub column: String,
    /// What was found and what was expected.
    pub problem: String,
}

/// A well-formed row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Data time.
    pub time: Millis,
    /// Index of the sensor in [`Rows::sensors`] and value; empty cells are left out.
    pub values: Vec<(usize, f64)>,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// A row.
    Row(Row),
    /// A row that is skipped.
    Malformed(RowError),
    /// No more rows by now.
    End,
}

/// Streams the rows of a file.
#[derive(Debug)]
pub struct Rows {
    file: PathBuf,
    reader: Reader<Tail>,
    record: ByteRecord,
    width: usize,
    times: Vec<(usize, String)>,
    columns: Vec<(usize, String)>,
    /// Sensors in the order of a row's indices.
    pub sensors: Vec<String>,
    /// Where the next row begins.
    pub cursor: Cursor,
}

impl Rows {
    /// Opens the file and reads its header; `cursor` of the same file goes on where it stood.
    ///
    /// # Errors
    /// Unreadable, or a header without the columns that are asked for.
    pub fn open(source: &ReplaySource, cursor: Option<Cursor>) -> Result<Self, FileError> {
        let open = |e| FileError::Open {
            file: source.path.clone(),
            source: e,
        };
        let tail = File::open(&source.path)
            .and_then(|f| Tail::new(f, source.follow))
            .map_err(open)?;
        let mut reader = ReaderBuilder::new()
            .delimiter(source.delimiter)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(tail);
        let header = reader
            .byte_headers()
            .map_err(|e| {
                header_error(
                    &source.path,
                    format!(
                        "the header cannot be read ({e}); expected column names separated by `{}`",
                        char::from(source.delimiter)
                    ),
                )
            })?
            .clone();
        let names: Vec<String> = header
            .iter()
            .map(|n| {
                String::from_utf8_lossy(n)
                    .trim_start_matches('\u{feff}')
                    .to_owned()
            })
            .collect();
        if names.iter().all(String::is_empty) {
            let problem = "the file is empty; expected a header with column names".to_owned();
            return Err(header_error(&source.path, problem));
        }
        let find = |column: &String| {
            names.iter().position(|n| n == column).ok_or_else(|| {
                let problem = format!(
                    "there is no column `{column}`; the file has {}",
                    names.join(", ")
                );
                header_error(&source.path, problem)
            })
        };
        let mut times = Vec::new();
        for column in &source.time_columns {
            times.push((find(column)?, column.clone()));
        }
        let mut columns = Vec::new();
        let mut sensors = Vec::new();
        if source.columns.is_empty() {
            for (i, name) in names.iter().enumerate() {
                if !times.iter().any(|(t, _)| *t == i) {
                    SensorName::new(name.as_str()).map_err(|e| {
                        header_error(
                            &source.path,
                            format!("{e}; rename the column or map it with `columns`"),
                        )
                    })?;
                    columns.push((i, name.clone()));
                    sensors.push(name.clone());
                }
            }
        } else {
            for (sensor, column) in &source.columns {
                columns.push((find(column)?, column.clone()));
                sensors.push(sensor.clone());
            }
        }
        let digest = Sha256::of(names.join("\n").as_bytes()).to_string();
        let mut rows = Self {
            file: source.path.clone(),
            width: names.len(),
            reader,
            record: ByteRecord::new(),
            times,
            columns,
            sensors,
            cursor: Cursor {
                header: digest.clone(),
                ..Cursor::default()
            },
        };
        match cursor.filter(|c| c.header == digest) {
            Some(cursor) => rows.go_to(cursor).map_err(open)?,
            None => rows.mark(),
        }
        Ok(rows)
    }

    /// Whether the cursor given to [`Self::open`] was taken up.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.cursor.line > 2
    }

    fn go_to(&mut self, cursor: Cursor) -> std::io::Result<()> {
        let mut position = Position::new();
        position.set_byte(cursor.byte).set_line(cursor.line);
        self.reader
            .seek_raw(SeekFrom::Start(cursor.byte), position)
            .map_err(std::io::Error::other)?;
        self.cursor = cursor;
        Ok(())
    }

    fn mark(&mut self) {
        let position = self.reader.position();
        (self.cursor.byte, self.cursor.line) = (position.byte(), position.line());
    }

    /// After [`Next::End`]: true where the file has grown and reading can go on.
    ///
    /// # Errors
    /// What the system says.
    pub fn grow(&mut self) -> std::io::Result<bool> {
        if !self.reader.get_mut().grow()? {
            return Ok(false);
        }
        self.go_to(self.cursor.clone())?;
        Ok(true)
    }

    /// Whether the file became shorter than what was read of it.
    ///
    /// # Errors
    /// What the system says.
    pub fn was_cut(&self) -> std::io::Result<bool> {
        self.reader.get_ref().was_cut()
    }

    /// Reads on.
    pub fn next_row(&mut self) -> Next {
        let line = self.reader.position().line();
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => return Next::End,
            Err(e) => {
                self.mark();
                return self.malformed(line, "all", format!("{e}; expected text"));
            }
        }
        let line = self.record.position().map_or(line, Position::line);
        self.mark();
        match self.row() {
            Ok(row) => Next::Row(row),
            Err((column, problem)) => self.malformed(line, &column, problem),
        }
    }

    fn malformed(&mut self, line: u64, column: &str, problem: String) -> Next {
        self.cursor.malformed += 1;
        Next::Malformed(RowError {
            file: self.file.clone(),
            line,
            column: column.to_owned(),
            problem,
        })
    }

    fn row(&self) -> Result<Row, (String, String)> {
        let found = self.record.len();
        if found != self.width {
            let problem = format!("{found} cells; expected {} as in the header", self.width);
            return Err(("all".to_owned(), problem));
        }
        let cell = |i: usize| String::from_utf8_lossy(self.record.get(i).unwrap_or_default());
        let time = match self.times.as_slice() {
            [(day, _), (of_day, name)] => {
                time::parse_pair(&cell(*day), &cell(*of_day)).map_err(|p| (name.clone(), p))?
            }
            [(i, name), ..] => time::parse(&cell(*i)).map_err(|p| (name.clone(), p))?,
            [] => return Err(("all".to_owned(), "no time column".to_owned())),
        };
        let mut values = Vec::with_capacity(self.columns.len());
        for (sensor, (i, name)) in self.columns.iter().enumerate() {
            let text = cell(*i);
            if text.is_empty()
                || text.eq_ignore_ascii_case("nan")
                || text.eq_ignore_ascii_case("na")
            {
                continue;
            }
            match text.parse::<f64>() {
                Ok(value) if value.is_finite() => values.push((sensor, value)),
                _ => {
                    let problem = format!(
                        "`{}` is not a finite number; expected one such as `21.5`, or an empty cell",
                        time::clip(&text)
                    );
                    return Err((name.clone(), problem));
                }
            }
        }
        Ok(Row { time, values })
    }
}

fn header_error(file: &Path, problem: String) -> FileError {
    FileError::Header {
        file: file.to_owned(),
        problem,
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
