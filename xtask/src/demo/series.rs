//! Series in CSV files: owns dividing them into history and what is replayed, and reading a row's time.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// One device's series.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) device: String,
    /// Imported at the hub before the agents start.
    pub(crate) history: PathBuf,
    /// Replayed by the device's agent.
    pub(crate) rest: PathBuf,
    pub(crate) rows: usize,
    pub(crate) replayed: usize,
    /// Times of the first and last replayed row, RFC 3339.
    pub(crate) first: String,
    pub(crate) last: String,
}

/// Writes `<device>-history.csv` and `<device>.csv` into `dir`.
pub(crate) fn divide(
    source: &Path,
    device: &str,
    share: f64,
    time_columns: &[String],
    dir: &Path,
) -> Result<Series> {
    let text =
        std::fs::read_to_string(source).with_context(|| format!("read {}", source.display()))?;
    let mut lines = text.lines();
    let header = lines
        .next()
        .with_context(|| format!("{} is empty", source.display()))?;
    let rows: Vec<&str> = lines.filter(|line| !line.trim().is_empty()).collect();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count of lines"
    )]
    let until = (rows.len() as f64 * share) as usize;
    ensure!(
        until > 0 && until < rows.len(),
        "{} has {} rows: too few to divide into history and replay",
        source.display(),
        rows.len()
    );
    let write = |name: String, part: &[&str]| -> Result<PathBuf> {
        let path = dir.join(name);
        std::fs::write(&path, format!("{header}\n{}\n", part.join("\n")))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    let time = |row: &str| {
        row_time(header, row, time_columns)
            .with_context(|| format!("{}: row `{row}`", source.display()))
    };
    Ok(Series {
        device: device.to_owned(),
        history: write(format!("{device}-history.csv"), &rows[..until])?,
        rest: write(format!("{device}.csv"), &rows[until..])?,
        rows: rows.len(),
        replayed: rows.len() - until,
        first: time(rows[until])?,
        last: time(rows[rows.len() - 1])?,
    })
}

/// The row's time as RFC 3339: one column as it is, or a date column and one of hours.
fn row_time(header: &str, row: &str, columns: &[String]) -> Result<String> {
    let names: Vec<&str> = header.split(',').map(str::trim).collect();
    let fields: Vec<&str> = row.split(',').map(str::trim).collect();
    let field = |name: &String| {
        let at = names.iter().position(|n| n == name).with_context(|| {
            format!("there is no column `{name}`; the columns are {header}: name the time's with --time-column")
        })?;
        fields
            .get(at)
            .copied()
            .with_context(|| format!("the row has no field for `{name}`"))
    };
    match columns {
        [time] => rfc3339(field(time)?),
        [date, hour] => {
            let hour: u32 = field(hour)?
                .parse()
                .with_context(|| format!("`{hour}` must hold an hour, 0 to 23"))?;
            Ok(format!("{}T{hour:02}:00:00Z", field(date)?))
        }
        _ => anyhow::bail!(
            "--time-column is given {} times: once, or twice for date and hour",
            columns.len()
        ),
    }
}

/// A time as hub and agent read it, as RFC 3339: without an offset it is UTC.
fn rfc3339(text: &str) -> Result<String> {
    if chrono::DateTime::parse_from_rfc3339(text).is_ok() {
        return Ok(text.to_owned());
    }
    for form in [
        "%Y-%m-%d %H:%M:%S",
        "%Y-%m-%dT%H:%M:%S",
        "%Y-%m-%d %H:%M",
        "%Y-%m-%dT%H:%M",
    ] {
        if let Ok(time) = chrono::NaiveDateTime::parse_from_str(text, form) {
            return Ok(time.format("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
    }
    if let Ok(date) = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(format!("{date}T00:00:00Z"));
    }
    anyhow::bail!(
        "`{text}` is no time; write 2024-01-31T13:00:00Z, 2024-01-31 13:00:00 or 2024-01-31"
    )
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn a_series_is_divided_by_its_share_and_keeps_its_header() {
        let dir =
            std::env::temp_dir().join(format!("fieldcast-xtask-series-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let source = dir.join("source.csv");
        std::fs::write(
            &source,
            "dteday,hr,cnt\n2011-01-01,22,5\n2011-01-01,23,6\n2011-01-02,0,7\n2011-01-02,1,8\n",
        )
        .unwrap();
        let columns = ["dteday".to_owned(), "hr".to_owned()];
        let series = divide(&source, "bike", 0.5, &columns, &dir).unwrap();
        assert_eq!((series.rows, series.replayed), (4, 2));
        assert_eq!(
            (series.first.as_str(), series.last.as_str()),
            ("2011-01-02T00:00:00Z", "2011-01-02T01:00:00Z")
        );
        let history = std::fs::read_to_string(&series.history).unwrap();
        assert_eq!(history, "dteday,hr,cnt\n2011-01-01,22,5\n2011-01-01,23,6\n");
        let error = format!(
            "{:#}",
            divide(&source, "bike", 0.5, &["time".to_owned()], &dir).unwrap_err()
        );
        assert!(
            error.contains("no column `time`") && error.contains("--time-column"),
            "{error}"
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn times_without_an_offset_are_utc() {
        for text in ["2016-07-01 00:00:00", "2016-07-01T00:00", "2016-07-01"] {
            assert_eq!(rfc3339(text).unwrap(), "2016-07-01T00:00:00Z", "{text}");
        }
        assert_eq!(
            rfc3339("2016-07-01T02:00:00+02:00").unwrap(),
            "2016-07-01T02:00:00+02:00"
        );
        assert!(
            rfc3339("07/01/2016")
                .unwrap_err()
                .to_string()
                .contains("2024-01-31")
        );
    }
}
