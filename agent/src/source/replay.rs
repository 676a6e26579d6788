//! Replays a CSV file: owns the pace and the place in the file; never parses a cell or writes to the buffer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fieldcast_features::Millis;
use fieldcast_wire::{Sha256, pb};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::rows::{Cursor, FileError, Next, Row, Rows};
use super::{Ingest, IngestSender, Item, RawReading};
use crate::clock::Clock;
use crate::config::ReplaySource;
use crate::status::board::{Board, SourceFacts};

/// Rows handed over at once when they are due.
const ROWS_AT_ONCE: usize = 256;
/// How often a followed file is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Pause before a run that was not stored is offered again, or a file opened again.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest uninterrupted sleep: how late the end is noticed.
const SLICE: Duration = Duration::from_millis(50);

/// Name of the state key that holds a replay's cursor: other columns of the same file have a place of their own.
#[must_use]
pub fn cursor_key(source: &ReplaySource) -> String {
    let mapping = (&source.time_columns, &source.columns, source.delimiter);
    let text = serde_json::to_string(&mapping).unwrap_or_default();
    let mut digest = Sha256::of(text.as_bytes()).to_string();
    digest.truncate(16);
    format!("cursor/{}#{digest}", source.path.display())
}

/// A replay, run on a thread of its own (reading a file blocks).
#[derive(Debug)]
pub struct Replay {
    /// What to replay.
    pub source: ReplaySource,
    /// Where it stood, from the buffer.
    pub cursor: Option<Cursor>,
    /// The engine.
    pub sender: IngestSender,
    /// Dates its alarms.
    pub clock: Clock,
    /// Where its facts are shown.
    pub board: Arc<Board>,
    /// Ends it.
    pub cancel: CancellationToken,
}

#[derive(Default)]
struct Run {
    items: Vec<Item>,
    alarms: Vec<pb::Alarm>,
    cursor: Option<Cursor>,
    rows: usize,
}

enum Ended {
    Cancelled,
    File,
    Replaced,
}

impl Replay {
    /// Runs to the end of the file (or, following, until cancelled).
    pub fn run(mut self) {
        let name: Arc<str> = self.source.path.display().to_string().into();
        let mut facts = SourceFacts::new("replay");
        let mut reported = false;
        while !self.cancel.is_cancelled() {
            let cursor = self.cursor.take();
            match Rows::open(&self.source, cursor.clone()) {
                Ok(mut rows) => {
                    reported = false;
                    facts.problem = None;
                    let state = if cursor.is_some_and(|c| c == rows.cursor) {
                        "resumed"
                    } else {
                        "started"
                    };
                    tracing::info!(file = %name, line = rows.cursor.line, "replay {state}");
                    match self.rows(&name, &mut rows, &mut facts) {
                        Ended::Replaced => {
                            tracing::warn!(file = %name, "the file was cut or replaced; it is read from its start");
                        }
                        Ended::Cancelled => return,
                        Ended::File => {
                            facts.state = "ended".into();
                            self.board.source(&name, facts);
                            tracing::info!(file = %name, "replay came to the end of its file");
                            return;
                        }
                    }
                }
                Err(e) => {
                    if !reported {
                        tracing::error!("replay: {e}");
                        reported = true;
                        facts.problem = Some(e.to_string());
                        facts.state = "failed".into();
                        self.board.source(&name, facts.clone());
                        let mut run = Run::default();
                        run.alarms.push(alarm(
                            "source_failed",
                            self.clock.wall_ms(),
                            e.to_string(),
                        ));
                        self.flush(&name, &[], &mut run, &mut facts);
                    }
                    // A file may still appear; a header that is wrong stays wrong.
                    if matches!(e, FileError::Header { .. }) && !self.source.follow {
                        return;
                    }
                    self.cursor = cursor;
                    self.sleep(AGAIN);
                }
            }
        }
    }

