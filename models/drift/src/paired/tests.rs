//! Facts of the paired test: owns exact and planted cases, never a figure of power (`cargo xtask bench rollout` has those).

use proptest::prelude::*;

use super::bets::{Evidence, Money};
use super::*;
use crate::window::random::Random;

fn row(block: i64, device: u32, running: f64, watching: f64) -> Row<u32> {
    Row {
        from_ms: block * 3_600_000,
        device,
        running,
        watching,
        steps: 100,
    }
}

fn verdict(rows: &[Row<u32>]) -> Verdict {
    Test::new(Settings::default())
        .unwrap()
        .verdict(rows.iter().cloned())
}

/// Losses around 10 that devices share, the challenger's `factor` times the champion's but for noise of its own.
fn fleet(devices: u32, blocks: i64, factor: f64, seed: u64) -> Vec<Row<u32>> {
    let mut random = Random::new(seed);
    let mut rows = Vec::new();
    for block in 0..blocks {
        let shared = 10.0 * (0.2 * random.normal()).exp();
        for device in 0..devices {
            let mut loss = || shared * (0.1 * random.normal()).exp();
            rows.push(row(block, device, loss(), factor * loss()));
        }
    }
    rows
}

/// All paths of `length` draws of a finite distribution, with their chances.
fn paths(outcomes: &[(f64, f64)], length: u32) -> Vec<(Vec<f64>, f64)> {
    (0..length).fold(vec![(Vec::new(), 1.0)], |paths, _| {
        let longer = |(path, chance): &(Vec<f64>, f64)| {
            let (path, chance) = (path.clone(), *chance);
            outcomes
                .iter()
                .map(move |(value, p)| ([path.as_slice(), &[*value]].concat(), chance * p))
                .collect::<Vec<_>>()
        };
        paths.iter().flat_map(longer).collect()
    })
}

/// Expected money after each of twelve bets.
fn expected(outcomes: &[(f64, f64)], dependence: f64) -> [f64; 12] {
    let mut expected = [0.0; 12];
    for (path, chance) in paths(outcomes, 12) {
        let mut evidence = Evidence::new(dependence);
        for (value, expected) in path.iter().zip(&mut expected) {
            *expected += chance * evidence.bet(*value).exp();
        }
    }
    expected
}

#[test]
fn of_no_gain_the_money_expected_stays_what_it_was_without_a_fee() {
    for outcomes in [[(0.1, 0.5), (-0.1, 0.5)], [(0.2, 0.5), (-0.2, 0.5)]] {
        for after in expected(&outcomes, 1.0) {
            assert!((after - 1.0).abs() < 1e-12, "{outcomes:?}: {after}");
        }
    }
}

#[test]
fn the_fee_is_more_than_what_cut_losses_are_worth() {
    let fair = [
        [(0.1, 0.5), (-0.1, 0.5)],
        [(1.0, 0.5), (-1.0, 0.5)],
        [(0.05, 0.8), (-0.2, 0.2)],
        [(-0.05, 0.8), (0.2, 0.2)],
    ];
    for (outcomes, dependence) in with_dependence(&fair) {
        let mut before = 1.0;
        for after in expected(outcomes, dependence) {
            assert!(
                after <= before + 1e-12,
                "{outcomes:?} at {dependence}: {before} became {after}"
            );
            before = after;
        }
    }
}

fn with_dependence(fair: &[[(f64, f64); 2]]) -> impl Iterator<Item = (&[(f64, f64)], f64)> {
    let each = [LEAST_DEPENDENCE, Settings::default().dependence];
    fair.iter()
        .flat_map(move |outcomes| each.map(|d| (outcomes.as_slice(), d)))
}

#[test]
fn of_no_gain_it_is_seldom_ever_large_however_often_looked_at() {
    let all = paths(&[(0.4, 0.5), (-0.4, 0.5)], 14);
    for asked in [2.0_f64, 3.0, 5.0] {
        let ever = |path: &Vec<f64>| {
            let mut evidence = Evidence::new(1.0);
            path.iter().any(|value| evidence.bet(*value) >= asked.ln())
        };
        let chance: f64 = all
            .iter()
            .filter(|(path, _)| ever(path))
            .map(|(_, chance)| chance)
            .sum();
        assert!(
            chance <= 1.0 / asked,
            "{asked} is reached in {chance} of the runs"
        );
        assert!(chance > 0.0, "a bound that nothing comes near says nothing");
    }
}

