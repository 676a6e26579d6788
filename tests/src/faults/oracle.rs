//! The judge: owns what is lost, twice or made up, by comparing the rows of the database with what sources handed over.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::log::Log;
use super::postgres::Postgres;
use super::reading::Form;

/// What a comparison found. Only accepted readings can be lost; any offered one can be there twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rows that were compared.
    pub rows: u64,
    /// Accepted readings without a row and without a gap record.
    pub lost: u64,
    /// Accepted readings without a row, under a gap record.
    pub under_gaps: u64,
    /// Rows beyond the first of a reading.
    pub twice: u64,
    /// Rows that nobody handed over in this form.
    pub made_up: u64,
    /// Some of the above by name, for people.
    pub examples: Vec<String>,
}

/// Readings of a device that a fault may have cost it: they may be missing, where gap records say so.
#[derive(Debug, Clone, Copy)]
struct Window {
    first: u64,
    end: u64,
    /// When it opened, milliseconds: gap records that came before tell of something else.
    opened_ms: i64,
}

/// What the oracle knows of the fleet.
#[derive(Debug)]
pub(crate) struct Oracle {
    form: Form,
    names: Vec<String>,
    /// Everything below was found to be there exactly once.
    proven: Vec<u64>,
    windows: Vec<Vec<Window>>,
}

const EXAMPLES: usize = 12;

/// First and last number, and whether they are a gap record's.
type Span = (i128, i128, bool);

impl Oracle {
    pub(crate) fn new(form: Form, names: Vec<String>) -> Self {
        let devices = names.len();
        Self {
            form,
            names,
            proven: vec![0; devices],
            windows: vec![Vec::new(); devices],
        }
    }

    /// The database went back in time: nothing is proven any more.
    pub(crate) fn forget(&mut self) {
        self.proven.fill(0);
    }

    /// Compares all rows.
    pub(crate) fn judge(&mut self, database: &Postgres, logs: &[&Log]) -> Result<Verdict> {
        self.forget();
        self.look(database, logs)
    }

    /// Compares the rows behind what is proven already, device by device.
    pub(crate) fn look(&mut self, database: &Postgres, logs: &[&Log]) -> Result<Verdict> {
        let mut all = Verdict::default();
        for (device, log) in logs.iter().enumerate() {
            let one = self.device(database, device, log)?;
            all.rows += one.rows;
            all.lost += one.lost;
            all.under_gaps += one.under_gaps;
            all.twice += one.twice;
            all.made_up += one.made_up;
            all.examples.extend(one.examples);
        }
        all.examples.truncate(EXAMPLES);
        Ok(all)
    }

    /// From now on until [`Self::close`], readings of this device may be lost under gap records.
    pub(crate) fn open(&mut self, device: usize, now_ms: i64) {
        self.windows[device].push(Window {
            first: self.proven[device],
            end: u64::MAX,
            opened_ms: now_ms,
        });
    }

    pub(crate) fn close(&mut self, device: usize, log: &Log) {
        if let Some(window) = self.windows[device].last_mut() {
            window.end = window.end.min(log.next());
        }
    }

