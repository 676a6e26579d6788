//! A CSV file as typed columns: owns its reading, the guess of types and where rows stand in a season, never a comparison.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use chrono::{Datelike as _, NaiveDate};
use fieldcast_drift::preset::Values;
use fieldcast_drift::window::{Grid, Season};
use fieldcast_features::time_text;

/// Names of a column that holds times.
const TIME_NAMES: [&str; 4] = ["time", "timestamp", "date", "datetime"];
/// What stands for a missing value, beside nothing: what pandas takes for one, as it is written. In other letters it is a word, such as
/// the `none` of a column of states.
const MISSING: [&str; 13] = [
    "NaN", "nan", "-NaN", "-nan", "NA", "N/A", "n/a", "#N/A", "#NA", "NULL", "null", "None", "<NA>",
];
/// Where more than one of so many rows has the time of another, a column of times says only of which day a row is, or of which device.
const REPEATED: usize = 10;
/// Fewest rows for which ever rising whole numbers count as a row number.
const ROW_NUMBER: usize = 10;
/// Years of days that are written as one number.
const DAYS: Range<i32> = 1900..2100;
/// Unix times that a column without a time's name may hold: those of 2000 to 2100.
const UNIX_MS: Range<i64> = 946_684_800_000..4_102_444_800_000;

/// A column's content.
#[derive(Debug, Clone, PartialEq)]
enum Content {
    Data(Values),
    Times,
    RowNumber(Values),
    Empty,
}

/// A column.
#[derive(Debug, Clone, PartialEq)]
pub struct Cells {
    name: String,
    content: Content,
}

impl Cells {
    /// Its values, where it holds any.
    #[must_use]
    pub fn values(&self) -> Option<&Values> {
        match &self.content {
            Content::Data(values) | Content::RowNumber(values) => Some(values),
            Content::Times | Content::Empty => None,
        }
    }

    /// Whether it only counts rows.
    #[must_use]
    pub fn counts(&self) -> bool {
        matches!(self.content, Content::RowNumber(_))
    }

    /// Why it holds no values.
    #[must_use]
    pub fn no_data(&self) -> Option<&'static str> {
        match self.content {
            Content::Data(_) | Content::RowNumber(_) => None,
            Content::Times => Some("holds times, not data"),
            Content::Empty => Some("has no value in one of the files"),
        }
    }
}

/// A file's columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    path: PathBuf,
    cells: Vec<Cells>,
    /// Milliseconds UTC of each row, ascending.
    times: Option<Vec<i64>>,
    rows: usize,
}

impl Table {
    /// Times of its rows (ms UTC, ascending), where a column holds them.
    #[must_use]
    pub fn times(&self) -> Option<&[i64]> {
        self.times.as_deref()
    }