#[test]
fn the_money_of_one_bet_is_what_arithmetic_says() {
    let mut money = Money::default();
    money.bet(1.5, 0.5);
    let by_hand = [0.0625_f64, 0.125, 0.25, 0.5].map(|f| 1.0 + 1.5 * f - 0.5 * f * f);
    assert!((money.logarithm().exp() - by_hand.iter().sum::<f64>() / 4.0).abs() < 1e-12);
    let mut clipped = Money::default();
    clipped.bet(1e9, 0.0);
    assert!((clipped.logarithm().exp() - (1.25 + 1.5 + 1.875 + 1.875) / 4.0).abs() < 1e-12);
}

#[test]
fn a_better_one_is_superior_a_worse_one_harmful_and_an_equal_one_neither() {
    for devices in [1, 3, 20] {
        let better = verdict(&fleet(devices, 120, 0.85, 1));
        assert!(better.superior && !better.harmful, "{better:?}");
        let worse = verdict(&fleet(devices, 120, 1.2, 2));
        assert!(worse.harmful && !worse.superior, "{worse:?}");
        let equal = verdict(&fleet(devices, 120, 1.0, 3));
        assert!(
            !equal.superior && !equal.harmful && equal.decided_ms.is_none(),
            "{equal:?}"
        );
        for (verdict, gain) in [(better, 0.15), (worse, -0.2), (equal, 0.0)] {
            let found = verdict.gain.unwrap();
            assert!(
                found.lower < gain && gain < found.upper,
                "{found:?} of {gain}"
            );
            assert!(found.upper - found.lower < 0.4, "{found:?}");
            assert_eq!((verdict.blocks, verdict.devices), (119, devices));
            assert_eq!(verdict.e_without_one.is_some(), devices >= 3);
        }
    }
}

#[test]
fn a_gain_that_is_not_worth_a_rollout_is_not_called_superior() {
    let mut rows: Vec<_> = (0..400).map(|b| row(b, 0, 10.0, 9.95)).collect();
    let small = verdict(&rows);
    assert!(small.e_superior > 1e3 && !small.superior, "{small:?}");
    rows.iter_mut().for_each(|r| r.watching = 9.8);
    assert!(verdict(&rows).superior);
}

#[test]
fn swapped_models_swap_the_evidence() {
    let rows = fleet(1, 60, 0.97, 4);
    let swapped: Vec<_> = rows
        .iter()
        .map(|r| Row {
            watching: 2.0 * r.running - r.watching,
            ..r.clone()
        })
        .collect();
    let (ours, theirs) = (verdict(&rows), verdict(&swapped));
    assert!(
        (ours.e_superior - theirs.e_harm).abs() < 1e-9 * ours.e_superior,
        "{ours:?} {theirs:?}"
    );
    assert!((ours.gain.unwrap().lower + theirs.gain.unwrap().upper).abs() < 1e-5);
}

#[test]
fn no_one_device_decides_for_all() {
    // Devices that see no difference, and one whose champion has broken.
    let quiet = fleet(5, 100, 1.0, 7);
    for (running, watching) in [(1e4, 10.0), (10.0, 1e4), (1e140, 1.0), (1.0, 1e140)] {
        let mut rows = quiet.clone();
        for r in rows
            .iter_mut()
            .filter(|r| r.device == 3 && r.from_ms > 3 * 3_600_000)
        {
            (r.running, r.watching) = (running, watching);
        }
        let found = verdict(&rows);
        assert!(
            !found.superior && !found.harmful,
            "{running} {watching}: {found:?}"
        );
        let claimed = if running > watching {
            found.e_superior
        } else {
            found.e_harm
        };
        assert!(
            claimed > 1e3,
            "one device alone should have convinced who does not ask the others: {found:?}"
        );
    }
}

#[test]
fn one_broken_block_neither_decides_nor_ends_it() {
    for broken in [1e6, 1e149] {
        let mut rows = fleet(1, 120, 0.8, 5);
        rows[30].watching = broken;
        rows[40].running = broken;
        let found = verdict(&rows);
        assert!(found.superior, "{broken}: {found:?}");
        assert!(verdict(&rows[..32]).e_harm < 20.0);
    }
}

