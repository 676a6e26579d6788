//! The figures of streaming drift: owns their lines and goals, never a detector; it runs examples of the crate.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{STATE, UPDATE, line};
use crate::command::output;

/// Goal of the streams.
const NOT_WORSE: &str = "(not worse than the best)";
/// Goal and aim of a run time over the one asked for.
const RUN: &str = "(0.7-1.4; 0.8-1.25)";

/// Misses, false alarms and rows until an alarm: compared in this order.
struct Score<'a> {
    stream: &'a str,
    detector: &'a str,
    misses: f64,
    false_alarms: f64,
    delay: f64,
    drifts: f64,
}

impl Score<'_> {
    fn order(&self) -> [f64; 3] {
        let never = if self.delay.is_nan() {
            f64::INFINITY
        } else {
            self.delay
        };
        [self.misses, self.false_alarms, never]
    }

    fn shown(&self) -> String {
        format!(
            "{:.0}/{:.0}/{:.0}",
            self.misses, self.false_alarms, self.delay
        )
    }
}

fn score(row: &str) -> Result<Score<'_>> {
    let words: Vec<&str> = row.split(' ').collect();
    let [stream, detector, numbers @ ..] = words.as_slice() else {
        anyhow::bail!("read `{row}` as a score: it has no stream and detector");
    };
    let numbers = super::numbers(&numbers.join(" "))?;
    let [misses, false_alarms, delay, drifts] = numbers[..] else {
        anyhow::bail!("read `{row}` as a score: it has no four numbers");
    };
    Ok(Score {
        stream,
        detector,
        misses,
        false_alarms,
        delay,
        drifts,
    })
}

/// Ours beside the best of River's seven detectors, on two published streams and on made ones.
pub(super) fn streams(release: &Path, made: usize) -> Result<()> {
    let run = |words: &[&str]| output(Command::new(release.join("examples/streams")).args(words));
    let text = format!("{}{}", run(&["data"])?, run(&["made", &made.to_string()])?);
    let all: Vec<Score> = text.lines().map(score).collect::<Result<_>>()?;
    for stream in ["sine1", "sea", "sines", "seas", "circles", "sums"] {
        let of = || all.iter().filter(|s| s.stream == stream);
        let ours = of().find(|s| s.detector == "glr").context("our score")?;
        let best = of()
            .filter(|s| s.detector != "glr")
            .min_by(|a, b| {
                a.order()
                    .partial_cmp(&b.order())
                    .unwrap_or(std::cmp::Ordering::Equal)
            })
            .context("a score of River's")?;
        let to = format!("{} {} {NOT_WORSE}", best.detector, best.shown());
        let drifts = format!("of {:.0}", ours.drifts);
        for (name, unit, ours, theirs) in [
            ("misses", drifts.as_str(), ours.misses, best.misses),
            ("false", "alarms", ours.false_alarms, best.false_alarms),
            ("delay", "rows", ours.delay, best.delay),
        ] {
            line(
                &format!("stream_{stream}_{name}"),
                ours,
                unit,
                ours / theirs,
                &to,
            );
        }
    }
    for stream in ["sines", "seas", "circles", "sums"] {
        let equal = format!("{stream}_equal");
        for ours in all.iter().filter(|s| s.stream == equal) {
            let theirs = all
                .iter()
                .find(|s| s.stream == stream && s.detector == ours.detector)
                .context("a score of River's")?;
            let to = format!(
                "{} {}; ours {}",
                theirs.detector,
                theirs.shown(),
                ours.shown()
            );
            let name = format!("stream_{equal}_{}", ours.detector);
            let drifts = format!("of {:.0}", ours.drifts);
            line(
                &name,
                ours.misses,
                &drifts,
                ours.misses / theirs.misses,
                &to,
            );
        }
    }
    Ok(())
}

/// The actual run time over the one asked for: medians over references.
pub(super) fn run_times(release: &Path, references: usize) -> Result<()> {
    let text = output(Command::new(release.join("examples/run")).arg(references.to_string()))?;
    for row in text.lines() {
        let words: Vec<&str> = row.split(' ').collect();
        match words.as_slice() {
            [process, asked, low, median, high, step] => {
                let of = format!("asked {asked}; quartiles {low}-{high}; step {step} rows {RUN}");
                let (asked, median): (f64, f64) = (asked.parse()?, median.parse()?);
                let name = format!("run_{process}_{asked:.0}");
                line(&name, median * asked, "rows", median, &of);
            }
            ["cost", time, bytes] => {
                let (time, bytes): (f64, f64) = (time.parse()?, bytes.parse()?);
                let limit = "the limit (1000 ns)";
                line("update_run", time, "ns", time / UPDATE, limit);
                let limit = "a sensor's limit (8192 bytes)";
                line("state_run", bytes, "bytes", bytes / STATE, limit);
            }
            _ => anyhow::bail!("read `{row}` as a run time: it has neither six words nor a cost"),
        }
    }
    Ok(())
}

/// Sensor faults planted in ETTh1.
pub(super) fn planted(release: &Path) -> Result<()> {
    let text = output(&mut Command::new(release.join("examples/planted")))?;
    let (mut all, mut found) = (0.0, 0.0);
    let (mut drift, mut anyway, mut told, mut told_anyway) = (0.0, 0.0, 0.0, 0.0);
    let share = |name: &str, part: f64, whole: f64, goal: &str| {
        let of = format!("{part:.0} of {whole:.0} {goal}");
        line(
            &format!("planted_{name}"),
            100.0 * part / whole,
            "%",
            part / whole,
            &of,
        );
    };
    for row in text.lines() {
        let (name, numbers) = row.split_once(' ').context("read a kind of fault")?;
        let numbers = super::numbers(numbers)?;
        let [planted, seen, taken, without, shifts, shifts_without] = numbers[..] else {
            anyhow::bail!("read `{row}` as a count of faults: it has no six numbers");
        };
        share(&format!("{name}_found"), seen, planted, "");
        (all, found) = (all + planted, found + seen);
        (drift, anyway) = (drift + taken, anyway + without);
        (told, told_anyway) = (told + shifts, told_anyway + shifts_without);
    }
    share("found", found, all, "(at least 95 %)");
    // Where ETTh1 drifts by itself nothing can be said of what a fault is taken for.
    share("taken_for_drift", drift, all - anyway, "(at most 5 %)");
    share("told_as_a_shift", told, all - told_anyway, "(at most 5 %)");
    Ok(())
}

/// Alarms of the hub's look at inputs on years in which nothing changed.
pub(super) fn fleet(release: &Path) -> Result<()> {
    let text = output(&mut Command::new(release.join("examples/fleet")))?;
    for row in text.lines() {
        let (name, alarms) = row
            .split_once(' ')
            .with_context(|| format!("read `{row}` as alarms of a series"))?;
        let [each, joint] = super::numbers(alarms)?[..] else {
            anyhow::bail!("read `{row}` as alarms of a series: it has no two numbers");
        };
        let all = each + joint;
        let of = format!("the goal 1 (at most 1; 0.33), {joint:.2} of inputs together");
        line(&format!("fleet_alarms_{name}"), all, "a month", all, &of);
    }
    Ok(())
}
