//! Rows of a CSV file as readings: owns the columns, what a good row is and where to go on; never waits or sends.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder};
use fieldcast_features::{Millis, time_text};
use fieldcast_wire::{SensorName, Sha256};
use serde::{Deserialize, Serialize};

use super::clip;
use super::records::{Record, Records};
use super::tail::Tail;
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
    /// Offset of that row, and its digest: a file that holds another row there is another file.
    pub row_at: u64,
    /// See `row_at`; empty before the first row.
    pub row: String,
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
    id: (u64, u64),
    records: Records,
    layout: Layout,
    /// Sensors in the order of a row's indices.
    pub sensors: Vec<String>,
    /// Columns that cannot be sensors, because of their names, and what to do: the others are read.
    pub skipped: Vec<String>,
    /// Where the next row begins.
    pub cursor: Cursor,
}

/// Which cell means what.
#[derive(Debug)]
struct Layout {
    delimiter: u8,
    width: usize,
    times: Vec<(usize, String)>,
    columns: Vec<(usize, String)>,
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
        let file = File::open(&source.path).map_err(open)?;
        let id = id(&file.metadata().map_err(open)?);
        let tail = Tail::new(file, source.follow).map_err(open)?;
        let mut records = Records::new(tail, source.delimiter, source.follow);
        let first = records.next(|_| false).map_err(open)?;
        let header = first.map_or_else(ByteRecord::new, |r| cells(&r.bytes, source.delimiter));
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
        let mut skipped = Vec::new();
        if source.columns.is_empty() {
            for (i, name) in names.iter().enumerate() {
                if !times.iter().any(|(t, _)| *t == i) {
                    if let Err(e) = SensorName::new(name.as_str()) {
                        skipped.push(format!(
                            "column {}: {e}; rename the column or map it with `columns`",
                            i + 1
                        ));
                        continue;
                    }
                    columns.push((i, name.clone()));
                    sensors.push(name.clone());
                }
            }
            if columns.is_empty() && !skipped.is_empty() {
                return Err(header_error(&source.path, skipped.join("; ")));
            }
        } else {
            for (sensor, column) in &source.columns {
                columns.push((find(column)?, column.clone()));
                sensors.push(sensor.clone());
            }
        }
        let digest = Sha256::of(names.join("\n").as_bytes()).to_string();
        let begin = records.place();
        let mut rows = Self {
            file: source.path.clone(),
            id,
            records,
            layout: Layout {
                delimiter: source.delimiter,
                width: names.len(),
                times,
                columns,
            },
            sensors,
            skipped,
            cursor: Cursor {
                header: digest.clone(),
                ..Cursor::default()
            },
        };
        let known = match cursor.filter(|c| c.header == digest) {
            Some(cursor) if rows.holds(&cursor).map_err(open)? => Some(cursor),
            _ => None,
        };
        let (byte, line) = known.as_ref().map_or(begin, |c| (c.byte, c.line));
        rows.records.go_to(byte, line).map_err(open)?;
        rows.cursor = known.unwrap_or(Cursor {
            header: digest,
            byte,
            line,
            ..Cursor::default()
        });
        Ok(rows)
    }

    /// Whether the row that the cursor stands behind is in this file.
    fn holds(&mut self, cursor: &Cursor) -> std::io::Result<bool> {
        if cursor.row.is_empty() {
            return Ok(false);
        }
        let bytes = self.records.bytes(cursor.row_at, cursor.byte)?;
        Ok(Sha256::of(&bytes).to_string() == cursor.row)
    }

    /// Whether the cursor given to [`Self::open`] was taken up.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.cursor.line > 2
    }

    /// After [`Next::End`]: true where the file has grown and reading can go on.
    ///
    /// # Errors
    /// What the system says.
    pub fn grow(&mut self) -> std::io::Result<bool> {
        if !self.records.tail().grow()? {
            return Ok(false);
        }
        self.records.go_to(self.cursor.byte, self.cursor.line)?;
        Ok(true)
    }

    /// Whether the file became shorter than what was read of it.
    ///
    /// # Errors
    /// What the system says.
    pub fn was_cut(&mut self) -> std::io::Result<bool> {
        self.records.tail().was_cut()
    }

    /// Whether another file stands under the name by now: this one was renamed, and gets no more rows once it is read.
    ///
    /// # Errors
    /// What the system says, but for a name that nothing stands under at present.
    pub fn was_rotated(&self) -> std::io::Result<bool> {
        match std::fs::metadata(&self.file) {
            Ok(now) => Ok(id(&now) != self.id),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Reads on.
    pub fn next_row(&mut self) -> Next {
        let layout = &self.layout;
        let is_row = |line: &[u8]| layout.row(&cells(line, layout.delimiter)).is_ok();
        let record = match self.records.next(is_row) {
            Ok(Some(record)) => record,
            Ok(None) => return Next::End,
            Err(e) => {
                tracing::warn!(file = %self.file.display(), "read rows: {e}; tried again as if the file had ended here");
                return Next::End;
            }
        };
        self.mark(&record);
        if let Some(problem) = record.problem {
            return self.malformed(record.line, "all", problem.to_owned());
        }
        match self
            .layout
            .row(&cells(&record.bytes, self.layout.delimiter))
        {
            Ok(row) => Next::Row(row),
            Err((column, problem)) => self.malformed(record.line, &column, problem),
        }
    }

    fn mark(&mut self, record: &Record) {
        let cursor = &mut self.cursor;
        (cursor.byte, cursor.line) = (record.to, record.next_line);
        cursor.row_at = record.from;
        cursor.row = Sha256::of(&record.bytes).to_string();
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
}

impl Layout {
    fn row(&self, record: &ByteRecord) -> Result<Row, (String, String)> {
        let found = record.len();
        if found != self.width {
            let problem = format!("{found} cells; expected {} as in the header", self.width);
            return Err(("all".to_owned(), problem));
        }
        let cell = |i: usize| String::from_utf8_lossy(record.get(i).unwrap_or_default());
        let times: Vec<_> = self.times.iter().map(|(i, _)| cell(*i)).collect();
        let fields: Vec<&str> = times.iter().map(AsRef::as_ref).collect();
        let time = time_text::parse_fields(&fields).map_err(|e| {
            let name = self.times.last().map_or("all", |(_, name)| name);
            (name.to_owned(), e.to_string())
        })?;
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
                        clip(&text)
                    );
                    return Err((name.clone(), problem));
                }
            }
        }
        Ok(Row { time, values })
    }
}

fn id(of: &std::fs::Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

/// The cells of a record; none where it holds no text.
fn cells(record: &[u8], delimiter: u8) -> ByteRecord {
    let mut cells = ByteRecord::new();
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .buffer_capacity(record.len().max(1))
        .from_reader(record);
    // Reading from memory, of any length of record, has no way to fail.
    if !matches!(reader.read_byte_record(&mut cells), Ok(true)) {
        cells.clear();
    }
    cells
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