#[test]
fn what_is_no_loss_is_left_out() {
    let rows = fleet(3, 60, 0.9, 6);
    let mut with_rubbish = rows.clone();
    for (running, watching, steps) in [
        (f64::NAN, 1.0, 100),
        (1.0, f64::INFINITY, 100),
        (-1.0, 1.0, 100),
        (1.0, 0.0, 3),
    ] {
        with_rubbish.push(Row {
            steps,
            ..row(70, 1, running, watching)
        });
    }
    with_rubbish.push(row(20, 2, 1.0, 100.0));
    with_rubbish.reverse();
    with_rubbish[0] = row(99, 0, f64::NAN, f64::NAN);
    assert_eq!(
        verdict(&rows),
        verdict(&with_rubbish[1..].iter().rev().cloned().collect::<Vec<_>>())
    );
    let none = verdict(&[row(0, 0, 1.0, 1.0)]);
    assert_eq!((none.blocks, none.gain, none.e_superior), (0, None, 1.0));
    let never = verdict(&(0..50).map(|b| row(b, 0, 0.0, 5.0)).collect::<Vec<_>>());
    assert_eq!((never.blocks, never.harmful), (0, false));
}

#[test]
fn settings_out_of_range_are_refused() {
    for wrong in [
        Settings {
            alpha: 0.0,
            ..Settings::default()
        },
        Settings {
            harm_alpha: 1.0,
            ..Settings::default()
        },
        Settings {
            least_gain: -0.1,
            ..Settings::default()
        },
        Settings {
            dependence: f64::NAN,
            ..Settings::default()
        },
    ] {
        let problem = Test::new(wrong).unwrap_err().to_string();
        assert!(problem.contains("correct it"), "{problem}");
    }
}

#[test]
fn all_shares_of_a_reign_are_no_more_than_the_total() {
    let spent: f64 = (1..=100_000).map(|n| share(0.05, n)).sum();
    assert!(spent <= 0.05 && spent > 0.0499, "{spent}");
    assert!((share(0.05, 1) - 0.030_396_355).abs() < 1e-9);
    assert_eq!(share(0.05, 0), share(0.05, 1));
}

#[test]
fn a_verdict_goes_through_json() {
    let found = verdict(&fleet(3, 200, 0.5, 8));
    assert!(found.e_superior > 1e9, "{found:?}");
    let text = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), found);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_rows_give_a_finite_verdict_in_any_order(
        list in prop::collection::vec((0i64..40, 0u32..4, any::<f64>(), any::<f64>(), 0u32..60), 0..120),
        turn in 0usize..120,
    ) {
        let mut rows: Vec<_> = list.iter().map(|(b, d, r, w, steps)| Row { steps: *steps, ..row(*b, *d, *r, *w) }).collect();
        // Of equal blocks the first counts, so that only then the order may matter.
        rows.sort_by_key(|r| (r.from_ms, r.device));
        rows.dedup_by_key(|r| (r.from_ms, r.device));
        let found = verdict(&rows);
        prop_assert!(found.e_superior.is_finite() && found.e_harm.is_finite());
        prop_assert!(!(found.superior && found.harmful));
        if let Some(gain) = found.gain {
            prop_assert!(gain.lower <= gain.estimate && gain.estimate <= gain.upper, "{:?}", gain);
        }
        let middle = turn.min(rows.len());
        rows.rotate_left(middle);
        prop_assert_eq!(verdict(&rows), found);
    }

    #[test]
    fn a_challenger_that_loses_less_on_one_block_is_not_less_proven_by_it(seed in 0u64..1_000, block in 2usize..40, less in 0.0f64..1.0) {
        let rows = fleet(1, 40, 1.0, seed);
        let rows = &rows[..=block.min(39)];
        let mut better = rows.to_vec();
        better[block.min(39)].watching *= less;
        let (before, after) = (verdict(rows), verdict(&better));
        prop_assert!(after.e_superior >= before.e_superior * (1.0 - 1e-12));
        prop_assert!(after.e_harm <= before.e_harm * (1.0 + 1e-12));
    }

    #[test]
    fn units_do_not_matter(seed in 0u64..1_000, unit in 1e-6f64..1e6) {
        let rows = fleet(3, 30, 0.9, seed);
        let scaled: Vec<_> = rows.iter().map(|r| {
            let unit = if r.device == 1 { unit } else { 1.0 };
            Row { running: unit * r.running, watching: unit * r.watching, ..r.clone() }
        }).collect();
        let (ours, theirs) = (verdict(&rows), verdict(&scaled));
        prop_assert!((ours.e_superior / theirs.e_superior - 1.0).abs() < 1e-6);
    }

    #[test]
    fn more_blocks_take_no_verdict_back(seed in 0u64..200, at in 10usize..80) {
        let rows = fleet(1, 80, 0.85, seed);
        let (sooner, later) = (verdict(&rows[..at]), verdict(&rows));
        if sooner.decided_ms.is_some() {
            prop_assert_eq!((sooner.superior, sooner.decided_ms), (later.superior, later.decided_ms));
        }
    }
}