    /// Reads a file with a header; rows are put in the order of their times.
    ///
    /// # Errors
    /// Not readable, no rows, a malformed row (its line), or a time column that holds something else.
    pub fn read(path: &Path, time_column: Option<&str>) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new()
            .flexible(true)
            .from_path(path)
            .with_context(|| format!("open {}", path.display()))?;
        let header = reader
            .headers()
            .with_context(|| format!("read the header of {}", path.display()))?;
        let names: Vec<String> = header
            .iter()
            .map(|h| h.trim_start_matches('\u{feff}').trim().to_owned())
            .collect();
        let mut sorted: Vec<_> = names.iter().collect();
        sorted.sort();
        if let Some(twice) = sorted.windows(2).find(|w| w[0] == w[1]) {
            bail!(
                "{} has two columns `{}`; rename one",
                path.display(),
                twice[0]
            );
        }
        let mut columns: Vec<Vec<Option<String>>> = vec![Vec::new(); names.len()];
        for record in reader.records() {
            let record = record.with_context(|| format!("read {}", path.display()))?;
            ensure!(
                record.len() == names.len(),
                "{} line {}: {} fields, the header has {}",
                path.display(),
                record.position().map_or(0, csv::Position::line),
                record.len(),
                names.len()
            );
            for (column, text) in columns.iter_mut().zip(&record) {
                let text = text.trim();
                let absent = text.is_empty() || MISSING.contains(&text);
                column.push((!absent).then(|| text.to_owned()));
            }
        }
        let rows = columns.first().map_or(0, Vec::len);
        ensure!(
            rows > 0,
            "{} has no row below its header; give a file with rows",
            path.display()
        );
        let at = time_at(path, &names, &columns, time_column)?;
        let mut times = None;
        if let Some(at) = at {
            let read = read_times(path, &names[at], &columns[at])?;
            ensure!(
                !repeated(read.clone()),
                "{}, column `{}`: many rows have the time of another; name a column with a time for each row, or one file for each device",
                path.display(),
                names[at]
            );
            let mut order: Vec<usize> = (0..rows).collect();
            order.sort_by_key(|i| read[*i]);
            for column in &mut columns {
                *column = order.iter().map(|i| column[*i].clone()).collect();
            }
            times = Some(order.iter().map(|i| read[*i]).collect());
        }
        let cells = names.into_iter().zip(columns).enumerate();
        let cells = cells.map(|(i, (name, column))| Cells {
            content: match content(&column) {
                _ if at == Some(i) => Content::Times,
                Content::Data(Values::Numbers { .. }) | Content::RowNumber(_)
                    if numbered_times(&name, &column) =>
                {
                    Content::Times
                }
                other => other,
            },
            name,
        });
        Ok(Self {
            path: path.to_path_buf(),
            cells: cells.collect(),
            times,
            rows,
        })
    }

    /// A column by its name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Cells> {
        self.cells.iter().find(|c| c.name == name)
    }

    /// Names of the columns, as in the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.cells.iter().map(|c| c.name.as_str())
    }

    /// First and last time.
    #[must_use]
    pub fn span(&self) -> Option<(i64, i64)> {
        let times = self.times.as_ref()?;
        Some((*times.first()?, *times.last()?))
    }
}

fn time_at(
    path: &Path,
    names: &[String],
    columns: &[Vec<Option<String>>],
    wanted: Option<&str>,
) -> Result<Option<usize>> {
    if let Some(wanted) = wanted {
        let found = names.iter().position(|n| n == wanted);
        return found.map(Some).with_context(|| {
            format!(
                "{} has no column `{wanted}`; it has {}",
                path.display(),
                names.join(", ")
            )
        });
    }
    let all_times = |i: &usize| {
        let times: Option<Vec<i64>> = columns[*i]
            .iter()
            .map(|c| time_text::parse(c.as_deref()?).ok())
            .collect();
        times.is_some_and(|times| !times.is_empty() && !repeated(times))
    };
    let named = names.iter().position(|n| names_time(n));
    if let Some(at) = named.filter(all_times) {
        return Ok(Some(at));
    }
    let dates: Vec<usize> = (0..names.len())
        .filter(|i| matches!(content(&columns[*i]), Content::Times))
        .filter(all_times)
        .collect();
    Ok(match dates.as_slice() {
        [only] => Some(*only),
        _ => None,
    })
}

/// Whether so many times repeat that they are not those of the rows.
fn repeated(mut times: Vec<i64>) -> bool {
    times.sort_unstable();
    let again = times.windows(2).filter(|w| w[0] == w[1]).count();
    again * REPEATED > times.len()
}

fn read_times(path: &Path, name: &str, column: &[Option<String>]) -> Result<Vec<i64>> {
    let one = |(row, text): (usize, &Option<String>)| {
        let place = || format!("{} row {}, column `{name}`", path.display(), row + 1);
        let text = text
            .as_deref()
            .with_context(|| format!("{}: no time; give each row one", place()))?;
        time_text::parse(text).with_context(place)
    };
    column.iter().enumerate().map(one).collect()
}

