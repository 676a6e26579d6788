//! Two arms: golden values of SciPy, and how often interval and p-value are right over simulated experiments.

use super::*;
use crate::window::random::Random;

fn parts(step: f64, n: usize, (factor, from): (f64, f64)) -> impl Iterator<Item = f64> {
    (1..=n).map(move |i| (i as f64 * step).fract() * factor + from)
}

fn outcomes(a: impl Iterator<Item = f64>, b: impl Iterator<Item = f64>) -> Vec<Outcome> {
    let of = |arm| {
        move |value| Outcome {
            arm,
            value,
            before: None,
        }
    };
    a.map(of(Arm::A)).chain(b.map(of(Arm::B))).collect()
}

/// SciPy 1.17.1: `stats.ttest_ind(b, a, equal_var=False)` and its `confidence_interval`.
#[test]
fn the_interval_is_scipys() {
    let a = parts(0.618_033_988_749_894_9, 12, (4.0, 20.0));
    let b = parts(0.754_877_666_246_692_7, 8, (7.0, 18.5));
    let all = outcomes(a, b);
    let found = compare(&all, 0.95, 1).unwrap();
    let effect = found.effect;
    let near = |x: f64, y: f64| assert!((x / y - 1.0).abs() < 1e-10, "{x} is not {y}");
    near(effect.difference, -0.790_237_220_726_446_3);
    near(effect.freedom, 9.760_957_899_959_09);
    near(effect.lower, -2.563_381_425_816_996_5);
    near(effect.upper, 0.982_906_984_364_104_1);
    let narrower = compare(&all, 0.9, 1).unwrap().effect;
    near(narrower.lower, -2.231_381_031_287_624_8);
    near(narrower.upper, 0.650_906_589_834_732_4);
    assert_eq!((found.a.devices, found.b.devices), (12, 8));
    assert_eq!(effect.explained, None, "nothing is known from before");
    // The test over assignments needs no distribution: near Welch's 0.343 here.
    assert!((effect.p - 0.343).abs() < 0.04, "{}", effect.p);
    assert_eq!(
        found,
        compare(&all, 0.95, 1).unwrap(),
        "the same seed, the same answer"
    );
}

/// All 20 assignments of six devices, counted by hand.
#[test]
fn the_p_value_is_the_share_of_assignments_as_far_apart() {
    // Only this assignment and its mirror are as far apart: 2 of 20.
    let all = outcomes([1.0, 2.0, 3.5].into_iter(), [11.0, 12.0, 14.5].into_iter());
    let p = compare(&all, 0.95, 3).unwrap().effect.p;
    assert!((p - 0.1).abs() < 0.015, "{p}");
}

#[test]
fn too_little_is_refused_and_says_what_is_needed() {
    let said = |a: &[f64], b: &[f64]| {
        let all = outcomes(a.iter().copied(), b.iter().copied());
        compare(&all, 0.95, 1).unwrap_err().to_string()
    };
    assert!(said(&[1.0], &[2.0, 3.0]).contains("two devices in each arm"));
    assert!(said(&[], &[]).contains("two devices in each arm"));
    assert!(said(&[1.0, 1.0], &[2.0, 2.0]).contains("values differ"));
    assert!(said(&[1.0, f64::NAN], &[2.0, 3.0]).contains("finite"));
}

#[test]
fn what_was_known_before_is_taken_out() {
    let mut random = Random::new(7);
    let mut one = |arm| {
        let size = 10.0 * random.normal();
        Outcome {
            arm,
            value: 100.0 + size + random.normal() + if arm == Arm::B { 3.0 } else { 0.0 },
            before: Some(100.0 + size + random.normal()),
        }
    };
    let mut all: Vec<Outcome> = (0..60)
        .map(|i| one(if i % 2 == 0 { Arm::A } else { Arm::B }))
        .collect();
    let with = compare(&all, 0.95, 1).unwrap().effect;
    assert!(with.explained.unwrap() > 0.9, "{with:?}");
    assert!(with.lower > 0.0 && with.p < 0.01, "{with:?}");
    // A device that came late counts too.
    all[0].before = None;
    assert_eq!(compare(&all, 0.95, 1).unwrap().a.devices, 30);
    // Of a fleet of which half has no past no more than half of the variance is explained.
    let mut half = all.clone();
    half.iter_mut().take(30).for_each(|o| o.before = None);
    let half = compare(&half, 0.95, 1).unwrap().effect.explained.unwrap();
    assert!((0.2..0.75).contains(&half), "{half}");
    all.iter_mut().for_each(|o| o.before = None);
    let without = compare(&all, 0.95, 1).unwrap().effect;
    assert_eq!(without.difference, without.unadjusted);
    assert!(without.upper - without.lower > 4.0 * (with.upper - with.lower));
}