    fn rows(&self, name: &Arc<str>, rows: &mut Rows, facts: &mut SourceFacts) -> Ended {
        let sensors = rows.sensors.clone();
        let mut pace = Pace::new(self.source.speed);
        let mut run = Run::default();
        facts.state = "running".into();
        facts.malformed = rows.cursor.malformed;
        if !rows.skipped.is_empty() {
            let problem = format!("{name}, line 1, {}", rows.skipped.join("; "));
            tracing::warn!("{problem}; the other columns are read");
            if !rows.resumed() {
                let now = self.clock.wall_ms();
                run.alarms
                    .push(alarm("column_skipped", now, problem.clone()));
            }
            facts.problem = Some(problem);
        }
        loop {
            match rows.next_row() {
                Next::Row(row) => {
                    if self.source.until.is_some_and(|until| row.time >= until) {
                        self.flush(name, &sensors, &mut run, facts);
                        return Ended::File;
                    }
                    let wanted = self.source.from.is_none_or(|from| row.time >= from);
                    if wanted {
                        let wait = pace.wait(row.time, Instant::now());
                        if !wait.is_zero() {
                            if !self.flush(name, &sensors, &mut run, facts) {
                                return Ended::Cancelled;
                            }
                            self.sleep(pace.wait(row.time, Instant::now()));
                        }
                        facts.rows += 1;
                        facts.last_time = Some(row.time);
                        run.push(&sensors, &row);
                    }
                }
                Next::Malformed(e) => {
                    facts.malformed = rows.cursor.malformed;
                    let n = rows.cursor.malformed;
                    if n <= 5 || n.is_multiple_of(1_000) {
                        tracing::warn!(malformed = n, "{e}");
                    }
                    facts.last_malformed = Some(e.to_string());
                    if n == 1 {
                        run.alarms.push(alarm(
                            "malformed_row",
                            self.clock.wall_ms(),
                            e.to_string(),
                        ));
                    }
                }
                Next::End => {
                    if !self.flush(name, &sensors, &mut run, facts) {
                        return Ended::Cancelled;
                    }
                    if !self.source.follow {
                        return Ended::File;
                    }
                    match self.wait_for_more(rows) {
                        Some(true) => continue,
                        Some(false) => return Ended::Replaced,
                        None => return Ended::Cancelled,
                    }
                }
            }
            run.cursor = Some(rows.cursor.clone());
            run.rows += 1;
            if self.cancel.is_cancelled()
                || (run.rows >= ROWS_AT_ONCE && !self.flush(name, &sensors, &mut run, facts))
            {
                return Ended::Cancelled;
            }
        }
    }

    /// True: there are more rows. False: the file was replaced. None: cancelled.
    fn wait_for_more(&self, rows: &mut Rows) -> Option<bool> {
        loop {
            if self.cancel.is_cancelled() {
                return None;
            }
            if rows.was_cut().unwrap_or(false) {
                return Some(false);
            }
            // Asked before the last look, so that what came just before the renaming is read.
            let rotated = rows.was_rotated().unwrap_or(false);
            match rows.grow() {
                Ok(true) => return Some(true),
                Ok(false) if rotated => return Some(false),
                Ok(false) => {}
                Err(e) => tracing::warn!("look for more rows: {e}; tried again"),
            }
            self.sleep(LOOK);
        }
    }

