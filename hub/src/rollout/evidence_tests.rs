//! Tests of which blocks count: the same for whoever reads the table, whenever.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use chrono::DateTime;
use proptest::prelude::*;

use super::*;

const DAY: i64 = 86_400_000;
const BLOCKS: Blocks = Blocks {
    ms: DAY,
    pairs: 576,
};

fn row(id: i64, device: &str, block: i64, watching: f64) -> PairedRow {
    PairedRow {
        id,
        device: device.into(),
        from_time: DateTime::from_timestamp_millis(block * DAY).unwrap(),
        to_time: DateTime::from_timestamp_millis((block + 1) * DAY).unwrap(),
        beside_champion: true,
        stands_in: true,
        steps: 576,
        running_abs: 2.0,
        watching_abs: watching,
        running_quantile: 1.0,
        watching_quantile: watching / 2.0,
    }
}

fn came(order: &[(&str, i64)]) -> Vec<PairedRow> {
    let numbered = (1..).zip(order);
    numbered
        .map(|(id, (d, block))| row(id, d, *block, 1.0))
        .collect()
}

fn ids(rows: &[PairedRow], watchers: &[&str]) -> Vec<i64> {
    let watchers = watchers.iter().copied().collect();
    closed(rows, &watchers, DAY).iter().map(|r| r.id).collect()
}

#[test]
fn a_block_counts_when_every_watcher_sent_it_or_those_that_do_are_ahead() {
    let both = came(&[("a", 1), ("b", 1), ("a", 2)]);
    assert_eq!(ids(&both, &["a", "b"]), [1, 2]);
    assert_eq!(ids(&both[..1], &["a", "b"]), [0_i64; 0]);
    assert_eq!(
        ids(&both, &["a"]),
        [1, 3],
        "who does not watch says nothing"
    );
    // b went silent: its block is not waited for once a is two ahead, and is left out when it comes after all.
    let silent = came(&[("a", 1), ("b", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 2)]);
    assert_eq!(ids(&silent, &["a", "b"]), [1, 2, 3]);
    // One of five that lives in the future closes nothing for the others, however far ahead it is; two that are very far ahead do.
    let five = ["a", "b", "c", "d", "e"];
    let mut rows: Vec<(&str, i64)> = five.iter().map(|d| (*d, 1)).collect();
    rows.extend([("a", 2), ("e", 9), ("b", 2)]);
    assert_eq!(ids(&came(&rows), &five).len(), 5);
    rows.extend([("e", 9_000)]);
    assert_eq!(ids(&came(&rows), &five).len(), 5);
    rows.extend([("d", 16)]);
    assert_eq!(ids(&came(&rows), &five).len(), 7);
}

#[test]
fn one_device_that_runs_ahead_of_a_fleet_decides_nothing_for_it() {
    let five = ["a", "b", "c", "d", "e"];
    // e sends two months at once, before anybody else is heard, and then lives a year ahead.
    let mut rows: Vec<(&str, i64)> = (1..=60).map(|block| ("e", block)).collect();
    rows.push(("e", 365));
    assert_eq!(ids(&came(&rows), &five), [0_i64; 0]);
    let ahead = rows.len();
    for block in 1..=20 {
        rows.extend(five[..4].iter().map(|d| (*d, block)));
    }
    let counted = ids(&came(&rows), &five);
    assert_eq!(counted.len(), 20 * 5, "each block with all that sent it");
    assert_eq!(counted.iter().filter(|id| **id <= ahead as i64).count(), 20);
    // Fleets of one and two go on with whoever is left.
    let alone = came(&(1..=5).map(|block| ("a", block)).collect::<Vec<_>>());
    assert_eq!(ids(&alone, &["a"]).len(), 5);
    assert_eq!(ids(&alone, &["a", "b"]), [1, 2, 3]);
}

