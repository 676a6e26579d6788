//! The `[[source]]` tables: owns their keys and which belong to which type; never opens a file or port.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fieldcast_features::{Millis, time_text};
use fieldcast_wire::SensorName;
use serde::Deserialize;

/// One place readings come from.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceConfig {
    /// A CSV file.
    Replay(ReplaySource),
    /// `POST /readings` and `/write`.
    Http(HttpSource),
}

impl SourceConfig {
    /// Whether both read the same columns of the same file, and so would share their place in it.
    #[must_use]
    pub fn same_input(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Replay(a), Self::Replay(b)) => {
                a.path == b.path
                    && a.time_columns == b.time_columns
                    && a.columns == b.columns
                    && a.delimiter == b.delimiter
            }
            _ => false,
        }
    }
}

/// A CSV file, replayed with the data's own time.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplaySource {
    /// The file.
    pub path: PathBuf,
    /// Column of the time, or a date column and one of hours or of the time of day.
    pub time_columns: Vec<String>,
    /// Sensor -> column; empty takes every other column under its own name.
    pub columns: BTreeMap<String, String>,
    /// Data seconds a wall second; 0 is as fast as the buffer takes them.
    pub speed: f64,
    /// Whether to wait for more rows at the end of the file.
    pub follow: bool,
    /// Rows before this data time are passed over.
    pub from: Option<Millis>,
    /// The replay ends before this data time.
    pub until: Option<Millis>,
    /// Separator of columns.
    pub delimiter: u8,
}

/// A local port that takes readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSource {
    /// Address and port; port 0 takes a free one.
    pub listen: String,
    /// Largest body taken, bytes.
    pub max_body: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Replay,
    Http,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    #[serde(rename = "type")]
    kind: Kind,
    path: Option<PathBuf>,
    time_column: Option<String>,
    time_columns: Option<Vec<String>>,
    columns: Option<BTreeMap<String, String>>,
    speed: Option<f64>,
    follow: Option<bool>,
    from: Option<String>,
    until: Option<String>,
    delimiter: Option<char>,
    listen: Option<String>,
    max_body: Option<usize>,
}

type Problem = (&'static str, String);

fn time(key: &'static str, text: Option<String>) -> Result<Option<Millis>, Problem> {
    text.map(|t| time_text::parse(&t).map_err(|e| (key, e.to_string())))
        .transpose()
}

impl Raw {
    pub(super) fn check(self, folder: &Path) -> Result<SourceConfig, Problem> {
        match self.kind {
            Kind::Replay => self.replay(folder).map(SourceConfig::Replay),
            Kind::Http => self.http().map(SourceConfig::Http),
        }
    }

    fn replay(self, folder: &Path) -> Result<ReplaySource, Problem> {
        for (key, given) in [
            ("listen", self.listen.is_some()),
            ("max_body", self.max_body.is_some()),
        ] {
            if given {
                return Err((
                    key,
                    "belongs to type `http`; type `replay` takes path, time_column, time_columns, columns, speed, follow, from, until, delimiter".into(),
                ));
            }
        }
        let path = self
            .path
            .ok_or(("path", "is missing: name the CSV file to replay".to_owned()))?;
        let time_columns = match (self.time_column, self.time_columns) {
            (Some(_), Some(_)) => {
                return Err((
                    "time_columns",
                    "cannot stand beside `time_column`; keep one".into(),
                ));
            }
            (Some(one), None) => vec![one],
            (None, Some(list)) if list.len() == 1 || list.len() == 2 => list,
            (None, Some(_)) => {
                return Err((
                    "time_columns",
                    "must name one column, or a date column and an hour or time-of-day column"
                        .into(),
                ));
            }
            (None, None) => vec!["time".to_owned()],
        };
        let columns = self.columns.unwrap_or_default();
        for sensor in columns.keys() {
            SensorName::new(sensor.as_str()).map_err(|e| ("columns", e.to_string()))?;
        }
        let speed = self.speed.unwrap_or(0.0);
        if !speed.is_finite() || speed < 0.0 {
            return Err((
                "speed",
                "must be 0 (as fast as accepted) or data seconds a wall second".into(),
            ));
        }
        let delimiter = self.delimiter.unwrap_or(',');
        let delimiter = u8::try_from(delimiter).map_err(|_| {
            (
                "delimiter",
                "must be one ASCII character such as `,` or `;`".to_owned(),
            )
        })?;
        Ok(ReplaySource {
            path: folder.join(path),
            time_columns,
            columns,
            speed,
            follow: self.follow.unwrap_or(false),
            from: time("from", self.from)?,
            until: time("until", self.until)?,
            delimiter,
        })
    }

    fn http(self) -> Result<HttpSource, Problem> {
        let foreign = [
            ("path", self.path.is_some()),
            ("time_column", self.time_column.is_some()),
            ("time_columns", self.time_columns.is_some()),
            ("columns", self.columns.is_some()),
            ("speed", self.speed.is_some()),
            ("follow", self.follow.is_some()),
            ("from", self.from.is_some()),
            ("until", self.until.is_some()),
            ("delimiter", self.delimiter.is_some()),
        ];
        for (key, given) in foreign {
            if given {
                return Err((
                    key,
                    "belongs to type `replay`; type `http` takes listen, max_body".into(),
                ));
            }
        }
        let max_body = self.max_body.unwrap_or(1 << 20);
        if max_body == 0 || max_body > 16 << 20 {
            return Err(("max_body", "must be 1 to 16777216 bytes".into()));
        }
        let listen = self.listen.unwrap_or_else(|| "127.0.0.1:8787".into());
        super::listen::check(&listen).map_err(|problem| ("listen", problem))?;
        Ok(HttpSource { listen, max_body })
    }
}