/// Experiments of devices with unlike sizes, log-normal noise and unlike numbers: `before` known for most of them.
fn simulated(random: &mut Random, devices: usize, share_b: f64, effect: f64) -> Vec<Outcome> {
    let one = |_| {
        let arm = if (random.below(1_000) as f64) < 1_000.0 * share_b {
            Arm::B
        } else {
            Arm::A
        };
        let size = random.normal();
        let noise = (0.5 * random.normal()).exp();
        let more = if arm == Arm::B { effect } else { 0.0 };
        Outcome {
            arm,
            value: 5.0 + size + noise + more,
            before: (random.below(10) > 0).then(|| 5.0 + size + (0.5 * random.normal()).exp()),
        }
    };
    (0..devices).map(one).collect()
}

/// Of 2,000 experiments each, how many intervals hold the effect, and how many p-values are at most 0.05.
fn rates(seed: u64, devices: usize, share_b: f64, effect: f64) -> (f64, f64) {
    let mut random = Random::new(seed);
    let (mut held, mut called, mut done) = (0, 0, 0);
    while done < 2_000 {
        let all = simulated(&mut random, devices, share_b, effect);
        // Arms of one device say so, and are no experiment.
        let Ok(found) = compare(&all, 0.95, done) else {
            continue;
        };
        done += 1;
        held += u32::from((found.effect.lower..=found.effect.upper).contains(&effect));
        called += u32::from(found.effect.p <= 0.05);
    }
    println!(
        "seed {seed}, {devices} devices, share {share_b}, effect {effect}: {held} held, {called} called"
    );
    (f64::from(held) / 2_000.0, f64::from(called) / 2_000.0)
}

#[test]
fn of_a_hundred_intervals_ninety_five_hold_the_effect_and_equal_arms_are_rarely_told_apart() {
    for (seed, devices, share_b) in [(11, 24, 0.5), (12, 60, 0.5), (13, 200, 0.3)] {
        let (held, called) = rates(seed, devices, share_b, 0.0);
        assert!((0.93..=0.97).contains(&held), "{held}");
        // Two standard deviations of 2,000 draws.
        assert!(called <= 0.05 + 0.01, "{called}");
        let (held, _) = rates(seed + 100, devices, share_b, 0.4);
        assert!((0.93..=0.97).contains(&held), "{held}");
    }
}

/// One device whose value is a thousand times the others', as a scale next to nothing makes it.
#[test]
fn with_one_wild_device_the_interval_holds_the_effect_and_the_device_is_named() {
    let mut random = Random::new(31);
    let (mut held, mut tame) = (0, 0);
    for seed in 0..500 {
        let mut all = simulated(&mut random, 60, 0.5, 0.4);
        tame += u32::from(!outlying(&all).is_empty());
        let wild = random.below(60);
        all[wild].value *= 1_000.0;
        assert_eq!(outlying(&all), [wild], "experiment {seed}");
        let effect = compare(&all, 0.95, seed).unwrap().effect;
        held += u32::from((effect.lower..=effect.upper).contains(&0.4));
    }
    println!("seed 31, one wild device of 60: {held} of 500 held, {tame} named without it");
    assert!(held >= 475, "{held}");
    assert!(tame <= 5, "{tame}");
}

#[test]
fn the_effect_that_is_called_detectable_is_found_four_times_in_five() {
    let deviation = 2.0;
    let effect = detectable(deviation, (40, 40), 0.95, 0.8).unwrap();
    let mut random = Random::new(21);
    let found = (0..1_000).filter(|_| {
        let mut draw = |arm, more: f64| Outcome {
            arm,
            value: deviation * random.normal() + more,
            before: None,
        };
        let all: Vec<Outcome> = (0..40)
            .flat_map(|_| [draw(Arm::A, 0.0), draw(Arm::B, effect)])
            .collect();
        compare(&all, 0.95, 1).unwrap().effect.lower > 0.0
    });
    let found = found.count();
    println!("seed 21: {found} of 1000");
    assert!((760..=840).contains(&found), "{found}");
    assert_eq!(detectable(deviation, (1, 40), 0.95, 0.8), None);
}

#[test]
fn arms_of_another_size_than_drawn_are_noticed() {
    assert!(imbalance((70, 70), 0.5) > 0.9);
    assert!(imbalance((90, 40), 0.5) < 0.001);
    assert!(imbalance((70, 30), 0.3) > 0.9);
    assert!(unlike_losses((0, 43), (29, 57)) < 0.001);
    assert!(unlike_losses((5, 50), (6, 60)) > 0.9);
    assert_eq!(unlike_losses((0, 0), (0, 0)), 1.0);
}
