//! Drawn time lines: owns how values over time are thinned and drawn, never a verdict.

use std::fmt::Write as _;

use chrono::DateTime;
use fieldcast_features::Millis;
use serde::{Deserialize, Serialize};

use super::{HEIGHT, WIDTH};
use crate::check::words::short;

/// Most points that are drawn.
const POINTS: usize = 300;

/// Values over time, before and after the reference ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Time (ms UTC) and mean, ascending.
    points: Vec<(Millis, f64)>,
    /// Where the reference ends.
    until: Millis,
    /// When a change most likely began.
    onset: Option<Millis>,
    /// What is drawn beside it as the reference, over the same times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    beside: Vec<(Millis, f64)>,
}

impl Course {
    /// Means over equal spans of what has a value; none with fewer than two.
    #[must_use]
    pub fn of(values: &[(Millis, f64)], until: Millis, onset: Option<Millis>) -> Option<Self> {
        let finite: Vec<(Millis, f64)> = values
            .iter()
            .copied()
            .filter(|(_, v)| v.is_finite())
            .collect();
        let (first, last) = (finite.first()?.0, finite.last()?.0);
        let span = ((last - first) / POINTS as Millis).max(1);
        // A span that held both would draw a change where none is.
        let (before, after) = finite.split_at(finite.partition_point(|(time, _)| *time <= until));
        let points: Vec<_> = [before, after]
            .iter()
            .flat_map(|p| thinned(p, span))
            .collect();
        (points.len() >= 2).then_some(Self {
            points,
            until,
            onset,
            beside: Vec::new(),
        })
    }

    /// Values of two at the same times, the reference first; none with fewer than two.
    #[must_use]
    pub fn beside(
        reference: Vec<(Millis, f64)>,
        points: Vec<(Millis, f64)>,
        onset: Option<Millis>,
    ) -> Option<Self> {
        (points.len() >= 2).then_some(Self {
            points,
            until: Millis::MIN,
            onset,
            beside: reference,
        })
    }

    /// As SVG.
    pub(super) fn svg(&self) -> String {
        let [Some(first), Some(last)] = [self.points.first(), self.points.last()] else {
            return String::new();
        };
        let values = || self.points.iter().chain(&self.beside).map(|p| p.1);
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(f64::NEG_INFINITY, f64::max);
        let (width, height) = (
            (last.0 - first.0).max(1) as f64,
            (high - low).max(f64::MIN_POSITIVE),
        );
        let x = |time: Millis| (time - first.0) as f64 / width * WIDTH;
        let y = |value: f64| HEIGHT - 2.0 - (value - low) / height * (HEIGHT - 4.0);
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"course over time\">",
            HEIGHT + 18.0
        );
        let (before, after) = self
            .points
            .split_at(self.points.partition_point(|p| p.0 <= self.until));
        for (class, part) in [("lr", &*self.beside), ("lr", before), ("lc", after)] {
            let mut line = String::new();
            for (time, value) in part {
                let _ = write!(line, "{:.1},{:.1} ", x(*time), y(*value));
            }
            let _ = write!(
                out,
                "<polyline class=\"{class}\" points=\"{}\"/>",
                line.trim_end()
            );
        }
        if let Some(onset) = self.onset.filter(|t| (first.0..=last.0).contains(t)) {
            let at = x(onset);
            let _ = write!(
                out,
                "<line class=\"o\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{HEIGHT}\"/>"
            );
        }
        let day = |time| {
            DateTime::from_timestamp_millis(time)
                .map_or_else(String::new, |d| d.format("%Y-%m-%d").to_string())
        };
        for (at, anchor, text) in [
            (0.0, "start", day(first.0)),
            (WIDTH, "end", day(last.0)),
            (
                WIDTH / 2.0,
                "middle",
                format!("from {} to {}", short(low), short(high)),
            ),
        ] {
            let _ = write!(
                out,
                "<text x=\"{at}\" y=\"{}\" text-anchor=\"{anchor}\">{text}</text>",
                HEIGHT + 13.0
            );
        }
        out.push_str("</svg>");
        out
    }
}

/// Time and mean of each span that has a value.
fn thinned(values: &[(Millis, f64)], span: Millis) -> Vec<(Millis, f64)> {
    let first = values.first().map_or(0, |v| v.0);
    let slots = values.chunk_by(|a, b| (a.0 - first) / span == (b.0 - first) / span);
    let mut slots: Vec<&[(Millis, f64)]> = slots.collect();
    // The few values that are left over behind the last whole span would be a spike.
    if let [.., before, last] = slots.as_slice()
        && 2 * last.len() < before.len()
    {
        let from = values.len() - last.len() - before.len();
        slots.truncate(slots.len() - 2);
        slots.push(&values[from..]);
    }
    let mean = |slot: &[(Millis, f64)]| {
        let sum: f64 = slot.iter().map(|v| v.1).sum();
        slot.last().map(|v| (v.0, sum / slot.len() as f64))
    };
    slots.into_iter().filter_map(mean).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_long_course_is_thinned_and_parted_where_the_reference_ends() {
        let values: Vec<(Millis, f64)> = (0..10_000)
            .map(|i| (i * 1_000, (i / 5_000) as f64))
            .collect();
        let course = Course::of(&values, 4_999_000, Some(5_000_000)).unwrap();
        assert!(course.points.len() <= POINTS + 3, "{}", course.points.len());
        assert!(course.points.iter().all(|p| p.1 == 0.0 || p.1 == 1.0));
        let svg = course.svg();
        assert!(
            svg.contains("class=\"o\"") && svg.contains("1970-01-01"),
            "{svg}"
        );
        // 33 values a point, and one that is left over.
        let saw: Vec<(Millis, f64)> = (0..10_000)
            .map(|i| (i, if i == 9_999 { 1e6 } else { 0.0 }))
            .collect();
        let course = Course::of(&saw, 10_000, None).unwrap();
        let most = course.points.iter().map(|p| p.1).fold(0.0, f64::max);
        assert!(most < 1e5, "the last value is no point of its own: {most}");
        assert!(Course::of(&values[..1], 0, None).is_none());
        assert!(Course::of(&[(1, f64::NAN), (2, f64::NAN)], 0, None).is_none());
    }
}
