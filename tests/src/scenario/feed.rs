//! A CSV file that grows: owns handing the rows of a series to a following agent in stages.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A series whose rows become visible step by step.
#[derive(Debug)]
pub struct Feed {
    header: String,
    rows: Vec<String>,
    shown: usize,
    path: PathBuf,
    out: File,
}

impl Feed {
    /// Takes the series of `source`; `path` starts with its header and no rows.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
    pub fn new(source: &Path, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(source)
            .with_context(|| format!("read {}", source.display()))?;
        let mut lines = text.lines().map(str::to_owned);
        let header = lines
            .next()
            .with_context(|| format!("{} is empty", source.display()))?;
        let mut out = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(path)
            .with_context(|| format!("create {}", path.display()))?;
        writeln!(out, "{header}")?;
        Ok(Self {
            header,
            rows: lines.collect(),
            shown: 0,
            path: path.to_path_buf(),
            out,
        })
    }

    /// Writes rows `0..until` to another file, for an import, and starts the feed behind them.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn split_history(&mut self, until: usize, history: &Path) -> Result<()> {
        let mut text = format!("{}\n", self.header);
        for row in &self.rows[..until] {
            text.push_str(row);
            text.push('\n');
        }
        std::fs::write(history, text).with_context(|| format!("write {}", history.display()))?;
        self.shown = until;
        Ok(())
    }

    /// Shows every row before index `until`.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn show_until(&mut self, until: usize) -> Result<()> {
        let until = until.min(self.rows.len());
        let mut text = String::new();
        for row in &self.rows[self.shown.min(until)..until] {
            text.push_str(row);
            text.push('\n');
        }
        self.out
            .write_all(text.as_bytes())
            .with_context(|| format!("append to {}", self.path.display()))?;
        self.shown = self.shown.max(until);
        Ok(())
    }

    /// The file an agent follows.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All rows of the series, also those not shown yet.
    #[must_use]
    pub fn rows(&self) -> &[String] {
        &self.rows
    }
}
