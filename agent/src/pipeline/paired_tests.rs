//! Paired losses along a timeline of two made-up models; owns no product code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use super::*;
use crate::pipeline::pending::Pending;

const HOUR: Millis = 3_600_000;
const DAY: Millis = 24 * HOUR;
const HORIZON: usize = 3;

fn blocks() -> Blocks {
    Blocks {
        length: DAY,
        after: 2 * HOUR,
    }
}

fn side(name: u8) -> Side {
    Side {
        bundle: vec![name; 32],
        version: u64::from(name),
    }
}

/// Two models whose forecasts are `off` the actual value 10, in mean and in every quantile.
struct Line {
    pending: Pending,
    paired: Paired,
}

impl Line {
    fn new(running: Side) -> Self {
        Self {
            pending: Pending::new("demand", HOUR, HORIZON),
            paired: Paired::of(running, side(2), blocks(), None),
        }
    }

    fn forecast(&mut self, origin: Millis, by: &Side, shadow: bool, off: f64) {
        let levels = if shadow {
            vec![0.1, 0.5, 0.9]
        } else {
            vec![0.1, 0.25, 0.9]
        };
        let forecast = pb::Forecast {
            origin_ms: origin,
            period_ms: HOUR,
            mean: vec![10.0 + off; HORIZON],
            quantiles: vec![10.0 + off; HORIZON * 3],
            quantile_levels: levels,
            bundle: by.bundle.clone(),
            model_version: by.version,
            shadow,
            ..pb::Forecast::default()
        };
        self.pending.push(&forecast, true);
        if shadow {
            self.paired.made(self.pending.place(origin).unwrap());
        }
    }

    /// Hours: the row is judged, then both forecast.
    fn hours(&mut self, hours: std::ops::Range<i64>, by: &Side) -> Vec<pb::PairedLosses> {
        let mut out = Vec::new();
        for hour in hours {
            out.extend(self.row(hour * HOUR, Some(10.0)));
            self.forecast(hour * HOUR, by, false, 2.0);
            self.forecast(hour * HOUR, &side(2), true, -1.0);
        }
        out
    }

    fn row(&mut self, time: Millis, actual: Option<f64>) -> Vec<pb::PairedLosses> {
        let pairs = self.pending.pairs(time);
        let found = self.paired.row("demand", time, actual, pairs);
        self.pending.expire(time);
        found
    }

    /// As a restart would leave it.
    fn stored(&mut self) {
        let (_, bytes) = self.paired.entry("demand").unwrap();
        assert!(bytes.len() < 2_000, "{}", bytes.len());
        self.paired = Paired::read(&bytes).unwrap();
    }
}

#[test]
fn a_block_goes_up_once_when_the_last_of_its_actuals_came() {
    for running in [side(1), Side::default()] {
        let mut line = Line::new(running.clone());
        // Origins 20 to 23 of the first day, all of the second; the last actual of a day comes at two in the morning.
        let mut found = Vec::new();
        for hour in 20..51 {
            let now = line.hours(hour..hour + 1, &running);
            assert_eq!(now.len(), usize::from(hour == 26 || hour == 50), "{hour}");
            found.extend(now);
            line.stored();
        }
        let [first, second] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!((first.from_ms, first.to_ms), (0, DAY));
        assert_eq!((first.origins, first.steps), (4, 12));
        assert_eq!((second.from_ms, second.to_ms), (DAY, 2 * DAY));
        assert_eq!((second.origins, second.steps), (24, 72));
        assert_eq!(
            (&second.running, second.running_version),
            (&running.bundle, running.version)
        );
        assert_eq!(
            (&second.watching, second.watching_version),
            (&vec![2; 32], 2)
        );
        let near = |found: f64, expected: f64| (found - expected).abs() < 1e-12;
        assert!(near(second.running_abs, 2.0) && near(second.watching_abs, 1.0));
        // Levels 0.1 and 0.9 are in both: (0.9 + 0.1) / 2 of what is off.
        assert!(near(second.running_quantile, 1.0), "{second:?}");
        assert!(near(second.watching_quantile, 0.5), "{second:?}");
    }
}

#[test]
fn what_can_no_longer_come_closes_a_block_and_rows_count_once() {
    let mut line = Line::new(side(1));
    line.hours(0..10, &side(1));
    assert_eq!(line.row(10 * HOUR, None), []);
    let before = line.paired.clone();
    assert_eq!(line.row(9 * HOUR, Some(10.0)), [], "a row comes once more");
    assert_eq!(line.paired, before);
    // A month without a row, and the next one closes what was open.
    let found = line.row(30 * DAY, Some(10.0));
    assert_eq!(found.len(), 1);
    // Origins 0 to 8: the tenth's first actual is missing, and the ninth's second.
    assert_eq!((found[0].origins, found[0].steps), (9, 7 * 3 + 2 + 1));
}

#[test]
fn another_bundle_on_either_side_begins_anew_and_strange_forecasts_are_no_pairs() {
    let mut line = Line::new(side(1));
    // A baseline spoke for a running bundle that could not.
    line.hours(0..5, &Side::default());
    assert_eq!(line.row(5 * HOUR, Some(10.0)), []);
    assert!(line.paired.open.is_empty());
    line.hours(6..12, &side(1));
    let kept = Some(line.paired.clone());
    let same = Paired::of(side(1), side(2), blocks(), kept.clone());
    assert_eq!(same, line.paired);
    for (running, watching) in [
        (side(3), side(2)),
        (side(1), side(3)),
        (Side::default(), side(2)),
    ] {
        let anew = Paired::of(running, watching, blocks(), kept.clone());
        assert!(anew.open.is_empty() && anew.through.is_none());
    }
}

#[test]
fn what_is_damaged_or_of_another_layout_is_not_taken_up() {
    let mut line = Line::new(side(1));
    line.paired.format = FORMAT + 1;
    let (key, bytes) = line.paired.entry("demand").unwrap();
    assert_eq!(key, "paired/demand");
    assert_eq!(Paired::read(&bytes), None);
    assert_eq!(Paired::read(b""), None);
    assert_eq!(Paired::read(b"{"), None);
}

#[test]
fn numbers_beyond_all_numbers_do_not_break_what_is_stored() {
    let mut line = Line::new(side(1));
    for hour in 0..5 {
        line.row(hour * HOUR, Some(10.0));
        line.forecast(hour * HOUR, &side(1), false, 1.7e308);
        line.forecast(hour * HOUR, &side(2), true, f64::INFINITY);
    }
    line.stored();
    assert!(line.paired.open.is_empty());
    for hour in 5..9 {
        line.row(hour * HOUR, Some(10.0));
        line.forecast(hour * HOUR, &side(1), false, 1.7e308);
        line.forecast(hour * HOUR, &side(2), true, 0.0);
        line.stored();
    }
    assert_eq!(line.paired.open.len(), 1);
}