/// Numbers where all are numbers, times where all are times, else words.
fn content(column: &[Option<String>]) -> Content {
    let present = || column.iter().flatten();
    if present().next().is_none() {
        return Content::Empty;
    }
    let number = |text: &String| text.parse::<f64>().ok();
    if present().all(|t| number(t).is_some()) {
        let values: Vec<f64> = column
            .iter()
            .map(|c| c.as_ref().and_then(number).unwrap_or(f64::NAN))
            .collect();
        let whole = column
            .iter()
            .all(|c| c.as_ref().is_some_and(|t| t.parse::<i64>().is_ok()));
        let step = values.get(1).map_or(0.0, |v| v - values[0]);
        let counts = whole
            && values.len() >= ROW_NUMBER
            && step > 0.0
            && values.windows(2).all(|w| w[1] - w[0] == step);
        let values = Values::Numbers { values, whole };
        return if counts {
            Content::RowNumber(values)
        } else {
            Content::Data(values)
        };
    }
    if present().all(|t| number(t).is_none() && (time_text::parse(t).is_ok() || dated(t))) {
        return Content::Times;
    }
    Content::Data(Values::Words(column.to_vec()))
}

/// Whether a text begins with a date as people write it, `31/01/2026` or `1.31.2026`: which of its numbers is the day is not to be told,
/// but it is no data.
fn dated(text: &str) -> bool {
    let date = text.split([' ', 'T', ',']).next().unwrap_or_default();
    let parts: Vec<&str> = date.split(['/', '.', '-']).collect();
    let number = |at: usize, range: Range<i32>| {
        let part: Option<i32> = parts.get(at).and_then(|p| p.parse().ok());
        part.is_some_and(|n| range.contains(&n))
    };
    parts.len() == 3 && number(0, 1..32) && number(1, 1..32) && number(2, DAYS)
}

fn names_time(name: &str) -> bool {
    TIME_NAMES.contains(&name.to_ascii_lowercase().as_str())
}

/// Whether a column of numbers holds times: days as `20260131`, or Unix times of this century that never fall, or that stand below
/// a time's name.
fn numbered_times(name: &str, column: &[Option<String>]) -> bool {
    let present = || column.iter().flatten();
    let day = |text: &String| {
        let day = NaiveDate::parse_from_str(text, "%Y%m%d");
        text.len() == 8 && day.is_ok_and(|d| DAYS.contains(&d.year()))
    };
    let unix = |text: &String| time_text::parse(text).ok().filter(|t| UNIX_MS.contains(t));
    if present().all(day) {
        return true;
    }
    let times: Option<Vec<i64>> = present().map(unix).collect();
    let rise = |times: &[i64]| {
        times.len() >= ROW_NUMBER && times.is_sorted() && times[0] < times[times.len() - 1]
    };
    times.is_some_and(|times| names_time(name) || rise(&times))
}