    /// Hands a run over and waits for its commit; false where the agent is ending.
    fn flush(
        &self,
        name: &Arc<str>,
        sensors: &[String],
        run: &mut Run,
        facts: &mut SourceFacts,
    ) -> bool {
        let run = std::mem::take(run);
        if run.items.is_empty() && run.alarms.is_empty() && run.cursor.is_none() {
            return true;
        }
        let cursor = run
            .cursor
            .and_then(|c| serde_json::to_vec(&c).ok())
            .map(|bytes| (cursor_key(&self.source), bytes));
        let sensors: Arc<[String]> = sensors.into();
        loop {
            let (reply, answer) = oneshot::channel();
            let ingest = Ingest {
                source: name.clone(),
                sensors: sensors.clone(),
                items: run.items.clone(),
                cursor: cursor.clone(),
                alarms: run.alarms.clone(),
                reply,
            };
            if self.sender.blocking_send(ingest).is_err() {
                return false;
            }
            match answer.blocking_recv() {
                Ok(Ok(accepted)) => {
                    facts.stored += accepted.stored as u64;
                    facts.refused += accepted.refused.len() as u64;
                    self.board.source(name, facts.clone());
                    return true;
                }
                Ok(Err(e)) => {
                    tracing::error!("{e}");
                    facts.problem = Some(e.to_string());
                    self.board.source(name, facts.clone());
                    self.sleep(AGAIN);
                }
                Err(_) => return false,
            }
            if self.cancel.is_cancelled() {
                return false;
            }
        }
    }

    fn sleep(&self, how_long: Duration) {
        let end = Instant::now().checked_add(how_long);
        while !self.cancel.is_cancelled() {
            let left = end.map_or(SLICE, |e| e.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(SLICE));
        }
    }
}

impl Run {
    fn push(&mut self, sensors: &[String], row: &Row) {
        for (sensor, value) in &row.values {
            if let Some(name) = sensors.get(*sensor) {
                self.items.push(Item::Reading(RawReading {
                    sensor: name.clone(),
                    time: row.time,
                    value: *value,
                    time_source: pb::TimeSource::External,
                }));
            }
        }
        // The row is whole: no sensor of this file will say more about this instant.
        self.items.push(Item::Complete(row.time.saturating_add(1)));
    }
}

/// An alarm of the device itself, at wall time.
#[must_use]
pub(crate) fn alarm(code: &str, now: Millis, message: String) -> pb::Alarm {
    pb::Alarm {
        code: code.to_owned(),
        time_ms: now,
        message: message.chars().take(500).collect(),
        raised: true,
        ..pb::Alarm::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use std::io::Write;

    use tokio::sync::mpsc;

    use super::*;
    use crate::source::{Accepted, INGEST_QUEUE};

    /// Takes what a replay offers until so many readings are there; their times.
    fn take(inbox: &mut mpsc::Receiver<Ingest>, count: usize) -> Vec<Millis> {
        let mut times = Vec::new();
        while times.len() < count {
            let ingest = inbox.blocking_recv().unwrap();
            times.extend(ingest.items.iter().filter_map(|item| match item {
                Item::Reading(r) => Some(r.time),
                _ => None,
            }));
            let _ = ingest.reply.send(Ok(Accepted::default()));
        }
        times
    }

    #[test]
    fn a_file_rotated_by_renaming_is_read_to_its_end_and_then_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.csv");
        std::fs::write(&path, "time,a\n1,1\n2,2\n").unwrap();
        let (sender, mut inbox) = mpsc::channel(INGEST_QUEUE);
        let cancel = CancellationToken::new();
        let replay = Replay {
            source: ReplaySource {
                path: path.clone(),
                time_columns: vec!["time".into()],
                columns: std::collections::BTreeMap::new(),
                speed: 0.0,
                follow: true,
                from: None,
                until: None,
                delimiter: b',',
            },
            cursor: None,
            sender,
            clock: Clock::new(),
            board: Arc::default(),
            cancel: cancel.clone(),
        };
        let thread = std::thread::spawn(move || replay.run());
        assert_eq!(take(&mut inbox, 2), [1_000, 2_000]);
        let mut old = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        std::fs::rename(&path, dir.path().join("x.csv.1")).unwrap();
        old.write_all(b"3,3\n").unwrap();
        assert_eq!(take(&mut inbox, 1), [3_000]);
        let next = dir.path().join("next");
        std::fs::write(&next, "time,a\n4,4\n5,5\n6,6\n7,7\n").unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert_eq!(take(&mut inbox, 4), [4_000, 5_000, 6_000, 7_000]);
        cancel.cancel();
        thread.join().unwrap();
    }
}
