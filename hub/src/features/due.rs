//! Which rows are to be made: owns the arithmetic of slots that are over, never a row.

use fieldcast_features::Millis;
use fieldcast_features::grid::{floor_of, slot_of};
use fieldcast_store::features::Arrived;

/// What is to be made of a device, and how new its newest reading is then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    /// Spans `(from, to]` of grid times, apart from each other and in order.
    pub(super) spans: Vec<(Millis, Millis)>,
    /// Data time of the newest reading.
    pub(super) newest: Millis,
}

/// What is due after readings arrived. A slot is over once a reading at or behind its end is there; the rows of all slots
/// that were over by the `newest` reading of before are made. What lies more than a day ahead is no reason to take a
/// slot for over.
pub(super) fn due(newest: Millis, arrived: &[Arrived], period: Millis) -> Due {
    let over = |time: Millis| floor_of(time, period);
    let now = arrived
        .iter()
        .filter_map(|a| a.newest)
        .fold(newest, Millis::max);
    let touched = arrived
        .iter()
        .map(|a| (slot_of(a.from, period) - period, slot_of(a.to, period)));
    let mut all: Vec<(Millis, Millis)> = touched
        .chain([(over(newest), over(now))])
        .map(|(from, to)| (from, to.min(over(now))))
        .filter(|(from, to)| from < to)
        .collect();
    all.sort_unstable();
    let mut spans: Vec<(Millis, Millis)> = Vec::new();
    for (from, to) in all {
        match spans.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => spans.push((from, to)),
        }
    }
    Due { spans, newest: now }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;

    fn arrived(from: Millis, to: Millis, newest: Option<Millis>) -> Arrived {
        Arrived {
            device: "a".to_owned(),
            from,
            to,
            newest,
        }
    }

    fn of(newest: Millis, from: Millis, to: Millis) -> Vec<(Millis, Millis)> {
        due(newest, &[arrived(from, to, Some(to))], HOUR).spans
    }

    #[test]
    fn a_slot_is_made_when_it_is_over() {
        assert_eq!(of(10 * HOUR + 5, 10 * HOUR + 6, 10 * HOUR + 7), []);
        // The slot behind it begins: the one that was open is over, though nothing that arrived is in it.
        let over = [(10 * HOUR, 11 * HOUR)];
        assert_eq!(of(10 * HOUR + 7, 11 * HOUR + 1, 11 * HOUR + 2), over);
        // A reading exactly at the end ends it.
        assert_eq!(of(10 * HOUR + 7, 11 * HOUR, 11 * HOUR), over);
    }

    #[test]
    fn late_readings_have_their_slots_made_again_and_no_others() {
        let late = arrived(3 * HOUR + 1, 4 * HOUR + 2, Some(4 * HOUR + 2));
        let live = arrived(20 * HOUR + 5, 22 * HOUR + 1, Some(22 * HOUR + 1));
        let both = due(20 * HOUR + 1, &[live, late], HOUR);
        assert_eq!(both.spans, [(3 * HOUR, 5 * HOUR), (20 * HOUR, 22 * HOUR)]);
        assert_eq!(both.newest, 22 * HOUR + 1);
    }

    #[test]
    fn a_clock_that_runs_ahead_ends_no_slot() {
        let ahead = due(
            10 * HOUR + 1,
            &[arrived(900 * HOUR, 900 * HOUR, None)],
            HOUR,
        );
        assert_eq!((ahead.spans, ahead.newest), (vec![], 10 * HOUR + 1));
    }
}