/// Where the rows of both files stand: the season's name, and both grids.
pub(super) fn grids(
    reference: &Table,
    current: &Table,
    season: Option<usize>,
) -> Result<(Option<String>, [Grid; 2])> {
    if let Some(season) = season {
        ensure!(season >= 2, "a season of {season} rows: give 2 or more");
        ensure!(
            reference.rows / 4 >= season,
            "{} holds {} rows, fewer than four seasons of {season}; give a longer reference or leave --season out",
            reference.path.display(),
            reference.rows
        );
    }
    let (Some(times), Some(fresh)) = (&reference.times, &current.times) else {
        let season_rows = season.unwrap_or(0);
        let grid = |rows| Grid::regular(rows, season_rows);
        let name = season.map(|n| format!("{n} rows, both files beginning with the same one"));
        return Ok((name, [grid(reference.rows), grid(current.rows)]));
    };
    let Some(by) = Season::of(times, season) else {
        return Ok((None, [Grid::default(), Grid::default()]));
    };
    let grids = [by.grid(times), by.grid(fresh)];
    Ok((by.name, grids))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn table(text: &str) -> Result<Table> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("a.csv");
        std::fs::write(&path, text)?;
        Table::read(&path, None)
    }

    #[test]
    fn a_date_that_many_rows_share_is_no_time_of_theirs() {
        let row = |i: usize| format!("2026-01-{:02},{i}.5\n", 1 + i / 24);
        let rows: String = (0..240).map(row).collect();
        let table = table(&format!("day,t\n{rows}")).unwrap();
        assert!(table.times.is_none());
        assert_eq!(table.cells[0].content, Content::Times);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(&path, format!("day,t\n{rows}")).unwrap();
        let error = Table::read(&path, Some("day")).unwrap_err().to_string();
        assert!(
            error.contains("many rows have the time of another"),
            "{error}"
        );
    }

    #[test]
    fn dates_as_people_write_them_are_no_data_and_a_state_of_none_is() {
        let row = |i: usize| {
            format!(
                "{}/01/2026 10:00,{}.1.2026,none,None\n",
                1 + i % 28,
                1 + i % 12
            )
        };
        let rows: String = (0..24).map(row).collect();
        let table = table(&format!("a,b,state,gap\n{rows}")).unwrap();
        let contents: Vec<_> = table.cells.iter().map(|c| &c.content).collect();
        assert_eq!(contents[..2], [&Content::Times, &Content::Times]);
        assert!(matches!(contents[2], Content::Data(Values::Words(_))));
        assert_eq!(contents[3], &Content::Empty);
    }

    #[test]
    fn columns_are_typed_by_what_they_hold() {
        let rows: String = (0..12)
            .map(|i| {
                format!(
                    "{i},2026-01-{:02},2026-02-01,{}.5,{},x{i},\n",
                    12 - i,
                    i * i,
                    i % 3
                )
            })
            .collect();
        let t = table(&format!("row,time,made,a,b,c,none\n{rows}")).unwrap();
        let why = |name: &str| t.column(name).unwrap().no_data();
        assert!(why("row").is_none(), "put in the order of time, it falls");
        assert!(why("time").unwrap().contains("times"));
        assert!(why("made").unwrap().contains("times"));
        assert!(why("none").unwrap().contains("no value"));
        let Some(Values::Numbers { values, whole }) = t.column("a").unwrap().values() else {
            unreachable!("numbers")
        };
        assert!(!whole && values[0] == 121.5 && values[11] == 0.5);
        let whole = |name: &str| {
            matches!(
                t.column(name).unwrap().values(),
                Some(Values::Numbers { whole: true, .. })
            )
        };
        assert!(whole("b"));
        assert!(matches!(
            t.column("c").unwrap().values(),
            Some(Values::Words(_))
        ));
    }

    #[test]
    fn numbers_that_are_times_are_no_data() {
        let rows: String = (0..40)
            .map(|i| {
                let unix = 1_767_225_600 + i * 3_600 + i % 7;
                let named = if i == 3 {
                    String::new()
                } else {
                    unix.to_string()
                };
                let (day, month) = (1 + i % 28, 1 + i % 12);
                format!(
                    "{named},{unix},{unix}123,2026{month:02}{day:02},{},2026{:04},{}\n",
                    unix - i % 2 * 7_200,
                    i * 257,
                    i % 5
                )
            })
            .collect();
        let t = table(&format!(
            "Timestamp,seconds,millis,day,jumps,parts,a\n{rows}"
        ))
        .unwrap();
        assert!(t.times().is_none());
        for name in ["Timestamp", "seconds", "millis", "day"] {
            let why = t.column(name).unwrap().no_data();
            assert!(why.unwrap().contains("times"), "{name}");
        }
        for name in ["jumps", "parts", "a"] {
            assert!(t.column(name).unwrap().no_data().is_none(), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, says) in [
            ("", "no row below its header"),
            ("a,b\n", "no row below its header"),
            ("a,a\n1,2\n", "two columns `a`"),
            ("a,b\n1,2\n3\n", "line 3: 1 fields"),
        ] {
            let error = format!("{:#}", table(text).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn hours_give_the_season() {
        let hours = |n: i64| {
            let line = |h: i64| {
                let time = 1_767_225_600_000 + h * 3_600_000;
                format!("{},{}\n", time, (h * 7919) % 1000)
            };
            let lines: String = (0..n).map(line).collect();
            table(&format!("time,a\n{lines}")).unwrap()
        };
        let (name, [a, b]) = grids(&hours(200), &hours(30), None).unwrap();
        assert_eq!(name.unwrap(), "hours of the day");
        assert_eq!((a.slots[25], b.slots[29], a.breaks.len()), (1, 5, 0));
        let (name, [a, _]) = grids(&hours(2_100), &hours(30), None).unwrap();
        assert_eq!(name.unwrap(), "hours of the week");
        assert_eq!(a.slots.iter().max(), Some(&167));
        assert!(grids(&hours(30), &hours(30), Some(24)).is_err());
    }
}