#[test]
fn where_no_device_runs_the_champion_any_more_what_they_run_instead_is_compared() {
    let instead = |id, device: &str, block| PairedRow {
        beside_champion: false,
        ..row(id, device, block, 1.0)
    };
    // b gave the champion up on the second day, a on the fourth.
    let rows = [
        row(1, "a", 1, 1.0),
        row(2, "b", 1, 1.0),
        row(3, "a", 2, 1.0),
        instead(4, "b", 2),
        instead(5, "b", 3),
        row(6, "a", 3, 1.0),
        instead(7, "a", 4),
        instead(8, "b", 4),
    ];
    assert_eq!(ids(&rows, &["a", "b"]), [1, 2, 3, 6, 7, 8]);
    let known = judge(&rows, &["a", "b"].into(), BLOCKS, 1).unwrap();
    assert_eq!(known.instead, 1);
    let words = Evidence { blocks: 4, ..known }.to_string();
    assert!(
        words.contains("in 1 block no device ran the champion"),
        "{words}"
    );
}

#[test]
fn a_version_that_nobody_has_accepted_stands_in_for_nothing() {
    let left_behind = |id, block| PairedRow {
        beside_champion: false,
        stands_in: false,
        ..row(id, "a", block, 1.0)
    };
    let rows: Vec<PairedRow> = (1..9).map(|day| left_behind(day, day)).collect();
    assert_eq!(ids(&rows, &["a"]), [0_i64; 0]);
    // Time passes all the same, so that it ends.
    let known = judge(&rows, &["a"].into(), BLOCKS, 1).unwrap();
    assert_eq!((known.blocks, known.span_ms), (0, 8 * DAY));
}

#[test]
fn a_stand_in_is_no_measure_while_the_champions_device_is_only_late() {
    let instead = |id, block| PairedRow {
        beside_champion: false,
        ..row(id, "b", block, 1.0)
    };
    // a runs the champion and is away for a week; b never had it.
    let mut rows = vec![row(1, "a", 1, 1.0), instead(2, 1)];
    rows.extend((2..10).map(|day| instead(day + 1, day)));
    rows.extend([
        row(20, "a", 10, 1.0),
        instead(21, 10),
        row(22, "a", 11, 1.0),
        instead(23, 11),
    ]);
    assert_eq!(ids(&rows, &["a", "b"]), [1, 20, 22]);
}

#[test]
fn who_went_silent_with_the_champion_holds_no_stand_in_back_for_ever() {
    let instead = |id, block| PairedRow {
        beside_champion: false,
        ..row(id, "b", block, 1.0)
    };
    // a ran the champion when it went away for good; b has given it up.
    let mut rows = vec![row(1, "a", 1, 1.0), instead(2, 1)];
    rows.extend((2..40).map(|day| instead(day + 1, day)));
    let counted = ids(&rows, &["a", "b"]);
    assert_eq!(counted[..2], [1, 16], "b counts alone from a fortnight on");
    assert_eq!(counted.len(), 24, "{counted:?}");
}

#[test]
fn time_passes_for_a_rollout_of_which_no_block_counts() {
    let instead = |id, device: &str, block| PairedRow {
        beside_champion: false,
        ..row(id, device, block, 1.0)
    };
    // c runs the champion and sends a block now and then; the others have given it up.
    let mut rows = Vec::new();
    for day in 1..=120 {
        rows.push(instead(3 * day, "a", day));
        rows.push(instead(3 * day + 1, "b", day));
        if day % 10 == 1 {
            rows.push(row(3 * day + 2, "c", day, 1.0));
        }
    }
    let watchers = ["a", "b", "c"].into();
    let known = judge(&rows, &watchers, BLOCKS, 1).unwrap();
    assert!(known.blocks < 15, "{known:?}");
    assert_eq!(known.span_ms, 120 * DAY);
    // A clock of its own ends nothing.
    rows.push(row(1_000, "c", 9_000, 1.0));
    assert_eq!(
        judge(&rows, &watchers, BLOCKS, 1).unwrap().span_ms,
        120 * DAY
    );
    let ends = judge(&rows[..60], &["a", "b", "c"].into(), BLOCKS, 1).unwrap();
    assert!(ends.span_ms < 40 * DAY, "{ends:?}");
}