    /// Whether a reading of this device from this number on has a row.
    pub(crate) fn is_there(&self, database: &Postgres, name: &str, from: u64) -> Result<bool> {
        let since = self.form.time_ms(from);
        let found = database.number(&format!(
            "SELECT count(*) FROM (SELECT FROM readings r JOIN sensors s ON s.id = r.sensor
             WHERE s.device = '{name}' AND r.time >= to_timestamp({since}::float8 / 1000) LIMIT 1) one"
        ))?;
        Ok(found > 0)
    }

    fn device(&mut self, database: &Postgres, device: usize, log: &Log) -> Result<Verdict> {
        let name = self.names[device].clone();
        let from = self.proven[device];
        let since = self.form.time_ms(from);
        let query = format!(
            "SELECT s.name, (extract(epoch FROM r.time) * 1000000)::bigint, r.value FROM readings r
             JOIN sensors s ON s.id = r.sensor WHERE s.device = '{name}' AND r.time >= to_timestamp({since}::float8 / 1000)"
        );
        let mut verdict = Verdict::default();
        let mut seen: Vec<u8> = Vec::new();
        let form = self.form;
        database.rows(&query, |line| {
            verdict.rows += 1;
            let mut cells = line.split('\t');
            let (sensor, time, value) = (cells.next(), cells.next(), cells.next());
            let parsed = sensor
                .zip(time.and_then(|t| t.parse().ok()))
                .zip(value.and_then(|v| v.parse().ok()));
            let ((sensor, time), value) =
                parsed.with_context(|| format!("a row of another form: {line}"))?;
            match form
                .number(device, sensor, time, value)
                .and_then(|n| n.checked_sub(from))
            {
                Some(n) => {
                    let n = usize::try_from(n)?;
                    if seen.len() <= n {
                        seen.resize(n + 1, 0);
                    }
                    seen[n] = seen[n].saturating_add(1);
                }
                None => {
                    verdict.made_up += 1;
                    verdict.examples.push(format!("{name}: nobody made {line}"));
                }
            }
            Ok(())
        })?;
        // Asked after the rows: whatever is there by then was offered before.
        let accepted = log.verdicts(from);
        let (strictly, with_gaps, excused) =
            self.compare(device, from, &seen, &accepted, &mut verdict);
        self.proven[device] = with_gaps;
        if verdict.under_gaps > 0 && !self.gaps(database, device, &excused, &mut verdict)? {
            self.proven[device] = strictly;
        }
        verdict.examples.truncate(EXAMPLES);
        Ok(verdict)
    }

    /// Answers up to where all is as it should be: without, and with, what gap records must tell of; and of how many readings
    /// of each window that is.
    fn compare(
        &self,
        device: usize,
        from: u64,
        seen: &[u8],
        accepted: &[bool],
        verdict: &mut Verdict,
    ) -> (u64, u64, Vec<u64>) {
        let name = &self.names[device];
        let windows = &self.windows[device];
        let mut excused = vec![0; windows.len()];
        let mut missing: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut strictly, mut proven) = (from, from);
        for (i, &accepted) in accepted.iter().enumerate() {
            let (n, rows) = (from + i as u64, seen.get(i).copied().unwrap_or(0));
            if rows > 1 {
                verdict.twice += u64::from(rows - 1);
                verdict
                    .examples
                    .push(format!("{name}: reading {n} is there {rows} times"));
                verdict.examples.truncate(EXAMPLES);
            }
            let mut told = false;
            if accepted && rows == 0 {
                // Windows may overlap: what is missing is the last one's.
                match windows.iter().rposition(|w| (w.first..w.end).contains(&n)) {
                    Some(window) => {
                        told = true;
                        excused[window] += 1;
                        verdict.under_gaps += 1;
                    }
                    None => verdict.lost += 1,
                }
                match missing.last_entry() {
                    Some(mut last) if last.key() + last.get() == n => *last.get_mut() += 1,
                    _ => drop(missing.insert(n, 1)),
                }
            }
            // What was not answered may still come; the last word is spoken over all rows.
            let right = !accepted || rows == 1;
            strictly += u64::from(right && strictly == n);
            proven += u64::from((right || told) && proven == n);
        }
        let beyond = seen.iter().enumerate().skip(accepted.len());
        for (i, _) in beyond.filter(|(_, rows)| **rows > 0) {
            verdict.made_up += 1;
            verdict.examples.push(format!(
                "{name}: reading {} was never offered",
                from + i as u64
            ));
        }
        for (n, count) in missing {
            verdict
                .examples
                .push(format!("{name}: readings {n}..{} are missing", n + count));
        }
        (strictly, proven, excused)
    }

    /// Missing readings of a window count as told of where gap records that came since it opened cover as many records. A gap
    /// without an end covers no more than the window.
    fn gaps(
        &self,
        database: &Postgres,
        device: usize,
        excused: &[u64],
        verdict: &mut Verdict,
    ) -> Result<bool> {
        let (name, windows) = (&self.names[device], &self.windows[device]);
        let mut all_told = true;
        for (window, missing) in windows.iter().zip(excused) {
            let most = window.end.saturating_sub(window.first).min(1 << 40);
            let covered = database.number(&format!(
                "SELECT coalesce(sum(least((last_seq - first_seq + 1)::numeric, {most})), 0)::bigint FROM gaps
                 WHERE device = '{name}' AND received_at >= to_timestamp({}::float8 / 1000)",
                window.opened_ms
            ))?;
            if covered >= *missing {
                continue;
            }
            all_told = false;
            verdict.lost += missing - covered;
            verdict.under_gaps -= missing - covered;
            verdict.examples.push(format!(
                "{name}: {missing} readings from {} on are missing, gap records tell of {covered}",
                window.first
            ));
        }
        Ok(all_told)
    }

    /// Whether everything below these numbers is as it should be, device by device.
    pub(crate) fn is_proven(&self, numbers: &[u64]) -> bool {
        self.proven.iter().zip(numbers).all(|(p, n)| p >= n)
    }

    /// Numbers of an epoch have no hole: each is in a committed batch or under a gap record, and in one batch only.
    /// Epochs that two buffers shared are left out: there the numbers of both stand side by side.
    pub(crate) fn numbers(&self, database: &Postgres) -> Result<()> {
        let query =
            "SELECT b.device, b.epoch, b.first_seq, b.last_seq, 0 FROM batches b JOIN epochs e
              ON e.device = b.device AND e.epoch = b.epoch WHERE e.spent IS NULL
            UNION ALL SELECT g.device, g.epoch, g.first_seq, g.last_seq, 1 FROM gaps g JOIN epochs e
              ON e.device = g.device AND e.epoch = g.epoch WHERE e.spent IS NULL";
        let mut epochs: BTreeMap<(String, String), Vec<Span>> = BTreeMap::new();
        database.rows(query, |line| {
            let cells: Vec<&str> = line.split('\t').collect();
            let [device, epoch, first, last, gap] = cells.as_slice() else {
                bail!("a row of another form: {line}");
            };
            let key = ((*device).to_owned(), (*epoch).to_owned());
            epochs
                .entry(key)
                .or_default()
                .push((first.parse()?, last.parse()?, *gap == "1"));
            Ok(())
        })?;
        for ((device, epoch), mut spans) in epochs {
            spans.sort_unstable();
            let (mut next, mut batched) = (1, 0);
            for (first, last, gap) in spans {
                if first > next {
                    bail!(
                        "{device}: records {next}..{first} of epoch {epoch} are neither committed nor under a gap record"
                    );
                }
                if !gap {
                    if first <= batched {
                        bail!("{device}: record {first} of epoch {epoch} is in two batches");
                    }
                    batched = last;
                }
                next = next.max(last + 1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn compared(seen: &[u8], accepted: &[bool], windows: Vec<Window>) -> (Verdict, u64) {
        let mut oracle = Oracle::new(Form { begin_ms: 0 }, vec!["d".into()]);
        oracle.windows[0] = windows;
        let mut verdict = Verdict::default();
        let (strictly, ..) = oracle.compare(0, 0, seen, accepted, &mut verdict);
        (verdict, strictly)
    }

    #[test]
    fn lost_twice_and_made_up_readings_are_found() {
        let (good, proven) = compared(&[1, 1, 0, 1], &[true, true, false, true], vec![]);
        assert_eq!((good.lost, good.twice, good.made_up, proven), (0, 0, 0, 4));
        let (lost, proven) = compared(&[1, 0, 1], &[true, true, true], vec![]);
        assert_eq!((lost.lost, proven), (1, 1));
        assert!(lost.examples[0].contains("1..2"), "{:?}", lost.examples);
        let late = compared(&[1], &[true, true], vec![]).0;
        assert_eq!(late.lost, 1, "not there yet counts until it is there");
        assert_eq!(compared(&[3, 1], &[false, true], vec![]).0.twice, 2);
        assert_eq!(compared(&[1, 1], &[true], vec![]).0.made_up, 1);
    }

    #[test]
    fn only_what_a_fault_may_have_cost_is_looked_for_under_gap_records() {
        let window = |first, end| Window {
            first,
            end,
            opened_ms: 0,
        };
        let all = [true; 4];
        let (verdict, _) = compared(&[0; 4], &all, vec![window(1, 2)]);
        assert_eq!((verdict.lost, verdict.under_gaps), (3, 1));
        let mut oracle = Oracle::new(Form { begin_ms: 0 }, vec!["d".into()]);
        oracle.windows[0] = vec![window(0, 3), window(2, 4)];
        let (.., excused) = oracle.compare(0, 0, &[0; 4], &all, &mut Verdict::default());
        assert_eq!(excused, [2, 2], "each is of one window");
    }
}