#[test]
fn the_better_model_is_shown_to_be_better_and_the_worse_one_to_be_worse() {
    let of = |watching: f64| {
        // The difference varies from day to day.
        let days = 0..40;
        let rows: Vec<PairedRow> = days
            .map(|d| row(d + 1, "a", d, watching + 0.1 * ((d * 7 % 5) as f64 - 2.0)))
            .collect();
        judge(&rows, &["a"].into(), BLOCKS, 1).unwrap()
    };
    let better = of(1.4);
    assert!(
        better.better && !better.harmful && better.gain > 0.2,
        "{better:?}"
    );
    let words = better.to_string();
    assert!(
        words.starts_with("over 39 blocks of 1 device the loss is"),
        "{words}"
    );
    let worse = of(2.6);
    assert!(
        worse.harmful && !worse.better && worse.gain < -0.2,
        "{worse:?}"
    );
    let same = of(2.0);
    assert!(!same.harmful && !same.better, "{same:?}");
    assert_eq!(same.span_ms, 40 * DAY);
    let third = judge(&[], &["a"].into(), BLOCKS, 3).unwrap();
    assert!(
        third.needed_better > 8.0 * better.needed_better,
        "a later challenger has less to spend"
    );
    assert_eq!(
        serde_json::from_value::<Evidence>(serde_json::json!(third)).unwrap(),
        third
    );
}

proptest! {
    #[test]
    fn what_counted_once_counts_for_ever_and_nothing_else_joins_its_block(
        order in prop::collection::vec((0..4usize, 0..12i64), 0..80),
    ) {
        let devices = ["a", "b", "c", "d"];
        let order: Vec<(&str, i64)> = order.iter().map(|(d, b)| (devices[*d], *b)).collect();
        let rows = came(&order);
        let watchers = devices.into_iter().collect();
        let mut before: Vec<i64> = Vec::new();
        let mut last = i64::MIN;
        for n in 0..=rows.len() {
            let now: Vec<&PairedRow> = closed(&rows[..n], &watchers, DAY);
            let ids: Vec<i64> = now.iter().map(|r| r.id).collect();
            prop_assert_eq!(&ids[..before.len()], &before[..], "what was judged has changed");
            for r in &now[before.len()..] {
                prop_assert!(block_of(r, DAY) > last, "a closed block grew");
            }
            last = now.iter().map(|r| block_of(r, DAY)).max().unwrap_or(last);
            before = ids;
        }
    }
}

#[test]
fn blocks_of_few_pairs_count_where_there_cannot_be_more() {
    // A day ahead on a grid of days: seven pairs a week.
    let rows: Vec<PairedRow> = (0..40)
        .map(|block| PairedRow {
            steps: 7,
            ..row(block + 1, "a", block, 1.0)
        })
        .collect();
    let counted = |pairs| {
        let blocks = Blocks { ms: DAY, pairs };
        judge(&rows, &["a"].into(), blocks, 1).unwrap().blocks
    };
    // A device's first block is none that is judged.
    assert_eq!((counted(7), counted(14), counted(16)), (39, 39, 0));
    assert_eq!(counted(576), 0);
}

#[test]
fn the_blocks_of_every_definition_can_hold_what_is_asked_for() {
    for (period, horizon, pairs) in [("1d", 1, 7), ("6h", 2, 8), ("1h", 1, 24), ("1h", 24, 576)] {
        let spec: ForecasterSpec = toml::from_str(&format!(
            "name = \"f\"\ntarget = \"y\"\ninputs = [\"y\"]\nperiod = \"{period}\"\nlookback = 14\nhorizon = {horizon}\n"
        ))
        .unwrap();
        assert_eq!(Blocks::of(&spec).pairs, pairs, "{period}");
    }
}
